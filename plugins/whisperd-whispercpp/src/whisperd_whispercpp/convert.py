"""Converts a model from CTranslate2's format to whisper.cpp's.

Runs in a separate process, with the native bundle on the path.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from whisperd_whispercpp.ctranslate2_model import CTranslate2Model, UnreadableModel, read_vocabulary
from whisperd_whispercpp.ggml_file import Header
from whisperd_whispercpp.ggml_model import Precision, write_header, write_tensor
from whisperd_whispercpp.mel import mel_filters

__all__ = ["convert"]

OnBytes = Callable[[int], None]

_END_OF_TEXT = "<|endoftext|>"
_PRECISIONS: dict[str, Precision] = {"int8": "q8_0", "float16": "f16"}
_ALWAYS_F32 = ("conv1.bias", "conv2.bias", "positional_embedding")


def convert(source: Path, target: Path, precision: str, on_bytes: OnBytes) -> None:
    """Convert the model in the folder `source` to the file `target`.

    `precision` is a compute type: `int8` writes blocks of integers, `float16` leaves the weights unchanged.
    `on_bytes` gets the number of bytes of the source read since the last call. Raises `UnreadableModel`,
    OSError.
    """
    model = CTranslate2Model(source / "model.bin", on_bytes)
    header = _header(model)
    stored = _PRECISIONS[precision]
    tokens = _plain_tokens(read_vocabulary(source), header.vocabulary)
    with target.open("wb") as file:
        write_header(file, header, stored, mel_filters(header.mel_bands), tokens)
        for name, values in _tensors(model, header):
            write_tensor(file, name, values, _precision_of(name, values, stored))


def _header(model: CTranslate2Model) -> Header:
    vocabulary, text_state = model.shape("decoder/embeddings/weight")
    text_context = model.shape("decoder/position_encodings/encodings")[0]
    audio_context, audio_state = model.shape("encoder/position_encodings/encodings")
    return Header(
        vocabulary=vocabulary,
        audio_context=audio_context,
        audio_state=audio_state,
        audio_heads=model.number("encoder/num_heads"),
        audio_layers=model.count("encoder/layer_{}/ffn/linear_0/weight"),
        text_context=text_context,
        text_state=text_state,
        text_heads=model.number("decoder/num_heads"),
        text_layers=model.count("decoder/layer_{}/ffn/linear_0/weight"),
        mel_bands=model.shape("encoder/conv1/weight")[1],
    )


def _precision_of(name: str, values: Any, wanted: Precision) -> Precision:
    """Return the precision of a tensor: exact for the small vectors and positions; f16 for convolutions,
    whose rows do not divide into blocks."""
    if values.ndim == 1 or name.endswith(_ALWAYS_F32):
        return "f32"
    return wanted if values.ndim == 2 else "f16"


# Tokens


def _plain_tokens(vocabulary: list[str], size: int) -> list[bytes]:
    """Return the bytes of each text token. The special tokens after them are built into whisper.cpp."""
    if len(vocabulary) != size or _END_OF_TEXT not in vocabulary:
        raise UnreadableModel("the vocabulary does not fit the model")
    try:
        return [_token_bytes(token) for token in vocabulary[: vocabulary.index(_END_OF_TEXT)]]
    except KeyError as error:
        raise UnreadableModel(
            f"the vocabulary has the character {error}, which represents no byte"
        ) from error


def _token_bytes(token: str) -> bytes:
    return bytes(_BYTES[character] for character in token)


def _byte_of_characters() -> dict[str, int]:
    """Return the byte that each character of a token represents.

    A byte that is a visible Latin-1 character represents itself; the others follow in order from U+0100 on.
    """
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in visible]
    return {chr(byte): byte for byte in visible} | {
        chr(0x100 + index): byte for index, byte in enumerate(others)
    }


_BYTES = _byte_of_characters()


# Tensors


def _tensors(model: CTranslate2Model, header: Header) -> Iterator[tuple[str, Any]]:
    """Yield every tensor with its name in whisper.cpp, in any order."""
    yield "encoder.positional_embedding", model.array("encoder/position_encodings/encodings")
    for name in ("conv1", "conv2"):
        yield f"encoder.{name}.weight", model.array(f"encoder/{name}/weight")
        yield f"encoder.{name}.bias", model.array(f"encoder/{name}/bias").reshape(-1, 1)
    for layer in range(header.audio_layers):
        yield from _layer(model, f"encoder/layer_{layer}", f"encoder.blocks.{layer}", has_cross=False)
    yield from _norm(model, "encoder/layer_norm", "encoder.ln_post")
    yield "decoder.positional_embedding", model.array("decoder/position_encodings/encodings")
    yield "decoder.token_embedding.weight", model.array("decoder/embeddings/weight")
    for layer in range(header.text_layers):
        yield from _layer(model, f"decoder/layer_{layer}", f"decoder.blocks.{layer}", has_cross=True)
    yield from _norm(model, "decoder/layer_norm", "decoder.ln")


def _layer(
    model: CTranslate2Model, source: str, target: str, *, has_cross: bool
) -> Iterator[tuple[str, Any]]:
    own = f"{source}/self_attention"
    yield from _norm(model, f"{own}/layer_norm", f"{target}.attn_ln")
    yield from _split(
        model, f"{own}/linear_0", [f"{target}.attn.{part}" for part in ("query", "key", "value")]
    )
    yield from _split(model, f"{own}/linear_1", [f"{target}.attn.out"])
    if has_cross:
        cross = f"{source}/attention"
        yield from _norm(model, f"{cross}/layer_norm", f"{target}.cross_attn_ln")
        yield from _split(model, f"{cross}/linear_0", [f"{target}.cross_attn.query"])
        yield from _split(
            model, f"{cross}/linear_1", [f"{target}.cross_attn.{part}" for part in ("key", "value")]
        )
        yield from _split(model, f"{cross}/linear_2", [f"{target}.cross_attn.out"])
    yield from _norm(model, f"{source}/ffn/layer_norm", f"{target}.mlp_ln")
    yield from _split(model, f"{source}/ffn/linear_0", [f"{target}.mlp.0"])
    yield from _split(model, f"{source}/ffn/linear_1", [f"{target}.mlp.2"])


def _norm(model: CTranslate2Model, source: str, target: str) -> Iterator[tuple[str, Any]]:
    yield f"{target}.weight", model.array(f"{source}/gamma")
    yield f"{target}.bias", model.array(f"{source}/beta")


def _split(model: CTranslate2Model, source: str, targets: list[str]) -> Iterator[tuple[str, Any]]:
    """Yield the layers of whisper.cpp that CTranslate2 stores stacked in one."""
    weights = np.split(model.array(f"{source}/weight"), len(targets))
    biases = np.split(model.array(f"{source}/bias"), len(targets))
    for target, weight, bias in zip(targets, weights, biases, strict=True):
        yield f"{target}.weight", weight
        if not target.endswith(".key"):  # Whisper has no bias there, CTranslate2 has zeros
            yield f"{target}.bias", bias
