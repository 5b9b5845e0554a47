"""Prints speech probabilities as JSON: vad_runner.py BUNDLE WAV FRAMES_PER_CALL PIECE_SAMPLES [HOW...].

`telephone` is the band that a telephone lets through, `quiet` a hundredth of the loudness; with `N`
another one goes on after so many pieces, with what the first remembers; `rumble` is wind and steps.
"""

import json
import sys
from pathlib import Path

bundle, path, frames_per_call, piece = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
how = sys.argv[5:]
sys.path.insert(0, bundle)

import numpy as np  # noqa: E402

from whisperd.audio.vad import SileroModel, VoiceActivity  # noqa: E402

samples = np.frombuffer(Path(path).read_bytes()[44:], "<i2")
if "telephone" in how:
    spectrum = np.fft.rfft(samples)
    pitches = np.fft.rfftfreq(len(samples), 1 / 16_000)
    spectrum[(pitches < 300) | (pitches > 3400)] = 0
    samples = np.clip(np.fft.irfft(spectrum, len(samples)), -32768, 32767).astype("<i2")
if "rumble" in how:  # three times as loud as the voice
    noise = np.fft.rfft(np.random.default_rng(1).standard_normal(len(samples)))
    noise[np.fft.rfftfreq(len(samples), 1 / 16_000) > 20] = 0
    rumble = np.fft.irfft(noise, len(samples))
    rumble *= 3 * np.abs(samples.astype(float)).mean() / np.abs(rumble).mean()
    samples = np.clip(samples / 2 + rumble / 2, -32768, 32767).astype("<i2")
if "quiet" in how:
    samples = (samples / 100).astype("<i2")
model = SileroModel(Path(bundle))
activity = VoiceActivity(model, frames_per_call)
frames = []
for start in range(0, len(samples), piece):
    if str(start // piece) in how:
        memory, position = activity.memory, 512 * len(frames)
        activity = VoiceActivity(model, frames_per_call)
        activity.skip(samples[:position])
        activity.restore(memory)
        frames += activity.feed(samples[position:start])
    frames += activity.feed(samples[start : start + piece])
print(json.dumps(frames + list(activity.finish())))
