"""The variants of CTranslate2: where each can be used, their order, and how those for processors behave."""

from __future__ import annotations

import sys
import wave
from pathlib import Path

import anyio
import msgspec
import pytest

from whisperd.hardware import Hardware
from whisperd.hardware.gpus import Gpu, Gpus
from whisperd.natives import Bundle, NativeStore
from whisperd.natives.lock import format_lock, parse_lock
from whisperd.natives.target import PLATFORMS, PYTHONS, Target
from whisperd.plugins import Variant
from whisperd.rpc.errors import WhisperdError
from whisperd.runtimes.computer import Computer, judge
from whisperd.runtimes.preset import RuntimeChanges, new_preset
from whisperd.settings import RuntimeSettings
from whisperd.worker.process import open_worker
from whisperd.worker.protocol import BatchParams, DecodeOptions, EngineWindow, LoadParams
from whisperd_ctranslate2 import whisperd_backend
from whisperd_testing import AUDIO, CACHE, RunningDaemon

BACKEND = whisperd_backend()
VARIANTS = {variant.name: variant for variant in BACKEND.variants}
ENGINE = BACKEND.engine
CUDA_PLATFORMS = ("linux-x86_64", "windows-x86_64")


def test_the_order_of_the_variants() -> None:
    ranked = sorted(VARIANTS.values(), key=lambda variant: -variant.priority)
    assert [(variant.name, variant.priority) for variant in ranked] == [
        ("ctranslate2-cuda12", 60),
        ("ctranslate2-cuda11", 50),
        ("ctranslate2-cpu", 25),
        ("ctranslate2-cpu-generic", 5),
    ]


def can_have(variant: Variant, platform: str, python: str) -> bool:
    assert variant.lock is not None
    try:
        parse_lock(variant.lock).select(Target.known(platform, python))
    except WhisperdError as error:
        assert error.code == "native.unsupported"
        return False
    return True


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("platform", PLATFORMS)
def test_platforms_with_wheels(platform: str, python: str) -> None:
    can = {name for name, variant in VARIANTS.items() if can_have(variant, platform, python)}
    expected = {"ctranslate2-cpu", "ctranslate2-cpu-generic"}
    if platform in CUDA_PLATFORMS:
        expected |= {"ctranslate2-cuda12"} | ({"ctranslate2-cuda11"} if python == "3.11" else set())
    assert can == expected


@pytest.mark.parametrize(
    ("platform", "python", "message", "fix"),
    [
        (
            "linux-x86_64",
            "3.12",
            "no build of ctranslate2 for Python cp312",
            "these versions of Python: 3.11.",
        ),
        (
            "windows-x86_64",
            "3.14",
            "no build of ctranslate2 for Python cp314",
            "these versions of Python: 3.11.",
        ),
        ("macos-arm64", "3.11", "no build of ctranslate2 for macos-arm64", "linux-x86_64, windows-x86_64"),
        ("linux-aarch64", "3.13", "no build of ctranslate2 for linux-aarch64", "another variant"),
    ],
)
def test_why_cuda_11_is_unavailable(platform: str, python: str, message: str, fix: str) -> None:
    lock = VARIANTS["ctranslate2-cuda11"].lock
    assert lock is not None
    with pytest.raises(WhisperdError) as raised:
        parse_lock(lock).select(Target.known(platform, python))
    assert message in raised.value.message
    assert fix in raised.value.fix


def test_the_contents_of_the_gpu_bundles() -> None:
    def versions(name: str) -> dict[str, str]:
        lock = VARIANTS[name].lock
        assert lock is not None
        return parse_lock(lock).select(Target.known("linux-x86_64", "3.11")).versions

    cuda12, cuda11 = versions("ctranslate2-cuda12"), versions("ctranslate2-cuda11")
    assert cuda12["ctranslate2"].startswith("4.") and cuda12["nvidia-cublas-cu12"].startswith("12.")
    assert not any("cudnn" in name for name in cuda12), "CTranslate2 4.7 and later do not need it"
    assert cuda11["ctranslate2"] == "3.24.0"
    assert cuda11["nvidia-cublas-cu11"].startswith("11.") and cuda11["nvidia-cudnn-cu11"].startswith("8.")


def test_both_processor_variants_are_the_same_build() -> None:
    cpu, generic = VARIANTS["ctranslate2-cpu"], VARIANTS["ctranslate2-cpu-generic"]
    assert cpu.lock == generic.lock
    assert (cpu.environment, generic.environment) == ({}, {"CT2_FORCE_CPU_ISA": "GENERIC"})


def gpus(cuda: tuple[int, int]) -> Gpus:
    gpu = Gpu(0, "a GPU", 8 * 2**30, 7 * 2**30, (8, 6))
    return Gpus((gpu,), "550.54", cuda)


@pytest.mark.skipif(
    sys.version_info[:2] != (3, 11) or sys.platform != "linux", reason="CUDA 11 is unavailable here"
)
@pytest.mark.parametrize(
    ("found", "usable"),
    [
        (gpus((12, 4)), ["ctranslate2-cuda12", "ctranslate2-cuda11"]),
        (gpus((11, 4)), ["ctranslate2-cuda11"]),
        (gpus((10, 2)), []),
        (Gpus(), []),
    ],
)
def test_variants_that_a_driver_supports(found: Gpus, usable: list[str]) -> None:
    judged = judge([(BACKEND, variant) for variant in BACKEND.variants], _hardware(found))
    on_gpu = [one for one in judged if one.variant.device == "cuda"]
    assert [one.variant.name for one in on_gpu if one.problem is None] == usable
    for one in on_gpu:
        if one.problem is not None:
            assert one.problem.code in ("cuda.not_available", "cuda.driver_too_old")


@pytest.mark.skipif(sys.platform != "linux", reason="CUDA is unavailable here")
@pytest.mark.parametrize(
    ("capability", "first"),
    [((8, 6), "float16"), ((7, 5), "float16"), ((6, 1), "int8_float32"), ((6, 0), "float32")],
)
def test_a_gpus_preferred_compute_type(capability: tuple[int, int], first: str) -> None:
    found = Gpus((Gpu(0, "a GPU", 8 * 2**30, 7 * 2**30, capability),), "550.54", (12, 4))

    async def find_gpus() -> Gpus:
        return found

    async def find_hardware() -> Hardware:
        return _hardware(found)

    preset = new_preset(
        RuntimeChanges(name="mine", model="base", backend="ctranslate2"), RuntimeSettings(), check=False
    )
    usable = anyio.run(Computer(find_gpus, find_hardware).usable_variants, preset)
    by_name = {variant.name: variant for _, variant in usable}
    assert by_name["ctranslate2-cuda12"].compute_types[0] == first
    assert by_name["ctranslate2-cpu"].compute_types[0] == "int8"


def _hardware(found: Gpus) -> Hardware:
    return msgspec.structs.replace(Hardware(), gpus=found)


# In a worker


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The path of the model `tiny.en`."""
    daemon = RunningDaemon(tmp_path_factory.mktemp("daemon"), toy=False).start()
    try:
        with daemon.connect() as client:
            return str(client.models.pull("tiny.en")["path"])
    finally:
        daemon.close()


def transcribe(bundle: Path, model: str, **environment: str) -> tuple[str, list[str], str]:
    """Transcribe two sentences; return the worker's library, the texts, and its standard error."""

    async def run() -> tuple[str, list[str], str]:
        params = LoadParams(model_path=model, replicas=1, cpu_threads=2)
        async with open_worker(bundle, ENGINE, params, environment=environment) as worker:
            windows = (EngineWindow(pcm=_two_sentences()),)
            batch = BatchParams(windows=windows, options=DecodeOptions(language="en"))
            (result,) = await worker.transcribe(batch)
            texts = [segment.text.strip() for segment in result.segments]
            return worker.info.library, texts, worker._child.last_words

    return anyio.run(run)


def _two_sentences() -> bytes:
    pause = bytes(16_000)
    return pause.join(_pcm(name) for name in ("austen-0870.wav", "austen-0880.wav"))


def _pcm(name: str) -> bytes:
    with wave.open(str(AUDIO / name), "rb") as file:
        return file.readframes(file.getnframes())


def install(bundle: Bundle) -> Path:
    async def run() -> Path:
        return (await NativeStore(CACHE / "native").install(bundle, lambda _: None)).path

    return anyio.run(run)


def check(texts: list[str]) -> None:
    first, second = texts
    assert first.startswith("And Mr. John Dashwood had then leisure")
    assert second.startswith("He was not an")


@pytest.mark.real
def test_the_generic_variant_uses_no_newer_instructions(model: str) -> None:
    cpu = Bundle.of(VARIANTS["ctranslate2-cpu"])
    assert cpu is not None
    generic = VARIANTS["ctranslate2-cpu-generic"].environment
    _, texts, said = transcribe(install(cpu), model, CT2_VERBOSE="1", **generic)
    check(texts)
    assert "Selected ISA: GENERIC" in said


@pytest.mark.real
@pytest.mark.skipif(
    sys.version_info[:2] != (3, 11) or sys.platform not in ("linux", "win32"),
    reason="needs CTranslate2 3.24 for this Python and system",
)
def test_the_engine_works_with_the_last_version_for_cuda_11(model: str) -> None:
    """On the processor: only the GPU code differs, and the GPU libraries are large."""
    text = VARIANTS["ctranslate2-cuda11"].lock
    assert text is not None
    lock = parse_lock(text)
    kept = tuple(each for each in lock.distributions if not each.name.startswith("nvidia-"))
    smaller = msgspec.structs.replace(lock, distributions=kept, ranges={})
    library, texts, _ = transcribe(
        install(Bundle("ctranslate2-3-cpu", format_lock(smaller, "Without what a GPU needs."))), model
    )
    assert library == "ctranslate2 3.24.0"
    check(texts)
