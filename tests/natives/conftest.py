"""Tiny wheels, a local index, and a store in a folder of the test's own."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from index_server import IndexServer, serve_index
from wheel_maker import lock_wheels, make_wheel

from whisperd.natives import Bundle, NativeStore


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    """A folder with wheels of `engine` 2.1 and `engine-parts` 1.0."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    noise = random.Random(0).randbytes(600_000)
    make_wheel(folder, "engine", "2.1", files={"core.py": b"ANSWER = 42\n", "lib/native.bin": noise})
    make_wheel(folder, "engine-parts", files={"data.txt": b"parts\n"})
    return folder


@pytest.fixture
def bundle(wheels: Path) -> Bundle:
    """The bundle `engine-cpu`, version 2.1."""
    return lock_wheels("engine-cpu", *sorted(wheels.glob("*.whl")))


@pytest.fixture
def index(wheels: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[IndexServer]:
    """pip's only index: the folder of wheels, served on this computer."""
    for variable in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(variable)
    with serve_index(wheels) as server:
        monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
        monkeypatch.setenv("PIP_INDEX_URL", server.url)
        monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
        monkeypatch.setenv("PIP_RETRIES", "0")
        monkeypatch.setenv("PIP_DEFAULT_TIMEOUT", "600")  # a gate may be closed for long
        monkeypatch.setenv("PIP_RESUME_RETRIES", "1")
        yield server


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "native"


@pytest.fixture
def store(root: Path) -> NativeStore:
    return NativeStore(root)
