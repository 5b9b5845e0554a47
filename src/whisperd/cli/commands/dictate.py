"""`whisperctl dictate`: turn speech into text as you speak."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from contextlib import ExitStack, closing, contextmanager, suppress
from queue import SimpleQueue
from typing import TYPE_CHECKING

from whisperd.cli import exit_status
from whisperd.cli.command import confirm_download, connect_as, model_warnings, progress_of
from whisperd.cli.files import LineFile, check_target, format_of, write_file
from whisperd.cli.follow import TextWriter, events_of
from whisperd.cli.job_options import add_job_options, given_options
from whisperd.cli.output import Draft, print_json, print_line, print_notice
from whisperd.cli.parser import Parser, non_empty, usage_error
from whisperd.cli.raw_audio import not_raw
from whisperd.cli.recorder import recorder_command
from whisperd.rpc.errors import WhisperdError

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from typing import IO, Any

    from whisperd.client import Client, Dictation

STANDARD_OUTPUT = "-"
SECOND_BYTES = 32_000
READ_BYTES = 16_000
"""The most to read at once: half a second. Less is sent as soon as it arrives."""
PIECES_AHEAD = 8
"""How many pieces to read ahead while one is being sent."""
EXAMPLES = """examples:
  whisperctl dictate
  whisperctl dictate --language de -o notes.txt
  ffmpeg -loglevel error -i URL -f s16le -ac 1 -ar 16000 - | whisperctl dictate --stdin"""


def add(parser: Parser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "--stdin",
        action="store_true",
        help="transcribe raw audio (16 kHz, mono, s16le) from standard input",
    )
    add_job_options(parser, live=True)
    parser.add_argument(
        "-o",
        "--output",
        type=non_empty,
        metavar="FILE",
        help="write the text to this file as it arrives; subtitles (.srt, .vtt, ...) at the end",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")
    parser.add_argument("--stream", action="store_true", help="print events as JSON lines")
    parser.epilog = EXAMPLES
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Listen until the audio ends, or until Ctrl-C."""
    _check(options)
    command = None if options.stdin else _recorder()
    if options.output == STANDARD_OUTPUT:
        options.output = None
    job_options = {"runtime": options.runtime, "model": options.model, **given_options(options)}
    if options.output:
        _check_target(options)
    with connect_as(options, has_profile=True) as client:
        if options.model:
            confirm_download(options, model_warnings(client, options.model), is_to_be_loaded=True)
        with ExitStack() as stack:
            # Begin the job before opening the file: a refused job must leave an existing file alone.
            dictation = stack.enter_context(client.dictate(**job_options))
            output: IO[str] | LineFile | None = sys.stdout
            if options.output:
                _check_target(options)  # again: starting a daemon or asking the user takes time
                output = stack.enter_context(closing(LineFile(options.output))) if _is_text(options) else None
            _Session(dictation, options, output).run(command)
    return exit_status.DONE


def _check_target(options: argparse.Namespace) -> None:
    check_target(options.output, (), overwrite=options.overwrite, is_replaced=not _is_text(options))


def _is_text(options: argparse.Namespace) -> bool:
    """Whether the file gets the text as it arrives; otherwise it is written at the end."""
    return format_of(options.output, otherwise="text") == "text"


def _check(options: argparse.Namespace) -> None:
    if options.stream and options.json:
        raise usage_error("--stream and --json cannot be combined", "Omit one of them")
    if options.stdin and sys.stdin is None:
        raise usage_error("There is no standard input", "Omit --stdin")
    if options.stdin and sys.stdin.isatty():
        raise usage_error("Standard input is a terminal", "Pipe raw audio into it, or omit --stdin")


def _recorder() -> list[str]:
    from shutil import which

    return recorder_command(which)


class _Session:
    """One run of the command: audio in, lines out."""

    def __init__(
        self, dictation: Dictation, options: argparse.Namespace, output: IO[str] | LineFile | None
    ) -> None:
        """`output` gets the lines; without one, the whole text is written at the end."""
        self._dictation = dictation
        self._options = options
        self._progress = progress_of(options)
        self._draft = Draft(quiet=options.quiet or options.json)
        self._writer = None if output is None else TextWriter(output, self._progress)
        self._prints_text = bool(options.output) or not (options.stream or options.json)
        self._audio = _Audio(dictation)

    def run(self, command: list[str] | None) -> None:
        """Show the text until the audio ends. Raises the job's error, or the recorder's."""
        client: Client = self._dictation.listening
        with self._audio.stopped_by_interrupt():
            with closing(events_of(client, self._dictation.id, self._progress)) as events:
                for event in events:
                    if event is not None:
                        self._show(event, command)
            transcript = self._dictation.result()
        self._draft.clear()
        if self._writer is None:
            if transcript.segments or self._audio.error is None:
                self._write_file(client)
        elif self._prints_text:
            self._writer.finish(transcript)
        if self._options.json and self._audio.error is None:
            place = {"output": self._options.output} if self._options.output else {}
            print_json({"job": self._dictation.id, **place, **transcript.verbose})
        if self._audio.error is not None:
            raise self._audio.error
        if self._audio.is_silent and not self._options.quiet:
            print_notice("The microphone delivered only silence. Is it muted, or is it the wrong one?")

    def _show(self, event: dict[str, Any], command: list[str] | None) -> None:
        if self._options.stream:
            print_line(event)
        match event["type"]:
            case "job.started":
                self._progress.clear()
                self._audio.begin(command)
                if command is not None:
                    self._draft.show("Listening. Press Ctrl-C to stop.")
            case "transcription.partial":
                self._draft.show(f"{event['agreed']} {event['tentative']}".strip())
            case "transcription.segment":
                self._draft.clear()
                if self._writer is not None and self._prints_text:
                    self._writer.write(event["index"], event["text"], event["channel"])

    def _write_file(self, client: Client) -> None:
        target, job = self._options.output, self._dictation.id
        name = format_of(target, otherwise="text")
        content = client.jobs.result(job, name)["content"]
        try:
            _check_target(self._options)  # again: it may have been created meanwhile
            write_file(target, content)
        except WhisperdError as error:
            error.fix = f"`whisperctl jobs result {job} --format {name}` prints the text. {error.fix}"
            raise


class _Audio:
    """Sends audio from standard input or the recorder to the daemon, in separate threads."""

    def __init__(self, dictation: Dictation) -> None:
        self._dictation = dictation
        self._pieces: SimpleQueue[bytes | None] = SimpleQueue()
        self._room = threading.Semaphore(PIECES_AHEAD)
        self._recorder: subprocess.Popen[bytes] | None = None
        self._has_begun = self._is_stopped = False
        self._recorded_bytes = 0
        self._has_sound = False
        self.error: WhisperdError | None = None
        """Why the audio ended, if something went wrong."""

    @property
    def is_silent(self) -> bool:
        """Whether the microphone delivered only zeros, for a second or more: a live one hardly does."""
        return self._recorded_bytes >= SECOND_BYTES and not self._has_sound

    def begin(self, command: list[str] | None) -> None:
        """Record with a command, or read standard input."""
        self._has_begun = True
        if command is None:
            threading.Thread(target=self._read, args=[sys.stdin.fileno()], daemon=True).start()
        else:
            import subprocess

            # In its own session, so that Ctrl-C reaches only us: what it has recorded must still be read.
            try:
                self._recorder = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True
                )
            except OSError as error:
                raise _not_readable(error.strerror or str(error)) from error
            assert self._recorder.stdout is not None
            threading.Thread(target=self._read, args=[self._recorder.stdout.fileno()], daemon=True).start()
        threading.Thread(target=self._push, daemon=True).start()

    @contextmanager
    def stopped_by_interrupt(self) -> Iterator[None]:
        """Within the block, the first Ctrl-C once audio has begun ends the audio; others end the command."""
        before = signal.signal(signal.SIGINT, lambda *_: self._interrupt())
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)
            if self._recorder is not None:
                self._recorder.kill()
                self._recorder.wait()

    def _interrupt(self) -> None:
        if self._is_stopped or not self._has_begun:
            raise KeyboardInterrupt
        self._is_stopped = True
        if self._recorder is not None:
            self._recorder.terminate()
        else:
            self._pieces.put(None)  # a blocked read cannot be interrupted: end the sending thread instead

    def _read(self, descriptor: int) -> None:
        """Read ahead until the audio ends."""
        is_first = self._recorder is None
        try:
            while piece := os.read(descriptor, READ_BYTES):
                if is_first and (kind := not_raw(piece)):
                    self.error = _encoded(kind)
                    break
                is_first = False
                if self._recorder is not None:
                    self._recorded_bytes += len(piece)
                    self._has_sound = self._has_sound or any(piece)
                self._room.acquire()
                self._pieces.put(piece)
        except OSError as error:
            self.error = _not_readable(error.strerror or str(error))
        if self._recorder is not None and (status := self._recorder.wait()) and not self._is_stopped:
            self.error = _not_readable(f"the recorder exited with status {status}")
        self._pieces.put(None)

    def _push(self) -> None:
        """Send what was read. Errors of the job itself arrive as its events."""
        with suppress(WhisperdError):
            while (piece := self._pieces.get()) is not None:
                self._room.release()
                self._dictation.push(piece)
            self._dictation.finish()


def _not_readable(reason: str) -> WhisperdError:
    return WhisperdError(
        "audio.not_readable",
        f"The audio cannot be read: {reason}.",
        "Check the microphone, or pipe in audio: `… | whisperctl dictate --stdin`.",
    )


def _encoded(kind: str) -> WhisperdError:
    return WhisperdError(
        "audio.unsupported",
        f"Standard input is {kind}, not raw audio (one channel, 16 bits, 16,000 samples per second).",
        "Pipe it into `whisperctl transcribe -`, or convert it first, as `whisperctl dictate --help` shows.",
    )
