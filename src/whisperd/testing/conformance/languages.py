"""Checks of a loaded engine with a multilingual model."""

from __future__ import annotations

from whisperd.speech import Sample, words
from whisperd.testing.conformance.bench import Trial, text_of
from whisperd.testing.conformance.checks import Checks, Failure, Skip
from whisperd.testing.conformance.sounds import silence
from whisperd.testing.conformance.timing import check_words, needs_words
from whisperd.testing.conformance.transcription import check_languages
from whisperd.worker.protocol import EngineWindow

__all__ = ["LANGUAGES"]

LANGUAGES: Checks[Trial] = Checks()

SOME_ENGLISH_WORDS = frozenset("the a of in this was is to and as for it used behind room space".split())  # noqa: SIM905


@LANGUAGES
async def multilingual_info(trial: Trial) -> None:
    """The engine's information about a multilingual model is correct."""
    check_languages(trial.info)
    if not trial.info.multilingual or "en" not in trial.info.languages:
        raise Failure(
            f"multilingual is {trial.info.multilingual}, and the languages are {trial.info.languages!r:.60}"
        )


@LANGUAGES
async def language_given(trial: Trial) -> None:
    """A given language is the language of the result, and every announced one is accepted."""
    for language in dict.fromkeys(("en", trial.info.languages[0], trial.info.languages[-1])):
        (result,) = await trial.transcribe(silence(0.5), language=language, temperatures=(0.0,))
        if result.language != language:
            raise Failure(f"given the language {language}, a result has {result.language!r}")


@LANGUAGES
async def language_found(trial: Trial) -> None:
    """Without a given language, it is detected, separately for each recording in a batch."""
    samples = [trial.bench.english[1], *_foreign(trial)[:1]]
    windows = [EngineWindow(pcm=sample.pcm, group=group) for group, sample in enumerate(samples)]
    results = await trial.transcribe(*windows, language=None)
    for sample, result in zip(samples, results, strict=True):
        if result.language != sample.language:
            raise Failure(
                f"the language of {sample.name} is detected as {result.language!r}, not {sample.language!r}"
            )
        if not 0 < result.language_probability <= 1:
            raise Failure(f"the probability of a detected language is {result.language_probability}")


@LANGUAGES
async def language_among(trial: Trial) -> None:
    """Among given languages the likeliest is chosen, whatever else it sounds like."""
    sample = trial.bench.english[1]
    others = tuple(language for language in trial.info.languages if language != "en")[-2:]
    for languages in (others, (*others, "en")):
        (result,) = await trial.transcribe(
            sample.pcm, language=None, languages=languages, temperatures=(0.0,)
        )
        if result.language not in languages or ("en" in languages and result.language != "en"):
            raise Failure(f"among {', '.join(languages)}, {sample.name} is detected as {result.language!r}")
        if not 0 < result.language_probability <= 1:
            raise Failure(f"the probability of a detected language is {result.language_probability}")


@LANGUAGES
async def language_vote(trial: Trial) -> None:
    """All windows of one recording (`group`) have the same language, whatever each sounds like alone."""
    foreign = _foreign(trial)
    if not foreign:
        raise Skip("there is no sample in another language that the model knows")
    short, long = trial.bench.english[:2]
    windows = [EngineWindow(pcm=sample.pcm, group=7) for sample in (short, foreign[0], long)]
    results = await trial.transcribe(*windows, language=None, temperatures=(0.0,))
    if len(languages := sorted({result.language for result in results})) > 1:
        raise Failure(f"the windows of one recording have the languages {', '.join(languages)}")


@LANGUAGES
async def translation(trial: Trial) -> None:
    """With the task `translate`, speech in another language becomes English."""
    foreign = _foreign(trial)
    if not foreign:
        raise Skip("there is no sample in another language that the model knows")
    pcm, language = foreign[0].pcm, foreign[0].language
    said = await trial.text(pcm, language=language)
    (result,) = await trial.transcribe(pcm, language=language, task="translate")
    translated = words(text_of(result))
    if translated == words(said) or not SOME_ENGLISH_WORDS.intersection(translated):
        raise Failure(f"the translation of {said.strip()!r} is {text_of(result).strip()!r}")
    if result.language != language:
        raise Failure(f"a translation has the language {result.language!r}, not that of the speech")


@LANGUAGES
async def foreign_words(trial: Trial) -> None:
    """Words have times in another language too, and in a translation."""
    needs_words(trial)
    for sample in _foreign(trial)[:1]:
        for task in ("transcribe", "translate"):
            (result,) = await trial.transcribe(
                sample.pcm, language=sample.language, task=task, word_times=True
            )
            check_words(result)
            if not result.segments:
                raise Failure(f"with word times, nothing of {sample.text!r} is transcribed ({task})")


def _foreign(trial: Trial) -> list[Sample]:
    """Return the samples in other languages that the model knows."""
    known = set(trial.info.languages) - {"en"}
    return [sample for sample in trial.bench.samples if sample.language in known]
