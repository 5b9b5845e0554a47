"""Models converted to another format: converted once, never used if damaged, removed with their source."""

from __future__ import annotations

import errno
import os
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import anyio.from_thread
import pytest
from hub_server import Hub
from toy_models import catalogue_of, known_files, tiny_files, toy_entry, write_files

from toy_runtime import until
from whisperd import disk
from whisperd.models import ModelStore, converted, shipped_catalogue, storage
from whisperd.models.catalogue import ReadyFile
from whisperd.models.manifest import StoredFile
from whisperd.models.sources import FolderSource, HubSettings, HubSource
from whisperd.plugins import ModelFormat
from whisperd.progress import Progress
from whisperd.rpc.errors import WhisperdError

pytestmark = pytest.mark.anyio

CONVERTER = """
import os, sys, time
from pathlib import Path

FOLDER = Path(__file__).parent

def convert(source, target, precision, on_bytes):
    with (FOLDER / "calls").open("a") as calls:
        calls.write(precision + " ")
    weights = (source / "model.bin").read_bytes()
    target.write_bytes(weights[:1000])
    on_bytes(1000)
    while (FOLDER / "hold").exists():
        time.sleep(0.005)
    how = os.environ.get("CONVERTER_FAILS")
    if how == "full":
        raise OSError(28, "No space left on device")
    if how == "lacks":
        raise FileNotFoundError(2, "No such file or directory")
    if how == "dies":
        os._exit(3)
    if how == "none":
        target.write_bytes(b"")
        return
    if how:
        raise ValueError(how)
    target.write_bytes(precision.encode() + weights[::-1])
    print("libraries say what they like", flush=True)
    os.write(1, b"in C, too\\n")
    on_bytes(len(weights) - 1000)
"""
FORMAT = ModelFormat(name="toy", convert="toy_converter:convert")


class Converter:
    """The converter function that the child calls, and a record of its calls."""

    def __init__(self, folder: Path) -> None:
        self.hold = folder / "hold"
        self._calls = folder / "calls"

    @property
    def calls(self) -> list[str]:
        return self._calls.read_text().split() if self._calls.exists() else []


@pytest.fixture
def converter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Converter:
    folder = tmp_path / "converter"
    folder.mkdir()
    (folder / "toy_converter.py").write_text(CONVERTER)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return Converter(folder)


@pytest.fixture
def weights() -> bytes:
    return tiny_files()["model.bin"]


@pytest.fixture
def make(tmp_path: Path) -> Callable[[], ModelStore]:
    share = tmp_path / "share"
    write_files(share / "toy", tiny_files())

    def make() -> ModelStore:
        catalogue = catalogue_of(toy_entry(tiny_files()))
        return ModelStore(tmp_path / "models", catalogue=catalogue, sources=[FolderSource(share)])

    return make


@pytest.fixture
async def store(make: Callable[[], ModelStore]) -> ModelStore:
    store = make()
    await store.pull("toy")
    return store


def made(store: ModelStore) -> list[Path]:
    """Return the files in the folder of converted models."""
    return [path for path in (store.root / "converted").rglob("*") if path.is_file()]


async def failure(store: ModelStore) -> WhisperdError:
    with pytest.raises(WhisperdError) as caught:
        await store.convert("toy", FORMAT, "int8")
    return caught.value


async def test_a_model_is_converted_once(
    make: Callable[[], ModelStore], store: ModelStore, converter: Converter, weights: bytes
) -> None:
    told: list[Progress] = []
    path = await store.convert("toy", FORMAT, "int8", on_progress=told.append)
    assert path.read_bytes() == b"int8" + weights[::-1]
    assert {one.detail for one in told} == {"converting"}
    assert told[-1].done == told[-1].total == sum(map(len, tiny_files().values()))
    assert await store.convert("toy", FORMAT, "int8") == path
    assert await make().convert("toy", FORMAT, "int8") == path
    assert converter.calls == ["int8"]


async def test_a_conversion_can_be_looked_up_without_converting(
    store: ModelStore, converter: Converter
) -> None:
    assert await store.converted("toy", FORMAT, "int8") is None
    assert converter.calls == []
    path = await store.convert("toy", FORMAT, "int8")
    assert await store.converted("toy", FORMAT, "int8") == path
    assert await store.converted("toy", FORMAT, "float16") is None
    path.write_bytes(b"something else")
    assert await store.converted("toy", FORMAT, "int8") is None


async def test_each_weight_precision_has_its_own_file(store: ModelStore, converter: Converter) -> None:
    paths = {await store.convert("toy", FORMAT, each) for each in ("int8", "float16", "int8_float32")}
    assert len(paths) == 2
    assert await store.converted("toy", FORMAT, "int8_float16") in paths
    assert converter.calls == ["int8", "float16"]


async def test_concurrent_requests_share_one_conversion(
    make: Callable[[], ModelStore], store: ModelStore, converter: Converter
) -> None:
    converter.hold.touch()
    told: list[Progress] = []
    paths: set[Path] = set()

    async def want(store: ModelStore) -> None:
        paths.add(await store.convert("toy", FORMAT, "int8", on_progress=told.append))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(want, store)
        tasks.start_soon(want, make())
        await until(lambda: "waiting" in {one.detail for one in told} and converter.calls)
        converter.hold.unlink()
    assert len(paths) == 1
    assert converter.calls == ["int8"]


async def test_a_model_that_is_being_converted_is_not_removed(
    store: ModelStore, converter: Converter
) -> None:
    converter.hold.touch()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(store.convert, "toy", FORMAT, "int8")
        await until(lambda: converter.calls)
        with pytest.raises(WhisperdError) as caught:
            await store.remove("toy")
        assert caught.value.code == "model.busy"
        converter.hold.unlink()


async def test_a_changed_conversion_is_replaced(
    store: ModelStore, converter: Converter, weights: bytes
) -> None:
    path = await store.convert("toy", FORMAT, "int8")
    path.write_bytes(b"int4" + weights[::-1])
    assert await store.convert("toy", FORMAT, "int8") == path
    assert path.read_bytes() == b"int8" + weights[::-1]


async def test_verify_finds_silent_corruption(
    store: ModelStore, converter: Converter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failing disk changes bytes without changing the file's stamp."""
    path = await store.convert("toy", FORMAT, "int8")
    await store.convert("toy", FORMAT, "float16")
    assert (await store.verify("toy")).verified
    good, stamp_of = path.read_bytes(), converted.stamp
    stamp_before = stamp_of(path)
    path.write_bytes(good[:500] + b"?" + good[501:])
    monkeypatch.setattr(converted, "stamp", lambda each: stamp_before if each == path else stamp_of(each))
    assert await store.converted("toy", FORMAT, "int8") == path, "its stamp is unchanged"
    told: list[Progress] = []
    with pytest.raises(WhisperdError) as caught:
        await store.verify("toy", told.append)
    assert {"model.bin", path.name} <= {one.file for one in told} and told[-1].done == told[-1].total
    assert caught.value.code == "model.damaged"
    assert caught.value.data["files"] == [path.name]
    assert "have been removed" in str(caught.value)
    assert "again" in caught.value.fix and "pull" not in caught.value.fix, "a conversion cannot be pulled"
    assert await store.converted("toy", FORMAT, "int8") is None
    assert (await store.verify("toy")).verified
    await store.convert("toy", FORMAT, "int8")
    assert path.read_bytes() == good
    assert converter.calls == ["int8", "float16", "int8"], "only the damaged conversion is repeated"


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EIO, errno.EACCES, errno.ESTALE])
async def test_an_unreadable_conversion_is_not_treated_as_damaged(
    store: ModelStore, converter: Converter, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """The error may be transient."""
    path = await store.convert("toy", FORMAT, "int8")

    def refuse(_: Path, **_options: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch, pytest.raises(WhisperdError) as caught:
        patch.setattr(converted, "hash_file", refuse)
        await store.verify("toy")
    assert caught.value.code == ("model.read_only" if number == errno.EACCES else "model.storage_failed")
    assert await store.converted("toy", FORMAT, "int8") == path


async def test_a_damaged_conversion_that_cannot_be_removed_is_reported(
    store: ModelStore, converter: Converter, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = await store.convert("toy", FORMAT, "int8")
    path.write_bytes(b"something else")

    def refuse(_: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(disk, "remove", refuse)
    with pytest.raises(WhisperdError) as caught:
        await store.verify("toy")
    assert caught.value.code == "model.read_only"


async def test_nothing_is_converted_for_a_store_that_cannot_be_written(
    store: ModelStore, converter: Converter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(WhisperdError) as caught:
        await store.convert("toy", FORMAT, "int8")
    assert caught.value.code == "model.read_only" and not converter.calls


async def test_verify_keeps_a_conversion_that_was_replaced_meanwhile(
    store: ModelStore, converter: Converter, weights: bytes
) -> None:
    path = await store.convert("toy", FORMAT, "int8")
    path.write_bytes(b"something else")
    converter.hold.touch()
    told: list[Progress] = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(store.convert, "toy", FORMAT, "int8")
        await until(lambda: len(converter.calls) == 2)
        tasks.start_soon(store.verify, "toy", told.append)
        await until(lambda: "waiting" in {one.detail for one in told})
        converter.hold.unlink()
    assert path.read_bytes() == b"int8" + weights[::-1]


async def test_a_touched_conversion_is_verified_and_kept(store: ModelStore, converter: Converter) -> None:
    path = await store.convert("toy", FORMAT, "int8")
    os.utime(path, (1, 1))
    assert await store.convert("toy", FORMAT, "int8") == path
    assert converter.calls == ["int8"]


async def test_a_newer_format_version_replaces_the_older(store: ModelStore, converter: Converter) -> None:
    old = await store.convert("toy", FORMAT, "int8")
    other = await store.convert("toy", FORMAT, "float16")
    new = await store.convert("toy", replace(FORMAT, version=2), "int8")
    assert converter.calls == ["int8", "float16", "int8"]
    assert new.exists() and other.exists() and not old.exists()


async def test_a_format_leaves_those_alone_whose_names_begin_with_its_own(
    store: ModelStore, converter: Converter
) -> None:
    longer = await store.convert("toy", replace(FORMAT, name="toy-fast"), "int8")
    own = await store.convert("toy", FORMAT, "int8")
    assert own.exists() and longer.exists()


async def test_a_conversion_counts_towards_its_models_size_and_is_removed_with_it(
    store: ModelStore, converter: Converter
) -> None:
    before = (await store.describe("toy")).size or 0
    path = await store.convert("toy", FORMAT, "int8")
    size_bytes = path.stat().st_size
    after = (await store.describe("toy")).size or 0
    assert 0 < size_bytes <= after - before < size_bytes + 1000
    assert await store.remove("toy") == after
    assert not made(store)


@pytest.mark.parametrize(
    ("how", "code", "part"),
    [
        ("it makes no sense", "model.conversion_failed", "it makes no sense"),
        ("nonsense" * 16_000, "model.conversion_failed", "nonsense"),
        ("dies", "model.conversion_failed", "without a result"),
        ("full", "disk.full", "not enough space"),
        ("lacks", "model.conversion_failed", "No such file"),
    ],
)
async def test_a_failed_conversion_leaves_nothing(
    store: ModelStore,
    converter: Converter,
    monkeypatch: pytest.MonkeyPatch,
    how: str,
    code: str,
    part: str,
) -> None:
    monkeypatch.setenv("CONVERTER_FAILS", how)
    error = await failure(store)
    assert error.code == code and part in error.message
    assert error.fix
    assert not made(store)
    monkeypatch.delenv("CONVERTER_FAILS")
    await store.convert("toy", FORMAT, "int8")


async def test_a_full_disk_is_reported_before_converting(
    tmp_path: Path, store: ModelStore, converter: Converter
) -> None:
    store = ModelStore(store.root, catalogue=store.catalogue, sources=[], free_bytes=lambda _: 1000)
    assert (await failure(store)).code == "disk.full"
    assert not converter.calls


async def test_cancelling_leaves_nothing(store: ModelStore, converter: Converter) -> None:
    converter.hold.touch()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(store.convert, "toy", FORMAT, "int8")
        await until(lambda: converter.calls)
        tasks.cancel_scope.cancel()
    assert not made(store)


async def test_leftovers_are_deleted_off_the_event_loop(
    store: ModelStore, converter: Converter, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = await store.convert("toy", FORMAT, "int8")
    (path.parent / ".0123").write_bytes(b"a half")
    unlink, used = Path.unlink, set()

    def spy(path: Path, missing_ok: bool = False) -> None:
        used.add(threading.get_ident())
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", spy)
    await store.convert("toy", FORMAT, "float16")
    assert not list(path.parent.glob(".*"))
    assert used and threading.get_ident() not in used


async def test_models_with_the_same_files_are_converted_once(
    tmp_path: Path, store: ModelStore, converter: Converter
) -> None:
    await store.import_model(tmp_path / "share" / "toy", "mine")
    converter.hold.touch()
    told: list[Progress] = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(store.convert, "toy", FORMAT, "int8")
        await until(lambda: converter.calls)
        tasks.start_soon(store.convert, "mine", FORMAT, "int8", None, told.append)
        await until(lambda: told)
        converter.hold.unlink()
    assert converter.calls == ["int8"]


async def test_a_folder_used_in_place_is_converted_again_after_a_change(
    tmp_path: Path, store: ModelStore, converter: Converter
) -> None:
    folder = write_files(tmp_path / "mine", tiny_files(1))
    first = await store.convert(str(folder), FORMAT, "int8")
    assert first.read_bytes() == b"int8" + tiny_files(1)["model.bin"][::-1]
    assert await store.convert(str(folder), FORMAT, "int8") == first
    (folder / "notes.log").write_text("this changes no text")
    assert await store.convert(str(folder), FORMAT, "int8") == first
    await store.remove("toy")
    assert first.exists(), "its folder is unchanged"
    await store.pull("toy")
    write_files(folder, tiny_files(2))
    second = await store.convert(str(folder), FORMAT, "int8")
    assert second.read_bytes() == b"int8" + tiny_files(2)["model.bin"][::-1]
    assert second.exists() and not first.exists(), "the conversion of the old files is deleted"
    assert len(list((store.root / "locks").glob("converted-*"))) == 1
    await store.remove("toy")
    assert second.exists()


async def test_conversions_of_missing_folders_are_kept(
    tmp_path: Path, store: ModelStore, converter: Converter
) -> None:
    """Even if the folders are missing, as on a disk that is not mounted."""
    paths = []
    for number in (1, 2):
        folder = write_files(tmp_path / f"mine {number}", tiny_files(number))
        paths.append(await store.convert(str(folder), FORMAT, "int8"))
        folder.rename(tmp_path / f"away {number}")
    paths.append(await store.convert("toy", FORMAT, "int8"))
    folder = write_files(tmp_path / "mine 3", tiny_files(3))
    paths.append(await store.convert(str(folder), FORMAT, "int8"))
    assert all(path.exists() for path in paths)


async def test_conversions_of_deleted_or_changed_folders_are_removed(
    tmp_path: Path, store: ModelStore, converter: Converter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But not while this is unknown: if the disk is unmounted, or a network does not respond."""
    converted_from = {}
    for name in ("dead", "stick", "gone", "changed"):
        folder = write_files(tmp_path / f"the {name} place" / "mine", tiny_files(1))
        converted_from[name] = await store.convert(str(folder), FORMAT, "int8")
    (tmp_path / "the stick place").rename(tmp_path / "unmounted")
    (tmp_path / "the gone place" / "mine").rename(tmp_path / "elsewhere")
    write_files(tmp_path / "the changed place" / "mine", tiny_files(2))

    async def look(folder: Path, work: Callable[[], bool]) -> bool:
        if "dead" in str(folder):
            raise TimeoutError
        return work()

    monkeypatch.setattr(converted, "run_abandonable", look)
    await store.remove("toy")
    assert [name for name, path in converted_from.items() if path.exists()] == ["dead", "stick"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has arbitrary bytes in names")
async def test_a_folder_may_contain_files_with_undecodable_names(
    tmp_path: Path, store: ModelStore, converter: Converter
) -> None:
    folder = write_files(tmp_path / "mine", tiny_files(1))
    Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.json")).touch()
    made_here = await store.convert(str(folder), FORMAT, "int8")
    assert await store.convert(str(folder), FORMAT, "int8") == made_here


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="a superuser may write anywhere")
async def test_a_read_only_store_serves_its_conversions(store: ModelStore, converter: Converter) -> None:
    path = await store.convert("toy", FORMAT, "int8")
    folders = [store.root, *(one for one in store.root.rglob("*") if one.is_dir() and not one.is_symlink())]
    for folder in folders:
        folder.chmod(0o500)
    try:
        assert await store.convert("toy", FORMAT, "int8") == path
        with pytest.raises(WhisperdError) as caught:
            await store.convert("toy", FORMAT, "float16")
        assert caught.value.code == "model.read_only"
    finally:
        for folder in folders:
            folder.chmod(0o700)


# Conversions that replace one of the model's files

REPLACING = replace(FORMAT, name="other", replaces="model.bin")


async def test_an_engine_gets_a_folder_with_the_file_replaced(
    make: Callable[[], ModelStore], store: ModelStore, converter: Converter, weights: bytes
) -> None:
    assert await store.converted("toy", REPLACING, "int8") is None
    folder = await store.convert("toy", REPLACING, "int8")
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert files == {**tiny_files(), "model.bin": b"int8" + weights[::-1]}
    assert await make().convert("toy", REPLACING, "int8") == folder
    assert await store.converted("toy", REPLACING, "int8") == folder
    assert converter.calls == ["int8"]
    size = (await store.describe("toy")).size
    assert await store.remove("toy") == size
    assert not folder.exists() and not made(store)


async def test_a_folder_whose_file_was_changed_is_made_again(
    store: ModelStore, converter: Converter, weights: bytes
) -> None:
    folder = await store.convert("toy", REPLACING, "int8")
    (folder / "model.bin").write_bytes(b"int4" + weights[::-1])
    assert await store.converted("toy", REPLACING, "int8") is None
    assert await store.convert("toy", REPLACING, "int8") == folder
    assert (folder / "model.bin").read_bytes() == b"int8" + weights[::-1]
    newer = await store.convert("toy", replace(REPLACING, version=2), "int8")
    assert newer.is_dir() and not folder.exists()


async def test_an_unfinished_folder_is_made_again(store: ModelStore, converter: Converter) -> None:
    folder = await store.convert("toy", REPLACING, "int8")
    folder.rename(folder.with_name(".0123"))
    assert await store.convert("toy", REPLACING, "int8") == folder
    assert not list(folder.parent.glob(".*"))


async def test_a_model_that_needs_no_conversion_is_checked_once(
    store: ModelStore, converter: Converter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONVERTER_FAILS", "none")
    for _ in range(2):
        assert await store.convert("toy", REPLACING, "int8") == await store.path("toy")
    assert converter.calls == ["int8"]


# Ready-made files

READY_REPO = "Someone/toy-files"
READY_NAME = "toy-int8.bin"
READY = bytes(range(256)) * 8000


@pytest.fixture
def make_ready(tmp_path: Path, hub: Hub) -> Callable[..., ModelStore]:
    """Make stores whose catalogue names a file on the hub; the model itself comes from a folder."""
    share = tmp_path / "share"
    write_files(share / "toy", tiny_files())
    hub.add(READY_REPO, {READY_NAME: READY})
    (file,) = known_files({READY_NAME: READY})
    ready = (ReadyFile(format="toy", precision="int8", repo=READY_REPO, file=file),)
    settings = HubSettings(connect_timeout_s=60, read_timeout_s=60, retry_delay_s=0.01, attempts=1)

    def make(**options: object) -> ModelStore:
        return ModelStore(
            tmp_path / "models",
            catalogue=catalogue_of(toy_entry(tiny_files(), ready=ready)),
            sources=[FolderSource(share), HubSource(settings)],
            **options,  # type: ignore[arg-type]
        )

    return make


@pytest.fixture
async def ready_store(make_ready: Callable[..., ModelStore]) -> ModelStore:
    store = make_ready()
    await store.pull("toy")
    return store


async def test_a_file_on_the_hub_is_used_instead_of_converting(
    ready_store: ModelStore, converter: Converter, hub: Hub, weights: bytes
) -> None:
    told: list[Progress] = []
    path = await ready_store.convert("toy", FORMAT, "int8", on_progress=told.append)
    assert path.read_bytes() == READY
    assert {"downloading"} <= {one.detail for one in told} <= {"downloading", "verifying"}
    assert {one.name for one in told} == {"toy"}, "the client waits for this model"
    assert converter.calls == []
    asked = len(hub.requests)
    assert await ready_store.convert("toy", FORMAT, "int8") == path
    assert len(hub.requests) == asked
    assert [one.name for one in await ready_store.list()] == ["toy"], "the file is not a separate model"
    made_here = await ready_store.convert("toy", FORMAT, "float16")
    assert made_here.read_bytes() == b"float16" + weights[::-1], "the hub has no file of that precision"
    await ready_store.remove("toy")
    assert not made(ready_store)
    assert not list((ready_store.root / "blobs").iterdir())


async def test_ready_files_that_differ_from_the_catalogue_are_refused(
    ready_store: ModelStore, converter: Converter, hub: Hub, weights: bytes
) -> None:
    hub.flip = READY_NAME
    path = await ready_store.convert("toy", FORMAT, "int8")
    assert path.read_bytes() == b"int8" + weights[::-1]
    assert hub.asked(READY_NAME)


async def test_an_unreachable_hub_is_skipped_and_not_asked_again(
    make_ready: Callable[..., ModelStore],
    converter: Converter,
    hub: Hub,
    weights: bytes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = make_ready()
    await store.pull("toy")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    path = await store.convert("toy", FORMAT, "int8")
    assert path.read_bytes() == b"int8" + weights[::-1]
    path.unlink()
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    assert (await store.convert("toy", FORMAT, "int8")).read_bytes() == b"int8" + weights[::-1]
    assert not hub.asked(READY_NAME)


async def test_the_hub_is_not_asked_where_downloads_are_forbidden(
    make_ready: Callable[..., ModelStore], ready_store: ModelStore, converter: Converter, hub: Hub
) -> None:
    await ready_store.for_trials().convert("toy", FORMAT, "int8")
    await make_ready(offline=True).convert("toy", replace(FORMAT, version=2), "int8")
    assert converter.calls == ["int8"] * 2 and not hub.asked(READY_REPO)


async def test_a_download_that_does_not_fit_on_the_disk_is_reported(
    make_ready: Callable[..., ModelStore], ready_store: ModelStore, converter: Converter
) -> None:
    with pytest.raises(WhisperdError) as caught:
        await make_ready(free_bytes=lambda _: 1000).convert("toy", FORMAT, "int8")
    assert caught.value.code == "disk.full"
    assert not converter.calls and not made(ready_store)


async def cancel_a_download(store: ModelStore, hub: Hub) -> None:
    hub.stall_after = len(READY) // 2
    told: list[Progress] = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(store.convert, "toy", FORMAT, "int8", None, told.append)
        await until(lambda: told and told[-1].done)
        tasks.cancel_scope.cancel()


async def test_a_cancelled_download_is_removed_with_its_model(
    ready_store: ModelStore, converter: Converter, hub: Hub
) -> None:
    await cancel_a_download(ready_store, hub)
    partial = ready_store.root / "partial"
    assert list(partial.iterdir())
    await ready_store.remove("toy")
    assert not list(partial.iterdir())


async def test_a_cancelled_download_is_resumed(
    ready_store: ModelStore, converter: Converter, hub: Hub
) -> None:
    await cancel_a_download(ready_store, hub)
    assert not made(ready_store)
    hub.stall_after = None
    hub.gate.set()
    before = hub.served.get(READY_NAME, 0)
    path = await ready_store.convert("toy", FORMAT, "int8")
    assert path.read_bytes() == READY
    assert hub.served[READY_NAME] - before < len(READY)
    assert converter.calls == []


async def test_a_model_with_the_same_file_as_one_on_the_hub_keeps_it(
    ready_store: ModelStore, converter: Converter, tmp_path: Path
) -> None:
    write_files(tmp_path / "mine", {**tiny_files(), "model.bin": READY})
    mine = await ready_store.import_model(tmp_path / "mine")
    path = await ready_store.convert("toy", FORMAT, "int8")
    assert path.read_bytes() == READY == Path(mine.path, "model.bin").read_bytes()
    await ready_store.remove("toy")
    await ready_store.verify("mine")


async def test_a_download_cancelled_when_it_is_complete_is_used_the_next_time(
    ready_store: ModelStore, converter: Converter, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    def admit(self: storage.Storage, *given: Any) -> StoredFile:
        admitted = admit_now(self, *given)
        anyio.from_thread.run_sync(scope.cancel)
        return admitted

    admit_now = storage.Storage.admit
    with monkeypatch.context() as patch, anyio.CancelScope() as scope:
        patch.setattr(storage.Storage, "admit", admit)
        await ready_store.convert("toy", FORMAT, "int8")
    assert scope.cancelled_caught and not made(ready_store)
    served = hub.served[READY_NAME]
    assert (await ready_store.convert("toy", FORMAT, "int8")).read_bytes() == READY
    assert hub.served[READY_NAME] == served and converter.calls == []
    assert len(list((ready_store.root / "blobs").iterdir())) == len(tiny_files())
    assert not list((ready_store.root / "partial").iterdir())


def test_the_catalogue_lists_hashes_of_ready_files() -> None:
    ready = [(model.name, one) for model in shipped_catalogue().models for one in model.ready]
    assert len({one.file.sha256 for _, one in ready}) == len(ready) >= 20
    for name, one in ready:
        suffix = {"float16": "", "int8": "-q8_0"}[one.precision]
        assert (one.format, one.file.name) == ("ggml", f"ggml-{name}{suffix}.bin")
        assert one.file.size_bytes and one.file.sha256


@pytest.mark.skipif(os.name == "nt", reason="links are forbidden to most")
async def test_links_work_in_a_store_behind_a_link(
    tmp_path: Path, make: Callable[[], ModelStore], converter: Converter
) -> None:
    """Regardless of the depth of the store's folder; the links are recreated after the store has moved."""
    (tmp_path / "models").symlink_to(deep := tmp_path.joinpath(*"abcdefghijklmnopqrst"))
    deep.mkdir(parents=True)
    mine = write_files(tmp_path / "mine", tiny_files())
    for name in ("toy", str(mine)):
        store = make()
        await store.pull(name)
        folder = await store.convert(name, REPLACING, "int8")
        assert {path.name for path in folder.iterdir() if path.is_file()} == set(tiny_files())
    (tmp_path / "models").unlink()
    deep.rename(tmp_path / "models")
    assert await make().converted(str(mine), REPLACING, "int8") is None
    folder = await make().convert(str(mine), REPLACING, "int8")
    assert (folder / "config.json").read_bytes() == tiny_files()["config.json"]


async def test_a_model_on_another_drive_is_linked_by_its_absolute_path(
    tmp_path: Path, store: ModelStore, converter: Converter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def relpath(path: object, _: object) -> str:
        raise ValueError(f"{path} is on mount 'D:', start on mount 'C:'")

    mine = write_files(tmp_path / "mine", tiny_files())
    monkeypatch.setattr("whisperd.models.storage.os.path.relpath", relpath)
    folder = await store.convert(str(mine), REPLACING, "int8")
    assert (folder / "config.json").read_bytes() == tiny_files()["config.json"]
