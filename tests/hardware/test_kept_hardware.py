"""What was found of this computer, kept for the next daemon."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from recorded_computers import computer
from whisperd.hardware import Gpus, Hardware, KeptHardware
from whisperd.hardware.kept import surroundings

FOUND = computer("nvidia_cuda12")


def kept(folder: Path, now_s: float = 0.0, key: str | None = "same") -> KeptHardware:
    return KeptHardware(folder / "hardware.json", now_s=lambda: now_s, surroundings=lambda: key)


def test_what_was_found_is_known_to_the_next_daemon(tmp_path: Path) -> None:
    kept(tmp_path, 100.0).keep(FOUND)
    recalled = kept(tmp_path, 107.0).recall()
    assert recalled is not None
    assert recalled.age_s == 7.0
    assert recalled.hardware.gpus == Gpus(), "what is free of their memory changes"
    for fact in ("system", "processor", "memory", "cuda_libraries", "blas", "tools"):
        assert getattr(recalled.hardware, fact) == getattr(FOUND, fact)


def test_it_is_nobody_elses_to_read(tmp_path: Path) -> None:
    kept(tmp_path).keep(FOUND)
    (file,) = tmp_path.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_nothing_was_found_yet(tmp_path: Path) -> None:
    assert kept(tmp_path).recall() is None


@pytest.mark.parametrize(("key", "now_s"), [("other", 100.0), (None, 100.0), ("same", 99.0)])
def test_what_may_have_changed_since_is_not_recalled(tmp_path: Path, key: str | None, now_s: float) -> None:
    kept(tmp_path, 100.0).keep(FOUND)
    assert kept(tmp_path, now_s, key).recall() is None


@pytest.mark.parametrize("content", ["", "{", "[]", '{"surroundings": "same", "found_s": 0, "hardware": 7}'])
def test_a_damaged_file_is_as_good_as_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "hardware.json").write_text(content)
    assert kept(tmp_path).recall() is None
    kept(tmp_path).keep(FOUND)
    assert kept(tmp_path).recall() is not None


@pytest.mark.parametrize("key", ["same", None])
def test_what_could_not_all_be_found_or_placed_is_not_kept(tmp_path: Path, key: str | None) -> None:
    kept(tmp_path, key=key).keep(FOUND if key is None else Hardware(unknown={"blas": "It hangs."}))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_to_does_no_harm(tmp_path: Path) -> None:
    kept(tmp_path / "missing").keep(FOUND)
    assert kept(tmp_path / "missing").recall() is None


def test_the_surroundings_are_another_boot_or_environment() -> None:
    usual = surroundings({"PATH": "/usr/bin"}, "boot 1")
    assert usual == surroundings({"PATH": "/usr/bin"}, "boot 1\n") is not None
    assert usual == surroundings({"PATH": "/usr/bin", "WATCHDOG_PID": "7", "INVOCATION_ID": "1"}, "boot 1")
    assert usual != surroundings({"PATH": "/usr/bin", "OPENBLAS_PATH": "/opt"}, "boot 1")
    assert usual != surroundings({"PATH": "/usr/bin"}, "boot 2")
