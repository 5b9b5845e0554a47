"""A child process that serves a few methods on its standard streams."""

import os
import sys
import threading

from whisperd.rpc.errors import WhisperdError
from whisperd.rpc.messages import Params, decode_params
from whisperd.rpc.stdio import Stdio


class Echo(Params, frozen=True):
    text: str


class Sum(Params, frozen=True):
    numbers: list[int]


meeting = threading.Barrier(2)
stdio = Stdio.take()
print("a library that prints while it is imported")


def echo(params):
    return {"text": decode_params(params, Echo).text}


def add(params):
    return sum(decode_params(params, Sum).numbers)


def noisy(_params):
    print("printed by Python")
    os.write(1, b"printed by a native library\n")
    return None


def count(_params):
    for number in range(1000):
        stdio.notify("number", {"value": number})
    return 1000


def refuse(_params):
    raise WhisperdError("test.refused", "It is refused.", "Ask for something else.")


def refuse_strangely(_params):
    raise WhisperdError("test.refused", "It is refused.", "Ask for something else.", {"what": object()})


def fail(_params):
    raise KeyError("lost")


def meet(_params):
    meeting.wait(timeout=120)
    return "met"


def hang(_params):
    stdio.notify("hanging", {})
    threading.Event().wait()


def core_limit(_params):
    import resource

    return resource.getrlimit(resource.RLIMIT_CORE)[0]


methods = (echo, add, noisy, count, refuse, refuse_strangely, fail, meet, hang, core_limit)
handlers = {method.__name__: method for method in methods}
stdio.serve(handlers, concurrency=int(sys.argv[1]))
