"""The choice of the program that records the microphone, and the display of drafts."""

from __future__ import annotations

import io

import pytest

from whisperd.cli.output import Draft
from whisperd.cli.recorder import recorder_command
from whisperd.rpc.errors import WhisperdError
from whisperd.text_width import text_width


def found(*names: str, platform: str = "linux") -> list[str]:
    return recorder_command(lambda name: f"/bin/{name}" if name in names else None, platform)


@pytest.mark.parametrize(
    ("names", "platform", "program"),
    [
        (("arecord", "parec"), "linux", "parec"),
        (("pw-record", "arecord", "ffmpeg"), "linux", "arecord"),
        (("pw-record",), "linux", "pw-record"),
        (("rec", "ffmpeg"), "darwin", "rec"),
        (("ffmpeg", "arecord"), "darwin", "ffmpeg"),
        (("sox", "ffmpeg"), "win32", "sox"),
        (("rec",), "freebsd14", "rec"),
    ],
)
def test_the_preferred_installed_program_is_chosen(
    names: tuple[str, ...], platform: str, program: str
) -> None:
    command = found(*names, platform=platform)
    assert command[0] == f"/bin/{program}"
    assert "16000" in command


@pytest.mark.parametrize("platform", ["linux", "darwin", "win32"])
def test_without_a_program_the_error_has_a_fix(platform: str) -> None:
    with pytest.raises(WhisperdError) as caught:
        found("ffplay", platform=platform)
    assert caught.value.code == "microphone.no_program"
    assert "--stdin" in caught.value.fix
    assert all(name in caught.value.message for name in caught.value.data["programs"])


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True

    @property
    def line(self) -> str:
        """The visible content of the last line."""
        cells: list[str] = []
        for part in self.getvalue().split("\r"):
            written = [cell for one in part for cell in ((one, "") if text_width(one) == 2 else (one,))]
            cells = written + cells[len(written) :]
        return "".join(cells).rstrip()


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setenv("COLUMNS", "20")
    return Terminal()


def test_a_draft_replaces_the_previous_one(terminal: Terminal) -> None:
    draft = Draft(stream=terminal)
    for text in ("And so my", "And so", "Ask"):
        draft.show(text)
        assert terminal.line == text
    draft.clear()
    assert terminal.line == ""


def test_a_long_draft_shows_its_end(terminal: Terminal) -> None:
    draft = Draft(stream=terminal)
    draft.show("what your country can do for you")
    assert terminal.line == "...y can do for you"
    draft.show("你能为你的国家做些什么")
    assert terminal.line == "...你的国家做些什么"
    draft.show("\x1b[2J\n")
    assert terminal.line == "\\x1b[2J\\n"


@pytest.mark.parametrize("quiet", [True, False])
def test_drafts_are_shown_only_on_terminals(quiet: bool) -> None:
    pipe: io.StringIO = Terminal() if quiet else io.StringIO()
    draft = Draft(stream=pipe, quiet=quiet)
    draft.show("And so")
    draft.clear()
    assert pipe.getvalue() == ""
