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

__all__ = ["HEARING", "check_languages"]

HEARING: Checks[Trial] = Checks()

MAX_ERROR_PERCENT = 15.0
"""Of the words of the shipped speech. The smallest models get a few of a hundred wrong."""
ACCIDENTS = ("process.failed", "worker.bad_answer", "native.broken")
"""Codes of errors that an engine did not mean to raise."""
MAX_WORDS_OF_NOTHING = 5
"""Models say `you` or `Thank you.` where nobody speaks; more than that is an engine that runs on."""
MAX_MEMORY_RATIO = 2.0
"""A worker may take so many times what was estimated: it is resident memory, and counts shared pages too."""


@HEARING
async def info(trial: Trial) -> None:
    """What the engine tells of itself is true."""
    told = trial.info
    check_languages(told)
    known = shipped_catalogue().find(trial.bench.model.name)
    if known is not None and known.english_only == told.multilingual:
        raise Failure(f"multilingual is {told.multilingual}, and the model is {known.name}")
    if told.compute_type not in COMPUTE_TYPES:
        raise Failure(f"the compute type is {told.compute_type!r}; there are {', '.join(COMPUTE_TYPES)}")
    name, _, version = told.library.partition(" ")
    if not name or not any(letter.isdigit() for letter in version):
        raise Failure(f"the library is {told.library!r}, and not a name and a version")


def check_languages(told: EngineInfo) -> None:
    """`Failure` unless the languages are codes that whisperd knows, and as many as they should be."""
    unknown = [code for code in told.languages if code not in LANGUAGES]
    if unknown or not told.languages:
        raise Failure(f"among the languages is {unknown[0]!r}" if unknown else "there are no languages")
    if told.multilingual != (len(told.languages) > 1):
        raise Failure(f"multilingual is {told.multilingual}, and there are {len(told.languages)} languages")


@HEARING
async def english(trial: Trial) -> None:
    """English speech becomes the words that are said in it."""
    samples = trial.bench.english
    texts = [text_of(result) for result in await trial.alone()]
    wrong = sum(word_errors(sample.text, text) for sample, text in zip(samples, texts, strict=True))
    percent = 100 * wrong / sum(len(words(sample.text)) for sample in samples)
    if percent > MAX_ERROR_PERCENT:
        worst = max(zip(samples, texts, strict=True), key=lambda pair: word_errors(pair[0].text, pair[1]))
        raise Failure(
            f"{percent:.0f} % of the words are wrong: {worst[0].text!r} is heard as {worst[1].strip()!r}"
        )


@HEARING
async def batches(trial: Trial) -> None:
    """A batch of any size gives the same words as its windows one by one."""
    samples = trial.bench.english
    expected = [text_of(result) for result in await trial.alone()]
    for count in range(2, min(BATCH_SIZE, len(samples)) + 1):
        results = await trial.hear(*(sample.pcm for sample in samples[:count]))
        texts = [text_of(result) for result in results]
        for text in expected[:count]:
            if all(differs(text, other) for other in texts):
                raise Failure(f"{text.strip()!r} is not heard in a batch of {count}")


@HEARING
async def order(trial: Trial) -> None:
    """Each window has its own result, in the order in which they came."""
    samples = trial.bench.english
    expected = [text_of(result) for result in await trial.alone()]
    indexes = (1, 0, 1)  # neither the longest first nor the shortest
    results = await trial.hear(*(samples[index].pcm for index in indexes))
    for index, result in zip(indexes, results, strict=True):
        own, other = expected[index], expected[1 - index]
        if differs(own, text_of(result)) and not differs(other, text_of(result)):
            raise Failure(f"{other.strip()!r} is the answer to the window that says {own.strip()!r}")


@HEARING
async def fields(trial: Trial) -> None:
    """Texts, tokens, probabilities and languages are what they should be."""
    for result in await trial.alone():
        _check_fields(result, trial.info)


def _check_fields(result: WindowResult, told: EngineInfo) -> None:
    if result.language not in told.languages:
        raise Failure(f"the language is {result.language!r}, which is none of the model's")
    if not 0 <= result.language_probability <= 1:
        raise Failure(f"the probability of the language is {result.language_probability}")
    for segment in result.segments:
        if not segment.text.strip():
            raise Failure("a segment has no text; one that would have none is left out")
        if not segment.tokens or min(segment.tokens) < 0:
            raise Failure(f"the tokens of a segment are {segment.tokens!r:.60}")
        if not 0 <= segment.no_speech_prob <= 1:
            raise Failure(f"no_speech_prob is {segment.no_speech_prob}")
        if not math.isfinite(segment.avg_logprob) or segment.avg_logprob > 0:
            raise Failure(f"avg_logprob is {segment.avg_logprob}, and not a logarithm of a probability")
        if not math.isfinite(segment.compression_ratio) or segment.compression_ratio < 0:
            raise Failure(f"compression_ratio is {segment.compression_ratio}")


@HEARING
async def times(trial: Trial) -> None:
    """Segments lie within their window, one after the other."""
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
            raise Failure(f"a segment from {segment.start} s to {segment.end} s comes after {before} s")
        if segment.start < 0 or segment.end > duration_s + 0.02:  # rounded to the hundredth
            raise Failure(
                f"a segment from {segment.start} s to {segment.end} s is in a window of {duration_s:.2f} s"
            )
        before = segment.end


@HEARING
async def short_windows(trial: Trial) -> None:
    """Windows of no length at all, of one sample and of a tenth of a second are taken."""
    for pcm in (b"", silence(1 / 16_000), silence(0.1), noise(0.1)):
        _check_says_little(await trial.text(pcm), f"a window of {len(pcm) // 2} samples")


@HEARING
async def silence_and_noise(trial: Trial) -> None:
    """Where nobody speaks, hardly a word is heard."""
    for what, pcm in (("silence", silence(5)), ("noise", noise(5))):
        _check_says_little(await trial.text(pcm), f"five seconds of {what}")


def _check_says_little(text: str, where: str) -> None:
    if len(words(text)) > MAX_WORDS_OF_NOTHING:
        raise Failure(f"in {where} it hears {text.strip()!r:.100}")


@HEARING
async def long_windows(trial: Trial) -> None:
    """A window of 30 seconds is heard from its beginning to its end."""
    said = text_of((await trial.alone())[1])
    for place, result in zip(("beginning", "end"), await trial.early_and_late(), strict=True):
        if differs(said, text_of(result)):
            raise Failure(f"with {said.strip()!r} at its {place} it hears {text_of(result).strip()!r}")


@HEARING
async def repeatable(trial: Trial) -> None:
    """Without chance (temperature 0), the same sound gives the same text."""
    sample = trial.bench.english[1]
    texts = {await trial.text(sample.pcm, temperatures=(0.0,)) for _ in range(2)}
    if len(texts) > 1:
        raise Failure(f"the same window is heard as {' and as '.join(map(repr, sorted(texts)))}")


@HEARING
async def unwanted(trial: Trial) -> None:
    """What nobody wants any more of a batch changes nothing about the rest of it, nor about the next one."""
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
                    f"{expected[group].strip()!r} is heard as {texts[group].strip()!r} where "
                    f"{'something else' if dropped else 'the batch before'} is not wanted any more"
                )


@HEARING
async def temperatures(trial: Trial) -> None:
    """Decoding by chance ends, with nonsense too, and each segment tells a temperature that was allowed."""
    asked: tuple[float, ...] = (0.0, 0.5, 1.0)
    for pcm, allowed in ((noise(3), asked), (trial.bench.english[0].pcm, (1.0,))):
        for segment in (await trial.hear(pcm, temperatures=allowed))[0].segments:
            if not any(math.isclose(segment.temperature, one, abs_tol=1e-3) for one in allowed):
                raise Failure(f"with the temperatures {allowed} a segment has {segment.temperature}")


@HEARING
async def beams(trial: Trial) -> None:
    """Searches from 1 to 16 beams give the same words, or are refused as an error."""
    sample, expected = trial.bench.english[1], text_of((await trial.alone())[1])
    for beam_size in (1, 16):
        try:
            text = await trial.text(sample.pcm, beam_size=beam_size)
        except WhisperdError as error:
            check_means_it(error)
            continue
        if differs(expected, text):
            raise Failure(f"with {beam_size} beams {expected.strip()!r} becomes {text.strip()!r}")


@HEARING
async def prompts(trial: Trial) -> None:
    """A prompt and hotwords are taken, and the words are still heard."""
    sample, expected = trial.bench.english[1], text_of((await trial.alone())[1])
    for options in ({"prompt": "A novel, read aloud."}, {"hotwords": "rather selfish"}):
        text = await trial.text(sample.pcm, **options)
        if differs(expected, text):
            raise Failure(f"with {options} {expected.strip()!r} becomes {text.strip()!r}")


@HEARING
async def prompts_heard(trial: Trial) -> None:
    """A prompt and hotwords say how things are written."""
    sample, expected = trial.bench.english[1], text_of((await trial.alone())[1]).strip()
    for option in ("prompt", "hotwords"):
        text = await trial.text(sample.pcm, **{option: "cold hearted and ill disposed people"})
        if text.strip() == expected:
            raise Failure(f"with a {option} in small letters and without hyphens, it is still {expected!r}")


@HEARING
async def long_prompts(trial: Trial) -> None:
    """A prompt or hotwords beyond what the model can hold are cut."""
    sample = trial.bench.english[0]
    endless = ", ".join(f"{name} and {code}" for code, name in LANGUAGES.items()) * 4
    for option in ("prompt", "hotwords"):
        await trial.hear(sample.pcm, temperatures=(0.0,), **{option: endless})


@HEARING
async def what_cannot_be_done(trial: Trial) -> None:
    """What the engine cannot do ends in an error or is done otherwise, and the next batch is computed."""
    sample = trial.bench.english[0]
    for options in ({"language": "xx"}, {"task": "translate", "language": "en"}):
        with suppress(WhisperdError):  # of whatever code: whisperd asks for none of this
            await trial.hear(sample.pcm, **options)
    await trial.hear(sample.pcm)


def check_means_it(error: WhisperdError) -> None:
    """`Failure` if an error is an accident, or says nothing to a person."""
    if error.code in ACCIDENTS:
        raise Failure(f"it was no refusal but an accident: {error.message}")
    if not (error.message and error.fix):
        raise Failure(f"the error {error.code} has no {'fix' if error.message else 'message'}")


@HEARING
async def at_once(trial: Trial) -> None:
    """Batches that come at the same time, as many as there are replicas, do not disturb each other."""
    samples = trial.bench.english[:REPLICAS]
    expected = [text_of(result) for result in await trial.alone()]
    heard: dict[int, str] = {}
    deaths: list[WorkerDied] = []

    async def hear(index: int) -> None:
        try:
            heard[index] = await trial.text(samples[index].pcm)
        except WorkerDied as death:  # under all of them
            deaths.append(death)

    async with open_task_group() as tasks:
        for index in range(len(samples)):
            tasks.start_soon(hear, index)
    if deaths:
        raise deaths[0]
    for index, text in heard.items():
        if differs(expected[index], text):
            raise Failure(f"beside another batch {expected[index].strip()!r} becomes {text.strip()!r}")


@HEARING
async def memory(trial: Trial) -> None:
    """The process takes no more than twice the memory that was estimated."""
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
        raise Failure(f"need_bytes says {estimated / 1e6:.0f} MB, and it takes {taken / 1e6:.0f} MB")
