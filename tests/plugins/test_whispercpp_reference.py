"""Our text equals that of whisper.cpp's own program, for two models in both precisions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from spoken import recordings
from whisper_cli import can_build, plain_wavs, transcribe_with_cli, whisper_cli
from whisperd.client import Client
from whisperd.worker.process import open_worker
from whisperd.worker.protocol import BatchParams, DecodeOptions, EngineWindow, LoadParams
from whisperd_testing import AUDIO, RunningDaemon, converted

pytestmark = [
    pytest.mark.real,
    pytest.mark.slow,
    pytest.mark.skipif(not can_build(), reason="whisper-cli is compiled with g++, on Linux"),
]

WAV_HEADER_BYTES = 44


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    daemon = RunningDaemon(tmp_path_factory.mktemp("daemon"), toy=False).start()
    with daemon.connect() as client:
        yield client
    daemon.close()


@pytest.fixture(scope="module")
def sounds(client: Client, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Every English recording as a plain WAV file."""
    client.natives.install("media")
    files = [AUDIO / one["file"] for one in recordings().values() if one["language"] == "en"]
    return plain_wavs(files, tmp_path_factory.mktemp("sounds"), Path(client.natives.path("media")["path"]))


@pytest.mark.parametrize("compute_type", ["float16", "int8"])
@pytest.mark.parametrize("model", ["tiny.en", "base"])
def test_the_text_equals_that_of_whisper_cli(
    client: Client, sounds: list[Path], model: str, compute_type: str
) -> None:
    name = f"{model}-{compute_type}"
    client.runtimes.create(name, model, backend="whispercpp", compute_type=compute_type)
    client.runtimes.prepare(name)
    bundle = Path(client.natives.path(client.runtimes.show(name)["variant"])["path"])
    file = converted(model, "whispercpp", compute_type)
    expected, _ = transcribe_with_cli(whisper_cli(bundle), file, sounds)
    assert all(expected) and len(expected) == len(sounds) >= 6
    assert anyio.run(heard_by_us, bundle, file, compute_type, sounds) == expected


async def heard_by_us(bundle: Path, model: Path, compute_type: str, sounds: list[Path]) -> list[str]:
    params = LoadParams(model_path=str(model), compute_type=compute_type, context_margin_s=30.0)
    windows = tuple(EngineWindow(pcm=sound.read_bytes()[WAV_HEADER_BYTES:]) for sound in sounds)
    options = DecodeOptions(language="en", beam_size=1, temperatures=(0.0,))
    async with open_worker(bundle, "whisperd_whispercpp.engine:load", params) as worker:
        results = await worker.transcribe(BatchParams(windows=windows, options=options))
    return ["".join(one.text for one in result.segments).strip() for result in results]
