"""Store models in formats other than the store's own: downloaded from the hub if it has them, else converted
from models in the store or from a user's folder.

    converted/<hash of the source>/
        <precision>.<format><version>         a converted file
        <precision>.<format><version>.json    its hash and stamp when it was written
        <precision>.<format><version>.model/  links to it and to the source's other files, if it replaces one
        source                                the path of the user's folder it was converted from, if any

A child process writes each file under a temporary name, and it is then renamed into place: it is complete or
absent. An engine gets a file only while its bytes are those that were written. The hash of a source covers
the hashes of all files of a stored model, or the stamps of all files of a folder that is used in place.
"""

from __future__ import annotations

import errno
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
from whisperd.decodable import decodable
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
"""Downloads a ready-made file to a path and verifies it; returns whether there was one."""

_IN_PLACE = "source"


@dataclass(frozen=True)
class ConvertedSource:
    """A model to convert from."""

    name: str
    """For display."""
    folder: Path
    hash: str
    locks: tuple[str, ...]
    """The locks of the store to hold before changing files converted from it; exclusive across processes."""
    in_place: bool = False
    """Whether the folder is a user's."""

    @classmethod
    def stored(cls, manifest: Manifest, folder: Path) -> ConvertedSource:
        """Return the source for a model of the store."""
        lines = sorted(f"{file.sha256}  {file.name}" for file in manifest.files)
        hash = hashlib.sha256("\n".join(lines).encode()).hexdigest()
        # The model's lock prevents its removal; the other is shared with models that have the same files.
        return cls(manifest.name, folder, hash, (key_of(manifest.name), f"converted-{hash}"))

    @classmethod
    def used_in_place(cls, folder: Path) -> ConvertedSource:
        """Return the source for a user's folder. Raises `model.invalid_folder`."""
        # Derived from the path, so that it stays the same when the folder's content changes.
        lock = f"converted-{hashlib.sha256(os.fsencode(folder)).hexdigest()}"
        return cls(str(folder), folder, hash_stamps(folder), (lock,), in_place=True)

    @property
    def size_bytes(self) -> int:
        """The total size of its files."""
        return sum(path.stat().st_size for path in self.folder.iterdir() if path.is_file())


@dataclass(frozen=True)
class Conversion:
    """A conversion: a model, the target format and the precision."""

    source: ConvertedSource
    format: ModelFormat
    precision: str
    """The type of its weights."""


class ConvertedModels:
    """The converted files, in a folder next to the store's own files."""

    def __init__(self, storage: Storage, free_bytes: Callable[[Path], int]) -> None:
        self._storage = storage
        self._folder = storage.root / "converted"
        self._free_bytes = free_bytes

    def find(self, wanted: Conversion) -> Path | None:
        """Return the path to load if the file exists and is intact. Rereads it only if it changed. Blocks."""
        path = self._path(wanted)
        try:
            return _loadable(wanted, path) if _is_intact(path) else None
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
        """Return the path to load, fetching or converting the file first if it does not exist: the file, or
        the folder in which it replaces another. Cancelling ends the child and leaves nothing behind.

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
        """Return the total size of the files converted from a model."""
        return disk.files_bytes(self._folder / source.hash)

    async def drop_damaged(self, source: ConvertedSource, on_progress: OnProgress) -> list[str]:
        """Read every file converted from a model, remove the damaged ones, and return their names. They are
        converted again when needed. Raises `model.read_only`, `model.storage_failed`.
        """
        in_thread = anyio.to_thread.run_sync
        with os_errors(source.name, self._storage.root):
            bad = await in_thread(self._damaged, source, from_thread(on_progress))
            if not bad:  # a read-only store needs no lock
                return []
            async with self._hold(source, on_progress):
                return await in_thread(_drop_damaged, bad)

    async def outdated(self) -> set[str]:
        """Return the hashes of conversions whose source, a user's folder, was deleted or changed since."""
        found = await anyio.to_thread.run_sync(self._in_place)
        outdated = set()

        async def look(hash: str, folder: Path) -> None:
            with suppress(TimeoutError):  # it is on a network drive that does not respond
                if await run_abandonable(folder, lambda: _is_outdated(hash, folder)):
                    outdated.add(hash)

        async with anyio.create_task_group() as tasks:
            for hash, folder in found.items():
                tasks.start_soon(look, hash, folder)
        return outdated

    def clear(self, sources: Iterable[ConvertedSource], outdated: Collection[str]) -> int:
        """Remove the files converted from stored models other than `sources`, and those converted from users'
        folders that are `outdated`. Returns the bytes freed. Blocks.
        """
        kept = {*(source.hash for source in sources), *self._in_place()} - set(outdated)
        freed_bytes = 0
        for folder in disk.contents(self._folder):
            if folder.name not in kept:
                freed_bytes += disk.files_bytes(folder)
                shutil.rmtree(folder, ignore_errors=True)
        return freed_bytes

    def _in_place(self) -> dict[str, Path]:
        """Return the users' folders that files were converted from, by their hashes at that time."""
        folders = {folder.name: _folder_in_place(folder) for folder in disk.contents(self._folder)}
        return {hash: folder for hash, folder in folders.items() if folder is not None}

    def _damaged(self, source: ConvertedSource, report: OnProgress) -> list[Path]:
        paths = [each.with_suffix("") for each in sorted((self._folder / source.hash).glob("*.json"))]
        total = sum(path.stat().st_size for path in paths if path.exists())
        meter = Meter(source.name, report, detail="verifying", total=total)
        return [path for path in paths if _is_damaged(path, meter.adder(path.name))]

    async def _make(
        self, wanted: Conversion, bundle: Path | None, on_progress: OnProgress, fetch: FetchReady | None
    ) -> Path:
        in_thread = anyio.to_thread.run_sync
        source, path = wanted.source, self._path(wanted)
        needed_bytes = await in_thread(_prepare_folder, source, path.parent)
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
        """Move a finished file into place, record it, and remove those of earlier versions."""
        source, path = wanted.source, self._path(wanted)
        with incoming.open("rb+") as file:
            os.fsync(file.fileno())
        sha256 = hash_file(incoming).sha256
        for former in path.parent.glob(f"{wanted.precision}.{wanted.format.name}[0-9]*"):
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
        """Remove files converted from earlier contents of a user's folder: nothing can request them again."""
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


def _prepare_folder(source: ConvertedSource, folder: Path) -> int:
    """Prepare the folder for the files converted from a model; return how many bytes a file may take.

    Raises OSError, also if nothing can be written there: the child would not say which file is concerned.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
    for leftover in folder.glob(".*"):  # of a conversion that was killed
        disk.remove(leftover)
    if source.in_place:
        (folder / _IN_PLACE).write_text(str(source.folder), encoding="utf-8")
    return source.size_bytes


def _is_intact(path: Path) -> bool:
    """Whether a file has the bytes that were written. Raises OSError, ValueError or RecursionError if the
    file or a readable record of it is missing."""
    made = msgspec.json.decode(_record(path).read_bytes(), type=decodable(Verified))
    if made.stamp == stamp(path):
        return True
    digests = hash_file(path)
    if digests.sha256 != made.sha256:
        return False
    with suppress(OSError):  # in a read-only store, every process reads the file once
        _note(path, Verified(digests.sha256, digests.stamp))
    return True


def _drop_damaged(bad: Sequence[Path]) -> list[str]:
    """Remove those of these files that are still damaged; one may have been converted again meanwhile."""
    bad = [path for path in bad if _is_damaged(path)]
    for path in bad:
        for part in (_record(path), _model_folder(path), path):
            disk.remove(part)
    return [path.name for path in bad]


def _is_damaged(path: Path, on_bytes: OnBytes | None = None) -> bool:
    """Whether the bytes of a file differ from those that were written, whatever its stamp says.

    Raises OSError if it cannot be read, which may be transient.
    """
    try:
        made = msgspec.json.decode(_record(path).read_bytes(), type=decodable(Verified))
        return hash_file(path, on_bytes=on_bytes).sha256 != made.sha256
    except FileNotFoundError:
        return False  # it is converted again in any case
    except (ValueError, RecursionError):
        return True


def _loadable(wanted: Conversion, path: Path) -> Path:
    """Return what an engine loads for a file that is in place: the file or a folder. Raises OSError."""
    if wanted.format.replaces is None:
        return path
    if path.stat().st_size == 0:
        return wanted.source.folder
    folder = _model_folder(path)
    for file in folder.iterdir():
        file.stat()  # a link may be broken: the store was moved, but the user's folder was not
    return folder


def _link_model(source: ConvertedSource, replaced: str, path: Path) -> None:
    """Create a folder with links to all files of a model, except that `path` replaces one of them."""
    folder = _model_folder(path)
    folder.mkdir()
    folder = folder.resolve()  # like the targets of its links: the store's path may contain a symlink
    for other in source.folder.iterdir():
        if other.is_file() and other.name != replaced:
            link_file(other.resolve(), folder / other.name)
    link_file(path.resolve(), folder / replaced)


async def _convert(wanted: Conversion, target: Path, bundle: Path | None, meter: Meter) -> None:
    """Convert a file in a child process. Raises `model.conversion_failed`, OSError."""
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
            match msgspec.json.decode(line, type=decodable(ConvertLine)):
                case Read(done=done):
                    meter.report(done)
                case NotConverted(reason=reason, errno=number):
                    if number is not None and disk.refusal(OSError(number, "")) == "full":
                        raise OSError(number, reason)
                    # For other system errors, the file concerned is unknown.
                    raise _conversion_failed(wanted, reason)
                case Converted():
                    return
        stderr = child.last_words()
    log.warning("conversion of %s ended without a result: %s", wanted.source.name, stderr)
    reason = stderr.rpartition("\n")[2] or "it ended without a result"
    raise _conversion_failed(wanted, reason)


def _conversion_failed(wanted: Conversion, reason: str) -> WhisperdError:
    name, format_name = wanted.source.name, wanted.format.name
    return WhisperdError(
        "model.conversion_failed",
        f"The model {name} could not be converted to {format_name}: {reason.rstrip('.')}.",
        f"Check the model with `whisperctl models verify {name}`, or use a backend that needs no conversion: "
        "`--backend ctranslate2`.",
        {"name": name, "format": format_name},
    )


def _note(path: Path, made: Verified) -> None:
    disk.write_whole(_record(path), msgspec.json.encode(made))


def _record(path: Path) -> Path:
    """Return the path of a file's record. It is written last: a file without a record does not count."""
    return path.with_name(f"{path.name}.json")


def _model_folder(path: Path) -> Path:
    return path.with_name(f"{path.name}.model")


def _folder_in_place(folder: Path) -> Path | None:
    """Return the user's folder that the files in `folder` were converted from; None for a stored model."""
    try:
        return Path((folder / _IN_PLACE).read_text("utf-8"))
    except (OSError, ValueError):
        return None


def _is_outdated(hash: str, folder: Path) -> bool:
    """Whether a user's folder was deleted or has changed. False if its disk is not mounted or fails, because
    then neither is known."""
    try:
        return hash_stamps(folder) != hash
    except WhisperdError as error:
        return isinstance(error.__cause__, FileNotFoundError) and folder.parent.exists()
    except ValueError:
        return True
