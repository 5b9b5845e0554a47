"""Which attention heads whisper.cpp is told of, by what a model's file begins with."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from whisperd_whispercpp.alignment import AlignmentHeads, alignment_heads

MAGIC = 0x67676D6C


def header(folder: Path, layers: int, heads: int, vocabulary: int, magic: int = MAGIC) -> Path:
    """A file that begins as a model does."""
    path = folder / "model.bin"
    state = 64 * heads
    path.write_bytes(
        struct.pack("<12I", magic, vocabulary, 1500, state, heads, 4, 448, state, heads, layers, 80, 1)
    )
    return path


@pytest.mark.parametrize(
    ("layers", "heads", "vocabulary", "name", "expected"),
    [
        (4, 6, 51864, "tiny.en", AlignmentHeads(3, -1, 8)),
        (6, 8, 51865, None, AlignmentHeads(6, -1, 8)),
        (24, 16, 51865, "medium", AlignmentHeads(10, -1, 6)),
        (32, 20, 51865, "large-v1", AlignmentHeads(11, -1, 9)),
        (32, 20, 51865, "large-v2", AlignmentHeads(12, -1, 23)),
        (32, 20, 51866, "large-v3", AlignmentHeads(13, -1, 10)),
        (4, 20, 51866, "large-v3-turbo", AlignmentHeads(14, -1, 6)),
        (2, 20, 51866, "distil-large-v3", AlignmentHeads(1, 1, 20)),
        (4, 12, 51864, "distil-small.en", AlignmentHeads(1, 2, 24)),
    ],
)
def test_a_model_is_known_by_its_dimensions(
    tmp_path: Path, layers: int, heads: int, vocabulary: int, name: str | None, expected: AlignmentHeads
) -> None:
    found = alignment_heads(header(tmp_path, layers, heads, vocabulary), name)
    assert found == expected
    assert 30e6 < found.need_bytes < 300e6


def test_what_is_no_model_has_none(tmp_path: Path) -> None:
    assert alignment_heads(header(tmp_path, 4, 6, 51864, magic=1), None) is None
    (tmp_path / "short").write_bytes(b"ggml")
    assert alignment_heads(tmp_path / "short", None) is None
