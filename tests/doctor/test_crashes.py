"""Finding crashes in the log."""

from __future__ import annotations

import datetime

from hypothesis import given
from hypothesis import strategies as st

from whisperd.doctor.crashes import crashes_in

NOW = datetime.datetime(2026, 3, 10, 12, 0, 0)


def line(message: str, time: str = "2026-03-09 08:00:00", level: str = "ERROR") -> str:
    return f"{time},123 {level} whisperd.runtimes.loaded: {message}\n"


def begun(socket: str = "/run/d.sock") -> str:
    return line(f"whisperd 0.1.0 listens on {socket}, process 7", level="INFO")


ENDED = line("whisperd has ended", level="INFO")


def found(*lines: str) -> list[tuple[str, str]]:
    return [(crash.part, crash.how) for crash in crashes_in(lines, NOW)]


def test_crashes_are_classified() -> None:
    assert found(
        line("the worker of my (old) model died (signal SIGSEGV)"),
        "  a line of what the worker said (signal SIGABRT)\n",
        line("a decoder ended unexpectedly (exit status 1); Traceback (most recent call last)"),
        line("job 12 failed unexpectedly"),
        line("runtime a failed: x"),
    ) == [
        ("worker", "signal SIGSEGV"),
        ("decoder", "exit status 1"),
        ("mistake", "unexpectedly"),
    ]


def test_a_normal_shutdown_is_not_a_crash() -> None:
    assert found(begun(), ENDED, begun(), ENDED, begun()) == []


def test_a_killed_daemon_is_a_crash() -> None:
    ((part, how),) = found(begun(), begun(), ENDED)
    assert part == "daemon" and "no reason logged" in how


def test_the_last_words_of_a_crashed_daemon() -> None:
    fatal = (
        "Fatal Python error: Segmentation fault\n",
        "\n",
        "Current thread 0x1 (most recent call first):\n",
    )
    assert found(begun(), *fatal, begun(), ENDED) == [("daemon", "Segmentation fault")]
    queued = line("job 12 queued: base, bulk", level="INFO")
    assert found(begun(), *fatal, queued, begun(), begun()) == [
        ("daemon", "Segmentation fault"),
        ("daemon", "no reason logged: it was killed, or the computer went down"),
    ]


def test_the_last_words_of_a_worker_are_not_those_of_the_daemon() -> None:
    fatal = "Fatal Python error: Aborted\n"
    _, (part, how) = found(begun(), line("the worker of a died (signal SIGABRT)"), fatal, begun())
    assert part == "daemon" and "no reason logged" in how


def test_a_failed_daemon_is_reported_once() -> None:
    lines = (begun(), line("whisperd ends because of an internal error"), begun(), ENDED)
    assert found(*lines) == [("daemon", "an internal error")]


def test_a_daemon_that_returns_on_another_socket() -> None:
    assert [part for part, _ in found(begun("/a"), begun("/b"), ENDED)] == ["daemon"]
    assert found(begun("/a"), ENDED, begun("/b"), ENDED) == []


def test_old_crashes_are_omitted() -> None:
    death = "the worker of x died (signal SIGKILL)"
    assert found(line(death, "2026-03-03 11:59:59")) == []
    assert found(line(death, "2026-03-03 12:00:00")) == [("worker", "signal SIGKILL")]


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=80)))
def test_arbitrary_lines_are_not_crashes(lines: list[str]) -> None:
    assert crashes_in(lines, NOW) == ()
