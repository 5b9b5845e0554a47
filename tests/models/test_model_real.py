"""A real model, from wherever this computer reaches one."""

from __future__ import annotations

import pytest

from whisperd.models import ModelStore
from whisperd_testing import CACHE

pytestmark = [pytest.mark.anyio, pytest.mark.real]


async def test_tiny_en_is_pulled_for_real() -> None:
    store = ModelStore(CACHE / "models")
    installed = await store.pull("tiny.en")
    assert await store.verify("tiny.en") == installed
    assert installed.size == 78_090_594
