"""The error that a task group raises, and the waiters that a repeated event wakes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
import pytest

from whisperd.rpc.errors import WhisperdError
from whisperd.tasks import RepeatedEvent, keep_running, open_task_group

pytestmark = pytest.mark.anyio


def error(code: str) -> WhisperdError:
    return WhisperdError(code, "It broke.", "Mend it.")


async def fail_together(*errors: BaseException) -> None:
    """Run tasks that wait for the same event and then all fail, as the windows of a batch do."""
    broken = anyio.Event()

    async def wait_and_fail(one: BaseException) -> None:
        await broken.wait()
        raise one

    async with open_task_group() as tasks:
        for one in errors:
            tasks.start_soon(wait_and_fail, one)
        await anyio.wait_all_tasks_blocked()
        broken.set()


async def test_a_single_error_is_raised_unchanged() -> None:
    with pytest.raises(KeyError) as raised:
        await fail_together(KeyError("one"))
    assert raised.value.args == ("one",)


async def test_of_several_user_errors_the_first_is_raised() -> None:
    with pytest.raises(WhisperdError) as raised:
        await fail_together(error("first.problem"), error("second.problem"), error("third.problem"))
    assert raised.value.code == "first.problem"


async def test_a_bug_is_not_hidden_behind_a_user_error() -> None:
    with pytest.raises(BaseExceptionGroup) as raised:
        await fail_together(error("some.problem"), KeyError("a mistake"))
    assert raised.group_contains(KeyError)


async def test_nested_groups_are_flattened() -> None:
    async def inner() -> None:
        await fail_together(error("inner.problem"), error("inner.problem"))

    with pytest.raises(WhisperdError):
        async with open_task_group() as tasks:
            tasks.start_soon(inner)
            tasks.start_soon(inner)


async def test_the_cause_is_kept() -> None:
    async def fail() -> None:
        raise error("some.problem") from OSError("why")

    tested: Callable[[], Awaitable[None]] = fail
    with pytest.raises(WhisperdError) as raised:
        async with open_task_group() as tasks:
            tasks.start_soon(tested)
    assert isinstance(raised.value.__cause__, OSError)


async def test_all_waiters_are_woken_each_time() -> None:
    event, woken = RepeatedEvent(), 0

    async def count() -> None:
        nonlocal woken
        while True:
            await event.wait()
            woken += 1

    async with open_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(count)
        for expected in (0, 3, 6):
            await anyio.wait_all_tasks_blocked()
            assert woken == expected
            event.set()
        tasks.cancel_scope.cancel()


async def test_an_event_between_check_and_wait_is_not_missed() -> None:
    event = RepeatedEvent()
    change = event.next
    assert not change.is_set()
    event.set()
    assert change.is_set() and not event.next.is_set()


async def test_a_condition_is_checked_at_each_event() -> None:
    event, looks = RepeatedEvent(), iter((False, False, True))
    async with open_task_group() as tasks:
        tasks.start_soon(event.wait_for, lambda: next(looks))
        for _ in range(2):
            await anyio.wait_all_tasks_blocked()
            event.set()
    assert next(looks, None) is None


async def test_a_true_condition_does_not_wait() -> None:
    await RepeatedEvent().wait_for(lambda: True)


async def test_a_background_task_that_fails_runs_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> None:
        runs.append(len(runs))
        if len(runs) < 3:
            await fail_together(KeyError("one"), RuntimeError("can't start new thread"))

    runs: list[int] = []
    monkeypatch.setattr("whisperd.tasks.RESTART_PAUSE_S", 0.0)
    await keep_running(work)
    assert len(runs) == 3 and "can't start new thread" in caplog.text
