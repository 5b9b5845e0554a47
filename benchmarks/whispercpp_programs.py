"""whisper.cpp's own programs, built from the source that the lock names; kept in the cache.

They are built as its README says, for this very processor: what somebody would compare with.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
from pathlib import Path

from benchmarks.measure import CACHE, REPOSITORY

__all__ = ["program", "source", "version"]

LOCK = REPOSITORY / "plugins/whisperd-whispercpp/src/whisperd_whispercpp/whispercpp-source.lock"
FOLDER = CACHE / "whispercpp"


def version() -> str:
    """Of the module whose source distribution holds whisper.cpp."""
    (found,) = set[str](re.findall(r'name = "pywhispercpp"\nversion = "(.+)"', LOCK.read_text("utf-8")))
    return found


def source() -> Path:
    """The folder of whisper.cpp's source."""
    name = f"pywhispercpp-{version()}"
    folder = FOLDER / name
    if not folder.exists():
        FOLDER.mkdir(parents=True, exist_ok=True)
        download = ["-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "pywhispercpp"]
        subprocess.run(
            [sys.executable, *download, "--dest", str(FOLDER), f"pywhispercpp=={version()}"], check=True
        )
        with tarfile.open(FOLDER / f"{name}.tar.gz") as archive:
            archive.extractall(FOLDER / f"{name}.unpacked", filter="data")
        (FOLDER / f"{name}.unpacked" / name).rename(folder)
    return folder / "whisper.cpp"


def program(name: str) -> Path:
    """`whisper-cli` or `whisper-server`. Building them takes some minutes, once."""
    build = source().parent / "build"
    path = build / "bin" / name
    if not path.exists():
        print(f"building {name}", file=sys.stderr)
        configure = ["cmake", "-S", str(source()), "-B", str(build), "-DCMAKE_BUILD_TYPE=Release"]
        options = ["-DBUILD_SHARED_LIBS=OFF", "-DWHISPER_BUILD_TESTS=OFF", "-DGGML_NATIVE=ON"]
        subprocess.run([*configure, *options], check=True, capture_output=True)
        subprocess.run(
            ["cmake", "--build", str(build), "--target", name, "--parallel"], check=True, capture_output=True
        )
    return path
