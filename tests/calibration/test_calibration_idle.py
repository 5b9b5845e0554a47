"""Calibration yields to work, and resumes when the daemon is idle."""

from __future__ import annotations

import anyio
import pytest
from anyio.lowlevel import checkpoint

from whisperd.calibration import Idle

pytestmark = pytest.mark.anyio


class Work:
    is_there = False

    def __init__(self) -> None:
        self.idle = Idle(lambda: self.is_there)

    def begin(self) -> None:
        self.is_there = True
        self.idle.notice()

    def end(self) -> None:
        self.is_there = False
        self.idle.notice()


async def settle() -> None:
    """Let every task run as far as it can."""
    for _ in range(20):
        await checkpoint()


async def test_work_interrupts_calibration() -> None:
    work = Work()
    with work.idle.interruptible() as scope:
        work.begin()
        await anyio.sleep_forever()
    assert scope.cancelled_caught


async def test_a_notice_without_work_interrupts_nothing() -> None:
    work = Work()
    with work.idle.interruptible() as scope:
        work.idle.notice()
        await settle()
    assert not scope.cancelled_caught


async def test_calibration_that_starts_during_work_is_interrupted_at_once() -> None:
    work = Work()
    work.begin()
    with work.idle.interruptible() as scope:
        await anyio.sleep_forever()
    assert scope.cancelled_caught


async def test_calibration_waits_until_all_work_is_done() -> None:
    work = Work()
    work.begin()
    order = []

    async def wait() -> None:
        await work.idle.quiet(0)
        order.append("quiet")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await settle()
        work.idle.notice()
        await settle()
        order.append("end")
        work.end()
    assert order == ["end", "quiet"]


async def test_work_restarts_the_quiet_period() -> None:
    work = Work()
    async with anyio.create_task_group() as tasks:
        with anyio.CancelScope() as waiting:

            async def disturb() -> None:
                work.begin()
                await settle()
                assert not waiting.cancel_called
                work.end()
                await settle()
                waiting.cancel()

            tasks.start_soon(disturb)
            await work.idle.quiet(3600)
    assert waiting.cancelled_caught, "the hour is not over"


async def test_work_waits_until_calibration_has_freed_its_memory() -> None:
    work = Work()
    order = []

    async def measure() -> None:
        with work.idle.interruptible():
            try:
                await anyio.sleep_forever()
            finally:
                with anyio.CancelScope(shield=True):
                    await settle()
                    order.append("freed")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(measure)
        await settle()
        await work.idle.vacated()
        order.append("taken")
    assert order == ["freed", "taken"]
    await work.idle.vacated()  # no calibration is running
