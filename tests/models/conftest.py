"""Fixtures for the tests of models: a hub, and stores that use it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hub_server import Hub, running_hub
from toy_models import tiny_files

from whisperd.models import ModelStore
from whisperd.models.sources import HubSettings, HubSource


@pytest.fixture
def files() -> dict[str, bytes]:
    return tiny_files()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A running hub, named in the environment, and an empty cache."""
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    with running_hub() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running


@pytest.fixture
def make_store(tmp_path: Path) -> Callable[..., ModelStore]:
    """Make stores in one folder that use only the hub, with short retry delays."""

    def make(**options: Any) -> ModelStore:
        settings = HubSettings(
            connect_timeout_s=60, read_timeout_s=options.pop("read_timeout_s", 60), retry_delay_s=0.01
        )
        return ModelStore(tmp_path / "models", **{"sources": [HubSource(settings)], **options})

    return make
