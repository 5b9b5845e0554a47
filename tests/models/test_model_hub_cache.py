"""The hub cache that other programs filled: used in place, after verification."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hub_server import Hub
from toy_models import REPO, catalogue_of, content, tiny_files, toy_entry

from whisperd.models import ModelStore, storage
from whisperd.models.hashing import Digests, hash_file
from whisperd.models.sources import HubCacheSource, HubSource
from whisperd.rpc.errors import WhisperdError

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.slow,  # each download is a process that imports the library
    pytest.mark.skipif(os.name == "nt", reason="needs symbolic links"),
]

MakeStore = Callable[..., ModelStore]

DOWNLOAD = """
import sys
from huggingface_hub import hf_hub_download
for name in sys.argv[2:]:
    hf_hub_download(sys.argv[1], name)
"""


@pytest.fixture
def cached(hub: Hub, files: dict[str, bytes], tmp_path: Path) -> Path:
    """The `model.bin` in the cache after another program has downloaded a model."""
    hub.add(REPO, files | {"README.md": b"# Model"})
    command = [sys.executable, "-c", DOWNLOAD, REPO, *files, "README.md"]
    subprocess.run(command, check=True, capture_output=True)
    hub.requests.clear()
    return next((tmp_path / "hf" / "hub").glob("models--*/snapshots/*/model.bin"))


async def test_files_in_the_cache_are_linked_not_copied(
    hub: Hub, cached: Path, make_store: MakeStore, files: dict[str, bytes]
) -> None:
    store = make_store(sources=[HubCacheSource()], offline=True)
    installed = await store.pull(REPO)
    assert content(installed.path) == files
    assert (installed.source, installed.revision) == ("the hub cache", cached.parent.name)
    assert (Path(installed.path) / "model.bin").stat().st_ino == cached.stat().st_ino
    assert hub.requests == []
    cached.resolve().unlink()  # the other program may clean up its cache: the store's hard link remains
    assert await store.find(REPO) == installed


async def test_a_cache_on_another_disk_is_linked_symbolically(
    cached: Path, make_store: MakeStore, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    store = make_store(sources=[HubCacheSource()])
    installed = await store.pull(REPO)
    assert content(installed.path) == files
    assert (Path(installed.path) / "model.bin").resolve() == cached.resolve()
    cached.resolve().unlink()
    assert await store.find(REPO) is None


async def test_removing_the_model_leaves_the_cache(
    cached: Path, make_store: MakeStore, files: dict[str, bytes]
) -> None:
    store = make_store(sources=[HubCacheSource()])
    await store.pull(REPO)
    await store.remove(REPO)
    assert content(cached.parent) == files | {"README.md": b"# Model"}


async def test_a_damaged_cache_is_left_alone_and_the_hub_is_used(
    hub: Hub, cached: Path, make_store: MakeStore, files: dict[str, bytes]
) -> None:
    damaged = b"\0" * len(files["model.bin"])
    cached.resolve().write_bytes(damaged)
    with pytest.raises(WhisperdError) as caught:
        await make_store(sources=[HubCacheSource()]).pull(REPO)
    assert caught.value.code == "model.hash_mismatch"
    installed = await make_store(sources=[HubCacheSource(), HubSource()]).pull(REPO)
    assert content(installed.path) == files
    assert cached.read_bytes() == damaged
    assert hub.served["model.bin"] == 2 * len(files["model.bin"])


async def test_a_cache_on_a_failing_disk_is_skipped(
    cached: Path, make_store: MakeStore, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path, **options: Any) -> Digests:
        if path.samefile(cached):
            raise OSError(errno.EIO, "Input/output error")
        return hash_file(path, **options)

    monkeypatch.setattr(storage, "hash_file", fail)
    with pytest.raises(WhisperdError, match="cannot be read") as caught:
        await make_store(sources=[HubCacheSource()]).pull(REPO)
    assert caught.value.code == "model.unavailable"
    installed = await make_store(sources=[HubCacheSource(), HubSource()]).pull(REPO)
    assert content(installed.path) == files


async def test_a_change_made_through_the_cache_is_noticed(cached: Path, make_store: MakeStore) -> None:
    store = make_store(sources=[HubCacheSource()])
    await store.pull(REPO)
    with cached.resolve().open("r+b") as file:
        file.write(b"other")
    assert await store.find(REPO) is None


async def test_another_commit_in_the_cache_is_not_used(hub: Hub, cached: Path, make_store: MakeStore) -> None:
    catalogue = catalogue_of(toy_entry(tiny_files(2), revision="c" * 40))
    with pytest.raises(WhisperdError) as caught:
        await make_store(sources=[HubCacheSource()], catalogue=catalogue).pull("toy")
    assert caught.value.code == "model.unavailable"


async def test_an_incomplete_model_in_the_cache_is_not_used(cached: Path, make_store: MakeStore) -> None:
    (cached.parent / "tokenizer.json").unlink()
    with pytest.raises(WhisperdError) as caught:
        await make_store(sources=[HubCacheSource()]).pull(REPO)
    assert caught.value.code == "model.unavailable"
    assert "lacks tokenizer.json" in caught.value.message


async def test_an_empty_cache_has_no_model(hub: Hub, make_store: MakeStore) -> None:
    with pytest.raises(WhisperdError) as caught:
        await make_store(sources=[HubCacheSource()]).pull(REPO)
    assert caught.value.code == "model.unavailable"
