"""The decoder's real bundle, from the package index that pip is configured for."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import anyio
import pytest

from whisperd.audio import media_lock
from whisperd.natives import Bundle, NativeStore

pytestmark = [pytest.mark.anyio, pytest.mark.real]

CACHE = Path(os.environ.get("WHISPERD_TEST_CACHE") or Path(__file__).parents[2] / ".cache" / "test")

USE = """
import sys
sys.path.insert(0, sys.argv[1])
import av, numpy, onnxruntime
from pathlib import Path
model = Path(sys.argv[1], "faster_whisper/assets/silero_vad_v6.onnx")
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
print(av.__version__, numpy.ones(3).sum(), len(session.get_inputs()))
print(av.__file__, numpy.__file__, onnxruntime.__file__, sep="\\n")
"""


async def test_the_media_bundle_installs_completely_and_works_in_a_child() -> None:
    store = NativeStore(CACHE / "native")
    installed = await store.install(Bundle("media", media_lock()), lambda _: None)
    assert await store.verify(installed) == ()
    child = await anyio.run_process([sys.executable, "-P", "-c", USE, str(installed.path)])
    results, *files = child.stdout.decode().splitlines()
    assert results.split() == [installed.version, "3.0", "3"]
    assert all(Path(file).is_relative_to(installed.path) for file in files)
    assert await store.verify(installed) == ()
