"""Desktop notifications."""

from __future__ import annotations

import shutil
import sys

import pytest

from whisperd.watch import desktop


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="notify-send")
def test_a_file_name_is_not_interpreted_as_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    """A desktop interprets markup in the second text, the body, and `notify-send` backslashes."""
    monkeypatch.setattr(shutil, "which", lambda program: program)
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1000")
    name = r'<a href="https:&#47;&#47;example.org">Log in</a>\n.mp3'
    command = desktop._notification("Transcribed", name)
    assert command is not None
    assert command[command.index("--") + 1 :] == [f"Transcribed {name}"]
