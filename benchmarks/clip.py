"""Latency of a five-second clip through `whisperctl`: alone, and while a file of three hours runs at `bulk`.

Alone it takes turns with whisper.cpp's server, which is warm and called with curl. The daemon records the
engine's own time for the clip.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import NamedTuple

from benchmarks.measure import (
    Chart,
    Outcome,
    RunningDaemon,
    bundle_path,
    in_turn,
    median_ratio,
    rounds,
    run,
)
from benchmarks.peers import ggml_model, loaded
from benchmarks.recordings import Recording, as_wav, english, joined
from benchmarks.stamped_daemon import run_stamped
from benchmarks.whispercpp_programs import program
from whisperd.client import Client

MODEL = "base"
CLIP_S = 5.0
ROUNDS = 15
LONG_MINUTES = 180
GOAL_MORE_MS = 120.0
GOAL_SERVER = 2.5
GOAL_BESIDE = 2.5


class Times(NamedTuple):
    """Seconds that a clip took, one value for each round."""

    alone_s: list[float]
    engine_s: list[float]
    """The engine's part of `alone_s`."""
    server_s: list[float]
    beside_s: list[float]
    is_beside: bool
    """Whether the long file was still running at the end."""


def measure(daemon: RunningDaemon, audio: Path) -> Outcome:
    """Measure on a separate daemon, which records when the engine works."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        wavs = as_wav(english(audio), folder, bundle_path(daemon, "media"))
        clip = min(wavs, key=lambda one: abs(one.duration_s - CLIP_S))
        long = joined(wavs, 60 * rounds(LONG_MINUTES, 3), folder / "long.wav")
        (folder / "daemon").mkdir()
        times = _times(folder / "daemon", ggml_model(daemon, MODEL), clip, long)
    return _outcome(times, clip, long)


def _times(folder: Path, model: Path, clip: Recording, long: Recording) -> Times:
    path = folder / "times.json"
    whisperctl = str(Path(sys.executable).with_name("whisperctl"))
    options = ["--no-cache", "--language", "en", "--runtime", "bench"]
    with run_stamped(folder, path) as stamped, loaded(stamped, MODEL) as client:

        def ours() -> None:
            run([whisperctl, "transcribe", *options, clip.path], stamped.env)

        time.sleep(2.0)  # until a decoder has started
        with _server(model) as url:
            curl = ["curl", "-sS", "-F", f"file=@{clip.path}", "-F", "language=en", url]
            alone_s, server_s = in_turn([ours, lambda: run(curl, stamped.env)], rounds=rounds(ROUNDS))
        job = client.submit(long.path, runtime="bench", language="en", priority="bulk", cache=False)
        _wait_until_under_way(client, job)
        (beside_s,) = in_turn([ours], rounds=rounds(ROUNDS), warm_up=0)
        is_beside = client.jobs.show(job)["status"] == "running"
        client.jobs.cancel(job)
    noted = json.loads(path.read_text())
    # The first is the warm-up of `in_turn`.
    computed = zip(noted["computing"][1:], noted["computed"][1:], strict=False)
    engine_s = [end - begin for begin, end in computed][: len(alone_s)]
    return Times(alone_s, engine_s, server_s, beside_s, is_beside)


def _outcome(times: Times, clip: Recording, long: Recording) -> Outcome:
    more_ms = 1000 * median(a - b for a, b in zip(times.alone_s, times.engine_s, strict=True))
    server_ratio = median_ratio(times.server_s, times.alone_s)
    beside_ratio = median(times.beside_s) / median(times.alone_s)
    milliseconds = {
        "whisperctl, alone": 1000 * median(times.alone_s),
        "its engine's own time": 1000 * median(times.engine_s),
        "whisperctl, during a long file at bulk": 1000 * median(times.beside_s),
        "whisper.cpp's server, warm, curl": 1000 * median(times.server_s),
    }
    return Outcome(
        "clip",
        f"{clip.duration_s:.1f} s with {MODEL}, loaded: at most {GOAL_MORE_MS:.0f} ms over the engine's own "
        f"time, {GOAL_SERVER} times as fast as whisper.cpp's server, at most {GOAL_BESIDE} times that during "
        f"a file of {long.duration_s / 60:.0f} minutes",
        more_ms <= GOAL_MORE_MS
        and server_ratio >= GOAL_SERVER
        and beside_ratio <= GOAL_BESIDE
        and times.is_beside,
        [
            *((label, f"{value:.0f} ms") for label, value in milliseconds.items()),
            ("over the engine's own time, median of pairs", f"{more_ms:.0f} ms"),
            ("times as fast as the server, median of pairs", f"{server_ratio:.1f}"),
            ("times as long during a long file", f"{beside_ratio:.1f}"),
            ("slowest during a long file", f"{1000 * max(times.beside_s):.0f} ms"),
        ],
        {name: values for name, values in times._asdict().items() if name != "is_beside"},
        charts=[
            Chart("clip", f"A clip of {clip.duration_s:.0f} s, {MODEL}", "ms", tuple(milliseconds.items()))
        ],
    )


def _wait_until_under_way(client: Client, job: str) -> None:
    """Wait for the first segment of the job, so that the engine is busy with it."""
    with closing(client.follow(job)) as events:
        for event in events:
            if event["type"] == "transcription.segment":
                return


@contextmanager
def _server(model: Path) -> Iterator[str]:
    """Run whisper.cpp's server with its defaults; yield its URL."""
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [str(program("whisper-server")), "--model", str(model), "--host", "127.0.0.1", "--port", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while process.poll() is None:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/inference"
    finally:
        process.terminate()
        process.wait()
