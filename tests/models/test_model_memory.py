"""The estimate of memory, against what CTranslate2 was measured to take (docs/benchmarks.md)."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whisperd.models import shipped_catalogue
from whisperd.models.memory import need_bytes, parameters_in

MB = 1_000_000
TINY, BASE, SMALL, TURBO = 39 * MB, 74 * MB, 244 * MB, 809 * MB
TYPES = st.sampled_from(["int8", "int8_float16", "float16", "float32"])

MEASURED_MB = [
    # parameters, compute type, replicas, batch size, peak
    (TINY, "int8", 1, 1, 279),
    (TINY, "int8", 1, 4, 461),
    (TINY, "int8", 1, 8, 709),
    (TINY, "int8", 2, 1, 367),
    (TINY, "int8", 2, 4, 737),
    (TINY, "int8", 2, 8, 1107),
    (TINY, "float32", 1, 1, 360),
    (TINY, "float32", 1, 4, 584),
    (TINY, "float32", 1, 8, 745),
    (TINY, "float32", 2, 1, 423),
    (TINY, "float32", 2, 4, 788),
    (TINY, "float32", 2, 8, 1203),
    (BASE, "int8", 1, 4, 518),
    (BASE, "int8", 1, 8, 736),
    (BASE, "int8", 1, 16, 1267),
    (BASE, "int8", 2, 1, 435),
    (BASE, "int8", 2, 4, 879),
    (BASE, "int8", 2, 8, 1331),
    (BASE, "int8", 4, 4, 1628),
    (BASE, "float32", 1, 1, 512),
    (BASE, "float32", 1, 4, 817),
    (BASE, "float32", 1, 8, 1231),
    (BASE, "float32", 2, 1, 655),
    (BASE, "float32", 2, 4, 1237),
    (BASE, "float32", 2, 8, 1836),
    (SMALL, "int8", 1, 4, 988),
    (SMALL, "int8", 2, 4, 1543),
    (TURBO, "int8", 1, 1, 1231),
]


@pytest.mark.parametrize(("parameters", "compute_type", "replicas", "batch_size", "peak_mb"), MEASURED_MB)
def test_as_measured_or_somewhat_more(
    parameters: int, compute_type: str, replicas: int, batch_size: int, peak_mb: int
) -> None:
    need = need_bytes(parameters, compute_type, batch_size=batch_size, replicas=replicas)
    assert 0.94 <= need / (peak_mb * MB) <= 1.21


@pytest.mark.parametrize(("compute_type", "peak_mb"), [("float16", 4755), ("int8", 3091)])
def test_on_a_gpu_as_published(compute_type: str, peak_mb: int) -> None:
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
def test_more_of_anything_never_needs_less(
    parameters: int, compute_type: str, batch_size: int, replicas: int, device: str
) -> None:
    def need(parameters: int, batch_size: int, replicas: int) -> int:
        return need_bytes(parameters, compute_type, batch_size=batch_size, replicas=replicas, device=device)

    here = need(parameters, batch_size, replicas)
    assert here <= need(parameters + MB, batch_size, replicas)
    assert here <= need(parameters, batch_size + 1, replicas)
    assert here <= need(parameters, batch_size, replicas + 1)


@pytest.mark.parametrize(("parameters", "peak_mb"), [(TINY, 121), (BASE, 159), (SMALL, 337), (TURBO, 919)])
def test_what_computes_was_loaded_in_less(parameters: int, peak_mb: int) -> None:
    assert need_bytes(parameters, "int8", batch_size=1) > peak_mb * MB


@pytest.mark.parametrize("model", shipped_catalogue().models, ids=lambda model: model.name)
def test_a_model_known_by_its_files_alone(model) -> None:  # type: ignore[no-untyped-def]
    assert parameters_in(model.size_bytes) == pytest.approx(model.parameters_millions * MB, rel=0.1)
