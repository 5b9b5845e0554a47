"""Puppets around jobs: a runtime, its leases and a decoder that do what the test says, without a process."""

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
    """Keeps nothing and finds nothing. Stands for a `JobKeeper`."""

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
    """Says of each window how long it is. Stands for a `LoadedRuntime`."""

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
        """Language and lengths of each batch, in the order in which they began."""
        self.unwanted: list[Unwanted | None] = []
        """What nobody wants of each batch any more."""
        self.timed: list[tuple[bool, list[float]]] = []
        """Of each batch, whether the times of words were asked for, and its lengths."""
        self.errors: dict[float, Exception] = {}
        """What a batch with a window of this length raises."""
        self.spoken: dict[float, tuple[str, float]] = {}
        """The language heard in a window of this length, and how likely it is; else German, at 0.9."""

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
    """Has one runtime, and counts its leases and who uses it. Stands for a `RuntimeManager`."""

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
    """Decodes every file to windows of these lengths. Stands for a `DecoderPool`."""

    def __init__(self, lengths: Sequence[float] = (), *, error: Exception | None = None) -> None:
        self.lengths = list(lengths)
        self.error = error
        """Raised at the end."""
        self.deaths: dict[int, list[WhisperdError]] = {}
        """Raised, each once, instead of the window at this place."""
        self.asked: list[DecodeParams] = []
        """Of each decode."""
        self.when_asked_again: list[float] | None = None
        """Lengths of the windows of each decode but the first, if they are others."""
        self.may_go_on = anyio.Event()
        """Awaited before the end, or before the window `pause_before`."""
        self.pause_before: int | None = None
        self.may_go_on.set()
        self.error_when_cancelled: Exception | None = None
        self.open = 0
        self.taken = 0
        """Windows that somebody has taken."""
        self.shared: list[float] = []
        """What each window shares with the next one; else nothing."""
        self.skipped = 0
        """Damaged packets."""
        self.samples: list[float] = []
        """Lengths of the pieces of speech by which to find a language, if they are wanted."""
        self.silence: list[int] = []
        """Up to which sample each decode has found nobody that speaks, before its windows."""

    @asynccontextmanager
    async def decode(self, params: DecodeParams, *, is_patient: bool = True) -> AsyncIterator[FakeDecoding]:
        self.open += 1
        if self.asked and self.when_asked_again is not None:
            self.lengths = self.when_asked_again
        self.asked.append(params)
        try:
            yield FakeDecoding(self, self.samples[: params.samples], params.done_until)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0)  # as a real one, it takes its time to end
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
        yield Opened(duration=duration_s, container="wav", codec="pcm", sample_rate=16_000, channels=1)
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
                await self._decoders.may_go_on.wait()
            self._decoders.taken += 1
            pcm = bytes(2 * round(length * SAMPLE_RATE)) if start_s >= self._done_until_s else b""
            shared = self._decoders.shared[index] if self._decoders.shared else 0.0
            yield WindowAudio(index=index, start=start_s, end=start_s + length, pcm=pcm, shared=shared)
            start_s += length
        try:
            await self._decoders.may_go_on.wait()
        except anyio.get_cancelled_exc_class():
            if self._decoders.error_when_cancelled is not None:
                raise self._decoders.error_when_cancelled from None
            raise
        if self._decoders.error is not None:
            raise self._decoders.error
        self.result = Decoded(
            duration=duration_s, speech=sum(lengths), windows=len(lengths), skipped=self._decoders.skipped
        )
