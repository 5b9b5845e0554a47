"""The runs of pip that one bundle takes: followed as one, and their failures put into words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path, PurePath

from whisperd.natives.errors import pip_failed
from whisperd.pip import PipFailure, PipReader, explain, open_pip
from whisperd.progress import Meter
from whisperd.rpc.errors import WhisperdError

__all__ = ["Pips"]

Explain = Callable[[PipFailure], WhisperdError]


class Pips:
    """Runs pip, one after the other; progress grows over all of them."""

    def __init__(self, name: str, folder: PurePath, temporary: Path, meter: Meter) -> None:
        """`name` is the bundle's; `folder` is where a person would look for room or permission."""
        self.temporary = temporary
        self._name = name
        self._folder = folder
        self._meter = meter
        self._done_bytes = 0
        self._told_bytes = 0

    async def run(
        self,
        action: str,
        *options: str,
        requirements: str,
        sizes_bytes: Mapping[str, int],
        environment: Mapping[str, str] | None = None,
        require_hashes: bool = True,
        explain_failure: Explain | None = None,
    ) -> None:
        """Run one; what its files take is in `sizes_bytes`, by distribution. Raises why it failed.

        Where pip's cache has something else than was asked for, it is passed over.
        """
        for own_options in (options, (*options, "--no-cache-dir")):
            reader = PipReader(sizes_bytes)
            async with open_pip(
                action,
                *own_options,
                requirements=requirements,
                temporary=self.temporary,
                environment=environment,
                require_hashes=require_hashes,
            ) as pip:
                async for line in pip.lines():
                    if reader.feed(line):
                        self._tell(self._done_bytes + reader.done_bytes, reader.file, reader.detail)
                if await pip.succeeded():
                    self._done_bytes += sum(sizes_bytes.values())
                    return
            if not _is_cache_at_fault(reader):
                break
        failure = explain(reader.lines)
        raise explain_failure(failure) if explain_failure else pip_failed(self._name, self._folder, failure)

    def _tell(self, done_bytes: int, file: str | None, detail: str) -> None:
        self._told_bytes = max(self._told_bytes, done_bytes)
        self._meter.report(self._told_bytes, file, detail)


def _is_cache_at_fault(reader: PipReader) -> bool:
    used_cache = any(line.lstrip().startswith("Using cached") for line in reader.lines)
    return used_cache and explain(reader.lines).cause == "hash_mismatch"
