"""Install a bundle with pip into a folder that is ready to be renamed into place.

Everything, including pip's temporary files, stays in a separate staging folder, so that however the
installation ends, there is only one folder to remove.
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
from whisperd.natives.pip_runs import PipRuns
from whisperd.natives.sharing import share_files
from whisperd.progress import Meter, OnProgress

__all__ = ["Installation"]


@dataclass(frozen=True)
class Installation:
    """The installation of one bundle."""

    name: str
    selection: Selection
    stage: Path
    """An empty folder on the same disk as the destination. Its owner removes it."""
    destination: Path
    """Where the bundle will be once the owner of the stage has renamed it."""
    on_progress: OnProgress
    wheels: Path | None = None
    """A folder that already has every wheel, so that no index is queried."""

    async def run(self) -> Path:
        """Install the bundle; return the folder in the stage that is ready to become the destination."""
        bundle = self.stage / "bundle"
        bundle.mkdir()
        meter = Meter(self.name, self.on_progress, total=self.selection.download_bytes)
        await self._fill(bundle, PipRuns(self.name, self._root, self.stage, meter))
        await self._compile(bundle)
        meter.report(self.selection.download_bytes, detail="verifying")
        await anyio.to_thread.run_sync(self._seal, bundle)
        return bundle

    @property
    def _root(self) -> Path:
        return self.destination.parent.parent

    async def _fill(self, bundle: Path, pips: PipRuns) -> None:
        """Build the sources, and install them and all wheels into the bundle."""
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
        """Compile the modules, so that a worker starts fast even from a read-only folder.

        The compiled files do not depend on timestamps, so they stay valid after a copy, and can be
        verified like all others. A module that fails to compile does not matter: nothing imports it.
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
        """Check pip's result, write the manifest, share files, and flush everything to disk."""
        if wrong := self.selection.versions.keys() ^ installed_distributions(bundle):
            reason = f"pip did not install exactly the requested distributions ({', '.join(sorted(wrong))})"
            raise install_failed(self.name, reason)
        if damage := write_manifest(bundle):
            reason = f"{damage[0].path} does not match its wheel's record ({damage[0].problem})"
            raise install_failed(self.name, reason, [each.path for each in damage])
        share_files(bundle, bundles_in(self._root))
        size_bytes = sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file())
        write_description(bundle, self.name, self.selection, size_bytes)
        _sync(bundle)


def _sync(bundle: Path) -> None:
    """Flush the whole disk, which for thousands of files is faster than each file. On Linux only the bundle's
    disk is flushed, since another may be slow or hang."""
    if sys.platform == "linux":
        descriptor = os.open(bundle, os.O_RDONLY)
        try:
            if ctypes.CDLL(None).syncfs(descriptor) == 0:
                return
        finally:
            os.close(descriptor)
    if hasattr(os, "sync"):
        os.sync()
