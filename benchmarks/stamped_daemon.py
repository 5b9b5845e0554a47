"""A daemon that notes when work begins: `python -m benchmarks.stamped_daemon FILE [OPTION...]`.

It is the daemon as it is, with three of its functions wrapped. For each job there is one time of each kind
(`time.perf_counter`), in the order of the jobs, which have to be sent one after the other. They are written
to the file, as JSON, when the daemon ends.
"""

from __future__ import annotations

import atexit
import json
import sys
import time
from pathlib import Path
from typing import Any

from whisperd.audio import process as decoders
from whisperd.daemon import connection
from whisperd.daemon.main import main
from whisperd.worker.process import Worker

KINDS = ("read", "decoding", "computing")


def stamp() -> dict[str, list[float]]:
    """Have the times of each kind noted from now on."""
    times: dict[str, list[float]] = {kind: [] for kind in KINDS}
    decode_message = connection.decode_message
    ask, transcribe = decoders.Decoding.ask, Worker.transcribe

    def decode_message_stamped(frame: bytes) -> Any:
        now_s = time.perf_counter()
        message = decode_message(frame)
        if getattr(message, "method", None) == "jobs.submit":
            times["read"].append(now_s)
        return message

    async def ask_stamped(self: decoders.Decoding) -> None:
        times["decoding"].append(time.perf_counter())
        await ask(self)

    async def transcribe_stamped(self: Worker, batch: Any) -> Any:
        times["computing"].append(time.perf_counter())
        return await transcribe(self, batch)

    connection.decode_message = decode_message_stamped
    decoders.Decoding.ask = ask_stamped  # type: ignore[method-assign]
    Worker.transcribe = transcribe_stamped  # type: ignore[method-assign]
    return times


if __name__ == "__main__":
    path = Path(sys.argv.pop(1))
    times = stamp()
    atexit.register(lambda: path.write_text(json.dumps(times)))
    main()
