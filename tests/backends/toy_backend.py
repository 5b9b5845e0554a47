"""A backend made for tests: no native library, no real model, and it does what its model says.

It is found as any third party's backend is, through the entry point in the `.dist-info` beside it,
once this folder is on `PYTHONPATH`. A toy model is a folder whose `config.json` says how the engine
behaves; `whisperd_testing.py` in `tests/` makes such folders. What it may say:

    load_s, window_s     seconds that loading, and each window, take
    load_s_between       [least, most]: loading takes a random time between
    load_error           loading fails with this message
    load_fails           how probable it is that loading fails: 0 never, 1 always
    seed                 what chance begins with; it goes on with each load
    load_signal          loading ends the process with this signal
    load_library         loading opens this shared library
    load_memory          loading asks for so many bytes, and uses them as long as it is loaded
    load_words           loading writes this to standard error, and aborts
    multilingual         false for a model of English alone
    word_times           false for a model that does not tell when each word is said
    error                every batch is refused with this message
    refuse_s             a batch with a window of this length is refused
    exception            every batch fails with an exception that the engine did not mean
    batch_memory         every batch asks for so many bytes, and uses them
    poison_s, poison     a batch with a window of this length ends the process with this signal
    stuck                every batch lasts for ever with the interpreter held: "loop" or "sleep"
    stuck_s              only a batch with a window of this length does
    chatter              it prints to standard output, from Python and from C
    odd_answer           it answers "too_few" results, something that is "no_result", or "not_utf8"
    segments, characters how many segments a window has, and how long the text of each is
    says                 what each segment says
    avg_logprob          how likely that is
    identify             it notes of each window which it is: a checksum of its sound, and the prompt
    cancels              it leaves out windows that nobody wants any more, also while it waits

Files in the folder do the same while it runs: `hold` (batches wait until it is deleted), `crash`, and the
folder `permits`: each batch takes a file out of it, or waits until there is one, or one called `all`.
It writes down what it did: `loads.jsonl`, `batches.jsonl`, `windows.jsonl`, and `unwanted` once it was told
that something is.
A lock file that the environment variable
`TOY_LOCK` names gives it a native bundle. `TOY_VARIANTS` names a JSON file with a list of other variants:
`name`, `priority`, `device`, `lock` (a file), `cuda` (what it needs), `environment`, `build`. In a worker's
environment, `TOY_LOAD_ERROR` is what loading fails with, `TOY_LOAD_SIGNAL` the signal that ends it, and
`TOY_LIBRARIES` are shared libraries that it opens by these names.
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
        variants=made_up_variants() or (only,),
    )


def made_up_variants() -> tuple[Variant, ...]:
    """Those that a test wants."""
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
    leave_to_chance(folder, behaviour)
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
    """Do what the variant of this worker is to do."""
    for library in os.environ.get("TOY_LIBRARIES", "").split():
        ctypes.CDLL(library)
    if "TOY_LOAD_SIGNAL" in os.environ:
        die(os.environ["TOY_LOAD_SIGNAL"])
    if "TOY_LOAD_ERROR" in os.environ:
        raise RuntimeError(os.environ["TOY_LOAD_ERROR"])


def leave_to_chance(folder: Path, behaviour: dict) -> None:
    """Take a random time, and fail at times: otherwise with each load, and the same for one seed."""
    load = (folder / "loads.jsonl").read_text().count("\n")
    chance = random.Random(f"{behaviour.get('seed')} {load}")
    time.sleep(chance.uniform(*behaviour.get("load_s_between", (0, 0))))
    if chance.random() < behaviour.get("load_fails", 0):
        raise RuntimeError("bad luck")


def note(file: Path, **what: object) -> None:
    """Add a line to a record that a test can read."""
    with file.open("a") as lines:
        lines.write(json.dumps(what) + "\n")


def chatter() -> None:
    """Print as libraries do that think the terminal is theirs."""
    print("hello from Python", flush=True)
    os.write(1, b"hello from a descriptor\n" * 100)
    if os.name == "posix":
        library = ctypes.CDLL(None)
        library.puts(b"hello from C")
        library.fflush(None)


def die(name: str) -> None:
    """End this process by a signal, as a fault in native code does: nothing is done after it."""
    os.kill(os.getpid(), signal.Signals[name])
    time.sleep(60)


def use_memory(size_bytes: int) -> mmap.mmap | None:
    """Have so much memory in use, as a large model has: every page is written to."""
    memory = mmap.mmap(-1, size_bytes) if size_bytes else None
    for offset in range(0, size_bytes, mmap.PAGESIZE):
        memory[offset] = 1
    return memory


def hang(how: str | None) -> None:
    """Hold the interpreter for ever."""
    if how == "loop":
        deque(itertools.repeat(None), maxlen=0)
    if how == "sleep":
        ctypes.PyDLL(None).sleep(3600)


def with_words(segment: EngineSegment) -> EngineSegment:
    """The same with its words, all of the same length."""
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
    """Says how long each window is. What goes wrong, and when, is up to `config.json`."""

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
        while (self._folder / "hold").exists():  # a test lets go by deleting it
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
            for permit in permits.glob("[0-9]*"):  # not `all`, which may have come meanwhile
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
        self._crash_as_told()

    def _crash_as_told(self) -> None:
        marker = self._folder / "crash"  # holds the name of a signal, or "once" and that
        with suppress(FileNotFoundError):  # another replica may take it away
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
