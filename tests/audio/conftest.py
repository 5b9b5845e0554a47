"""The media that the decoder is tried on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def recordings() -> Path:
    """Real speech; its README says whose."""
    return TESTS / "data" / "audio"


@pytest.fixture(scope="session")
def media(media_bundle: Path, recordings: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every kind of media, good and bad: see `media_maker.py`."""
    folder = tmp_path_factory.mktemp("media")
    maker = Path(__file__).with_name("media_maker.py")
    subprocess.run([sys.executable, maker, media_bundle, recordings / "jfk.flac", folder], check=True)
    return folder
