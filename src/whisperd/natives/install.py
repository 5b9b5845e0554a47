"""One installation, from pip to a folder that may be renamed into place.

All of it happens in a staging folder of its own, temporary files of pip included, so that whatever
ends it leaves one folder to remove.
"""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.to_thread

from whisperd.child import open_child, python_command
from whisperd.natives.bundle import write_description
from whisperd.natives.errors import install_failed, pip_failed
from whisperd.natives.lock import Selection
from whisperd.natives.manifest import installed_distributions, write_manifest
from whisperd.pip import PipReader, explain, open_pip
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

    @property
    def required_bytes(self) -> int:
        """What it takes on the disk at most: the wheels, their content, compiled modules."""
        return self.selection.download_bytes + self.selection.unpacked_bytes * 11 // 10

    async def run(self) -> Path:
        """Install; the folder within the stage that is ready to become the destination."""
        bundle, temporary = self.stage / "bundle", self.stage / "tmp"
        bundle.mkdir()
        temporary.mkdir()
        meter = Meter(self.name, self.on_progress, total=self.selection.download_bytes)
        await self._run_pip(bundle, temporary, meter)
        await self._compile(bundle)
        meter.report(self.selection.download_bytes, detail="verifying")
        await anyio.to_thread.run_sync(self._seal, bundle)
        return bundle

    async def _run_pip(self, bundle: Path, temporary: Path, meter: Meter) -> None:
        reader = PipReader({pinned.name: pinned.wheel.size_bytes for pinned in self.selection.pinned})
        options = ("--target", str(bundle), "--no-compile")
        requirements = self.selection.requirements
        async with open_pip("install", *options, requirements=requirements, temporary=temporary) as pip:
            async for line in pip.lines():
                if reader.feed(line):
                    meter.report(reader.done_bytes, reader.file, reader.detail)
            if not await pip.succeeded():
                raise pip_failed(self.name, self.destination.parent.parent, explain(reader.lines))

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
        """Check what pip made, write the manifest, and see all of it safely on the disk."""
        expected = {pinned.name for pinned in self.selection.pinned}
        if wrong := expected ^ installed_distributions(bundle):
            reason = f"pip did not install exactly what was asked for ({', '.join(sorted(wrong))})"
            raise install_failed(self.name, reason)
        if damage := write_manifest(bundle):
            reason = f"{damage[0].path} is not what its wheel says ({damage[0].problem})"
            raise install_failed(self.name, reason, [each.path for each in damage])
        size_bytes = sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file())
        write_description(bundle, self.name, self.selection, size_bytes)
        if hasattr(os, "sync"):  # of thousands of files, one flush of everything is faster than one of each
            os.sync()
