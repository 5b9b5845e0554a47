"""The counts of the out-of-memory killer."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whisperd.worker.oom import control_group_files, count_kills, parse_kills

EVENTS = "low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 0\n"  # memory.events
CONTROL = "oom_kill_disable 0\nunder_oom 0\noom_kill 5\n"  # memory.oom_control
VMSTAT = "nr_free_pages 81\noom_kill 7\nballoon_inflate 0\n"  # /proc/vmstat


@pytest.mark.parametrize(
    ("text", "kills"),
    [(EVENTS, 2), (CONTROL, 5), (VMSTAT, 7), ("", None), ("oom_kill_disable 0\nunder_oom 0\n", None)],
)
def test_the_count_is_read(text: str, kills: int | None) -> None:
    assert parse_kills(text) == kills


@given(st.text())
def test_any_text_has_a_count_or_none(text: str) -> None:
    parse_kills(text)
    control_group_files(text)


@pytest.mark.parametrize(
    ("membership", "first"),
    [
        ("0::/user.slice/app.service\n", "user.slice/app.service/memory.events.local"),
        ("0::/\n", "memory.events.local"),
        ("9:name=systemd:/\n4:cpu,memory:/a/b:c\n0::/\n", "memory/a/b:c/memory.oom_control"),
    ],
)
def test_the_group_of_a_process(membership: str, first: str) -> None:
    files = control_group_files(membership)
    assert files[0] == first
    assert not any(file.startswith("/") for file in files)


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def test_the_group_counts_before_the_computer(tmp_path: Path) -> None:
    proc, groups = tmp_path / "proc", tmp_path / "groups"
    assert count_kills(proc, groups) is None
    write(proc / "vmstat", VMSTAT)
    write(proc / "self" / "cgroup", "0::/service\n")
    assert count_kills(proc, groups) == 7
    write(groups / "service" / "memory.events", EVENTS)
    assert count_kills(proc, groups) == 2
    write(groups / "service" / "memory.events.local", EVENTS.replace("oom_kill 2", "oom_kill 1"))
    assert count_kills(proc, groups) == 1, "the other one was killed in a group of its own"
