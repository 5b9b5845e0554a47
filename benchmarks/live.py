"""Live speech, pushed in real time: the delay from the end of a 5 s utterance to its final text."""

from __future__ import annotations

import array
import statistics
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks.measure import Outcome, RunningDaemon, model_path, rounds
from whisperd.client import Client, Dictation
from whisperd.speech import samples, word_errors

GOAL_S = 1.0
ROUNDS = 7
MODEL = "tiny.en"
SAMPLE = "austen-0890"
BYTES_PER_S = 32_000
PIECE_S = 0.1
PAUSE_S = 2.0
QUIET = 200
"""The amplitude, of 32,767, above which a sample is not silence."""


def measure(daemon: RunningDaemon, _audio: Path) -> Outcome:
    """Measure the seconds from the last audible sample of an utterance to its final text."""
    model_path(daemon, MODEL)
    (sample,) = (one for one in samples() if one.name == SAMPLE)
    speech = sample.pcm[: 2 * _end_of_speech(sample.pcm)]
    with daemon.connect() as client:
        # The first round loads the model.
        found = [_round(client, speech) for _ in range(rounds(ROUNDS) + 1)][1:]
    final_s = [one["final_s"] for one in found]
    first_s = [one["first_s"] for one in found if one["first_s"] is not None]
    errors = [word_errors(sample.text, one["text"]) for one in found]
    median_s = statistics.median(final_s)
    return Outcome(
        "live",
        f"5 s of speech with {MODEL}: final text at most {GOAL_S:.1f} s after its end, "
        f"median of {len(found)}",
        median_s <= GOAL_S,
        [
            ("utterance", f"{len(speech) / BYTES_PER_S:.1f} s"),
            ("its end → final text", f"{median_s:.2f} s (longest: {max(final_s):.2f} s)"),
            ("its beginning → first text", f"{statistics.median(first_s):.2f} s" if first_s else "none"),
            ("wrong words", f"{max(errors)} of {len(sample.text.split())} at most"),
        ],
        {"rounds": found},
    )


def _round(client: Client, speech: bytes) -> dict[str, Any]:
    """Run one dictation, from the first sample to its final text."""
    with client.dictate(model=MODEL) as dictation:
        first_s, final_s, text = None, 0.0, ""
        began_s = time.monotonic()
        for event in dictation:
            now_s = time.monotonic() - began_s
            match event["type"]:
                case "job.started":
                    began_s = time.monotonic()
                    threading.Thread(target=_speak, args=[dictation, speech], daemon=True).start()
                case "transcription.partial":
                    first_s = now_s if first_s is None else first_s
                case "transcription.segment":
                    final_s, text = now_s - len(speech) / BYTES_PER_S, f"{text} {event['text']}".strip()
    return {"final_s": final_s, "first_s": first_s, "text": text}


def _speak(dictation: Dictation, speech: bytes) -> None:
    """Push speech and a pause, each piece at the moment at which a microphone would deliver it."""
    audio = speech + bytes(round(PAUSE_S * BYTES_PER_S))
    piece_bytes = round(PIECE_S * BYTES_PER_S)
    began_s = time.monotonic()
    for first in range(0, len(audio), piece_bytes):
        spoken_s = min(first + piece_bytes, len(audio)) / BYTES_PER_S
        time.sleep(max(0.0, began_s + spoken_s - time.monotonic()))
        dictation.push(audio[first : first + piece_bytes])
    dictation.finish()


def _end_of_speech(pcm: bytes) -> int:
    """Return the index after the last audible sample."""
    return max(place for place, value in enumerate(array.array("h", pcm), 1) if abs(value) > QUIET)
