"""`whisperctl transcribe`: turn recordings into text."""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections import deque
from collections.abc import Generator, Iterator
from contextlib import closing, suppress
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

from whisperd.cli import exit_status
from whisperd.cli.command import confirm_download, connect_as, model_warnings, progress_of
from whisperd.cli.files import (
    EXTENSIONS,
    OF_JSON,
    STANDARD_INPUT,
    check_target,
    format_of,
    make_folder,
    matching,
    targets_in,
    title_of,
    write_file,
)
from whisperd.cli.follow import TextWriter, events_of, print_job_warnings
from whisperd.cli.job_options import add_job_options, given_options
from whisperd.cli.output import (
    Progress,
    duration,
    print_error,
    print_json,
    print_line,
    print_notice,
    printable,
)
from whisperd.cli.parser import Parser, comma_separated, non_empty, usage_error
from whisperd.client import Client, Transcript, end_of_job
from whisperd.quantities import size, speed
from whisperd.rpc.errors import WhisperdError

if TYPE_CHECKING:
    from whisperd.client import Input

STANDARD_OUTPUT = "-"
JOBS_AHEAD = 8
"""How many files to submit while the first is being shown, so that their windows share batches."""
EXAMPLES = """examples:
  whisperctl transcribe interview.mp3
  whisperctl transcribe *.mp3 --output-dir texts
  whisperctl transcribe talk.mp4 --model small --language de --format verbose_json -o talk.json
  whisperctl transcribe film.mkv -o film.srt
  whisperctl transcribe film.mkv --format srt,vtt,text --output-dir texts
  whisperctl transcribe meeting.m4a --clip "12:30-15:00; 1:02:00-"
  curl -s https://example.org/call.ogg | whisperctl transcribe -"""


def add(parser: Parser) -> None:
    """Add the arguments."""
    parser.add_argument("files", nargs="+", metavar="FILE", help="audio or video files; - is standard input")
    add_job_options(parser)
    parser.add_argument(
        "--clip",
        action="append",
        metavar="PARTS",
        help="only these parts, such as 0:30-1:45; 2:00-2:15; 5:00- (repeatable)",
    )
    parser.add_argument(
        "--format",
        action="extend",
        type=comma_separated,
        choices=tuple(EXTENSIONS),
        help="output format (default: by extension of -o, else text); several, with commas, for --output-dir",
    )
    parser.add_argument("-o", "--output", type=non_empty, metavar="FILE", help="write the text to this file")
    parser.add_argument(
        "--output-dir",
        type=non_empty,
        metavar="DIR",
        help="write one file per recording and format to this folder",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace existing files")
    parser.add_argument("--stream", action="store_true", help="print events as JSON lines")
    parser.add_argument(
        "--detach", action="store_true", help="print the job's id and exit; the job continues"
    )
    parser.add_argument(
        "--timeout", type=_positive, metavar="SECONDS", help="cancel jobs not done after this time"
    )
    parser.epilog = EXAMPLES
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Transcribe every file; continue after a failure."""
    options.files = matching(options.files)
    _check(options)
    if options.clip is not None:
        options.clip = "; ".join(options.clip)
    options.format = list(dict.fromkeys(options.format or [format_of(options.output)]))
    targets: list[dict[str, str]] = [{}] * len(options.files)
    if options.output_dir:
        targets = targets_in(options.output_dir, options.files, options.format)
        make_folder(options.output_dir)
    elif options.output not in (None, STANDARD_OUTPUT):
        targets = [{options.format[0]: options.output}]
    with connect_as(options, has_profile=True) as client:
        if options.model:
            confirm_download(options, model_warnings(client, options.model), is_to_be_loaded=True)
        return _Session(client, options, targets).run()


def _check(options: argparse.Namespace) -> None:
    if options.output and len(options.files) > 1:
        raise usage_error("-o writes one file, but there are several recordings", "Use --output-dir")
    if options.files.count(STANDARD_INPUT) > 1:
        raise usage_error("Standard input can be read only once", "Pass - once")
    if STANDARD_INPUT in options.files and sys.stdin is not None and sys.stdin.isatty():
        raise usage_error(
            "Standard input is a terminal", "Redirect a recording to it: `whisperctl transcribe - < FILE`"
        )
    if options.format and options.detach:
        later = f"Run `whisperctl jobs result ID --format {options.format[0]}` when the job is done"
        raise usage_error("--detach prints an id and no text, so --format has no effect", later)
    for one, other in (
        ("runtime", "model"),
        ("output", "output_dir"),
        ("output", "stream"),
        ("output", "detach"),
        ("output_dir", "stream"),
        ("output_dir", "detach"),
        ("stream", "detach"),
        ("stream", "json"),
        ("stream", "format"),
        ("detach", "timeout"),
    ):
        if getattr(options, one) and getattr(options, other):
            names = " and ".join(f"--{name.replace('_', '-')}" for name in (one, other))
            raise usage_error(f"{names} cannot be combined", "Omit one of them")
    formats = set(options.format or ())
    prints = options.output in (None, STANDARD_OUTPUT) and not options.output_dir
    if len(formats) > 1 and not options.output_dir:
        place = "Standard output" if prints else "One file"
        raise usage_error(f"{place} takes one format", "Write a file for each with --output-dir")
    if options.json and prints and formats.difference(OF_JSON):
        raise usage_error(
            "--json prints its own document, so --format has no effect",
            "Omit --json, or write a file with -o or --output-dir",
        )


class _Submitted(NamedTuple):
    """A file, its output files by format (none is standard output), and its job or the error instead."""

    name: str
    targets: dict[str, str]
    job: str | WhisperdError


class _Session:
    """One run of the command: files in, texts out."""

    def __init__(self, client: Client, options: argparse.Namespace, targets: list[dict[str, str]]) -> None:
        self._client = client
        self._options = options
        self._targets = targets
        self._progress = progress_of(options)
        self._deadline_s = time.monotonic() + options.timeout if options.timeout else None
        self._documents: list[Any] = []

    def run(self) -> int:
        """Print the text of each file in order; return the exit status."""
        files = list(zip(self._options.files, self._targets, strict=True))
        # Reading standard input may take as long as a recording lasts: show the files before it first.
        cut = self._options.files.index(STANDARD_INPUT) if STANDARD_INPUT in self._options.files else 0
        ahead = 1 if self._options.detach else JOBS_AHEAD
        parts = (_ahead(self._submit_all(part), ahead) for part in (files[:cut], files[cut:]))
        statuses: list[int] = []
        try:
            for submitted in chain.from_iterable(parts):
                statuses.append(self._finish(submitted))
                if statuses[-1] == exit_status.UNREACHABLE:
                    break
        except KeyboardInterrupt:
            self._print_documents()  # of the files that are done
            raise
        self._print_documents()
        return exit_status.of_several(statuses)

    def _print_documents(self) -> None:
        if self._documents:
            print_json(self._documents if len(self._options.files) > 1 else self._documents[0])

    def _submit_all(self, files: list[tuple[str, dict[str, str]]]) -> Iterator[_Submitted]:
        for name, targets in files:
            try:
                for target in targets.values():
                    self._check_target(target)
                job = self._client.submit(
                    self._input(name),
                    detach=self._options.detach,
                    runtime=self._options.runtime,
                    model=self._options.model,
                    **given_options(self._options),
                    **({"clip": self._options.clip} if self._options.clip is not None else {}),
                )
            except WhisperdError as error:
                yield _Submitted(name, targets, error)
                if exit_status.is_unreachable(error):
                    return
            else:
                yield _Submitted(name, targets, job)

    def _check_target(self, target: str) -> None:
        check_target(target, self._options.files, overwrite=self._options.overwrite)

    def _finish(self, submitted: _Submitted) -> int:
        """Wait for one file and print its result; return its exit status."""
        try:
            if isinstance(submitted.job, WhisperdError):
                raise submitted.job
            if self._options.detach:
                self._print_id(submitted.name, submitted.job)
            else:
                self._show(submitted, submitted.job)
        except WhisperdError as error:
            self._report_error(submitted, error)
            return exit_status.status_of(error)
        return exit_status.DONE

    def _show(self, submitted: _Submitted, job: str) -> None:
        name = submitted.name
        as_it_comes = self._options.format == ["text"] and not (
            submitted.targets or self._options.json or self._options.stream
        )
        if as_it_comes:
            self._head(name)
        writer = TextWriter(sys.stdout, self._progress)
        with closing(self._events(job)) as events:
            for event in events:
                if self._options.stream:
                    print_line({**event, "input": name})
                elif as_it_comes and event["type"] == "transcription.segment":
                    writer.write(event["index"], event["text"], event["channel"])
                if event["type"] == "transcription.completed":
                    self._print_notes(name, event)
        transcript = Transcript.from_wire(self._client.jobs.wait(job))
        if as_it_comes:
            writer.finish(transcript)
        elif not self._options.stream:
            self._deliver(submitted, job, transcript)

    def _deliver(self, submitted: _Submitted, job: str, transcript: Transcript) -> None:
        """Output a complete transcript: to its files, as part of the document, or to standard output."""
        for name, target in submitted.targets.items():
            content = self._client.jobs.result(job, name)["content"]
            self._check_target(target)  # again: A.txt may be the a.txt that was just written
            write_file(target, content)
            if self._options.output_dir and not (self._options.quiet or self._options.json):
                print_notice(f"wrote {printable(target)}")
        if self._options.json:
            place: dict[str, Any] = {"outputs": submitted.targets} if submitted.targets else {}
            if len(submitted.targets) == 1:
                place = {"output": next(iter(submitted.targets.values()))}
            self._documents.append({"input": submitted.name, "job": job, **place, **transcript.verbose})
        elif not submitted.targets:
            self._head(submitted.name)
            sys.stdout.write(self._client.jobs.result(job, self._options.format[0])["content"])
            sys.stdout.flush()

    def _events(self, job: str) -> Generator[dict[str, Any], None, None]:
        """Yield a job's events. Ctrl-C, a closed pipe, or the timeout cancels it in the daemon."""
        has_ended = False
        try:
            with closing(events_of(self._client, job, self._progress, self._deadline_s)) as events:
                for event in events:
                    if event is None:
                        raise _timeout(self._options.timeout)
                    has_ended = end_of_job(event)
                    yield event
        finally:
            if not has_ended:
                with suppress(WhisperdError):  # if the daemon has ended, so has the job
                    self._client.jobs.cancel(job)

    def _input(self, name: str) -> Input:
        if name != STANDARD_INPUT:
            return name
        if sys.stdin is None:
            raise usage_error("There is no standard input", "Pass a file")
        return _CountedInput(self._progress)

    def _head(self, name: str) -> None:
        """With several files, print which one follows, as `head` and `tail` do."""
        self._progress.clear()
        if len(self._options.files) > 1:
            print(f"==> {printable(title_of(name))} <==", flush=True)

    def _print_notes(self, name: str, event: dict[str, Any]) -> None:
        """Print what the text of a completed job does not show."""
        self._progress.clear()
        notes = []
        if self._options.verbose:
            notes.append(
                f"{duration(event['total'])} in {event['elapsed']:.1f} s, {speed(event['speed'])} real time, "
                f"{event['runtime']}, {event['language'] or 'no language'}"
            )
        if event["cached"]:
            notes.append("reused the transcript of an earlier job; --no-cache transcribes again")
        if not event["segments"]:
            hint = "" if self._options.vad is False else "; --no-vad transcribes whispering, too"
            notes.append(f"no speech was found{hint}")
        for note in notes if not self._options.quiet else ():
            print_notice(f"{printable(title_of(name))}: {note}")
        if not (self._options.stream or self._options.json):  # there, the printed JSON has them
            print_job_warnings(event, self._progress)

    def _print_id(self, name: str, job: str) -> None:
        if self._options.json:
            self._documents.append({"input": name, "job": job})
        else:
            print(job, flush=True)

    def _report_error(self, submitted: _Submitted, error: WhisperdError) -> None:
        self._progress.clear()
        several = len(self._options.files) > 1
        if self._options.json:
            self._documents.append(
                {**({"input": submitted.name} if several else {}), "error": error.to_wire()}
            )
            return
        has_job = not isinstance(submitted.job, WhisperdError)
        if self._options.stream and (not has_job or error.code == "job.timeout"):  # no event has reported it
            from whisperd.clock import now_rfc3339

            kind, job = ("cancelled", submitted.job) if has_job else ("failed", None)
            print_line(
                {
                    "type": f"transcription.{kind}",
                    "id": job,
                    "error": error.to_wire(),
                    "time": now_rfc3339(),
                    "seq": None,
                    "input": submitted.name,
                }
            )
        print_error(error, subject=title_of(submitted.name) if several else None)


class _CountedInput:
    """Standard input, with progress while it is read."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._size_bytes = 0

    def read(self, count: int) -> bytes:
        """Read at most `count` bytes; none at the end."""
        try:
            piece = sys.stdin.buffer.read(count)
        except OSError as error:
            raise WhisperdError(
                "audio.not_readable",
                f"Standard input cannot be read: {error.strerror or error}.",
                "Redirect a recording to it: `whisperctl transcribe - < FILE`.",
            ) from error
        self._size_bytes += len(piece)
        self._progress.show("Reading standard input", None, size(self._size_bytes))
        return piece


def _ahead(submissions: Iterator[_Submitted], count: int) -> Iterator[_Submitted]:
    """Yield the submissions in order, taking up to `count` of them from their source ahead of use."""
    taken: deque[_Submitted] = deque()
    for submission in submissions:
        taken.append(submission)
        if len(taken) >= count:
            yield taken.popleft()
    yield from taken


def _positive(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return seconds


def _timeout(seconds: float) -> WhisperdError:
    return WhisperdError(
        "job.timeout",
        f"The job was not done within {seconds:g} s and was cancelled.",
        "Allow more time with --timeout.",
    )
