"""whisper.cpp as the engine uses it: weights, states that compute with them, and their results.

The bundle's Python module, `_pywhispercpp`, supports one computation per loaded model. The library below it
supports many that share the weights (`whisper_state`), so it is called directly, through ctypes, which also
lets other threads run meanwhile.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from ctypes import c_int32, c_void_p
from typing import Any

import numpy as np

from whisperd_whispercpp.alignment import AlignmentHeads
from whisperd_whispercpp.c_interface import (
    ABORT_CALLBACK,
    BEAM_SEARCH,
    DEFAULTS,
    GREEDY,
    LIBRARY,
    SAMPLES,
    FullParams,
)
from whisperd_whispercpp.mel import mel_filters, mel_spectrogram

__all__ = ["MAX_AUDIO_CONTEXT", "Decoded", "GivenUp", "Model", "State"]

MAX_AUDIO_CONTEXT = 1500
"""Positions of the encoder's output: two spectrogram frames each."""
_FRAMES = 2 * MAX_AUDIO_CONTEXT

_MAX_BEAMS = 8
"""A constant of the compiled library."""
_BEST_OF = 5
"""Texts sampled at a temperature above zero; the likeliest is used."""

_NO_TIME_MS = 100
"""A duration too short for the library to compute anything."""
_LEAST_ALIGNED_MS = 200
"""The library can decode shorter audio, but not align a text with it."""


_PIECES = re.compile(r"\s*\S{1,64}")
"""Pieces of a text to tokenize. The library's time grows with the cube of a text without spaces: four
thousand characters of Japanese take it five seconds."""


class GivenUp(Exception):
    """Raised when the window being computed is no longer wanted."""


class Decoded:
    """The result of one decoding of one window."""

    no_speech_prob: float
    """The model's probability that no one speaks."""

    def __init__(self, state: Any, end_token: int, duration_s: float) -> None:
        segments = range(LIBRARY.whisper_full_n_segments_from_state(state))
        data = [
            LIBRARY.whisper_full_get_token_data_from_state(state, segment, index)
            for segment in segments
            for index in range(LIBRARY.whisper_full_n_tokens_from_state(state, segment))
        ]
        text = [one for one in data if one.id < end_token]
        self.tokens = tuple(int(one.id) for one in text)
        self.probabilities = [float(one.p) for one in text]
        """The probability of each token."""
        ends = [one.t_dtw / 100 if one.t_dtw >= 0 else duration_s for one in text]
        self.times = [0.0, *ends]
        """When each token begins, and when the last one ends, in seconds."""
        self.is_ended = not data or data[-1].id == end_token
        """Whether the decoder ended the text itself."""
        self.avg_logprob = float(sum(one.plog for one in data) / len(data)) if data else 0.0


class Model:
    """Loaded weights, shared by all states. They are freed when the process ends."""

    def __init__(self, path: str, *, use_gpu: bool, heads: AlignmentHeads) -> None:
        params = LIBRARY.whisper_context_default_params_by_ref().contents
        params.use_gpu = use_gpu
        # It would pad the context, and attend to leftovers of longer contexts in the padding.
        params.flash_attn = False
        params.dtw_token_timestamps = True
        params.dtw_aheads_preset = heads.preset
        params.dtw_n_top = heads.top_layers
        params.dtw_mem_size = heads.need_bytes
        self.context = LIBRARY.whisper_init_from_file_with_params_no_state(path.encode(), params)
        if not self.context:
            raise RuntimeError("whisper.cpp cannot load the file")
        self.uses_gpu = use_gpu
        self.is_multilingual = bool(LIBRARY.whisper_is_multilingual(self.context))
        self.start_token = int(LIBRARY.whisper_token_sot(self.context))
        self.no_speech_token = int(LIBRARY.whisper_token_nosp(self.context))
        self.end_token = int(LIBRARY.whisper_token_eot(self.context))
        self.languages = self._known_languages()
        self.mel_filters = mel_filters(LIBRARY.whisper_model_n_mels(self.context))

    def token_bytes(self, token: int) -> bytes:
        """Return the bytes of a token, which may be part of a character."""
        return bytes(LIBRARY.whisper_token_to_str(self.context, token))

    def tokenize(self, text: str) -> list[int]:
        """Return the tokens of a text."""
        return [token for piece in _PIECES.findall(text) for token in self._tokenize(piece)]

    def _tokenize(self, text: str) -> list[int]:
        encoded = text.encode()
        tokens = (c_int32 * len(encoded))()  # no token is shorter than a byte
        count = LIBRARY.whisper_tokenize(self.context, encoded, tokens, len(tokens))
        return list(tokens[:count])

    @property
    def vocabulary_size(self) -> int:
        """The number of tokens."""
        return int(LIBRARY.whisper_n_vocab(self.context))

    def _known_languages(self) -> tuple[str, ...]:
        if not self.is_multilingual:
            return ("en",)
        # Newer models know more languages; their tokens lie between the first language and the tasks.
        first = LIBRARY.whisper_token_lang(self.context, 0)
        count = LIBRARY.whisper_token_translate(self.context) - first
        known = range(min(count, LIBRARY.whisper_lang_max_id() + 1))
        return tuple(LIBRARY.whisper_lang_str(number).decode() for number in known)


class State:
    """One computation: a window's spectrogram, the encoder's output for it, and the decoder's memory.

    Only one thread at a time may use it.
    """

    def __init__(self, model: Model, threads: int) -> None:
        self._model = model
        self._context = model.context
        self._threads = threads
        self._state: Any = None
        self._duration_s = 0.0
        self._needs_renewal = False
        """Whether to renew it before the next window, because a text was sampled or given up."""
        self._is_wanted = _always
        self._abort = ABORT_CALLBACK(lambda _: not self._is_wanted())
        self._renew()

    @contextmanager
    def while_wanted(self, is_wanted: Callable[[], bool]) -> Iterator[None]:
        """Make computations in this context raise `GivenUp` soon after `is_wanted` becomes false.

        The library asks after each run of the encoder, and after each token of the decoder.
        """
        self._is_wanted = is_wanted
        try:
            yield
        finally:
            self._is_wanted = _always

    def set_audio(self, samples: Any, duration_s: float, audio_context: int) -> None:
        """Set the samples of a window, to be encoded in a context of `audio_context` positions.

        Its text is aligned with the first `duration_s` only; silence may follow them.
        """
        self._duration_s = duration_s
        if self._needs_renewal and not self._model.uses_gpu:  # on a GPU, renewing takes long
            self._renew()
        mel = np.ascontiguousarray(mel_spectrogram(samples, self._model.mel_filters, _FRAMES), np.float32)
        bands, frames = mel.shape
        pointer = mel.ctypes.data_as(SAMPLES)
        _check(LIBRARY.whisper_set_mel_with_state(self._context, self._state, pointer, frames, bands))
        params = self._params(GREEDY)
        params.duration_ms = _NO_TIME_MS
        params.audio_ctx = audio_context
        self._compute(params)

    def guess_language(self) -> dict[str, float]:
        """Return the probability of each language that the model knows."""
        guesses = np.zeros(LIBRARY.whisper_lang_max_id() + 1, dtype=np.float32)
        pointer = guesses.ctypes.data_as(SAMPLES)
        likeliest = LIBRARY.whisper_lang_auto_detect_with_state(
            self._context, self._state, 0, self._threads, pointer
        )
        # Unless negative, the result is the number of a language, not a status: 1 is Chinese.
        _check(min(likeliest, 0))
        return dict(zip(self._model.languages, guesses.tolist(), strict=False))

    def decode(
        self,
        language: str,
        audio_context: int,
        *,
        translate: bool,
        prompt: Sequence[int],
        max_tokens: int,
        temperature: float,
        beam_size: int,
    ) -> Decoded:
        """Encode and decode the window: by beam search at temperature 0, else the best of some samples."""
        uses_beams = temperature == 0 and beam_size > 1
        params = self._params(BEAM_SEARCH if uses_beams else GREEDY)
        self._needs_renewal |= uses_beams or temperature > 0
        params.audio_ctx = audio_context
        params.duration_ms = max(_LEAST_ALIGNED_MS, int(self._duration_s * 1000))
        params.language = language.encode()
        params.translate = translate
        params.max_tokens = max_tokens
        params.temperature = temperature
        params.beam_search_beam_size = min(beam_size, _MAX_BEAMS)
        params.greedy_best_of = 1 if temperature == 0 else _BEST_OF
        if prompt:
            params.prompt_tokens = (c_int32 * len(prompt))(*prompt)
            params.prompt_n_tokens = len(prompt)
        self._compute(params)
        decoded = Decoded(self._state, self._model.end_token, self._duration_s)
        decoded.no_speech_prob = self._no_speech_prob()
        return decoded

    def _no_speech_prob(self) -> float:
        """Return the probability that no one speaks. The library's own value is that of an earlier window."""
        start = (c_int32 * 1)(self._model.start_token)
        _check(
            LIBRARY.whisper_decode_with_state(self._context, self._state, start, len(start), 0, self._threads)
        )
        pointer = LIBRARY.whisper_get_logits_from_state(self._state)
        scores = np.ctypeslib.as_array(pointer, shape=(self._model.vocabulary_size,))
        likelihoods = np.exp(scores - scores.max())
        return float(likelihoods[self._model.no_speech_token] / likelihoods.sum())

    def _renew(self) -> None:
        """Replace the library's state by a new one.

        Beam search samples its candidates from a generator that continues from window to window: with that of
        an old state, the same audio would not give the same text.
        """
        if self._state:
            LIBRARY.whisper_free_state(self._state)
        self._state = LIBRARY.whisper_init_state(self._context)
        if not self._state:
            raise RuntimeError("whisper.cpp does not have enough memory to compute with this model")
        self._needs_renewal = False

    def _params(self, strategy: int) -> Any:
        params = FullParams.from_buffer_copy(DEFAULTS[strategy])
        params.n_threads = self._threads
        params.language = b"en"
        params.no_timestamps = True
        params.single_segment = True
        params.print_progress = False
        params.suppress_nst = True
        # The engine decides whether to retry, and what counts as silence.
        params.temperature_inc = 0.0
        params.no_speech_thold = float("inf")
        return params

    def _compute(self, params: Any) -> None:
        params.abort_callback = ctypes.cast(self._abort, c_void_p)
        # Without samples, it uses the spectrogram that it has.
        status = LIBRARY.whisper_full_with_state(self._context, self._state, params, None, 0)
        if status < 0 and not self._is_wanted():
            self._needs_renewal = True
            raise GivenUp
        _check(status)


def _always() -> bool:
    return True


def _check(status: int) -> None:
    if status < 0 or status == 1:
        raise RuntimeError(f"whisper.cpp could not compute a window (status {status})")
