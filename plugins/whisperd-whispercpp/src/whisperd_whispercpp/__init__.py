"""Announces the whisper.cpp backend and its variants.

Only worker processes import the engine itself, `engine.py`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from functools import partial
from importlib import resources

from whisperd.plugins import Backend, ModelFormat, Needs, Variant, hookimpl
from whisperd_whispercpp.ggml_file import MAGIC, read_facts
from whisperd_whispercpp.memory import need_bytes

__all__ = ["whisperd_backend"]

_CPU_COMPUTE_TYPES = ("int8", "float16")
_GPU_COMPUTE_TYPES = ("float16", "int8")
_ON_CPU = {"GGML_NO_BACKTRACE": "1"}
"""Otherwise, ggml starts a debugger when it crashes."""
_ON_GPU = {**_ON_CPU, "WHISPERD_WHISPERCPP_GPU": "1"}
_APPLE = ("macos-arm64",)

# CMake variables. The libraries of a bundle find each other in their own folder.
_BUILD = {
    "CMAKE_BUILD_WITH_INSTALL_RPATH": "ON",
    "CMAKE_INSTALL_RPATH": "@loader_path" if sys.platform == "darwin" else "$ORIGIN",
}
_GENERIC_BUILD = {
    **_BUILD,
    **dict.fromkeys(
        (
            "GGML_NATIVE",
            "GGML_SSE42",
            "GGML_AVX",
            "GGML_AVX2",
            "GGML_BMI2",
            "GGML_FMA",
            "GGML_F16C",
        ),
        "OFF",
    ),
}
_COREML_BUILD = {
    **_BUILD,
    "GGML_NATIVE": "ON",
    "WHISPER_COREML": "ON",
    "WHISPER_COREML_ALLOW_FALLBACK": "ON",
}


@hookimpl
def whisperd_backend() -> Backend:
    """Return the backend, with one variant for each kind of hardware that it has a build for."""
    # The wheels are published, for processors from 2013 on; the source is built on this computer.
    wheels, source = _read_lock("whispercpp"), _read_lock("whispercpp-source")
    on_gpu = partial(Variant, device="cpu", compute_types=_GPU_COMPUTE_TYPES, environment=_ON_GPU)
    on_cpu = partial(Variant, device="cpu", compute_types=_CPU_COMPUTE_TYPES, environment=_ON_CPU)
    return Backend(
        name="whispercpp",
        engine="whisperd_whispercpp.engine:load",
        variants=(
            on_gpu(
                name="whispercpp-coreml",
                lock=source,
                priority=40,
                needs=Needs(platforms=_APPLE, frameworks=("CoreML", "Metal"), compiler=True),
                build=_COREML_BUILD,
            ),
            on_gpu(
                name="whispercpp-metal",
                lock=wheels,
                priority=38,
                needs=Needs(platforms=_APPLE, frameworks=("Metal",)),
            ),
            on_cpu(
                name="whispercpp-blas",
                lock=source,
                priority=30,
                needs=Needs(blas=True, compiler=True),
                build=_blas_build(os.environ),
            ),
            on_cpu(
                name="whispercpp-avx",
                lock=wheels,
                priority=20,
                needs=Needs(cpu_features=("avx", "avx2", "f16c", "fma")),
            ),
            on_cpu(
                name="whispercpp-generic",
                lock=source,
                priority=5,
                needs=Needs(compiler=True),
                build=_GENERIC_BUILD,
            ),
        ),
        need_bytes=need_bytes,
        model_format=ModelFormat(
            name="ggml", convert="whisperd_whispercpp.convert:convert", magic=MAGIC, read=read_facts
        ),
    )


def _blas_build(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the build for the BLAS that the user names, else OpenBLAS; on a Mac for that of the system."""
    build = {**_BUILD, "GGML_NATIVE": "ON", "GGML_BLAS": "ON"}
    if sys.platform == "darwin":
        return build
    # Headers outside the compiler's search path; without this, pkg-config would be needed.
    build |= {"GGML_BLAS_VENDOR": "OpenBLAS", "BLAS_INCLUDE_DIRS": "/usr/include/openblas"}
    if environment.get("MKLROOT") and not environment.get("OPENBLAS_PATH"):
        # Linked statically: the shared libraries load others that would not be in the bundle.
        build |= {"GGML_BLAS_VENDOR": "Intel10_64lp_seq", "BLA_STATIC": "ON"}
    return build


def _read_lock(name: str) -> str:
    return resources.files(__name__).joinpath(f"{name}.lock").read_text("utf-8")
