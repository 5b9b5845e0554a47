"""What tests of watch folders have in common."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    """A folder to be watched."""
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    return inbox
