"""A Whisper model as the engine needs it: the library's model, its tokenizer and its spectrograms.

faster-whisper puts the three together, but whoever imports it imports PyAV and a downloader as well: longer
than all the rest of a worker's imports. So the two of its modules that are needed are taken alone.
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


def _take_modules_alone(package: str) -> None:
    """Have the modules of a package importable without what its `__init__` imports."""
    spec = importlib.util.find_spec(package)
    assert spec is not None, f"{package} is in every bundle of this plugin"
    sys.modules[package] = importlib.util.module_from_spec(spec)


_take_modules_alone("faster_whisper")

from faster_whisper.feature_extractor import FeatureExtractor  # noqa: E402
from faster_whisper.tokenizer import _LANGUAGE_CODES as LANGUAGE_CODES  # noqa: E402
from faster_whisper.tokenizer import Tokenizer  # noqa: E402

_FEATURE_KEYS = ("feature_size", "sampling_rate", "hop_length", "chunk_length", "n_fft")
"""What a model may say of its spectrograms; the rest of that file is for others."""


class WhisperModel(NamedTuple):
    """A model in memory."""

    library: Any
    """`ctranslate2.models.Whisper`."""
    tokenizer: Any
    """`tokenizers.Tokenizer`, which knows no languages and tasks; a `Tokenizer` made of it does."""
    extract: Any
    """Makes spectrograms."""


def load_model(folder: Path, params: LoadParams) -> WhisperModel:
    """Load the model in a folder. Raises whatever the libraries raise."""
    library = ctranslate2.models.Whisper(
        str(folder),
        device=params.device,
        device_index=list(params.device_index),
        compute_type=params.compute_type,
        intra_threads=params.cpu_threads,
        # Of each GPU. On a processor one more, which costs nothing while it is idle: `EngineInfo.overtakes`.
        inter_threads=params.replicas // len(params.device_index) + (params.device == "cpu"),
    )
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    return WhisperModel(library, tokenizer, FeatureExtractor(**_feature_options(folder)))


def suppressed_tokens(tokenizer: Tokenizer) -> list[int]:
    """What a text does not hold: signs that nobody speaks, and tokens that say what is to be done."""
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
    except (FileNotFoundError, ValueError):  # then it is as with most models
        return {}
    return {key: config[key] for key in _FEATURE_KEYS if key in config}
