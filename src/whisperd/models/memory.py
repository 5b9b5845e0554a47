"""Estimate how much memory a model needs before it is loaded. The only formula for it.

On a CPU: the process, the weights (once, since replicas share them), and the working memory of each replica,
which grows with the batch: for each window, the keys and values of the decoder's layers, for the audio and
for the text of each beam. The peak during loading is lower, because weights that are quantised to integers
are stored as integers (`whisperd_ctranslate2.weights`). The constants are fitted to peaks of CTranslate2 in
docs/benchmarks.md, from `tiny` to `small` and `large-v3-turbo`.

On a GPU: the CUDA context with its libraries, the weights, and the working memory. These constants are
fitted to published peaks of `large-v2` (faster-whisper's README, beam size 5: 4,755 MB as float16,
3,091 MB as int8), and to what a batch adds according to the sizes of its tensors.
"""

from __future__ import annotations

from typing import Final

__all__ = ["loading_bytes", "need_bytes", "parameters_in", "weights_type"]

_WEIGHT_BYTES: Final = {"int8": 1.04, "int16": 2.1, "float16": 2.0, "bfloat16": 2.0, "float32": 4.05}
"""Bytes per parameter, by the type of the weights."""
_STORED_BYTES: Final = 2.0
"""Bytes per parameter on disk: models are stored as float16."""

_MB: Final = 1_000_000
_PROCESS_BYTES: Final = 85 * _MB
_LOADING_BYTES: Final = 190 * _MB
_REPLICA_BYTES: Final = 45 * _MB
_WINDOW_BYTES: Final = 1.36 * _MB
_WINDOW_GROWTH: Final = 0.9
"""`_WINDOW_BYTES` is multiplied by the millions of parameters to this power."""
_LEAST_WINDOWS: Final = 3.3
"""A single window whose text is in doubt may take as much memory as this many windows of a batch, because
five texts are sampled for it, each with its own keys and values."""
_LEAST_SHARE: Final = 0.1
"""The least decoder share: the encoder's attention takes what an even smaller decoder would save."""
_ENCODER_PART, _DECODER_PART = 3 / 7, 4 / 7
"""The share of the parameters in each half of a model with as many encoder as decoder layers: a decoder layer
has two attentions."""

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
    """Estimate a model's peak memory on the device that computes: the computer, or one GPU.

    `replicas` counts those on this device, `batch_size` the windows that each computes at once. With a GPU,
    the computer's own memory must hold `loading_bytes` in addition. `decoder_share` is the number of decoder
    layers divided by that of encoder layers, which is small for pruned decoders as in `large-v3-turbo`.
    """
    weights = parameters * _weight_bytes(compute_type)
    if device != "cpu":
        window = _GPU_WINDOW_BYTES + parameters * _GPU_WINDOW_BYTES_PER_PARAMETER
        replica = parameters * _GPU_REPLICA_BYTES_PER_PARAMETER + batch_size * window
        return int(_GPU_CONTEXT_BYTES + weights + replicas * replica)
    share = max(decoder_share, _LEAST_SHARE)
    # The parameters that it would have with as many decoder as encoder layers.
    whole = parameters / (_ENCODER_PART + share * _DECODER_PART)
    window = _WINDOW_BYTES * (whole / 1e6) ** _WINDOW_GROWTH * share
    replica = _REPLICA_BYTES + max(batch_size, _LEAST_WINDOWS) * window
    return int(_PROCESS_BYTES + weights + replicas * replica)


def loading_bytes(parameters: float, compute_type: str) -> int:
    """Estimate the computer's peak memory while a model is loaded onto a GPU, or on a CPU while the library
    quantises its floats to integers.
    """
    weights = parameters * max(_weight_bytes(compute_type), _STORED_BYTES)
    return int(_LOADING_BYTES + weights)


def parameters_in(size_bytes: int) -> float:
    """Estimate how many parameters a model has, given the size of its files."""
    return size_bytes / _STORED_BYTES


def weights_type(compute_type: str) -> str:
    """Return the weights' type in a compute type: the first part of a mixed one such as `int8_float16`."""
    return compute_type.partition("_")[0]


def _weight_bytes(compute_type: str) -> float:
    return _WEIGHT_BYTES.get(weights_type(compute_type), 4.0)
