"""Which error comes out of a task group, and whom a repeated event wakes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
import pytest

from whisperd.rpc.errors import WhisperdError
from whisperd.tasks import RepeatedEvent, open_task_group

pytestmark = pytest.mark.anyio


def error(code: str) -> WhisperdError:
    return WhisperdError(code, "It broke.", "Mend it.")


async def fail_together(*errors: BaseException) -> None:
    """Tasks that all wait for the same thing, and then all fail, as the windows of a batch do."""
    broken = anyio.Event()

    async def wait_and_fail(one: BaseException) -> None:
        await broken.wait()
        raise one

    async with open_task_group() as tasks:
        for one in errors:
            tasks.start_soon(wait_and_fail, one)
        await anyio.wait_all_tasks_blocked()
        broken.set()


async def test_a_single_error_is_raised_as_it_is() -> None:
    with pytest.raises(KeyError) as raised:
        await fail_together(KeyError("one"))
    assert raised.value.args == ("one",)


async def test_of_several_that_people_are_told_the_first_is_raised() -> None:
    with pytest.raises(WhisperdError) as raised:
        await fail_together(error("first.problem"), error("second.problem"), error("third.problem"))
    assert raised.value.code == "first.problem"


async def test_a_mistake_is_not_hidden_behind_an_error() -> None:
    with pytest.raises(BaseExceptionGroup) as raised:
        await fail_together(error("some.problem"), KeyError("a mistake"))
    assert raised.group_contains(KeyError)


async def test_nested_groups_are_one() -> None:
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


async def test_all_who_wait_are_woken_each_time_anew() -> None:
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


async def test_what_comes_between_a_look_and_the_wait_is_not_missed() -> None:
    event = RepeatedEvent()
    change = event.next
    assert not change.is_set()
    event.set()
    assert change.is_set() and not event.next.is_set()


async def test_a_condition_is_looked_at_each_time() -> None:
    event, looks = RepeatedEvent(), iter((False, False, True))
    async with open_task_group() as tasks:
        tasks.start_soon(event.wait_for, lambda: next(looks))
        for _ in range(2):
            await anyio.wait_all_tasks_blocked()
            event.set()
    assert next(looks, None) is None


async def test_what_holds_is_not_waited_for() -> None:
    await RepeatedEvent().wait_for(lambda: True)
