"""The amount of memory, in and out of containers."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whisperd.hardware.memory import Memory, memory_within, read_memory

GIB = 2**30
SYSTEM = Memory(total=16 * GIB, available=12 * GIB)
STAT_2 = (
    "anon 1073741824\nfile 2147483648\ninactive_file 1073741824\nactive_file 536870912\nslab_reclaimable 0\n"
)
STAT_1 = "cache 9\ninactive_file 1\nactive_file 1\ntotal_inactive_file 1073741824\ntotal_active_file 0\n"


def within(files: dict[str, str], system: Memory = SYSTEM) -> Memory:
    return memory_within(system, files.get)


def group_2(folder: str, limit: str, usage: int | str, stat: str = "") -> dict[str, str]:
    where = f"/sys/fs/cgroup{folder}"
    return {
        f"{where}/memory.max": f"{limit}\n",
        f"{where}/memory.current": f"{usage}\n",
        f"{where}/memory.stat": stat,
    }


def group_1(folder: str, limit: int, usage: int, stat: str = "") -> dict[str, str]:
    where = f"/sys/fs/cgroup/memory{folder}"
    return {
        f"{where}/memory.limit_in_bytes": f"{limit}\n",
        f"{where}/memory.usage_in_bytes": f"{usage}\n",
        f"{where}/memory.stat": stat,
    }


def test_a_computer_without_control_groups() -> None:
    assert within({}) == SYSTEM


def test_a_container_with_version_2() -> None:
    files = {"/proc/self/cgroup": "0::/\n", **group_2("", str(4 * GIB), 3 * GIB, STAT_2)}
    assert within(files) == Memory(4 * GIB, 2 * GIB + GIB // 2)


def test_a_container_with_version_1() -> None:
    files = {
        "/proc/self/cgroup": "5:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n1:name=systemd:/docker/abc\n",
        # The container's own group is mounted, though the path names the one outside.
        **group_1("", 2 * GIB, 2 * GIB, STAT_1),
    }
    assert within(files) == Memory(2 * GIB, GIB)


def test_the_tightest_enclosing_group_applies() -> None:
    files = {
        "/proc/self/cgroup": "0::/user.slice/app.scope\n",
        **group_2("/user.slice/app.scope", "max", 0),
        **group_2("/user.slice", str(3 * GIB), GIB),
        **group_2("", str(8 * GIB), 7 * GIB + GIB // 2),
    }
    assert within(files) == Memory(3 * GIB, GIB // 2)


def test_memory_beyond_which_processes_are_stalled_does_not_count() -> None:
    """As a service with `MemoryHigh=` in its unit."""
    files = {"/proc/self/cgroup": "0::/\n", **group_2("", "max", GIB)}
    files["/sys/fs/cgroup/memory.high"] = f"{3 * GIB}\n"
    assert within(files) == Memory(3 * GIB, 2 * GIB)
    files["/sys/fs/cgroup/memory.max"] = f"{2 * GIB}\n"
    assert within(files) == Memory(2 * GIB, GIB)


def test_an_absent_limit_is_ignored() -> None:
    no_limit = 0x7FFFFFFFFFFFF000
    assert within({"/proc/self/cgroup": "4:memory:/\n", **group_1("", no_limit, GIB)}) == SYSTEM
    assert within({"/proc/self/cgroup": "0::/\n", **group_2("", "max", GIB)}) == SYSTEM
    assert within({"/proc/self/cgroup": "0::/\n", **group_2("", str(SYSTEM.total), 15 * GIB)}) == SYSTEM


def test_the_computer_may_have_less_free_than_the_group() -> None:
    files = {"/proc/self/cgroup": "0::/\n", **group_2("", str(8 * GIB), 0)}
    assert within(files, Memory(16 * GIB, GIB)) == Memory(8 * GIB, GIB)


def test_both_cgroup_versions_at_once() -> None:
    files = {"/proc/self/cgroup": "4:memory:/a\n0::/b\n", **group_1("/a", 2 * GIB, 0)}
    assert within(files) == Memory(2 * GIB, 2 * GIB)


@pytest.mark.parametrize("nonsense", ["", "max", "-1", "1e9", "²"])
def test_an_invalid_limit_is_ignored(nonsense: str) -> None:
    here = {"/proc/self/cgroup": "0::/\n"}
    assert within(here | group_2("", nonsense, "0")) == SYSTEM
    assert within(here | group_2("", "1", nonsense)) == SYSTEM
    assert within({"/proc/self/cgroup": f"0:{nonsense}\nx\n0::relative\n"}) == SYSTEM


@settings(deadline=None)
@given(
    limit=st.integers(0, 2**63),
    usage=st.integers(0, 2**63),
    cache=st.integers(0, 2**63),
    free=st.integers(0, SYSTEM.total),
)
def test_memory_is_within_the_limit_and_never_negative(limit: int, usage: int, cache: int, free: int) -> None:
    files = {"/proc/self/cgroup": "0::/\n", **group_2("", str(limit), usage, f"inactive_file {cache}\n")}
    memory = within(files, Memory(SYSTEM.total, free))
    assert memory.total == min(limit, SYSTEM.total)
    assert 0 <= memory.available <= min(free, memory.total)


@settings(deadline=None)
@given(st.text(max_size=200), st.text(max_size=200))
def test_any_text_can_be_read(membership: str, stat: str) -> None:
    assert within({"/proc/self/cgroup": membership}) == SYSTEM
    assert within({"/proc/self/cgroup": "0::/\n", **group_2("", "5", 3, stat)}).total == 5


def test_the_memory_of_this_computer() -> None:
    memory = read_memory()
    assert 0 < memory.available <= memory.total
    assert memory.total > 2**27
