"""Output for people, for programs, and on terminals of any width."""

from __future__ import annotations

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whisperd.cli import output
from whisperd.cli.command import show_download
from whisperd.cli.job_options import options_in_words
from whisperd.cli.output import (
    Progress,
    columns,
    counted,
    duration,
    print_error,
    print_json,
    print_table,
    printable,
    table,
)
from whisperd.quantities import size
from whisperd.rpc.errors import WhisperdError

ESCAPE = "\x1b"


class Terminal(io.StringIO):
    """A stream that reports being a terminal."""

    def isatty(self) -> bool:
        return True


def screen(written: str) -> list[str]:
    """Return the lines that this output leaves on a terminal."""
    return [line.rpartition("\r")[2] for line in written.split("\n")]


@given(st.text())
def test_printable_text_is_one_line_without_control_characters(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    if text.isprintable():
        assert shown == text


def test_invisible_characters_in_a_name_are_escaped() -> None:
    assert printable("a\nb\x1b[31m\udce9\ud800") == r"a\nb\x1b[31m\xe9\ud800"


@pytest.mark.parametrize(
    ("size_bytes", "shown"),
    [
        *[(None, "-"), (0, "0 B"), (9.4e3, "9.4 kB"), (9_960, "10 kB"), (145_217_532, "145 MB")],
        *[(999_600, "1.0 MB"), (999.96e6, "1.00 GB"), (3.087e9, "3.09 GB"), (25.77e9, "25.8 GB")],
    ],
)
def test_sizes(size_bytes: float | None, shown: str) -> None:
    assert size(size_bytes) == shown


@pytest.mark.parametrize(("seconds", "shown"), [(None, "-"), (4.6, "0:05"), (75, "1:15"), (3723, "1:02:03")])
def test_durations(seconds: float | None, shown: str) -> None:
    assert duration(seconds) == shown


def test_singular_and_plural() -> None:
    shown = [counted(number, "file is", "files are") for number in range(3)]
    assert shown == ["0 files are", "1 file is", "2 files are"]
    assert [counted(1, "job"), counted(2, "job")] == ["1 job", "2 jobs"]


def test_options_are_shown_as_on_the_command_line() -> None:
    assert options_in_words({"vad": False, "temperature": [0.0, 0.2]}) == "vad no, temperature 0,0.2"
    assert options_in_words({}) == "-"


def test_an_error_is_printed_with_its_fix(capsys: pytest.CaptureFixture[str]) -> None:
    print_error(WhisperdError("a.b", "It broke\n.", "Mend it."), subject="x")
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == "whisperctl: x: It broke\\n.\n  Mend it.\n"
    print_error(WhisperdError("a.b", "It broke.", ""))
    assert capsys.readouterr().err == "whisperctl: It broke.\n"


def test_an_error_as_json_is_the_only_output(capsys: pytest.CaptureFixture[str]) -> None:
    print_error(WhisperdError("a.b", "It broke.", "Mend it.", {"n": 1}), as_json=True)
    printed = capsys.readouterr()
    assert printed.err == ""
    assert json.loads(printed.out) == {
        "error": {"code": "a.b", "message": "It broke.", "fix": "Mend it.", "data": {"n": 1}}
    }


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1", "cp1252"])
def test_json_is_valid_in_every_encoding(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(raw, encoding=encoding))
    output.prepare_streams()
    document = {"text": "Grüße 你好 😀"}
    print_json({**document, "path": "caf\udce9"})
    output.sys.stdout.flush()
    assert json.loads(raw.getvalue().decode(encoding)) == {**document, "path": "caf\\xe9"}


def test_a_table_is_only_as_wide_as_needed(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("NAME", "SIZE"), [("tiny", None), ("a\tb", 12)])
    assert capsys.readouterr().out == "NAME  SIZE\ntiny  -\na\\tb  12\n"


@pytest.mark.parametrize(
    ("room", "lines"),
    [
        (None, ["NAME  SIZE   PATH", "tiny  75 MB  /home/me/models/tiny"]),
        (33, ["NAME  SIZE   PATH", "tiny  75 MB  /home/me/models/tiny"]),
        (32, ["NAME  SIZE   PATH", "tiny  75 MB  /home/me...els/tiny"]),
        (24, ["NAME  SIZE   PATH", "tiny  75 MB  /hom...tiny"]),
    ],
)
def test_only_flexible_columns_are_narrowed(room: int | None, lines: list[str]) -> None:
    rows = [("tiny", "75 MB", "/home/me/models/tiny")]
    assert table(("NAME", "SIZE", "PATH"), rows, room=room, flexible=("PATH",)) == lines


@pytest.mark.parametrize(("encoding", "printed"), [("utf-8", "Grüße 好"), ("ascii", r"Gr\xfc\xdfe \u597d")])
def test_text_can_be_printed_in_every_encoding(
    encoding: str, printed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(raw, encoding=encoding))
    output.prepare_streams()
    print("Grüße 好", flush=True)
    assert raw.getvalue().decode(encoding).rstrip() == printed


def test_no_progress_is_printed_to_a_pipe() -> None:
    stream = io.StringIO()
    progress = Progress(stream=stream)
    progress.show("Loading", 50)
    progress.clear()
    assert stream.getvalue() == ""


def test_a_download_prints_a_line_to_a_pipe_at_its_start_and_end() -> None:
    stream = io.StringIO()
    progress = Progress(stream=stream)
    event = {"type": "model.progress", "name": "base", "file": None, "rate": 1.0, "eta": 9.0}
    for detail, done, total in (
        ("waiting", 0, None),
        ("downloading", 0, 145_000_000),
        ("downloading", 9, 145_000_000),
        ("retrying", 9, 145_000_000),
        ("downloading", 90_000_000, 145_000_000),
        ("downloading", 145_000_000, 145_000_000),
        ("verifying", 7, 145_000_000),
        ("converting", 0, None),
        ("converting", 0, None),
    ):
        show_download(progress, {**event, "detail": detail, "done": done, "total": total})
    show_download(progress, {**event, "name": "blas", "detail": "downloading", "done": 0, "total": None})
    show_download(progress, {**event, "name": "blas", "detail": "building", "done": 0, "total": 7})
    assert stream.getvalue().splitlines() == [
        "Downloading base, 145 MB ...",
        "base is downloaded",
        "Converting base ...",
        "Downloading blas ...",
        "blas is downloaded",
        "Building blas ...",
    ]


def test_verbose_progress_prints_a_line_to_a_pipe_per_tenth() -> None:
    stream = io.StringIO()
    progress = Progress(stream=stream, verbose=True)
    for percent in (1, 2, 3, 11, 19, 20, 100):
        progress.show("Loading", percent)
    assert stream.getvalue().splitlines() == [
        "Loading   1 %",
        "Loading  11 %",
        "Loading  20 %",
        "Loading 100 %",
    ]


def test_quiet_suppresses_progress_everywhere() -> None:
    for stream in (io.StringIO(), Terminal()):
        progress = Progress(stream=stream, quiet=True, verbose=True)
        progress.show("Loading", 50)
        progress.begin("base", "Downloading base")
        progress.end("base", "base is downloaded")
        progress.clear()
        assert stream.getvalue() == ""
        assert not progress.is_shown


def cells(line: str) -> int:
    """Return how many terminal cells a line takes."""
    return sum(2 if letter == "\u8a9e" else 1 for letter in line)


@given(
    st.lists(
        st.tuples(
            st.text("abc \u8a9e\n\x1b", max_size=90),
            st.none() | st.floats(0, 200),
            st.text("xyz", max_size=90),
        )
    ),
    st.integers(1, 120),
)
def test_progress_stays_on_its_line_and_is_erased(
    shown: list[tuple[str, float | None, str]], width: int
) -> None:
    terminal = Terminal()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", str(width))
        progress = Progress(stream=terminal)
        for what, percent, details in shown:
            progress.show(what, percent, details)
        progress.clear()
    written = terminal.getvalue()
    assert ESCAPE not in written and "\n" not in written
    lines = written.split("\r")
    assert all(cells(line) < width for line in lines)
    covered = 0
    for line in lines:  # each covers all of the previous one
        assert not line or cells(line) >= covered
        covered = cells(line.rstrip(" "))
    assert screen(written) == [""]


def test_a_wide_terminal_shows_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setenv("COLUMNS", "100")
    Progress(stream=terminal).show("Downloading base", 25, "3 MB of 12 MB")
    assert screen(terminal.getvalue()) == ["Downloading base [#####...............]  25 % 3 MB of 12 MB"]


def test_the_bar_shrinks_to_make_room_for_the_details(monkeypatch: pytest.MonkeyPatch) -> None:
    details = "2:57 of 15:22, 4.5 x real time, 2:44 left"
    for width, bar in (("100", f" [{'#' * 4}{'.' * 16}]"), ("80", f" [{'#' * 3}{'.' * 13}]"), ("64", "")):
        monkeypatch.setenv("COLUMNS", width)
        terminal = Terminal()
        Progress(stream=terminal).show("Transcribing", 19, details)
        assert screen(terminal.getvalue()) == [f"Transcribing{bar}  19 % {details}"]


def test_a_download_shows_its_known_details(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setenv("COLUMNS", "120")
    progress = Progress(stream=terminal)
    event = {
        "type": "model.progress",
        "name": "base",
        "detail": "downloading",
        "file": "model.bin",
        "done": 30_000_000,
    }
    show_download(progress, {**event, "total": 120_000_000, "rate": 5_000_000.0, "eta": 18.0})
    assert screen(terminal.getvalue()) == [
        "Downloading base [#####...............]  25 % 30 MB of 120 MB, 5.0 MB/s, 0:18 left"
    ]
    progress.clear()
    show_download(progress, {**event, "total": None, "rate": None, "eta": None})
    assert screen(terminal.getvalue()) == ["Downloading base ... 30 MB"]
    show_download(progress, {"type": "job.queued"})


def test_a_closed_terminal_is_ignored() -> None:
    class Gone(Terminal):
        def write(self, text: str) -> int:
            raise OSError("gone")

    progress = Progress(stream=Gone())
    progress.show("Loading", 1)
    progress.show("Loading", 2)
    progress.clear()
    assert not progress.is_shown


def test_the_width_without_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert columns(io.StringIO()) == 80
    for nonsense in ("0", "-5", "wide", "1e3", "²", "0" * 5000):
        monkeypatch.setenv("COLUMNS", nonsense)
        assert columns(io.StringIO()) == 80, nonsense


@pytest.mark.parametrize("huge", ["1000000000", "9" * 5000])
def test_an_absurd_terminal_width_is_tolerated(huge: str, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setenv("COLUMNS", huge)
    Progress(stream=terminal).show("Loading", 25)
    assert screen(terminal.getvalue()) == ["Loading [#####...............]  25 %"]
    assert columns(terminal) > 10_000
