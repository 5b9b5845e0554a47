"""Pulls of a real model, from any source that this computer can reach."""

from __future__ import annotations

from pathlib import Path

import pytest

from whisperd.models import ModelStore
from whisperd_testing import CACHE

pytestmark = [pytest.mark.anyio, pytest.mark.real]


async def test_tiny_en_is_really_pulled() -> None:
    store = ModelStore(CACHE / "models")
    installed = await store.pull("tiny.en")
    assert await store.verify("tiny.en") == installed
    # Its size includes what other tests have converted from it.
    assert installed.path is not None
    files = [file for file in Path(installed.path).iterdir() if file.suffix in (".json", ".bin", ".txt")]
    assert sum(file.stat().st_size for file in files) == 78_090_594 <= installed.size
