"""Memory pressure: recorded kernel files are interpreted, and kernel events wake the watch."""

from __future__ import annotations

import socket
import sys
from collections.abc import Mapping

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whisperd.conditions import pressure
from whisperd.conditions.pressure import (
    GroupEvents,
    MemoryWatch,
    Pressure,
    needed_relief,
    parse_events,
    parse_pressure,
)

QUIET = (
    "some avg10=0.00 avg60=0.00 avg300=0.00 total=1584478\n"
    "full avg10=0.00 avg60=0.00 avg300=0.00 total=594764\n"
)
SHORT = (
    "some avg10=22.16 avg60=5.04 avg300=1.17 total=8261712\n"
    "full avg10=6.20 avg60=1.46 avg300=0.33 total=2270128\n"
)
SEVERE = (
    "some avg10=81.40 avg60=40.2 avg300=9.90 total=99261712\n"
    "full avg10=62.31 avg60=30.1 avg300=7.7 total=9270128\n"
)
EVENTS = "low 0\nhigh 12\nmax 3\noom 1\noom_kill 1\noom_group_kill 0\n"
NONE = GroupEvents()


def test_recorded_files() -> None:
    assert parse_pressure(QUIET) == Pressure(0.0, 0.0)
    assert parse_pressure(SHORT) == Pressure(22.16, 6.2)
    assert parse_pressure("some avg10=1.00 avg60=0.00 avg300=0.00 total=1\n") == Pressure(1.0, 0.0)
    assert parse_events(EVENTS) == GroupEvents(high=12, max=3, oom=1)
    assert parse_events("") == NONE


@given(st.text())
def test_unknown_text_is_ignored(text: str) -> None:
    assert parse_pressure(text) is None
    assert parse_events(text) == NONE


@pytest.mark.parametrize(("text", "relief"), [(QUIET, "none"), (SHORT, "idle"), (SEVERE, "default")])
def test_relief_depends_on_the_pressure(text: str, relief: str) -> None:
    assert needed_relief(parse_pressure(text), NONE, NONE) == relief


def test_control_group_limits_require_relief() -> None:
    before = GroupEvents(high=3, max=1, oom=0)
    assert needed_relief(None, before, before) == "none"
    assert needed_relief(None, before, GroupEvents(high=4, max=1)) == "idle"
    assert needed_relief(None, before, GroupEvents(high=4, max=2)) == "default"
    assert needed_relief(None, before, GroupEvents(high=3, max=1, oom=1)) == "default"


def test_a_kernel_event_alone_requires_relief() -> None:
    assert needed_relief(parse_pressure(QUIET), NONE, NONE, is_woken=True) == "idle"


def test_more_pressure_never_requires_less_relief() -> None:
    order = ("none", "idle", "default")
    for percent in range(0, 101, 5):
        less = needed_relief(Pressure(percent, percent / 2), NONE, NONE)
        more = needed_relief(Pressure(percent + 5, percent / 2 + 2.5), NONE, NONE)
        assert order.index(less) <= order.index(more)


class Computer:
    """Recorded files, which a test may change."""

    def __init__(self, files: Mapping[str, str]) -> None:
        self.files = dict(files)

    def read(self, path: str) -> str | None:
        return self.files.get(path)


GROUP = "/sys/fs/cgroup/user.slice/app.slice"
IN_GROUP = {
    "/proc/self/cgroup": "0::/user.slice/app.slice\n",
    f"{GROUP}/memory.events": EVENTS,
    f"{GROUP}/memory.pressure": QUIET,
    pressure.SYSTEM: QUIET,
}


def test_the_watched_file_is_chosen_by_environment_and_group() -> None:
    read = Computer(IN_GROUP).read
    assert MemoryWatch(read, {})._file == f"{GROUP}/memory.pressure"
    named = {"MEMORY_PRESSURE_WATCH": pressure.SYSTEM}
    assert MemoryWatch(read, named)._file == pressure.SYSTEM
    assert not MemoryWatch(read, {"MEMORY_PRESSURE_WATCH": "/dev/null"}).is_possible
    assert MemoryWatch(Computer({pressure.SYSTEM: QUIET}).read, {})._file == pressure.SYSTEM
    assert not MemoryWatch(Computer({}).read, {}).is_possible


@pytest.mark.anyio
async def test_the_files_are_polled() -> None:
    computer = Computer(IN_GROUP)
    watch = MemoryWatch(computer.read, {}, poll_s=0.001)
    said: list[str] = []

    async def hear() -> None:
        said.append(await watch.wait())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(hear)
        await anyio.sleep(0.01)
        assert said == []
        computer.files[f"{GROUP}/memory.pressure"] = SEVERE
    assert said == ["default"]
    computer.files[f"{GROUP}/memory.pressure"] = QUIET
    computer.files[f"{GROUP}/memory.events"] = EVENTS.replace("high 12", "high 13")
    assert await watch.wait() == "idle"


@pytest.mark.anyio
@pytest.mark.skipif(sys.platform != "linux", reason="epoll is Linux's")
async def test_a_priority_event_wakes_the_loop() -> None:
    """As the pressure file of the kernel causes it: out-of-band data is a priority event, too."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        here = socket.create_connection(server.getsockname())
        there, _ = server.accept()
    with here, there:
        import select

        with select.epoll() as trigger:
            trigger.register(here.fileno(), select.EPOLLPRI)
            assert not await pressure._is_woken(trigger, 0.001)
            there.send(b"!", socket.MSG_OOB)
            assert await pressure._is_woken(trigger, 60.0)


@pytest.mark.anyio
async def test_the_pressure_file_of_this_computer() -> None:
    """Whatever this kernel supports, registering a trigger works or does no harm."""
    watch = MemoryWatch()
    with anyio.move_on_after(0.05), pressure._opened_trigger(watch._file) as trigger:
        await pressure._is_woken(trigger, 0.01)
