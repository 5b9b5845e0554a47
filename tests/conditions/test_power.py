"""Battery or mains power, detected from the recorded files of real computers."""

from __future__ import annotations

from pathlib import Path

import pytest

from whisperd.conditions.power import Supply, is_on_battery, read_on_battery, read_supplies

BATTERY = Supply("Battery", status="Discharging")
MOUSE = Supply("Battery", status="Discharging", scope="Device")


@pytest.mark.parametrize(
    ("supplies", "expected"),
    [
        ([], None),  # a desktop
        ([Supply("Mains", online=True)], None),
        ([MOUSE], None),
        ([BATTERY, Supply("Mains", online=False)], True),
        ([BATTERY], True),
        ([Supply("Battery", status="Charging"), Supply("Mains", online=True)], False),
        ([Supply("Battery", status="Not charging"), Supply("Mains", online=True)], False),
        ([BATTERY, Supply("Mains", online=False), Supply("USB", online=True)], False),  # charged by USB-C
        ([BATTERY, Supply("Mains", online=True)], False),  # too weak a charger is still mains power
        ([Supply("Battery", status="Full"), Supply("Mains", online=False)], False),
        ([Supply("Battery", status="Unknown")], False),
        ([MOUSE, Supply("Battery", status="Charging"), Supply("Mains", online=True)], False),
        ([Supply("UPS", status="Discharging"), Supply("Mains", online=False)], True),
    ],
)
def test_recorded_computers(supplies: list[Supply], expected: bool | None) -> None:
    assert is_on_battery(supplies) is expected


def test_power_supplies_are_read_from_sysfs(tmp_path: Path) -> None:
    recorded = {
        "AC/type": "Mains\n", "AC/online": "0\n",
        "BAT0/type": "Battery\n", "BAT0/status": "Discharging\n",
        "hidpp_battery_0/type": "Battery\n", "hidpp_battery_0/status": "Discharging\n",
        "hidpp_battery_0/scope": "Device\n",
    }  # fmt: skip
    for name, text in recorded.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert read_supplies(tmp_path) == [Supply("Mains", online=False), BATTERY, MOUSE]
    assert is_on_battery(read_supplies(tmp_path)) is True
    assert read_supplies(tmp_path / "nothing") == []


def test_the_power_state_of_this_computer() -> None:
    assert read_on_battery() in (True, False, None)
