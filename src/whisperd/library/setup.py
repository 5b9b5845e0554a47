"""What the synchronous and asynchronous library share: the service inside this program, and its events."""

from __future__ import annotations

import itertools
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import msgspec
from anyio import to_thread

from whisperd import paths
from whisperd.calibration.table import copy_calibrations
from whisperd.daemon.bundles import media_bundle
from whisperd.daemon.hub import Subscription
from whisperd.daemon.service import Service, open_service
from whisperd.daemon.trials import try_bundle
from whisperd.decodable import decodable
from whisperd.locks import try_lock
from whisperd.natives import Bundle
from whisperd.progress import OnProgress, Progress
from whisperd.rpc.errors import WhisperdError
from whisperd.settings import JobSettings, load_settings
from whisperd.store import open_database
from whisperd.tasks import open_task_group

__all__ = ["Engine", "Listener", "install_engine", "open_library_service", "until_cancelled"]

CANCEL_POLL_S: Final = 0.5
"""How long a thread waits for a `threading.Event` before it checks whether waiting is still needed."""

_PREFIX: Final = "whisperd-program-"
_LOCK: Final = "lock"
_JUST_MADE_S: Final = 60.0

T = TypeVar("T")
Map = dict[str, Any]
_numbers = itertools.count()


class Engine(NamedTuple):
    """A variant that is installed and works on this computer."""

    variant: str
    """For example `ctranslate2-cpu`."""
    device: str
    """`cpu` or `cuda`."""
    version: str | None
    """The version of its native bundle; None if it needs none."""
    path: Path | None
    """The folder of the bundle."""
    tried: str | None = None
    """How it was tested, in a few words."""


class Listener:
    """Passes the events of some topics of a service to a callback, each as a map."""

    def __init__(
        self, service: Service, topics: set[str], on_event: Callable[[dict[str, Any]], None]
    ) -> None:
        self._service = service
        self._on_event = on_event
        self._subscription = Subscription(self.offer, frozenset(topics))

    def __enter__(self) -> Listener:
        self._service.hub.subscribe(self._subscription)
        return self

    def __exit__(self, *_: object) -> None:
        self._service.hub.unsubscribe(self._subscription)

    def offer(self, *parts: bytes) -> bool:
        """Accept an encoded notification: its header, which only the wire needs, and the event."""
        self._on_event(msgspec.msgpack.decode(parts[-1]))
        return True


@asynccontextmanager
async def open_library_service(on_progress: OnProgress | None) -> AsyncIterator[Service]:
    """Open the daemon's service inside this program, with its state in a folder deleted at the end."""
    config_file = paths.config_file()
    settings = load_settings(config_file)
    # A job and its events are kept only while the program waits for it.
    kept = JobSettings(keep_count=1, keep_transcripts=False)
    settings = msgspec.structs.replace(settings, jobs=kept)
    name = f"program {os.getpid()} {next(_numbers)}"
    await to_thread.run_sync(_clear_leftovers)
    with _state_folder() as state_dir:
        # The daemon's calibrations of this computer apply to the library as well.
        async with open_database(state_dir / paths.database_file().name) as database:
            await copy_calibrations(paths.database_file(), database)
        async with open_service(config_file, settings, name, state_dir) as service:
            if on_progress is None:
                yield service
                return
            tell = on_progress
            with Listener(
                service,
                {"natives", "models"},
                lambda event: tell(msgspec.convert(event, decodable(Progress))),
            ):
                yield service


@contextmanager
def _state_folder() -> Iterator[Path]:
    """Create a temporary folder for this program, locked to show other programs that it is in use."""
    with (
        tempfile.TemporaryDirectory(prefix=_PREFIX, ignore_cleanup_errors=True) as folder,
        try_lock(Path(folder, _LOCK)),
        _kept_from_tmpfiles(folder),
    ):
        yield Path(folder)


@contextmanager
def _kept_from_tmpfiles(folder: str) -> Iterator[None]:
    """Lock the folder, because systemd-tmpfiles deletes old files in /tmp, but not in locked folders."""
    if sys.platform == "win32":
        yield
        return
    import fcntl

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield
    finally:
        os.close(descriptor)


def _clear_leftovers() -> None:
    """Delete the folders left by killed programs, which may contain recordings. Blocks."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        lock = folder / _LOCK
        with suppress(OSError):
            # In a shared temporary folder, other users may have created such a folder with a link in it.
            is_ours = not hasattr(os, "geteuid") or folder.lstat().st_uid == os.geteuid()
            # A folder that was just created is about to be locked.
            if is_ours and time.time() - lock.lstat().st_mtime > _JUST_MADE_S:
                with try_lock(lock) as is_left:
                    pass
                if is_left:
                    shutil.rmtree(folder, ignore_errors=True)


async def install_engine(service: Service) -> Engine:
    """Install the decoder's bundle and that of the best usable variant, check every file, and test both.

    If a variant cannot be installed or does not work, take the next best. If none works, raise the first
    error.
    """
    await try_bundle(
        service, await service.natives.install(media_bundle(), service.on_native_progress, repair=True)
    )
    preset = service.runtimes.default.preset
    failure: WhisperdError | None = None
    for _, variant in await service.provisioner.ranked(preset):
        bundle = Bundle.of(variant)
        if bundle is None:
            return Engine(variant.name, variant.device, None, None)
        try:
            installed = await service.natives.install(bundle, service.on_native_progress, repair=True)
            tried = await try_bundle(service, installed)
        except WhisperdError as error:
            failure = failure or error
        else:
            return Engine(variant.name, variant.device, installed.version, installed.path, tried)
    raise failure or WhisperdError(
        "backend.none",
        "No installed backend can be used on this computer.",
        "Run `whisperctl hardware`: it says for each variant why it cannot be used, and how to change that.",
    )


async def until_cancelled(work: Callable[[], Awaitable[T]], cancel: threading.Event | None) -> T:
    """Do some work, and cancel it once `cancel` is set, which raises `download.cancelled`."""
    if cancel is None:
        return await work()
    results: list[T] = []
    async with open_task_group() as tasks:

        async def watch(cancel: threading.Event) -> None:
            while not await to_thread.run_sync(cancel.wait, CANCEL_POLL_S, abandon_on_cancel=True):
                pass
            tasks.cancel_scope.cancel()

        tasks.start_soon(watch, cancel)
        results.append(await work())
        tasks.cancel_scope.cancel()
    if not results:
        raise WhisperdError(
            "download.cancelled",
            "The download was cancelled.",
            "Start it again: it resumes where it stopped, if its source allows that.",
        )
    return results[0]
