"""Models in another format than the store's: taken from the hub where it has them, else made here from those
in the store or from a user's folder.

    converted/<hash of the source>/
        <precision>.<format><version>         a file
        <precision>.<format><version>.json    what it was when it was made
        <precision>.<format><version>.model/  links to it and to the source's other files, if it replaces one
        source                                the user's folder that it was made from, if it was one

A file is made in a child process under a name of its own and renamed into place, so it is whole or not there.
It is given to an engine only while its bytes are those that were written. Its source's hash is over the
hashes of all files of a model in the store, and over the stamps of those in a folder that is used in place.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import anyio.to_thread
import msgspec

from whisperd import disk
from whisperd.isolation import isolated_environment
from whisperd.locks import hold_lock
from whisperd.models.children import ask_child
from whisperd.models.errors import disk_full, os_errors
from whisperd.models.folders import hash_stamps
from whisperd.models.hashing import OnBytes, hash_file, settle, stamp
from whisperd.models.manifest import Manifest, Verified
from whisperd.models.messages import Converted, ConvertLine, ConvertRequest, NotConverted, Read
from whisperd.models.names import key_of
from whisperd.models.storage import Storage, link_file
from whisperd.plugins import ModelFormat
from whisperd.progress import Meter, OnProgress, Progress, from_thread
from whisperd.rpc.errors import WhisperdError
from whisperd.threads import run_abandonable

__all__ = ["Conversion", "ConvertedModels", "ConvertedSource", "FetchReady"]

log = logging.getLogger(__name__)

FetchReady = Callable[[Path], Awaitable[bool]]
"""Brings a file that others have made to a path, verified, and answers whether there was one."""

_IN_PLACE = "source"


@dataclass(frozen=True)
class ConvertedSource:
    """A model that is converted."""

    name: str
    """As a person calls it."""
    folder: Path
    hash: str
    locks: tuple[str, ...]
    """Whoever holds these of the store is the only one, in any process, who changes what is made of it."""
    in_place: bool = False
    """Whether the folder is a user's."""

    @classmethod
    def stored(cls, manifest: Manifest, folder: Path) -> ConvertedSource:
        """A model of the store."""
        lines = sorted(f"{file.sha256}  {file.name}" for file in manifest.files)
        hash = hashlib.sha256("\n".join(lines).encode()).hexdigest()
        # Of the model, that it is not removed; and of what is made of others with the same files, too.
        return cls(manifest.name, folder, hash, (key_of(manifest.name), f"converted-{hash}"))

    @classmethod
    def used_in_place(cls, folder: Path) -> ConvertedSource:
        """A folder of the user's. Raises `model.invalid_folder`."""
        lock = f"converted-{hashlib.sha256(os.fsencode(folder)).hexdigest()}"  # the same when it has changed
        return cls(str(folder), folder, hash_stamps(folder), (lock,), in_place=True)

    @property
    def size_bytes(self) -> int:
        """All its files together."""
        return sum(path.stat().st_size for path in self.folder.iterdir() if path.is_file())


@dataclass(frozen=True)
class Conversion:
    """A model in another format."""

    source: ConvertedSource
    format: ModelFormat
    precision: str
    """The type of its weights."""


class ConvertedModels:
    """The files that were made, beside the store's."""

    def __init__(self, storage: Storage, free_bytes: Callable[[Path], int]) -> None:
        self._storage = storage
        self._folder = storage.root / "converted"
        self._free_bytes = free_bytes

    def find(self, wanted: Conversion) -> Path | None:
        """What an engine is given, if it is there as it was made. Reads it only if it was touched. Blocks."""
        path = self._path(wanted)
        try:
            return _loadable(wanted, path) if _is_as_it_was_made(path) else None
        except (OSError, ValueError, RecursionError):
            return None

    async def make(
        self,
        wanted: Conversion,
        *,
        bundle: Path | None,
        on_progress: OnProgress,
        fetch: FetchReady | None = None,
    ) -> Path:
        """What an engine is given, fetched or made unless it is there: the file, or the folder in which it
        replaces another. Cancelling ends the child and leaves nothing.

        Raises `model.conversion_failed`, `disk.full`, `model.read_only`.
        """
        with os_errors(wanted.source.name, self._storage.root):
            if found := await anyio.to_thread.run_sync(self.find, wanted):
                return found
            async with self._hold(wanted.source, on_progress):
                if found := await anyio.to_thread.run_sync(self.find, wanted):
                    return found
                return await self._make(wanted, bundle, on_progress, fetch)

    def size_bytes(self, source: ConvertedSource) -> int:
        """What the files that were made of a model take."""
        return disk.files_bytes(self._folder / source.hash)

    async def drop_damaged(self, source: ConvertedSource, on_progress: OnProgress) -> list[str]:
        """Read every byte of what was made of a model. What has another is removed, and made anew when it is
        needed; the names of these files. Raises `model.read_only`, `model.storage_failed`.
        """
        in_thread = anyio.to_thread.run_sync
        with os_errors(source.name, self._storage.root):
            bad = await in_thread(self._damaged, source, from_thread(on_progress))
            if not bad:  # a store that is only read from needs no lock
                return []
            async with self._hold(source, on_progress):
                return await in_thread(_drop_damaged, bad)

    async def outdated(self) -> set[str]:
        """Of what was made of users' folders, the hashes of those that are gone, or others now."""
        found = await anyio.to_thread.run_sync(self._in_place)
        outdated = set()

        async def look(hash: str, folder: Path) -> None:
            with suppress(TimeoutError):  # it is on a network that does not answer
                if await run_abandonable(folder, lambda: _is_outdated(hash, folder)):
                    outdated.add(hash)

        async with anyio.create_task_group() as tasks:
            for hash, folder in found.items():
                tasks.start_soon(look, hash, folder)
        return outdated

    def clear(self, sources: Iterable[ConvertedSource], outdated: Collection[str]) -> int:
        """Remove what was made of others than these models of the store, but of users' folders only what is
        outdated; the bytes that this frees. Blocks.
        """
        kept = {*(source.hash for source in sources), *self._in_place()} - set(outdated)
        freed_bytes = 0
        for folder in disk.contents(self._folder):
            if folder.name not in kept:
                freed_bytes += disk.files_bytes(folder)
                shutil.rmtree(folder, ignore_errors=True)
        return freed_bytes

    def _in_place(self) -> dict[str, Path]:
        """The users' folders of which something was made, by their hashes then."""
        folders = {folder.name: _folder_in_place(folder) for folder in disk.contents(self._folder)}
        return {hash: folder for hash, folder in folders.items() if folder is not None}

    def _damaged(self, source: ConvertedSource, tell: OnProgress) -> list[Path]:
        paths = [each.with_suffix("") for each in sorted((self._folder / source.hash).glob("*.json"))]
        total = sum(path.stat().st_size for path in paths if path.exists())
        meter = Meter(source.name, tell, detail="verifying", total=total)
        return [path for path in paths if _is_damaged(path, meter.adder(path.name))]

    async def _make(
        self, wanted: Conversion, bundle: Path | None, on_progress: OnProgress, fetch: FetchReady | None
    ) -> Path:
        in_thread = anyio.to_thread.run_sync
        source, path = wanted.source, self._path(wanted)
        needed_bytes = await in_thread(_begin, source, path.parent)
        incoming = path.with_name(f".{uuid.uuid4().hex}")
        try:
            if fetch is None or not await fetch(incoming):
                free_bytes = self._free_bytes(path.parent)
                if free_bytes < needed_bytes:
                    raise disk_full(source.name, self._storage.root, needed_bytes, free_bytes)
                meter = Meter(source.name, on_progress, detail="converting", total=needed_bytes)
                meter.report(0)
                await _convert(wanted, incoming, bundle, meter)
                meter.report(needed_bytes)
            return await in_thread(self._install, wanted, incoming)
        finally:
            with anyio.CancelScope(shield=True):
                await in_thread(partial(incoming.unlink, missing_ok=True))

    def _install(self, wanted: Conversion, incoming: Path) -> Path:
        """Put a finished file into place, and on record, in place of those of earlier versions."""
        source, path = wanted.source, self._path(wanted)
        with incoming.open("rb+") as file:
            os.fsync(file.fileno())
        sha256 = hash_file(incoming).sha256
        for former in path.parent.glob(f"{path.name.rstrip('0123456789')}*"):
            disk.remove(former)
        incoming.replace(path)
        if wanted.format.replaces is not None:
            _link_model(source, wanted.format.replaces, path)
        settle([path])
        _note(path, Verified(sha256, stamp(path)))
        if source.in_place:
            self._clear_earlier(source)
        return _loadable(wanted, path)

    def _clear_earlier(self, source: ConvertedSource) -> None:
        """Remove what was made of a user's folder when it was another: nobody would ask for it again."""
        for folder in disk.contents(self._folder):
            if folder.name != source.hash and _folder_in_place(folder) == source.folder:
                shutil.rmtree(folder, ignore_errors=True)

    @asynccontextmanager
    async def _hold(self, source: ConvertedSource, on_progress: OnProgress) -> AsyncIterator[None]:
        waiting = Progress(name=source.name, detail="waiting")
        async with AsyncExitStack() as stack:
            for lock in map(self._storage.lock_path, source.locks):
                await stack.enter_async_context(hold_lock(lock, lambda: on_progress(waiting)))
            yield

    def _path(self, wanted: Conversion) -> Path:
        name = f"{wanted.precision}.{wanted.format.name}{wanted.format.version}"
        return self._folder / wanted.source.hash / name


def _begin(source: ConvertedSource, folder: Path) -> int:
    """Make the folder for what is made of a model ready; how many bytes it may take."""
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob(".*"):  # of one that was killed
        disk.remove(leftover)
    if source.in_place:
        (folder / _IN_PLACE).write_text(str(source.folder), encoding="utf-8")
    return source.size_bytes


def _is_as_it_was_made(path: Path) -> bool:
    """Raises OSError, ValueError, RecursionError where it is not there, or nothing tells of it."""
    made = msgspec.json.decode(_record(path).read_bytes(), type=Verified)
    if made.stamp == stamp(path):
        return True
    digests = hash_file(path)
    if digests.sha256 != made.sha256:
        return False
    with suppress(OSError):  # where nothing can be written, it is read in every process
        _note(path, Verified(digests.sha256, digests.stamp))
    return True


def _drop_damaged(bad: Sequence[Path]) -> list[str]:
    """Remove those of these files that are damaged still; one may have been made anew meanwhile."""
    bad = [path for path in bad if _is_damaged(path)]
    for path in bad:
        for part in (_record(path), _model_folder(path), path):
            disk.remove(part)
    return [path.name for path in bad]


def _is_damaged(path: Path, on_bytes: OnBytes | None = None) -> bool:
    """Whether a file has another byte than it was made with, whatever its stamp says. Raises OSError where it
    cannot be read, which may pass.
    """
    try:
        made = msgspec.json.decode(_record(path).read_bytes(), type=Verified)
        return hash_file(path, on_bytes=on_bytes).sha256 != made.sha256
    except FileNotFoundError:
        return False  # it is made anew in any case
    except (ValueError, RecursionError):
        return True


def _loadable(wanted: Conversion, path: Path) -> Path:
    """What an engine is given of a file that is in its place. Raises OSError."""
    if wanted.format.replaces is None:
        return path
    if path.stat().st_size == 0:
        return wanted.source.folder
    folder = _model_folder(path)
    for file in folder.iterdir():
        file.stat()  # what it leads to may be gone: the store was moved, and the user's folder was not
    return folder


def _link_model(source: ConvertedSource, replaced: str, path: Path) -> None:
    """Make the folder of a model in which a file replaces one of its own."""
    folder = _model_folder(path)
    folder.mkdir()
    folder = folder.resolve()  # as what it links to: the store may lie behind a link
    for other in source.folder.iterdir():
        if other.is_file() and other.name != replaced:
            link_file(other.resolve(), folder / other.name)
    link_file(path.resolve(), folder / replaced)


async def _convert(wanted: Conversion, target: Path, bundle: Path | None, meter: Meter) -> None:
    """Make a file in a child. Raises `model.conversion_failed`, OSError."""
    request = ConvertRequest(
        convert=wanted.format.convert,
        bundle=str(bundle) if bundle else None,
        source=str(wanted.source.folder),
        target=str(target),
        precision=wanted.precision,
    )
    environment = isolated_environment(os.environ, bundle) if bundle else None
    async with ask_child("whisperd.models.convert", request, environment) as child:
        while (line := await child.next_line()) is not None:
            match msgspec.json.decode(line, type=ConvertLine):
                case Read(done=done):
                    meter.report(done)
                case NotConverted(reason=reason, errno=number):
                    if number is not None and disk.refusal(OSError(number, "")) == "full":
                        raise OSError(number, reason)
                    # Of another error of the system it is not known of which file.
                    raise _conversion_failed(wanted, reason)
                case Converted():
                    return
        said = child.last_words()
    log.warning("the conversion of %s ended without a result: %s", wanted.source.name, said)
    reason = said.rpartition("\n")[2] or "it ended without a result"
    raise _conversion_failed(wanted, reason)


def _conversion_failed(wanted: Conversion, reason: str) -> WhisperdError:
    name, format_name = wanted.source.name, wanted.format.name
    return WhisperdError(
        "model.conversion_failed",
        f"The model {name} could not be converted to {format_name}: {reason.rstrip('.')}.",
        f"Check it with `whisperctl models verify {name}`, or take another backend, such as "
        "`--backend ctranslate2`, which needs no conversion.",
        {"name": name, "format": format_name},
    )


def _note(path: Path, made: Verified) -> None:
    disk.write_whole(_record(path), msgspec.json.encode(made))


def _record(path: Path) -> Path:
    """It is written last: without it nothing is there."""
    return path.with_name(f"{path.name}.json")


def _model_folder(path: Path) -> Path:
    return path.with_name(f"{path.name}.model")


def _folder_in_place(folder: Path) -> Path | None:
    """The user's folder of which something in `folder` was made; None of a model of the store."""
    try:
        return Path((folder / _IN_PLACE).read_text("utf-8"))
    except (OSError, ValueError):
        return None


def _is_outdated(hash: str, folder: Path) -> bool:
    """Whether a user's folder is gone, or another than it was. Where its disk is gone, or fails, that is not
    known."""
    try:
        return hash_stamps(folder) != hash
    except WhisperdError as error:
        return isinstance(error.__cause__, FileNotFoundError) and folder.parent.exists()
    except ValueError:
        return True
