"""What tests of watch folders have in common."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from whisperd.watch.notifier import Notifier


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    """A folder to be watched."""
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    return inbox


@pytest.fixture
def untold(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel tells of nothing."""

    async def run(_notifier: Notifier) -> None:
        await anyio.sleep_forever()

    monkeypatch.setattr(Notifier, "run", run)
