"""Which model suits a computer."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whisperd.models import shipped_catalogue
from whisperd.models.recommend import recommend, suitable_model

GIB = 2**30
MODELS = shipped_catalogue().models


@dataclass(frozen=True)
class Card:
    memory_total: int


@pytest.mark.parametrize(
    ("memory_total", "gpu_totals", "name"),
    [
        (GIB, [], "tiny"),
        (2 * GIB, [], "base"),
        (256 * GIB, [], "base"),  # on a CPU speed is the limit
        (GIB, [8 * 10**9], "large-v3-turbo"),
        (16 * GIB, [6 * 10**9], "large-v3-turbo"),
        (16 * GIB, [2 * 10**9, 4 * 10**9], "small"),
        (16 * GIB, [2 * 10**9], "base"),
    ],
)
def test_what_to_begin_with(memory_total: int, gpu_totals: list[int], name: str) -> None:
    assert suitable_model(memory_total, [Card(total) for total in gpu_totals]) == name


@settings(deadline=None)
@given(
    memory_total=st.integers(GIB, 512 * GIB),
    gpu_totals=st.lists(st.integers(10**9, 200 * 10**9), max_size=3),
)
def test_the_recommended_one_fits(memory_total: int, gpu_totals: list[int]) -> None:
    gpus = [Card(total) for total in gpu_totals]
    found = recommend(MODELS, memory_total, gpus)
    assert [one.name for one in found] == [model.name for model in MODELS]
    (best,) = [one for one in found if one.recommended]
    assert best.fits and best.name == suitable_model(memory_total, gpus)
    assert {one.fits for one in found if one.memory <= best.memory} == {True}


def test_what_is_said_of_them() -> None:
    said = {one.name: one for one in recommend(MODELS, 2 * GIB, [])}
    assert said["base"].reason == "best balance on this processor"
    assert said["base.en"].reason == "as fast; English"
    assert said["tiny"].reason == "faster, fewer words right"
    assert said["small"].reason == "slower, more words right"
    assert (said["large-v3"].fits, said["large-v3"].reason) == (False, "needs more memory than there is")


def test_on_a_gpu_its_own_memory_counts() -> None:
    said = {one.name: one for one in recommend(MODELS, GIB, [Card(6 * 10**9)])}
    assert said["large-v3-turbo"].recommended
    assert not said["large-v3"].fits
    assert {one.name: one for one in recommend(MODELS, GIB, [Card(24 * 10**9)])}["large-v3"].fits
