"""What the kernel tells of changes, by way of a process of its own."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest

from toy_runtime import until
from whisperd.folder_changes import STEP_MS
from whisperd.tasks import open_task_group
from whisperd.watch import notifier
from whisperd.watch.notifier import Changes, Notifier
from whisperd_testing import LIMIT_S

pytestmark = pytest.mark.anyio


class Heard:
    """What a notifier has told of."""

    def __init__(self) -> None:
        self.changes: dict[str, bool] = {}
        self.lost: list[str] = []
        self.refused: list[str] = []

    def take(self, changes: Changes) -> None:
        """Note changes."""
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
    """The processes that listen for us."""
    return [one for one in psutil.Process().children() if "whisperd.folder_changes" in one.cmdline()]


async def test_changes_are_heard_of_below_a_folder(tmp_path: Path) -> None:
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
    assert "watchfiles" not in sys.modules, "it would hold up the daemon"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere no path is this long")
async def test_the_process_list_names_no_folder_and_any_number_of_long_ones_fits(tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*["a long name " * 15] * 20)
    folders = [deep / str(number) for number in range(600)]
    for folder in folders:
        folder.mkdir(parents=True)
    assert sum(len(str(folder)) for folder in folders) > 1 << 21, "a command line may be this long on Linux"
    async with listening(*folders, below=False) as heard:
        await until(lambda: len(heard.lost) == len(folders))
        assert not any("a long name" in word for one in listeners() for word in one.cmdline())
        (folders[-1] / "a.wav").touch()
        await until(lambda: str(folders[-1] / "a.wav") in heard.changes)


async def test_changes_below_are_not_heard_of_where_that_is_not_wanted(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    async with listening(tmp_path, below=False) as heard:
        await until(lambda: heard.lost)
        (tmp_path / "below" / "a.wav").touch()
        (tmp_path / "b.wav").touch()
        await until(lambda: str(tmp_path / "b.wav") in heard.changes)
        assert str(tmp_path / "below" / "a.wav") not in heard.changes


@pytest.mark.skipif(sys.platform != "linux", reason="names that are no text")
async def test_a_folder_that_cannot_be_listened_to_leaves_the_others_heard(tmp_path: Path) -> None:
    good, odd = tmp_path / "good", tmp_path / os.fsdecode(b"caf\xe9")
    good.mkdir()
    odd.mkdir()
    async with listening(good, odd) as heard:
        await until(lambda: str(good) in heard.lost)
        assert heard.refused == [str(odd)]
        (good / "a.wav").touch()
        await until(lambda: str(good / "a.wav") in heard.changes)


async def test_of_folders_that_can_be_listened_to_one_by_one_only_some_are_not_heard(
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


@pytest.mark.skipif(sys.platform != "linux", reason="names that are no text")
async def test_names_that_are_no_text_have_all_looked_at_and_end_nobody(tmp_path: Path) -> None:
    async with listening(tmp_path) as heard:
        await until(lambda: heard.lost)
        before = listeners()
        (tmp_path / os.fsdecode(b"caf\xe9.wav")).touch()
        await until(lambda: len(heard.lost) == 2)
        (tmp_path / "a.wav").touch()
        await until(lambda: str(tmp_path / "a.wav") in heard.changes)
        assert listeners() == before


async def test_a_process_that_dies_is_started_again_and_nothing_is_missed(tmp_path: Path) -> None:
    async with listening(tmp_path) as heard:
        await until(lambda: heard.lost)
        (listener,) = listeners()
        listener.kill()
        await until(lambda: len(heard.lost) == 2)
        (tmp_path / "a.wav").touch()
        await until(lambda: str(tmp_path / "a.wav") in heard.changes)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has the signal, and counts wake-ups")
async def test_while_nothing_changes_nothing_wakes_who_listens(tmp_path: Path) -> None:
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
    """How often the threads of a process have slept."""
    statuses = [path.read_text() for path in Path(f"/proc/{process.pid}/task").glob("*/status")]
    lines = [line for status in statuses for line in status.splitlines()]
    return sum(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches"))
