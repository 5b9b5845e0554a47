"""Our whisper.cpp backend compared with `whisper-cli`, with the same model and library, on one thread.

`whisper-cli` is compiled from the source distribution that the lock names, and linked with the libraries of
the native bundle, so the flags cannot differ. Both compute each recording of up to 30 s as one window,
greedily, without fallback, and with word times by alignment (`-dtw`). CPU time of one thread counts, because
other load on the machine changes it little.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import wave
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.measure import Outcome, RunningDaemon, bundle_path, median_ratio, rounds, words
from benchmarks.peers import ggml_model
from whisper_cli import plain_wavs, run_cli, transcribe_with_cli, whisper_cli

MODEL, COMPUTE_TYPE, VARIANT = "base", "float16", "whispercpp-avx"
ROUNDS = 3
LONGEST_S = 30.0
FULL_MARGIN_S = 30.0

MEASURE = """
import json, sys, time, wave
bundle, request = sys.argv[1:]
from pathlib import Path
from whisperd.isolation import enter_bundle
enter_bundle(Path(bundle), "whisperd_whispercpp")
from whisperd.worker.protocol import DecodeOptions, EngineWindow, LoadParams
from whisperd_whispercpp.engine import load
request = json.loads(request)
engine = load(LoadParams(
    model_path=request["model"], compute_type=request["compute_type"], context_margin_s=request["margin_s"]
))
windows = []
for path in request["files"]:
    with wave.open(path) as sound:
        windows.append(EngineWindow(pcm=sound.readframes(sound.getnframes())))
options = DecodeOptions(language="en", beam_size=1, temperatures=(0.0,))
began = time.process_time()
results = [engine.transcribe([window], options)[0] for window in windows]
seconds = time.process_time() - began
texts = ["".join(segment.text for segment in result.segments) for result in results]
print(json.dumps({"seconds": seconds, "texts": texts}))
"""


def measure(daemon: RunningDaemon, audio: Path) -> Outcome:
    """Run both in turn."""
    bundle = Path(bundle_path(daemon, VARIANT))
    model = ggml_model(daemon, MODEL)
    with TemporaryDirectory() as name:
        folder = Path(name)
        files = _windows(audio, folder, Path(bundle_path(daemon, "media")))
        cli, nothing = whisper_cli(bundle), [_no_sound(folder)]
        ours, adaptive, theirs = list[dict[str, Any]](), list[dict[str, Any]](), list[dict[str, Any]]()
        for _ in range(rounds(ROUNDS)):
            loading_s = run_cli(cli, model, nothing)
            texts, seconds_in_all = transcribe_with_cli(cli, model, files, "-dtw", MODEL)
            theirs.append({"seconds": seconds_in_all - loading_s, "texts": texts})
            ours.append(_run_ours(bundle, model, files, FULL_MARGIN_S))
            adaptive.append(_run_ours(bundle, model, files, None))
    seconds = {
        name: [one["seconds"] for one in runs]
        for name, runs in (("whisper-cli", theirs), ("full", ours), ("adaptive", adaptive))
    }
    same_full = sum(words(a) == words(b) for a, b in zip(ours[0]["texts"], theirs[0]["texts"], strict=True))
    same_adaptive = sum(
        words(a) == words(b) for a, b in zip(adaptive[0]["texts"], theirs[0]["texts"], strict=True)
    )
    full_ratio = median_ratio(seconds["whisper-cli"], seconds["full"])
    adaptive_ratio = median_ratio(seconds["whisper-cli"], seconds["adaptive"])
    count = len(files)
    return Outcome(
        name="whispercpp",
        goal="as fast as whisper-cli with the full context (allowing 3 % for noise), twice as fast with "
        "adaptive context, same words with both",
        met=full_ratio >= 0.97 and adaptive_ratio >= 2 and same_full == same_adaptive == count,
        rows=[
            (f"whisper-cli, {count} files", f"{min(seconds['whisper-cli']):.1f} s of CPU time"),
            ("ours, full context", f"{min(seconds['full']):.1f} s, {full_ratio:.2f} times as fast"),
            (
                "ours, adaptive context",
                f"{min(seconds['adaptive']):.1f} s, {adaptive_ratio:.2f} times as fast",
            ),
            ("same words, full context", f"{same_full} of {count} files"),
            ("same words, adaptive context", f"{same_adaptive} of {count} files"),
        ],
        data={
            "seconds": seconds,
            "texts": {"whisper-cli": theirs[0]["texts"], "adaptive": adaptive[0]["texts"]},
        },
    )


def _windows(audio: Path, folder: Path, media: Path) -> list[Path]:
    """Convert the English recordings that fit into one window to WAV.

    Recordings without a reference are left out: two people speak at once there, so the words are uncertain.
    """
    manifest = json.loads((audio / "manifest.json").read_text("utf-8"))
    chosen = [
        one for one in manifest if one["language"] == "en" and one["text"] and one["duration_s"] <= LONGEST_S
    ]
    return plain_wavs([audio / one["file"] for one in chosen], folder, media)


def _no_sound(folder: Path) -> Path:
    """Write a WAV file too short for any computation, so that only loading takes time."""
    path = folder / "no_sound.wav"
    with wave.open(str(path), "wb") as sound:
        sound.setparams((1, 2, 16_000, 0, "NONE", ""))
        sound.writeframes(bytes(2 * 800))
    return path


def _run_ours(bundle: Path, model: Path, files: Sequence[Path], margin_s: float | None) -> dict[str, Any]:
    request = {
        "model": str(model),
        "compute_type": COMPUTE_TYPE,
        "margin_s": margin_s,
        "files": [str(file) for file in files],
    }
    done = subprocess.run(
        [sys.executable, "-P", "-c", MEASURE, str(bundle), json.dumps(request)],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found
