"""Compare word error rate and speed with faster-whisper's defaults, on recordings with references."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.measure import Outcome, RunningDaemon, bundle_path, model_path, run

GOAL_PERCENT = 4.0
MODEL = "base"

ALL_IN_ONE_PROCESS = """
import json, sys, time
from faster_whisper import WhisperModel
model = WhisperModel(sys.argv[1], compute_type="int8")
texts = []
began = time.perf_counter()
for path in sys.argv[2:]:
    segments, info = model.transcribe(path)
    texts.append("".join(segment.text for segment in segments))
print(json.dumps({"seconds": time.perf_counter() - began, "texts": texts}))
"""


def measure(daemon: RunningDaemon, audio: Path) -> Outcome:
    """Transcribe all English recordings with a reference, and those in which nobody speaks."""
    manifest = [
        one for one in json.loads((audio / "manifest.json").read_text()) if (audio / one["file"]).exists()
    ]
    english = [one for one in manifest if one["language"] == "en" and one["text"]]
    silent = [one for one in manifest if one["text"] == ""]
    paths = [str(audio / one["file"]) for one in english]
    ours = _ours(daemon, paths)
    theirs = json.loads(
        run(
            [sys.executable, "-c", ALL_IN_ONE_PROCESS, model_path(daemon, MODEL), *paths],
            {**daemon.env, "PYTHONPATH": bundle_path(daemon, "ctranslate2-cpu")},
        )
    )
    references = [one["text"] for one in english]
    our_percent, their_percent = (
        error_percent(references, texts) for texts in (ours["texts"], theirs["texts"])
    )
    phantoms = _ours(daemon, [str(audio / one["file"]) for one in silent])["texts"] if silent else []
    return Outcome(
        "accuracy",
        f"word error rate with {MODEL} at most {GOAL_PERCENT:.0f} %, no words where nobody speaks",
        our_percent <= GOAL_PERCENT and not any(phantoms),
        [
            (f"{len(english)} files, whisperd", f"{our_percent:.2f} %, {ours['seconds']:.1f} s"),
            (
                f"{len(english)} files, faster-whisper int8",
                f"{their_percent:.2f} %, {theirs['seconds']:.1f} s",
            ),
            ("times faster", f"{theirs['seconds'] / ours['seconds']:.1f}"),
            (f"{len(silent)} files without speech", "empty" if not any(phantoms) else repr(phantoms)),
        ],
        {"ours": ours, "theirs": theirs, "ours_percent": our_percent, "theirs_percent": their_percent},
    )


def _ours(daemon: RunningDaemon, paths: list[str]) -> dict[str, Any]:
    with daemon.connect() as client:
        client.transcribe(paths[0], model=MODEL)  # loads the model
        began = time.perf_counter()
        jobs = [client.submit(path, model=MODEL, language="en", cache=False) for path in paths]
        texts = [client.jobs.wait(job)["text"] for job in jobs]
        return {"seconds": time.perf_counter() - began, "texts": texts}


def error_percent(references: list[str], texts: list[str]) -> float:
    """Return the word error rate in percent over all texts, after Whisper's English normalizer."""
    import jiwer
    from whisper_normalizer.english import EnglishTextNormalizer

    normalize = EnglishTextNormalizer()
    return 100 * float(jiwer.wer([normalize(one) for one in references], [normalize(one) for one in texts]))
