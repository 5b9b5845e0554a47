"""Whisper on CTranslate2. Runs in a worker process, with the native bundle on the path.

Three things make it faster than the usual way at the same words. Windows of several jobs are
computed as one batch. The encoder is given the speech and a margin instead of always 30 s: its cost
grows faster than linearly with length. And timestamps are not decoded token by token: where a window
holds several sentences, their times come from the attention between text and audio. A result that
looks bad is computed again with the full context, then at rising temperatures (Radford et al.,
"Robust Speech Recognition via Large-Scale Weak Supervision", 2022, section 4.5).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import ctranslate2
import numpy as np
from faster_whisper import WhisperModel
from faster_whisper.tokenizer import _LANGUAGE_CODES, Tokenizer
from faster_whisper.transcribe import get_compression_ratio, get_suppressed_tokens

from whisperd.worker.protocol import (
    DecodeOptions,
    EngineInfo,
    EngineSegment,
    EngineWindow,
    LoadParams,
    WindowResult,
)
from whisperd_ctranslate2.context import (
    FRAMES_PER_SECOND,
    FULL_CONTEXT_FRAMES,
    context_frames,
    elect,
    is_repetitive,
    is_silence,
    looks_bad,
    token_limit,
)
from whisperd_ctranslate2.sentences import Word, has_several_sentences, split_sentences

__all__ = ["CTranslate2Engine", "load"]

TEXT_CONTEXT_TOKENS = 448
"""What the decoder can hold: the text before and the text that it writes."""
MAX_PROMPT_TOKENS = TEXT_CONTEXT_TOKENS // 2 - 1
"""The text before, as Whisper was trained."""
BEST_OF = 5
"""Hypotheses sampled at a temperature above zero; the likeliest is kept."""


def load(params: LoadParams) -> CTranslate2Engine:
    """Load a model folder in CTranslate2 format."""
    # So that what is sampled does not differ from one start to the next without a cause.
    ctranslate2.set_random_seed(0)
    return CTranslate2Engine(
        WhisperModel(
            params.model_path,
            device=params.device,
            device_index=list(params.device_index),
            compute_type=params.compute_type,
            cpu_threads=params.cpu_threads,
            num_workers=params.replicas,
        )
    )


class CTranslate2Engine:
    """A loaded model; see `whisperd.worker.protocol.Engine`."""

    def __init__(self, whisper: WhisperModel) -> None:
        self._whisper = whisper
        self._model = whisper.model
        self._extract = whisper.feature_extractor
        self._tokenizers: dict[tuple[str, str], Tokenizer] = {}
        self.info = EngineInfo(
            multilingual=self._model.is_multilingual,
            languages=self._known_languages(),
            compute_type=self._model.compute_type,
            library=f"ctranslate2 {ctranslate2.__version__}",
        )

    def transcribe(self, windows: Sequence[EngineWindow], options: DecodeOptions) -> list[WindowResult]:
        """Transcribe a batch; one result for each window, in order."""
        frames = max(context_frames(window.duration_s) for window in windows)
        encoded = self._encode(windows, frames)
        languages = self._languages(encoded, windows, options)
        attempts = self._decode(encoded, windows, languages, options, options.temperatures[0])
        self._find_times(encoded, windows, languages, options, attempts)
        return [
            self._finish(window, language, self._improve(window, language, attempt, options, frames))
            for window, language, attempt in zip(windows, languages, attempts, strict=True)
        ]

    def _encode(self, windows: Sequence[EngineWindow], frames: int) -> Any:
        """Mel spectrograms `(windows, mels, frames)`, silence behind the speech, through the encoder."""
        features = np.stack([self._features(window.pcm, frames) for window in windows])
        return self._model.encode(ctranslate2.StorageView.from_array(features))

    def _features(self, pcm: bytes, frames: int) -> Any:
        samples = np.frombuffer(pcm, dtype="<i2").astype(np.float32) / 32768.0
        wanted = frames * self._extract.hop_length
        samples = np.pad(samples[:wanted], (0, max(0, wanted - len(samples))))
        return np.ascontiguousarray(self._extract(samples, padding=0)[:, :frames], dtype=np.float32)

    def _languages(
        self, encoded: Any, windows: Sequence[EngineWindow], options: DecodeOptions
    ) -> list[tuple[str, float]]:
        """The language of each window with its probability: given, the only one, or voted for."""
        if not self._model.is_multilingual:
            return [("en", 1.0)] * len(windows)
        if options.language is not None:
            return [(options.language, 1.0)] * len(windows)
        guesses = [
            {token[2:-2]: probability for token, probability in ranked}
            for ranked in self._model.detect_language(encoded)
        ]
        return elect(guesses, [(window.group, window.duration_s) for window in windows])

    def _decode(
        self,
        encoded: Any,
        windows: Sequence[EngineWindow],
        languages: Sequence[tuple[str, float]],
        options: DecodeOptions,
        temperature: float,
    ) -> list[_Attempt]:
        prompts = [self._prompt(language, options) for language, _ in languages]
        tokenizer = self._tokenizer(languages[0][0], options.task)
        longest_s = max(window.duration_s for window in windows)
        limit = min(token_limit(longest_s) + len(prompts[0]), TEXT_CONTEXT_TOKENS)
        search: dict[str, Any] = (
            {"beam_size": options.beam_size}
            if temperature == 0
            else {
                "beam_size": 1,
                "num_hypotheses": BEST_OF,
                "sampling_topk": 0,
                "sampling_temperature": temperature,
            }
        )
        results = self._model.generate(
            encoded,
            prompts,
            max_length=limit,
            return_scores=True,
            return_no_speech_prob=True,
            suppress_tokens=get_suppressed_tokens(tokenizer, [-1]),
            **search,
        )
        return [_Attempt(result, tokenizer, temperature, limit - len(prompts[0])) for result in results]

    def _improve(
        self,
        window: EngineWindow,
        language: tuple[str, float],
        attempt: _Attempt,
        options: DecodeOptions,
        frames: int,
    ) -> _Attempt:
        """Compute a window again while its text looks bad: with the full context, then by sampling."""
        had_full_context = frames == FULL_CONTEXT_FRAMES
        remaining = options.temperatures[1:] if had_full_context else options.temperatures
        if not attempt.looks_bad or not remaining:
            return attempt
        encoded = self._encode([window], FULL_CONTEXT_FRAMES)
        best = attempt
        for temperature in remaining:
            (again,) = self._decode(encoded, [window], [language], options, temperature)
            best = again if not again.looks_bad else max(best, again, key=_Attempt.rank)
            if not best.looks_bad:
                break
        if best is not attempt:
            self._find_times(encoded, [window], [language], options, [best])
        return best

    def _find_times(
        self,
        encoded: Any,
        windows: Sequence[EngineWindow],
        languages: Sequence[tuple[str, float]],
        options: DecodeOptions,
        attempts: Sequence[_Attempt],
    ) -> None:
        """Give the words of those attempts that hold several sentences their times, by cross-attention."""
        wanted = {language for (language, _), one in zip(languages, attempts, strict=True) if one.wants_times}
        tokens = [list(attempt.tokens) for attempt in attempts]
        frames = [math.ceil(window.duration_s * FRAMES_PER_SECOND) for window in windows]
        for language in wanted:  # in almost every batch it is one
            tokenizer = self._tokenizer(language, options.task)
            aligned = self._whisper.find_alignment(tokenizer, tokens, encoded, frames)
            for (own, _), attempt, words in zip(languages, attempts, aligned, strict=True):
                if own == language and attempt.wants_times:
                    attempt.words = [
                        Word(word["word"], float(word["start"]), float(word["end"]), tuple(word["tokens"]))
                        for word in words
                    ]

    def _finish(self, window: EngineWindow, language: tuple[str, float], attempt: _Attempt) -> WindowResult:
        segments: tuple[EngineSegment, ...] = ()
        if attempt.text.strip() and not is_silence(attempt.no_speech_prob, attempt.avg_logprob):
            segments = attempt.segments(window.duration_s)
        return WindowResult(language=language[0], language_probability=language[1], segments=segments)

    def _known_languages(self) -> tuple[str, ...]:
        if not self._model.is_multilingual:
            return ("en",)
        # Newer models know more languages; each has a token of its own.
        return tuple(
            code for code in _LANGUAGE_CODES if self._whisper.hf_tokenizer.token_to_id(f"<|{code}|>")
        )

    def _prompt(self, language: str, options: DecodeOptions) -> list[int]:
        tokenizer = self._tokenizer(language, options.task)
        previous: list[int] = []
        for text in (options.hotwords, options.prompt):
            if text:
                previous += tokenizer.encode(" " + text.strip())
        prompt = [tokenizer.sot_prev, *previous[-MAX_PROMPT_TOKENS:]] if previous else []
        return [*prompt, *tokenizer.sot_sequence, tokenizer.no_timestamps]

    def _tokenizer(self, language: str, task: str) -> Tokenizer:
        key = (language, task)
        if key not in self._tokenizers:
            self._tokenizers[key] = Tokenizer(
                self._whisper.hf_tokenizer, self._model.is_multilingual, task=task, language=language
            )
        return self._tokenizers[key]


class _Attempt:
    """One decoding of one window, and how good it looks."""

    def __init__(self, result: Any, tokenizer: Tokenizer, temperature: float, limit: int) -> None:
        tokens: list[int] = result.sequences_ids[0]
        self.tokens = tuple(token for token in tokens if token < tokenizer.eot)
        self.text: str = tokenizer.decode(list(self.tokens))
        self.temperature = temperature
        # CTranslate2 gives the mean over the tokens without the closing one; Whisper counts it.
        self.avg_logprob: float = result.scores[0] * len(tokens) / (len(tokens) + 1)
        self.no_speech_prob: float = result.no_speech_prob
        self.compression_ratio: float = get_compression_ratio(self.text) if self.text else 0.0
        self.wants_times = has_several_sentences(self.text)
        self.words: list[Word] = []
        self.looks_bad = looks_bad(
            self.compression_ratio,
            self.avg_logprob,
            self.no_speech_prob,
            is_endless=len(tokens) >= limit,
        )

    def rank(self) -> tuple[bool, float]:
        """The better of two that look bad: no circle before a circle, then the likelier."""
        return not is_repetitive(self.compression_ratio), self.avg_logprob

    def segments(self, duration_s: float) -> tuple[EngineSegment, ...]:
        """One for each sentence where the times of the words are known, else one for the whole window."""
        sentences = split_sentences(self.words)
        if len(sentences) < 2:
            return (self._segment(0.0, duration_s, self.text, self.tokens),)
        starts = [0.0, *(sentence[0].start for sentence in sentences[1:])]
        ends = [*(sentence[-1].end for sentence in sentences[:-1]), duration_s]
        return tuple(
            self._segment(
                start,
                min(max(start, end), duration_s),
                "".join(word.text for word in sentence),
                tuple(token for word in sentence for token in word.tokens),
            )
            for start, end, sentence in zip(starts, ends, sentences, strict=True)
        )

    def _segment(self, start: float, end: float, text: str, tokens: tuple[int, ...]) -> EngineSegment:
        return EngineSegment(
            start=round(start, 3),
            end=round(end, 3),
            text=text,
            tokens=tokens,
            temperature=self.temperature,
            avg_logprob=self.avg_logprob if math.isfinite(self.avg_logprob) else -99.0,
            compression_ratio=self.compression_ratio,
            no_speech_prob=self.no_speech_prob,
        )
