"""Which of a model's attention heads follow what is being said. Pure.

OpenAI found them out for each of its models, by hand, and the library has the lists; a model is told by its
dimensions. Of any other model, those of the upper half of the layers are taken, as OpenAI's code does.
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
"""Of the attention, while the library aligns."""
_OTHER_BYTES: Final = 32_000_000

_PRESETS: Final = {  # by layers and heads of the decoder: of the English model, and of the multilingual one
    (4, 6): ((3, 8), (4, 6)),
    (6, 8): ((5, 5), (6, 8)),
    (12, 12): ((7, 19), (8, 10)),
    (24, 16): ((9, 18), (10, 6)),
}
_LARGE, _LARGE_V1, _LARGE_V2, _LARGE_V3, _TURBO = (32, 20), (11, 9), (12, 23), (13, 10), (14, 6)
_TURBO_SIZE: Final = (4, 20)


class AlignmentHeads(NamedTuple):
    """As the library is told of them."""

    preset: int
    """`whisper_alignment_heads_preset`."""
    top_layers: int
    """Whose heads are taken; -1 where the preset names the heads."""
    heads: int

    @property
    def need_bytes(self) -> int:
        """Memory for an alignment, at most."""
        attention = self.heads * _MOST_TOKENS * _POSITIONS * _FLOAT_BYTES
        return _COPIES * attention + _OTHER_BYTES


def alignment_heads(header: Header, model_name: str | None) -> AlignmentHeads:
    """Those of a model, which may be called by the path of its file."""
    layers, heads = header.text_layers, header.text_heads
    if known := _known(layers, heads, header.vocabulary, PurePath(model_name or "").name):
        preset, count = known
        return AlignmentHeads(preset, -1, count)
    top = max(1, layers // 2)
    return AlignmentHeads(_TOP_LAYERS, top, top * heads)


def _known(layers: int, heads: int, vocabulary: int, name: str) -> tuple[int, int] | None:
    """The preset and how many heads it names."""
    size = layers, heads
    if size == _TURBO_SIZE:
        return _TURBO
    if size == _LARGE:
        if vocabulary >= _VOCABULARY_OF_V3:
            return _LARGE_V3
        return _LARGE_V1 if "v1" in name else _LARGE_V2
    english, multilingual = _PRESETS.get(size, (None, None))
    return english if vocabulary == _ENGLISH_VOCABULARY else multilingual
