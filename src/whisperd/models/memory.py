"""How much memory a model needs, estimated before it is loaded. The one formula for it.

On a CPU: the process, the weights once however many replicas share them, and for each replica what it
computes with, which grows with the batch. That is more than what it takes while it is loaded, since weights
that become integers are stored as integers (`whisperd_ctranslate2.weights`). The figures are fitted to peaks
of CTranslate2 that docs/benchmarks.md shows, from `tiny` to `small`. Models whose decoder was made small
(`large-v3-turbo` and the distilled ones) take less than this tells: about a third less in a batch of four.

On a GPU: the CUDA context with its libraries, the weights, and what is computed with. These figures
are fitted to published peaks of `large-v2` (faster-whisper's README, beam size 5: 4,755 MB as float16,
3,091 MB as int8), and to what a batch adds by its tensors' sizes.
"""

from __future__ import annotations

from typing import Final

__all__ = ["loading_bytes", "need_bytes", "parameters_in"]

_WEIGHT_BYTES: Final = {"int8": 1.1, "int16": 2.1, "float16": 2.0, "bfloat16": 2.0, "float32": 4.0}
"""For each parameter. A mixed type such as `int8_float16` has the weights of its first part."""
_STORED_BYTES: Final = 2.0
"""For each parameter: models are stored as float16."""

_MB: Final = 1_000_000
_PROCESS_BYTES: Final = 100 * _MB
_LOADING_BYTES: Final = 190 * _MB
_REPLICA_BYTES: Final = 60 * _MB
_WINDOW_BYTES: Final = {"int8": 48 * _MB, "float32": 25 * _MB}
_WINDOW_BYTES_PER_PARAMETER: Final = {"int8": 0.4, "float32": 0.94}

_GPU_CONTEXT_BYTES: Final = 700 * _MB
_GPU_WINDOW_BYTES: Final = 20 * _MB
_GPU_REPLICA_BYTES_PER_PARAMETER: Final = 0.45
_GPU_WINDOW_BYTES_PER_PARAMETER: Final = 0.145


def need_bytes(
    parameters: float,
    compute_type: str = "int8",
    *,
    batch_size: int = 4,
    replicas: int = 1,
    device: str = "cpu",
) -> int:
    """The most memory that a model takes on the device that computes: of the computer, or of one GPU.

    `replicas` are those on this device, `batch_size` the windows that each computes at once. On a GPU the
    computer's own memory has to hold `loading_bytes` besides.
    """
    weights = parameters * _weight_bytes(compute_type)
    if device != "cpu":
        window = _GPU_WINDOW_BYTES + parameters * _GPU_WINDOW_BYTES_PER_PARAMETER
        replica = parameters * _GPU_REPLICA_BYTES_PER_PARAMETER + batch_size * window
        return int(_GPU_CONTEXT_BYTES + weights + replicas * replica)
    kind = "int8" if compute_type.startswith("int8") else "float32"
    window = _WINDOW_BYTES[kind] + parameters * _WINDOW_BYTES_PER_PARAMETER[kind]
    return int(_PROCESS_BYTES + weights + replicas * (_REPLICA_BYTES + batch_size * window))


def loading_bytes(parameters: float, compute_type: str = "int8") -> int:
    """The most memory of the computer that a model takes while it is loaded onto a GPU, or on a processor
    while the library makes integers of its floats.
    """
    weights = parameters * max(_weight_bytes(compute_type), _STORED_BYTES)
    return int(_LOADING_BYTES + weights)


def parameters_in(size_bytes: int) -> float:
    """About how many parameters a model has whose files are that large."""
    return size_bytes / _STORED_BYTES


def _weight_bytes(compute_type: str) -> float:
    return _WEIGHT_BYTES.get(compute_type.partition("_")[0], 4.0)
