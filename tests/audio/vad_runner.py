"""Prints speech probabilities as JSON: python vad_runner.py BUNDLE WAV FRAMES_PER_CALL PIECE_SAMPLES."""

import json
import sys
from pathlib import Path

bundle, path, frames_per_call, piece = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
sys.path.insert(0, bundle)

import numpy as np  # noqa: E402

from whisperd.audio.vad import SileroModel, VoiceActivity  # noqa: E402

samples = np.frombuffer(Path(path).read_bytes()[44:], "<i2")
activity = VoiceActivity(SileroModel(Path(bundle)), frames_per_call)
pieces = [samples[start : start + piece] for start in range(0, len(samples), piece)]
frames = [frame for piece in pieces for frame in activity.feed(piece)]
print(json.dumps(frames + list(activity.finish())))
