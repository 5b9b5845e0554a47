"""Stored transcripts: found by their words, and erased when requested."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import cast

import anyio
import pytest

from whisperd.clock import rfc3339_ago
from whisperd.jobs.identity import FileStamp, read_stamp
from whisperd.jobs.job import Job, JobInput
from whisperd.jobs.journal import JobJournal
from whisperd.jobs.keeper import JobKeeper
from whisperd.jobs.options import JobOptions
from whisperd.jobs.recipe import Recipe
from whisperd.jobs.search import parse_query
from whisperd.jobs.segments import Segment, Transcript
from whisperd.jobs.transcripts import StoredTranscript, TranscriptStore, insert_transcript
from whisperd.rpc.errors import WhisperdError
from whisperd.runtimes import Lease
from whisperd.settings import JobSettings
from whisperd.store import Database, open_database, open_saver
from whisperd_testing import LIMIT_S

pytestmark = pytest.mark.anyio


class House:
    """A transcript store and its database."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.store = TranscriptStore(database)

    async def store_texts(
        self,
        *texts: str,
        path: str | None = "/talks/a.mp3",
        key: str | None = None,
        language: str = "en",
        content: str | None = None,
        later_s: float = 0.0,
    ) -> int:
        segments = tuple(
            Segment(id=index, seek=0, start=start_s, end=start_s + 9.0, text=f" {text}")
            for index, text in enumerate(texts)
            for start_s in [index * 10.0 + later_s]
        )
        transcript = a_transcript(" ".join(texts), segments, language)
        kept = StoredTranscript(
            transcript=transcript, key=key, size_bytes=100, path=path, content_hash=content
        )
        return await self.database.run(lambda connection: insert_transcript(connection, kept))

    async def search(self, query: str, limit: int = 50) -> list[tuple[str | None, list[float]]]:
        """Return the paths of the hits, and their start times."""
        found = await self.store.search(parse_query(query), limit)
        return [(one.path, [hit.start for hit in one.hits]) for one in found]

    def files_hold(self, text: str) -> bool:
        """Whether the bytes of a text are in any file of the database."""
        folder = self.database.path.parent
        return any(text.encode() in path.read_bytes() for path in folder.iterdir() if path.is_file())


def a_transcript(text: str, segments: Sequence[Segment] = (), language: str = "en") -> Transcript:
    return Transcript(
        task="transcribe",
        language=language,
        duration=10.0 * len(segments),
        text=text,
        segments=tuple(segments),
        runtime="base",
        elapsed=1.0,
    )


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with open_database(tmp_path / "a.sqlite3") as database:
        yield House(database)


async def test_each_hit_has_its_time_and_context(house: House) -> None:
    await house.store_texts("Good morning.", "The budget is late.", "We wait.", "No budget, no work.")
    (found,) = await house.store.search(parse_query("budget"), 50)
    assert [(hit.start, hit.before, hit.text, hit.after) for hit in found.hits] == [
        (10.0, "Good morning.", "The budget is late.", "We wait."),
        (30.0, "We wait.", "No budget, no work.", ""),
    ]
    assert (found.path, found.language, found.duration) == ("/talks/a.mp3", "en", 40.0)


@pytest.mark.parametrize(
    ("query", "starts"),
    [
        ("BUDGET", [10.0]),
        ("bud*", [10.0]),
        ("bud", None),
        ('"the budget"', [10.0]),
        ('"budget the"', None),
        ('"morning the budget"', [0.0]),  # across the end of a segment
        ("budget morning", [0.0, 10.0]),
        ("budget evening", None),
        ("munchen", [20.0]),
        ("München", [20.0]),
        ("会議", [30.0]),
        ("議会", None),
        ("東京で", [30.0]),
    ],
)
async def test_words_phrases_and_prefixes(house: House, query: str, starts: list[float] | None) -> None:
    await house.store_texts(
        "Good morning.", "The budget is late.", "Grüße aus München.", "会議は東京です東京で"
    )
    assert await house.search(query) == ([("/talks/a.mp3", starts)] if starts else [])


async def test_filters(house: House) -> None:
    await house.store_texts("One offer.", path="/talks/a.mp3")
    await house.store_texts("Ein offer.", path="/Notes/b.wav", language="de")
    await house.store_texts("No file, offer.", path=None)

    async def paths(query: str) -> set[str | None]:
        return {path for path, _ in await house.search(f"offer {query}")}

    assert await paths("") == {"/talks/a.mp3", "/Notes/b.wav", None}
    assert await paths("lang:de") == {"/Notes/b.wav"}
    assert await paths("path:notes") == {"/Notes/b.wav"}
    assert await paths("path:*.mp3") == {"/talks/a.mp3"}
    assert await paths("path:/talks/*") == {"/talks/a.mp3"}
    assert await paths("before:2020") == set()
    assert await paths("after:2999") == set()
    assert len(await paths("after:2020 before:2999")) == 3


async def test_the_number_of_hits_is_limited(house: House) -> None:
    for _ in range(3):
        await house.store_texts("an echo", "an echo", "silence", "an echo")
    assert [starts for _, starts in await house.search("echo", limit=5)] == [[0.0, 10.0, 30.0], [0.0, 10.0]]


async def test_a_search_reads_only_the_transcripts_that_it_returns(house: House) -> None:
    """Reading all that contain a common word may take seconds, in which nothing can be saved."""
    number = await house.store_texts("an echo", "an echo")
    unreadable = "UPDATE transcripts SET result = x'c1' WHERE id = ?"
    await house.database.run(lambda connection: connection.execute(unreadable, (number,)))
    await house.store_texts("an echo", "an echo", path="/b.mp3")
    assert await house.search("echo", limit=2) == [("/b.mp3", [0.0, 10.0])]


async def test_a_search_does_not_look_up_its_words_for_each_transcript(house: House) -> None:
    """With a short prefix, each time takes as long as finding all transcripts."""
    for number in range(50):
        await house.store_texts("an echo", path=f"/{number}.mp3")
    statements: list[str] = []
    await house.database.run(lambda connection: connection.set_trace_callback(statements.append))
    assert len(await house.search("e*", limit=45)) == 45
    assert sum("MATCH" in one for one in statements) == 4


async def test_equal_hits_in_the_same_audio_are_reported_once(house: House) -> None:
    await house.store_texts("An echo.", "Silence.", "An echo.", content="a")
    await house.store_texts(
        "an echo", "silence", "an echo!", "an echo", content="a", later_s=0.5, path="/b.mp3"
    )
    # The newest has more hits and ranks first; the other one adds none.
    assert await house.search("echo") == [("/b.mp3", [0.5, 20.5, 30.5])]
    await house.store_texts("An echo.", content="b", path="/c.mp3")
    await house.store_texts("An echo.", path="/d.mp3")
    await house.store_texts("An echo.", path="/d.mp3")
    assert sorted(path or "" for path, _ in await house.search("echo")) == [
        "/b.mp3",
        "/c.mp3",
        "/d.mp3",
        "/d.mp3",
    ], "all hits in other audio, or in audio without a hash, are reported"


async def test_dropped_duplicates_do_not_count_towards_the_limit(house: House) -> None:
    await house.store_texts("an echo", content="b", path="/b.mp3")
    for _ in range(7):
        await house.store_texts("an echo", content="a")
    assert await house.search("echo", limit=2) == [("/talks/a.mp3", [0.0]), ("/b.mp3", [0.0])]


async def test_a_transcript_is_found_by_its_key(house: House) -> None:
    assert not await house.store.has_size(100)
    await house.store_texts("First.", key="k")
    assert await house.store.has_size(100) and not await house.store.has_size(101)
    found = await house.store.find("k", "/moved/here.mp3")
    assert found is not None and found.text == "First."
    assert await house.search("first") == [("/moved/here.mp3", [0.0])], (
        "the path where the audio was seen last"
    )
    assert await house.store.find("other", "/b") is None


async def test_a_damaged_transcript_hides_no_others(house: House) -> None:
    """The check when the daemon starts does not find it: what SQLite stores is sound."""
    await house.store_texts("First.", key="k")
    await house.store_texts("First of all.", path="/b.mp3")
    await house.database.execute("UPDATE transcripts SET result = x'00' WHERE key = 'k'")
    assert await house.search("first") == [("/b.mp3", [0.0])]
    with pytest.raises(WhisperdError) as raised:
        await house.store.find("k", None)
    assert raised.value.code == "store.damaged" and "Transcribe the recording again" in raised.value.fix
    await house.store_texts("First.", key="k")
    assert sorted(await house.search("first")) == [("/b.mp3", [0.0]), ("/talks/a.mp3", [0.0])]


async def test_a_new_transcript_replaces_the_old_one_with_its_key(house: House) -> None:
    old = await house.store_texts("First.", key="k")

    def refer(connection: object) -> None:
        connection.execute(  # type: ignore[attr-defined]
            "INSERT INTO jobs VALUES ('a', '2026', '2026', ?, '{}')", (old,)
        )

    await house.database.run(refer)
    await house.store_texts("Second.", key="k")
    assert await house.search("first") == []
    assert len(await house.search("second")) == 1
    of_job = await house.store.of_job("a")
    assert of_job is not None and of_job.text == "Second."


async def test_a_cached_job_follows_a_transcript_that_is_replaced_meanwhile(house: House) -> None:
    async def recipe_of(*_: object) -> Recipe:
        raise AssertionError

    await house.store_texts("First.", key="k")
    job = Job(id="a", path="/a", input=JobInput(path="/a"), options=JobOptions(), runtime="base")
    job.transcript, job.answered_by, job.is_cached = await house.store.find("k", "/a"), "k", True
    await house.store_texts("Second.", key="k")
    async with open_saver(house.database) as saver:
        journal = JobJournal(saver)
        await JobKeeper(journal, house.store, JobSettings, recipe_of).save_end(job).saved()
    of_job = await house.store.of_job("a")
    assert of_job is not None and of_job.text == "Second."


async def test_a_transcript_is_found_while_it_is_still_being_saved(house: House) -> None:
    has_begun, go_on = anyio.Event(), threading.Event()
    recipe = Recipe(rules="r", engine="e", decoder="d", max_window_s=30.0, options={})

    def be_slow(_: object) -> None:
        anyio.from_thread.run_sync(has_begun.set)
        assert go_on.wait(LIMIT_S)

    async def recipe_of(*_: object) -> Recipe:
        return recipe

    def job_of_same_audio(id_: str) -> Job:
        return Job(
            id=id_,
            path="/a",
            input=JobInput(path="/a"),
            options=JobOptions(),
            runtime="base",
            stamp=FileStamp(size_bytes=100, modified_ns=1),
            content_hash="h",
            recipe=recipe.digest,
        )

    found: list[Transcript | None] = []
    async with open_saver(house.database) as saver, anyio.create_task_group() as tasks:
        journal = JobJournal(saver)
        keeper = JobKeeper(journal, house.store, JobSettings, recipe_of)
        saver.hand_over(be_slow)
        await has_begun.wait()
        first = job_of_same_audio("a")
        first.transcript = a_transcript("First.")
        keeper.save_end(first)

        async def ask() -> None:
            found.append(await keeper.find_transcript(job_of_same_audio("b"), cast(Lease, None)))

        tasks.start_soon(ask)
        await anyio.wait_all_tasks_blocked()
        go_on.set()
    (transcript,) = found
    assert transcript is not None and transcript.text == "First."


@pytest.mark.parametrize(
    ("keeps", "is_detached", "is_wanted"), [(True, False, True), (False, True, True), (False, False, False)]
)
async def test_files_are_hashed_only_if_needed(
    house: House, tmp_path: Path, keeps: bool, is_detached: bool, is_wanted: bool
) -> None:
    async def recipe_of(*_: object) -> Recipe:
        raise AssertionError

    path = tmp_path / "a"
    path.write_bytes(b"abc")
    job = Job(id="a", path=str(path), input=JobInput(path=str(path)), options=JobOptions(), runtime="base")
    job.stamp, job.is_detached = read_stamp(job.path), is_detached
    async with open_saver(house.database) as saver:
        journal = JobJournal(saver)
        keeper = JobKeeper(journal, house.store, lambda: JobSettings(keep_transcripts=keeps), recipe_of)
        await keeper.hash_input(job)
    assert (job.content_hash is not None) == is_wanted


@pytest.mark.parametrize(("clock_lead_days", "kept"), [(0, 1), (2, 2)])
async def test_transcripts_are_kept_for_as_long_as_the_settings_say(
    house: House, clock_lead_days: int, kept: int
) -> None:
    async def recipe_of(*_: object) -> Recipe:
        raise AssertionError

    for days in (9.9, 11.1):
        number = await house.store_texts(f"Spoken {days} days ago.")
        created = rfc3339_ago(days * 86_400)
        await house.database.run(
            lambda connection, values=(created, number): connection.execute(
                "UPDATE transcripts SET created = ? WHERE id = ?", values
            )
        )
    async with open_saver(house.database) as saver:
        settings = JobSettings(keep_transcripts_days=10)
        await JobKeeper(JobJournal(saver), house.store, lambda: settings, recipe_of).retire(
            clock_lead_days * 86_400
        )
    found = await house.store.search(parse_query("spoken"), 50)
    texts = {one.hits[0].text for one in found}
    assert len(texts) == kept and "Spoken 9.9 days ago." in texts


@pytest.mark.parametrize(("keep_days", "kept"), [(8, ["Spoken that day."]), (0.5, [])])
async def test_transcripts_stored_for_long_are_deleted_by_whole_days(
    house: House, monkeypatch: pytest.MonkeyPatch, keep_days: float, kept: list[str]
) -> None:
    """Each deletion rewrites the whole word index."""

    async def recipe_of(*_: object) -> Recipe:
        raise AssertionError

    for text, created in (("Spoken that day.", "2026-01-02T00:00"), ("Spoken before.", "2026-01-01T23:59")):
        number = await house.store_texts(text)
        await house.database.run(
            lambda connection, values=(created, number): connection.execute(
                "UPDATE transcripts SET created = ? WHERE id = ?", values
            )
        )
    monkeypatch.setattr("whisperd.jobs.keeper.rfc3339_ago", lambda _: "2026-01-02T12:00")
    async with open_saver(house.database) as saver:
        settings = JobSettings(keep_transcripts_days=keep_days)
        await JobKeeper(JobJournal(saver), house.store, lambda: settings, recipe_of).retire()
    found = await house.store.search(parse_query("spoken"), 50)
    assert [one.hits[0].text for one in found] == kept


async def test_purged_transcripts_are_in_no_file(house: House) -> None:
    """Their bytes went through the index and the log, and were moved from page to page."""
    for number in range(200):
        await house.store_texts(*(f"xylophone{number} {'filling' * 20}" for _ in range(5)), path=f"/{number}")
    await house.store_texts("Marmalade stays.")
    assert house.files_hold("xylophone") and house.files_hold("filling")

    def age(connection: object) -> None:
        connection.execute(  # type: ignore[attr-defined]
            "UPDATE transcripts SET created = '2020-01-01T00:00:00.000Z' WHERE path != '/talks/a.mp3'"
        )

    await house.database.run(age)
    assert await house.store.forget_before("2021-01-01T00:00:00.000Z") == 200
    await house.database.erase()
    assert not house.files_hold("xylophone") and not house.files_hold("filling")
    assert not house.files_hold("xylo"), "found in the index"
    assert await house.search("marmalade") == [("/talks/a.mp3", [0.0])]
    assert await house.store.forget_before(None) == 1
    await house.database.erase()
    assert not house.files_hold("armalade")


async def test_deleting_a_transcript_does_not_read_the_others(house: House) -> None:
    """In a large database that takes a minute, in which nothing can be saved."""
    await house.store_texts("Forgotten.")
    # In no transcript, so that reading them all again would drop it.
    ghost = "INSERT INTO transcripts_text (rowid, text) VALUES (1000, 'ghost')"
    await house.database.run(lambda connection: connection.execute(ghost))
    assert await house.store.forget_before(None) == 1
    found = "SELECT rowid FROM transcripts_text WHERE transcripts_text MATCH 'ghost'"
    assert await house.database.run(lambda connection: connection.execute(found).fetchall()) == [(1000,)]


async def test_erasing_and_storing_do_not_collide(house: House) -> None:
    async with anyio.create_task_group() as tasks:
        for number in range(20):
            tasks.start_soon(house.store_texts, f"word{number}")
            tasks.start_soon(house.database.erase)
    assert len(await house.search("word*")) == 20
