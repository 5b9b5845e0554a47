"""A whole daemon whose best variant fails uses the next best and says so, but never replaces a named one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).parents[1]
sys.path += [str(TESTS / "natives")]  # for the package index and the wheels

from index_server import IndexServer, serve_index  # noqa: E402
from wheel_maker import lock_wheels, make_wheel  # noqa: E402

from whisperd.client import Client  # noqa: E402
from whisperd.rpc.errors import WhisperdError  # noqa: E402
from whisperd_testing import RunningDaemon, loads, write_tone  # noqa: E402

pytestmark = pytest.mark.real

MakeDaemon = Callable[..., RunningDaemon]
Toy = Callable[..., str]
Variants = Callable[..., dict[str, str]]

NO_GPU = "CUDA failed with error no CUDA-capable device is detected"


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """The environment of a computer whose NVIDIA driver reports a GPU that does not exist."""
    compiler = shutil.which("cc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("needs Linux and a C compiler")
    folder = tmp_path_factory.mktemp("driver")
    source = TESTS / "hardware" / "fake_nvml.c"
    command = [compiler, "-shared", "-fPIC", "-o", str(folder / "libnvidia-ml.so.1"), str(source)]
    subprocess.run(command, check=True)
    return {"LD_LIBRARY_PATH": str(folder), "FAKE_NVML": "ok 1"}


@pytest.fixture
def variants(tmp_path: Path) -> Variants:
    """Return a factory of environments in which the toy backend has these variants, best first."""

    def make(*described: Mapping[str, Any]) -> dict[str, str]:
        ranked = [{"priority": 2000 - rank, **one} for rank, one in enumerate(described)]
        (tmp_path / "variants.json").write_text(json.dumps(ranked))
        return {"TOY_VARIANTS": str(tmp_path / "variants.json")}

    return make


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tone(tmp_path_factory.mktemp("sound") / "tone.wav", 2.0)


def gpu(**environment: str) -> dict[str, Any]:
    return {"name": "toy-cuda12", "device": "cuda", "cuda": (12, 0), "environment": environment}


CPU = {"name": "toy-cpu"}


def transcribe(client: Client, sound: Path, runtime: str) -> None:
    transcript = client.transcribe(sound, runtime=runtime, vad=False, language="en", cache=False)
    assert transcript.text == "transcribe 2.00 s"


def create(client: Client, model: str, **fields: Any) -> None:
    client.request("runtimes.create", name="mine", model=model, backend="toy", **fields)


def show(client: Client) -> dict[str, Any]:
    return dict(client.request("runtimes.show", name="mine"))


def statuses(shown: Mapping[str, Any]) -> list[str]:
    return [moment["status"] for moment in shown["history"]]


def test_a_gpu_that_is_reported_but_fails(
    make_daemon: MakeDaemon, variants: Variants, driver: Mapping[str, str], toy: Toy, sound: Path
) -> None:
    daemon = make_daemon(env={**driver, **variants(gpu(TOY_LOAD_ERROR=NO_GPU), CPU)}).start()
    model = toy()
    with daemon.connect() as client:
        create(client, model)
        transcribe(client, sound, "mine")
        shown = show(client)
        assert (shown["status"], shown["variant"], shown["error"]) == ("loaded", "toy-cpu", None)
        assert shown["note"].startswith("Running as toy-cpu, the next best variant. toy-cuda12 failed: ")
        assert "nvidia-smi" in shown["note"], "the note says what to do"
        assert statuses(shown) == ["downloading", "loading", "downloading", "loading", "loaded"]
        assert "toy-cuda12 failed" in shown["history"][2]["detail"]
        assert "toy-cuda12 failed" in daemon.log()
        note = next(
            line for line in daemon.ctl("runtimes", "show", "mine").out.splitlines() if "note" in line
        )
        assert "toy-cuda12 failed" in note
        assert len(loads(model)) == 2

        client.request("runtimes.unload", name="mine")
        transcribe(client, sound, "mine")
        assert len(loads(model)) == 3, "the GPU is not tried again"
        assert "toy-cuda12 failed" in show(client)["note"]

        client.request("runtimes.unload", name="mine")
        client.request("runtimes.load", name="mine")
        assert len(loads(model)) == 5, "an explicit load tries the GPU again"
        client.request("runtimes.load", name="mine")
        assert len(loads(model)) == 7, "even while the next best is loaded"

        client.request("runtimes.unload", name="mine")
        client.request("runtimes.edit", name="mine", changes={"device": "cuda"})
        with pytest.raises(WhisperdError) as raised:
            transcribe(client, sound, "mine")
        assert raised.value.code == "cuda.not_available"
        assert "--device cpu" in raised.value.fix
        shown = show(client)
        assert (shown["status"], shown["note"]) == ("failed", None)


def test_a_variant_that_crashes_while_it_loads(
    make_daemon: MakeDaemon, variants: Variants, toy: Toy, sound: Path
) -> None:
    crashing = {"name": "toy-fast", "environment": {"TOY_LOAD_SIGNAL": "SIGSEGV"}}
    daemon = make_daemon(env=variants(crashing, CPU)).start()
    with daemon.connect() as client:
        create(client, toy())
        transcribe(client, sound, "mine")
        shown = show(client)
        assert shown["variant"] == "toy-cpu"
        assert "SIGSEGV" in shown["note"]


def test_a_fault_of_the_model_is_tried_once(
    make_daemon: MakeDaemon, variants: Variants, toy: Toy, sound: Path
) -> None:
    daemon = make_daemon(env=variants(CPU, {"name": "toy-generic"})).start()
    model = toy(load_error="bad magic")
    with daemon.connect() as client:
        create(client, model)
        with pytest.raises(WhisperdError) as raised:
            transcribe(client, sound, "mine")
        assert raised.value.code == "model.load_failed"
        assert len(loads(model)) == 1


# Bundles


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    folder = tmp_path / "wheels"
    folder.mkdir()
    make_wheel(folder, "fastlib")
    make_wheel(folder, "plainlib")
    return folder


@pytest.fixture
def index(wheels: Path) -> Iterator[IndexServer]:
    with serve_index(wheels) as server:
        yield server


@pytest.fixture
def bundles(
    make_daemon: MakeDaemon,
    shared: RunningDaemon,
    variants: Variants,
    index: IndexServer,
    wheels: Path,
    tmp_path: Path,
) -> RunningDaemon:
    """A daemon, not yet started, with two variants whose bundles come from a local index."""
    with shared.connect() as client:  # share the decoder's bundle with the other tests
        media = Path(client.natives.install("media")["path"]).parent
    native_dir = tmp_path / "native"
    native_dir.mkdir()
    (native_dir / media.name).symlink_to(media)
    described = [
        {"name": f"toy-{name}", "lock": str(tmp_path / f"{name}.lock")} for name in ("fast", "plain")
    ]
    for name in ("fast", "plain"):
        bundle = lock_wheels(f"toy-{name}", *wheels.glob(f"{name}lib-*.whl"))
        (tmp_path / f"{name}.lock").write_text(bundle.lock)
    settings = {
        **variants(*described),
        "WHISPERD_NATIVE_DIR": str(native_dir),
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_INDEX_URL": index.url,
        "PIP_NO_CACHE_DIR": "1",
        "PIP_RETRIES": "0",
        "PIP_RESUME_RETRIES": "0",
    }
    return make_daemon(env=settings)


def another_wheel(wheels: Path, _: Path) -> None:
    """Make the index serve another file than the lock states."""
    make_wheel(wheels, "fastlib", files={"more.py": b"HERE = True\n"})


def no_wheel(wheels: Path, _: Path) -> None:
    (wheels / "fastlib-1.0-py3-none-any.whl").unlink()


def no_room(_: Path, lock: Path) -> None:
    """Make the bundle larger than any disk."""
    text = lock.read_text()
    row = next(line for line in text.splitlines() if "py3-none-any" in line)
    size = row.split(",")[1].strip()
    lock.write_text(text.replace(row, row.replace(size, str(10**18), 1)))


def corrupt_wheel(wheels: Path, lock: Path) -> None:
    """Make the lock from a wheel whose record is wrong."""
    make_wheel(wheels, "fastlib", wrong_record="fastlib/__init__.py")
    lock.write_text(lock_wheels("toy-fast", wheels / "fastlib-1.0-py3-none-any.whl").lock)


@pytest.mark.parametrize(
    ("harm", "code"),
    [
        (another_wheel, "native.hash_mismatch"),
        (no_wheel, "native.not_found"),
        (no_room, "disk.full"),
        (corrupt_wheel, "native.install_failed"),
    ],
)
def test_a_bundle_that_cannot_be_installed(
    bundles: RunningDaemon,
    wheels: Path,
    tmp_path: Path,
    toy: Toy,
    sound: Path,
    harm: Callable[[Path, Path], None],
    code: str,
) -> None:
    harm(wheels, tmp_path / "fast.lock")
    bundles.start()
    with bundles.connect() as client:
        create(client, toy())
        transcribe(client, sound, "mine")
        shown = show(client)
        assert shown["variant"] == "toy-plain"
        assert "toy-fast failed" in shown["note"]
        assert "toy-fast failed" in shown["history"][1]["detail"]
        assert code in bundles.log()
        installed = [one["name"] for one in client.natives.list() if one["name"].startswith("toy-")]
        assert "toy-plain" in installed
        # Installing it by name is an error.
        with pytest.raises(WhisperdError) as raised:
            client.natives.install("toy-fast")
        assert raised.value.code == code


def test_a_bundle_that_must_be_built_is_not_built_unasked(
    bundles: RunningDaemon, tmp_path: Path, toy: Toy, sound: Path
) -> None:
    described = json.loads((tmp_path / "variants.json").read_text())
    assert described[0]["name"] == "toy-fast"
    described[0]["build"] = {}
    (tmp_path / "variants.json").write_text(json.dumps(described))
    bundles.start()
    with bundles.connect() as client:
        create(client, toy())
        transcribe(client, sound, "mine")
        assert (show(client)["variant"], show(client)["note"]) == ("toy-plain", None)
        client.natives.install("toy-fast")
        client.request("runtimes.unload", name="mine")
        transcribe(client, sound, "mine")
        assert (show(client)["variant"], show(client)["note"]) == ("toy-fast", None)


def half_installed(native_dir: Path) -> Sequence[Path]:
    return [path for path in native_dir.glob(".staging/*") if path.is_dir()]


def test_no_partial_installation_is_left(
    bundles: RunningDaemon, wheels: Path, tmp_path: Path, toy: Toy, sound: Path
) -> None:
    another_wheel(wheels, tmp_path)
    bundles.start()
    with bundles.connect() as client:
        create(client, toy())
        transcribe(client, sound, "mine")
    assert not half_installed(tmp_path / "native")
    assert not list((tmp_path / "native").glob("*/toy-fast"))
