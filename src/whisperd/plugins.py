"""The whole interface of plugins: what a backend announces. `whisperd.installed_plugins` finds them.

A backend is a distribution with an entry point in the group `whisperd`. The module that it names implements
`whisperd_backend` and announces the variants that it offers. Its engine module is imported only in a worker
process, with the variant's native bundle on the path; `whisperd.worker.protocol` defines what a worker
expects of it. docs/plugins.md explains how to write one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO

__all__ = ["PROJECT", "Backend", "ModelFacts", "ModelFormat", "Needs", "Variant", "hookimpl"]

PROJECT = "whisperd"
"""The group of the entry points, and what pluggy calls this project."""


def hookimpl(function: Any = None, **options: Any) -> Any:
    """Mark a function of a plugin as a hook.

    It sets the same mark as `pluggy.HookimplMarker`, and takes the same options. A worker imports its plugin
    as well, and importing pluggy with its dependencies would waste a tenth of a second.
    """
    if function is None:
        return functools.partial(hookimpl, **options)
    setattr(function, f"{PROJECT}_impl", options)
    return function


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a variant requires of a computer, besides the requirements of its lock. All must be met."""

    platforms: Sequence[str] = ()
    """Such as `linux-x86_64` or `macos-arm64`; empty: any."""
    cpu_features: Sequence[str] = ()
    """Names from `whisperd.hardware.CPU_FEATURES`, required only of CPUs of that family: `avx2` is not
    required of an ARM CPU."""
    cuda: tuple[int, int] | None = None
    """A GPU, and a driver that supports this version of CUDA."""
    frameworks: Sequence[str] = ()
    """Frameworks of macOS: `CoreML`, `Metal`."""
    blas: bool = False
    """OpenBLAS or MKL with its headers, to build against."""
    compiler: bool = False
    """A C++ compiler."""


@dataclass(frozen=True)
class Variant:
    """One build of a backend for one kind of hardware."""

    name: str
    """`{backend}-{hardware}`, such as `ctranslate2-cpu`; also the name of its native bundle."""
    lock: str | None
    """The text of its lock file: what to install, by hash (format: `whisperd.natives.lock`). None
    for a backend that needs no native library, such as one that calls another server."""
    device: str
    """Which memory holds the model, and is therefore checked for free space: `cpu`, or `cuda` for a GPU with
    its own memory. A build for a GPU that shares the computer's memory, as Apple's do, is `cpu`."""
    priority: int
    """Before anything was measured, the usable variant with the highest priority is used."""
    compute_types: Sequence[str]
    """Precisions that it can compute in, the best choice for this hardware first."""
    needs: Needs = Needs()
    """What it requires of a computer."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables for the worker, such as `CT2_FORCE_CPU_ISA`."""
    converts: Sequence[str] | None = None
    """Those of its compute types for which a model is converted to the backend's `ModelFormat`. None: all."""
    build: Mapping[str, str] | None = None
    """For a variant that is built on this computer from the sources in its lock: variables for the build,
    such as `GGML_BLAS`. None if wheels are installed."""

    def takes_converted(self, compute_type: str) -> bool:
        """Whether a model must be converted for it to compute in that precision."""
        return self.converts is None or compute_type in self.converts


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """The metadata of a model file in a backend's own format."""

    format: str
    """The name of its `ModelFormat`."""
    precision: str
    """How its weights are stored, as the engine's users call it: `q5_0`. It is passed to
    `Backend.need_bytes` in place of a compute type."""
    compute_type: str
    """What the engine computes in with these weights: a name from `worker.protocol.ComputeType`."""
    parameters: int
    language_count: int
    """How many languages it knows, in Whisper's order: 1 means English only."""


@dataclass(frozen=True, kw_only=True)
class ModelFormat:
    """A format of model files into which whisperd converts models in CTranslate2's format. If `read` is
    given, users may also name their own files."""

    name: str
    """Such as `ggml`."""
    convert: str
    """`module:function` that a child process calls with the bundle on its path:
    `(source: Path, target: Path, precision: str, on_bytes: Callable[[int], None])`. It writes the single file
    `target` from the model in the folder `source`, with weights in the precision that a compute type of the
    variant needs (`int8` for `int8_float32`), and reports with each call of `on_bytes` how many more bytes of
    the source were read."""
    replaces: str | None = None
    """The file in a model's folder that this one replaces, such as `model.bin`: the engine gets a folder with
    the other files and this one. If it cannot be made, or is empty, the engine gets the original model. None:
    the engine gets the file alone, and loading fails without it."""
    version: int = 1
    """Increase it when the function's output changes, so that old files are converted again."""
    magic: bytes = b""
    """The first bytes of each file of the format."""
    read: Callable[[BinaryIO, int], ModelFacts] | None = None
    """Reads a file and its size in bytes. It runs in the daemon, without native libraries, and must trust
    nothing in the file, which may be anything. Raises ValueError, with the reason as the end of a sentence,
    if the engine cannot load the file."""


@dataclass(frozen=True)
class Backend:
    """A plugin that can run Whisper."""

    name: str
    """Such as `ctranslate2`; also the name of the entry point."""
    engine: str
    """`module:function` that a worker calls to load a model: `whisperd.worker.protocol.LoadEngine`."""
    variants: Sequence[Variant]
    need_bytes: Callable[..., int] | None = None
    """Estimates the memory in bytes that a model takes, as `whisperd.models.memory.need_bytes` does for
    CTranslate2: `(parameters, compute_type, *, batch_size, replicas, device)`. None: that function is
    used."""
    model_format: ModelFormat | None = None
    """None: the engine gets the folder of a model in CTranslate2's format, as the model store has it."""
