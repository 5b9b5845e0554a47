"""How much memory a model needs with whisper.cpp, estimated before it is loaded.

The process, the weights once however many replicas share them, and for each replica what it computes with:
the encoder's and the decoder's buffers, and what the decoder remembers for its beams. Windows are computed
one after the other, so a batch adds nothing. The figures are fitted to peaks that docs/benchmarks.md shows.
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
"""For each parameter, by compute type and by the precision of a file; some stay in a higher precision."""
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
    """The most memory of the computer that a model takes. See `whisperd.plugins.Backend.need_bytes`."""
    weights = parameters * _WEIGHT_BYTES.get(compute_type, _WEIGHT_BYTES["float16"])
    replica = _REPLICA_BYTES + parameters * _REPLICA_BYTES_PER_PARAMETER
    return int(_PROCESS_BYTES + weights + replicas * replica)
