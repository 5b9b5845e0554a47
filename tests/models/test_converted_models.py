"""Models in another format: made once, never given to an engine with a wrong byte, gone with their source."""

from __future__ import annotations

import errno
import os
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import anyio
import pytest
from hub_server import Hub
from toy_models import catalogue_of, known_files, tiny_files, toy_entry, write_files

from toy_runtime import until
from whisperd import disk
from whisperd.models import ModelStore, converted, shipped_catalogue
from whisperd.models.catalogue import ReadyFile
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
    """The function that the child calls, and how often it was."""

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
    """What lies in the folder of converted models."""
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


async def test_whether_it_is_there_is_known_without_making_it(
    store: ModelStore, converter: Converter
) -> None:
    assert await store.converted("toy", FORMAT, "int8") is None
    assert converter.calls == []
    path = await store.convert("toy", FORMAT, "int8")
    assert await store.converted("toy", FORMAT, "int8") == path
    assert await store.converted("toy", FORMAT, "float16") is None
    path.write_bytes(b"something else")
    assert await store.converted("toy", FORMAT, "int8") is None


async def test_each_precision_of_the_weights_is_a_file_of_its_own(
    store: ModelStore, converter: Converter
) -> None:
    paths = {await store.convert("toy", FORMAT, each) for each in ("int8", "float16", "int8_float32")}
    assert len(paths) == 2
    assert await store.converted("toy", FORMAT, "int8_float16") in paths
    assert converter.calls == ["int8", "float16"]


async def test_two_who_want_it_at_once_wait_for_one(
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


async def test_a_changed_byte_is_not_given_to_an_engine(
    store: ModelStore, converter: Converter, weights: bytes
) -> None:
    path = await store.convert("toy", FORMAT, "int8")
    path.write_bytes(b"int4" + weights[::-1])
    assert await store.convert("toy", FORMAT, "int8") == path
    assert path.read_bytes() == b"int8" + weights[::-1]


async def test_a_byte_that_changed_by_itself_is_found_when_all_are_read(
    store: ModelStore, converter: Converter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a failing disk, no stamp tells."""
    path = await store.convert("toy", FORMAT, "int8")
    await store.convert("toy", FORMAT, "float16")
    assert (await store.verify("toy")).verified
    good, stamp_of = path.read_bytes(), converted.stamp
    stamp_before = stamp_of(path)
    path.write_bytes(good[:500] + b"?" + good[501:])
    monkeypatch.setattr(converted, "stamp", lambda each: stamp_before if each == path else stamp_of(each))
    assert await store.converted("toy", FORMAT, "int8") == path, "it does not seem to have changed"
    told: list[Progress] = []
    with pytest.raises(WhisperdError) as caught:
        await store.verify("toy", told.append)
    assert {"model.bin", path.name} <= {one.file for one in told} and told[-1].done == told[-1].total
    assert caught.value.code == "model.damaged"
    assert caught.value.data["files"] == [path.name]
    assert "have been removed" in str(caught.value)
    assert "again" in caught.value.fix and "pull" not in caught.value.fix, "nothing can be pulled"
    assert await store.converted("toy", FORMAT, "int8") is None
    assert (await store.verify("toy")).verified
    await store.convert("toy", FORMAT, "int8")
    assert path.read_bytes() == good
    assert converter.calls == ["int8", "float16", "int8"], "the other one is as it was"


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EIO, errno.EACCES, errno.ESTALE])
async def test_what_cannot_be_read_is_not_taken_for_damaged(
    store: ModelStore, converter: Converter, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """It may pass."""
    path = await store.convert("toy", FORMAT, "int8")

    def refuse(_: Path, **_options: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch, pytest.raises(WhisperdError) as caught:
        patch.setattr(converted, "hash_file", refuse)
        await store.verify("toy")
    assert caught.value.code == ("model.read_only" if number == errno.EACCES else "model.storage_failed")
    assert await store.converted("toy", FORMAT, "int8") == path


async def test_what_is_damaged_and_cannot_be_removed_is_told(
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


async def test_what_is_made_anew_meanwhile_is_not_removed(
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


async def test_what_was_only_touched_is_read_and_not_made_again(
    store: ModelStore, converter: Converter
) -> None:
    path = await store.convert("toy", FORMAT, "int8")
    os.utime(path, (1, 1))
    assert await store.convert("toy", FORMAT, "int8") == path
    assert converter.calls == ["int8"]


async def test_a_newer_version_of_the_format_takes_the_place_of_the_older(
    store: ModelStore, converter: Converter
) -> None:
    old = await store.convert("toy", FORMAT, "int8")
    other = await store.convert("toy", FORMAT, "float16")
    new = await store.convert("toy", replace(FORMAT, version=2), "int8")
    assert converter.calls == ["int8", "float16", "int8"]
    assert new.exists() and other.exists() and not old.exists()


async def test_it_is_counted_and_removed_with_its_model(store: ModelStore, converter: Converter) -> None:
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
        ("full", "disk.full", "no room"),
        ("lacks", "model.conversion_failed", "No such file"),
    ],
)
async def test_a_conversion_that_fails_leaves_nothing(
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


async def test_a_full_disk_is_told_before_anything_is_made(
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


async def test_what_a_killed_conversion_left_is_cleared_while_others_are_answered(
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


async def test_a_folder_that_is_used_in_place_is_converted_anew_when_it_changed(
    tmp_path: Path, store: ModelStore, converter: Converter
) -> None:
    folder = write_files(tmp_path / "mine", tiny_files(1))
    first = await store.convert(str(folder), FORMAT, "int8")
    assert first.read_bytes() == b"int8" + tiny_files(1)["model.bin"][::-1]
    assert await store.convert(str(folder), FORMAT, "int8") == first
    (folder / "notes.log").write_text("this changes no text")
    assert await store.convert(str(folder), FORMAT, "int8") == first
    await store.remove("toy")
    assert first.exists(), "its folder is as it was"
    await store.pull("toy")
    write_files(folder, tiny_files(2))
    second = await store.convert(str(folder), FORMAT, "int8")
    assert second.read_bytes() == b"int8" + tiny_files(2)["model.bin"][::-1]
    assert second.exists() and not first.exists(), "nobody would ask for it again"
    assert len(list((store.root / "locks").glob("converted-*"))) == 1
    await store.remove("toy")
    assert second.exists()


async def test_what_was_made_of_other_folders_stays(
    tmp_path: Path, store: ModelStore, converter: Converter
) -> None:
    """Also where they are away, as on a disk that is not mounted."""
    paths = []
    for number in (1, 2):
        folder = write_files(tmp_path / f"mine {number}", tiny_files(number))
        paths.append(await store.convert(str(folder), FORMAT, "int8"))
        folder.rename(tmp_path / f"away {number}")
    paths.append(await store.convert("toy", FORMAT, "int8"))
    folder = write_files(tmp_path / "mine 3", tiny_files(3))
    paths.append(await store.convert(str(folder), FORMAT, "int8"))
    assert all(path.exists() for path in paths)


async def test_what_was_made_of_a_folder_goes_when_that_is_gone_or_changed(
    tmp_path: Path, store: ModelStore, converter: Converter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not where nobody knows: it lies on a disk that is away, or on a network that does not answer."""
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


@pytest.mark.skipif(sys.platform != "linux", reason="names are bytes on Linux alone")
async def test_beside_the_files_of_a_folder_may_lie_whatever_there_is(
    tmp_path: Path, store: ModelStore, converter: Converter
) -> None:
    folder = write_files(tmp_path / "mine", tiny_files(1))
    Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.json")).touch()
    made_here = await store.convert(str(folder), FORMAT, "int8")
    assert await store.convert(str(folder), FORMAT, "int8") == made_here


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="a superuser may write anywhere")
async def test_a_store_that_is_read_only_gives_what_it_has(store: ModelStore, converter: Converter) -> None:
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


# Files that stand for one of the model's

REPLACING = replace(FORMAT, name="other", replaces="model.bin")


async def test_an_engine_gets_a_folder_in_which_it_replaces_another(
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


async def test_a_folder_whose_file_was_changed_is_made_anew(
    store: ModelStore, converter: Converter, weights: bytes
) -> None:
    folder = await store.convert("toy", REPLACING, "int8")
    (folder / "model.bin").write_bytes(b"int4" + weights[::-1])
    assert await store.converted("toy", REPLACING, "int8") is None
    assert await store.convert("toy", REPLACING, "int8") == folder
    assert (folder / "model.bin").read_bytes() == b"int8" + weights[::-1]
    newer = await store.convert("toy", replace(REPLACING, version=2), "int8")
    assert newer.is_dir() and not folder.exists()


async def test_a_folder_that_was_not_finished_is_made_anew(store: ModelStore, converter: Converter) -> None:
    folder = await store.convert("toy", REPLACING, "int8")
    folder.rename(folder.with_name(".0123"))
    assert await store.convert("toy", REPLACING, "int8") == folder
    assert not list(folder.parent.glob(".*"))


async def test_a_model_that_is_best_as_it_is_is_not_looked_at_again(
    store: ModelStore, converter: Converter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONVERTER_FAILS", "none")
    for _ in range(2):
        assert await store.convert("toy", REPLACING, "int8") == await store.path("toy")
    assert converter.calls == ["int8"]


# Files that others have made

READY_REPO = "Someone/toy-files"
READY_NAME = "toy-int8.bin"
READY = bytes(range(256)) * 8000


@pytest.fixture
def make_ready(tmp_path: Path, hub: Hub) -> Callable[..., ModelStore]:
    """Makes stores whose catalogue names a file on the hub; the model itself comes from a folder."""
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


async def test_what_the_hub_has_is_not_made(
    ready_store: ModelStore, converter: Converter, hub: Hub, weights: bytes
) -> None:
    told: list[Progress] = []
    path = await ready_store.convert("toy", FORMAT, "int8", on_progress=told.append)
    assert path.read_bytes() == READY
    assert {"downloading"} <= {one.detail for one in told} <= {"downloading", "verifying"}
    assert {one.name for one in told} == {"toy"}, "which is what somebody waits for"
    assert converter.calls == []
    asked = len(hub.requests)
    assert await ready_store.convert("toy", FORMAT, "int8") == path
    assert len(hub.requests) == asked
    assert [one.name for one in await ready_store.list()] == ["toy"], "it is no model of its own"
    made_here = await ready_store.convert("toy", FORMAT, "float16")
    assert made_here.read_bytes() == b"float16" + weights[::-1], "of that precision the hub has none"
    await ready_store.remove("toy")
    assert not made(ready_store)
    assert not list((ready_store.root / "blobs").iterdir())


async def test_other_bytes_than_the_catalogue_knows_are_not_taken(
    ready_store: ModelStore, converter: Converter, hub: Hub, weights: bytes
) -> None:
    hub.flip = READY_NAME
    path = await ready_store.convert("toy", FORMAT, "int8")
    assert path.read_bytes() == b"int8" + weights[::-1]
    assert hub.asked(READY_NAME)


async def test_a_hub_that_is_not_reached_is_done_without_and_not_asked_again(
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


async def test_nothing_is_asked_where_downloads_are_forbidden(
    make_ready: Callable[..., ModelStore], ready_store: ModelStore, converter: Converter, hub: Hub
) -> None:
    await ready_store.for_trials().convert("toy", FORMAT, "int8")
    await make_ready(offline=True).convert("toy", replace(FORMAT, version=2), "int8")
    assert converter.calls == ["int8"] * 2 and not hub.asked(READY_REPO)


async def test_a_download_for_which_there_is_no_room_is_told(
    make_ready: Callable[..., ModelStore], ready_store: ModelStore, converter: Converter
) -> None:
    with pytest.raises(WhisperdError) as caught:
        await make_ready(free_bytes=lambda _: 1000).convert("toy", FORMAT, "int8")
    assert caught.value.code == "disk.full"
    assert not converter.calls and not made(ready_store)


async def give_up_a_download(store: ModelStore, hub: Hub) -> None:
    hub.stall_after = len(READY) // 2
    told: list[Progress] = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(store.convert, "toy", FORMAT, "int8", None, told.append)
        await until(lambda: told and told[-1].done)
        tasks.cancel_scope.cancel()


async def test_a_download_that_was_given_up_goes_with_its_model(
    ready_store: ModelStore, converter: Converter, hub: Hub
) -> None:
    await give_up_a_download(ready_store, hub)
    partial = ready_store.root / "partial"
    assert list(partial.iterdir())
    await ready_store.remove("toy")
    assert not list(partial.iterdir())


async def test_a_download_that_was_given_up_is_taken_up(
    ready_store: ModelStore, converter: Converter, hub: Hub
) -> None:
    await give_up_a_download(ready_store, hub)
    assert not made(ready_store)
    hub.stall_after = None
    hub.gate.set()
    before = hub.served.get(READY_NAME, 0)
    path = await ready_store.convert("toy", FORMAT, "int8")
    assert path.read_bytes() == READY
    assert hub.served[READY_NAME] - before < len(READY)
    assert converter.calls == []


def test_the_catalogue_knows_the_bytes_of_what_others_have_made() -> None:
    ready = [(model.name, one) for model in shipped_catalogue().models for one in model.ready]
    assert len({one.file.sha256 for _, one in ready}) == len(ready) >= 20
    for name, one in ready:
        suffix = {"float16": "", "int8": "-q8_0"}[one.precision]
        assert (one.format, one.file.name) == ("ggml", f"ggml-{name}{suffix}.bin")
        assert one.file.size_bytes and one.file.sha256


@pytest.mark.skipif(os.name == "nt", reason="links are forbidden to most")
async def test_its_links_lead_there_from_a_store_behind_a_link(
    tmp_path: Path, make: Callable[[], ModelStore], converter: Converter
) -> None:
    """However deep it lies; and they are made anew where the store was moved."""
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


async def test_a_model_on_another_drive_is_linked_by_its_whole_path(
    tmp_path: Path, store: ModelStore, converter: Converter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def relpath(path: object, _: object) -> str:
        raise ValueError(f"{path} is on mount 'D:', start on mount 'C:'")

    mine = write_files(tmp_path / "mine", tiny_files())
    monkeypatch.setattr("whisperd.models.storage.os.path.relpath", relpath)
    folder = await store.convert(str(mine), REPLACING, "int8")
    assert (folder / "config.json").read_bytes() == tiny_files()["config.json"]
