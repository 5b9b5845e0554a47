"""Alignment heads in a model's config.json, checked against its weights."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ctranslate2_models import string, weights
from fuzzing import CHANGES, Change, spoil
from whisperd_ctranslate2.alignment import DecoderSize, decoder_size, heads_problem, with_valid_heads

SIZE = DecoderSize(layers=4, heads=6)


@pytest.mark.parametrize("alias", [False, True])
def test_layers_and_heads_are_read_from_the_weights(tmp_path: Path, alias: bool) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(weights(alias=alias))
    assert decoder_size(path) == SIZE


@pytest.mark.parametrize("data", [b"", b"\xff" * 100, weights()[:-60], weights(heads=None)])
def test_unreadable_weights_have_no_size(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(data)
    assert decoder_size(path) is None


@pytest.mark.parametrize(
    "layers", [[0, 1, 2, 3, 9], [0, 1, 2, 3, "9" * 5000], [0, 1, 2, 3, "٤"], [0, 1, 2, 3, "04"]]
)
def test_layers_are_counted_as_the_library_does(tmp_path: Path, layers: list[object]) -> None:
    """Up to the first missing one: heads of a later layer would read memory outside the model."""
    path = tmp_path / "model.bin"
    path.write_bytes(weights(layers=layers))
    assert decoder_size(path) == SIZE


def test_duplicate_names_make_weights_unreadable(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(weights(layers=[0, 1, 1]))
    assert decoder_size(path) is None
    path.write_bytes(
        weights().removesuffix(bytes(4)) + struct.pack("<I", 1) + 2 * string("decoder/num_heads")
    )
    assert decoder_size(path) is None


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=CHANGES, alias=st.booleans())
def test_corrupted_weights_have_a_size_or_none(tmp_path: Path, changes: list[Change], alias: bool) -> None:
    data = spoil(weights(alias=alias), changes)
    path = tmp_path / "model.bin"
    path.write_bytes(data)
    size = decoder_size(path)
    assert size is None or size.layers <= data.count(b"decoder/layer_")


@pytest.mark.parametrize(
    ("heads", "said"),
    [
        ([[0, 0], [3, 5]], None),
        ([[4, 0]], "no head 0 in layer 4"),
        ([[0, 6]], "no head 6 in layer 0"),
        ([[0, 0], [-1, 0]], "no head 0 in layer -1"),
        ([[2**70, 0]], "no head 0 in layer"),
        ([[0, 1, 2]], "pairs"),
        ([[1.5, 0]], "pairs"),
        ([[True, 0]], "pairs"),
        (["a"], "pairs"),
        ([None], "pairs"),
        (None, "list"),
        ({"0": 0}, "list"),
        (5, "list"),
    ],
)
def test_alignment_heads_must_exist(heads: Any, said: str | None) -> None:
    problem = heads_problem(heads, SIZE)
    assert problem is None if said is None else said in str(problem)


def test_without_a_known_size_all_heads_are_refused() -> None:
    assert "model.bin" in str(heads_problem([[0, 0]], None))


@pytest.mark.parametrize(("heads", "has_heads"), [([[1, 2]], True), ([], False)])
def test_a_valid_folder_is_used_unchanged(tmp_path: Path, heads: Any, has_heads: bool) -> None:
    (tmp_path / "model.bin").write_bytes(weights())
    (tmp_path / "config.json").write_text(json.dumps({"alignment_heads": heads}))
    with with_valid_heads(tmp_path) as found:
        assert found == (tmp_path, has_heads, None)


def test_wrong_heads_are_omitted_from_the_loaded_folder(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(weights())
    (tmp_path / "config.json").write_text(json.dumps({"alignment_heads": [[9, 0]], "lang_ids": [1]}))
    with with_valid_heads(tmp_path) as (folder, has_heads, problem):
        assert not has_heads and problem is not None
        assert (folder / "model.bin").read_bytes() == weights()
        assert json.loads((folder / "config.json").read_text()) == {"lang_ids": [1]}
    assert not folder.exists()
    assert json.loads((tmp_path / "config.json").read_text())["alignment_heads"] == [[9, 0]]
