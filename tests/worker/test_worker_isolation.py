"""A running worker has only the libraries of its bundle in memory."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from toy_runtime import BACKENDS, ENGINE, batch
from whisperd.rpc.errors import WhisperdError
from whisperd.worker.process import open_worker
from whisperd.worker.protocol import LoadParams
from whisperd_testing import AUDIO, RunningDaemon, runtime_with

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform != "linux", reason="reads the memory maps of a process"),
    pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler"),
]

NAMES = ("libcublas.so.12", "libgomp.so.1", "libopenblas.so.0")
"""Names of libraries that programs pick up from elsewhere by mistake."""


@pytest.fixture(autouse=True)
def toy_engine_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", BACKENDS)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shared library, copies of which can have any name."""
    folder = tmp_path_factory.mktemp("library")
    source = folder / "library.c"
    source.write_text("int nothing(void) { return 0; }\n")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(folder / "library.so"), str(source)], check=True)
    return folder / "library.so"


@pytest.fixture
def make_bundle(tmp_path: Path, library: Path) -> Callable[[str], Path]:
    """Return a factory of bundles with all these libraries in the same place as in NVIDIA's wheels."""

    def make(name: str) -> Path:
        folder = tmp_path / name / "nvidia" / "cublas" / "lib"
        folder.mkdir(parents=True)
        for each in NAMES:
            shutil.copy(library, folder / each)
        return tmp_path / name

    return make


@pytest.fixture
def decoys(tmp_path: Path, library: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Libraries of the same names, to which the daemon's environment points in every possible way."""
    folder = tmp_path / "decoys"
    folder.mkdir()
    for each in (*NAMES, "libpreloaded.so"):
        shutil.copy(library, folder / each)
    (folder / "torch.py").write_text(f"import ctypes\nctypes.CDLL({str(folder / NAMES[0])!r})\n")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(folder))
    monkeypatch.setenv("LD_PRELOAD", str(folder / "libpreloaded.so"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), BACKENDS]))
    return folder


def mapped(pid: int) -> set[Path]:
    """Return the shared libraries in the memory of a process."""
    fields = (line.split(maxsplit=5) for line in Path(f"/proc/{pid}/maps").read_text().splitlines())
    return {Path(each[5]) for each in fields if len(each) == 6 and ".so" in each[5]}


def mapped_below(pid: int, *folders: Path) -> set[Path]:
    return {path for path in mapped(pid) if any(path.is_relative_to(folder) for folder in folders)}


OPENS = {"TOY_LIBRARIES": " ".join(NAMES)}


async def test_each_worker_has_only_its_bundles_libraries(
    toy: Callable[..., str], make_bundle: Callable[[str], Path], decoys: Path
) -> None:
    one, other = make_bundle("one"), make_bundle("other")
    params = LoadParams(model_path=toy())
    async with (
        open_worker(one, ENGINE, params, environment=OPENS) as first,
        open_worker(other, ENGINE, params, environment=OPENS) as second,
    ):
        for worker, bundle in ((first, one), (second, other)):
            await worker.transcribe(batch(1.0))
            found = mapped_below(worker.pid, one, other, decoys)
            assert found == {bundle / "nvidia" / "cublas" / "lib" / name for name in NAMES}


async def test_a_library_missing_from_a_bundle_is_not_taken_from_elsewhere(
    toy: Callable[..., str], make_bundle: Callable[[str], Path], decoys: Path
) -> None:
    bundle = make_bundle("one")
    (bundle / "nvidia" / "cublas" / "lib" / NAMES[0]).unlink()
    with pytest.raises(WhisperdError) as raised:
        async with open_worker(bundle, ENGINE, LoadParams(model_path=toy()), environment=OPENS):
            pass
    assert raised.value.code == "library.missing"
    assert NAMES[0] in raised.value.message


async def test_a_module_next_to_whisperd_brings_no_library(
    toy: Callable[..., str], make_bundle: Callable[[str], Path], decoys: Path, tmp_path: Path
) -> None:
    """Like a library in the bundle that uses PyTorch if it is installed."""
    bundle = make_bundle("one")
    shutil.copy(Path(BACKENDS, "toy_backend.py"), bundle)
    source = "try:\n    import torch\nexcept ImportError:\n    torch = None\nfrom toy_backend import load\n"
    (bundle / "curious_engine.py").write_text(source)
    async with open_worker(bundle, "curious_engine:load", LoadParams(model_path=toy())) as worker:
        assert mapped_below(worker.pid, decoys) == set()


async def test_an_engine_without_a_bundle_uses_this_computers_libraries(
    toy: Callable[..., str], decoys: Path
) -> None:
    async with open_worker(None, ENGINE, LoadParams(model_path=toy()), environment=OPENS) as worker:
        assert {decoys / name for name in NAMES} <= mapped_below(worker.pid, decoys)


@pytest.mark.real
def test_real_bundles_ignore_other_libraries_of_the_same_names(
    make_daemon: Callable[..., RunningDaemon], decoys: Path, library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(decoys))  # without the toy engine
    shutil.copy(library, decoys / "libstdc++.so.6")  # which CTranslate2 takes from the system
    daemon = make_daemon(toy=False).start()
    with daemon.connect() as client:
        transcript = client.transcribe(AUDIO / "jfk.flac", model="tiny.en")
        assert "country" in transcript.text
        children = daemon.children()
        assert any("whisperd.audio.decoder" in child.cmdline() for child in children)
        (worker,) = daemon.workers()
        bundle = Path(client.natives.path(runtime_with(client, "tiny.en")["variant"])["path"]).resolve()
    for child in children:
        assert mapped_below(child.pid, decoys) == set(), child.cmdline()
    assert mapped_below(worker.pid, bundle), "its own libraries are in the bundle"
    bundles = [path for path in bundle.parents[1].glob("*/*") if path.is_dir()]
    others = [path for path in bundles if path.resolve() != bundle]
    assert others, "at least the decoder's bundle"
    assert mapped_below(worker.pid, *others) == set()


async def test_a_variant_has_its_own_environment_variables(
    toy: Callable[..., str], make_bundle: Callable[[str], Path]
) -> None:
    model, bundle = toy(), make_bundle("one")
    own = {"CT2_FORCE_CPU_ISA": "GENERIC", "OMP_NUM_THREADS": "7"}
    async with (
        open_worker(bundle, ENGINE, LoadParams(model_path=model), environment=own) as generic,
        open_worker(bundle, ENGINE, LoadParams(model_path=model, cpu_threads=2)) as usual,
    ):
        assert own.items() <= environment(generic.pid).items()
        assert environment(usual.pid)["OMP_NUM_THREADS"] == "2"
        assert "CT2_FORCE_CPU_ISA" not in environment(usual.pid)


def environment(pid: int) -> dict[str, str]:
    """Return the environment that a process was started with."""
    entries = Path(f"/proc/{pid}/environ").read_text().split("\0")
    return dict(entry.split("=", 1) for entry in entries if "=" in entry)
