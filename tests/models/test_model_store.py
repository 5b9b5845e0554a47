"""The store: no wrong byte is ever loaded, whatever happens to the files or in mid-change."""

from __future__ import annotations

import errno
import io
import itertools
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.from_thread
import msgspec
import pytest
from filelock import FileLock
from toy_models import REPO, catalogue_of, content, tiny_files, toy_entry, write_files

from toy_runtime import until
from whisperd.locks import try_lock
from whisperd.models import ModelStore, ModelSummary, storage
from whisperd.models.catalogue import ModelFile
from whisperd.models.manifest import StoredFile
from whisperd.models.names import Reference
from whisperd.models.sources import FolderSource, Found, Workspace
from whisperd.progress import Progress
from whisperd.rpc.errors import WhisperdError
from whisperd.tasks import open_task_group
from whisperd_testing import unprivileged

pytestmark = pytest.mark.anyio


class SlowSource:
    """Serve a folder's files, but only once the test allows it."""

    name = "the slow source"
    remote = True

    def __init__(self, folder: Path) -> None:
        self.folder = FolderSource(folder)
        self.asked = anyio.Event()
        self.may_give = anyio.Event()
        self.times = 0

    async def fetch(self, model: Reference, workspace: Workspace) -> Found:
        self.times += 1
        self.asked.set()
        workspace.meter.report(1, "model.bin")
        await self.may_give.wait()
        return await self.folder.fetch(model, workspace)


class FailingSource:
    """Fail every fetch, and count the attempts."""

    remote = True

    def __init__(self, code: str, name: str = "the failing source") -> None:
        self.name = name
        self.code = code
        self.times = 0

    async def fetch(self, model: Reference, workspace: Workspace) -> Found:
        self.times += 1
        raise WhisperdError(self.code, f"it says {self.code}", "Do something.")


@pytest.fixture
def share(tmp_path: Path, files: dict[str, bytes]) -> Path:
    """A folder of models that contains `toy`."""
    write_files(tmp_path / "share" / "toy", files)
    return tmp_path / "share"


@pytest.fixture
def make(tmp_path: Path, share: Path, files: dict[str, bytes]) -> Callable[..., ModelStore]:
    """Make stores in one folder that find models in the share and know `toy`."""

    def make(**options: Any) -> ModelStore:
        known = {"catalogue": catalogue_of(toy_entry(files)), "sources": [FolderSource(share)]}
        return ModelStore(tmp_path / "models", **{**known, **options})

    return make


Make = Callable[..., ModelStore]


async def failure(store: ModelStore, name: str = "toy") -> WhisperdError:
    with pytest.raises(WhisperdError) as caught:
        await store.pull(name)
    return caught.value


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that were read to be hashed."""
    names: list[str] = []
    hash_file = storage.hash_file

    def spy(path: Path, **options: Any) -> Any:
        names.append(path.name)
        return hash_file(path, **options)

    monkeypatch.setattr(storage, "hash_file", spy)
    return names


# Installed models


async def test_a_model_is_installed_from_a_folder_and_found(make: Make, files: dict[str, bytes]) -> None:
    store = make()
    assert await store.find("toy") is None
    installed = await store.pull("toy")
    assert content(installed.path) == files
    assert await store.find("toy") == installed
    assert await store.path("toy") == Path(installed.path)
    assert installed.size == sum(map(len, files.values()))


@pytest.mark.skipif(os.name != "posix", reason="needs Unix file modes")
async def test_a_store_is_private_unless_its_folder_was_made_shared(make: Make, tmp_path: Path) -> None:
    await make().pull("toy")
    assert (tmp_path / "models").stat().st_mode & 0o777 == 0o700
    (tmp_path / "models").chmod(0o755)
    await make().remove("toy")
    await make().pull("toy")
    assert (tmp_path / "models").stat().st_mode & 0o777 == 0o755


async def test_untouched_files_are_not_read_again(make: Make, hashed: list[str]) -> None:
    await make().pull("toy")
    hashed.clear()
    await make().find("toy")
    assert hashed == []


async def test_verify_reads_everything(make: Make, hashed: list[str], files: dict[str, bytes]) -> None:
    store = make()
    await store.pull("toy")
    hashed.clear()
    told: list[Progress] = []
    assert (await store.verify("toy", told.append)).verified
    assert sorted(hashed) == sorted(files)
    assert told[-1].detail == "verifying" and told[-1].done == told[-1].total


def change_in_place(file: Path) -> None:
    with file.open("r+b") as data:
        byte = data.read(1)
        data.seek(0)
        data.write(bytes([byte[0] ^ 1]))


def change_and_restore_times(file: Path) -> None:
    before = file.stat()
    change_in_place(file)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def truncate(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 1)


def replace_link(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[0] ^= 1
    file.unlink()
    file.write_bytes(bytes(data))


def append(file: Path) -> None:
    with file.open("ab") as data:
        data.write(b"\0")


@pytest.mark.parametrize("name", ["model.bin", "config.json"])
@pytest.mark.parametrize(
    "damage", [change_in_place, change_and_restore_times, truncate, append, replace_link, Path.unlink]
)
async def test_a_wrong_byte_is_never_loaded(
    make: Make, files: dict[str, bytes], damage: Callable[[Path], None], name: str
) -> None:
    store = make()
    installed = await store.pull("toy")
    damage(Path(installed.path) / name)
    for each in (store, make()):
        assert await each.find("toy") is None
        with pytest.raises(WhisperdError) as caught:
            await each.path("toy")
        assert caught.value.code == "model.damaged"
        assert caught.value.data["files"] == [name]
    assert not (await store.list())[0].verified
    repaired = await store.pull("toy")
    assert content(repaired.path) == files
    assert await make().find("toy") == repaired


async def test_only_damaged_files_are_fetched_again(make: Make, share: Path) -> None:
    installed = await make().pull("toy")
    truncate(Path(installed.path) / "tokenizer.json")
    (share / "toy" / "model.bin").unlink()
    assert (await failure(make(sources=[]))).code == "model.unavailable"
    assert (await make().pull("toy")).verified  # the share has the missing file; it has nothing else


async def test_a_store_can_be_moved(make: Make, tmp_path: Path, files: dict[str, bytes]) -> None:
    await make().pull("toy")
    (tmp_path / "models").rename(tmp_path / "elsewhere")
    moved = ModelStore(tmp_path / "elsewhere", sources=[], catalogue=catalogue_of(toy_entry(files)))
    assert (await moved.verify("toy")).path.startswith(str(tmp_path / "elsewhere"))


@pytest.mark.parametrize("broken", [b'{"files": [{"name": "../../evil"', b'{"name": "\xff"}'])
@pytest.mark.parametrize("name", ["manifests", "stamps"])
async def test_a_broken_record_is_not_trusted(make: Make, tmp_path: Path, name: str, broken: bytes) -> None:
    await make().pull("toy")
    (tmp_path / "models" / name / "toy.json").write_bytes(broken)
    found = await make().find("toy")
    assert (found is None) == (name == "manifests")
    assert (await make().pull("toy")).verified


async def test_a_manifest_cannot_name_a_file_elsewhere(make: Make, tmp_path: Path) -> None:
    await make().pull("toy")
    manifest = tmp_path / "models" / "manifests" / "toy.json"
    manifest.write_text(manifest.read_text().replace("config.json", "../config.json"))
    assert await make().find("toy") is None


async def test_a_pull_that_ends_damaged_gives_up(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    install = storage.Storage.install

    def unlucky(self: storage.Storage, key: str, manifest: Any) -> None:
        install(self, key, manifest)
        truncate(self.folder(key) / "model.bin")

    monkeypatch.setattr(storage.Storage, "install", unlucky)
    assert (await failure(make())).code == "model.damaged"


async def test_a_change_right_after_verification_shows(make: Make, tmp_path: Path) -> None:
    """File system timestamps are coarse: the recorded ones must be at least one step older than now."""
    installed = await make().pull("toy")
    recorded_ns = (tmp_path / "models" / "stamps" / "toy.json").stat().st_mtime_ns
    for file in Path(installed.path).iterdir():
        assert recorded_ns - file.stat().st_ctime_ns > 10_000_000


# Names and shapes


async def test_summaries_have_the_shape_of_the_interface(make: Make, tmp_path: Path) -> None:
    store = make()
    size = sum(map(len, tiny_files().values()))
    expected = ModelSummary(
        name="toy",
        repo=REPO,
        size=size,
        memory=136_480_000,
        languages=("en",),
        installed=False,
        verified=False,
        path=None,
    )
    assert await store.available() == (expected,)
    assert await store.list() == ()
    await store.pull("toy")
    (listed,) = await store.list()
    assert listed == (await store.available())[0] == await store.describe("toy")
    assert (listed.installed, listed.verified) == (True, True)
    assert listed.path == str(tmp_path / "models" / "installed" / "toy")


async def test_an_unknown_name_gets_suggestions(make: Make) -> None:
    for method in (make().find, make().pull, make().describe, make().remove, make().verify, make().path):
        with pytest.raises(WhisperdError) as caught:
            await method("toyy")
        assert caught.value.code == "model.unknown"
        assert "Did you mean toy?" in caught.value.fix


async def test_a_folder_is_used_in_place(make: Make, tmp_path: Path, files: dict[str, bytes]) -> None:
    folder = write_files(tmp_path / "mine", files)
    store = make()
    found = await store.find(str(folder))
    assert found is not None and found.path == str(folder) and found.source == "folder"
    assert await store.pull(str(folder)) == await store.verify(str(folder)) == found
    assert not (tmp_path / "models").exists()
    with pytest.raises(WhisperdError) as caught:
        await store.remove(str(folder))
    assert caught.value.code == "model.in_place" and folder.exists()


@pytest.mark.parametrize("name", ["nowhere", "nowhere/ggml-mine.bin", "null\0byte"])
async def test_removing_a_missing_path_is_an_error(make: Make, tmp_path: Path, name: str) -> None:
    with pytest.raises(WhisperdError) as caught:
        await make().remove(str(tmp_path / name))
    assert caught.value.code == "model.unknown"


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: (folder / "model.bin").unlink(), "model.bin"),
        (lambda folder: (folder / "vocabulary.txt").unlink(), "vocabulary.json or vocabulary.txt"),
        (lambda folder: (folder / "model.bin").write_bytes(b""), "empty"),
        (
            lambda folder: (folder / "model.bin").write_bytes(b"version https://git-lfs"),
            "model.bin is only a Git LFS pointer",
        ),
        (
            lambda folder: (folder / "model.bin").write_bytes(b"<!DOCTYPE html>"),
            "model.bin is a web page",
        ),
        (lambda folder: (folder / "config.json").write_bytes(b"[]"), "not a JSON object"),
        (lambda folder: (folder / "config.json").write_bytes(b"\xff\xfe"), "not a JSON object"),
        (lambda folder: (folder / "config.json").write_bytes(b"[" * 100_000), "not a JSON object"),
    ],
)
async def test_an_invalid_model_folder_is_explained(
    make: Make, tmp_path: Path, files: dict[str, bytes], spoil: Callable[[Path], Any], said: str
) -> None:
    folder = write_files(tmp_path / "mine", files)
    spoil(folder)
    error = await failure(make(), str(folder))
    assert error.code == "model.invalid_folder"
    assert said in error.message


@pytest.mark.parametrize(
    ("name", "fix"),
    [
        ("model.bin", "Name a folder"),
        ("model.safetensors", "ct2-transformers-converter"),
        ("tokenizer.json", "Copy it from the model that this one was made from"),
    ],
)
async def test_what_to_do_about_an_incomplete_folder(
    make: Make, tmp_path: Path, files: dict[str, bytes], name: str, fix: str
) -> None:
    folder = write_files(tmp_path / "mine", files)
    if name == "model.safetensors":
        (folder / "model.bin").rename(folder / name)
    else:
        (folder / name).unlink()
    assert fix in (await failure(make(), str(folder))).fix


async def test_a_deleted_folder_is_unknown(make: Make, tmp_path: Path, files: dict[str, bytes]) -> None:
    folder = write_files(tmp_path / "mine", files)
    below = await failure(make(), str(folder / "model.bin" / "below"))
    folder.rename(folder.with_name("gone"))
    for error in (below, await failure(make(), str(folder))):
        assert error.code == "model.unknown" and "does not exist" in error.message


async def test_a_file_deleted_while_a_folder_is_listed_is_ignored(
    make: Make, tmp_path: Path, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_files(tmp_path / "mine", files | {"an editor's.swp": b"gone in a moment"})

    def is_file(path: Path) -> bool:
        if path.suffix == ".swp":
            path.unlink()
        return True

    monkeypatch.setattr(Path, "is_file", is_file)
    found = await make().describe(str(folder))
    assert found.size == sum(map(len, files.values()))


# Removing and importing


async def test_removing_keeps_files_that_other_models_share(make: Make, share: Path, tmp_path: Path) -> None:
    write_files(share / "other", tiny_files() | {"config.json": b'{"other": 1}'})
    files = tiny_files() | {"config.json": b'{"other": 1}'}
    entries = [toy_entry(tiny_files()), toy_entry(files, name="other", repo="a/b")]
    store = make(catalogue=catalogue_of(*entries))
    await store.pull("toy")
    other = await store.pull("other")
    blobs = tmp_path / "models" / "blobs"
    assert len(list(blobs.iterdir())) == 5
    assert await store.remove("toy") == len(tiny_files()["config.json"])
    assert content(other.path) == files
    assert await store.find("toy") is None and await store.find("other") == other
    assert await store.remove("other") == other.size
    assert list(blobs.iterdir()) == [] and store._storage._proven == {}
    with pytest.raises(WhisperdError) as caught:
        await store.remove("other")
    assert caught.value.code == "model.not_installed"


async def test_a_model_whose_record_cannot_be_read_keeps_its_files(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make()
    mine = await store.import_model(write_files(tmp_path / "mine", tiny_files(5)), "mine")
    await store.pull("toy")
    manifests = tmp_path / "models" / "manifests"
    (manifests / "._mine.json").write_bytes(b"not a manifest, but an attribute of one")
    original = Path.read_bytes

    def refuse(self: Path) -> bytes:
        if self == manifests / "mine.json":
            raise OSError(errno.EIO, "Input/output error")
        return original(self)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", refuse)
        assert await store.remove("toy") == 0
    assert (await store.verify("mine")).path == mine.path
    assert await store.remove("mine") > mine.size  # the files of `toy` as well
    assert list((tmp_path / "models" / "blobs").iterdir()) == []


async def test_a_lock_of_another_user_does_not_prevent_removal(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make()
    await store.import_model(write_files(tmp_path / "mine", tiny_files(5)), "mine")
    await store.pull("toy")
    orphan = tmp_path / "models" / "blobs" / ("0" * 64)
    orphan.write_bytes(b"admitted by a pull that may be running")

    def refuse(path: Path) -> Any:
        if path.stem == "mine":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return try_lock(path)

    monkeypatch.setattr(storage, "try_lock", refuse)
    assert await store.remove("toy") > 3_000_000
    assert orphan.exists() and (await store.verify("mine")).verified


async def test_a_file_that_another_process_removes_is_fetched_again(
    make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, files: dict[str, bytes]
) -> None:
    install = storage.Storage.install
    times = 0

    def racing(self: storage.Storage, *arguments: Any) -> None:
        nonlocal times
        times += 1
        if times == 1:
            next((tmp_path / "models" / "blobs").iterdir()).unlink()
        install(self, *arguments)

    monkeypatch.setattr(storage.Storage, "install", racing)
    assert content((await make().pull("toy")).path) == files
    assert times == 2


async def test_a_file_that_changes_during_a_pull_is_noticed(make: Make, share: Path, tmp_path: Path) -> None:
    other_files = tiny_files() | {"config.json": b'{"other": 1}'}
    write_files(share / "other", other_files)
    entries = [toy_entry(tiny_files()), toy_entry(other_files, name="other", repo="a/b")]
    source = SlowSource(share)
    toy = await make(catalogue=catalogue_of(*entries)).pull("toy")
    store = make(catalogue=catalogue_of(*entries), sources=[source])
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(store.pull, "other")
        await source.asked.wait()  # the weights, which both share, were found in the store and verified
        change_in_place((Path(toy.path) / "model.bin").resolve())
        source.may_give.set()
    assert content(await make(catalogue=catalogue_of(*entries)).path("other")) == other_files
    assert source.times == 2


async def test_a_new_catalogue_may_name_another_commit(make: Make, share: Path) -> None:
    unknown = tuple(ModelFile(name=name) for name in tiny_files())
    entry = msgspec.structs.replace(toy_entry(tiny_files()), files=unknown, revision="a" * 40)
    installed = await make(catalogue=catalogue_of(entry)).pull("toy")
    write_files(share / "toy", tiny_files(1))
    truncate(Path(installed.path) / "model.bin")
    assert (await failure(make(catalogue=catalogue_of(entry)))).code == "model.hash_mismatch"  # pinned
    entry = msgspec.structs.replace(entry, revision="b" * 40)
    renewed = await make(catalogue=catalogue_of(entry)).pull("toy")
    assert content(renewed.path) == tiny_files(1) and renewed.revision == "b" * 40


class Dying(io.BytesIO):
    """A file on a network drive that fails after its first byte was read."""

    def read(self, count: int | None = -1) -> bytes:
        if count == 1:
            return b"?"
        raise OSError(errno.EIO, "Input/output error")


@pytest.mark.parametrize("dies", [False, True])
async def test_an_unreadable_folder_is_skipped(
    make: Make,
    tmp_path: Path,
    share: Path,
    monkeypatch: pytest.MonkeyPatch,
    files: dict[str, bytes],
    dies: bool,
) -> None:
    locked = write_files(tmp_path / "locked" / "toy", files).parent
    original = Path.open

    def refuse(self: Path, *arguments: Any, **options: Any) -> Any:
        if not self.is_relative_to(locked):
            return original(self, *arguments, **options)
        if dies:
            return Dying()
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    error = await failure(make(sources=[FolderSource(locked)]))
    assert error.code == "model.unavailable" and "cannot be read" in error.message
    assert (await make(sources=[FolderSource(locked), FolderSource(share)]).pull("toy")).verified


async def test_remove_deletes_what_a_failed_pull_left(make: Make, share: Path, tmp_path: Path) -> None:
    (share / "toy" / "config.json").write_bytes(b"wrong")
    assert (await failure(make())).code == "model.hash_mismatch"
    blobs = tmp_path / "models" / "blobs"
    assert len(list(blobs.iterdir())) == 3
    assert await make().remove("toy") > 3_000_000
    assert list(blobs.iterdir()) == []


async def test_an_interrupted_removal_can_be_finished(
    make: Make, share: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def kill(*_arguments: object) -> None:
        raise Killed

    await make().import_model(share / "toy", "mine")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(storage.Storage, "_drop", kill)
        await make().remove("mine")
    with pytest.raises(WhisperdError, match="no model named"):
        await make().verify("mine")
    assert await make().remove("mine") > 3_000_000
    with pytest.raises(WhisperdError, match="no model named"):
        await make().remove("mine")


async def test_a_briefly_held_lock_does_not_prevent_removal(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await make().pull("toy")
    lock = FileLock(tmp_path / "models" / "locks" / "toy.lock", thread_local=False)
    lock.acquire()
    monkeypatch.setattr(time, "sleep", lambda _: lock.release())
    assert await make().remove("toy") > 3_000_000


async def test_abandoned_downloads_are_deleted_after_a_month(make: Make, share: Path, tmp_path: Path) -> None:
    partial = tmp_path / "models" / "partial"
    days_s = 24 * 3600.0
    for name, age_s in [("forgotten", 31 * days_s), ("recent", 29 * days_s), ("held", 31 * days_s)]:
        (partial / name).mkdir(parents=True)
        for path in (partial / name / "0.partial", partial / name):
            path.touch()
            os.utime(path, (time.time() - age_s,) * 2)
    orphan = tmp_path / "models" / "blobs" / ("0" * 64)
    write_files(orphan.parent, {orphan.name: b"admitted by a pull that was never finished"})
    store = storage.Storage(tmp_path / "models")
    with try_lock(store.lock_path("held")):
        await make().pull("toy")
        assert sorted(path.name for path in partial.iterdir()) == ["held", "recent"]
        assert orphan.exists()  # it may belong to the pull that holds a lock
    await make().remove("toy")
    await make().pull("toy")
    assert [path.name for path in partial.iterdir()] == ["recent"]
    assert not orphan.exists()
    assert (await make().verify("toy")).verified
    for path in (partial / "recent" / "0.partial", partial / "recent"):
        os.utime(path, (time.time() - 31 * days_s,) * 2)
    await make().clear_leftovers()  # as a daemon does that pulls nothing for months
    assert list(partial.iterdir()) == []


async def test_files_of_a_running_pull_are_not_removed(make: Make, share: Path, tmp_path: Path) -> None:
    entries = [toy_entry(tiny_files()), toy_entry(tiny_files(3), name="other", repo="a/b")]
    source = SlowSource(share)
    busy = make(catalogue=catalogue_of(*entries), sources=[source])
    store = make(catalogue=catalogue_of(*entries))
    await store.pull("toy")
    orphan = tmp_path / "models" / "blobs" / ("0" * 64)
    orphan.write_bytes(b"admitted by the other pull")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(busy.pull, "other")
        await source.asked.wait()
        await store.remove("toy")
        assert [path.name for path in orphan.parent.iterdir()] == [orphan.name]
        tasks.cancel_scope.cancel()


async def test_a_folder_is_imported(make: Make, tmp_path: Path) -> None:
    files = tiny_files(5)
    folder = write_files(tmp_path / "mine", files | {"notes.txt": b"x", "run.py": b"import os"})
    store = make()
    told: list[Progress] = []
    imported = await store.import_model(folder, "my-model", told.append)
    assert content(imported.path) == files
    assert (imported.name, imported.repo) == ("my-model", None)
    folder.rename(tmp_path / "moved")
    assert await make().find("my-model") == imported
    assert [each.name for each in await make().list()] == ["my-model"]
    assert told[-1].total == imported.size
    with pytest.raises(WhisperdError) as caught:
        await store.import_model(tmp_path / "moved", "my-model")
    assert caught.value.code == "model.exists"
    await store.remove("my-model")
    with pytest.raises(WhisperdError):
        await store.find("my-model")


@pytest.mark.parametrize("is_cancelled", [False, True])
async def test_an_aborted_import_leaves_nothing(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_cancelled: bool
) -> None:
    """The files have no known hash by which the next import could find their copies in the store."""

    def admit(self: storage.Storage, key: str, path: Path, *given: Any) -> StoredFile:
        if path.name == "tokenizer.json":
            if not is_cancelled:
                raise OSError(errno.ENOSPC, "no space")
            anyio.from_thread.run_sync(scope.cancel)
        return admit_now(self, key, path, *given)

    admit_now = storage.Storage.admit
    store = make()
    await store.pull("toy")
    before = set((tmp_path / "models" / "blobs").iterdir())
    folder = write_files(tmp_path / "mine", tiny_files(5))
    monkeypatch.setattr(storage.Storage, "admit", admit)
    with anyio.CancelScope() as scope, suppress(WhisperdError):
        await store.import_model(folder, "my-model")
    assert scope.cancelled_caught == is_cancelled
    assert set((tmp_path / "models" / "blobs").iterdir()) == before
    monkeypatch.setattr(storage.Storage, "admit", admit_now)
    assert content((await store.import_model(folder, "my-model")).path) == tiny_files(5)


@pytest.mark.parametrize("name", ["", "a/b", "../x", "a--b", ".hidden", "x" * 200])
async def test_an_import_needs_a_plain_name(make: Make, share: Path, name: str) -> None:
    with pytest.raises(WhisperdError) as caught:
        await make().import_model(share / "toy", name)
    assert caught.value.code == "model.invalid_name" and "a to z" in caught.value.fix


async def test_an_import_under_a_catalogue_name_must_be_that_model(
    make: Make, tmp_path: Path, share: Path
) -> None:
    wrong = write_files(tmp_path / "wrong", tiny_files(9))
    with pytest.raises(WhisperdError) as caught:
        await make().import_model(wrong, "toy")
    assert caught.value.code == "model.hash_mismatch" and "under another name" in caught.value.fix
    assert (await make().import_model(share / "toy", "toy")).repo == REPO


# Sources


async def test_a_folder_of_models_may_use_the_repository_name(
    make: Make, share: Path, files: dict[str, bytes]
) -> None:
    (share / "toy").rename(share / REPO.partition("/")[2])
    assert content((await make().pull("toy")).path) == files


async def test_wrong_bytes_in_a_folder_lead_to_the_next_source(
    make: Make, tmp_path: Path, share: Path, files: dict[str, bytes]
) -> None:
    write_files(tmp_path / "bad" / "toy", files | {"model.bin": b"\0" * len(files["model.bin"])})
    bad = FolderSource(tmp_path / "bad")
    error = await failure(make(sources=[bad]))
    assert error.code == "model.hash_mismatch" and str(tmp_path / "bad") in error.message
    installed = await make(sources=[bad, FolderSource(share)]).pull("toy")
    assert content(installed.path) == files
    assert installed.source == f"the folder {share}"


async def test_one_error_reports_all_sources(make: Make) -> None:
    sources = [
        FolderSource(Path("/nowhere")),
        FailingSource("network.unreachable", "one"),
        FailingSource("hub.rate_limited", "two"),
    ]
    error = await failure(make(sources=sources))
    assert error.code == "hub.rate_limited"  # more specific than an unreachable source
    assert [each["source"] for each in error.data["tried"]] == ["the folder /nowhere", "one", "two"]
    assert "one: it says network.unreachable" in error.message


async def test_no_source_has_the_model(make: Make, tmp_path: Path) -> None:
    error = await failure(make(sources=[FolderSource(Path("/nowhere"))]))
    assert list((tmp_path / "models" / "partial").iterdir()) == []
    assert error.code == "model.unavailable" and "models.folders" in error.fix


async def test_offline_never_asks_a_remote_source(make: Make, share: Path) -> None:
    far = FailingSource("network.unreachable")
    error = await failure(make(sources=[far], offline=True))
    assert error.code == "model.offline" and "WHISPERD_OFFLINE" in error.fix
    assert far.times == 0
    assert (await make(sources=[far, FolderSource(share)], offline=True).pull("toy")).verified


async def test_an_unreachable_source_is_tried_last_for_a_while(make: Make, share: Path) -> None:
    far = FailingSource("network.unreachable")
    now_s = 0.0
    store = make(sources=[far, FolderSource(share)], clock=lambda: now_s)
    for expected, at_s in [(1, 0.0), (1, 599.0), (2, 601.0), (2, 602.0)]:
        now_s = at_s
        await store.pull("toy")
        await store.remove("toy")
        assert far.times == expected
    only = make(sources=[far], clock=lambda: now_s)
    await failure(only)
    await failure(only)  # asked again when there is no alternative
    assert far.times == 4


# Disk space, permissions and faults


async def test_a_full_disk_is_noticed_before_anything_is_copied(make: Make, tmp_path: Path) -> None:
    error = await failure(make(free_bytes=lambda _: 3_000_000))
    assert error.code == "disk.full" and error.data["free_bytes"] == 3_000_000
    assert not (tmp_path / "models" / "blobs").exists()


FAULTS = [("replace", Path), ("mkdir", Path), ("unlink", Path), ("fsync", os), ("symlink_to", Path)]


ERRORS = [(errno.ENOSPC, "disk.full"), (errno.EROFS, "model.read_only"), (errno.EIO, "model.storage_failed")]


async def test_each_system_call_may_fail(
    make: Make, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fail the first, second, third … call, with a different error each time, until a pull succeeds."""
    for fail_at in itertools.count(1):
        number, code = ERRORS[fail_at % len(ERRORS)]
        count = 0

        def failing(
            original: Callable[..., Any], fail_at: int = fail_at, number: int = number
        ) -> Callable[..., Any]:
            def call(*arguments: Any, **options: Any) -> Any:
                nonlocal count
                count += 1
                if count == fail_at:
                    raise OSError(number, os.strerror(number))
                return original(*arguments, **options)

            return call

        with monkeypatch.context() as patch:
            for name, owner in FAULTS:
                patch.setattr(owner, name, failing(getattr(owner, name)))
            try:
                await make().pull("toy")
            except WhisperdError as error:
                assert error.code == code
        if count < fail_at:
            break
        installed = await make().pull("toy")
        assert content(installed.path) == files
        await make().remove("toy")
    assert fail_at > 15


async def test_an_incomplete_copy_is_no_model_where_links_are_unsupported(
    make: Make, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a full USB stick whose file system has no links."""

    def refuse(*_: Any) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    def fill_up(source: Path, target: Path) -> None:
        target.write_bytes(source.read_bytes()[:100])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    monkeypatch.setattr(os, "link", refuse)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfile", fill_up)
        assert (await failure(make())).code == "disk.full"
    assert await make().find("toy") is None
    installed = await make().pull("toy")
    assert content(installed.path) == files


CRASH = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import anyio
from toy_models import catalogue_of, content, tiny_files, toy_entry
from whisperd.models import ModelStore
from whisperd.models.sources import FolderSource

root = Path(sys.argv[2])

def store():
    return ModelStore(
        root / "models",
        catalogue=catalogue_of(toy_entry(tiny_files())),
        sources=[FolderSource(root / "share")],
    )

def crash_at(step):
    count = 0
    def watch(owner, name):
        original = getattr(owner, name)
        def call(*arguments, **options):
            nonlocal count
            count += 1
            if count == step:
                os._exit(9)
            return original(*arguments, **options)
        setattr(owner, name, call)
    for name in ("replace", "mkdir", "unlink", "symlink_to"):
        watch(Path, name)
    watch(os, "fsync")

def in_a_child(work):
    child = os.fork()
    if child == 0:
        work()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

def pull(step):
    crash_at(step)
    anyio.run(store().pull, "toy")

def repair():
    found = anyio.run(store().find, "toy")
    if found is not None:
        assert content(found.path) == tiny_files()
    assert content(anyio.run(store().pull, "toy").path) == tiny_files()
    anyio.run(store().remove, "toy")
    for folder in ("blobs", "manifests", "installed", "partial"):
        assert list((root / "models" / folder).glob("[!.]*")) == [], folder

step = 0
while True:
    step += 1
    crashed = in_a_child(lambda: pull(step))
    assert crashed in (0, 9), crashed
    assert in_a_child(repair) == 0
    if crashed == 0:
        break
print(step)
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="needs fork")
def test_a_crash_at_any_step_leaves_no_partial_model(tmp_path: Path, share: Path) -> None:
    here = str(Path(__file__).parent)
    command = [sys.executable, "-c", CRASH, here, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 15


async def test_a_read_only_store_can_be_read(
    make: Make, monkeypatch: pytest.MonkeyPatch, hashed: list[str]
) -> None:
    installed = await make().pull("toy")
    (Path(installed.path) / "config.json").resolve().touch()
    hashed.clear()

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    for name, owner in FAULTS:
        monkeypatch.setattr(owner, name, refuse)
    monkeypatch.setattr(Path, "write_bytes", refuse)
    store = make()
    assert await store.find("toy") == installed
    assert await store.find("toy") == installed
    assert hashed == ["config.json"]  # cached at least in this process
    truncate(Path(installed.path) / "config.json")
    error = await failure(store)
    assert error.code == "model.read_only" and "WHISPERD_MODELS_DIR" in error.fix


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such permissions")
@pytest.mark.parametrize("folder", [".", "manifests"])
@pytest.mark.parametrize("ask", [ModelStore.list, partial(ModelStore.remove, name="toy")])
async def test_an_inaccessible_folder_is_reported(
    make: Make, ask: Callable[[ModelStore], Awaitable[object]], folder: str
) -> None:
    store = make()
    await store.pull("toy")
    (store.root / folder).chmod(0)
    with unprivileged(), pytest.raises(WhisperdError) as caught:
        await ask(store)
    (store.root / folder).chmod(0o700)
    assert caught.value.code == "model.read_only"
    assert str(store.root) in caught.value.message


# Concurrency


async def test_concurrent_pulls_download_once(make: Make, share: Path) -> None:
    source = SlowSource(share)
    store = make(sources=[source])
    told: list[list[Progress]] = [[], [], []]
    async with anyio.create_task_group() as tasks:
        for each in told:
            tasks.start_soon(store.pull, "toy", each.append)
        await until(lambda: all(told))  # all three are waiting
        source.may_give.set()
    assert source.times == 1
    assert all(any(progress.done == 1 for progress in each) for each in told)
    assert await store.find("toy") is not None


async def test_two_imports_under_one_name_are_never_mixed(make: Make, tmp_path: Path) -> None:
    sources = [write_files(tmp_path / f"mine{seed}", tiny_files(seed)) for seed in range(3)]
    store = make()
    for _ in range(5):
        told: list[str | None] = [None] * len(sources)

        async def bring(place: int, told: list[str | None]) -> None:
            try:
                await store.import_model(sources[place], "mine")
            except WhisperdError as error:
                told[place] = error.code

        async with open_task_group() as tasks:
            for place in range(len(sources)):
                tasks.start_soon(bring, place, told)
        assert told.count(None) == 1 and set(told) <= {None, "model.busy", "model.exists"}
        assert content(await store.path("mine")) == tiny_files(told.index(None))
        await store.remove("mine")


async def test_a_pull_downloads_after_the_import_it_waited_for_fails(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hash_file(*given: Any, **options: Any) -> Any:
        may_read.wait()
        return read(*given, **options)

    may_read, read = threading.Event(), storage.hash_file
    monkeypatch.setattr(storage, "hash_file", hash_file)
    wrong = write_files(tmp_path / "wrong", tiny_files(7))
    store = make()
    codes: list[str] = []

    async def bring() -> None:
        with pytest.raises(WhisperdError) as caught:
            await store.import_model(wrong, "toy")
        codes.append(caught.value.code)

    async with open_task_group() as tasks:
        tasks.start_soon(bring)
        await until(lambda: store._flights)
        (flight,) = store._flights.values()
        tasks.start_soon(store.pull, "toy")
        await until(lambda: len(flight._listeners) == 2)  # the pull waits for the import
        may_read.set()
    assert codes == ["model.hash_mismatch"]
    assert await store.find("toy") is not None


async def test_a_model_removed_during_verification_is_not_damaged(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(self: storage.Storage, key: str, *given: Any) -> list[str]:
        self.remove(key)
        return damaged_now(self, key, *given)

    damaged_now = storage.Storage.damaged
    store = make()
    await store.pull("toy")
    monkeypatch.setattr(storage.Storage, "damaged", damaged)
    with pytest.raises(WhisperdError) as caught:
        await store.verify("toy")
    assert caught.value.code == "model.not_installed"


async def test_waiting_pulls_get_the_same_error(make: Make) -> None:
    source = FailingSource("hub.not_found")
    store = make(sources=[source])
    codes: list[str] = []

    async def pull() -> None:
        codes.append((await failure(store)).code)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(pull)
        tasks.start_soon(pull)
    assert codes == ["hub.not_found"] * 2
    assert source.times == 1, "those that waited do not try again"


async def test_another_pull_takes_over_when_the_first_is_cancelled(make: Make, share: Path) -> None:
    source = SlowSource(share)
    store = make(sources=[source])
    async with anyio.create_task_group() as tasks:
        async with anyio.create_task_group() as first:
            first.start_soon(store.pull, "toy")
            await source.asked.wait()
            tasks.start_soon(store.pull, "toy")
            await anyio.wait_all_tasks_blocked()
            first.cancel_scope.cancel()
        source.may_give.set()
    assert source.times == 2
    assert await store.find("toy") is not None


async def test_a_pull_in_another_process_is_awaited(make: Make, share: Path) -> None:
    source = SlowSource(share)
    mine, theirs = make(), make(sources=[source])  # two stores stand for two processes
    waiting = anyio.Event()

    def tell(progress: Progress) -> None:
        if progress.detail == "waiting":
            waiting.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(theirs.pull, "toy")
        await source.asked.wait()
        tasks.start_soon(mine.pull, "toy", tell)
        await waiting.wait()
        with pytest.raises(WhisperdError) as caught:
            await make().remove("toy")
        assert caught.value.code == "model.busy"
        source.may_give.set()
    assert source.times == 1


async def test_an_import_cancelled_just_before_it_is_installed_leaves_nothing(
    make: Make, share: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def admit(self: storage.Storage, *given: Any) -> StoredFile:
        admitted = admit_now(self, *given)
        anyio.from_thread.run_sync(scope.cancel)
        return admitted

    admit_now = storage.Storage.admit
    monkeypatch.setattr(storage.Storage, "admit", admit)
    with anyio.CancelScope() as scope:
        await make().import_model(share / "toy", "mine")
    assert scope.cancelled_caught
    for folder in ("blobs", "partial"):
        assert list((tmp_path / "models" / folder).iterdir()) == []


async def test_verifying_ends_when_it_is_cancelled(make: Make) -> None:
    installed = await make().pull("toy")
    store = make()
    with anyio.CancelScope() as scope:
        await store.verify("toy", lambda _: scope.cancel())
    assert scope.cancelled_caught
    assert await store.verify("toy") == installed


async def test_progress_is_reported_in_the_event_loop(make: Make) -> None:
    here = threading.get_ident()
    threads: set[int] = set()
    store = make()
    await store.pull("toy", lambda _: threads.add(threading.get_ident()))
    await store.verify("toy", lambda _: threads.add(threading.get_ident()))
    assert threads == {here}


@pytest.mark.parametrize(
    ("given", "canonical"),
    [
        ("tiny.en", "tiny.en"),
        ("TINY.EN", "tiny.en"),
        ("Systran/faster-whisper-tiny.en", "tiny.en"),
        ("turbo", "large-v3-turbo"),
        ("Owner/Name@main", "Owner/Name@main"),
        ("my-own", "my-own"),
    ],
)
def test_a_model_has_one_name(tmp_path: Path, given: str, canonical: str) -> None:
    assert ModelStore(tmp_path, sources=[]).canonical_name(given) == canonical


def test_a_folder_is_named_by_its_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    store = ModelStore(tmp_path, sources=[])
    for given in ("~/model", f"{tmp_path}/model/", f"{tmp_path}//./model"):
        assert store.canonical_name(given) == str(tmp_path / "model")
    assert store.canonical_name("~nobody-of-that-name/model").endswith("~nobody-of-that-name/model")


async def test_a_path_that_cannot_exist_is_unknown(tmp_path: Path) -> None:
    for name in ("~nobody-of-that-name/model", f"{tmp_path}/nul\0"):
        with pytest.raises(WhisperdError) as raised:
            await ModelStore(tmp_path, sources=[]).describe(name)
        assert raised.value.code == "model.unknown"


async def test_a_path_that_is_not_absolute_is_refused(tmp_path: Path) -> None:
    """The daemon's working folder is not the client's."""
    store = ModelStore(tmp_path, sources=[])
    for ask, name in ((store.describe, "./mine"), (store.pull, ".."), (store.import_model, "ggml-mine.bin")):
        with pytest.raises(WhisperdError) as raised:
            await ask(name)
        assert raised.value.code == "input.not_absolute"
