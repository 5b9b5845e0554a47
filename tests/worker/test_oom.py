"""The counts of the out-of-memory killer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whisperd.worker.oom import count_kills, parse_kills

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
    count_kills({"/proc/self/cgroup": text}.get)


@pytest.mark.parametrize(
    ("membership", "file"),
    [
        ("0::/user.slice/app.service\n", "user.slice/app.service/memory.events.local"),
        ("0::/outside/of/the/container\n", "memory.events.local"),
        ("9:name=systemd:/\n4:cpu,memory:/a/b:c\n0::/\n", "memory/a/b:c/memory.oom_control"),
    ],
)
def test_the_groups_count_precedes_the_computers(membership: str, file: str) -> None:
    files = {"/proc/vmstat": VMSTAT, "/proc/self/cgroup": membership}
    assert count_kills(files.get) == 7
    files[f"/sys/fs/cgroup/{file}"] = CONTROL
    assert count_kills(files.get) == 5
    assert count_kills({}.get) is None


def test_kills_in_child_groups_are_not_counted() -> None:
    files = {"/proc/self/cgroup": "0::/service\n", "/sys/fs/cgroup/service/memory.events": EVENTS}
    assert count_kills(files.get) == 2
    files["/sys/fs/cgroup/service/memory.events.local"] = EVENTS.replace("oom_kill 2", "oom_kill 1")
    assert count_kills(files.get) == 1
