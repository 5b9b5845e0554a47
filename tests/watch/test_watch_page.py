"""The page about watch folders: its commands are run in order, as a new user would copy them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from whisperd.settings import WatchSettings
from whisperd_testing import AUDIO, LIMIT_S, RunningDaemon, until

pytestmark = [pytest.mark.real, pytest.mark.skipif(os.name != "posix", reason="a shell")]

PAGE = (Path(__file__).parents[2] / "docs" / "watch-folders.md").read_text("utf-8")
LINES = re.findall(r"^    (\S.*)$", PAGE, re.MULTILINE)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


@pytest.fixture
def user(make_daemon: Callable[..., RunningDaemon], home: Path, toy: Callable[..., str]) -> RunningDaemon:
    """A user with a separate home, and `whisperctl` on the PATH."""
    programs = home / "bin"
    programs.mkdir()
    program = programs / "whisperctl"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -P -m whisperd.cli.main "$@"\n')
    program.chmod(0o755)
    daemon = make_daemon(env={"HOME": str(home), "PATH": f"{programs}:{os.environ['PATH']}"})
    daemon.settings("[watch]\nsettle_s = 0.3\n")
    daemon.start()
    daemon.make_default(toy("plain", says=" hello"))
    return daemon


def run(line: str, user: RunningDaemon) -> str:
    done = subprocess.run(
        ["sh", "-c", line], env=user.env, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
    return done.stdout


def test_every_command_of_the_page_works(user: RunningDaemon, home: Path) -> None:
    recording = home / "Recordings" / "interview.flac"
    for line in LINES:
        if line == "whisperctl watch list":
            shutil.copy(AUDIO / "jfk.flac", recording)
            until((home / "Recordings" / "interview.en.txt").exists, "the first text")
        printed = run(line, user)
        if line.startswith("whisperctl watch log"):
            assert "interview.en.txt" in printed
        if line == "whisperctl watch edit ~/Recordings --output-dir ~/Texts --name '{stem}.{lang}.{ext}'":
            shutil.copy(AUDIO / "austen-0880.wav", recording.with_name("talk.wav"))
            until((home / "Texts" / "talk.en.srt").exists, "a text in another folder")
        if "touch" in line:
            shutil.copy(AUDIO / "austen-0880.wav", recording.with_name("moved.wav"))
            until((home / "Done" / "moved.wav").exists, "the recording to be moved")
            assert (home / "Recordings" / "moved.en.txt.seen").exists(), (
                "the command did not run before the move"
            )
    assert (home / "Recordings" / "interview.en.txt").read_text() == "hello\n"
    assert recording.exists()
    assert run("whisperctl watch list --json", user) == "[]\n"


def test_the_page_states_the_actual_settings() -> None:
    settings = WatchSettings()
    assert (settings.settle_s, settings.poll_interval_s, settings.scan_interval_s) == (3, 30, 300)
    assert settings.command_timeout_s == 300
    for name in re.findall(r"`watch\.(\w+_s)`", PAGE):
        assert hasattr(settings, name)


def test_the_page_shows_every_subcommand() -> None:
    from whisperd.cli.main import program

    for verb in program().command("watch").commands:
        assert any(line.startswith(f"whisperctl watch {verb}") for line in LINES), verb
