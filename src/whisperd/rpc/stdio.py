"""The serving end of a connection, in a child process: MessagePack-RPC on standard input and output.

The other end is a `Peer` in the daemon. A child first takes its standard streams, then does its heavy
imports, then serves:

    stdio = Stdio.take()
    import numpy
    stdio.serve({"ping": ping}, concurrency=1)
"""

from __future__ import annotations

import os
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NoReturn

import msgspec

from whisperd import child
from whisperd.rpc.errors import UNEXPECTED, WhisperdError
from whisperd.rpc.framing import TRUSTED_LIMITS, FrameReader
from whisperd.rpc.messages import Request, decode_message, encode_notification, encode_response

__all__ = ["Handler", "Stdio"]

READ_BYTES = 256 * 1024

TRACEBACK_CHARACTERS = 4000

Handler = Callable[[msgspec.Raw], object]
"""Takes the raw parameters (`decode_params` decodes them), returns the result or raises `WhisperdError`."""


class Stdio:
    """A child's connection to its parent. Create it with `take`, once, before anything can print."""

    def __init__(self, output: int) -> None:
        self._output = output
        self._write_lock = threading.Lock()

    @classmethod
    def take(cls) -> Stdio:
        """Reserve standard output for messages, and make this process end with its parent, without a dump."""
        child.die_with_parent()
        child.leave_no_core_dump()
        if sys.platform == "win32":  # descriptors there may translate line endings
            import msvcrt

            msvcrt.setmode(0, os.O_BINARY)
        return cls(child.take_output())

    def notify(self, method: str, params: object) -> None:
        """Send a notification; block while the parent does not read. Any thread may call this."""
        self._write(encode_notification(method, params))

    def serve(self, handlers: Mapping[str, Handler], *, concurrency: int = 1) -> NoReturn:
        """Serve requests until the parent closes our standard input, then end the process.

        Up to `concurrency` handlers run at once, each in a thread of a pool; further requests wait. This
        thread only reads, so it notices the end of the parent even while a request is being served.
        """
        reader = FrameReader(TRUSTED_LIMITS)
        pool = ThreadPoolExecutor(concurrency, thread_name_prefix="request")
        try:
            while data := os.read(0, READ_BYTES):
                for frame in reader.feed(data):
                    message = decode_message(frame)
                    if isinstance(message, Request):
                        pool.submit(self._answer, message, handlers)
        except BaseException:
            traceback.print_exc()
            _end_process(1)
        _end_process(0)

    def _answer(self, request: Request, handlers: Mapping[str, Handler]) -> None:
        try:
            if request.method not in handlers:
                raise WhisperdError(
                    "rpc.unknown_method",
                    f"This process has no method {request.method}.",
                    "Restart the daemon, so that all its processes have the same version.",
                )
            response = encode_response(request.id, result=handlers[request.method](request.params))
        except WhisperdError as error:
            response = encode_response(request.id, error=error)
        except BaseException as error:
            response = encode_response(request.id, error=_unexpected(request.method, error))
        self._write(response)

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        with self._write_lock:
            try:
                while view:
                    view = view[os.write(self._output, view) :]
            except OSError:  # the parent no longer reads
                _end_process(0)


def _unexpected(method: str, error: BaseException) -> WhisperdError:
    # The traceback goes with the response, since standard error may be read only later.
    formatted = "".join(traceback.format_exception(error))[-TRACEBACK_CHARACTERS:]
    return WhisperdError(
        UNEXPECTED,
        f"{method} failed unexpectedly: {type(error).__name__}: {error}"[:500] + ".",
        "See the daemon's log, and report the problem if it happens again.",
        {"exception": type(error).__name__, "traceback": formatted},
    )


def _end_process(status: int) -> NoReturn:
    # At once, without the clean-up of native libraries, which may wait for threads that still compute.
    sys.stderr.flush()
    os._exit(status)
