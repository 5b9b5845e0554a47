"""A backend for tests, without a native library or a real model, that behaves as its model prescribes.

It is found like any third-party backend, through the entry point in the `.dist-info` next to it,
once this folder is on `PYTHONPATH`. A toy model is a folder whose `config.json` prescribes the engine's
behaviour; `whisperd_testing.py` in `tests/` makes such folders. Its keys:

    load_s, window_s     seconds that loading, and each window, take
    load_s_between       [least, most]: loading takes a random time between these
    load_error           loading fails with this message
    load_fails           the probability that loading fails: 0 never, 1 always
    seed                 seeds the random numbers, together with the number of the load
    load_signal          loading ends the process with this signal
    load_library         loading opens this shared library
    load_memory          loading allocates and uses this many bytes until the engine is unloaded
    load_words           loading writes this to standard error and aborts
    multilingual         false for an English-only model
    word_times           false for a model without word times
    error                every batch is refused with this message
    refuse_s             a batch with a window of this length is refused
    exception            every batch fails with an unintended exception
    batch_memory         every batch allocates and uses this many bytes
    poison_s, poison     a batch with a window of this length ends the process with this signal
    stuck                every batch hangs for ever while holding the interpreter: "loop" or "sleep"
    stuck_s              only a batch with a window of this length hangs
    chatter              the engine prints to standard output, from Python and from C
    odd_answer           the answer has "too_few" results, contains "no_result", or is "not_utf8"
    segments, characters the number of segments in a window, and the length of each one's text
    says                 the text of each segment
    avg_logprob          the average log probability of each segment
    identify             record for each window a checksum of its audio and the prompt
    cancels              skip windows that are no longer wanted, also while waiting

Files in the folder control the engine while it runs: `hold` (batches wait until it is deleted), `crash`, and
the folder `permits`: each batch takes a file out of it, or waits until it has one, or a file named `all`.
The engine records what it does in `loads.jsonl`, `batches.jsonl` and `windows.jsonl`, and creates `unwanted`
once it has been notified that a window is.

The environment variable `TOY_LOCK` names a lock file that gives the backend a native bundle. `TOY_VARIANTS`
names a JSON file with a list of other variants: `name`, `priority`, `device`, `lock` (a file), `cuda` (the
version needed), `environment`, `build`. In a worker's environment, `TOY_LOAD_ERROR` is the message that
loading fails with, `TOY_LOAD_SIGNAL` the signal that ends it, and `TOY_LIBRARIES` are the names of shared
libraries that loading opens.
"""

from __future__ import annotations

import ctypes
import itertools
import json
import mmap
import os
import random
import signal
import sys
import time
import zlib
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from whisperd.plugins import Backend, Needs, Variant, hookimpl
from whisperd.rpc.errors import WhisperdError
from whisperd.worker.protocol import (
    UNWANTED,
    DecodeOptions,
    EngineInfo,
    EngineSegment,
    EngineWindow,
    EngineWord,
    IsWanted,
    LoadParams,
    WindowResult,
)


@hookimpl
def whisperd_backend() -> Backend:
    lock = os.environ.get("TOY_LOCK")
    text = Path(lock).read_text() if lock else None
    only = Variant(name="toy-cpu", lock=text, device="cpu", priority=1000, compute_types=("int8",))
    return Backend(
        name="toy",
        engine=os.environ.get("TOY_ENGINE", "toy_backend:load"),
        need_bytes=lambda parameters, *_, **__: int(2 * parameters),  # as large as its files
        variants=variants_of_the_test() or (only,),
    )


def variants_of_the_test() -> tuple[Variant, ...]:
    """Return the variants listed in `TOY_VARIANTS`."""
    file = os.environ.get("TOY_VARIANTS")
    return tuple(
        Variant(
            name=one["name"],
            lock=Path(one["lock"]).read_text() if one.get("lock") else None,
            device=one.get("device", "cpu"),
            priority=one["priority"],
            compute_types=("int8",),
            needs=Needs(cuda=tuple(one["cuda"]) if one.get("cuda") else None),
            environment=one.get("environment", {}),
            build=one.get("build"),
        )
        for one in (json.loads(Path(file).read_text()) if file else ())
    )


def load(params: LoadParams) -> ToyEngine:
    folder = Path(params.model_path)
    behaviour = json.loads((folder / "config.json").read_text())
    note(folder / "loads.jsonl", pid=os.getpid(), replicas=params.replicas, threads=params.cpu_threads)
    if behaviour.get("chatter"):
        chatter()
    while (folder / "hold_load").exists():
        time.sleep(0.005)
    time.sleep(behaviour.get("load_s", 0))
    behave_randomly(folder, behaviour)
    obey_environment()
    if behaviour.get("load_library"):
        ctypes.CDLL(behaviour["load_library"])
    memory = use_memory(behaviour.get("load_memory", 0))
    if behaviour.get("load_words"):
        print(behaviour["load_words"], file=sys.stderr, flush=True)
        os.abort()
    if behaviour.get("load_error"):
        raise RuntimeError(behaviour["load_error"])
    if behaviour.get("load_signal"):
        die(behaviour["load_signal"])
    return ToyEngine(folder, behaviour, memory)


def obey_environment() -> None:
    """Do what the environment of this worker's variant prescribes."""
    for library in os.environ.get("TOY_LIBRARIES", "").split():
        ctypes.CDLL(library)
    if "TOY_LOAD_SIGNAL" in os.environ:
        die(os.environ["TOY_LOAD_SIGNAL"])
    if "TOY_LOAD_ERROR" in os.environ:
        raise RuntimeError(os.environ["TOY_LOAD_ERROR"])


def behave_randomly(folder: Path, behaviour: dict) -> None:
    """Sleep for a random time and fail at random: differently at each load, reproducibly for a seed."""
    load = (folder / "loads.jsonl").read_text().count("\n")
    chance = random.Random(f"{behaviour.get('seed')} {load}")
    time.sleep(chance.uniform(*behaviour.get("load_s_between", (0, 0))))
    if chance.random() < behaviour.get("load_fails", 0):
        raise RuntimeError("bad luck")


def note(file: Path, **what: object) -> None:
    """Append a line to a record that a test can read."""
    with file.open("a") as lines:
        lines.write(json.dumps(what) + "\n")


def chatter() -> None:
    """Print as libraries do that assume the terminal is theirs."""
    print("hello from Python", flush=True)
    os.write(1, b"hello from a descriptor\n" * 100)
    if os.name == "posix":
        library = ctypes.CDLL(None)
        library.puts(b"hello from C")
        library.fflush(None)


def die(name: str) -> None:
    """End this process with a signal, as a fault in native code does: no code runs after it."""
    os.kill(os.getpid(), signal.Signals[name])
    time.sleep(60)


def use_memory(size_bytes: int) -> mmap.mmap | None:
    """Allocate this much memory and write to every page, as a large model does."""
    memory = mmap.mmap(-1, size_bytes) if size_bytes else None
    for offset in range(0, size_bytes, mmap.PAGESIZE):
        memory[offset] = 1
    return memory


def hang(how: str | None) -> None:
    """Hang for ever while holding the interpreter."""
    if how == "loop":
        deque(itertools.repeat(None), maxlen=0)
    if how == "sleep":
        ctypes.PyDLL(None).sleep(3600)


def with_words(segment: EngineSegment) -> EngineSegment:
    """Return the segment with its words, all of the same length."""
    words = segment.text.split()
    each_s = (segment.end - segment.start) / max(1, len(words))
    timed = tuple(
        EngineWord(
            text=f" {word}",
            start=segment.start + each_s * place,
            end=segment.start + each_s * (place + 1),
            probability=0.5,
        )
        for place, word in enumerate(words)
    )
    return msgspec.structs.replace(segment, words=timed)


class ToyEngine:
    """Transcribes each window as its length. `config.json` determines what goes wrong, and when."""

    def __init__(self, folder: Path, behaviour: dict, memory: mmap.mmap | None = None) -> None:
        self._folder = folder
        self._memory = memory
        self._behaviour = behaviour
        self.info = EngineInfo(
            multilingual=behaviour.get("multilingual", True),
            languages=("en", "de", "fr") if behaviour.get("multilingual", True) else ("en",),
            compute_type="int8",
            library="toy 1.0",
            word_times=behaviour.get("word_times", True),
            cancels=behaviour.get("cancels", False),
        )

    def transcribe(
        self,
        windows: Sequence[EngineWindow],
        options: DecodeOptions,
        is_wanted: IsWanted = lambda _: True,
    ) -> list[WindowResult]:
        durations = [round(window.duration_s, 2) for window in windows]
        note(self._folder / "batches.jsonl", durations=durations, language=options.language)
        if self._behaviour.get("identify"):
            for window in windows:
                note(self._folder / "windows.jsonl", sound=zlib.crc32(window.pcm), prompt=options.prompt)
        while (self._folder / "hold").exists():  # until the test deletes it
            wanted = [is_wanted(window) for window in windows]
            if not all(wanted):
                (self._folder / "unwanted").touch()
            if not any(wanted):
                return [UNWANTED] * len(windows)
            time.sleep(0.005)
        self._wait_for_permit()
        time.sleep(self._behaviour.get("window_s", 0) * len(windows))
        self._misbehave(durations)
        results = [self._result(window, options) if is_wanted(window) else UNWANTED for window in windows]
        match self._behaviour.get("odd_answer"):
            case "too_few":
                return results[1:]
            case "no_result":
                return [{"what": "is this?"}]  # type: ignore[list-item]
            case "not_utf8":
                return [msgspec.Raw(b"\xa2\xff\xfe")] * len(windows)  # type: ignore[list-item]
        return results

    def _wait_for_permit(self) -> None:
        permits = self._folder / "permits"
        while permits.exists() and not (permits / "all").exists():
            for permit in permits.glob("[0-9]*"):  # not `all`, which may have been created meanwhile
                with suppress(FileNotFoundError):  # another replica was faster
                    permit.unlink()
                    return
            time.sleep(0.005)

    def _misbehave(self, durations: Sequence[float]) -> None:
        behaviour = self._behaviour
        if behaviour.get("chatter"):
            chatter()
        if behaviour.get("error") or behaviour.get("refuse_s") in durations:
            raise WhisperdError(
                "toy.error", behaviour.get("error", "This is refused."), "Ask for something else."
            )
        use_memory(behaviour.get("batch_memory", 0))
        if behaviour.get("exception"):
            raise ArithmeticError(behaviour["exception"])
        if behaviour.get("poison_s") in durations:
            die(behaviour["poison"])
        if behaviour.get("stuck_s", durations[0]) in durations:
            hang(behaviour.get("stuck"))
        self._crash_if_asked()

    def _crash_if_asked(self) -> None:
        marker = self._folder / "crash"  # contains the name of a signal, optionally after "once"
        with suppress(FileNotFoundError):  # another replica may delete it
            *once, name = marker.read_text().split() or [""]
            if once:
                marker.unlink()
            if name:  # else it is being written
                die(name)

    def _result(self, window: EngineWindow, options: DecodeOptions) -> WindowResult:
        text = f" {options.task} {window.duration_s:.2f} s"
        if "characters" in self._behaviour:
            text = " " + "x" * self._behaviour["characters"]
        text = self._behaviour.get("says", text)
        count = self._behaviour.get("segments", 1)
        segments = tuple(
            EngineSegment(
                start=window.duration_s * index / count,
                end=window.duration_s * (index + 1) / count,
                text=text,
                tokens=(1, 2, 3),
                temperature=0.0,
                avg_logprob=self._behaviour.get("avg_logprob", -0.1),
                compression_ratio=1.0,
                no_speech_prob=0.0,
            )
            for index in range(count)
        )
        if options.word_times:
            segments = tuple(map(with_words, segments))
        return WindowResult(language=options.language or "en", language_probability=1.0, segments=segments)
