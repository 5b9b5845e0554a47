"""whisperctl on a real terminal: progress that is erased, and no colour."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO

import pytest

from whisperd_testing import LIMIT_S, RunningDaemon, until, write_tone

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(os.name != "posix", reason="terminals as on POSIX"),
]


class Terminal:
    """A terminal of a given width on which whisperctl runs."""

    def __init__(
        self,
        daemon: RunningDaemon,
        columns: int,
        *arguments: str,
        with_stdin: bool = False,
        stdin: IO[bytes] | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        import fcntl
        import pty
        import termios

        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("4H", 24, columns, 0, 0))
        env = {name: value for name, value in daemon.env.items() if name != "COLUMNS"}
        env.update(variables or {})
        self.process = subprocess.Popen(
            [sys.executable, "-m", "whisperd.cli.main", *arguments],
            env=env,
            stdin=slave if with_stdin else stdin or subprocess.DEVNULL,
            stdout=slave,
            stderr=slave,
        )
        os.close(slave)
        self.written = ""

    def type(self, text: str) -> None:
        """Type text on the terminal's keyboard."""
        os.write(self._master, text.encode())

    def read_until(self, text: str) -> None:
        """Read until the text has been written."""
        while text not in self.written:
            self._read()

    def finish(self) -> int:
        """Read to the end; return the exit status."""
        try:
            while True:
                self._read()
        except (OSError, EOFError):
            os.close(self._master)
            return self.process.wait(timeout=LIMIT_S)

    def _read(self) -> None:
        data = os.read(self._master, 65536)
        if not data:
            raise EOFError(self.written)
        self.written += data.decode()

    @property
    def screen(self) -> list[str]:
        """The final content of the screen: text after `\\r` overwrites the line from its beginning."""
        lines = []
        for line in self.written.replace("\r\n", "\n").split("\n"):
            shown = ""
            for part in line.split("\r"):
                shown = part + shown[len(part) :]
            lines.append(shown.rstrip())
        return lines


def test_progress_is_shown_and_erased(shared: RunningDaemon, toy: Callable[..., str], tmp_path: Path) -> None:
    model = Path(toy("slow", window_s=0.02))
    (model / "hold").touch()
    long = write_tone(tmp_path / "long.wav", 100.0)
    terminal = Terminal(shared, 100, "transcribe", "--no-vad", "--model", str(model), str(long))
    terminal.read_until("Loading ")
    (model / "hold").unlink()
    assert terminal.finish() == 0
    assert "Transcribing [####" in terminal.written
    assert "x real time" in terminal.written
    assert terminal.screen == [*["transcribe 24.00 s"] * 3, "transcribe 22.00 s", "transcribe 6.00 s", ""]


def test_a_running_job_is_shown_before_its_first_window(shared: RunningDaemon, held: Path, tone: str) -> None:
    terminal = Terminal(shared, 80, "transcribe", "--no-vad", "--model", str(held), tone)
    terminal.read_until("\rTranscribing ...")
    (held / "hold").unlink()
    assert terminal.finish() == 0
    assert terminal.screen == ["transcribe 2.00 s", ""]


def test_starting_a_daemon_is_shown(make_daemon: Callable[..., RunningDaemon]) -> None:
    terminal = Terminal(make_daemon(), 80, "daemon", "start")
    assert terminal.finish() == 0
    assert terminal.written.startswith("\rStarting the daemon ...\r")
    assert terminal.screen[0].startswith("whisperd is running")


@pytest.mark.parametrize("columns", [0, 1, 20, 40])
def test_progress_fits_a_narrow_terminal(
    shared: RunningDaemon, toy: Callable[..., str], tone: str, columns: int
) -> None:
    terminal = Terminal(shared, columns, "transcribe", "--no-vad", "--model", toy(), tone)
    assert terminal.finish() == 0
    assert terminal.screen == ["transcribe 2.00 s", ""]
    if columns:
        assert all(len(part) < columns for part in terminal.written.split("\r") if "Loading" in part)


@pytest.mark.parametrize("variables", [{}, {"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_output_is_never_coloured(shared: RunningDaemon, tone: str, variables: dict[str, str]) -> None:
    for arguments in (
        ("transcribe", "--no-vad", tone),
        ("jobs", "list"),
        ("daemon", "status"),
        ("jobs", "show", "x"),
    ):
        terminal = Terminal(shared, 80, *arguments, variables=variables)
        terminal.finish()
        assert "\x1b" not in terminal.written


def test_quiet_shows_no_progress(shared: RunningDaemon, toy: Callable[..., str], tone: str) -> None:
    terminal = Terminal(shared, 80, "transcribe", "-q", "--no-vad", "--model", toy(), tone)
    assert terminal.finish() == 0
    assert terminal.written == "transcribe 2.00 s\r\n"


def test_ctrl_c_erases_the_progress(shared: RunningDaemon, held: Path, tone: str) -> None:
    terminal = Terminal(shared, 80, "transcribe", "--no-vad", "--model", str(held), tone)
    terminal.read_until("Loading ")
    until((held / "batches.jsonl").exists)
    terminal.process.send_signal(2)
    assert terminal.finish() == 130
    assert terminal.screen == [""]


def test_a_terminal_as_standard_input_is_refused(shared: RunningDaemon) -> None:
    terminal = Terminal(shared, 80, "transcribe", "-", with_stdin=True)
    assert terminal.finish() == 2
    assert "Standard input is a terminal." in terminal.written


def test_reading_standard_input_is_shown_and_erased(shared: RunningDaemon, tone: str) -> None:
    with Path(tone).open("rb") as recording:
        terminal = Terminal(shared, 80, "transcribe", "--no-vad", "missing.wav", "-", stdin=recording)
        assert terminal.finish() == 1
    assert "Reading standard input ... 64 kB" in terminal.written
    assert terminal.screen[0].startswith("whisperctl: missing.wav: ")
    assert terminal.screen[2:] == ["==> standard input <==", "transcribe 2.00 s", ""]


@pytest.mark.parametrize(("verb", "text"), [("follow", "transcribe 2.00 s"), ("wait", None)])
def test_waiting_for_a_job_shows_its_progress(
    shared: RunningDaemon, held: Path, tone: str, verb: str, text: str | None
) -> None:
    with shared.connect() as client:
        job = client.submit(tone, detach=True, model=held, vad=False)
    terminal = Terminal(shared, 80, "jobs", verb, job)
    terminal.read_until("Transcribing ...")
    (held / "hold").unlink()
    assert terminal.finish() == 0
    assert terminal.screen == [*filter(None, [text]), ""]


@pytest.mark.parametrize(
    ("answer", "status", "said"),
    [
        ("\n", 1, "\nwhisperctl: Nothing was erased."),
        ("\x04", 1, "\nwhisperctl: Nothing was erased."),
        ("y\n", 0, "erased"),
    ],
)
def test_erasing_all_transcripts_asks_for_confirmation(
    shared: RunningDaemon, answer: str, status: int, said: str
) -> None:
    terminal = Terminal(shared, 80, "jobs", "clear", "--purge", "--older-than", "900d", with_stdin=True)
    terminal.read_until("Erase all stored transcripts older than that? [y/N] ")
    terminal.type(answer)
    assert terminal.finish() == status
    assert said in terminal.written
