"""The choice of a model that suits a computer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whisperd.models import shipped_catalogue
from whisperd.models.recommend import Recommendation, recommend, speeds_from, suitable_model, too_large

GIB = 2**30
MODELS = shipped_catalogue().models
KNOWN = {model.name: model for model in MODELS}


def said(*arguments: object, **options: object) -> dict[str, Recommendation]:
    return {one.name: one for one in recommend(MODELS, *arguments, **options)}  # type: ignore[arg-type]


memories = st.integers(GIB // 2, 512 * GIB)
gpu_memories = st.just(0) | st.integers(10**9, 200 * 10**9)
languages = st.sampled_from([None, "en", "de", "yue"])
measurements = st.dictionaries(st.sampled_from(sorted(KNOWN)), st.floats(0.05, 5_000), max_size=3)


@pytest.mark.parametrize(
    ("memory_total", "gpu_total", "name"),
    [
        (GIB, 0, "tiny"),
        (2 * GIB, 0, "base"),
        (256 * GIB, 0, "base"),  # on a CPU, speed is the limit
        (GIB, 8 * 10**9, "large-v3-turbo"),
        (16 * GIB, 6 * 10**9, "large-v3-turbo"),
        (16 * GIB, 4 * 10**9, "small"),
        (16 * GIB, 2 * 10**9, "base"),
    ],
)
def test_the_model_for_an_unmeasured_computer(memory_total: int, gpu_total: int, name: str) -> None:
    unmeasured = speeds_from({}, MODELS)
    assert suitable_model(memory_total, gpu_total, models=MODELS, speed_of=unmeasured) == name


@pytest.mark.parametrize(
    ("memory_total", "measured", "name"),
    [
        (16 * GIB, {"base": 45.0}, "small"),
        (16 * GIB, {"base": 20.0}, "base"),
        (16 * GIB, {"tiny.en": 15.0}, "tiny"),
        (16 * GIB, {"tiny": 2.0}, "tiny"),  # the fastest model there is
        (16 * GIB, {"base": 400.0}, "large-v3-turbo"),
        (2 * GIB, {"base": 400.0}, "base"),  # a larger one would take too much memory to stay loaded
        (16 * GIB, {"base": 45.0, "small": 9.0}, "base"),  # a measured speed precedes an expected one
    ],
)
def test_faster_computers_get_more_accurate_models(
    memory_total: int, measured: dict[str, float], name: str
) -> None:
    assert [one.name for one in said(memory_total, 0, measured=measured).values() if one.recommended] == [
        name
    ]


@given(memories, gpu_memories, languages, measurements)
def test_recommendations_are_consistent_on_any_computer(
    memory_total: int, gpu_total: int, language: str | None, measured: dict[str, float]
) -> None:
    found = recommend(MODELS, memory_total, gpu_total, language=language, measured=measured)
    assert sorted(one.name for one in found) == sorted(
        model.name for model in MODELS if language is None or language in model.languages
    )
    assert [one.recommended for one in found] == [found[0].fits, *[False] * (len(found) - 1)]
    assert found[0].fits or language == "yue" or memory_total < GIB
    fits = [one.fits for one in found[1:]]
    assert fits == sorted(fits, reverse=True)
    for one in found:
        assert one.measured == (one.name in measured)
        assert (one.speed is None) == (not measured)
        assert one.summary.startswith(f"{one.name}: ") and "\n" not in one.summary
        if one.fits:
            assert one.memory < memory_total or gpu_total
            assert ("hour" in one.summary) == (one.speed is not None)


@given(measurements.filter(bool))
def test_the_expected_speed_is_inverse_to_the_size(measured: dict[str, float]) -> None:
    one = dict([next(iter(measured.items()))])
    speed_of = speeds_from(one, MODELS)
    speeds = [(model.parameters_millions, speed_of(model)) for model in MODELS]
    products = [parameters * (speed or 0) for parameters, speed in speeds]
    assert products == pytest.approx([products[0]] * len(products))
    for name, speed in measured.items():
        assert speeds_from(measured, MODELS)(KNOWN[name]) == speed


def test_speeds_are_extrapolated_from_the_nearest_measured_model() -> None:
    speed_of = speeds_from({"tiny": 100.0, "medium": 10.0}, MODELS)
    assert speed_of(KNOWN["base"]) == pytest.approx(100 * 39 / KNOWN["base"].parameters_millions, rel=0.1)
    assert speed_of(KNOWN["large-v3"]) == pytest.approx(
        10 * KNOWN["medium"].parameters_millions / KNOWN["large-v3"].parameters_millions
    )
    assert speeds_from({"/some/folder": 3.0}, MODELS)(KNOWN["tiny"]) is None


def test_reasons_and_summaries() -> None:
    found = said(2 * GIB, 0)
    assert found["base"].reason == "best balance on this CPU"
    assert found["base.en"].reason == "equally fast; English only"
    assert found["tiny"].reason == "faster, less accurate"
    assert found["small"].reason == "slower, more accurate"
    assert (found["large-v3"].fits, found["large-v3"].reason) == (False, "needs more memory than there is")
    assert found["base"].summary == "base: 469 MB of memory; best balance on this CPU"
    measured = said(2 * GIB, 0, measured={"base": 45.0})
    assert measured["base"].summary.startswith("base: an hour of speech in about 1.3 min, ")
    assert measured["small"].summary.startswith("small: an hour of speech in about 4.4 min, ")
    assert said(16 * GIB, 6 * 10**9)["large-v3-turbo"].reason == "best balance on this GPU"


@pytest.mark.parametrize(
    ("speed", "time"),
    [
        (10_000.0, "1 s"),
        (80.0, "45 s"),
        (60.2, "1 min"),
        (30.0, "2 min"),
        (8.0, "7.5 min"),
        (2.0, "30 min"),
        (0.7, "86 min"),
        (0.5, "2 h"),
        (0.4, "2.5 h"),
    ],
)
def test_how_long_an_hour_of_speech_takes(speed: float, time: str) -> None:
    assert (
        f"an hour of speech in about {time}, " in said(16 * GIB, 0, measured={"base": speed})["base"].summary
    )


def test_recommendations_for_a_language() -> None:
    english, german = said(16 * GIB, 0, language="en"), said(16 * GIB, 0, language="de")
    assert next(iter(english)) == "base.en" and "base" in english
    assert next(iter(german)) == "base" and "base.en" not in german
    assert next(iter(said(16 * GIB, 8 * 10**9, language="en"))) == "large-v3-turbo"


@pytest.mark.parametrize(
    ("language", "names"),
    [
        (None, ["base", "base.en", "tiny", "tiny.en", "distil-small.en", "small", "small.en"]),
        ("en", ["base.en", "base", "tiny.en", "tiny", "distil-small.en", "small.en", "small"]),
        ("de", ["base", "tiny", "small", "medium"]),
    ],
)
def test_unmeasured_models_are_listed_by_size_from_the_best_one(
    language: str | None, names: list[str]
) -> None:
    assert list(said(16 * GIB, 0, language=language))[: len(names)] == names


def test_models_that_are_fast_enough_come_first() -> None:
    names = list(said(16 * GIB, 0, language="de", measured={"base": 45.0}))
    assert names[:4] == ["small", "base", "tiny", "medium"]


def test_on_a_gpu_its_memory_is_the_limit() -> None:
    found = said(GIB, 6 * 10**9)
    assert found["large-v3-turbo"].recommended
    assert not found["large-v3"].fits
    assert said(GIB, 24 * 10**9)["large-v3"].fits


def test_a_model_that_is_too_large_gets_a_warning() -> None:
    warning = too_large(KNOWN["large-v3"], 2 * GIB, 0, MODELS)
    assert warning is not None and warning.code == "model.too_large"
    assert warning.message == (
        "The model large-v3 needs about 5.08 GB of memory, and this computer has 2.15 GB."
    )
    assert warning.fix.startswith("Use large-v3-turbo, the largest that fits; ")
    largest = KNOWN[warning.data["largest"]]
    assert not largest.english_only
    assert too_large(largest, 2 * GIB, 0, MODELS) is None
    warning = too_large(KNOWN["large-v3"], 2 * GIB, 3 * 10**9, MODELS)
    assert warning is not None and warning.message == (
        "The model large-v3 needs about 4.74 GB of GPU memory, and the GPU has 3.00 GB."
    )


def test_a_precise_compute_type_needs_more_memory() -> None:
    assert too_large(KNOWN["small"], 2 * GIB, 0, MODELS) is None
    assert too_large(KNOWN["small"], 2 * GIB, 0, MODELS, compute_type="float32") is not None


@given(memories, gpu_memories, st.sampled_from(MODELS))
def test_a_model_that_fits_gets_no_warning(memory_total: int, gpu_total: int, model: object) -> None:
    name = model.name  # type: ignore[attr-defined]
    warning = too_large(KNOWN[name], memory_total, gpu_total, MODELS)
    if said(memory_total, gpu_total)[name].fits and (not gpu_total or gpu_total > 2.5e9):
        assert warning is None
    if warning is not None and warning.data["largest"]:
        other = KNOWN[warning.data["largest"]]
        assert too_large(other, memory_total, gpu_total, MODELS) is None
        assert KNOWN[name].english_only or not other.english_only


def test_no_model_fits() -> None:
    warning = too_large(KNOWN["tiny"], GIB // 8, 0, MODELS)
    assert warning is not None and warning.data["largest"] is None and warning.fix
