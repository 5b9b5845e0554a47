"""The model folder on disk. Everything here blocks, and knows nothing of where bytes come from.

    blobs/<sha256>            the bytes, each file once, whichever models have it
    manifests/<model>.json    which files make a model; its writing is what installs the model
    installed/<model>/        what an engine is given: links to the blobs, under their own names
    stamps/<model>.json       what was last verified, so that it need not be read again; may be lost
    partial/<model>/          unfinished downloads, named by the hash they are to have
    locks/<model>.lock        held by the one process that changes this model

A file enters `blobs/` in one place, `admit`, after its hash was computed. Each step is a rename or
can be repeated, so a crash at any moment leaves the model as it was or not installed.
"""

from __future__ import annotations

import errno
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

Keep = Literal["move", "link", "copy"]
"""How a file gets into the store: moved there, linked to where it is, or copied."""

_KEEP_PARTIAL_S = 30 * 24 * 3600.0
"""How long an unfinished download may lie before it is removed."""


class Mismatch(Exception):
    """A file does not hold the bytes that it should."""

    def __init__(self, name: str, expected: str, found: str) -> None:
        super().__init__(f"{name} should have {expected} and has {found}")
        self.name = name


class Unreadable(Exception):
    """A file that is to be copied cannot be read. Says why, as a clause."""


class Storage:
    """The files of one model folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._stamps: dict[str, dict[str, Verified]] = {}
        self._proven: dict[str, Stamp] = {}
        """Stamps of blobs, by hash, when this process last found them to be right."""

    # Reading

    def manifests(self) -> list[Manifest]:
        """Every installed model, by name. Raises `OSError` where the folder may not be read."""
        try:
            names = [path.name for path in (self.root / "manifests").iterdir()]
        except FileNotFoundError:
            return []
        keys = sorted(name.removesuffix(".json") for name in names if name.endswith(".json"))
        return [manifest for key in keys if (manifest := self.manifest(key)) is not None]

    def manifest(self, key: str) -> Manifest | None:
        """The manifest of a model; None where there is none that can be read."""
        return read_json(self._manifest_path(key), Manifest)

    def sound(self, key: str) -> Manifest | None:
        """The manifest of a model of which every byte is right. Reads only the files that were touched."""
        manifest = self.manifest(key)
        if manifest is None or self.damaged(key, self.changed(key, manifest)):
            return None
        return manifest

    def has_any(self, key: str) -> bool:
        """Whether a model is installed, or was not removed to the end."""
        return self.manifest(key) is not None or self.folder(key).exists()

    def folder(self, key: str) -> Path:
        """The folder of a model that an engine can be given."""
        return self.root / "installed" / key

    def partial(self, key: str) -> Path:
        """The folder for the unfinished downloads of a model."""
        return self.root / "partial" / key

    def changed(self, key: str, manifest: Manifest) -> list[StoredFile]:
        """The files that differ from what was last verified, by their stamps. Quick."""
        known = self._known_stamps(key)
        return [
            file
            for file in manifest.files
            if file.name not in known or known[file.name] != _verified_now(file, self.folder(key))
        ]

    def damaged(
        self, key: str, files: Iterable[StoredFile], watch: Callable[[str], OnBytes] | None = None
    ) -> list[str]:
        """Hash these files of a model; the names of those that are missing or wrong. The rest is stamped."""
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
        """The blob that a file would be, hashed; a blob that is wrong is removed."""
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
        """Take a file of a model into the store if its bytes are the expected ones, else raise `Mismatch`; or
        `Unreadable`, where it stays with others."""
        incoming = self.partial(key) / f"incoming-{uuid.uuid4().hex}"
        incoming.parent.mkdir(parents=True, exist_ok=True)
        try:
            if keep == "copy":
                _copy(path, incoming, on_bytes)
                on_bytes = None
            elif keep == "link":
                # Hard, so that it stays when theirs is deleted, else symbolic.
                _link(path.resolve(), incoming, os.link, os.symlink, shutil.copyfile)
            source = path if keep == "move" else incoming
            with _reading_of_others() if keep == "link" else nullcontext():
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

    def take(self, file: StoredFile, target: Path) -> None:
        """Move a file that was just admitted out of the store, to where it belongs to no model."""
        self._blob_path(file.sha256).replace(target)
        self._proven.pop(file.sha256, None)

    def install(self, key: str, manifest: Manifest) -> None:
        """Link the blobs, which were verified, into the model's folder and write its manifest.

        Raises FileNotFoundError for a blob that is gone, or not right any more.
        """
        folder = self.folder(key)
        folder.mkdir(parents=True, exist_ok=True)
        for file in manifest.files:
            self._prove(file)
            link_file(self._blob_path(file.sha256), folder / file.name)
        names = {file.name for file in manifest.files}
        for stranger in [path for path in folder.iterdir() if path.name not in names]:
            remove(stranger)
        sync_folder(folder)
        settle(folder / name for name in names)
        stamps = {file.name: Verified(file.sha256, stamp(folder / file.name)) for file in manifest.files}
        self._keep_stamps(key, stamps)
        write_whole(self._manifest_path(key), msgspec.json.format(msgspec.json.encode(manifest), indent=2))
        shutil.rmtree(self.partial(key), ignore_errors=True)

    def remove(self, key: str, unfinished: Iterable[str] = ()) -> int:
        """Remove a model, its downloads and these other ones, and the blobs that no other model has; the
        bytes that this frees. Its folder goes last: while that is there, all this can be done again."""
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

    def drop(self, unused: set[str]) -> int:
        """Remove blobs, by their hashes, that no model has; the bytes that this frees."""
        used = {file.sha256 for manifest in self.manifests() for file in manifest.files}
        freed_bytes = 0
        for blob in map(self._blob_path, unused - used):
            self._proven.pop(blob.name, None)
            with suppress(FileNotFoundError):
                freed_bytes += blob.lstat().st_size
                blob.unlink()
        return freed_bytes

    def clear_leftovers(self, key: str, now_s: float) -> None:
        """Remove downloads of other models that nobody has taken up for weeks, and what they brought."""
        removed = False
        for folder in contents(self.root / "partial"):
            with suppress(OSError), try_lock(self.lock_path(folder.name)) as is_free:
                if is_free and now_s - _last_change_s(folder) > _KEEP_PARTIAL_S:
                    shutil.rmtree(folder, ignore_errors=True)
                    removed = True
        if removed:
            self._sweep(key, set())

    def lock_path(self, key: str) -> Path:
        """The lock of a model among processes."""
        path = self.root / "locks" / f"{key}.lock"
        make_private_folder(self.root)
        path.parent.mkdir(exist_ok=True)
        return path

    # Helpers

    def _prove(self, file: StoredFile) -> None:
        """Make sure that a blob, which was right some time ago, still is."""
        blob = self._blob_path(file.sha256)
        if stamp(blob) != self._proven.get(file.sha256):
            known = ModelFile(name=file.name, sha256=file.sha256)
            if self.has_blob(known) is None:
                raise FileNotFoundError(errno.ENOENT, "The file changed", str(blob))

    def _sweep(self, key: str, unused: set[str]) -> int:
        """Remove these blobs, and if nobody is pulling all others too, unless a model has them."""
        if not self._is_any_locked(but=key):
            unused = {path.name for path in (self.root / "blobs").glob("*")}
        return self.drop(unused)

    def _is_any_locked(self, but: str) -> bool:
        """Whether some other model is being changed; its blobs may not be in a manifest yet."""
        for path in (self.root / "locks").glob("*.lock"):
            if path.stem != but:
                with try_lock(path) as is_free:
                    if not is_free:
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
        with suppress(OSError):  # a store that is only read from is verified in every process
            write_whole(self._stamps_path(key), msgspec.json.encode(stamps))


def _last_change_s(folder: Path) -> float:
    return max(path.lstat().st_mtime for path in (folder, *folder.rglob("*")))


def _verified_now(file: StoredFile, folder: Path) -> Verified | None:
    """What would be on record if the file had been verified as it is now; None where there is no file."""
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
    with _reading_of_others(), source.open("rb") as reader:
        while chunk := reader.read(CHUNK_BYTES):
            yield chunk


@contextmanager
def _reading_of_others() -> Iterator[None]:
    """That a file of others cannot be read is no fault of the store."""
    try:
        yield
    except OSError as error:
        raise Unreadable(error.strerror or str(error)) from error


def _link(source: Path, target: Path, *ways: Callable[[Path, Path], object]) -> None:
    """Link in the first way that the file system knows; the last one may fail, and raises its OSError."""
    *others, last = ways
    for link in others:
        with suppress(OSError):
            link(source, target)
            return
    last(source, target)


def link_file(blob: Path, target: Path) -> None:
    """Put a file into a model's folder, in place of what is there."""
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    blob.stat()
    try:
        _link(blob, temporary, _symlink_relative, os.link, shutil.copyfile)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def _symlink_relative(blob: Path, target: Path) -> None:
    """Relative, so that the whole store can be moved or mounted elsewhere."""
    try:
        place = os.path.relpath(blob, target.parent)
    except ValueError:  # on another drive of Windows
        place = str(blob)
    target.symlink_to(place)


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())
