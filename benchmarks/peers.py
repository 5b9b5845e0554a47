"""Run the same recordings through whisperd, faster-whisper and whisper.cpp: seconds, texts, peak memory.

Seconds include decoding and voice activity detection, but not model loading: the model is loaded before, or
the loading time that the program reports is subtracted. All are told that the language is English, and
compute with int8 (whisper.cpp: float16, like its own models).
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.accuracy import error_percent
from benchmarks.measure import MemoryWatch, RunningDaemon, bundle_path, model_path
from benchmarks.recordings import Recording
from benchmarks.whispercpp_programs import program

__all__ = [
    "FASTER_WHISPER",
    "WHISPER_CPP",
    "Run",
    "faster_whisper",
    "ggml_model",
    "loaded",
    "whisper_cli",
    "whisperd",
]

FASTER_WHISPER = {
    "defaults": {},
    "greedy": {"beam_size": 1},
    "batched": {"batch_size": 8},
}
"""Arguments of its `transcribe` besides the language."""
WHISPER_CPP = {
    "defaults": (),
    "greedy": ("--beam-size", "1", "--best-of", "1"),
}
"""Arguments of `whisper-cli` besides the model and the files."""

FASTER_WHISPER_PROGRAM = """
import json, resource, sys, time
from faster_whisper import BatchedInferencePipeline, WhisperModel
model, options, *paths = sys.argv[1:]
options = json.loads(options)
whisper = WhisperModel(model, compute_type="int8")
if "batch_size" in options:
    whisper = BatchedInferencePipeline(whisper)
texts = []
began = time.perf_counter()
for path in paths:
    segments, info = whisper.transcribe(path, language="en", **options)
    texts.append("".join(segment.text for segment in segments))
seconds = time.perf_counter() - began
peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({"seconds": seconds, "texts": texts, "peak_bytes": peak_bytes}))
"""


@dataclass(frozen=True)
class Run:
    """The result of one program for some recordings."""

    seconds: float
    texts: list[str]
    peak_bytes: int

    def errors_percent(self, recordings: Sequence[Recording]) -> float:
        """Return the word error rate in percent."""
        return error_percent([one.text for one in recordings], self.texts)


@contextmanager
def loaded(daemon: RunningDaemon, model: str) -> Iterator[Any]:
    """Yield a client of a daemon with a loaded runtime `bench` of this model, which is deleted at the end."""
    model_path(daemon, model)
    bundle_path(daemon, "ctranslate2-cpu")
    with daemon.connect() as client:
        client.runtimes.create("bench", model, keep_alive="never")
        client.runtimes.load("bench")
        try:
            yield client
        finally:
            client.runtimes.delete("bench")


def whisperd(daemon: RunningDaemon, model: str, recordings: Sequence[Recording], **options: Any) -> Run:
    """Transcribe all at once through the daemon, as `whisperctl transcribe *` does."""
    with loaded(daemon, model) as client, MemoryWatch(daemon) as memory:
        began = time.perf_counter()
        jobs = [
            client.submit(one.path, runtime="bench", language="en", cache=False, **options)
            for one in recordings
        ]
        texts = [client.jobs.wait(job)["text"] for job in jobs]
        return Run(time.perf_counter() - began, texts, memory.peak_bytes)


def faster_whisper(daemon: RunningDaemon, model: str, recordings: Sequence[Recording], mode: str) -> Run:
    """Transcribe one after the other in one process."""
    bundles = (bundle_path(daemon, "ctranslate2-cpu"), bundle_path(daemon, "media"))
    options = json.dumps(FASTER_WHISPER[mode])
    done = subprocess.run(
        [sys.executable, "-c", FASTER_WHISPER_PROGRAM, model_path(daemon, model), options]
        + [one.path for one in recordings],
        env={**daemon.env, "PYTHONPATH": os.pathsep.join(bundles)},
        check=True,
        capture_output=True,
        text=True,
    )
    return Run(**json.loads(done.stdout))


def whisper_cli(daemon: RunningDaemon, model: str, recordings: Sequence[Recording], mode: str) -> Run:
    """Transcribe one after the other in one process. The recordings must come from `as_wav`."""
    command = [str(program("whisper-cli")), "--model", str(ggml_model(daemon, model)), "--output-txt"]
    command += WHISPER_CPP[mode]
    for one in recordings:
        command += ["--file", one.path]
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        timings = dict(re.findall(r"(load|total) time = +([\d.]+) ms", said.read()))
    if process.returncode != 0:
        raise subprocess.CalledProcessError(process.returncode, command)
    texts = [Path(f"{one.path}.txt").read_text("utf-8") for one in recordings]
    seconds = (float(timings["total"]) - float(timings["load"])) / 1000
    return Run(seconds, texts, used.ru_maxrss * 1024)


def ggml_model(daemon: RunningDaemon, model: str) -> Path:
    """Return a model in whisper.cpp's format, in float16, converting it if necessary."""
    original = Path(model_path(daemon, model))
    with daemon.connect() as client:
        client.runtimes.create("ggml", model, backend="whispercpp", compute_type="float16", workers=1)
        try:
            client.runtimes.prepare("ggml")
        finally:
            client.runtimes.delete("ggml")
    files = original.parents[1].glob("converted/*/float16.ggml1")
    size_bytes = (original / "model.bin").stat().st_size
    (path,) = (one for one in files if 0.9 < one.stat().st_size / size_bytes < 1.1)
    return path
