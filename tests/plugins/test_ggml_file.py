"""The facts read from whisper.cpp files, whose content is never trusted."""

from __future__ import annotations

import functools
import io
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggml_models import STATE, TOKENS, TYPES, VOCABULARY, ggml_model, tensor
from whisperd.plugins import ModelFacts
from whisperd_whispercpp.ggml_file import NotAModel, coreml_encoder, read_facts
from whisperd_whispercpp.memory import need_bytes

HEADER_BYTES = 48
FILTERS_BYTES = 8 + 4 * 80 * 201
TOKENS_BYTES = 4 + 5 * TOKENS
TENSORS = HEADER_BYTES + FILTERS_BYTES + TOKENS_BYTES
"""The offset of the tensors."""

whole_model = functools.cache(ggml_model)


def read(data: bytes, size: int | None = None) -> ModelFacts:
    return read_facts(io.BytesIO(data), len(data) if size is None else size)


def refused(data: bytes) -> str:
    with pytest.raises(NotAModel) as raised:
        read(data)
    return str(raised.value)


def changed(data: bytes, place: int, new: bytes) -> bytes:
    return data[:place] + new + data[place + len(new) :]


@pytest.mark.parametrize("kind", TYPES)
def test_the_precision_is_read(kind: str) -> None:
    facts = read(whole_model(kind))
    compute_type = {"f32": "float32", "f16": "float16"}.get(kind, "int8")
    assert (facts.format, facts.precision, facts.compute_type) == ("ggml", kind, compute_type)
    # 15 tensors of the encoder's layer, 24 of the decoder's, and 11 that stand alone.
    layers = 4 * (STATE**2 * 3 + STATE**2 * 2) + 4 * STATE**2 + 20 * STATE + 9 * STATE - 5 * STATE
    assert facts.parameters > layers + STATE * (VOCABULARY + 1500 + 448)


@pytest.mark.parametrize(("vocabulary", "languages"), [(51_864, 1), (51_865, 99), (51_866, 100)])
def test_languages_follow_from_the_vocabulary(vocabulary: int, languages: int) -> None:
    assert read(ggml_model(vocabulary=vocabulary)).language_count == languages


def test_models_with_128_mel_bands_are_accepted() -> None:
    assert read(ggml_model(bands=128)).precision == "q4_0"


def test_lower_precision_needs_less_memory() -> None:
    needs = [need_bytes(1e8, precision) for precision in ("q4_0", "q5_1", "q8_0", "f16", "f32")]
    assert needs == sorted(set(needs))
    assert needs[-1] - needs[0] == pytest.approx(1e8 * (4 - 18 / 32))
    assert need_bytes(1e8, "q8_0") == pytest.approx(need_bytes(1e8, "int8"), rel=0.01)


def test_a_file_must_end_exactly_after_its_tensors() -> None:
    whole = whole_model()
    assert "cut off" in refused(whole[:-1])
    assert "cut off" in refused(whole + b"\0")
    assert "cut off" in refused(whole + bytes(11))
    assert "an unexpected tensor" in refused(whole + tensor("decoder.ln.bias", (STATE,), "f32"))
    assert "an unexpected tensor" in refused(whole + tensor("virus", (STATE,), "f32"))
    assert "an unexpected tensor" in refused(whole + bytes(12))


def test_a_file_that_shrinks_while_it_is_read_is_refused() -> None:
    whole = whole_model()
    assert read(whole + b"what was written since", len(whole)).precision == "q4_0"
    with pytest.raises(NotAModel, match="cut off"):
        read_facts(io.BytesIO(whole[:TENSORS]), len(whole))


def test_a_missing_tensor_is_named() -> None:
    last = tensor("encoder.ln_post.bias", (STATE,), "f32")
    assert refused(whole_model().removesuffix(last)) == (
        "1 of its tensors are missing, such as encoder.ln_post.bias"
    )
    assert "are missing" in refused(whole_model()[:TENSORS])


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        (0, 1, "does not begin"),
        (1, 51_863, "51863 tokens"),
        (1, 60_000, "60000 tokens"),
        (1, -1, "-1 tokens"),
        (2, 1501, "contexts are 1501 and 448"),
        (3, 128, "encoder does not fit its decoder"),
        (4, 0, "no model has"),
        (4, 3, "no model has"),
        (4, -64, "no model has"),
        (5, 2**31 - 1, "no model has"),
        (6, 1, "contexts are 1500 and 1"),
        (9, 0, "no model has"),
        (10, 79, "79 bands"),
        (11, 2005, "an unknown type"),
        (11, -998, "an unknown type"),
        (12, 128, "Mel filters are 128 of 201"),
        (13, 2**31 - 1, "Mel filters"),
    ],
)
def test_the_header_must_describe_a_whisper_model(field: int, value: int, said: str) -> None:
    assert said in refused(changed(whole_model(), 4 * field, struct.pack("<i", value)))


@pytest.mark.parametrize(("count", "said"), [(0, "names 0"), (-1, "names -1"), (51_865, "names 51865")])
def test_the_number_of_tokens_must_fit_the_vocabulary(count: int, said: str) -> None:
    assert said in refused(changed(whole_model(), HEADER_BYTES + FILTERS_BYTES, struct.pack("<i", count)))


@pytest.mark.parametrize("length", [2**31, 2**32 - 1, 5 << 20])
def test_a_token_longer_than_the_file_is_refused(length: int) -> None:
    place = HEADER_BYTES + FILTERS_BYTES + 4
    assert "cut off" in refused(changed(whole_model(), place, struct.pack("<I", length)))


def test_the_total_length_of_tokens_is_limited() -> None:
    place = HEADER_BYTES + FILTERS_BYTES + 4
    long = changed(whole_model(), place, struct.pack("<I", 5 << 20)) + bytes(8 << 20)
    assert refused(long) == "its tokens have no end"


@pytest.mark.parametrize(
    ("offset", "value", "said"),
    [
        (0, 2**32 - 1, "a shape has the length 4294967295"),
        (0, 3, "an unexpected tensor"),
        (4, 2**32 - 1, "a name has the length 4294967295"),
        (8, 1, "not stored as f32"),
        (12, 65, "has the shape (65, 448)"),
        (12, 2**32 - 1, "has the shape (-1, 448)"),
    ],
)
def test_tensors_must_match_the_header(offset: int, value: int, said: str) -> None:
    assert said in refused(changed(whole_model(), TENSORS + offset, struct.pack("<I", value)))


def test_rows_must_be_whole_blocks() -> None:
    data = changed(ggml_model("q4_0", state=32), 44, struct.pack("<i", 2012))
    place = data.index(b"decoder.token_embedding.weight") - 12
    assert "do not divide into blocks of q4_k" in refused(changed(data, place, struct.pack("<i", 12)))


@given(st.binary(max_size=400), st.booleans())
def test_arbitrary_data_is_refused(data: bytes, is_begun: bool) -> None:
    assert refused(struct.pack("<I", 0x67676D6C) + data if is_begun else data)


@given(st.integers(0, 2**40))
def test_a_truncated_model_is_refused_at_any_length(place: int) -> None:
    whole = whole_model()
    assert refused(whole[: place % len(whole)])


HEADS = [0, HEADER_BYTES, HEADER_BYTES + FILTERS_BYTES, TENSORS, len(ggml_model()) - 4 * STATE - 36]
"""Offsets of everything but the weights."""


@given(
    st.lists(
        st.tuples(st.sampled_from(HEADS), st.integers(0, 63), st.binary(min_size=1, max_size=8)),
        min_size=1,
        max_size=3,
    )
)
def test_a_corrupted_header_is_refused_or_harmless(changes: list[tuple[int, int, bytes]]) -> None:
    data = whole_model()
    for head, offset, new in changes:
        data = changed(data, head + offset, new)
    try:
        facts = read(data)
    except NotAModel as problem:
        assert str(problem)
    else:
        assert facts.precision in TYPES and facts.language_count in (1, 99, 100)


@pytest.mark.parametrize(
    ("file", "encoder"),
    [
        ("ggml-base.bin", "ggml-base-encoder.mlmodelc"),
        ("ggml-base-q5_0.bin", "ggml-base-encoder.mlmodelc"),
        ("ggml-base.en-q8_0.bin", "ggml-base.en-encoder.mlmodelc"),
        ("ggml-large-v3-turbo-q5_0.bin", "ggml-large-v3-turbo-encoder.mlmodelc"),
        ("ggml-large-v3.bin", "ggml-large-v3-encoder.mlmodelc"),
    ],
)
def test_the_coreml_encoder_does_not_depend_on_the_precision(file: str, encoder: str) -> None:
    assert coreml_encoder(Path("/models") / file) == Path("/models") / encoder
