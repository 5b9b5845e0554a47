"""How much memory a model needs, estimated before it is loaded. The one formula for it.

On a CPU: the process, the weights once however many replicas share them, and for each replica what it
computes with, which grows with the batch: for each window the keys and values that the layers of its decoder
look back at, of the sound and of the text of each beam. That is more than what it takes while it is loaded,
since weights that become integers are stored as integers (`whisperd_ctranslate2.weights`). The figures are
fitted to peaks of CTranslate2 that docs/benchmarks.md shows, from `tiny` to `small` and `large-v3-turbo`.

On a GPU: the CUDA context with its libraries, the weights, and what is computed with. These figures
are fitted to published peaks of `large-v2` (faster-whisper's README, beam size 5: 4,755 MB as float16,
3,091 MB as int8), and to what a batch adds by its tensors' sizes.
"""

from __future__ import annotations

from typing import Final

__all__ = ["loading_bytes", "need_bytes", "parameters_in", "weights_type"]

_WEIGHT_BYTES: Final = {"int8": 1.04, "int16": 2.1, "float16": 2.0, "bfloat16": 2.0, "float32": 4.05}
"""For each parameter, by the type of the weights."""
_STORED_BYTES: Final = 2.0
"""For each parameter: models are stored as float16."""

_MB: Final = 1_000_000
_PROCESS_BYTES: Final = 85 * _MB
_LOADING_BYTES: Final = 190 * _MB
_REPLICA_BYTES: Final = 45 * _MB
_WINDOW_BYTES: Final = 1.36 * _MB
_WINDOW_GROWTH: Final = 0.9
"""For each window, times the millions of parameters to that power."""
_LEAST_WINDOWS: Final = 3.3
"""So many windows of a batch are what one of which the text is in doubt may take alone: five texts are drawn
for it, each with keys and values of its own."""
_LEAST_SHARE: Final = 0.1
"""What a still smaller decoder saves, the attention of the encoder takes all the same."""
_ENCODER_PART, _DECODER_PART = 3 / 7, 4 / 7
"""Of the parameters of a model whose two halves have as many layers: one of the decoder attends twice."""

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
    decoder_share: float = 1.0,
) -> int:
    """The most memory that a model takes on the device that computes: of the computer, or of one GPU.

    `replicas` are those on this device, `batch_size` the windows that each computes at once. On a GPU the
    computer's own memory has to hold `loading_bytes` besides. `decoder_share` says how many layers the
    decoder has for each of the encoder's: few where it was made small, as in `large-v3-turbo`.
    """
    weights = parameters * _weight_bytes(compute_type)
    if device != "cpu":
        window = _GPU_WINDOW_BYTES + parameters * _GPU_WINDOW_BYTES_PER_PARAMETER
        replica = parameters * _GPU_REPLICA_BYTES_PER_PARAMETER + batch_size * window
        return int(_GPU_CONTEXT_BYTES + weights + replicas * replica)
    share = max(decoder_share, _LEAST_SHARE)
    # As many as it would have with a decoder that has all its layers.
    whole = parameters / (_ENCODER_PART + share * _DECODER_PART)
    window = _WINDOW_BYTES * (whole / 1e6) ** _WINDOW_GROWTH * share
    replica = _REPLICA_BYTES + max(batch_size, _LEAST_WINDOWS) * window
    return int(_PROCESS_BYTES + weights + replicas * replica)


def loading_bytes(parameters: float, compute_type: str = "int8") -> int:
    """The most memory of the computer that a model takes while it is loaded onto a GPU, or on a processor
    while the library makes integers of its floats.
    """
    weights = parameters * max(_weight_bytes(compute_type), _STORED_BYTES)
    return int(_LOADING_BYTES + weights)


def parameters_in(size_bytes: int) -> float:
    """About how many parameters a model has whose files are that large."""
    return size_bytes / _STORED_BYTES


def weights_type(compute_type: str) -> str:
    """The type of the weights that is computed with: of a mixed one such as `int8_float16` its first part."""
    return compute_type.partition("_")[0]


def _weight_bytes(compute_type: str) -> float:
    return _WEIGHT_BYTES.get(weights_type(compute_type), 4.0)
