"""The encoder's share of the peak arithmetic of a core.

The peak is the fastest product of large matrices on one thread: of 8-bit integers with the engine's own
library (oneDNN in CTranslate2), of 32-bit floats with the bundle's OpenBLAS. The encoder's linear layers
count at the first rate, its convolutions and attention at the second, because CTranslate2 computes them so
with int8. Times are CPU time of one thread.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.measure import Chart, Outcome, RunningDaemon, bundle_path, model_path, rounds

MODEL = "base"
LAYERS, WIDTH, MELS = 6, 512, 80
FRAMES = (800, 1300, 2000, 2800)
ROUNDS = 7
WINDOW_FRAMES = 2000
GOAL_SHARE = 0.5

MEASURE = """
import ctypes, json, os, sys, time
os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"
bundle, model, request = sys.argv[1:]
sys.path.insert(0, bundle)
import ctranslate2, numpy as np
from pathlib import Path
request = json.loads(request)

def fastest(work):
    seconds = []
    for _ in range(request["rounds"] + 1):
        began = time.process_time()
        work()
        seconds.append(time.process_time() - began)
    return min(seconds[1:])

size = 2048
left, right = (np.random.rand(size, size).astype(np.float32) for _ in range(2))
float_s = fastest(lambda: left @ right)

(library,) = Path(bundle, "ctranslate2.libs").glob("libctranslate2*")
gemm = ctypes.CDLL(str(library))[
    "_ZN4dnnl4impl3cpu12gemm_s8x8s32IaEE13dnnl_status_tPKcS5_S5_PKlS7_S7_PKfPKaS7_SB_PKT_S7_SE_S9_PiS7_PKi"
]
left8, right8 = (np.random.randint(-64, 64, (size, size)).astype(np.int8) for _ in range(2))
result = np.zeros((size, size), np.int32)
count, one, nothing = ctypes.c_long(size), ctypes.c_float(1), ctypes.c_float(0)
zero8, zero32 = ctypes.c_int8(0), ctypes.c_int32(0)
by = ctypes.byref

def at(matrix):
    return matrix.ctypes.data_as(ctypes.c_void_p)

def integers():
    status = gemm(
        *(b"N", b"N", b"F", by(count), by(count), by(count), by(one)),
        *(at(left8), by(count), by(zero8), at(right8), by(count), by(zero8)),
        *(by(nothing), at(result), by(count), by(zero32)),
    )
    assert status == 0, status

integer_s = fastest(integers)
assert (result[0] == right8[0].astype(np.int64) @ left8.astype(np.int64)).all()

whisper = ctranslate2.models.Whisper(model, compute_type="int8", intra_threads=1)
encoder = {}
for frames in request["frames"]:
    sound = np.random.rand(1, request["mels"], frames).astype(np.float32)
    encoder[frames] = fastest(lambda: whisper.encode(ctranslate2.StorageView.from_array(sound)))
print(json.dumps({"operations": 2 * size**3, "float_s": float_s, "integer_s": integer_s, "encoder": encoder}))
"""


def measure(daemon: RunningDaemon, _audio: Path) -> Outcome:
    """Measure on one thread; the fastest of several rounds counts."""
    request = {"rounds": rounds(ROUNDS), "frames": FRAMES, "mels": MELS}
    places = (bundle_path(daemon, "ctranslate2-cpu"), model_path(daemon, MODEL))
    done = subprocess.run(
        [sys.executable, "-P", "-c", MEASURE, *places, json.dumps(request)],
        check=True,
        capture_output=True,
        text=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    float_rate, integer_rate = (found["operations"] / found[f"{kind}_s"] for kind in ("float", "integer"))
    shares = {}
    rows: list[tuple[str, ...]] = [
        ("largest matrices, 32-bit floats", "", "", f"{float_rate / 1e9:.0f} G/s", ""),
        ("largest matrices, 8-bit integers", "", "", f"{integer_rate / 1e9:.0f} G/s", ""),
    ]
    for frames in FRAMES:
        integers, floats = operations(frames)
        seconds = found["encoder"][str(frames)]
        shares[frames] = (integers / integer_rate + floats / float_rate) / seconds
        rows.append(
            (
                f"encoder, {frames} frames ({frames / 100:.0f} s)",
                f"{seconds * 1000:.0f} ms",
                f"{(integers + floats) / 1e9:.0f} G, {floats / (integers + floats):.0%} in floats",
                f"{(integers + floats) / seconds / 1e9:.0f} G/s",
                f"{shares[frames]:.0%}",
            )
        )
    return Outcome(
        "peak",
        f"the encoder of {MODEL} reaches at least {GOAL_SHARE:.0%} of the peak arithmetic of a core, with "
        f"the context of windows of up to {WINDOW_FRAMES / 100 - 2:.0f} s",
        min(share for frames, share in shares.items() if frames <= WINDOW_FRAMES) >= GOAL_SHARE,
        rows,
        {**found, "shares": shares},
        ("", "time", "operations", "rate", "share of the peak"),
        [
            Chart(
                "peak",
                f"Encoder of {MODEL}: share of a core's peak arithmetic",
                "%",
                tuple((f"{frames / 100:.0f} s of context", 100 * share) for frames, share in shares.items()),
            )
        ],
    )


def operations(frames: int) -> tuple[int, int]:
    """Count the encoder's multiplications and additions: in its linear layers, and in the rest."""
    positions = frames // 2
    linear = LAYERS * 2 * positions * 12 * WIDTH**2  # four in attention, and two that are four times as wide
    attention = LAYERS * 2 * 2 * positions**2 * WIDTH
    convolutions = 2 * 3 * (frames * MELS * WIDTH + positions * WIDTH**2)
    return linear, attention + convolutions
