"""Tiny wheels, a local index, and a store in the test's own folder."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest
from index_server import IndexServer, serve_index
from store_checks import ignore
from wheel_maker import lock_wheels, make_wheel

from whisperd.natives import Bundle, InstalledBundle, NativeStore


def make_wheels(folder: Path) -> Path:
    folder.mkdir()
    noise = random.Random(0).randbytes(600_000)
    make_wheel(folder, "engine", "2.1", files={"core.py": b"ANSWER = 42\n", "lib/native.bin": noise})
    make_wheel(folder, "engine-parts", files={"data.txt": b"parts\n"})
    return folder


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    """A folder with wheels of `engine` 2.1 and `engine-parts` 1.0."""
    return make_wheels(tmp_path / "wheels")


@pytest.fixture
def bundle(wheels: Path) -> Bundle:
    """The bundle `engine-cpu`, version 2.1."""
    return lock_wheels("engine-cpu", *sorted(wheels.glob("*.whl")))


@contextmanager
def only_index(wheels: Path, patch: pytest.MonkeyPatch) -> Iterator[IndexServer]:
    for variable in [name for name in os.environ if name.startswith("PIP_")]:
        patch.delenv(variable)
    with serve_index(wheels) as server:
        patch.setenv("PIP_CONFIG_FILE", os.devnull)
        patch.setenv("PIP_INDEX_URL", server.url)
        patch.setenv("PIP_NO_CACHE_DIR", "1")
        patch.setenv("PIP_RETRIES", "0")
        patch.setenv("PIP_DEFAULT_TIMEOUT", "600")  # a gate may be closed for long
        patch.setenv("PIP_RESUME_RETRIES", "1")
        yield server


@pytest.fixture
def index(wheels: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[IndexServer]:
    """pip's only index, which serves the folder of wheels on this computer."""
    with only_index(wheels, monkeypatch) as server:
        yield server


@pytest.fixture(scope="session")
def installed_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("installed")
    wheels = make_wheels(folder / "wheels")
    bundle = lock_wheels("engine-cpu", *sorted(wheels.glob("*.whl")))
    with pytest.MonkeyPatch.context() as patch, only_index(wheels, patch):
        anyio.run(NativeStore(folder / "native").install, bundle, ignore)
    return folder / "native"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "native"


@pytest.fixture
def store(root: Path) -> NativeStore:
    return NativeStore(root)


@pytest.fixture
def installed(installed_once: Path, root: Path, store: NativeStore, bundle: Bundle) -> InstalledBundle:
    """The installed bundle: a copy, because pip is slow."""
    shutil.copytree(installed_once, root, symlinks=True)
    found = store.find(bundle)
    assert found is not None
    return found
