"""Whisper on CTranslate2. Runs in a worker process, with the native bundle on the path.

Four things make it faster than usual without changing the words. Windows of several jobs are computed
as one batch. Beam search runs only if the model is not sure of the greedy text. The encoder gets the
speech and a margin instead of always 30 s: its cost grows faster than linearly with length. And
timestamps are not decoded token by token: if a window contains several sentences, their times come
from the attention between text and audio. A doubtful result is computed again with the full
context, then at rising temperatures (Radford et al., "Robust Speech Recognition via Large-Scale Weak
Supervision", 2022, section 4.5).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ctranslate2

from whisperd.worker.attempts import Attempt, improve
from whisperd.worker.coverage import is_sparse
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
from whisperd.worker.rules import (
    FRAMES_PER_SECOND,
    FULL_CONTEXT_FRAMES,
    common_context_frames,
    context_frames,
    elect,
    has_quiet_edges,
    text_before,
    token_limit,
)
from whisperd.worker.words import Word, settle, timed_words
from whisperd_ctranslate2.alignment import with_valid_heads
from whisperd_ctranslate2.encoder import FRAMES_PER_POSITION, Encoder, samples_of, select
from whisperd_ctranslate2.model import (
    LANGUAGE_CODES,
    Tokenizer,
    WhisperModel,
    load_model,
    suppressed_tokens,
)

__all__ = ["CTranslate2Engine", "load"]

TEXT_CONTEXT_TOKENS = 448
"""The decoder's limit, for the preceding text and the text that it writes together."""
BEST_OF = 5
"""Hypotheses sampled at a temperature above zero; the likeliest is used."""
SECONDS_PER_POSITION = FRAMES_PER_POSITION / FRAMES_PER_SECOND

_WRONG_HEADS = "word times are not available, because the alignment heads in config.json are wrong: {}"


class GivenUp(Exception):
    """Raised when the window being computed is no longer wanted."""


def load(params: LoadParams) -> CTranslate2Engine:
    """Load a model folder in CTranslate2 format."""
    # Makes sampling reproducible from one start to the next.
    ctranslate2.set_random_seed(0)
    with with_valid_heads(Path(params.model_path)) as (folder, has_alignment_heads, problem):
        model = load_model(folder, params)
    engine = CTranslate2Engine(
        model,
        params.context_margin_s,
        has_alignment_heads=has_alignment_heads,
        warnings=(_WRONG_HEADS.format(problem),) if problem else (),
    )
    if params.device != "cpu":
        engine.warm_up()
    return engine


class _Group(NamedTuple):
    """The windows of a batch that are computed together."""

    places: Sequence[int]
    """Their positions in the batch."""
    windows: Sequence[EngineWindow]
    options: DecodeOptions
    is_wanted: IsWanted
    contexts: Sequence[int]
    """The number of frames of each that the encoder got."""
    longest_s: float
    """The speech time that limits the length of texts. It does not depend on the windows of the group, so
    that the other windows cannot affect a window's text."""
    encoded: Any
    languages: Sequence[tuple[str, float]] = ()
    """The language of each, with its probability."""

    @property
    def is_any_wanted(self) -> bool:
        """Whether at least one window is still wanted."""
        return any(map(self.is_wanted, self.windows))

    def some(self, indices: Sequence[int], encoded: Any) -> _Group:
        """Return a group of some of the windows, by their index in this one."""
        return self._replace(
            places=[self.places[index] for index in indices],
            windows=[self.windows[index] for index in indices],
            contexts=[self.contexts[index] for index in indices],
            languages=[self.languages[index] for index in indices],
            encoded=encoded,
        )


class CTranslate2Engine:
    """A loaded model; see `whisperd.worker.protocol.Engine`."""

    def __init__(
        self,
        whisper: WhisperModel,
        context_margin_s: float | None,
        *,
        has_alignment_heads: bool,
        warnings: tuple[str, ...],
    ) -> None:
        self._context_margin_s = context_margin_s
        self._model = whisper.library
        self._hf_tokenizer = whisper.tokenizer
        self._encoder = Encoder(whisper)
        self._is_on_cpu = self._model.device == "cpu"
        self._tokenizers: dict[tuple[str, str], Tokenizer] = {}
        self.info = EngineInfo(
            multilingual=self._model.is_multilingual,
            languages=self._known_languages(),
            compute_type=self._model.compute_type,
            overtakes=self._is_on_cpu,
            # Makes a window's text the same, to the last bit, whatever else is computed with it. A GPU is
            # faster with few large batches.
            equal_contexts=self._is_on_cpu,
            keeps_memory=self._is_on_cpu,
            library=f"ctranslate2 {ctranslate2.__version__}",
            cancels=True,
            word_times=has_alignment_heads,
            warnings=warnings,
        )

    def warm_up(self) -> None:
        """Compute a second of silence.

        GPU libraries are opened on first use. This makes their errors appear when the model is loaded, not in
        the first job.
        """
        silence = EngineWindow(pcm=bytes(2 * SAMPLE_RATE))
        self.transcribe([silence], DecodeOptions(beam_size=1, temperatures=(0.0,)))

    def transcribe(
        self,
        windows: Sequence[EngineWindow],
        options: DecodeOptions,
        is_wanted: IsWanted = lambda _: True,
    ) -> list[WindowResult]:
        """Transcribe a batch; return one result for each window, in order.

        The library cannot be interrupted, so cancellation takes effect between two of its calls: a batch with
        no wanted window ends after its encoder, and an unwanted window is never computed a second time.
        """
        context_of = common_context_frames if self._is_on_cpu else context_frames
        contexts = [context_of(one.duration_s, self._context_margin_s) for one in windows]
        if not self._is_on_cpu:  # on a GPU, all get the context of the longest
            contexts = [max(contexts, default=0)] * len(contexts)
        groups = [
            self._encoded_group(
                [place for place, own in enumerate(contexts) if own == frames],
                windows,
                frames,
                options,
                is_wanted,
            )
            for frames in sorted(set(contexts), reverse=True)
        ]
        if not any(map(is_wanted, windows)):
            return [UNWANTED] * len(windows)
        languages = self._languages(groups, windows, options)
        results: dict[int, WindowResult] = {}
        for group in groups:
            own = [languages[place] for place in group.places]
            found = self._transcribe_group(group._replace(languages=own))
            results |= zip(group.places, found, strict=True)
        return [results[place] for place in range(len(windows))]

    def _encoded_group(
        self,
        places: Sequence[int],
        windows: Sequence[EngineWindow],
        frames: int,
        options: DecodeOptions,
        is_wanted: IsWanted,
    ) -> _Group:
        """Return the group of the windows at `places`, to be decoded with `frames` of context."""
        own = [windows[place] for place in places]
        contexts = [frames] * len(own)
        if self._is_on_cpu and frames == FULL_CONTEXT_FRAMES:
            # Encode only the context that each needs: the encoder's cost grows faster than linearly.
            contexts = [context_frames(window.duration_s, self._context_margin_s) for window in own]
        encoded = self._encoder.encode(own, contexts, frames)
        return _Group(places, own, options, is_wanted, contexts, frames / FRAMES_PER_SECOND, encoded)

    def _transcribe_group(self, group: _Group) -> list[WindowResult]:
        if not group.is_any_wanted:
            return [UNWANTED] * len(group.windows)
        attempts = self._search(group)
        best = [self._improve(group, index, attempt) for index, attempt in enumerate(attempts)]
        if group.is_any_wanted:
            self._find_times(
                group, attempts, [one is first for one, first in zip(best, attempts, strict=True)]
            )
        return [
            UNWANTED if one is None else one.result(language, window.duration_s)
            for one, language, window in zip(best, group.languages, group.windows, strict=True)
        ]

    def _languages(
        self, groups: Sequence[_Group], windows: Sequence[EngineWindow], options: DecodeOptions
    ) -> list[tuple[str, float]]:
        """Return the language of each window with its probability: given, the only one, or elected."""
        if not self._model.is_multilingual:
            return [("en", 1.0)] * len(windows)
        if options.language is not None:
            return [(options.language, 1.0)] * len(windows)
        guesses: dict[int, dict[str, float]] = {}
        for group in groups:
            for place, ranked in zip(group.places, self._model.detect_language(group.encoded), strict=True):
                guesses[place] = {token[2:-2]: probability for token, probability in ranked}
        return elect(
            [guesses[place] for place in range(len(windows))],
            [(window.group, window.duration_s) for window in windows],
            options.languages,
        )

    def _search(self, group: _Group) -> list[Attempt]:
        """Return the first text of each window: greedy if the model is sure of it, else by beam search.

        On a CPU beam search costs twice as much, and hardly ever finds a text other than a likely greedy one.
        Small models are hardly ever sure of a language other than English.
        """
        beams, temperature = group.options.beam_size, group.options.temperatures[0]
        is_english = [language == "en" for language, _ in group.languages]
        if not self._is_on_cpu or beams == 1 or temperature > 0 or not any(is_english):
            return self._decode(group, temperature, beams)
        attempts = self._decode(group, temperature, beams=1)
        unsure = [
            index
            for index, attempt in enumerate(attempts)
            if not (is_english[index] and attempt.is_sure) and group.is_wanted(group.windows[index])
        ]
        if unsure:
            again = group.some(unsure, select(group.encoded, unsure))
            for index, attempt in zip(unsure, self._decode(again, temperature, beams), strict=True):
                attempts[index] = attempt
        return attempts

    def _decode(self, group: _Group, temperature: float, beams: int) -> list[Attempt]:
        """Return one text per window: by beam search, or the best of the samples at a temperature above 0."""
        prompts = [self._prompt(language, group.options) for language, _ in group.languages]
        tokenizer = self._tokenizer(group.languages[0][0], group.options.task)
        # One token is reserved for the end of the text, which alignment adds.
        most = min(token_limit(group.longest_s), TEXT_CONTEXT_TOKENS - 1 - len(prompts[0]))
        search: dict[str, Any] = (
            {"beam_size": beams}
            if temperature == 0
            else {
                "beam_size": 1,
                "num_hypotheses": BEST_OF,
                "sampling_topk": 0,
                "sampling_temperature": temperature,
            }
        )
        results = self._model.generate(
            group.encoded,
            prompts,
            # The library's limit includes the prompt, and the text may use at most half of it.
            max_length=max(2 * most, most + len(prompts[0])),
            return_scores=True,
            return_no_speech_prob=True,
            suppress_tokens=suppressed_tokens(tokenizer),
            **search,
        )
        return [
            _attempt(result, tokenizer, temperature, most, window)
            for result, window in zip(results, group.windows, strict=True)
        ]

    def _improve(self, group: _Group, index: int, attempt: Attempt) -> Attempt | None:
        """Recompute a window while its text is doubtful: with the full context, then by sampling.

        A text other than the first includes its word times. Returns None if the window is no longer wanted.
        """
        had_full_context = group.contexts[index] == FULL_CONTEXT_FRAMES
        if not attempt.is_doubtful(had_full_context=had_full_context):
            return attempt
        window, options = group.windows[index], group.options
        if not group.is_wanted(window):
            return None
        full = [FULL_CONTEXT_FRAMES]
        alone = group.some([index], self._encoder.encode([window], full, FULL_CONTEXT_FRAMES))
        alone = alone._replace(contexts=full, longest_s=window.duration_s)

        def decode(temperature: float) -> Attempt:
            if not group.is_wanted(window):
                raise GivenUp
            return self._decode(alone, temperature, options.beam_size)[0]

        try:
            best = improve(attempt, options.temperatures, decode, had_full_context=had_full_context)
        except GivenUp:
            return None
        if best is not attempt:
            self._find_times(alone, [best], [True])
        return best

    def _find_times(self, group: _Group, attempts: Sequence[Attempt], are_final: Sequence[bool]) -> None:
        """Set the words of those final attempts that need word times, by cross-attention.

        A model without alignment heads has no word times: each window is one segment.
        """
        if not self.info.word_times:
            return
        wants = [
            is_final
            and bool(one.tokens)
            and (
                group.options.word_times
                or one.wants_times
                or has_quiet_edges(window.spoken, window.duration_s)
                or is_sparse(one.text, window.spoken)
            )
            for is_final, one, window in zip(are_final, attempts, group.windows, strict=True)
        ]
        for outputs, language, indices in self._alignment_batches(group, wants):
            tokenizer = self._tokenizer(language, group.options.task)
            aligned = self._model.align(
                outputs,
                tokenizer.sot_sequence,
                [list(attempts[index].tokens) for index in indices],
                [math.ceil(group.windows[index].duration_s * FRAMES_PER_SECOND) for index in indices],
            )
            for index, alignment in zip(indices, aligned, strict=True):
                if wants[index] and group.languages[index][0] == language:
                    window, attempt = group.windows[index], attempts[index]
                    attempt.words = _words(attempt, alignment, tokenizer, window)

    def _alignment_batches(
        self, group: _Group, wants: Sequence[bool]
    ) -> Iterator[tuple[Any, str, Sequence[int]]]:
        """Yield what to align in one call: encoder outputs, their language, and the indices of their windows.

        On a CPU each window is aligned alone: that is cheaper, and in a batch the library lets the texts
        slightly affect each other's times.
        """
        wanted = [(index, group.languages[index][0]) for index, wants_it in enumerate(wants) if wants_it]
        if self._is_on_cpu:
            for index, language in wanted:
                positions = group.contexts[index] // FRAMES_PER_POSITION
                yield select(group.encoded, [index], positions), language, [index]
            return
        for language in {language for _, language in wanted}:
            yield group.encoded, language, range(len(wants))

    def _known_languages(self) -> tuple[str, ...]:
        if not self._model.is_multilingual:
            return ("en",)
        # Newer models know more languages; each language has a token.
        return tuple(code for code in LANGUAGE_CODES if self._hf_tokenizer.token_to_id(f"<|{code}|>"))

    def _prompt(self, language: str, options: DecodeOptions) -> list[int]:
        tokenizer = self._tokenizer(language, options.task)
        before = text_before(*(_tokens(tokenizer, text) for text in (options.hotwords, options.prompt)))
        prompt = [tokenizer.sot_prev, *before] if before else []
        return [*prompt, *tokenizer.sot_sequence, tokenizer.no_timestamps]

    def _tokenizer(self, language: str, task: str) -> Tokenizer:
        key = (language, task)
        if key not in self._tokenizers:
            self._tokenizers[key] = Tokenizer(
                self._hf_tokenizer, self._model.is_multilingual, task=task, language=language
            )
        return self._tokenizers[key]


def _tokens(tokenizer: Tokenizer, text: str | None) -> list[int]:
    """Return the tokens of a user's text, without any that would be commands to the decoder."""
    return [token for token in tokenizer.encode(f" {text.strip()}") if token < tokenizer.eot] if text else []


def _attempt(
    result: Any, tokenizer: Tokenizer, temperature: float, most: int, window: EngineWindow
) -> Attempt:
    tokens: list[int] = result.sequences_ids[0]
    of_text = tuple(token for token in tokens if token < tokenizer.eot)
    is_endless = len(tokens) >= token_limit(window.duration_s)
    return Attempt(
        tokens=of_text,
        text=tokenizer.decode(list(of_text)),
        temperature=temperature,
        # CTranslate2 averages over the tokens without the closing one; Whisper includes it.
        avg_logprob=result.scores[0] * len(tokens) / (len(tokens) + 1),
        no_speech_prob=result.no_speech_prob,
        is_endless=is_endless,
        is_cut_off=len(tokens) >= most and not is_endless,
    )


def _words(attempt: Attempt, alignment: Any, tokenizer: Tokenizer, window: EngineWindow) -> list[Word]:
    """Return the words of a text. The alignment lists, step by step, which token is spoken at which time."""
    reached: list[float] = []
    for token, place in alignment.alignments:
        if token == len(reached):  # where the token begins
            reached.append(place * SECONDS_PER_POSITION)
    missing = len(attempt.tokens) + 1 - len(reached)
    times = [*reached, *[window.duration_s] * missing]
    probabilities = alignment.text_token_probs
    words = timed_words(attempt.tokens, times, probabilities, tokenizer.decode, window.duration_s)
    return settle(words, find_pauses(samples_of(window.pcm)))
