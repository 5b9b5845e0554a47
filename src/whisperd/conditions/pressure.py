"""Whether memory is short: the kernel's pressure stall information, and the events of the control group.

The kernel counts the time for which tasks waited because memory was short ("some": at least one of them,
"full": all at once), and wakes whoever asked for it when it was much within a moment.
See Documentation/accounting/psi.rst and Documentation/admin-guide/cgroup-v2.rst of Linux.
"""

from __future__ import annotations

import os
import re
import select
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Final, Literal

import anyio

from whisperd.hardware import ReadFile, group_folders, read_file

__all__ = [
    "GroupEvents",
    "MemoryWatch",
    "Pressure",
    "Relief",
    "needed_relief",
    "parse_events",
    "parse_pressure",
]

SYSTEM: Final = "/proc/pressure/memory"
TRIGGER: Final = b"some 200000 2000000\0"
"""Woken when some task waited for 200 ms within 2 s. Without privileges, only multiples of 2 s can be."""
HIGH_SOME_PERCENT: Final = 10.0
SEVERE_FULL_PERCENT: Final = 10.0
"""Of the last ten seconds, nothing could be done for so much because memory was short."""

Relief = Literal["none", "idle", "default"]
"""What is to be given back: nothing, what is idle, or the default runtime as well if nobody uses it."""


@dataclass(frozen=True)
class Pressure:
    """Of the last ten seconds, the share in percent for which tasks waited for memory."""

    some_percent: float = 0.0
    full_percent: float = 0.0


@dataclass(frozen=True)
class GroupEvents:
    """How often a control group has hit its limits: `memory.high`, `memory.max`, and killed for it."""

    high: int = 0
    max: int = 0
    oom: int = 0


def parse_pressure(text: str) -> Pressure | None:
    """The kernel's two lines; None for anything else."""
    found: dict[str, float] = {}
    for line in text.splitlines():
        if match := re.match(r"(some|full) avg10=(\d+(?:\.\d+)?) ", line):
            found[match[1]] = float(match[2])
    if "some" not in found:
        return None
    return Pressure(found["some"], found.get("full", 0.0))


def parse_events(text: str) -> GroupEvents:
    """The lines of `memory.events`."""
    counts = dict(re.findall(r"^(\w+) (\d{1,19})$", text, re.MULTILINE))
    return GroupEvents(*(int(counts.get(name, 0)) for name in ("high", "max", "oom")))


def needed_relief(
    pressure: Pressure | None, before: GroupEvents, now: GroupEvents, *, is_woken: bool = False
) -> Relief:
    """What is to be done. `is_woken`: the kernel has just said that tasks wait; the averages come later."""
    if now.max > before.max or now.oom > before.oom:
        return "default"
    if pressure is not None and pressure.full_percent >= SEVERE_FULL_PERCENT:
        return "default"
    is_high = pressure is not None and pressure.some_percent >= HIGH_SOME_PERCENT
    return "idle" if is_woken or is_high or now.high > before.high else "none"


class MemoryWatch:
    """Says when memory is short."""

    def __init__(
        self, read: ReadFile = read_file, environment: Mapping[str, str] = os.environ, poll_s: float = 10.0
    ) -> None:
        self._read = read
        self._poll_s = poll_s
        named = environment.get("MEMORY_PRESSURE_WATCH")
        is_wanted = named != "/dev/null"  # systemd's word for: do not
        self._group = _group_with_events(read) if is_wanted else None
        self._file = _pressure_file(read, named, self._group) if is_wanted else None
        self._events = self._read_events()

    @property
    def is_possible(self) -> bool:
        """Whether this kernel tells."""
        return self._file is not None or self._group is not None

    async def wait(self) -> Relief:
        """Wait until something is to be given back, and say what."""
        with _opened_trigger(self._file) as trigger:
            while True:
                is_woken = await _is_woken(trigger, self._poll_s)
                before, self._events = self._events, self._read_events()
                pressure = parse_pressure(self._read(self._file) or "") if self._file else None
                relief = needed_relief(pressure, before, self._events, is_woken=is_woken)
                if relief != "none":
                    return relief

    def _read_events(self) -> GroupEvents:
        return (
            parse_events(self._read(f"{self._group}/memory.events") or "") if self._group else GroupEvents()
        )


@contextmanager
def _opened_trigger(path: str | None) -> Iterator[select.epoll | None]:
    """What is readable when the kernel says that tasks wait; None where that cannot be had."""
    with ExitStack() as stack:
        epoll = None
        if path is not None and sys.platform == "linux":
            with suppress(OSError):  # an old kernel, or no right to ask: we look now and then
                descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
                stack.callback(os.close, descriptor)
                os.write(descriptor, TRIGGER)
                # The event loop knows no priority events; an epoll of our own is readable when there is one.
                opened = stack.enter_context(select.epoll())
                opened.register(descriptor, select.EPOLLPRI)
                epoll = opened
        yield epoll


async def _is_woken(trigger: select.epoll | None, at_most_s: float) -> bool:
    """Wait; whether the kernel woke us, and not the time."""
    with anyio.move_on_after(at_most_s):
        if trigger is None:
            await anyio.sleep_forever()
        else:
            await anyio.wait_readable(trigger.fileno())
            return bool(trigger.poll(0))
    return False


def _group_with_events(read: ReadFile) -> str | None:
    """The nearest control group that counts what its limits did."""
    folders = (folder for version, folder in group_folders(read, "memory") if version == 2)
    return next((folder for folder in folders if read(f"{folder}/memory.events") is not None), None)


def _pressure_file(read: ReadFile, named: str | None, group: str | None) -> str | None:
    """What to look at: what the service manager names, else our group, else the whole computer."""
    candidates = [named, f"{group}/memory.pressure" if group else None, SYSTEM]
    return next((one for one in candidates if one and parse_pressure(read(one) or "")), None)
