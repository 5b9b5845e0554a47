"""Checks of a loaded engine, with any model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress

import psutil

from whisperd.announcement import COMPUTE_TYPES
from whisperd.jobs.languages import LANGUAGES
from whisperd.models import shipped_catalogue
from whisperd.rpc.errors import WhisperdError
from whisperd.speech import word_errors, words
from whisperd.tasks import open_task_group
from whisperd.testing.conformance.announced import estimate
from whisperd.testing.conformance.bench import BATCH_SIZE, REPLICAS, Trial, text_of
from whisperd.testing.conformance.checks import Checks, Failure, Skip
from whisperd.testing.conformance.sounds import MAX_WINDOW_S, differs, noise, silence
from whisperd.worker.process import Unwanted, WorkerDied
from whisperd.worker.protocol import (
    BatchParams,
    DecodeOptions,
    EngineInfo,
    EngineSegment,
    EngineWindow,
    WindowResult,
)

__all__ = ["TRANSCRIPTION", "check_languages"]

TRANSCRIPTION: Checks[Trial] = Checks()

MAX_ERROR_PERCENT = 15.0
"""Word errors allowed in the shipped speech. The smallest models get a few per cent wrong."""
ACCIDENTS = ("process.failed", "worker.bad_answer", "native.broken")
"""Codes of errors that an engine does not raise on purpose."""
MAX_WORDS_OF_NOTHING = 5
"""Models write `you` or `Thank you.` where no one speaks; more words are a runaway engine."""
MAX_MEMORY_RATIO = 2.0
"""Allowed memory, relative to the estimate: resident memory, which counts shared pages too."""


@TRANSCRIPTION
async def info(trial: Trial) -> None:
    """The engine's information about itself is correct."""
    reported = trial.info
    check_languages(reported)
    known = shipped_catalogue().find(trial.bench.model.name)
    if known is not None and known.english_only == reported.multilingual:
        raise Failure(f"multilingual is {reported.multilingual}, but the model is {known.name}")
    if reported.compute_type not in COMPUTE_TYPES:
        raise Failure(f"the compute type is {reported.compute_type!r}, not one of {', '.join(COMPUTE_TYPES)}")
    name, _, version = reported.library.partition(" ")
    if not name or not any(letter.isdigit() for letter in version):
        raise Failure(f"the library is {reported.library!r}, not a name and a version")


def check_languages(reported: EngineInfo) -> None:
    """Raise `Failure` unless all languages are known codes, and as many as the model should have."""
    unknown = [code for code in reported.languages if code not in LANGUAGES]
    if unknown or not reported.languages:
        raise Failure(f"the language {unknown[0]!r} is unknown" if unknown else "there are no languages")
    if reported.multilingual != (len(reported.languages) > 1):
        raise Failure(
            f"multilingual is {reported.multilingual}, but there are {len(reported.languages)} languages"
        )


@TRANSCRIPTION
async def english(trial: Trial) -> None:
    """English speech is transcribed correctly."""
    samples = trial.bench.english
    texts = [text_of(result) for result in await trial.alone()]
    wrong = sum(word_errors(sample.text, text) for sample, text in zip(samples, texts, strict=True))
    percent = 100 * wrong / sum(len(words(sample.text)) for sample in samples)
    if percent > MAX_ERROR_PERCENT:
        worst = max(zip(samples, texts, strict=True), key=lambda pair: word_errors(pair[0].text, pair[1]))
        raise Failure(
            f"{percent:.0f} % of the words are wrong: {worst[0].text!r} becomes {worst[1].strip()!r}"
        )


@TRANSCRIPTION
async def batches(trial: Trial) -> None:
    """A batch of any size gives the same words as its windows one by one."""
    samples = trial.bench.english
    expected = [text_of(result) for result in await trial.alone()]
    for count in range(2, min(BATCH_SIZE, len(samples)) + 1):
        results = await trial.transcribe(*(sample.pcm for sample in samples[:count]))
        texts = [text_of(result) for result in results]
        for text in expected[:count]:
            if all(differs(text, other) for other in texts):
                raise Failure(f"{text.strip()!r} is missing from a batch of {count}")


@TRANSCRIPTION
async def order(trial: Trial) -> None:
    """Each window has its own result, in the order of the windows."""
    samples = trial.bench.english
    expected = [text_of(result) for result in await trial.alone()]
    indexes = (1, 0, 1)  # neither the longest first nor the shortest
    results = await trial.transcribe(*(samples[index].pcm for index in indexes))
    for index, result in zip(indexes, results, strict=True):
        own, other = expected[index], expected[1 - index]
        if differs(own, text_of(result)) and not differs(other, text_of(result)):
            raise Failure(f"the window that says {own.strip()!r} gets the result {other.strip()!r}")


@TRANSCRIPTION
async def fields(trial: Trial) -> None:
    """Texts, tokens, probabilities and languages are valid."""
    for result in await trial.alone():
        _check_fields(result, trial.info)


def _check_fields(result: WindowResult, reported: EngineInfo) -> None:
    if result.language not in reported.languages:
        raise Failure(f"the language {result.language!r} is not one of the model's")
    if not 0 <= result.language_probability <= 1:
        raise Failure(f"the probability of the language is {result.language_probability}")
    for segment in result.segments:
        if not segment.text.strip():
            raise Failure("a segment has no text; such a segment must be left out")
        if not segment.tokens or min(segment.tokens) < 0:
            raise Failure(f"the tokens of a segment are {segment.tokens!r:.60}")
        if not 0 <= segment.no_speech_prob <= 1:
            raise Failure(f"no_speech_prob is {segment.no_speech_prob}")
        if not math.isfinite(segment.avg_logprob) or segment.avg_logprob > 0:
            raise Failure(f"avg_logprob is {segment.avg_logprob}, not the logarithm of a probability")
        if not math.isfinite(segment.compression_ratio) or segment.compression_ratio < 0:
            raise Failure(f"compression_ratio is {segment.compression_ratio}")


@TRANSCRIPTION
async def times(trial: Trial) -> None:
    """Segments are within their window, one after the other."""
    for sample, result in zip(trial.bench.english, await trial.alone(), strict=True):
        _check_times(result.segments, sample.duration_s)
    for result in await trial.early_and_late():
        _check_times(result.segments, MAX_WINDOW_S)


def _check_times(segments: Sequence[EngineSegment], duration_s: float) -> None:
    before = 0.0
    for segment in segments:
        if not (math.isfinite(segment.start) and math.isfinite(segment.end)):
            raise Failure(f"a segment lasts from {segment.start} to {segment.end}")
        if segment.end < segment.start or segment.start < before:
            raise Failure(f"a segment from {segment.start} s to {segment.end} s follows {before} s")
        if segment.start < 0 or segment.end > duration_s + 0.02:  # rounded to the hundredth
            raise Failure(
                f"a segment lasts from {segment.start} s to {segment.end} s in a window of {duration_s:.2f} s"
            )
        before = segment.end


@TRANSCRIPTION
async def short_windows(trial: Trial) -> None:
    """Empty windows, and those of one sample and of a tenth of a second, are accepted."""
    for pcm in (b"", silence(1 / 16_000), silence(0.1), noise(0.1)):
        _check_is_short(await trial.text(pcm), f"a window of {len(pcm) // 2} samples")


@TRANSCRIPTION
async def silence_and_noise(trial: Trial) -> None:
    """Silence and noise give hardly a word."""
    for what, pcm in (("silence", silence(5)), ("noise", noise(5))):
        _check_is_short(await trial.text(pcm), f"five seconds of {what}")


def _check_is_short(text: str, where: str) -> None:
    if len(words(text)) > MAX_WORDS_OF_NOTHING:
        raise Failure(f"{where} becomes {text.strip()!r:.100}")


@TRANSCRIPTION
async def long_windows(trial: Trial) -> None:
    """A window of 30 seconds is transcribed from its beginning to its end."""
    said = text_of((await trial.alone())[1])
    for place, result in zip(("beginning", "end"), await trial.early_and_late(), strict=True):
        if differs(said, text_of(result)):
            raise Failure(f"{said.strip()!r} at the {place} of a window becomes {text_of(result).strip()!r}")


@TRANSCRIPTION
async def repeatable(trial: Trial) -> None:
    """Without sampling (temperature 0), the same audio gives the same text."""
    sample = trial.bench.english[1]
    texts = {await trial.text(sample.pcm, temperatures=(0.0,)) for _ in range(2)}
    if len(texts) > 1:
        raise Failure(f"the same window becomes {' and '.join(map(repr, sorted(texts)))}")


@TRANSCRIPTION
async def unwanted(trial: Trial) -> None:
    """Cancelled windows of a batch affect neither the rest of it nor the next batch."""
    expected = [text_of(result) for result in await trial.alone()][:2]
    windows = tuple(
        EngineWindow(pcm=sample.pcm, group=group) for group, sample in enumerate(trial.bench.english[:2])
    )
    batch = BatchParams(windows=windows, options=DecodeOptions(language="en"))
    for dropped in ({0}, {0, 1}, set[int]()):
        given_up = Unwanted()
        given_up.add(dropped)
        texts = [text_of(result) for result in await trial.worker.transcribe(batch, given_up)]
        for group in {0, 1} - dropped:
            if differs(expected[group], texts[group]):
                raise Failure(
                    f"{expected[group].strip()!r} becomes {texts[group].strip()!r} when "
                    f"{'another window' if dropped else 'the batch before'} is cancelled"
                )


@TRANSCRIPTION
async def temperatures(trial: Trial) -> None:
    """Sampling terminates, even on noise, and each segment has one of the requested temperatures."""
    asked: tuple[float, ...] = (0.0, 0.5, 1.0)
    for pcm, allowed in ((noise(3), asked), (trial.bench.english[0].pcm, (1.0,))):
        for segment in (await trial.transcribe(pcm, temperatures=allowed))[0].segments:
            if not any(math.isclose(segment.temperature, one, abs_tol=1e-3) for one in allowed):
                raise Failure(f"with the temperatures {allowed}, a segment has {segment.temperature}")


@TRANSCRIPTION
async def beams(trial: Trial) -> None:
    """Searches with 1 and 16 beams give the same words, or are refused with an error."""
    sample, expected = trial.bench.english[1], text_of((await trial.alone())[1])
    for beam_size in (1, 16):
        try:
            text = await trial.text(sample.pcm, beam_size=beam_size)
        except WhisperdError as error:
            check_is_refusal(error)
            continue
        if differs(expected, text):
            raise Failure(f"with {beam_size} beams, {expected.strip()!r} becomes {text.strip()!r}")


@TRANSCRIPTION
async def prompts(trial: Trial) -> None:
    """A prompt and hotwords are accepted, and the speech is still transcribed."""
    sample, expected = trial.bench.english[1], text_of((await trial.alone())[1])
    for options in ({"prompt": "A novel, read aloud."}, {"hotwords": "rather selfish"}):
        text = await trial.text(sample.pcm, **options)
        if differs(expected, text):
            raise Failure(f"with {options}, {expected.strip()!r} becomes {text.strip()!r}")


@TRANSCRIPTION
async def prompts_heard(trial: Trial) -> None:
    """A prompt and hotwords influence the spelling."""
    sample, expected = trial.bench.english[1], text_of((await trial.alone())[1]).strip()
    for option in ("prompt", "hotwords"):
        text = await trial.text(sample.pcm, **{option: "cold hearted and ill disposed people"})
        if text.strip() == expected:
            raise Failure(
                f"despite a {option} in lower case and without hyphens, the text is still {expected!r}"
            )


@TRANSCRIPTION
async def long_prompts(trial: Trial) -> None:
    """A prompt or hotwords longer than the model's limit are truncated."""
    sample = trial.bench.english[0]
    endless = ", ".join(f"{name} and {code}" for code, name in LANGUAGES.items()) * 4
    for option in ("prompt", "hotwords"):
        await trial.transcribe(sample.pcm, temperatures=(0.0,), **{option: endless})


@TRANSCRIPTION
async def what_cannot_be_done(trial: Trial) -> None:
    """An unsupported request fails or is handled in another way, and the next batch works."""
    sample = trial.bench.english[0]
    for options in ({"language": "xx"}, {"task": "translate", "language": "en"}):
        with suppress(WhisperdError):  # with any code: whisperd never makes such a request
            await trial.transcribe(sample.pcm, **options)
    await trial.transcribe(sample.pcm)


def check_is_refusal(error: WhisperdError) -> None:
    """Raise `Failure` if an error is an accident, or has no message or fix."""
    if error.code in ACCIDENTS:
        raise Failure(f"the error is an accident, not a refusal: {error.message}")
    if not (error.message and error.fix):
        raise Failure(f"the error {error.code} has no {'fix' if error.message else 'message'}")


@TRANSCRIPTION
async def at_once(trial: Trial) -> None:
    """Simultaneous batches, as many as there are replicas, do not affect each other."""
    samples = trial.bench.english[:REPLICAS]
    expected = [text_of(result) for result in await trial.alone()]
    texts: dict[int, str] = {}
    deaths: list[WorkerDied] = []

    async def transcribe(index: int) -> None:
        try:
            texts[index] = await trial.text(samples[index].pcm)
        except WorkerDied as death:  # of the worker, and so of all the batches
            deaths.append(death)

    async with open_task_group() as tasks:
        for index in range(len(samples)):
            tasks.start_soon(transcribe, index)
    if deaths:
        raise deaths[0]
    for index, text in texts.items():
        if differs(expected[index], text):
            raise Failure(f"alongside another batch, {expected[index].strip()!r} becomes {text.strip()!r}")


@TRANSCRIPTION
async def memory(trial: Trial) -> None:
    """The process uses at most twice the estimated memory."""
    bench = trial.bench
    if bench.variant.device != "cpu":
        raise Skip(f"the model is in the memory of {bench.variant.device}")
    process = psutil.Process(trial.worker.pid)
    taken = sum(one.memory_info().rss for one in (process, *process.children(recursive=True)))
    estimated = estimate(
        bench,
        bench.model.parameters,
        bench.params().compute_type,
        batch_size=BATCH_SIZE,
        replicas=REPLICAS,
    )
    if taken > MAX_MEMORY_RATIO * estimated:
        raise Failure(f"need_bytes estimates {estimated / 1e6:.0f} MB, but it uses {taken / 1e6:.0f} MB")
