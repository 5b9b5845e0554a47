"""Check a user's model file in a backend's own format, such as whisper.cpp's `ggml-base.bin`.

The plugin that has the format reads the file (`whisperd.plugins.ModelFormat.read`) before any engine does.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO, Final

from whisperd import disk
from whisperd.installed_plugins import backends
from whisperd.models.manifest import InstalledModel
from whisperd.models.memory import need_bytes
from whisperd.models.names import no_model_at
from whisperd.plugins import Backend, ModelFacts
from whisperd.rpc.errors import WhisperdError

__all__ = [
    "BEGINNING_BYTES",
    "SUFFIX",
    "backends_for",
    "diagnose_other_file",
    "file_need_bytes",
    "invalid_file",
    "open_file",
]

SUFFIX: Final = ".bin"
"""The suffix of whisper.cpp's models; files with other names are accepted if they exist."""

BEGINNING_BYTES: Final = 64
_USUAL_FIX: Final = (
    "Name a Whisper model in the format of whisper.cpp, such as its ggml-base.bin, or a folder with one in "
    "CTranslate2's format."
)
_OTHERS: Final = (
    (b"GGUF", "is a GGUF file, and no engine of whisperd reads Whisper models in that format", _USUAL_FIX),
    (b"tjgg", "is a language model of llama.cpp", _USUAL_FIX),
    (b"fmgg", "is a language model of llama.cpp", _USUAL_FIX),
    (b"PK\x03\x04", "is a ZIP archive, as PyTorch checkpoints are", _USUAL_FIX),
    (b"\x80\x02", "is a PyTorch checkpoint", _USUAL_FIX),
    (b"version https://git-lfs", "is only a Git LFS pointer to the file", "Run `git lfs pull` to fetch it."),
    (b"<", "is a web page or other text", "Download the model itself."),
)
"""Files that users mistake for models: how they begin, the problem as a clause, and the fix."""
_CTRANSLATE2: Final = b"WhisperSpec"


def open_file(path: Path) -> InstalledModel:
    """Return the model in a file. Raises `model.unknown`, or `model.invalid_file`, which says why no engine
    can use it. Blocks."""
    try:
        with _open_regular(path) as file:
            before = _mark(file)
            facts = _read(path, file, before[0])
            if _mark(file) != before:
                raise invalid_file(
                    path, "it changed while it was read", "Wait until the file is complete, then try again."
                )
    except (FileNotFoundError, NotADirectoryError, ValueError):  # a path may have a null byte in it
        raise no_model_at(path) from None
    except OSError as error:
        raise invalid_file(path, f"it cannot be read ({error.strerror})") from error
    return InstalledModel(
        name=str(path),
        repo=None,
        size=before[0],
        memory=file_need_bytes(facts),
        languages=None,
        installed=True,
        verified=False,
        path=str(path),
        facts=facts,
        source="file",
    )


def backends_for(facts: ModelFacts) -> list[Backend]:
    """Return the installed backends that load such a file."""
    return [one for one in backends() if one.model_format and one.model_format.name == facts.format]


def file_need_bytes(facts: ModelFacts) -> int | None:
    """Estimate the memory that it needs when loaded; None if no installed backend loads it."""
    estimates = [
        (one.need_bytes or need_bytes)(facts.parameters, facts.precision) for one in backends_for(facts)
    ]
    return min(estimates, default=None)


def invalid_file(path: Path, problem: str, fix: str = _USUAL_FIX) -> WhisperdError:
    """Return `model.invalid_file`, which says why a file cannot be used."""
    message = f"The file {path} cannot be used as a model: {problem}."
    return WhisperdError("model.invalid_file", message, fix, {"path": str(path)})


def diagnose_other_file(beginning: bytes) -> tuple[str, str] | None:
    """Return the problem and the fix for a file that users mistake for a model, given its first bytes."""
    return next(((problem, fix) for magic, problem, fix in _OTHERS if beginning.startswith(magic)), None)


def _open_regular(path: Path) -> BinaryIO:
    file = open(path, "rb", opener=disk.open_nonblocking)  # noqa: SIM115 - the caller closes it
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return file
    file.close()
    raise invalid_file(path, "it is a device or a pipe")


def _mark(file: BinaryIO) -> tuple[int, int]:
    """Return the size and modification time of a file, which change when it is written to."""
    status = os.fstat(file.fileno())
    return status.st_size, status.st_mtime_ns


def _read(path: Path, file: BinaryIO, size_bytes: int) -> ModelFacts:
    beginning = file.read(BEGINNING_BYTES)
    for backend in backends():
        format = backend.model_format
        if format is not None and format.read is not None and beginning.startswith(format.magic):
            try:
                return format.read(file, size_bytes)
            except ValueError as error:
                fix = "Download or copy the file again, or name another model."
                raise invalid_file(path, str(error), fix) from error
    if not beginning:
        raise invalid_file(path, "it is empty")
    if diagnosis := diagnose_other_file(beginning):
        problem, fix = diagnosis
        raise invalid_file(path, f"it {problem}", fix)
    if _CTRANSLATE2 in beginning:
        raise invalid_file(path, "it is only one file of a model", f"Name the model's folder, {path.parent}.")
    raise invalid_file(path, "no installed backend recognises its format")
