"""A file of the user's with a model in a backend's own format, such as whisper.cpp's `ggml-base.bin`.

The plugin whose format it is reads it (`whisperd.plugins.ModelFormat.read`): no engine sees a file before.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO, Final

from whisperd.models.manifest import InstalledModel
from whisperd.models.memory import need_bytes
from whisperd.models.names import nothing_at
from whisperd.plugins import Backend, ModelFacts, backends
from whisperd.rpc.errors import WhisperdError

__all__ = [
    "BEGINNING_BYTES",
    "SUFFIX",
    "invalid_file",
    "open_file",
    "reading",
    "room_bytes",
    "taken_for_model",
]

SUFFIX: Final = ".bin"
"""How whisper.cpp's models are called; other names are as good where there is such a file."""

BEGINNING_BYTES: Final = 64
_USUAL_FIX: Final = (
    "Name a Whisper model in the format of whisper.cpp, such as its ggml-base.bin, or a folder with one in "
    "CTranslate2's format."
)
_OTHERS: Final = (
    (b"GGUF", "is a GGUF file, and no engine here reads Whisper models in that format", _USUAL_FIX),
    (b"tjgg", "is a language model of llama.cpp", _USUAL_FIX),
    (b"fmgg", "is a language model of llama.cpp", _USUAL_FIX),
    (b"PK\x03\x04", "is a ZIP archive, as PyTorch's checkpoints are", _USUAL_FIX),
    (b"\x80\x02", "is a checkpoint of PyTorch", _USUAL_FIX),
    (b"version https://git-lfs", "only stands for a file that Git LFS has", "Fetch it: `git lfs pull`."),
    (b"<", "is a page of the web, or another text", "Download the model itself."),
)
"""What files begin with that people take for a model, what is said of them, and what to do."""
_CTRANSLATE2: Final = b"WhisperSpec"


def open_file(path: Path) -> InstalledModel:
    """The model in a file. Raises `model.unknown`, or `model.invalid_file`, which says what keeps an engine
    from using it. Blocks."""
    try:
        with _open_regular(path) as file:
            before = _mark(file)
            facts = _read(path, file, before[0])
            if _mark(file) != before:
                raise invalid_file(path, "it changed while it was read", "Wait until it is whole.")
    except (FileNotFoundError, NotADirectoryError, ValueError):  # a path may have a null byte in it
        raise nothing_at(path) from None
    except OSError as error:
        raise invalid_file(path, f"it cannot be read ({error.strerror})") from error
    return InstalledModel(
        name=str(path),
        repo=None,
        size=before[0],
        memory=room_bytes(facts),
        languages=None,
        installed=True,
        verified=False,
        path=str(path),
        facts=facts,
        source="file",
    )


def reading(facts: ModelFacts) -> list[Backend]:
    """The backends that are installed and load such a file."""
    return [one for one in backends() if one.model_format and one.model_format.name == facts.format]


def room_bytes(facts: ModelFacts) -> int | None:
    """About how much memory it needs when it is loaded; None where no backend is installed that loads it."""
    estimates = [(one.need_bytes or need_bytes)(facts.parameters, facts.precision) for one in reading(facts)]
    return min(estimates, default=None)


def invalid_file(path: Path, problem: str, fix: str = _USUAL_FIX) -> WhisperdError:
    """`model.invalid_file`: why a file cannot be used."""
    message = f"The file {path} cannot be used as a model: {problem}."
    return WhisperdError("model.invalid_file", message, fix, {"path": str(path)})


def taken_for_model(beginning: bytes) -> tuple[str, str] | None:
    """What is said of a file that people take for a model, by what it begins with, and what to do."""
    return next(((problem, fix) for magic, problem, fix in _OTHERS if beginning.startswith(magic)), None)


def _open_regular(path: Path) -> BinaryIO:
    file = open(path, "rb", opener=_open_at_once)  # noqa: SIM115 - it has no opener
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return file
    file.close()
    raise invalid_file(path, "it is a device or a pipe")


def _open_at_once(path: str, flags: int) -> int:
    """A named pipe without a writer would else hold us here."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _mark(file: BinaryIO) -> tuple[int, int]:
    """Another one once it was written to: its bytes, and when."""
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
                fix = "Fetch or copy it once more, or name another model."
                raise invalid_file(path, str(error), fix) from error
    if not beginning:
        raise invalid_file(path, "it is empty")
    if taken := taken_for_model(beginning):
        problem, fix = taken
        raise invalid_file(path, f"it {problem}", fix)
    if _CTRANSLATE2 in beginning:
        raise invalid_file(path, "it is one of the files of a model", f"Name its folder, {path.parent}.")
    raise invalid_file(path, "no backend that is installed knows what it is")
