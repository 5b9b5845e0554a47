"""Whether the computer runs on battery: from /sys/class/power_supply on Linux, elsewhere from psutil."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

__all__ = ["Supply", "is_on_battery", "read_on_battery", "read_supplies"]

FOLDER: Final = Path("/sys/class/power_supply")


@dataclass(frozen=True)
class Supply:
    """A battery or another power supply, as the kernel describes it."""

    type: str
    """`Battery`, `Mains`, `USB`, `UPS`, …"""
    status: str | None = None
    """For a battery: `Charging`, `Discharging`, `Full`, `Not charging`, `Unknown`."""
    online: bool | None = None
    """For any other supply: whether it delivers power."""
    scope: str | None = None
    """`Device` for the battery of a peripheral such as a mouse."""


def is_on_battery(supplies: Iterable[Supply]) -> bool | None:
    """Whether the computer runs on battery; None if it has no battery."""
    ours = [one for one in supplies if one.scope != "Device"]
    batteries = [one for one in ours if one.type in ("Battery", "UPS")]
    if not batteries:
        return None
    if any(one.online for one in ours if one.type not in ("Battery", "UPS")):
        return False
    return any(one.status == "Discharging" for one in batteries)


def read_on_battery() -> bool | None:
    """Whether this computer runs on battery; None if it has none or does not report it."""
    platform: str = sys.platform
    if platform == "linux":
        return is_on_battery(read_supplies(FOLDER))
    with suppress(Exception):  # psutil raises all kinds of errors for odd batteries
        battery = psutil.sensors_battery()
        if battery is not None and battery.power_plugged is not None:
            return not battery.power_plugged
    return None


def read_supplies(folder: Path) -> list[Supply]:
    """Read the supplies that the kernel reports, from a few small files."""
    try:
        found = sorted(folder.iterdir())
    except OSError:
        return []
    return [
        Supply(
            type=_read(one / "type") or "",
            status=_read(one / "status"),
            online=None if (online := _read(one / "online")) is None else online != "0",
            scope=_read(one / "scope"),
        )
        for one in found
    ]


def _read(path: Path) -> str | None:
    try:
        return path.read_text("utf-8", errors="replace").strip()
    except OSError:
        return None
