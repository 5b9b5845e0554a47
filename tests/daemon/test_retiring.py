"""What is kept for too long is forgotten now and then, whatever went wrong the last time."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import anyio.lowlevel
import pytest

from whisperd.daemon import resuming
from whisperd.rpc.errors import WhisperdError

pytestmark = pytest.mark.anyio


async def test_a_failure_is_not_the_last_attempt(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(resuming, "RETIRE_INTERVAL_S", 0.0)
    failures = [WhisperdError("disk.full", "There is no room.", ""), RuntimeError("a mistake")]
    has_worked = anyio.Event()

    async def retire() -> None:
        if failures:
            raise failures.pop(0)

    async def clear_leftovers() -> None:
        has_worked.set()

    service: Any = SimpleNamespace(
        jobs=SimpleNamespace(retire=lambda: None),
        job_keeper=SimpleNamespace(retire=retire),
        models=SimpleNamespace(clear_leftovers=anyio.lowlevel.checkpoint),
        natives=SimpleNamespace(clear_leftovers=clear_leftovers),
    )
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(resuming.retire_jobs, service)
        with anyio.fail_after(60):
            await has_worked.wait()
        tasks.cancel_scope.cancel()
    assert "There is no room." in caplog.text
    assert "a mistake" in caplog.text
