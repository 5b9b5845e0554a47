"""On an NVIDIA GPU: bundles, precisions, batches, concurrent runtimes, too little memory, and speed.

Numbers that depend on the GPU are printed, not checked. WHISPERD_TEST_GPU_MODEL names the model (`base`).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import anyio
import pytest

from spoken import likeness, recordings, words
from whisperd.client import Client
from whisperd.hardware import find_gpus
from whisperd.isolation import library_folders
from whisperd.rpc.errors import WhisperdError
from whisperd_testing import AUDIO, KENNEDY, RunningDaemon, until

pytestmark = [pytest.mark.real, pytest.mark.timeout(1800)]

MODEL = os.environ.get("WHISPERD_TEST_GPU_MODEL", "base")
DEVICE = "cuda"
HERE = Path(__file__).parent
REPEATED = 20
"""Repetitions in the long recording: some minutes of speech on any GPU."""
BACK_WITHIN_BYTES = 64 * 2**20
"""Memory that may stay taken after unloading: other programs use the GPU meanwhile."""


def free_bytes() -> int:
    """Return the free memory of the first GPU."""
    return anyio.run(find_gpus).gpus[0].memory_free


@pytest.fixture
def client(gpu_daemon: RunningDaemon) -> Iterator[Client]:
    with gpu_daemon.connect() as client:
        yield client
        default = client.daemon.status()["default_runtime"]
        for one in client.request("runtimes.list"):
            if one["name"] != default and one["saved"]:
                client.request("runtimes.unload", name=one["name"])
                client.request("runtimes.delete", name=one["name"])


def create(client: Client, name: str = "gpu", **fields: Any) -> None:
    preset = {"model": MODEL, "backend": "ctranslate2", "device": DEVICE, **fields}
    client.request("runtimes.create", name=name, **preset)


def show(client: Client, name: str = "gpu") -> dict[str, Any]:
    return dict(client.request("runtimes.show", name=name))


@pytest.fixture(scope="module")
def long_recording(tmp_path_factory: pytest.TempPathFactory, gpu_daemon: RunningDaemon) -> Path:
    """All English recordings in sequence, repeated many times."""
    path = tmp_path_factory.mktemp("audio") / "long.wav"
    files = [
        str(AUDIO / one["file"]) for one in recordings().values() if one["language"] == "en" and one["text"]
    ]
    code = (
        "import sys, wave, numpy\n"
        "from faster_whisper.audio import decode_audio\n"
        "with wave.open(sys.argv[1], 'wb') as file:\n"
        "    file.setparams((1, 2, 16000, 0, 'NONE', ''))\n"
        "    pause = bytes(16000)\n"
        "    parts = [(decode_audio(one) * 32767).astype('<i2').tobytes() for one in sys.argv[3:]]\n"
        "    for _ in range(int(sys.argv[2])):\n"
        "        for part in parts:\n"
        "            file.writeframes(part + pause)\n"
    )
    with gpu_daemon.connect() as client:
        media = client.natives.install("media")["path"]
        engine = client.natives.install("ctranslate2-cpu")["path"]
    command = [sys.executable, "-c", code, str(path), str(REPEATED), *files]
    subprocess.run(command, env=_on_path(engine, media), check=True)
    return path


def _on_path(*bundles: str) -> dict[str, str]:
    """Return an environment in which bundles are importable as if they were installed."""
    libraries = [str(folder) for bundle in bundles for folder in library_folders(Path(bundle))]
    variable = "PATH" if sys.platform == "win32" else "LD_LIBRARY_PATH"
    inherited = [os.environ[variable]] if variable in os.environ else []
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(bundles),
        variable: os.pathsep.join([*libraries, *inherited]),
    }


@contextmanager
def full_gpu(left_bytes: int) -> Iterator[None]:
    """Run another program that takes all GPU memory but this."""
    command = [sys.executable, str(HERE / "fill_gpu.py"), str(left_bytes)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as program:
        assert program.stdin is not None and program.stdout is not None
        try:
            line = program.stdout.readline()
            assert line, "the other program could not take the memory"
            yield
        finally:
            program.stdin.close()
            program.wait()


def test_the_bundle_is_installed(client: Client, variant: dict[str, Any]) -> None:
    installed = client.natives.install(variant["name"])
    assert library_folders(Path(installed["path"])), "the bundle contains cuBLAS"
    assert client.natives.verify(variant["name"])["ok"]


@pytest.mark.parametrize("compute_type", ["float16", "int8_float16"])
def test_precisions(
    client: Client, gpu_daemon: RunningDaemon, variant: dict[str, Any], compute_type: str
) -> None:
    create(client, compute_type=compute_type)
    transcript = client.transcribe(AUDIO / "jfk.flac", runtime="gpu", language="en")
    assert likeness(transcript.text, KENNEDY) > 0.95, transcript.text
    shown = show(client)
    assert (shown["variant"], shown["note"]) == (variant["name"], None)
    assert (shown["loaded"]["device"], shown["loaded"]["compute_type"]) == (DEVICE, compute_type)


@pytest.mark.skipif(sys.platform != "linux", reason="reads the memory maps of a process")
def test_cublas_is_loaded_from_the_bundle(
    client: Client, gpu_daemon: RunningDaemon, variant: dict[str, Any]
) -> None:
    create(client)
    client.transcribe(AUDIO / "jfk.flac", runtime="gpu", language="en")
    bundle = Path(client.natives.install(variant["name"])["path"])
    maps = Path(f"/proc/{show(client)['pid']}/maps").read_text().splitlines()
    paths = {Path(line.split(maxsplit=5)[5]) for line in maps if ".so" in line}
    cublas = {path for path in paths if path.name.startswith(("libcublas", "libcudnn", "libnvrtc"))}
    assert cublas and all(path.is_relative_to(bundle.resolve()) for path in cublas), cublas


def test_batch_sizes(client: Client, long_recording: Path, measured: dict[str, Any]) -> None:
    texts = {}
    for batch_size in (1, 4, 16, 32):
        create(client, f"batch-{batch_size}", compute_type="float16", batch_size=batch_size)
        client.request("runtimes.load", name=f"batch-{batch_size}")
        began = time.perf_counter()
        transcript = client.transcribe(long_recording, runtime=f"batch-{batch_size}", language="en")
        speed = transcript.duration / (time.perf_counter() - began)
        measured[f"{MODEL}, float16, batches of {batch_size}"] = f"{speed:.0f} times real time"
        texts[batch_size] = words(transcript.text)
        client.request("runtimes.unload", name=f"batch-{batch_size}")
    for batch_size, text in texts.items():
        assert SequenceMatcher(None, text, texts[1], autojunk=False).ratio() > 0.97, batch_size


def test_two_runtimes_at_once(client: Client) -> None:
    create(client, "one", compute_type="float16")
    create(client, "two", compute_type="int8_float16")
    names = ["one", "two"] * 4
    jobs = [client.submit(AUDIO / "jfk.flac", runtime=name, language="en") for name in names]
    texts = [client.jobs.wait(job)["text"] for job in jobs]
    assert all(likeness(text, KENNEDY) > 0.95 for text in texts), texts
    shown = [show(client, name) for name in ("one", "two")]
    assert [one["status"] for one in shown] == ["loaded", "loaded"]
    assert shown[0]["pid"] != shown[1]["pid"]


def test_unloading_frees_the_gpus_memory(client: Client, measured: dict[str, Any]) -> None:
    before = free_bytes()
    create(client, compute_type="float16")
    client.transcribe(AUDIO / "jfk.flac", runtime="gpu", language="en")
    loaded = free_bytes()
    assert loaded < before
    measured[f"{MODEL}, float16, memory of the GPU"] = f"{(before - loaded) / 2**20:.0f} MiB"
    client.request("runtimes.unload", name="gpu")
    until(lambda: free_bytes() >= before - BACK_WITHIN_BYTES, "the memory of the GPU")


def test_too_little_memory_to_load(client: Client) -> None:
    create(client, compute_type="float16")
    with full_gpu(64 * 2**20), pytest.raises(WhisperdError) as raised:
        client.request("runtimes.load", name="gpu")
    error = raised.value
    assert error.code == "memory.gpu_not_enough"
    assert "GPU" in error.message and "--device cpu" in error.fix
    client.request("runtimes.load", name="gpu")
    assert show(client)["status"] == "loaded", "the runtime loads once memory is free"


def test_too_little_memory_to_load_with_an_automatic_device(client: Client) -> None:
    create(client, device="auto")
    with full_gpu(64 * 2**20):
        transcript = client.transcribe(AUDIO / "jfk.flac", runtime="gpu", language="en")
    assert likeness(transcript.text, KENNEDY) > 0.95
    shown = show(client)
    assert shown["loaded"]["device"] == "cpu"
    assert "memory" in shown["note"], "the note says why"


def test_too_little_memory_to_compute(client: Client, long_recording: Path) -> None:
    create(client, compute_type="float16", batch_size=64)
    client.request("runtimes.load", name="gpu")
    with full_gpu(16 * 2**20):
        try:
            transcript = client.transcribe(long_recording, runtime="gpu", language="en")
        except WhisperdError as error:
            assert error.code == "memory.gpu_not_enough"
            assert "--batch-size" in error.fix
        else:  # the library's memory pool may suffice
            assert words(transcript.text)
    assert client.transcribe(AUDIO / "jfk.flac", runtime="gpu", language="en").text, (
        "the runtime still works afterwards"
    )


@pytest.mark.parametrize("compute_type", ["float16", "int8_float16"])
def test_speed_compared_with_faster_whispers_batched_pipeline(
    client: Client, variant: dict[str, Any], long_recording: Path, measured: dict[str, Any], compute_type: str
) -> None:
    batch_size = 16
    create(client, compute_type=compute_type, batch_size=batch_size)
    client.transcribe(long_recording, runtime="gpu", language="en")  # do not count one-time work
    began = time.perf_counter()
    ours = client.transcribe(long_recording, runtime="gpu", language="en")
    our_seconds = time.perf_counter() - began
    client.request("runtimes.unload", name="gpu")

    bundles = [client.natives.install(name)["path"] for name in (variant["name"], "media")]
    model = client.models.path(MODEL)["path"]
    arguments = [model, DEVICE, compute_type, str(batch_size), str(long_recording)]
    command = [sys.executable, str(HERE / "batched_pipeline.py"), *arguments]
    done = subprocess.run(command, env=_on_path(*bundles), check=True, capture_output=True, text=True)
    theirs = json.loads(done.stdout)
    measured[f"{MODEL}, {compute_type}, batches of {batch_size}, {ours.duration:.0f} s of speech"] = (
        f"{our_seconds:.2f} s, faster-whisper's batched pipeline {theirs['seconds']:.2f} s: "
        f"{theirs['seconds'] / our_seconds:.2f} times as fast"
    )
    assert likeness(ours.text, theirs["text"]) > 0.9, "both return the same text"
