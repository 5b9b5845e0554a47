"""The reference for whisper.cpp: its own `whisper-cli`, compiled from the source that the lock names.

It is linked with the very libraries of a native bundle, so that compiler flags cannot differ, and stored in
the test cache. It transcribes each file as one window, greedily, in the full context, without fallback and
without timestamps.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.recordings import DECODE
from benchmarks.whispercpp_programs import unpack
from filelock import FileLock

from whisperd.installed_plugins import find_variant
from whisperd.natives.lock import Source, parse_lock
from whisperd_testing import CACHE

__all__ = ["can_build", "plain_wavs", "run_cli", "transcribe_with_cli", "whisper_cli"]

LOCKED_AS = "whispercpp-blas"
"""A variant that is built from source."""
COMMON = ("common", "common-whisper", "common-ggml", "grammar-parser")
OPTIONS = ("-l", "en", "-t", "1", "-bs", "1", "-bo", "1", "-nf", "-nt", "-sns", "-nfa", "-np")


def can_build() -> bool:
    """Whether this computer can compile it."""
    return sys.platform == "linux" and shutil.which("g++") is not None


def whisper_cli(bundle: Path) -> Path:
    """Return `whisper-cli`, linked with the libraries of a bundle and compiled if necessary."""
    source = _source()
    cli = CACHE / "whisper-cli" / source.version / bundle.parent.name / "whisper-cli"
    cli.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(cli.parent / "lock"):  # other pytest workers need it as well
        if not cli.exists():
            with TemporaryDirectory(dir=cli.parent) as folder:
                _compile(source, bundle, Path(folder)).replace(cli)
    return cli


def run_cli(cli: Path, model: Path, files: Sequence[Path], *options: str) -> float:
    """Run it on plain WAV files; return the CPU time that it took, in seconds."""
    before_s = _children_s()
    subprocess.run(
        [
            str(cli),
            "-m",
            str(model),
            *OPTIONS,
            *options,
            *(part for file in files for part in ("-f", str(file))),
        ],
        check=True,
        capture_output=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    return _children_s() - before_s


def transcribe_with_cli(
    cli: Path, model: Path, files: Sequence[Path], *options: str
) -> tuple[list[str], float]:
    """Return its text for each file, and the CPU time that it took, in seconds."""
    seconds = run_cli(cli, model, files, "--output-txt", *options)
    return [file.with_name(f"{file.name}.txt").read_text("utf-8").strip() for file in files], seconds


def plain_wavs(files: Sequence[Path], folder: Path, media: Path) -> list[Path]:
    """Decode recordings to plain WAV files with the `media` bundle."""
    targets = [folder / f"{file.stem}.wav" for file in files]
    pairs = [[str(file), str(target)] for file, target in zip(files, targets, strict=True)]
    subprocess.run([sys.executable, "-P", "-c", DECODE, str(media), json.dumps(pairs)], check=True)
    return targets


def _source() -> Source:
    found = find_variant(LOCKED_AS)
    assert found is not None and found[1].lock is not None
    (source,) = parse_lock(found[1].lock).sources
    return source


def _compile(source: Source, bundle: Path, folder: Path) -> Path:
    requirements = folder / "requirements.txt"
    requirements.write_text(source.requirement)
    options = ("--quiet", "--no-deps", "--no-binary", source.name, "--require-hashes")
    command = [sys.executable, "-m", "pip", "download", *options]
    subprocess.run([*command, "--dest", str(folder), "-r", str(requirements)], check=True)
    unpack(folder / source.file, folder)
    root = folder / source.file.removesuffix(".tar.gz") / "whisper.cpp"
    libraries = bundle / "pywhispercpp.libs"
    examples, cli = root / "examples", folder / "whisper-cli"
    subprocess.run(
        [
            # The libraries do all computing; optimising the rest would take most of the time for nothing.
            *("g++", "-O0", "-std=c++17", "-o", str(cli), '-DWHISPER_VERSION=""'),
            *("-I", str(root / "include"), "-I", str(root / "ggml" / "include"), "-I", str(examples)),
            str(examples / "cli" / "cli.cpp"),
            *(str(examples / f"{name}.cpp") for name in COMMON),
            *(str(path) for name in ("libwhisper", "libggml") for path in libraries.glob(f"{name}*")),
            f"-Wl,-rpath,{libraries}",
            "-lpthread",
        ],
        check=True,
    )
    return cli


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
