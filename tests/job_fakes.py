"""Test doubles for jobs: a runtime, its leases and a decoder controlled by the test, without processes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

import anyio

from whisperd.audio import Decoded, DecodeParams, DecoderEvent, Found, Opened, SpeechSample, WindowAudio
from whisperd.jobs.keeper import SavedProgress
from whisperd.rpc.errors import WhisperdError
from whisperd.store import Ticket
from whisperd.worker.process import Unwanted
from whisperd.worker.protocol import (
    SAMPLE_RATE,
    BatchParams,
    DecodeOptions,
    EngineInfo,
    EngineSegment,
    EngineWindow,
    LoadParams,
    WindowResult,
)


def an_error(code: str = "some.problem") -> WhisperdError:
    return WhisperdError(code, "It broke.", "Mend it.")


def result_of(
    window: EngineWindow, options: DecodeOptions, spoken: str = "de", probability: float = 0.9
) -> WindowResult:
    segment = EngineSegment(
        start=0.0,
        end=window.duration_s,
        text=f" {window.duration_s:g}",
        tokens=(1,),
        temperature=0.0,
        avg_logprob=-0.1,
        compression_ratio=1.0,
        no_speech_prob=0.0,
    )
    if options.language is not None:
        spoken, probability = options.language, 1.0
    elif options.languages and spoken not in options.languages:
        spoken = options.languages[0]
    return WindowResult(language=spoken, language_probability=probability, segments=(segment,))


class FakeKeeper:
    """A `JobKeeper` that stores nothing and finds nothing."""

    def _keep(self, *_: object) -> Ticket:
        ticket = Ticket(lambda _: None)
        ticket.settle()
        return ticket

    async def _do_nothing(self, *_: object) -> None: ...

    async def load_progress(self, *_: object) -> SavedProgress:
        return SavedProgress()

    save = save_suspended = save_end = forget = save_windows = save_found = _keep
    check_input = check_unchanged = check_complete = find_transcript = hash_input = _do_nothing


class FakeRuntime:
    """A `LoadedRuntime` that transcribes each window as its length."""

    def __init__(self, *, batch_size: int = 4, replicas: int = 1, multilingual: bool = True) -> None:
        self.name = "fake"
        self.batch_size = batch_size
        self.replicas = replicas
        self.params = LoadParams(model_path="fake", replicas=replicas)
        self.info = EngineInfo(
            multilingual=multilingual,
            languages=("en", "de") if multilingual else ("en",),
            compute_type="int8",
            library="fake 1",
        )
        self.unloaded = anyio.Event()
        self.failure: WhisperdError | None = None
        self.may_compute = anyio.Event()
        self.may_compute.set()
        self.batches: list[tuple[str | None, list[float]]] = []
        """The language and window lengths of each batch, in the order in which the batches began."""
        self.unwanted: list[Unwanted | None] = []
        """For each batch, the windows that are no longer wanted."""
        self.timed: list[tuple[bool, list[float]]] = []
        """For each batch, whether word times were requested, and its window lengths."""
        self.errors: dict[float, Exception] = {}
        """The error that a batch raises if it has a window of this length."""
        self.spoken: dict[float, tuple[str, float]] = {}
        """The language detected in a window of this length, and its probability; default: German, 0.9."""

    async def transcribe(
        self, batch: BatchParams, unwanted: Unwanted | None = None, *, is_retry: bool = False
    ) -> list[WindowResult]:
        lengths = [window.duration_s for window in batch.windows]
        self.batches.append((batch.options.language, lengths))
        self.unwanted.append(unwanted)
        self.timed.append((batch.options.word_times, lengths))
        await self.may_compute.wait()
        await anyio.sleep(0)
        for length in lengths:
            if length in self.errors:
                raise self.errors[length]
        return [
            result_of(window, batch.options, *self.spoken.get(window.duration_s, ("de", 0.9)))
            for window in batch.windows
        ]

    def why_unloaded(self) -> WhisperdError:
        return self.failure.copy() if self.failure else an_error("runtime.unloaded")

    def unload(self, failure: WhisperdError | None = None) -> None:
        self.failure = failure
        self.unloaded.set()


class FakeRuntimes:
    """A `RuntimeManager` with one runtime, which counts its leases and users."""

    def __init__(self, runtime: FakeRuntime) -> None:
        self.the_runtime = runtime
        self.leases = 0
        self.users = 0
        self.may_load = anyio.Event()
        self.may_load.set()
        self.error: Exception | None = None

    def lease(self, model: str = "fake") -> FakeLease:
        self.leases += 1
        return FakeLease(self, model)


@dataclass(frozen=True)
class FakePreset:
    id: str = "0f0f0f0f"
    is_saved: bool = True


class FakeLease:
    def __init__(self, runtimes: FakeRuntimes, model: str) -> None:
        self.name = "fake"
        self.runtime = FakePreset()
        self.model = model
        self._runtimes = runtimes
        self._is_over = False

    def __enter__(self) -> FakeLease:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        if not self._is_over:
            self._is_over = True
            self._runtimes.leases -= 1

    def waits_for(self) -> str | None:
        return None if self._runtimes.may_load.is_set() else "loading"

    async def loaded(self) -> FakeRuntime:
        await self._runtimes.may_load.wait()
        if self._runtimes.error is not None:
            raise self._runtimes.error
        return self._runtimes.the_runtime

    @contextmanager
    def use(self) -> Iterator[FakeRuntime | None]:
        runtime = self._runtimes.the_runtime
        if runtime.unloaded.is_set():
            yield None
            return
        self._runtimes.users += 1
        try:
            yield runtime
        finally:
            self._runtimes.users -= 1


class FakeDecoders:
    """A `DecoderPool` that decodes every file to windows of these lengths."""

    def __init__(self, lengths: Sequence[float] = (), *, error: Exception | None = None) -> None:
        self.lengths = list(lengths)
        self.error = error
        """Raised at the end of each decode."""
        self.deaths: dict[int, list[WhisperdError]] = {}
        """Errors, each raised once, in place of the window with this index."""
        self.asked: list[DecodeParams] = []
        """The parameters of each decode."""
        self.lengths_of_later_decodes: list[float] | None = None
        """Window lengths from the second decode on, if they differ."""
        self.may_continue = anyio.Event()
        """Awaited before the end, or before the window `pause_before`."""
        self.pause_before: int | None = None
        self.may_continue.set()
        self.error_when_cancelled: Exception | None = None
        self.open = 0
        self.taken = 0
        """How many windows have been taken."""
        self.shared: list[float] = []
        """The overlap of each window with the next one; empty for none."""
        self.skipped = 0
        """How many damaged packets each decode skips."""
        self.samples: list[float] = []
        """Lengths of the speech samples for language detection, if requested."""
        self.silence: list[int] = []
        """For each decode, the sample up to which it reports no speech, before its windows."""

    @asynccontextmanager
    async def decode(self, params: DecodeParams, *, is_patient: bool = True) -> AsyncIterator[FakeDecoding]:
        self.open += 1
        if self.asked and self.lengths_of_later_decodes is not None:
            self.lengths = self.lengths_of_later_decodes
        self.asked.append(params)
        try:
            yield FakeDecoding(self, self.samples[: params.samples], params.done_until)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0)  # a real decoder does not end at once either
            self.open -= 1


class FakeDecoding:
    def __init__(self, decoders: FakeDecoders, samples: Sequence[float], done_until_s: float) -> None:
        self._decoders = decoders
        self._samples = samples
        self._done_until_s = done_until_s
        self.result: Decoded | None = None

    async def __aiter__(self) -> AsyncIterator[DecoderEvent]:
        lengths = self._decoders.lengths
        duration_s = sum(lengths) + 1.0
        yield Opened(duration=duration_s)
        for length in self._samples:
            yield SpeechSample(pcm=bytes(2 * round(length * SAMPLE_RATE)))
        if self._decoders.silence:
            position = self._decoders.silence.pop(0)
            yield Found(part=0, channel=0, position=position, spans=b"", memory=b"")
        start_s = 0.0
        for index, length in enumerate(lengths):
            await anyio.sleep(0)
            if self._decoders.deaths.get(index):
                raise self._decoders.deaths[index].pop(0)
            if index == self._decoders.pause_before:
                await self._decoders.may_continue.wait()
            self._decoders.taken += 1
            pcm = bytes(2 * round(length * SAMPLE_RATE)) if start_s >= self._done_until_s else b""
            shared = self._decoders.shared[index] if self._decoders.shared else 0.0
            yield WindowAudio(index=index, start=start_s, end=start_s + length, pcm=pcm, shared=shared)
            start_s += length
        try:
            await self._decoders.may_continue.wait()
        except anyio.get_cancelled_exc_class():
            if self._decoders.error_when_cancelled is not None:
                raise self._decoders.error_when_cancelled from None
            raise
        if self._decoders.error is not None:
            raise self._decoders.error
        self.result = Decoded(
            duration=duration_s, speech=sum(lengths), windows=len(lengths), skipped=self._decoders.skipped
        )
