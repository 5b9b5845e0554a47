"""Latency of a short recording with the model loaded, compared with a fresh faster-whisper process."""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

from benchmarks.measure import (
    Outcome,
    RunningDaemon,
    bundle_path,
    in_turn,
    median_ratio,
    model_path,
    rounds,
    run,
    words,
)

GOAL = 4.0
ROUNDS = 9
MODEL = "base"

# The first example of their README: a new process, the defaults, the text.
FRESH = """
import sys
from faster_whisper import WhisperModel
segments, info = WhisperModel(sys.argv[1]).transcribe(sys.argv[2])
print("".join(segment.text for segment in segments))
"""


def measure(daemon: RunningDaemon, audio: Path) -> Outcome:
    """Measure how many times faster the daemon answers, and whether the words are the same."""
    recording = str(audio / "jfk.flac")
    whisperctl = str(Path(sys.executable).with_name("whisperctl"))
    fresh_env = {**daemon.env, "PYTHONPATH": bundle_path(daemon, "ctranslate2-cpu")}
    model = model_path(daemon, MODEL)
    texts: dict[str, str] = {}

    def ours() -> None:
        texts["ours"] = run([whisperctl, "transcribe", "--no-cache", "--model", MODEL, recording], daemon.env)

    def theirs() -> None:
        texts["theirs"] = run([sys.executable, "-c", FRESH, model, recording], fresh_env)

    our_s, their_s = in_turn([ours, theirs], rounds=rounds(ROUNDS), warm_up=2)
    ratio = median_ratio(their_s, our_s)
    same = words(texts["ours"]) == words(texts["theirs"])
    return Outcome(
        "latency",
        f"jfk.flac with {MODEL}, loaded: at least {GOAL:.0f} times faster than a fresh process, same words",
        ratio >= GOAL and same,
        [
            ("whisperctl transcribe jfk.flac", f"{statistics.median(our_s) * 1000:.0f} ms"),
            ("faster-whisper, fresh process", f"{statistics.median(their_s) * 1000:.0f} ms"),
            ("ratio, median of pairs", f"{ratio:.1f}"),
            ("same words", "yes" if same else "no"),
        ],
        {"ours_s": our_s, "theirs_s": their_s, "ratio": ratio, "same_words": same, "texts": texts},
    )
