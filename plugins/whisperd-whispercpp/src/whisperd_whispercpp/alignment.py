"""Chooses a model's alignment heads, the attention heads that follow the speech. Pure.

OpenAI determined them by hand for each of its models, and the library has the lists; a model is recognised by
its dimensions. For any other model, the heads of the upper half of the layers are used, as in OpenAI's code.
"""

from __future__ import annotations

from pathlib import PurePath
from typing import Final, NamedTuple

from whisperd_whispercpp.ggml_file import Header

__all__ = ["AlignmentHeads", "alignment_heads"]

_TOP_LAYERS: Final = 1
_ENGLISH_VOCABULARY: Final = 51864
_VOCABULARY_OF_V3: Final = 51866
_MOST_TOKENS, _POSITIONS, _FLOAT_BYTES = 256, 1500, 4
_COPIES: Final = 4
"""Copies of the attention that the library holds during alignment."""
_OTHER_BYTES: Final = 32_000_000

_PRESETS: Final = {  # by the decoder's layers and heads: the English model, the multilingual one
    (4, 6): ((3, 8), (4, 6)),
    (6, 8): ((5, 5), (6, 8)),
    (12, 12): ((7, 19), (8, 10)),
    (24, 16): ((9, 18), (10, 6)),
}
_LARGE, _LARGE_V1, _LARGE_V2, _LARGE_V3, _TURBO = (32, 20), (11, 9), (12, 23), (13, 10), (14, 6)
_TURBO_SIZE: Final = (4, 20)


class AlignmentHeads(NamedTuple):
    """The parameters that tell the library its alignment heads."""

    preset: int
    """`whisper_alignment_heads_preset`."""
    top_layers: int
    """The number of top layers whose heads are used; -1 if the preset names the heads."""
    heads: int

    @property
    def need_bytes(self) -> int:
        """The most memory that an alignment needs."""
        attention = self.heads * _MOST_TOKENS * _POSITIONS * _FLOAT_BYTES
        return _COPIES * attention + _OTHER_BYTES


def alignment_heads(header: Header, model_name: str | None) -> AlignmentHeads:
    """Return the alignment heads of a model, whose name may be the path of its file."""
    layers, heads = header.text_layers, header.text_heads
    if known := _known(layers, heads, header.vocabulary, PurePath(model_name or "").name):
        preset, count = known
        return AlignmentHeads(preset, -1, count)
    top = max(1, layers // 2)
    return AlignmentHeads(_TOP_LAYERS, top, top * heads)


def _known(layers: int, heads: int, vocabulary: int, name: str) -> tuple[int, int] | None:
    """Return the preset of a known model and the number of heads in it."""
    size = layers, heads
    if size == _TURBO_SIZE:
        return _TURBO
    if size == _LARGE:
        if vocabulary >= _VOCABULARY_OF_V3:
            return _LARGE_V3
        return _LARGE_V1 if "v1" in name else _LARGE_V2
    english, multilingual = _PRESETS.get(size, (None, None))
    return english if vocabulary == _ENGLISH_VOCABULARY else multilingual
