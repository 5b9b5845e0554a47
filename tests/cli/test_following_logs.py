"""`whisperctl daemon logs --follow` prints every line once, even across a rotation."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import IO

import pytest

from whisperd.cli import logs


class InterruptingStream(io.StringIO):
    """A stream that interrupts its writer, like Ctrl-C, once the output ends with these words."""

    def __init__(self, last_words: str) -> None:
        super().__init__()
        self._last_words = last_words

    def flush(self) -> None:
        if self.getvalue().endswith(self._last_words):
            raise KeyboardInterrupt


@pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot rename an open file")
def test_lines_written_just_before_a_rotation_are_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "daemon.log"
    path.write_text("long ago\n")
    was_rotated = logs._was_rotated

    def rotated_just_now(file: IO[str], followed: Path) -> bool:
        monkeypatch.undo()
        with path.open("a") as old:
            old.write("the last of the old one\n")
        path.rename(tmp_path / "daemon.log.1")
        path.write_text("the first of the new one\n")
        return was_rotated(file, followed)

    monkeypatch.setattr(logs, "_was_rotated", rotated_just_now)
    output = InterruptingStream("new one\n")
    with pytest.raises(KeyboardInterrupt):
        logs.follow(path, 0, output)
    assert output.getvalue() == "the last of the old one\nthe first of the new one\n"


def test_a_truncated_file_is_read_from_its_beginning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "daemon.log"
    path.write_text("long ago\n")

    def wait(_seconds: float) -> None:
        path.write_text("new\n")

    monkeypatch.setattr(logs.time, "sleep", wait)
    output = InterruptingStream("new\n")
    with pytest.raises(KeyboardInterrupt):
        logs.follow(path, 0, output)
    assert output.getvalue() == "new\n"


def test_lines_written_while_printing_the_last_ones_are_printed(tmp_path: Path) -> None:
    path = tmp_path / "daemon.log"
    path.write_text("one\ntwo\n")

    class Slow(InterruptingStream):
        def write(self, text: str) -> int:
            if not self.getvalue():
                with path.open("a") as log:
                    log.write("three\n")
            return super().write(text)

    output = Slow("three\n")
    with pytest.raises(KeyboardInterrupt):
        logs.follow(path, 1, output)
    assert output.getvalue() == "two\nthree\n"


def test_any_number_of_lines_may_be_requested(tmp_path: Path) -> None:
    path = tmp_path / "daemon.log"
    path.write_text("one\ntwo\n")
    assert logs.last_lines(path, 10**30) == ["one", "two"]
