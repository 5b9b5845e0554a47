"""One installation, from pip to a folder that may be renamed into place.

All of it happens in a staging folder of its own, temporary files of pip included, so that whatever
ends it leaves one folder to remove.
"""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.to_thread

from whisperd.child import open_child, python_command
from whisperd.natives.build import Build
from whisperd.natives.bundle import bundles_in, write_description
from whisperd.natives.errors import install_failed
from whisperd.natives.lock import Selection, requirements
from whisperd.natives.manifest import installed_distributions, write_manifest
from whisperd.natives.pips import Pips
from whisperd.natives.sharing import share_files
from whisperd.progress import Meter, OnProgress

__all__ = ["Installation"]


@dataclass(frozen=True)
class Installation:
    """What is installed, and where."""

    name: str
    selection: Selection
    stage: Path
    """An empty folder, on the disk that the destination is on. Its owner removes it."""
    destination: Path
    """Where the bundle will be when the owner of the stage has renamed it."""
    on_progress: OnProgress
    wheels: Path | None = None
    """A folder that has every wheel already, so that no index is asked."""

    async def run(self) -> Path:
        """Install; the folder within the stage that is ready to become the destination."""
        bundle = self.stage / "bundle"
        bundle.mkdir()
        meter = Meter(self.name, self.on_progress, total=self.selection.download_bytes)
        await self._fill(bundle, Pips(self.name, self._root, self.stage, meter))
        await self._compile(bundle)
        meter.report(self.selection.download_bytes, detail="verifying")
        await anyio.to_thread.run_sync(self._seal, bundle)
        return bundle

    @property
    def _root(self) -> Path:
        return self.destination.parent.parent

    async def _fill(self, bundle: Path, pips: Pips) -> None:
        """Build what has to be built, and put it into the bundle with all else."""
        wanted = requirements(self.selection.pinned)
        options = ["--target", str(bundle), "--no-compile"]
        if self.wheels is not None:
            options += ["--no-index", "--find-links", str(self.wheels)]
        if self.selection.sources:
            built = self.stage / "wheels"
            build = Build(self.selection, pips, self.on_progress)
            wanted += await build.run(built)
            options += ["--find-links", str(built)]
        sizes_bytes = {pinned.name: pinned.wheel.size_bytes for pinned in self.selection.pinned}
        await pips.run("install", *options, requirements=wanted, sizes_bytes=sizes_bytes)

    async def _compile(self, bundle: Path) -> None:
        """Compile the modules, so that a worker starts fast even where it may not write.

        The compiled files do not depend on times, so they are the same after a copy, and can be
        verified like all others. A module that does not compile is no loss: nothing imports it.
        """
        tests = re.escape(str(bundle)) + r".*[/\\]tests[/\\]"
        command = python_command(
            *("whisperd.child", "compileall", "-qq", "--invalidation-mode", "unchecked-hash"),
            *("-x", tests, "-s", str(bundle), "-p", str(self.destination), str(bundle)),
        )
        async with open_child(command, stderr=subprocess.STDOUT) as compiler:
            assert compiler.stdout is not None
            async for _ in compiler.stdout:
                pass
            await compiler.wait()

    def _seal(self, bundle: Path) -> None:
        """Check what pip made, write the manifest, share files, and see all of it safely on the disk."""
        if wrong := self.selection.versions.keys() ^ installed_distributions(bundle):
            reason = f"pip did not install exactly what was asked for ({', '.join(sorted(wrong))})"
            raise install_failed(self.name, reason)
        if damage := write_manifest(bundle):
            reason = f"{damage[0].path} is not what its wheel says ({damage[0].problem})"
            raise install_failed(self.name, reason, [each.path for each in damage])
        share_files(bundle, bundles_in(self._root))
        size_bytes = sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file())
        write_description(bundle, self.name, self.selection, size_bytes)
        _sync(bundle)


def _sync(bundle: Path) -> None:
    """Flush all of a disk, which of thousands of files is faster than each: on Linux its own, for another may
    be slow, or not answer."""
    if sys.platform == "linux":
        descriptor = os.open(bundle, os.O_RDONLY)
        try:
            if ctypes.CDLL(None).syncfs(descriptor) == 0:
                return
        finally:
            os.close(descriptor)
    if hasattr(os, "sync"):
        os.sync()
