"""Fixtures for the tests of the command line."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from whisperd_testing import AUDIO, TESTS, RunningDaemon, write_tone


@pytest.fixture(scope="session")
def tone(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A two-second tone, which the toy model transcribes with `--no-vad` as `transcribe 2.00 s`."""
    return str(write_tone(tmp_path_factory.mktemp("audio") / "tone.wav", 2.0))


@pytest.fixture(scope="session")
def decoder_bundle(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Install the decoder's native bundle; return its folder."""
    daemon = RunningDaemon(tmp_path_factory.mktemp("daemon")).start()
    try:
        return str(daemon.ctl("natives", "install", "media", "--json", timeout=600).json["path"])
    finally:
        daemon.close()


@pytest.fixture(scope="session")
def media(tmp_path_factory: pytest.TempPathFactory, decoder_bundle: str) -> Path:
    """A folder with every kind of media, valid and invalid: see `tests/audio/media_maker.py`."""
    folder = tmp_path_factory.mktemp("media")
    maker = TESTS / "audio" / "media_maker.py"
    subprocess.run([sys.executable, maker, decoder_bundle, AUDIO / "jfk.flac", folder], check=True)
    return folder


@pytest.fixture
def ctl_process(
    decoder_bundle: str, shared: RunningDaemon
) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Return a function that starts whisperctl without waiting; kill what is still running after the test."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str, **options: object) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-P", "-m", "whisperd.cli.main", *arguments]
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        started.append(subprocess.Popen(command, env=shared.env, **{**streams, **options}))  # type: ignore[call-overload]
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()
