"""Build whisper.cpp's own programs from the source that the lock names, and cache them.

They are built for this CPU as its README says, because users would compare with such a build.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
from pathlib import Path

from benchmarks.measure import CACHE, REPOSITORY

__all__ = ["program", "source", "unpack", "version"]

LOCK = REPOSITORY / "plugins/whisperd-whispercpp/src/whisperd_whispercpp/whispercpp-source.lock"
FOLDER = CACHE / "whispercpp"


def version() -> str:
    """Return the version of the package whose source distribution contains whisper.cpp."""
    (found,) = set[str](re.findall(r'name = "pywhispercpp"\nversion = "(.+)"', LOCK.read_text("utf-8")))
    return found


def source() -> Path:
    """Return the folder of whisper.cpp's source, downloading it if necessary."""
    name = f"pywhispercpp-{version()}"
    folder = FOLDER / name
    if not folder.exists():
        FOLDER.mkdir(parents=True, exist_ok=True)
        download = ["-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "pywhispercpp"]
        subprocess.run(
            [sys.executable, *download, "--dest", str(FOLDER), f"pywhispercpp=={version()}"], check=True
        )
        unpack(FOLDER / f"{name}.tar.gz", FOLDER / f"{name}.unpacked")
        (FOLDER / f"{name}.unpacked" / name).rename(folder)
    return folder / "whisper.cpp"


def unpack(path: Path, folder: Path) -> None:
    """Unpack a source distribution into a folder."""
    with tarfile.open(path) as archive:
        # Python has extraction filters since 3.11.4.
        archive.extraction_filter = getattr(tarfile, "data_filter", lambda member, _folder: member)
        archive.extractall(folder)


def program(name: str) -> Path:
    """Return the path of `whisper-cli` or `whisper-server`. The first build takes some minutes."""
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
