"""Exit statuses are as documented in docs/interface.md."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from whisperd.cli.exit_status import CODES, UNREACHABLE, CannotConnect, is_unreachable, of_several, status_of
from whisperd.rpc.errors import WhisperdError


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("audio.corrupt", 1),
        ("a.code_of_tomorrow", 1),
        ("usage.unknown_command", 2),
        ("rpc.invalid_params", 2),
        ("language.unknown", 2),
        ("daemon.connection_lost", 3),
        ("daemon.foreign", 3),
        ("daemon.unreachable", 3),
        ("protocol.unsupported", 3),
        ("audio.not_found", 4),
        ("job.unknown", 4),
        ("model.unknown", 4),
        ("model.in_use", 5),
        ("runtime.unknown", 4),
        ("profile.unknown", 4),
        ("runtime.is_default", 5),
        ("runtime.is_protected", 5),
        ("runtime.in_use", 5),
        ("runtime.disabled", 5),
        ("runtime.stale", 5),
        ("profile.stale", 5),
        ("runtime.exists", 5),
        ("profile.exists", 5),
        ("runtime.invalid", 2),
        ("profile.invalid", 2),
        ("runtime.cancelled", 1),
        ("memory.gpu_not_enough", 1),
        ("cuda.not_available", 1),
        ("output.exists", 5),
    ],
)
def test_an_error_has_its_status(code: str, status: int) -> None:
    error = WhisperdError(code, "", "")
    assert status_of(error) == status
    assert is_unreachable(error) == (status == 3)


def test_any_failure_to_connect_is_status_3() -> None:
    assert status_of(CannotConnect("config.invalid", "", "")) == 3
    assert status_of(WhisperdError("config.invalid", "", "")) == 1


@pytest.mark.parametrize(
    ("statuses", "status"),
    [([0], 0), ([4], 4), ([0, 0], 0), ([0, 4], 1), ([4, 4], 1), ([0, 3], 3), ([3, 0], 3)],
)
def test_one_failure_of_several_is_a_failure(statuses: list[int], status: int) -> None:
    assert of_several(statuses) == status


def documented() -> dict[str, int]:
    """Return every code in the tables of the page, with its exit status."""
    page = (Path(__file__).parents[2] / "docs" / "interface.md").read_text("utf-8")
    rows = re.findall(r"^\| (.*`[a-z]+\.[a-z_]+`.*) \| (\d) \|$", page, re.MULTILINE)
    return {
        code: int(status)
        for row, status in rows
        for code in re.findall(r"`((?!data\.)[a-z]+\.[a-z_]+)`", row)
    }


def test_documented_statuses_are_correct() -> None:
    wrong = {}
    for code, status in documented().items():
        error = CannotConnect if status == UNREACHABLE else WhisperdError
        if status_of(error(code, "", "")) != status:
            wrong[code] = status
    assert not wrong


def test_every_code_with_its_own_status_is_documented() -> None:
    assert {code for codes in CODES.values() for code in codes} - documented().keys() == set()
