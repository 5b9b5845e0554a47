"""A daemon that records when work begins: `python -m benchmarks.stamped_daemon FILE [OPTION...]`.

It runs the daemon with some of its functions wrapped. For each job it records one time of each kind
(`time.perf_counter`), in the order of the jobs, which must be sent one after the other. When the daemon ends,
it writes these to the file, as JSON, with `held_s`, the seconds of audio waiting for the engine at each new
maximum, and `batches`, the number of windows in each batch.
"""

from __future__ import annotations

import atexit
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whisperd.audio import process as decoders
from whisperd.daemon import connection
from whisperd.daemon.main import main
from whisperd.jobs.dispatcher import Dispatcher
from whisperd.rpc.messages import decode_message
from whisperd.worker.process import Worker

if TYPE_CHECKING:
    from benchmarks.measure import RunningDaemon

KINDS = ("read", "decoding", "computing", "computed")


@contextmanager
def run_stamped(folder: Path, path: Path, *, toy: bool = False) -> Iterator[RunningDaemon]:
    """Run such a daemon with its state in a folder; the file exists after the block."""
    from benchmarks.measure import REPOSITORY, RunningDaemon

    places = [*([str(REPOSITORY / "tests" / "backends")] if toy else []), str(REPOSITORY)]
    daemon = RunningDaemon(
        folder,
        toy=False,
        env={"PYTHONPATH": os.pathsep.join(places)},
        program=("benchmarks.stamped_daemon", str(path)),
    ).start()
    try:
        yield daemon
    finally:
        daemon.close()


def stamp() -> dict[str, list[float]]:
    """Record the times of each kind from now on."""
    times: dict[str, list[float]] = {kind: [] for kind in (*KINDS, "held_s", "batches")}
    ask, transcribe, wait_for = decoders.Decoding.ask, Worker.transcribe, Dispatcher.transcribe

    def decode_message_stamped(frame: bytes) -> Any:
        now_s = time.perf_counter()
        message = decode_message(frame)
        if getattr(message, "method", None) == "jobs.submit":
            times["read"].append(now_s)
        return message

    async def ask_stamped(self: decoders.Decoding) -> None:
        times["decoding"].append(time.perf_counter())
        await ask(self)

    async def transcribe_stamped(self: Worker, *arguments: Any) -> Any:
        times["computing"].append(time.perf_counter())
        times["batches"].append(len(arguments[0].windows))
        results = await transcribe(self, *arguments)
        times["computed"].append(time.perf_counter())
        return results

    async def wait_for_stamped(self: Dispatcher, parcel: Any) -> Any:
        held_s = parcel.duration_s + sum(one.waiting_s for one in self._scheduler._classes.values())
        if held_s > max(times["held_s"], default=0.0):
            times["held_s"].append(held_s)
        return await wait_for(self, parcel)

    connection.decode_message = decode_message_stamped  # type: ignore[attr-defined]
    decoders.Decoding.ask = ask_stamped  # type: ignore[method-assign]
    Worker.transcribe = transcribe_stamped  # type: ignore[method-assign, assignment]
    Dispatcher.transcribe = wait_for_stamped  # type: ignore[method-assign]
    return times


if __name__ == "__main__":
    path = Path(sys.argv.pop(1))
    times = stamp()
    atexit.register(lambda: path.write_text(json.dumps(times)))
    main()
