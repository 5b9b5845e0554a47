"""Following a job: its text as it arrives, with its progress."""

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

__all__ = ["TextWriter", "events_of", "follow_job", "print_job_warnings"]


class TextWriter:
    """Writes segments as lines, each once and in order, even if they are passed repeatedly."""

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
        """Write the segments that no event has delivered."""
        for segment in self._in_order.rest(transcript):
            self.write(segment.id, segment.text, segment.channel)


def print_job_warnings(event: Map, progress: Progress) -> None:
    """Print the warnings about the text of a completed job."""
    for warning in event["warnings"]:
        progress.clear()
        print_error(WhisperdError.from_wire(warning))


def follow_job(client: Client, job: str, progress: Progress, output: IO[str]) -> None:
    """Print a job's text as it arrives. Raises the job's error."""
    writer = TextWriter(output, progress)
    with closing(events_of(client, job, progress)) as events:
        for event in events:
            if event is not None and event["type"] == "transcription.segment":
                writer.write(event["index"], event["text"], event["channel"])
            elif event is not None and event["type"] == "transcription.completed":
                print_job_warnings(event, progress)
    writer.finish(Transcript.from_wire(client.jobs.wait(job)))


def events_of(
    client: Client, job: str, progress: Progress, deadline_s: float | None = None
) -> Generator[Map | None, None, None]:
    """Yield the events of a job, and None once the deadline has passed; show progress, if enabled."""
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
    """Shows what a job is waiting for, then its progress."""

    def __init__(self, progress: Progress, job: str, runtime: Map) -> None:
        self._progress = progress
        self._job = job
        self._preparation = Preparation(runtime)
        self._has_begun = False
        self._preparation.show(progress, {**runtime, "type": "runtime.status"})  # its current state

    def take(self, event: Map) -> None:
        """Show an event. Once the job has begun, downloads belong to other runtimes."""
        if event.get("id") == self._job:
            self._take_own(event)
        elif not self._has_begun:
            self._preparation.show(self._progress, event)

    def _take_own(self, event: Map) -> None:
        match event:
            case {"type": "job.queued", "position": int(position)} if position:
                others = "another job" if position == 1 else f"{position} other jobs"
                self._progress.show("Waiting", None, f"alongside {others}")
            case {"type": "job.started", "duration": length}:
                self._has_begun = True
                if length is not None:  # a file; its progress is known only after its first window
                    self._progress.show("Transcribing", None)
            case {"type": "transcription.progress", "done": done, "total": total, "speed": times, "eta": eta}:
                details = f"{duration(done)} of {duration(total)}" if total else duration(done)
                if times:
                    details += f", {speed(times)} real time"
                if eta is not None:
                    details += f", {duration(eta)} left"
                self._progress.show("Transcribing", 100 * done / total if total else None, details)
