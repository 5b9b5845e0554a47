"""Leases: a job holds one on its runtime to keep it from being unloaded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from whisperd.clock import now_rfc3339
from whisperd.runtimes.loaded import LoadedRuntime
from whisperd.runtimes.runtime import Runtime

if TYPE_CHECKING:
    from whisperd.runtimes.manager import RuntimeManager

__all__ = ["Lease"]


class Lease:
    """A job's hold on a runtime, which keeps it loaded. As a context manager, it ends with its block."""

    def __init__(self, manager: RuntimeManager, runtime: Runtime) -> None:
        self._manager = manager
        self._runtime = runtime
        self._is_over = False

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    @property
    def name(self) -> str:
        """The runtime's current name."""
        return self._runtime.name

    @property
    def model(self) -> str:
        """The runtime's model."""
        return self._runtime.preset.model

    @property
    def runtime(self) -> Runtime:
        """The runtime."""
        return self._runtime

    def waits_for(self) -> str | None:
        """Return what delays the use of the runtime: `downloading base 40 %`, `loading`; None if nothing."""
        if self._is_over:  # the runtime may have been deleted
            return None
        status, progress = self._manager.life(self._runtime).reported_status, self._runtime.progress
        if status != "downloading":
            return "loading" if status == "loading" else None
        # The status is `downloading` also while the host finds that everything is installed.
        doing = self._runtime.detail or "preparing"
        return doing if progress is None else f"{doing} {progress:.0f} %"

    def release(self) -> None:
        """Release the runtime. Does nothing if it has been released already."""
        if not self._is_over:
            self._is_over = True
            self._manager.released(self._runtime)

    @contextmanager
    def released_on_error(self) -> Iterator[None]:
        """Release the lease if the block raises; otherwise the block has handed it on."""
        try:
            yield
        except BaseException:
            self.release()
            raise

    async def loaded(self) -> LoadedRuntime:
        """Load the runtime if necessary and return it. Raises `WhisperdError` if it cannot be loaded."""
        manager, runtime = self._manager, self._runtime
        while True:
            if runtime.hosting is None or manager.life(runtime).goal == "prepared":
                manager.apply(runtime, "load")
            hosting = runtime.hosting
            assert hosting is not None
            is_ending = manager.life(runtime).ending is not None
            await hosting.settled.wait()
            if runtime.hosting is hosting and self._is_usable():
                assert runtime.loaded is not None
                return runtime.loaded
            await hosting.ended.wait()
            if hosting.error is not None and not is_ending:  # else the error predates this call
                raise hosting.error.copy()
            # It was being unloaded or reloaded, or others cancelled it: try again.

    @contextmanager
    def use(self) -> Iterator[LoadedRuntime | None]:
        """Yield the loaded runtime, not reloaded during the block, or None if it must be loaded first."""
        if not self._is_usable():
            yield None
            return
        manager, runtime, hosting = self._manager, self._runtime, self._runtime.hosting
        manager.apply(runtime, "use")
        runtime.last_used, runtime.awaits_first_use = now_rfc3339(), False
        try:
            yield runtime.loaded
        finally:
            runtime.last_used = now_rfc3339()
            if runtime.hosting is hosting:
                manager.apply(runtime, "done")

    def _is_usable(self) -> bool:
        loaded = self._runtime.loaded
        is_there = loaded is not None and not loaded.unloaded.is_set()
        return is_there and self._manager.life(self._runtime).is_usable
