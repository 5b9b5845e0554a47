"""A clip of five seconds through `whisperctl`: alone, and while a file of three hours runs at `bulk`.

Alone it takes turns with whisper.cpp's server, which is warm and asked with curl; and what the engine itself
takes for that clip is noted in the daemon.
"""

from __future__ import annotations

import json
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

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
from benchmarks.recordings import as_wav, english, joined
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


def measure(daemon: RunningDaemon, audio: Path) -> Outcome:
    """Both on a daemon of their own, which notes when the engine works."""
    whisperctl = str(Path(sys.executable).with_name("whisperctl"))
    with TemporaryDirectory() as name:
        folder = Path(name)
        wavs = as_wav(english(audio), folder, bundle_path(daemon, "media"))
        clip = min(wavs, key=lambda one: abs(one.duration_s - CLIP_S))
        long = joined(wavs, 60 * rounds(LONG_MINUTES, 3), folder / "long.wav")
        model = ggml_model(daemon, MODEL)
        (folder / "daemon").mkdir()
        path = folder / "times.json"
        with run_stamped(folder / "daemon", path) as stamped, loaded(stamped, MODEL) as client:
            ask = [
                whisperctl,
                "transcribe",
                "--no-cache",
                "--language",
                "en",
                "--runtime",
                "bench",
                clip.path,
            ]

            def ours() -> None:
                run(ask, stamped.env)

            time.sleep(2.0)  # a decoder is made ready beside the model
            with _server(model) as url:
                curl = ["curl", "-sS", "-F", f"file=@{clip.path}", "-F", "language=en", url]
                alone_s, server_s = in_turn([ours, lambda: run(curl, stamped.env)], rounds=rounds(ROUNDS))
            job = client.submit(long.path, runtime="bench", language="en", priority="bulk", cache=False)
            _wait_until_under_way(client, job)
            (beside_s,) = in_turn([ours], rounds=rounds(ROUNDS), warm_up=0)
            still_running = client.jobs.show(job)["status"] == "running"
            client.jobs.cancel(job)
        times = json.loads(path.read_text())
    # The first is the warm-up of `in_turn`.
    engine_s = [
        end - begin for begin, end in zip(times["computing"][1:], times["computed"][1:], strict=False)
    ][: len(alone_s)]
    more_ms = 1000 * statistics.median(a - b for a, b in zip(alone_s, engine_s, strict=True))
    server_ratio = median_ratio(server_s, alone_s)
    beside_ratio = statistics.median(beside_s) / statistics.median(alone_s)
    milliseconds = {
        "whisperctl, alone": 1000 * statistics.median(alone_s),
        "its engine's own time": 1000 * statistics.median(engine_s),
        "whisperctl, beside a long file at bulk": 1000 * statistics.median(beside_s),
        "whisper.cpp's server, warm, curl": 1000 * statistics.median(server_s),
    }
    return Outcome(
        "clip",
        f"{clip.duration_s:.1f} s with {MODEL}, loaded: at most {GOAL_MORE_MS:.0f} ms over the engine's own "
        f"time, {GOAL_SERVER} times as fast as whisper.cpp's server, at most {GOAL_BESIDE} times that beside "
        f"a file of {long.duration_s / 60:.0f} minutes",
        more_ms <= GOAL_MORE_MS
        and server_ratio >= GOAL_SERVER
        and beside_ratio <= GOAL_BESIDE
        and still_running,
        [
            *((label, f"{value:.0f} ms") for label, value in milliseconds.items()),
            ("over the engine's own time, median of pairs", f"{more_ms:.0f} ms"),
            ("times as fast as the server, median of pairs", f"{server_ratio:.1f}"),
            ("times as long beside a long file", f"{beside_ratio:.1f}"),
            ("slowest beside a long file", f"{1000 * max(beside_s):.0f} ms"),
        ],
        {"alone_s": alone_s, "engine_s": engine_s, "server_s": server_s, "beside_s": beside_s},
        charts=[
            Chart("clip", f"A clip of {clip.duration_s:.0f} s, {MODEL}", "ms", tuple(milliseconds.items()))
        ],
    )


def _wait_until_under_way(client: Client, job: str) -> None:
    """Until a first part of it is done, so that the engine is busy with it."""
    with closing(client.follow(job)) as events:
        for event in events:
            if event["type"] == "transcription.segment":
                return


@contextmanager
def _server(model: Path) -> Iterator[str]:
    """whisper.cpp's server with its defaults; where it answers."""
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
