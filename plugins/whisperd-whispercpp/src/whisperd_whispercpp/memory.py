"""Estimates the memory that a model needs with whisper.cpp, before loading it.

The estimate covers the process, the weights once for all replicas, and for each replica its buffers: those of
the encoder and the decoder, and the decoder's memory of its beams. Windows are computed one at a time, so a
batch adds nothing. The figures are fitted to the measured peaks in docs/benchmarks.md.
"""

from __future__ import annotations

from typing import Final

from whisperd_whispercpp.ggml_file import TYPES

__all__ = ["need_bytes"]

_MB: Final = 1_000_000
_EXACT_BYTES: Final = 0.03
_WEIGHT_BYTES: Final = {
    "int8": 1.09,
    "float16": 2.02,
    **{name: one.number_bytes + _EXACT_BYTES for name, one in TYPES.items()},
}
"""Bytes per parameter, by compute type and by the precision of a file; some have a higher precision."""
_PROCESS_BYTES: Final = 55 * _MB
_REPLICA_BYTES: Final = 215 * _MB
_REPLICA_BYTES_PER_PARAMETER: Final = 1.28


def need_bytes(
    parameters: float,
    compute_type: str = "int8",
    *,
    batch_size: int = 4,  # noqa: ARG001
    replicas: int = 1,
    device: str = "cpu",  # noqa: ARG001
) -> int:
    """Return the most main memory that a model takes. See `whisperd.plugins.Backend.need_bytes`."""
    weights = parameters * _WEIGHT_BYTES.get(compute_type, _WEIGHT_BYTES["float16"])
    replica = _REPLICA_BYTES + parameters * _REPLICA_BYTES_PER_PARAMETER
    return int(_PROCESS_BYTES + weights + replicas * replica)
