"""Run pip several times for one bundle, with one combined progress, and turn its failures into errors."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from whisperd.natives.build_failures import why_build_failed
from whisperd.natives.errors import build_failed, pip_failed
from whisperd.pip import PipReader, explain, open_pip
from whisperd.progress import Meter

__all__ = ["PipRuns"]


class PipRuns:
    """Consecutive runs of pip, with progress that grows over all of them."""

    def __init__(self, name: str, folder: Path, stage: Path, meter: Meter) -> None:
        """`name` is the bundle's; `folder` is the one to name in errors about space or permissions; `stage`
        is an empty folder, which its owner removes."""
        self.name = name
        self.folder = folder
        self.stage = stage
        self.temporary = stage / "tmp"
        self.temporary.mkdir()
        self._meter = meter
        self._done_bytes = 0
        self._reported_bytes = 0

    async def run(
        self,
        action: str,
        *options: str,
        requirements: str,
        sizes_bytes: Mapping[str, int],
        tools: Mapping[str, str] | None = None,
        require_hashes: bool = True,
    ) -> None:
        """Run pip once; `sizes_bytes` has the sizes of its files, by distribution. Raises if pip fails.

        With `tools`, the variables that put the build tools first, pip may run parts of a source to read its
        metadata. If pip's cache has a wrong file, pip runs again without the cache.
        """
        for own_options in (options, (*options, "--no-cache-dir")):
            reader = PipReader(sizes_bytes)
            async with open_pip(
                action,
                *own_options,
                requirements=requirements,
                temporary=self.temporary,
                environment={**os.environ, **(tools or {})},
                require_hashes=require_hashes,
            ) as pip:
                async for line in pip.lines():
                    if reader.feed(line):
                        self._report(self._done_bytes + reader.done_bytes, reader.file, reader.detail)
                if await pip.succeeded():
                    self._done_bytes += sum(sizes_bytes.values())
                    return
            if not _is_cache_at_fault(reader):
                break
        failure = explain(reader.lines)
        if tools is not None and failure.cause == "unknown":
            why = why_build_failed(failure.said, sys.platform)
            raise build_failed(self.name, *why, failure.said, None)
        raise pip_failed(self.name, self.folder, failure)

    def _report(self, done_bytes: int, file: str | None, detail: str) -> None:
        self._reported_bytes = max(self._reported_bytes, done_bytes)
        self._meter.report(self._reported_bytes, file, detail)


def _is_cache_at_fault(reader: PipReader) -> bool:
    used_cache = any(line.lstrip().startswith("Using cached") for line in reader.lines)
    return used_cache and explain(reader.lines).cause == "hash_mismatch"
