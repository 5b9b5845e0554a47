"""Which runtimes are evicted so that a new one fits, and the error if that does not help."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whisperd.models import shipped_catalogue
from whisperd.runtimes.memory import largest_that_fits, not_enough_memory, plan

MODELS = shipped_catalogue().models
SIZES = st.integers(0, 10_000)
IDLE = st.lists(st.tuples(st.uuids().map(str), SIZES), max_size=8)


@settings(deadline=None)
@given(need=SIZES, free=SIZES, idle=IDLE)
def test_the_first_are_evicted_and_no_more_than_needed(
    need: int, free: int, idle: list[tuple[str, int]]
) -> None:
    leaving, left = plan(need, free, idle)
    gone = idle[: len(leaving)]
    assert leaving == [name for name, _ in gone]
    assert left == free + sum(size for _, size in gone)
    assert left >= need or gone == idle
    if gone:  # one less would not have been enough
        assert left - gone[-1][1] < need


@settings(deadline=None)
@given(free=st.integers(0, 20 * 10**9), english_only=st.booleans(), batch_size=st.integers(1, 16))
def test_the_largest_model_that_fits_is_found(free: int, english_only: bool, batch_size: int) -> None:
    offered = [model for model in MODELS if english_only or not model.english_only]
    needs = {model.name: model.memory_bytes(batch_size=batch_size) for model in offered}
    name = largest_that_fits(MODELS, free, batch_size=batch_size, english_only=english_only)
    if name is None:
        assert min(needs.values()) > free
    else:
        assert needs[name] <= free
        parameters = {model.name: model.parameters_millions for model in offered}
        assert all(needs[other] > free for other in offered_above(parameters, name))


def offered_above(parameters: dict[str, float], name: str) -> list[str]:
    return [other for other, count in parameters.items() if count > parameters[name]]


def test_of_several_equal_models_the_newest_is_found() -> None:
    assert largest_that_fits(MODELS, 10**12) == "large-v3"
    assert largest_that_fits(MODELS, 10**12, device="cuda", compute_type="float16") == "large-v3"


def test_the_error_message() -> None:
    error = not_enough_memory("my own", 3_200_000_000, 900_000_000, "base", batch_size=4, replicas=2)
    assert error.code == "memory.not_enough"
    assert error.message == "The runtime my own needs about 3.20 GB of memory, but only 900 MB is free."
    assert error.fix.startswith("Use base, the largest model that fits,")
    assert "`whisperctl runtimes edit 'my own' --model base`" in error.fix
    assert "--batch-size 1" in error.fix and "--workers 1" in error.fix and "unload" in error.fix
    assert error.data == {"needed": 3_200_000_000, "free": 900_000_000, "largest": "base"}


def test_an_unsaved_runtime_is_not_suggested_for_editing() -> None:
    for is_on_gpu in (False, True):
        error = not_enough_memory(
            "large-v3", 9, 1, "base", is_on_gpu=is_on_gpu, batch_size=4, replicas=2, is_saved=False
        )
        assert error.fix == (
            "Use base, the largest model that fits, with `--model base`, unload other runtimes, or close "
            "programs that use a lot of memory."
        )


@pytest.mark.parametrize("is_on_gpu", [False, True])
def test_the_error_if_no_smaller_choice_exists(is_on_gpu: bool) -> None:
    error = not_enough_memory("tiny", 400_000_000, 100, None, is_on_gpu=is_on_gpu)
    assert error.data["largest"] is None
    assert error.fix.startswith("Unload other runtimes, or ")
    assert "--batch-size" not in error.fix and "--workers" not in error.fix


def test_gpu_memory_has_its_own_error_code() -> None:
    error = not_enough_memory("large", 6_000_000_000, 1_000_000_000, "small", is_on_gpu=True)
    assert error.code == "memory.gpu_not_enough"
    assert "GPU memory" in error.message and "--device cpu" in error.fix
