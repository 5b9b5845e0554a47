"""Weights stored as integers equal those that the engine computes when it loads."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from subprocess import CalledProcessError

import pytest

from ctranslate2_models import string, variable
from whisperd.ctranslate2_file import read_index
from whisperd_testing import RunningDaemon, converted, run_python

pytestmark = pytest.mark.real

QUANTISE = """
import sys
from pathlib import Path
from whisperd.isolation import enter_bundle
enter_bundle(Path(sys.argv[1]), "whisperd_ctranslate2")
from whisperd_ctranslate2.weights import quantise
done = []
quantise(Path(sys.argv[2]), Path(sys.argv[3]), "int8", done.append)
print(sum(done))
"""
COMPUTE = """
import sys, json
from pathlib import Path
from whisperd.isolation import enter_bundle
enter_bundle(Path(sys.argv[1]), "whisperd_ctranslate2")
import ctranslate2, numpy as np
def computed(folder):
    model = ctranslate2.models.Whisper(folder, device="cpu", compute_type="int8", intra_threads=1)
    sound = np.random.default_rng(1).standard_normal((1, 80, 1000)).astype(np.float32)
    encoded = model.encode(ctranslate2.StorageView.from_array(sound))
    (text,) = model.generate(encoded, [[50257, 50362]], beam_size=2, max_length=40, return_scores=True)
    return model.compute_type, np.array(encoded).tobytes().hex(), text.sequences_ids, text.scores
as_it_is, quantised = map(computed, sys.argv[2:])
print(json.dumps(as_it_is == quantised))
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    daemon = RunningDaemon(tmp_path_factory.mktemp("daemon"), toy=False).start()
    yield daemon
    daemon.close()


@pytest.fixture(scope="module")
def bundle(running: RunningDaemon) -> str:
    with running.connect() as client:
        return str(client.natives.install("ctranslate2-cpu")["path"])


def test_a_runtime_loads_quantised_weights_and_computes_the_same(running: RunningDaemon, bundle: str) -> None:
    with running.connect() as client:
        client.runtimes.create("whole", "tiny.en", backend="ctranslate2", device="cpu", compute_type="int8")
        client.runtimes.load("whole")
        as_it_is = Path(client.models.path("tiny.en")["path"])
    quantised = converted("tiny.en", "ctranslate2", "int8")
    assert (quantised / "model.bin").stat().st_size < 0.6 * (as_it_is / "model.bin").stat().st_size
    assert json.loads(run_python(COMPUTE, bundle, str(as_it_is), str(quantised), env=dict(os.environ)))
    assert "is loaded unconverted" not in running.log()


FLOATS = [1.0, -0.5, 0.25, 0.0, 0.0, 0.0]
"""A matrix with two rows; the largest number of a row becomes 127."""
KINDS = {
    0: struct.pack("<6f", *FLOATS),
    4: struct.pack("<6e", *FLOATS),
    5: b"".join(struct.pack("<f", one)[2:] for one in FLOATS),
}
"""By CTranslate2's type number: 32-bit floats, 16-bit floats, and bfloat16 (upper halves of the first)."""


def model(folder: Path, *variables: bytes) -> Path:
    parts = [struct.pack("<I", 6), string("WhisperSpec"), struct.pack("<II", 3, len(variables)), *variables]
    folder.mkdir()
    (folder / "model.bin").write_bytes(
        b"".join([*parts, struct.pack("<I", 1), string("b"), string("a/weight")])
    )
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_all_float_types_are_quantised(tmp_path: Path, bundle: str, kind: int) -> None:
    matrix = variable("a/weight", (2, 3), kind, KINDS[kind])
    kept = variable("conv1/weight", (2, 3), kind, KINDS[kind]), variable("a/bias", (6,), kind, KINDS[kind])
    source, target = model(tmp_path / "model", kept[0], matrix, kept[1]), tmp_path / "target"
    done = run_python(QUANTISE, bundle, str(source), str(target), env=dict(os.environ))
    assert int(done) == 3 * len(KINDS[kind])
    integers = variable("a/weight", (2, 3), 1, struct.pack("6b", 127, -64, 32, 0, 0, 0))
    scales = variable("a/weight_scale", (2,), 0, struct.pack("<2f", 127, 1))
    expected = model(tmp_path / "expected", kept[0], integers, scales, kept[1])
    assert target.read_bytes() == (expected / "model.bin").read_bytes()
    with target.open("rb") as file:
        found = read_index(file).find("b")
    assert found is not None and found.shape == (2, 3)


def test_integers_are_unchanged(tmp_path: Path, bundle: str) -> None:
    source = model(tmp_path / "model", variable("a/weight", (2, 3), 1, bytes(6)))
    run_python(QUANTISE, bundle, str(source), str(tmp_path / "target"), env=dict(os.environ))
    assert (tmp_path / "target").read_bytes() == b""


@pytest.mark.parametrize("number", [float("nan"), float("inf"), 1e-40])
def test_numbers_that_cannot_be_quantised_are_refused(tmp_path: Path, bundle: str, number: float) -> None:
    """The model is then loaded unconverted."""
    source = model(tmp_path / "model", variable("a/weight", (1, 2), 0, struct.pack("<2f", number, 0)))
    with pytest.raises(CalledProcessError) as caught:
        run_python(QUANTISE, bundle, str(source), str(tmp_path / "target"), env=dict(os.environ))
    assert "UnreadableModel" in caught.value.stderr and "Warning" not in caught.value.stderr
