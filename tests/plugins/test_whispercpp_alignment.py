"""The alignment heads passed to whisper.cpp, by a model's dimensions."""

from __future__ import annotations

import pytest

from whisperd_whispercpp.alignment import AlignmentHeads, alignment_heads
from whisperd_whispercpp.ggml_file import Header


@pytest.mark.parametrize(
    ("layers", "heads", "vocabulary", "name", "expected"),
    [
        (4, 6, 51864, "tiny.en", AlignmentHeads(3, -1, 8)),
        (6, 8, 51865, None, AlignmentHeads(6, -1, 8)),
        (24, 16, 51865, "medium", AlignmentHeads(10, -1, 6)),
        (32, 20, 51865, "large-v1", AlignmentHeads(11, -1, 9)),
        (32, 20, 51865, "large-v2", AlignmentHeads(12, -1, 23)),
        (32, 20, 51865, "/models/v1/ggml-large-v2.bin", AlignmentHeads(12, -1, 23)),
        (32, 20, 51865, "/models/ggml-large-v1.bin", AlignmentHeads(11, -1, 9)),
        (32, 20, 51866, "large-v3", AlignmentHeads(13, -1, 10)),
        (4, 20, 51866, "large-v3-turbo", AlignmentHeads(14, -1, 6)),
        (2, 20, 51866, "distil-large-v3", AlignmentHeads(1, 1, 20)),
        (4, 12, 51864, "distil-small.en", AlignmentHeads(1, 2, 24)),
    ],
)
def test_a_model_is_identified_by_its_dimensions(
    layers: int, heads: int, vocabulary: int, name: str | None, expected: AlignmentHeads
) -> None:
    state = 64 * heads
    header = Header(vocabulary, 1500, state, heads, 4, 448, state, heads, layers, 80)
    found = alignment_heads(header, name)
    assert found == expected
    assert 30e6 < found.need_bytes < 300e6
