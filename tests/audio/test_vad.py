"""The real voice activity model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def speech(recordings: Path) -> Path:
    return recordings / "austen-0870.wav"


def run(bundle: Path, path: Path, frames_per_call: int, piece: int) -> list[list[float]]:
    runner = Path(__file__).with_name("vad_runner.py")
    command = [sys.executable, runner, bundle, path, str(frames_per_call), str(piece)]
    found: list[list[float]] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return found


def test_the_result_does_not_depend_on_the_pieces_fed(media_bundle: Path, speech: Path) -> None:
    assert run(media_bundle, speech, 64, 701) == run(media_bundle, speech, 64, 10**9)


@pytest.mark.parametrize("frames_per_call", [1, 7, 10_000])
def test_the_state_is_carried_from_call_to_call(
    media_bundle: Path, speech: Path, frames_per_call: int
) -> None:
    expected = run(media_bundle, speech, 64, 16_000)
    found = run(media_bundle, speech, frames_per_call, 16_000)
    assert len(found) == len(expected) == -(-113_600 // 512)
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, abs=1e-4)


def test_speech_is_likely_where_somebody_speaks(media_bundle: Path, speech: Path, recordings: Path) -> None:
    spoken = [probability for probability, _ in run(media_bundle, speech, 64, 16_000)]
    silent = [probability for probability, _ in run(media_bundle, recordings / "no_speech.wav", 64, 16_000)]
    assert sum(probability > 0.5 for probability in spoken) > 0.8 * len(spoken)
    assert max(silent) < 0.5
