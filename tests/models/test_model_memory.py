"""The memory estimate, compared with CTranslate2's measured use (docs/benchmarks.md)."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctranslate2_models import string, variable
from whisperd.models import shipped_catalogue
from whisperd.models.memory import need_bytes, parameters_in
from whisperd.models.sizes import ModelSize, size_in

MB = 1_000_000
TINY, BASE, SMALL, TURBO = 39 * MB, 74 * MB, 244 * MB, 809 * MB
TYPES = st.sampled_from(["int8", "int8_float16", "float16", "float32"])

MEASURED_MB = [
    # model, compute type, replicas, batch size, peak
    ("tiny", "int8", 1, 1, 263),
    ("tiny", "int8", 1, 4, 299),
    ("tiny", "int8", 2, 4, 470),
    ("tiny", "int8", 2, 8, 754),
    ("base", "int8", 1, 1, 421),
    ("base", "int8", 1, 4, 457),
    ("base", "int8", 1, 8, 740),
    ("base", "int8", 2, 1, 663),
    ("base", "int8", 2, 4, 745),
    ("base", "int8", 2, 8, 1345),
    ("base", "int8", 4, 4, 1311),
    ("base", "float32", 1, 1, 636),
    ("base", "float32", 1, 4, 675),
    ("small", "int8", 1, 1, 1036),
    ("small", "int8", 1, 4, 1105),
    ("small", "int8", 2, 4, 1923),
    ("large-v3-turbo", "int8", 1, 1, 1367),
    ("large-v3-turbo", "int8", 1, 4, 1440),
]


@pytest.mark.parametrize(("model", "compute_type", "replicas", "batch_size", "peak_mb"), MEASURED_MB)
def test_estimates_are_close_to_the_measured_peaks(
    model: str, compute_type: str, replicas: int, batch_size: int, peak_mb: int
) -> None:
    known = shipped_catalogue().find(model)
    assert known is not None
    need = known.memory_bytes(compute_type, batch_size=batch_size, replicas=replicas)
    assert 0.95 <= need / (peak_mb * MB) <= 1.15


@pytest.mark.parametrize(("compute_type", "peak_mb"), [("float16", 4755), ("int8", 3091)])
def test_gpu_estimates_are_close_to_the_published_peaks(compute_type: str, peak_mb: int) -> None:
    need = need_bytes(1550 * MB, compute_type, batch_size=1, device="cuda")
    assert 0.95 <= need / (peak_mb * MB) <= 1.2


@settings(deadline=None)
@given(
    parameters=st.integers(MB, 2000 * MB),
    compute_type=TYPES,
    batch_size=st.integers(1, 64),
    replicas=st.integers(1, 16),
    device=st.sampled_from(["cpu", "cuda"]),
)
def test_the_estimate_grows_with_every_parameter(
    parameters: int, compute_type: str, batch_size: int, replicas: int, device: str
) -> None:
    def need(parameters: int, batch_size: int, replicas: int) -> int:
        return need_bytes(parameters, compute_type, batch_size=batch_size, replicas=replicas, device=device)

    here = need(parameters, batch_size, replicas)
    assert here <= need(parameters + MB, batch_size, replicas)
    assert here <= need(parameters, batch_size + 1, replicas)
    assert here <= need(parameters, batch_size, replicas + 1)


@pytest.mark.parametrize(("parameters", "peak_mb"), [(TINY, 121), (BASE, 159), (SMALL, 337), (TURBO, 919)])
def test_loading_takes_less_than_computing(parameters: int, peak_mb: int) -> None:
    assert need_bytes(parameters, "int8", batch_size=1) > peak_mb * MB


@settings(deadline=None)
@given(
    shares=st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted),
    parameters=st.integers(MB, 2000 * MB),
    batch_size=st.integers(1, 64),
)
def test_a_smaller_decoder_never_needs_more(shares: list[float], parameters: int, batch_size: int) -> None:
    small, large = (need_bytes(parameters, batch_size=batch_size, decoder_share=share) for share in shares)
    assert small <= large


@pytest.mark.parametrize("model", shipped_catalogue().models, ids=lambda model: model.name)
def test_parameters_are_estimated_from_file_sizes(model) -> None:  # type: ignore[no-untyped-def]
    assert parameters_in(model.size_bytes) == pytest.approx(model.parameters_millions * MB, rel=0.1)


def test_the_size_of_an_unknown_model_is_read_from_its_weights(tmp_path: Path) -> None:
    """Regardless of how few layers its decoder has and how many bytes each number takes."""
    halves = ["encoder"] * 4 + ["decoder"]
    layers = [
        variable(f"{half}/layer_{layer}/{part}/weight", (5, 7), 1, bytes(35))
        for layer, half in enumerate(halves)
        for part in ("attention", "ffn")
    ]
    head = struct.pack("<I", 6) + string("WhisperSpec") + struct.pack("<II", 3, len(layers))
    (tmp_path / "model.bin").write_bytes(head + b"".join(layers) + struct.pack("<I", 0))
    assert size_in(tmp_path) == ModelSize(10 * 35, decoder_share=0.25)


def test_a_shape_that_contradicts_the_file_size_is_ignored(tmp_path: Path) -> None:
    weights = variable("decoder/weight", (2**32 - 1,) * 255, 0, bytes(40))
    head = struct.pack("<I", 6) + string("WhisperSpec") + struct.pack("<II", 3, 1)
    (tmp_path / "model.bin").write_bytes(head + weights + struct.pack("<I", 0))
    assert size_in(tmp_path) == ModelSize(10)


def test_weights_in_an_unknown_format_are_sized_by_their_bytes(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(bytes(900))
    (tmp_path / "vocabulary.json").write_bytes(bytes(100))
    assert size_in(tmp_path) == ModelSize(500)
