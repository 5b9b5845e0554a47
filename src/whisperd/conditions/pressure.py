"""Memory pressure: the kernel's pressure stall information, and the memory events of the control group.

The kernel measures how long tasks waited because memory was short ("some": at least one of them, "full": all
at once), and can notify a process when they waited for long within a short time. See
Documentation/accounting/psi.rst and Documentation/admin-guide/cgroup-v2.rst of Linux.
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
"""Notify when some task waited for 200 ms within 2 s. Unprivileged, the window must be a multiple of 2 s."""
HIGH_SOME_PERCENT: Final = 10.0
SEVERE_FULL_PERCENT: Final = 10.0
"""The percentage of the last ten seconds in which no task could run because memory was short."""

Relief = Literal["none", "idle", "default"]
"""What to release: nothing, idle runtimes, or the default runtime as well if it is not in use."""


@dataclass(frozen=True)
class Pressure:
    """The percentages of the last ten seconds for which tasks waited for memory."""

    some_percent: float = 0.0
    full_percent: float = 0.0


@dataclass(frozen=True)
class GroupEvents:
    """How often a control group exceeded `memory.high`, reached `memory.max`, and ran out of memory at it."""

    high: int = 0
    max: int = 0
    oom: int = 0


def parse_pressure(text: str) -> Pressure | None:
    """Parse the kernel's two lines; None for anything else."""
    found: dict[str, float] = {}
    for line in text.splitlines():
        if match := re.match(r"(some|full) avg10=(\d+(?:\.\d+)?) ", line):
            found[match[1]] = float(match[2])
    if "some" not in found:
        return None
    return Pressure(found["some"], found.get("full", 0.0))


def parse_events(text: str) -> GroupEvents:
    """Parse the lines of `memory.events`."""
    counts = dict(re.findall(r"^(\w+) (\d{1,19})$", text, re.MULTILINE))
    return GroupEvents(*(int(counts.get(name, 0)) for name in ("high", "max", "oom")))


def needed_relief(
    pressure: Pressure | None, before: GroupEvents, now: GroupEvents, *, is_woken: bool = False
) -> Relief:
    """Decide what to release. `is_woken`: the kernel has just notified us, and the averages lag behind."""
    if now.max > before.max or now.oom > before.oom:
        return "default"
    if pressure is not None and pressure.full_percent >= SEVERE_FULL_PERCENT:
        return "default"
    is_high = pressure is not None and pressure.some_percent >= HIGH_SOME_PERCENT
    return "idle" if is_woken or is_high or now.high > before.high else "none"


class MemoryWatch:
    """Waits until memory is short."""

    def __init__(
        self, read: ReadFile = read_file, environment: Mapping[str, str] = os.environ, poll_s: float = 10.0
    ) -> None:
        self._read = read
        self._poll_s = poll_s
        named = environment.get("MEMORY_PRESSURE_WATCH")
        is_wanted = named != "/dev/null"  # systemd's way to disable it
        self._group = _group_with_events(read) if is_wanted else None
        self._file = _pressure_file(read, named, self._group) if is_wanted else None
        self._events = self._read_events()

    @property
    def is_possible(self) -> bool:
        """Whether this kernel reports memory pressure."""
        return self._file is not None or self._group is not None

    async def wait(self) -> Relief:
        """Wait until something should be released, and return what."""
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
    """Open an epoll that becomes readable when the kernel reports waiting tasks; None if impossible."""
    with ExitStack() as stack:
        epoll = None
        if path is not None and sys.platform == "linux":
            with suppress(OSError):  # an old kernel, or no permission: poll instead
                descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
                stack.callback(os.close, descriptor)
                os.write(descriptor, TRIGGER)
                # The event loop has no priority events; our own epoll becomes readable when there is one.
                opened = stack.enter_context(select.epoll())
                opened.register(descriptor, select.EPOLLPRI)
                epoll = opened
        yield epoll


async def _is_woken(trigger: select.epoll | None, at_most_s: float) -> bool:
    """Wait; return whether the kernel woke us before the time was up."""
    with anyio.move_on_after(at_most_s):
        if trigger is None:
            await anyio.sleep_forever()
        else:
            await anyio.wait_readable(trigger.fileno())
            return bool(trigger.poll(0))
    return False


def _group_with_events(read: ReadFile) -> str | None:
    """Return the nearest control group that counts its memory events."""
    folders = (folder for version, folder in group_folders(read, "memory") if version == 2)
    return next((folder for folder in folders if read(f"{folder}/memory.events") is not None), None)


def _pressure_file(read: ReadFile, named: str | None, group: str | None) -> str | None:
    """Return the pressure file of the service manager, else of our control group, else of the computer."""
    candidates = [named, f"{group}/memory.pressure" if group else None, SYSTEM]
    return next((one for one in candidates if one and parse_pressure(read(one) or "")), None)
