"""Models that stand in for others in memory measurements: of the same size, and complete."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path

from benchmarks.shapes import Shape, make_model

from ctranslate2_models import string, variable
from whisperd.ctranslate2_file import read_index

INT8, FLOAT16 = 1, 4


def floats(name: str, *shape: int) -> bytes:
    return variable(name, shape, FLOAT16, bytes(2 * math.prod(shape)))


def base(folder: Path) -> Path:
    """Make weights in the layout of `base`, with one matrix per layer."""
    variables = [
        floats("decoder/embeddings/weight", 1500, 512),
        variable("decoder/num_heads", (), INT8, b"\x08"),
        floats("decoder/layer_norm/gamma", 512),
        *(
            floats(f"{side}/layer_{n}/ffn/linear_0/weight", 2048, 512)
            for side in ("encoder", "decoder")
            for n in (0, 1)
        ),
        floats("decoder/position_encodings/encodings", 448, 512),
        floats("encoder/conv1/weight", 512, 80, 3),
    ]
    folder.mkdir()
    head = struct.pack("<I", 6) + string("WhisperSpec") + struct.pack("<II", 3, len(variables))
    alias = struct.pack("<I", 1) + string("decoder/projection/weight") + string("decoder/embeddings/weight")
    (folder / "model.bin").write_bytes(b"".join([head, *variables, alias]))
    (folder / "config.json").write_text('{"alignment_heads": [[5, 7]], "lang_ids": [1]}')
    (folder / "tokenizer.json").write_text("{}")
    return folder


def test_a_model_is_made_in_another_shape(tmp_path: Path) -> None:
    make_model(base(tmp_path / "base"), Shape(768, 3, 1), tmp_path / "made")
    with (tmp_path / "made" / "model.bin").open("rb") as file:
        index = read_index(file)
        heads = index.variables["decoder/num_heads"]
        file.seek(heads.offset)
        assert file.read(heads.size_bytes) == b"\x0c"
        words = index.variables["decoder/embeddings/weight"]
        file.seek(words.offset)
        assert not any(file.read(1000 * 768 * 2)), "the first tokens are never said"
        assert any(file.read(768 * 2))
    layers = {name: one.shape for name, one in index.variables.items() if "/layer_" in name and "ffn" in name}
    assert layers == {
        f"{side}/layer_{number}/ffn/linear_0/weight": (3072, 768)
        for side, count in (("encoder", 3), ("decoder", 1))
        for number in range(count)
    }
    assert index.variables["decoder/position_encodings/encodings"].shape == (448, 768)
    assert index.variables["encoder/conv1/weight"].shape == (768, 80, 3)
    assert index.find("decoder/projection/weight") == words
    config = json.loads((tmp_path / "made" / "config.json").read_text())
    assert config["lang_ids"] == [1] and {layer for layer, _ in config["alignment_heads"]} == {0}
    assert (tmp_path / "made" / "tokenizer.json").exists()
