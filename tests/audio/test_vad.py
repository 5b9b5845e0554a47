"""The real voice activity model."""

from __future__ import annotations

import json
import random
import struct
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def speech(recordings: Path) -> Path:
    return recordings / "austen-0870.wav"


def run(bundle: Path, path: Path, frames_per_call: int, piece: int, *how: str) -> list[list[float]]:
    runner = Path(__file__).with_name("vad_runner.py")
    command = [sys.executable, runner, bundle, path, str(frames_per_call), str(piece), *how]
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


@pytest.mark.parametrize("how", [["telephone"], ["telephone", "quiet"], ["quiet"]])
def test_speech_is_heard_over_a_telephone_and_from_far_away(
    media_bundle: Path, speech: Path, recordings: Path, how: list[str]
) -> None:
    expected = [probability > 0.5 for probability, _ in run(media_bundle, speech, 64, 16_000)]
    found = [probability > 0.5 for probability, _ in run(media_bundle, speech, 64, 16_000, *how)]
    assert sum(found) > 0.8 * sum(expected)
    silent = run(media_bundle, recordings / "no_speech.wav", 64, 16_000, *how)
    assert max(probability for probability, _ in silent) < 0.5


def test_rumble_is_neither_loud_nor_hides_speech(media_bundle: Path, speech: Path) -> None:
    expected = run(media_bundle, speech, 64, 16_000)
    found = run(media_bundle, speech, 64, 16_000, "rumble")
    assert sum(level for _, level in found) < 0.7 * sum(level for _, level in expected)  # the voice is halved
    assert sum(one > 0.5 for one, _ in found) >= 0.98 * sum(one > 0.5 for one, _ in expected)


def test_another_one_goes_on_with_what_the_first_remembers(media_bundle: Path, speech: Path) -> None:
    whole = run(media_bundle, speech, 64, 64 * 512)
    assert run(media_bundle, speech, 64, 64 * 512, "2") == whole


def test_another_one_goes_on_in_silence(media_bundle: Path, speech: Path, tmp_path: Path) -> None:
    chance = random.Random(1)
    hiss = b"".join(struct.pack("<h", chance.randint(-2, 2)) for _ in range(512 * 300))
    path = tmp_path / "silent_in_between.wav"
    path.write_bytes(speech.read_bytes() + hiss + speech.read_bytes()[44:])
    whole = run(media_bundle, path, 64, 64 * 512)
    assert [0.0, 0.0] in whole, "there is a time in which nobody is asked"
    # In the silence before that time, in it, and where it ends: the same to the last bit.
    assert run(media_bundle, path, 64, 64 * 512, "5", "6", "7", "8") == whole


def test_speech_is_found_again_after_a_long_silence(media_bundle: Path, speech: Path, tmp_path: Path) -> None:
    data = speech.read_bytes()
    gap_frames = 1000
    path = tmp_path / "twice.wav"
    path.write_bytes(data + bytes(2 * 512 * gap_frames + 2 * 64) + data[44:])
    found = [probability for probability, _ in run(media_bundle, path, 64, 16_000)]
    first, last = found[: 113_600 // 512], found[-(113_600 // 512) :]
    assert sum(p > 0.5 for p in last) > 0.95 * sum(p > 0.5 for p in first)
    middle = found[len(first) + 300 : -len(last) - 100]
    assert len(middle) > 500
    assert set(middle) == {0.0}  # nobody was asked
