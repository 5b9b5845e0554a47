"""Following a job: its text as it comes, its progress beside it."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

from whisperd.cli.output import duration, print_error
from whisperd.cli.preparation import PREPARATION_TOPICS, Preparation, runtime_of
from whisperd.client import InOrder, Transcript
from whisperd.quantities import speed
from whisperd.rpc.errors import WhisperdError

if TYPE_CHECKING:
    from collections.abc import Generator
    from typing import IO, Any

    from whisperd.cli.files import LineFile
    from whisperd.cli.output import Progress
    from whisperd.client import Client

    Map = dict[str, Any]

__all__ = ["TextWriter", "events_of", "follow_job", "tell_warnings"]


class TextWriter:
    """Writes segments as lines, each once and in order, however often it is told of them."""

    def __init__(self, output: IO[str] | LineFile, progress: Progress) -> None:
        self._output = output
        self._progress = progress
        self._in_order = InOrder()

    def write(self, index: int, text: str, channel: int | None) -> None:
        """Write a segment if it is the next one."""
        if not self._in_order.is_next(index) or not text:
            return
        speaker = "" if channel is None else f"Speaker {channel + 1}: "
        self._progress.clear()
        self._output.write(f"{speaker}{text}\n")
        self._output.flush()

    def finish(self, transcript: Transcript) -> None:
        """Write what no event told of."""
        for segment in self._in_order.rest(transcript):
            self.write(segment.id, segment.text, segment.channel)


def tell_warnings(event: Map, progress: Progress) -> None:
    """Say what may be wrong with the text of a job that is completed."""
    for warning in event["warnings"]:
        progress.clear()
        print_error(WhisperdError.from_wire(warning))


def follow_job(client: Client, job: str, progress: Progress, output: IO[str]) -> None:
    """Print a job's text as it comes. Raises the job's error."""
    writer = TextWriter(output, progress)
    with closing(events_of(client, job, progress)) as events:
        for event in events:
            if event is not None and event["type"] == "transcription.segment":
                writer.write(event["index"], event["text"], event["channel"])
            elif event is not None and event["type"] == "transcription.completed":
                tell_warnings(event, progress)
    writer.finish(Transcript.from_wire(client.jobs.wait(job)))


def events_of(
    client: Client, job: str, progress: Progress, deadline_s: float | None = None
) -> Generator[Map | None, None, None]:
    """The events of a job; None once the deadline is past. Meanwhile its progress is shown, if to anybody."""
    shown: _JobProgress | None = None
    topics = PREPARATION_TOPICS if progress.is_shown else ()
    try:
        with closing(client.follow(job, topics=topics, deadline_s=deadline_s)) as events:
            for event in events:
                if shown is None and progress.is_shown:
                    shown = _JobProgress(progress, job, runtime_of(client, job))
                if event is None or event.get("id") == job:
                    yield event
                if event is not None and shown is not None:
                    shown.take(event)
    finally:
        progress.clear()


class _JobProgress:
    """Shows what a job waits for, then how far it is."""

    def __init__(self, progress: Progress, job: str, runtime: Map) -> None:
        self._progress = progress
        self._job = job
        self._preparation = Preparation(runtime)
        self._has_begun = False
        self._preparation.show(progress, {**runtime, "type": "runtime.status"})  # how far it is by now

    def take(self, event: Map) -> None:
        """Show what an event says. Once the job has begun, downloads are those of others."""
        if event.get("id") == self._job:
            self._take_own(event)
        elif not self._has_begun:
            self._preparation.show(self._progress, event)

    def _take_own(self, event: Map) -> None:
        match event:
            case {"type": "job.queued", "position": int(position)} if position:
                others = "another job" if position == 1 else f"{position} other jobs"
                self._progress.show("Waiting", None, f"beside {others}")
            case {"type": "job.started", "duration": length}:
                self._has_begun = True
                if length is not None:  # a file's; how far it is, is known after its first window
                    self._progress.show("Transcribing", None)
            case {"type": "transcription.progress", "done": done, "total": total, "speed": times, "eta": eta}:
                details = f"{duration(done)} of {duration(total)}" if total else duration(done)
                if times:
                    details += f", {speed(times)} real time"
                if eta is not None:
                    details += f", {duration(eta)} left"
                self._progress.show("Transcribing", 100 * done / total if total else None, details)
