"""The stored transcripts, found by what they were made of and by what was said."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator, Sequence
from itertools import islice

import msgspec

from whisperd.clock import now_rfc3339
from whisperd.decodable import decodable
from whisperd.jobs.search import SearchQuery, searchable
from whisperd.jobs.segments import Transcript, letters
from whisperd.rpc.errors import WhisperdError
from whisperd.store import Database

__all__ = [
    "FoundTranscript",
    "Hit",
    "StoredTranscript",
    "TranscriptStore",
    "insert_transcript",
    "transcript_number",
]

log = logging.getLogger(__name__)

_BEGIN, _END = "\x02", "\x03"
"""Markers around search hits; no text contains control characters."""
_WILDCARDS = frozenset("*?[")

# In two steps: to sort whole rows, SQLite would read all transcripts with the words, which may be a gigabyte.
_RANKED = """
    SELECT t.id FROM transcripts_text JOIN transcripts t ON t.id = transcripts_text.rowid
    WHERE {conditions} ORDER BY transcripts_text.rank, t.id DESC
"""
# Several at a time, and with a plus: else SQLite would look up all words with a prefix for each of them.
_MARKED = """
    SELECT t.id, t.path, t.created, t.content, t.result, highlight(transcripts_text, 0, ?, ?)
    FROM transcripts_text JOIN transcripts t ON t.id = transcripts_text.rowid
    WHERE transcripts_text MATCH ? AND +transcripts_text.rowid IN (SELECT value FROM json_each(?))
"""
_PAGE = 20
"""Transcripts that a search reads at a time."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(decodable(Transcript)).decode


class StoredTranscript(msgspec.Struct, frozen=True, kw_only=True):
    """A transcript to store, and what it was made of."""

    transcript: Transcript
    key: str | None
    """See `whisperd.jobs.identity.content_key`; None: it is not reused for other jobs."""
    size_bytes: int | None
    path: str | None
    content_hash: str | None = None
    """The SHA-256 of the audio, if known."""


class Hit(msgspec.Struct, frozen=True, kw_only=True):
    """A segment in which a match begins; times in seconds."""

    start: float
    end: float
    text: str
    before: str
    """Text of the previous segment."""
    after: str
    channel: int | None


class FoundTranscript(msgspec.Struct, frozen=True, kw_only=True):
    """A transcript with its hits."""

    path: str | None
    created: str
    language: str | None
    duration: float
    hits: tuple[Hit, ...]


class _SeenHits:
    """The hits found so far, to filter out repetitions."""

    def __init__(self) -> None:
        self._places: dict[tuple[str, int | None, str], list[tuple[float, float]]] = {}

    def is_new(self, content: str | None, hit: Hit) -> bool:
        """Whether no earlier hit has the same audio, words and time; remembers this one."""
        if content is None:  # unknown audio
            return True
        places = self._places.setdefault((content, hit.channel, letters(hit.text)), [])
        if any(start < hit.end and hit.start < end for start, end in places):
            return False
        places.append((hit.start, hit.end))
        return True


class TranscriptStore:
    """The stored transcripts. Each method is one transaction, and raises the errors of `Database.run`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def has_size(self, size_bytes: int) -> bool:
        """Whether there is a transcript of a file of this size; only such a file can have the same bytes."""
        query = "SELECT 1 FROM transcripts WHERE size = ? AND key IS NOT NULL LIMIT 1"
        return bool(await self._database.execute(query, (size_bytes,)))

    async def find(self, key: str, path: str | None) -> Transcript | None:
        """Return the transcript with this key, and update where its audio is: `path`."""

        def work(connection: sqlite3.Connection) -> Transcript | None:
            row = connection.execute("SELECT id, result FROM transcripts WHERE key = ?", (key,)).fetchone()
            if row is not None and path is not None:
                connection.execute("UPDATE transcripts SET path = ? WHERE id = ?", (path, row[0]))
            return None if row is None else self._read(row[1])

        return await self._database.run(work)

    async def of_job(self, job: str) -> Transcript | None:
        """Return the transcript of a job while it is stored."""

        def work(connection: sqlite3.Connection) -> Transcript | None:
            row = connection.execute(
                "SELECT result FROM transcripts WHERE id = (SELECT transcript FROM jobs WHERE id = ?)", (job,)
            ).fetchone()
            return None if row is None else self._read(row[0])

        return await self._database.run(work)

    async def search(self, query: SearchQuery, limit: int) -> list[FoundTranscript]:
        """Return the transcripts that match, best first, with at most `limit` hits in total.

        If several transcripts of the same audio have the same words at the same time, they count as one hit.
        """
        conditions, values = _conditions(query)
        ranked = _RANKED.format(conditions=" AND ".join(conditions))

        def work(connection: sqlite3.Connection) -> list[FoundTranscript]:
            found: list[FoundTranscript] = []
            seen, room = _SeenHits(), limit
            numbers = [number for (number,) in connection.execute(ranked, values)]
            for start in range(0, len(numbers), _PAGE):
                page = numbers[start : start + _PAGE]
                marked_page = (_BEGIN, _END, query.match, msgspec.json.encode(page).decode())
                rows = {number: row for number, *row in connection.execute(_MARKED, marked_page)}
                for path, created, content, result, marked in map(rows.__getitem__, page):
                    try:
                        transcript = self._read(result)
                    except WhisperdError as error:
                        log.warning("a search leaves out a recording: %s", error.message)
                        continue
                    new = (hit for hit in _hits(transcript, marked) if seen.is_new(content, hit))
                    if hits := tuple(islice(new, room)):
                        room -= len(hits)
                        found.append(_found(path, created, transcript, hits))
                    if not room:
                        return found
            return found

        return await self._database.run(work)

    async def forget_before(self, moment: str | None) -> int:
        """Delete transcripts made before a moment (RFC 3339; None: all); returns how many."""
        condition, values = ("created < ?", (moment,)) if moment is not None else ("TRUE", ())
        return await self._forget(condition, values)

    async def forget_of_jobs(self, jobs: Sequence[str]) -> int:
        """Delete the transcripts of jobs; returns how many."""
        ids = msgspec.json.encode(jobs).decode()
        condition = "id IN (SELECT transcript FROM jobs WHERE id IN (SELECT value FROM json_each(?)))"
        return await self._forget(condition, (ids,))

    async def _forget(self, condition: str, values: Sequence[str]) -> int:
        def work(connection: sqlite3.Connection) -> int:
            count = connection.execute(f"DELETE FROM transcripts WHERE {condition}", values).rowcount  # noqa: S608
            if count:
                # Otherwise the index would still contain the words, marked as deleted. Nothing can be saved
                # meanwhile, and a rebuild, which reads all texts again, takes ten times as long.
                connection.execute("INSERT INTO transcripts_text (transcripts_text) VALUES ('optimize')")
            return count

        return await self._database.run(work)

    def _read(self, data: bytes) -> Transcript:
        try:
            return _decode(data)
        except (ValueError, TypeError) as error:
            # SQLite sees nothing wrong, so a restart would not set the database aside.
            raise WhisperdError(
                "store.damaged",
                f"A transcript stored in {self._database.path} cannot be read ({error}).",
                "Transcribe the recording again; that stores a new one.",
                {"path": str(self._database.path)},
            ) from error


def transcript_number(connection: sqlite3.Connection, key: str | None) -> int | None:
    """Return the number of the transcript with this key, within a transaction; None if there is none."""
    row = connection.execute("SELECT id FROM transcripts WHERE key = ?", (key,)).fetchone()
    return None if row is None else int(row[0])


def insert_transcript(connection: sqlite3.Connection, kept: StoredTranscript) -> int:
    """Store a transcript, within a transaction, and replace the one with the same key; returns its number."""
    transcript = kept.transcript
    old = transcript_number(connection, kept.key)
    if old is not None:
        connection.execute("UPDATE transcripts SET key = NULL WHERE id = ?", (old,))
    number = connection.execute(
        "INSERT INTO transcripts (created, key, size, path, content, language, text, result)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            now_rfc3339(),
            kept.key,
            kept.size_bytes,
            kept.path,
            kept.content_hash,
            transcript.language,
            "\n".join(searchable(segment.text) for segment in transcript.segments),
            _encode(transcript),
        ),
    ).lastrowid
    assert number is not None
    if old is not None:
        connection.execute("UPDATE jobs SET transcript = ? WHERE transcript = ?", (number, old))
        connection.execute("DELETE FROM transcripts WHERE id = ?", (old,))
    return number


def _found(path: str | None, created: str, transcript: Transcript, hits: tuple[Hit, ...]) -> FoundTranscript:
    return FoundTranscript(
        path=path, created=created, language=transcript.language, duration=transcript.duration, hits=hits
    )


def _conditions(query: SearchQuery) -> tuple[list[str], list[str]]:
    conditions, values = ["transcripts_text MATCH ?"], [query.match]
    for condition, value in (
        ("t.created < ?", query.before),
        ("t.created >= ?", query.after),
        ("t.language = ?", query.language),
    ):
        if value is not None:
            conditions.append(condition)
            values.append(value)
    if query.path is not None and not _WILDCARDS.isdisjoint(query.path):
        conditions.append("t.path GLOB ?")
        values.append(query.path if query.path.startswith(("/", "*")) else f"*{query.path}")
    elif query.path is not None:
        conditions.append("instr(lower(t.path), lower(?)) > 0")
        values.append(query.path)
    return conditions, values


def _hits(transcript: Transcript, marked: str) -> Iterator[Hit]:
    """Yield the segments in which a marked match begins; `marked` has a line for each segment."""
    segments = transcript.segments
    texts = [segment.text.strip() for segment in segments]
    for index, line in enumerate(marked.split("\n")[: len(segments)]):
        if _BEGIN in line:
            segment = segments[index]
            yield Hit(
                start=segment.start,
                end=segment.end,
                text=texts[index],
                before=texts[index - 1] if index else "",
                after=texts[index + 1] if index + 1 < len(texts) else "",
                channel=segment.channel,
            )
