"""Change notifications from the kernel, by way of a separate process."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import psutil
import pytest

from toy_runtime import until
from whisperd.folder_changes import STEP_MS, report_changes
from whisperd.tasks import open_task_group
from whisperd.watch import notifier
from whisperd.watch.notifier import Changes, Notifier
from whisperd_testing import LIMIT_S

pytestmark = pytest.mark.anyio


class Heard:
    """Records the reports of a notifier."""

    def __init__(self) -> None:
        self.changes: dict[str, bool] = {}
        self.lost: list[str] = []
        self.refused: list[str] = []

    def take(self, changes: Changes) -> None:
        """Record changes."""
        self.changes.update(changes)


@asynccontextmanager
async def listening(*folders: Path, below: bool = True) -> AsyncIterator[Heard]:
    heard = Heard()
    told = Notifier(heard.take, heard.lost.append, heard.refused.append)
    told.watch({str(folder): below for folder in folders})
    with anyio.fail_after(LIMIT_S):
        async with open_task_group() as tasks:
            tasks.start_soon(told.run)
            yield heard
            tasks.cancel_scope.cancel()


def listeners() -> list[psutil.Process]:
    """Return the processes that listen for this one."""
    return [one for one in psutil.Process().children() if "whisperd.folder_changes" in one.cmdline()]


async def test_changes_below_a_folder_are_reported(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    async with listening(tmp_path) as heard:
        await until(lambda: heard.lost == [str(tmp_path)])
        new = tmp_path / "below" / "ü 1.wav"
        new.touch()
        await until(lambda: str(new) in heard.changes)
        new.write_bytes(b"more")
        await until(lambda: heard.changes[str(new)] is False)
        assert len(listeners()) == 1
    assert not listeners()
    assert "watchfiles" not in sys.modules, "importing it would block the daemon"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere no path is this long")
async def test_folders_are_not_passed_on_the_command_line(tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*["a long name " * 15] * 20)
    folders = [deep / str(number) for number in range(600)]
    for folder in folders:
        folder.mkdir(parents=True)
    assert sum(len(str(folder)) for folder in folders) > 1 << 21, "longer than a command line on Linux may be"
    async with listening(*folders, below=False) as heard:
        await until(lambda: len(heard.lost) == len(folders))
        assert not any("a long name" in word for one in listeners() for word in one.cmdline())
        (folders[-1] / "a.wav").touch()
        await until(lambda: str(folders[-1] / "a.wav") in heard.changes)


async def test_changes_below_are_not_reported_unless_wanted(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    async with listening(tmp_path, below=False) as heard:
        await until(lambda: heard.lost)
        (tmp_path / "below" / "a.wav").touch()
        (tmp_path / "b.wav").touch()
        await until(lambda: str(tmp_path / "b.wav") in heard.changes)
        assert str(tmp_path / "below" / "a.wav") not in heard.changes


@pytest.mark.skipif(sys.platform != "linux", reason="names that are not UTF-8")
async def test_a_refused_folder_does_not_affect_the_others(tmp_path: Path) -> None:
    good, odd = tmp_path / "good", tmp_path / os.fsdecode(b"caf\xe9")
    good.mkdir()
    odd.mkdir()
    async with listening(good, odd) as heard:
        await until(lambda: str(good) in heard.lost)
        assert heard.refused == [str(odd)]
        (good / "a.wav").touch()
        await until(lambda: str(good / "a.wav") in heard.changes)


async def test_if_not_all_folders_fit_only_some_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @asynccontextmanager
    async def room_for_one(folders: Sequence[str], recursive: bool) -> AsyncIterator[Any]:
        if len(folders) > 1:
            raise notifier._Refused("no space left on device")
        async with listen(folders, recursive) as next_batch:
            yield next_batch

    listen = notifier._listen
    monkeypatch.setattr(notifier, "_listen", room_for_one)
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    other.mkdir()
    async with listening(one, other) as heard:
        await until(lambda: heard.lost == [str(one)])
        assert heard.refused == [str(other)]


@pytest.mark.skipif(sys.platform != "linux", reason="names that are not UTF-8")
async def test_a_name_that_is_not_utf_8_triggers_a_scan(tmp_path: Path) -> None:
    async with listening(tmp_path) as heard:
        await until(lambda: heard.lost)
        before = listeners()
        (tmp_path / os.fsdecode(b"caf\xe9.wav")).touch()
        await until(lambda: len(heard.lost) == 2)
        (tmp_path / "a.wav").touch()
        await until(lambda: str(tmp_path / "a.wav") in heard.changes)
        assert listeners() == before


async def test_a_dead_process_is_restarted_and_triggers_a_scan(tmp_path: Path) -> None:
    async with listening(tmp_path) as heard:
        await until(lambda: heard.lost)
        (listener,) = listeners()
        listener.kill()
        await until(lambda: len(heard.lost) == 2)
        (tmp_path / "a.wav").touch()
        await until(lambda: str(tmp_path / "a.wav") in heard.changes)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has the signal, and counts wake-ups")
async def test_without_changes_the_process_sleeps(tmp_path: Path) -> None:
    async with listening(tmp_path) as heard:
        await until(lambda: heard.lost)
        (listener,) = listeners()
        before = -1
        while before != (before := wake_ups(listener)):
            await anyio.sleep(2.5 * STEP_MS / 1000)
        for name in ("a.wav", "b.wav"):
            (tmp_path / name).touch()
            await until(lambda name=name: str(tmp_path / name) in heard.changes)


def wake_ups(process: psutil.Process) -> int:
    """Return how often the threads of a process have slept."""
    statuses = [path.read_text() for path in Path(f"/proc/{process.pid}/task").glob("*/status")]
    lines = [line for status in statuses for line in status.splitlines()]
    return sum(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches"))


class _Internal(Exception):
    """What the watcher raises if it gets no queue from the kernel."""


@pytest.mark.parametrize(
    ("error", "is_refused"),
    [
        (OSError("OS file watch limit reached"), True),
        (_Internal("Too many open files"), True),
        (PermissionError("of a private subfolder"), False),
        (FileNotFoundError("of a subfolder that was deleted meanwhile"), False),
    ],
)
def test_the_system_refuses_to_watch(
    error: Exception, is_refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Ended(Exception):
        pass

    def end(*_: object) -> None:
        raise Ended

    def listen(*arguments: object) -> object:
        ignores_errors = arguments[-1]
        if isinstance(error, _Internal) or not ignores_errors:
            raise error
        return SimpleNamespace(watch=end)

    watchfiles = SimpleNamespace(RustNotify=listen, WatchfilesRustInternalError=_Internal)
    monkeypatch.setitem(sys.modules, "watchfiles._rust_notify", watchfiles)  # type: ignore[arg-type]
    reported: list[object] = []
    with suppress(Ended):
        report_changes(["/folder"], True, reported.append)
    assert reported == [str(error) if is_refused else ""]
