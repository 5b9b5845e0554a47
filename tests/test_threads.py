"""Access to folders that do not respond."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import anyio
import pytest

from toy_runtime import until
from whisperd import threads
from whisperd.rpc.errors import WhisperdError
from whisperd.threads import THREADS_PER_FOLDER, Folder, run_abandonable
from whisperd_testing import LIMIT_S

pytestmark = pytest.mark.anyio


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Return a function that sets how long a folder may take to answer."""
    return lambda seconds: monkeypatch.setattr(threads, "ANSWER_TIMEOUT_S", seconds)


@pytest.fixture(autouse=True)
def patient(patience: Callable[[float], None]) -> None:
    patience(LIMIT_S)


@pytest.fixture
def dead() -> Iterator[threading.Event]:
    """An event set at the end of the test: work that waits for it hangs until then."""
    event = threading.Event()
    yield event
    event.set()


async def test_results_and_errors_are_passed_on() -> None:
    assert await run_abandonable("/folder/file", lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        await run_abandonable("/folder/file", lambda: 1 / 0)


async def test_work_that_hangs_is_abandoned(dead: threading.Event, patience: Callable[[float], None]) -> None:
    patience(0.01)
    with pytest.raises(TimeoutError):
        await run_abandonable("/dead/file", dead.wait)


async def test_a_thread_that_cannot_be_started_keeps_no_turn(
    dead: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run_abandonable, "/folder/file", dead.wait)
        await anyio.wait_all_tasks_blocked()
        with monkeypatch.context() as patch:
            patch.setattr(threads._thread, "start_new_thread", refuse)
            for _ in range(THREADS_PER_FOLDER):
                with pytest.raises(WhisperdError, match="limit on processes") as refused:
                    await run_abandonable("/folder/file", int)
                assert refused.value.code == "thread.not_started" and "ulimit -u" in refused.value.fix
        assert await run_abandonable("/folder/file", lambda: 7) == 7
        dead.set()


async def test_a_cancelled_caller_does_not_wait(dead: threading.Event) -> None:
    with anyio.fail_after(LIMIT_S), anyio.move_on_after(0.01) as impatience:
        await run_abandonable("/dead/file", dead.wait)
    assert impatience.cancelled_caught


async def test_a_dead_folder_blocks_few_threads_and_no_other_folder(
    dead: threading.Event, patience: Callable[[float], None]
) -> None:
    begun: list[int] = []

    def hang() -> None:
        begun.append(threading.get_ident())
        dead.wait()

    async with anyio.create_task_group() as tasks:

        async def look() -> None:
            with pytest.raises(TimeoutError):
                await run_abandonable("/dead/file", hang)

        patience(0.5)
        for _ in range(50):
            tasks.start_soon(look)
        await until(lambda: len(begun) == THREADS_PER_FOLDER)
        patience(LIMIT_S)
        assert await run_abandonable("/alive/file", lambda: "here") == "here"
    assert len(begun) == THREADS_PER_FOLDER
    # The calls are abandoned, but their threads still hang.
    patience(0.01)
    with pytest.raises(TimeoutError):
        await run_abandonable("/dead/other", lambda: "here")
    dead.set()
    patience(LIMIT_S)
    assert await run_abandonable("/dead/other", lambda: "here") == "here"


async def test_no_call_is_abandoned_while_the_folder_answers_others() -> None:
    folder, timeout_s = Folder(), 0.02
    for holder in range(THREADS_PER_FOLDER):
        await folder.take_turn(holder, timeout_s)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(folder.take_turn, "late", timeout_s)
        began_s = anyio.current_time()
        while anyio.current_time() < began_s + 3 * timeout_s:
            folder.answers += 1
            await anyio.sleep(0)
        folder.end_turn(0)


def test_the_program_exits_despite_hanging_threads() -> None:
    code = """
import anyio, contextlib, threading
from whisperd import threads
from whisperd.threads import run_abandonable
threads.ANSWER_TIMEOUT_S = 0.01
async def main():
    with contextlib.suppress(TimeoutError):
        await run_abandonable("/dead/file", threading.Event().wait)
anyio.run(main)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=LIMIT_S)
