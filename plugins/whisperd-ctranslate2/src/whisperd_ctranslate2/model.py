"""Loads what the engine needs of a Whisper model: the library's model, the tokenizer and the spectrograms.

faster-whisper combines the three, but importing it also imports PyAV and a downloader, which takes longer
than all other imports of a worker. So only the two modules of it that are needed are imported.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import ctranslate2
import tokenizers

from whisperd.worker.protocol import LoadParams

__all__ = ["LANGUAGE_CODES", "Tokenizer", "WhisperModel", "load_model", "suppressed_tokens"]


def _skip_package_init(package: str) -> None:
    """Make the modules of a package importable without running its `__init__`."""
    spec = importlib.util.find_spec(package)
    assert spec is not None, f"{package} is in every bundle of this plugin"
    sys.modules[package] = importlib.util.module_from_spec(spec)


_skip_package_init("faster_whisper")

from faster_whisper.feature_extractor import FeatureExtractor  # noqa: E402
from faster_whisper.tokenizer import _LANGUAGE_CODES as LANGUAGE_CODES  # noqa: E402
from faster_whisper.tokenizer import Tokenizer  # noqa: E402

_FEATURE_KEYS = ("sampling_rate", "hop_length", "chunk_length", "n_fft")
"""The spectrogram options of a model; the rest of that file is for other programs."""
_COMMANDS = ("eot", "no_speech", "no_timestamps", "sot", "sot_lm", "sot_prev", "transcribe", "translate")
"""The attributes of a `Tokenizer` that are special tokens."""


class WhisperModel(NamedTuple):
    """A model in memory."""

    library: Any
    """`ctranslate2.models.Whisper`."""
    tokenizer: Any
    """`tokenizers.Tokenizer`, without language or task; a `Tokenizer` made from it adds them."""
    extract: Any
    """Computes spectrograms."""


def load_model(folder: Path, params: LoadParams) -> WhisperModel:
    """Load the model in a folder. Raises any exception of the libraries."""
    library = ctranslate2.models.Whisper(
        str(folder),
        device=params.device,
        device_index=list(params.device_index),
        compute_type=params.compute_type,
        intra_threads=params.cpu_threads,
        # Per GPU. On a CPU one more, for `EngineInfo.overtakes`; it costs nothing while idle.
        inter_threads=params.replicas // len(params.device_index) + (params.device == "cpu"),
    )
    tokenizer = _load_tokenizer(folder / "tokenizer.json")
    # Not all models of 128 bands have a file that says so.
    extract = FeatureExtractor(feature_size=library.n_mels, **_feature_options(folder))
    return WhisperModel(library, tokenizer, extract)


def _load_tokenizer(path: Path) -> Any:
    tokenizer = tokenizers.Tokenizer.from_file(str(path))
    commands = Tokenizer(tokenizer, multilingual=False)
    if any(getattr(commands, name) is None for name in _COMMANDS):
        raise ValueError("its tokenizer.json lacks some of Whisper's special tokens")
    return tokenizer


def suppressed_tokens(tokenizer: Tokenizer) -> list[int]:
    """Return the tokens that no text contains: unspoken symbols, and commands to the decoder."""
    commands = {
        tokenizer.transcribe,
        tokenizer.translate,
        tokenizer.sot,
        tokenizer.sot_prev,
        tokenizer.sot_lm,
        tokenizer.no_speech,
    }
    return sorted({*tokenizer.non_speech_tokens, *commands})


def _feature_options(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / "preprocessor_config.json").read_bytes())
    except (FileNotFoundError, ValueError):  # most models have the default options
        return {}
    return {key: config[key] for key in _FEATURE_KEYS if key in config}
