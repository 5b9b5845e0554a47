"""The options of a job."""

from __future__ import annotations

from typing import Any

import pytest

from whisperd.jobs.languages import LANGUAGES
from whisperd.jobs.options import (
    DEFAULT_TEMPERATURES,
    JobOptions,
    check_against_model,
    job_options,
)
from whisperd.rpc.errors import WhisperdError
from whisperd.worker.protocol import DecodeOptions


def test_whisper_supports_a_hundred_languages() -> None:
    assert len(LANGUAGES) == 100
    assert (LANGUAGES["en"], LANGUAGES["yue"], LANGUAGES["ht"]) == ("english", "cantonese", "haitian creole")


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ("auto", "auto"),
        ("de", "de"),
        ("DE", "de"),
        ("German", "de"),
        (" german ", "de"),
        ("Haitian Creole", "ht"),
        ("pt-BR", "pt"),
        ("de_DE", "de"),
        ("zh-Hant-TW", "zh"),
        ("nb-NO", "no"),
        ("jv", "jw"),
        ("Mandarin", "zh"),
        ("Spanish, en", "en,es"),
        ("es,es", "es"),
        ("es,auto,German", "auto,de,es"),
        ("auto,es", "es"),
        ("AUTO", "auto"),
    ],
)
def test_languages_are_given_by_code_or_name(given: str, code: str) -> None:
    assert job_options({"language": given}).language == code


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ("Germn", "german"),
        ("klingon", "auto"),
        ("", "auto"),
        ("german-de", "german"),
        ("-", "auto"),
        ("en,Germn", "german"),
        ("en,", "auto"),
    ],
)
def test_an_unknown_language_is_refused(given: str, hint: str) -> None:
    with pytest.raises(WhisperdError) as raised:
        job_options({"language": given})
    assert raised.value.code == "language.unknown"
    assert repr(given.rpartition(",")[2]) in raised.value.message, "quoted as given"
    assert hint in raised.value.fix


def test_decode_options_are_those_of_the_engine() -> None:
    assert JobOptions().decode_options(3) == DecodeOptions(
        language=None, beam_size=3, temperatures=DEFAULT_TEMPERATURES
    )
    given = JobOptions(
        language="de", task="translate", beam_size=1, temperature=(0.5,), prompt="Hello", hotwords="whisperd"
    )
    assert given.decode_options(3) == DecodeOptions(
        language="de", task="translate", beam_size=1, temperatures=(0.5,), prompt="Hello", hotwords="whisperd"
    )


def test_several_languages_reach_the_engine_only_for_detection() -> None:
    several = JobOptions(language="auto,de,en")
    assert several.is_language_free
    assert several.decode_options(3) == DecodeOptions(
        languages=("de", "en"), beam_size=3, temperatures=DEFAULT_TEMPERATURES
    )
    assert not JobOptions(language="de").decode_options(3).languages


def test_options_are_parsed_from_wire_values() -> None:
    given = {"runtime": "fast", "language": "German", "temperature": [0.0, 0.5]}
    assert job_options(given) == JobOptions(runtime="fast", language="de", temperature=(0.0, 0.5))


def test_an_option_that_is_null_has_its_default() -> None:
    assert job_options(dict.fromkeys(JobOptions.__struct_fields__)) == JobOptions()


@pytest.mark.parametrize(
    "given",
    [
        {"beam_size": 0},
        {"beam_size": 17},
        {"temperature": [2.0]},
        {"temperature": [0.1] * 11},
        {"task": "sing"},
        {"priority": "urgent"},
        {"prompt": "x" * 5000},
        {"language": "x" * 101},
        {"model": ""},
        {"model": "x" * 5000},
        {"runtime": ""},
        {"runtime": "x" * 65},
        {"vad": "yes"},
        {"best_of": 5},
        {"timestamps": "words"},
    ],
)
def test_invalid_options_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(WhisperdError) as raised:
        job_options(given)
    assert raised.value.code == "rpc.invalid_params"
    assert next(iter(given)) in raised.value.message
    assert "transcribe --help" in raised.value.fix or "best_of" in given


@pytest.mark.parametrize(
    ("name", "hint"),
    [("beamsize", "beam_size"), ("timestamp", "timestamps"), ("hot_words", "hotwords"), ("zzz", "beam_size")],
)
def test_an_unknown_option_is_refused_with_a_suggestion(name: str, hint: str) -> None:
    with pytest.raises(WhisperdError) as raised:
        job_options({"language": "en", name: 5})
    assert raised.value.code == "rpc.invalid_params"
    assert name in raised.value.message
    assert hint in raised.value.fix


def test_word_timestamps_reach_the_engine() -> None:
    assert job_options({"timestamps": "word"}).decode_options(5).word_times
    assert not JobOptions().decode_options(5).word_times


MULTILINGUAL, ENGLISH = ("en", "de"), ("en",)


@pytest.mark.parametrize(
    ("options", "languages"),
    [
        (JobOptions(), MULTILINGUAL),
        (JobOptions(language="de", task="translate"), MULTILINGUAL),
        (JobOptions(), ENGLISH),
        (JobOptions(language="en"), ENGLISH),
    ],
)
def test_options_that_a_model_supports(options: JobOptions, languages: tuple[str, ...]) -> None:
    check_against_model(options, languages, "base")


@pytest.mark.parametrize(
    ("options", "languages", "code", "hint"),
    [
        (JobOptions(language="fr"), MULTILINGUAL, "language.not_in_model", "large-v3"),
        (JobOptions(language="de", task="translate"), ENGLISH, "language.not_in_model", "such as small."),
        (JobOptions(task="translate"), ENGLISH, "task.not_in_model", "such as small."),
    ],
)
def test_options_that_a_model_lacks_are_refused(
    options: JobOptions, languages: tuple[str, ...], code: str, hint: str
) -> None:
    with pytest.raises(WhisperdError) as raised:
        check_against_model(options, languages, "small.en")
    assert raised.value.code == code
    assert hint in raised.value.fix


@pytest.mark.parametrize("model", ["distil-small.en", "/models/mine.en"])
def test_only_existing_models_are_recommended(model: str) -> None:
    with pytest.raises(WhisperdError, match="model, such as base") as raised:
        check_against_model(JobOptions(language="de"), ENGLISH, model)
    assert raised.value.code == "language.not_in_model"


def test_a_model_that_cannot_translate() -> None:
    with pytest.raises(WhisperdError) as raised:
        check_against_model(JobOptions(task="translate"), MULTILINGUAL, "large-v3-turbo")
    assert raised.value.code == "task.not_in_model" and "large-v3." in raised.value.fix
    check_against_model(JobOptions(task="translate"), MULTILINGUAL, "a/model-of-ours")
    check_against_model(JobOptions(), MULTILINGUAL, "large-v3-turbo")
