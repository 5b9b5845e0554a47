"""Run the tests that need an NVIDIA GPU (`make test-gpu`). Without one, say so and do nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import anyio

from whisperd.hardware import find_gpus

FOLDER = Path(__file__).parent


def main() -> int:
    found = anyio.run(find_gpus)
    if not found.gpus:
        why = found.problem.message if found.problem else "none was found"
        print(f"There is no NVIDIA GPU to test with. {why} No tests were run.")
        return 0
    for gpu in found.gpus:
        print(f"{gpu.name}, {gpu.memory_total / 2**30:.1f} GiB, {gpu.memory_free / 2**30:.1f} GiB free")
    print(f"driver {found.driver}, CUDA {found.cuda}", flush=True)
    # Not in parallel: the tests measure speed and fill the GPU's memory.
    command = [sys.executable, "-m", "pytest", "-v", "-s", "-p", "no:cacheprovider", str(FOLDER)]
    return subprocess.run(command, env={**os.environ, "WHISPERD_TEST_GPU": "1"}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
