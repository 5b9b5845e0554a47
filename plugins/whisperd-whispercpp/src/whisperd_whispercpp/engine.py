"""Whisper on whisper.cpp. Runs in a worker process, with the native bundle on the path.

Each replica is a separate state; all share one set of weights. A window is encoded with the context that its
speech needs instead of always 30 s. Timestamps are not decoded: the library aligns the text with the audio
afterwards, by the attention between them. A doubtful result is computed again with the full context, then at
rising temperatures, as in the other engines.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import msgspec
import numpy as np

from whisperd.rpc.errors import WhisperdError
from whisperd.worker.attempts import Attempt, improve
from whisperd.worker.loudness import find_pauses
from whisperd.worker.protocol import (
    SAMPLE_RATE,
    UNWANTED,
    DecodeOptions,
    EngineInfo,
    EngineWindow,
    IsWanted,
    LoadParams,
    WindowResult,
)
from whisperd.worker.rules import FRAMES_PER_SECOND, context_frames, elect, text_before, token_limit
from whisperd.worker.words import settle, timed_words
from whisperd_whispercpp.alignment import alignment_heads
from whisperd_whispercpp.c_interface import version
from whisperd_whispercpp.ggml_file import coreml_encoder, read_file
from whisperd_whispercpp.library import MAX_AUDIO_CONTEXT, Decoded, GivenUp, Model, State

__all__ = ["WhisperCppEngine", "load"]

USE_GPU = "WHISPERD_WHISPERCPP_GPU"
"""Set in the environment of a worker whose variant computes on a Mac's GPU."""

COMPUTE_TYPES = ("int8", "float16", "float32")
"""How a file is stored determines how it is computed. whisperd itself makes no `float32` files."""
FRAMES_PER_POSITION = 2
LEAST_CONTEXT_S = 15.0
"""Measured (docs/benchmarks.md): with less, short windows lose words that the full context finds."""
FULL_MARGIN_S = 30.0
MAX_WINDOW_S = 30
MIN_SAMPLES, MAX_SAMPLES = SAMPLE_RATE, MAX_WINDOW_S * SAMPLE_RATE
"""The library computes nothing for shorter windows, so silence is appended to them."""


def load(params: LoadParams) -> WhisperCppEngine:
    """Load a ggml model file. Raises `engine.unsupported` for an unsupported device or compute type."""
    for name, known in (("device", ("cpu",)), ("compute_type", COMPUTE_TYPES)):
        if getattr(params, name) not in known:
            raise _unsupported(name.replace("_", " "), getattr(params, name), known)
    path = Path(params.model_path)
    if coreml_encoder(path).exists():
        # The library uses a CoreML encoder if it finds one, which supports only the full context.
        params = msgspec.structs.replace(params, context_margin_s=FULL_MARGIN_S)
    with path.open("rb") as file:  # the library would trust anything in it
        found = read_file(file, path.stat().st_size)
    heads = alignment_heads(found.header, params.model_name)
    model = Model(params.model_path, use_gpu=USE_GPU in os.environ, heads=heads)
    states = [State(model, params.cpu_threads) for _ in range(params.replicas)]
    return WhisperCppEngine(model, states, params)


class WhisperCppEngine:
    """A loaded model; see `whisperd.worker.protocol.Engine`."""

    def __init__(self, model: Model, states: Sequence[State], params: LoadParams) -> None:
        self._model = model
        self._context_margin_s = params.context_margin_s
        self._idle: SimpleQueue[State] = SimpleQueue()
        for state in states:
            self._idle.put(state)
        self.info = EngineInfo(
            multilingual=model.is_multilingual,
            languages=model.languages,
            compute_type=params.compute_type,
            library=f"whisper.cpp {version()}",
            cancels=True,
            word_times=True,
        )

    def transcribe(
        self,
        windows: Sequence[EngineWindow],
        options: DecodeOptions,
        is_wanted: IsWanted = lambda _: True,
    ) -> list[WindowResult]:
        """Transcribe a batch; return one result for each window, in order."""
        prompt = self._prompt(options)
        with self._idle_state() as state:
            languages = self._languages(state, windows, options, is_wanted)
            results = []
            for window, language in zip(windows, languages, strict=True):
                result = UNWANTED
                if is_wanted(window):
                    with suppress(GivenUp), state.while_wanted(partial(is_wanted, window)):
                        result = self._transcribe(state, window, language, prompt, options)
                results.append(result)
            return results

    @contextmanager
    def _idle_state(self) -> Iterator[State]:
        state = self._idle.get()
        try:
            yield state
        finally:
            self._idle.put(state)

    def _languages(
        self, state: State, windows: Sequence[EngineWindow], options: DecodeOptions, is_wanted: IsWanted
    ) -> list[tuple[str, float]]:
        """Return the language of each window with its probability: given, the only one, or elected."""
        if not self._model.is_multilingual:
            return [("en", 1.0)] * len(windows)
        if options.language is not None:
            return [(options.language, 1.0)] * len(windows)
        guesses: list[dict[str, float]] = []
        for window in windows:
            if not is_wanted(window):
                guesses.append({"en": 1.0})
                continue
            self._set_audio(state, window, self._audio_context(window))
            guesses.append(state.guess_language())
        voters = [(window.group, window.duration_s) for window in windows]
        return elect(guesses, voters, options.languages)

    def _transcribe(
        self,
        state: State,
        window: EngineWindow,
        language: tuple[str, float],
        prompt: Sequence[int],
        options: DecodeOptions,
    ) -> WindowResult:
        audio_context = self._audio_context(window)
        self._set_audio(state, window, audio_context)

        def decode(temperature: float, audio_context: int = MAX_AUDIO_CONTEXT) -> Attempt:
            decoded = state.decode(
                language[0],
                audio_context,
                translate=options.task == "translate",
                prompt=prompt,
                max_tokens=token_limit(window.duration_s),
                temperature=temperature,
                beam_size=options.beam_size,
            )
            return self._attempt(decoded, temperature, window)

        first = decode(options.temperatures[0], audio_context)
        had_full_context = audio_context == MAX_AUDIO_CONTEXT
        best = improve(first, options.temperatures, decode, had_full_context=had_full_context)
        return best.result(language, window.duration_s)

    def _set_audio(self, state: State, window: EngineWindow, audio_context: int) -> None:
        state.set_audio(_samples(window), min(window.duration_s, MAX_WINDOW_S), audio_context)

    def _attempt(self, decoded: Decoded, temperature: float, window: EngineWindow) -> Attempt:
        words = timed_words(
            decoded.tokens, decoded.times, decoded.probabilities, self._text, window.duration_s
        )
        is_endless = not decoded.is_ended and len(decoded.tokens) >= token_limit(window.duration_s)
        return Attempt(
            tokens=decoded.tokens,
            text=self._text(decoded.tokens),
            temperature=temperature,
            avg_logprob=decoded.avg_logprob,
            no_speech_prob=decoded.no_speech_prob,
            is_endless=is_endless,
            is_cut_off=not (decoded.is_ended or is_endless),
            words=settle(words, find_pauses(_samples(window))),
        )

    def _text(self, tokens: Sequence[int]) -> str:
        return b"".join(map(self._model.token_bytes, tokens)).decode(errors="replace")

    def _prompt(self, options: DecodeOptions) -> list[int]:
        texts = (options.hotwords, options.prompt)
        return text_before(*(self._model.tokenize(f" {text.strip()}") if text else [] for text in texts))

    def _audio_context(self, window: EngineWindow) -> int:
        frames = context_frames(window.duration_s, self._context_margin_s)
        return max(frames, int(LEAST_CONTEXT_S * FRAMES_PER_SECOND)) // FRAMES_PER_POSITION


def _samples(window: EngineWindow) -> Any:
    samples = np.frombuffer(window.pcm, dtype="<i2")[:MAX_SAMPLES].astype(np.float32) / 32768.0
    return np.pad(samples, (0, max(0, MIN_SAMPLES - len(samples))))


def _unsupported(what: str, value: str, known: Sequence[str]) -> WhisperdError:
    return WhisperdError(
        "engine.unsupported",
        f"whisper.cpp does not support the {what} {value}.",
        f"Use {' or '.join(known)}.",
    )
