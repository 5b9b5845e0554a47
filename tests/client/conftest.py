"""Fixtures for the tests of the clients."""

from __future__ import annotations

from pathlib import Path

import pytest

from whisperd_testing import write_tone


@pytest.fixture(scope="session")
def tone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-second tone, which the toy model transcribes with `vad=False` as `transcribe 2.00 s`."""
    return write_tone(tmp_path_factory.mktemp("audio") / "tone.wav", 2.0)


@pytest.fixture(scope="session")
def long_tone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tone that takes several windows."""
    return write_tone(tmp_path_factory.mktemp("audio") / "long.wav", 100.0)
