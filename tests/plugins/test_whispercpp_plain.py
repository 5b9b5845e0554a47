"""The whisper.cpp backend's declarations and estimates, which do not need its library."""

from __future__ import annotations

import pytest

from whisperd.announcement import faults
from whisperd_whispercpp import _blas_build, whisperd_backend
from whisperd_whispercpp.memory import need_bytes

MB = 1_000_000
PEAKS = [
    (39, "int8", 1, 352),
    (39, "int8", 2, 594),
    (74, "int8", 1, 450),
    (74, "int8", 2, 769),
    (74, "float16", 1, 517),
    (244, "int8", 1, 849),
]
"""Measured (docs/benchmarks.md): million parameters, compute type, replicas, megabytes."""


def test_the_declarations_are_valid() -> None:
    assert list(faults(whisperd_backend(), "whispercpp")) == []


def test_variants_are_ordered_and_only_built_ones_need_a_compiler() -> None:
    variants = {variant.name: variant for variant in whisperd_backend().variants}
    names = [f"whispercpp-{kind}" for kind in ("coreml", "metal", "blas", "avx", "generic")]
    assert sorted(variants, key=lambda name: -variants[name].priority) == names
    for variant in variants.values():
        assert variant.needs.compiler == (variant.build is not None)


@pytest.mark.parametrize(
    ("environment", "vendor"),
    [
        ({}, "OpenBLAS"),
        ({"MKLROOT": "/opt/mkl"}, "Intel10_64lp_seq"),
        ({"MKLROOT": "/opt/mkl", "OPENBLAS_PATH": "/opt/openblas"}, "OpenBLAS"),
    ],
)
def test_the_users_blas_is_used_for_the_build(
    environment: dict[str, str], vendor: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    assert _blas_build(environment)["GGML_BLAS_VENDOR"] == vendor


def test_a_mac_uses_its_own_blas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "darwin")
    assert "GGML_BLAS_VENDOR" not in _blas_build({})


@pytest.mark.parametrize(("millions", "compute_type", "replicas", "peak_mb"), PEAKS)
def test_the_estimate_is_close_to_the_measurements(
    millions: float, compute_type: str, replicas: int, peak_mb: int
) -> None:
    estimate = need_bytes(millions * 1e6, compute_type, batch_size=8, replicas=replicas)
    assert 0.95 * peak_mb * MB < estimate < 1.12 * peak_mb * MB
