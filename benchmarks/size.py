"""The download size of `pip install whisperd`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.measure import REPOSITORY, Outcome, RunningDaemon

GOAL_BYTES = 12 * 10**6
INFERENCE = ("ctranslate2-", "onnxruntime", "numpy", "av-", "tokenizers", "torch", "pywhispercpp")


def measure(_daemon: RunningDaemon | None = None, _audio: Path | None = None) -> Outcome:
    """Add up the wheels of whisperd and all its dependencies, as pip downloads them for this computer."""
    with TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
        built, all_of_it = f"{folder}/built", f"{folder}/all"
        plugins = [str(path) for path in (REPOSITORY / "plugins").iterdir()]
        subprocess.run([*pip, "wheel", "-q", "--no-deps", "-w", built, *plugins, str(REPOSITORY)], check=True)
        wheels = [str(path) for path in Path(built).iterdir()]
        subprocess.run([*pip, "download", "-q", "-d", all_of_it, *wheels], check=True)
        sizes = {path.name: path.stat().st_size for path in Path(all_of_it).iterdir()}
    total = sum(sizes.values())
    native = [name for name in sizes if name.startswith(INFERENCE)]
    return Outcome(
        "size",
        f"pip install whisperd downloads at most {GOAL_BYTES / 1e6:.0f} MB, with no inference library",
        total <= GOAL_BYTES and not native,
        [
            ("download", f"{total / 1e6:.1f} MB in {len(sizes)} wheels"),
            (
                "largest",
                ", ".join(f"{name.split('-')[0]} {size / 1e6:.1f} MB" for name, size in _largest(sizes)),
            ),
        ],
        {"bytes": sizes, "inference_libraries": native},
    )


def _largest(sizes: dict[str, int]) -> list[tuple[str, int]]:
    return sorted(sizes.items(), key=lambda one: -one[1])[:3]
