"""Which error comes out of a task group."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
import pytest

from whisperd.rpc.errors import WhisperdError
from whisperd.tasks import open_task_group

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
