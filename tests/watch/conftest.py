"""Fixtures shared by the tests of watch folders."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from whisperd.watch.notifier import Notifier


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    """An empty folder to watch."""
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    return inbox


@pytest.fixture
def no_notifications(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel sends no notifications: only scans find changes."""

    async def run(_notifier: Notifier) -> None:
        await anyio.sleep_forever()

    monkeypatch.setattr(Notifier, "run", run)
