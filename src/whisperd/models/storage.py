"""The model folder on disk. Everything here blocks, and is independent of where files come from.

    blobs/<sha256>            file contents, each stored once even if several models have it
    manifests/<model>.json    the files of a model; writing it is what installs the model
    installed/<model>/        what an engine loads: links to the blobs, under the files' own names
    stamps/<model>.json       what was last verified, so that it is not read again; may be lost
    partial/<model>/          unfinished downloads, named by their expected hashes
    locks/<model>.lock        held by the one process that changes this model

Only `admit` adds a file to `blobs/`, after computing its hash. Each step is a rename or can be
repeated, so a crash at any moment leaves the model unchanged or not installed.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Literal

import msgspec

from whisperd.disk import contents, read_json, remove, sync_folder, write_whole
from whisperd.locks import try_lock
from whisperd.models.catalogue import ModelFile
from whisperd.models.hashing import CHUNK_BYTES, OnBytes, Stamp, check_cancelled, hash_file, settle, stamp
from whisperd.models.manifest import Manifest, StoredFile, Verified
from whisperd.paths import make_private_folder

__all__ = ["Keep", "Mismatch", "Storage", "Unreadable", "link_file"]

log = logging.getLogger(__name__)

Keep = Literal["move", "link", "copy"]
"""How a file gets into the store: moved, linked to its current place, or copied."""

_KEEP_PARTIAL_S = 30 * 24 * 3600.0
"""The age at which an unfinished download is removed."""


class Mismatch(Exception):
    """A file does not have the expected bytes."""

    def __init__(self, name: str, expected: str, found: str) -> None:
        super().__init__(f"{name} should have {expected} but has {found}")
        self.name = name


class Unreadable(Exception):
    """A file to copy or link cannot be read. The text says why, as a clause."""


class Storage:
    """The files of one model folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._stamps: dict[str, dict[str, Verified]] = {}
        self._proven: dict[str, Stamp] = {}
        """The stamps of blobs, by hash, at the time this process last verified them."""

    # Reading

    def manifests(self) -> list[Manifest]:
        """Return every installed model, by name. Raises `OSError` if the folder cannot be read."""
        return [manifest for key in self._keys() if (manifest := self.manifest(key)) is not None]

    def manifest(self, key: str) -> Manifest | None:
        """Return the manifest of a model; None if there is none that can be read."""
        return read_json(self._manifest_path(key), Manifest)

    def intact(self, key: str) -> Manifest | None:
        """Return the manifest of a model if all its bytes are right. Reads only files that were touched."""
        manifest = self.manifest(key)
        if manifest is None or self.damaged(key, self.changed(key, manifest)):
            return None
        return manifest

    def has_any(self, key: str) -> bool:
        """Whether a model is installed, or its removal was interrupted."""
        return self.manifest(key) is not None or self.folder(key).exists()

    def folder(self, key: str) -> Path:
        """Return the folder of a model that an engine can load."""
        return self.root / "installed" / key

    def partial(self, key: str) -> Path:
        """Return the folder for the unfinished downloads of a model."""
        return self.root / "partial" / key

    def changed(self, key: str, manifest: Manifest) -> list[StoredFile]:
        """Return the files whose stamps differ from those last verified. Fast."""
        known = self._known_stamps(key)
        return [
            file
            for file in manifest.files
            if file.name not in known or known[file.name] != _verified_now(file, self.folder(key))
        ]

    def damaged(
        self, key: str, files: Iterable[StoredFile], watch: Callable[[str], OnBytes] | None = None
    ) -> list[str]:
        """Hash these files of a model and return the names of missing or wrong ones. Stamp the others."""
        files = list(files)
        settle(self.folder(key) / file.name for file in files)
        good: dict[str, Verified] = {}
        bad: list[str] = []
        for file in files:
            try:
                on_bytes = watch(file.name) if watch is not None else None
                digests = hash_file(self.folder(key) / file.name, on_bytes=on_bytes)
            except OSError:
                bad.append(file.name)
                continue
            if digests.sha256 == file.sha256:
                good[file.name] = Verified(digests.sha256, digests.stamp)
            else:
                bad.append(file.name)
        if good or bad:
            kept = {name: known for name, known in self._known_stamps(key).items() if name not in bad}
            self._keep_stamps(key, kept | good)
        return bad

    def has_blob(self, file: ModelFile, on_bytes: OnBytes | None = None) -> StoredFile | None:
        """Return the blob for a file if it exists and its hash is right; remove a wrong one."""
        if file.sha256 is None:
            return None
        blob = self._blob_path(file.sha256)
        try:
            digests = hash_file(blob, on_bytes=on_bytes)
        except OSError:
            return None
        if digests.sha256 != file.sha256:
            blob.unlink(missing_ok=True)
            return None
        self._proven[file.sha256] = digests.stamp
        return StoredFile(name=file.name, size_bytes=digests.stamp.size_bytes, sha256=digests.sha256)

    # Writing; under the lock of the model

    def admit(
        self, key: str, path: Path, expected: ModelFile, keep: Keep, on_bytes: OnBytes | None = None
    ) -> StoredFile:
        """Add a file of a model to the store if its bytes are as expected.

        Raises `Mismatch` if they are not, and `Unreadable` if a file to copy or link cannot be read."""
        incoming = self.partial(key) / f"incoming-{uuid.uuid4().hex}"
        # Until the model is installed, its `partial` folder also shows that it has blobs to remove.
        incoming.parent.mkdir(parents=True, exist_ok=True)
        try:
            if keep == "copy":
                _copy(path, incoming, on_bytes)
                on_bytes = None
            elif keep == "link":
                # A hard link, so that the file outlives the original; else a symbolic link.
                _link(path.resolve(), incoming, os.link, os.symlink, shutil.copyfile)
            source = path if keep == "move" else incoming
            with _raise_unreadable() if keep == "link" else nullcontext():
                digests = hash_file(source, git=expected.git_sha1 is not None, on_bytes=on_bytes)
            _compare(expected, digests.sha256, digests.git_sha1, digests.stamp.size_bytes)
            if keep != "link":
                _sync(source)
            blob = self._blob_path(digests.sha256)
            blob.parent.mkdir(parents=True, exist_ok=True)
            source.replace(blob)
            self._proven[digests.sha256] = stamp(blob)
            sync_folder(blob.parent)
        finally:
            incoming.unlink(missing_ok=True)
        return StoredFile(name=expected.name, size_bytes=digests.stamp.size_bytes, sha256=digests.sha256)

    def take(self, key: str, file: StoredFile, target: Path) -> None:
        """Move an admitted file to `target`, out of the store; it stays there as well if a model has it."""
        _link(self._blob_path(file.sha256), target, os.link, shutil.copyfile)
        self.abandon(key, {file.sha256})

    def install(self, key: str, manifest: Manifest) -> None:
        """Link the verified blobs into the model's folder and write its manifest.

        Raises FileNotFoundError if a blob was removed or has changed since.
        """
        folder = self.folder(key)
        folder.mkdir(parents=True, exist_ok=True)
        for file in manifest.files:
            self._prove(file)
            link_file(self._blob_path(file.sha256), folder / file.name)
        names = {file.name for file in manifest.files}
        for extra in [path for path in folder.iterdir() if path.name not in names]:
            remove(extra)
        sync_folder(folder)
        settle(folder / name for name in names)
        stamps = {file.name: Verified(file.sha256, stamp(folder / file.name)) for file in manifest.files}
        self._keep_stamps(key, stamps)
        write_whole(self._manifest_path(key), msgspec.json.format(msgspec.json.encode(manifest), indent=2))
        shutil.rmtree(self.partial(key), ignore_errors=True)

    def remove(self, key: str, unfinished: Iterable[str] = ()) -> int:
        """Remove a model, its downloads and those of `unfinished`, and the blobs that no other model has.

        Returns the bytes freed. The model's folder is removed last: while it exists, the removal can be
        retried."""
        manifest = self.manifest(key)
        self._manifest_path(key).unlink(missing_ok=True)
        for each in (key, *unfinished):
            shutil.rmtree(self.partial(each), ignore_errors=True)
        self._stamps_path(key).unlink(missing_ok=True)
        self._stamps.pop(key, None)
        freed_bytes = self._sweep(
            key, {file.sha256 for file in manifest.files} if manifest is not None else set()
        )
        shutil.rmtree(self.folder(key), ignore_errors=True)
        return freed_bytes

    def abandon(self, key: str, unused: set[str]) -> None:
        """Remove blobs, given by hash, that were admitted for no model; keep downloads that can resume."""
        self._drop(unused)
        with suppress(OSError):  # not empty
            self.partial(key).rmdir()

    def clear_leftovers(self, key: str, now_s: float) -> None:
        """Remove downloads of other models that have not been resumed for weeks, and their blobs."""
        removed = False
        for folder in contents(self.root / "partial"):
            with suppress(OSError), try_lock(self.lock_path(folder.name)) as is_free:
                if is_free and now_s - _last_change_s(folder) > _KEEP_PARTIAL_S:
                    shutil.rmtree(folder, ignore_errors=True)
                    removed = True
        if removed:
            self._sweep(key, set())

    def lock_path(self, key: str) -> Path:
        """Return the path of a model's lock, which is shared between processes."""
        path = self.root / "locks" / f"{key}.lock"
        make_private_folder(self.root)
        path.parent.mkdir(exist_ok=True)
        return path

    # Helpers

    def _keys(self) -> list[str]:
        """Return the keys of the manifests, sorted. Raises `OSError` if the folder cannot be read."""
        try:
            names = [path.name for path in (self.root / "manifests").iterdir()]
        except FileNotFoundError:
            return []
        # macOS adds files such as `._base.json` on network disks.
        return sorted(
            name.removesuffix(".json")
            for name in names
            if name.endswith(".json") and not name.startswith(".")
        )

    def _prove(self, file: StoredFile) -> None:
        """Check that a blob verified earlier is still right."""
        blob = self._blob_path(file.sha256)
        if stamp(blob) != self._proven.get(file.sha256):
            known = ModelFile(name=file.name, sha256=file.sha256)
            if self.has_blob(known) is None:
                raise FileNotFoundError(errno.ENOENT, "The file changed", str(blob))

    def _sweep(self, key: str, unused: set[str]) -> int:
        """Remove these blobs, and all others if no model is being pulled, unless a model has them."""
        if not self._is_any_locked(but=key):
            unused = {path.name for path in (self.root / "blobs").glob("*")}
        return self._drop(unused)

    def _drop(self, unused: set[str]) -> int:
        """Remove those of these blobs, given by hash, that no model has; return the bytes freed.

        While a manifest cannot be read, as on a failing disk, none is removed: its model may have them.
        """
        used: set[str] = set()
        for key in self._keys():
            manifest = self.manifest(key)
            if manifest is not None:
                used.update(file.sha256 for file in manifest.files)
            elif self._manifest_path(key).exists():  # else it was removed meanwhile
                log.warning("no model files are deleted: %s cannot be read", self._manifest_path(key))
                return 0
        freed_bytes = 0
        for blob in map(self._blob_path, unused - used):
            self._proven.pop(blob.name, None)
            with suppress(FileNotFoundError):
                freed_bytes += blob.lstat().st_size
                blob.unlink()
        return freed_bytes

    def _is_any_locked(self, but: str) -> bool:
        """Whether another model is being changed; its blobs may not be in a manifest yet."""
        for path in (self.root / "locks").glob("*.lock"):
            if path.stem != but:
                try:
                    with try_lock(path) as is_free:
                        if not is_free:
                            return True
                except OSError:  # another user's
                    return True
        return False

    def _blob_path(self, sha256: str) -> Path:
        return self.root / "blobs" / sha256

    def _manifest_path(self, key: str) -> Path:
        return self.root / "manifests" / f"{key}.json"

    def _stamps_path(self, key: str) -> Path:
        return self.root / "stamps" / f"{key}.json"

    def _known_stamps(self, key: str) -> dict[str, Verified]:
        stamps = self._stamps.get(key)
        if stamps is None:
            stamps = self._stamps[key] = read_json(self._stamps_path(key), dict[str, Verified]) or {}
        return stamps

    def _keep_stamps(self, key: str, stamps: dict[str, Verified]) -> None:
        self._stamps[key] = stamps
        with suppress(OSError):  # in a read-only store, every process verifies again
            write_whole(self._stamps_path(key), msgspec.json.encode(stamps))


def _last_change_s(folder: Path) -> float:
    return max(path.lstat().st_mtime for path in (folder, *folder.rglob("*")))


def _verified_now(file: StoredFile, folder: Path) -> Verified | None:
    """Return the record of a file as if it were verified now; None if there is no such file."""
    try:
        return Verified(file.sha256, stamp(folder / file.name))
    except OSError:
        return None


def _compare(expected: ModelFile, sha256: str, git_sha1: str | None, size_bytes: int) -> None:
    if expected.size_bytes is not None and size_bytes != expected.size_bytes:
        raise Mismatch(expected.name, f"{expected.size_bytes} bytes", f"{size_bytes}")
    if expected.sha256 is not None and sha256 != expected.sha256:
        raise Mismatch(expected.name, f"the SHA-256 {expected.sha256}", sha256)
    if expected.git_sha1 is not None and git_sha1 != expected.git_sha1:
        raise Mismatch(expected.name, f"the git hash {expected.git_sha1}", f"{git_sha1}")


def _copy(source: Path, target: Path, on_bytes: OnBytes | None) -> None:
    with target.open("wb") as writer:
        for chunk in _chunks(source):
            check_cancelled()
            writer.write(chunk)
            if on_bytes is not None:
                on_bytes(len(chunk))


def _chunks(source: Path) -> Iterator[bytes]:
    with _raise_unreadable(), source.open("rb") as reader:
        while chunk := reader.read(CHUNK_BYTES):
            yield chunk


@contextmanager
def _raise_unreadable() -> Iterator[None]:
    """Raise `Unreadable` for an OSError in the block: it is not a fault of the store."""
    try:
        yield
    except OSError as error:
        raise Unreadable(error.strerror or str(error)) from error


def _link(source: Path, target: Path, *ways: Callable[[Path, Path], object]) -> None:
    """Link in the first way that the file system supports; if even the last one fails, raise its OSError."""
    *others, last = ways
    for link in others:
        with suppress(OSError):
            link(source, target)
            return
    last(source, target)


def link_file(blob: Path, target: Path) -> None:
    """Link a file into a model's folder, replacing any file of that name."""
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    blob.stat()
    try:
        _link(blob, temporary, _symlink_relative, os.link, shutil.copyfile)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def _symlink_relative(blob: Path, target: Path) -> None:
    """Create a relative link, so that the whole store can be moved or mounted elsewhere."""
    try:
        place = os.path.relpath(blob, target.parent)
    except ValueError:  # on another Windows drive
        place = str(blob)
    target.symlink_to(place)


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())
