"""The child process that converts a model to another format.

Run as `python -m whisperd.models.convert REQUEST` with a `ConvertRequest` as JSON; it prints `ConvertLine`s
as lines of JSON. The conversion is a plugin's function, run with the native bundle on the path. It is a
separate process so that the daemon imports no native library, and so that it can be killed at once.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from whisperd.child import take_output
from whisperd.decodable import decodable
from whisperd.isolation import enter_bundle
from whisperd.models.messages import Converted, ConvertLine, ConvertRequest, NotConverted, Read

_REPORT_EVERY_S = 0.1
_REASON_LENGTH = 500


def main() -> None:
    """Run the request in the first argument."""
    request = msgspec.json.decode(sys.argv[1], type=decodable(ConvertRequest))
    output = take_output()  # a plugin may print anything

    def say(line: ConvertLine) -> None:
        os.write(output, msgspec.json.encode(line) + b"\n")

    try:
        convert(request, say)
    except OSError as error:
        say(NotConverted(reason=error.strerror or str(error), errno=error.errno))
    except Exception as error:  # a damaged or unknown model may raise anything
        say(NotConverted(reason=str(error)[:_REASON_LENGTH] or type(error).__name__))
    else:
        say(Converted())


def convert(request: ConvertRequest, say: Callable[[ConvertLine], None]) -> None:
    """Call the plugin's function, which writes the file."""
    module, _, function = request.convert.partition(":")
    if request.bundle is not None:
        enter_bundle(Path(request.bundle), module.partition(".")[0])
    make = getattr(importlib.import_module(module), function)
    done, reported_s = 0, time.monotonic()

    def on_bytes(count: int) -> None:
        nonlocal done, reported_s
        done += count
        if time.monotonic() - reported_s >= _REPORT_EVERY_S:
            reported_s = time.monotonic()
            say(Read(done=done))

    make(Path(request.source), Path(request.target), request.precision, on_bytes)


if __name__ == "__main__":
    main()
