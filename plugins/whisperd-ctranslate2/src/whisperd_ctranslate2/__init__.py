"""Announces the CTranslate2 backend and its variants.

Only worker processes import the engine itself, `engine.py`.
"""

from __future__ import annotations

from functools import partial
from importlib import resources

from whisperd.plugins import Backend, ModelFormat, Needs, Variant, hookimpl

__all__ = ["whisperd_backend"]

_GPU_COMPUTE_TYPES = (
    "float16",
    "int8_float16",
    "bfloat16",
    "int8_bfloat16",
    "int8",
    "int8_float32",
    "float32",
)
_CPU_COMPUTE_TYPES = ("int8", "int8_float32", "float32")
_INTEGERS_ON_CPU = ("int8", "int8_float32")
_CUDA_PLATFORMS = ("linux-x86_64", "windows-x86_64")


@hookimpl
def whisperd_backend() -> Backend:
    """Return the backend, with one variant for each kind of hardware that it has a build for."""
    on_cpu = partial(
        Variant,
        lock=_read_lock("ctranslate2-cpu"),
        device="cpu",
        compute_types=_CPU_COMPUTE_TYPES,
        converts=_INTEGERS_ON_CPU,
    )
    return Backend(
        name="ctranslate2",
        engine="whisperd_ctranslate2.engine:load",
        variants=(
            _gpu("ctranslate2-cuda12", priority=60, cuda=(12, 0)),
            _gpu("ctranslate2-cuda11", priority=50, cuda=(11, 0)),
            on_cpu(name="ctranslate2-cpu", priority=25),
            # The same build without newer processor features: for tests, and for a processor or virtual
            # machine that claims features that it does not support.
            on_cpu(name="ctranslate2-cpu-generic", priority=5, environment={"CT2_FORCE_CPU_ISA": "GENERIC"}),
        ),
        model_format=ModelFormat(
            name="quantised", convert="whisperd_ctranslate2.weights:quantise", replaces="model.bin"
        ),
    )


def _gpu(name: str, *, priority: int, cuda: tuple[int, int]) -> Variant:
    return Variant(
        name=name,
        lock=_read_lock(name),
        device="cuda",
        priority=priority,
        compute_types=_GPU_COMPUTE_TYPES,
        needs=Needs(platforms=_CUDA_PLATFORMS, cuda=cuda),
        converts=(),
    )


def _read_lock(variant: str) -> str:
    return resources.files(__name__).joinpath(f"{variant}.lock").read_text("utf-8")
