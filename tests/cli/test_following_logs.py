"""`whisperctl daemon logs --follow`: every line once, over a rotation as well."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import IO

import pytest

from whisperd.cli import logs


class UntilItSays(io.StringIO):
    """Interrupts who writes to it, as a person does, once it has these last words."""

    def __init__(self, last_words: str) -> None:
        super().__init__()
        self._last_words = last_words

    def flush(self) -> None:
        if self.getvalue().endswith(self._last_words):
            raise KeyboardInterrupt


@pytest.mark.skipif(sys.platform == "win32", reason="there, a file that is open cannot be renamed")
def test_what_comes_just_before_a_rotation_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    output = UntilItSays("new one\n")
    with pytest.raises(KeyboardInterrupt):
        logs.follow(path, 0, output)
    assert output.getvalue() == "the last of the old one\nthe first of the new one\n"


def test_a_file_that_was_emptied_is_told_from_its_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "daemon.log"
    path.write_text("long ago\n")

    def wait(_seconds: float) -> None:
        path.write_text("new\n")

    monkeypatch.setattr(logs.time, "sleep", wait)
    output = UntilItSays("new\n")
    with pytest.raises(KeyboardInterrupt):
        logs.follow(path, 0, output)
    assert output.getvalue() == "new\n"


def test_what_comes_while_the_last_lines_are_shown_is_told(tmp_path: Path) -> None:
    path = tmp_path / "daemon.log"
    path.write_text("one\ntwo\n")

    class Slow(UntilItSays):
        def write(self, text: str) -> int:
            if not self.getvalue():
                with path.open("a") as log:
                    log.write("three\n")
            return super().write(text)

    output = Slow("three\n")
    with pytest.raises(KeyboardInterrupt):
        logs.follow(path, 1, output)
    assert output.getvalue() == "two\nthree\n"


def test_more_lines_may_be_asked_for_than_there_can_be(tmp_path: Path) -> None:
    path = tmp_path / "daemon.log"
    path.write_text("one\ntwo\n")
    assert logs.last_lines(path, 10**30) == ["one", "two"]
