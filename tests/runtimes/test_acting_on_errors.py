"""Errors that a user can act on, each caused through a real daemon and its socket.

| code | caused by |
| --- | --- |
| `memory.not_enough` | an impossible allocation; last words of C++; a process killed for its memory |
| `memory.gpu_not_enough`, `cuda.driver_too_old`, `cuda.not_available` | the words of the library |
| `library.missing`, `library.wrong_architecture` | a library: deleted, 32-bit, for another processor |
| `library.wrong_architecture` | an instruction that the processor lacks |
| `disk.full` | more than is free; a file that cannot grow, of a model and of a bundle |
| `model.read_only`, `native.not_writable` | folders without write permission |
| `download.stuck`, `network.unreachable` | a hub and an index that fall silent in mid-file |
| `model.unknown`, `hub.not_found` | names that do not exist |
| `hub.unauthorised` | a gated repository |
| `network.captive_portal` | a login page in place of the hub |
| `model.hash_mismatch`, `native.hash_mismatch` | a wrong byte |

Each needs a message without system jargon and a fix that says what to do next and names its subject, and the
daemon must keep working. The other failures of the hub, pip and stores are in `tests/models` and
`tests/natives`; everything that libraries say is in `tests/worker/test_faults.py`.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from whisperd.client import Client
from whisperd.rpc.errors import WhisperdError
from whisperd_testing import (
    TESTS,
    RunningDaemon,
    loads,
    start_with_small_files,
    start_without_privileges,
    write_tone,
)

sys.path += [str(TESTS / "models"), str(TESTS / "natives")]

from hub_server import Answer, Hub, running_hub
from index_server import IndexServer, serve_index
from toy_models import REPO, tiny_files
from wheel_maker import lock_wheels, make_wheel

pytestmark = pytest.mark.real

MakeDaemon = Callable[..., RunningDaemon]
Toy = Callable[..., str]
EXABYTE = 10**18

posix_only = pytest.mark.skipif(os.name != "posix", reason="needs POSIX limits and permissions")
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux libraries and counters")


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tone(tmp_path_factory.mktemp("audio") / "tone.wav", 2.0)


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running_hub() as running:
        running.add(REPO, tiny_files())
        yield running


@pytest.fixture
def downloads(make_daemon: MakeDaemon, hub: Hub, tmp_path: Path) -> RunningDaemon:
    """A daemon, not yet started, that knows only this hub and has its own store."""
    places = {
        "HF_ENDPOINT": hub.url,
        "HF_HUB_OFFLINE": "0",
        "HF_HOME": str(tmp_path / "hf"),
        "HF_TOKEN": "",
        "WHISPERD_MODELS_DIR": str(tmp_path / "store"),
    }
    daemon = make_daemon(env=places)
    daemon.settings("[models]\npackage_index = false\n")
    return daemon


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    """A folder with the wheel of the bundle `toy-cpu`, which contains a real shared library."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    found = importlib.util.find_spec("msgspec._core")
    assert found is not None and found.origin is not None
    library = Path(found.origin).read_bytes() + bytes(2 * 2**20)
    make_wheel(folder, "toylib", "1.0", files={"lib.so": library})
    return folder


@pytest.fixture
def index(wheels: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[IndexServer]:
    for variable in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(variable)
    with serve_index(wheels) as server:
        yield server


@pytest.fixture
def bundles(make_daemon: MakeDaemon, index: IndexServer, wheels: Path, tmp_path: Path) -> RunningDaemon:
    """A daemon, not yet started, whose toy engine has a native bundle on a local index."""
    lock = tmp_path / "toy.lock"
    lock.write_text(lock_wheels("toy-cpu", *wheels.glob("*.whl")).lock)
    settings = {
        "TOY_LOCK": str(lock),
        "WHISPERD_NATIVE_DIR": str(tmp_path / "native"),
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_INDEX_URL": index.url,
        "PIP_NO_CACHE_DIR": "1",
        "PIP_RETRIES": "0",
        "PIP_RESUME_RETRIES": "0",
    }
    return make_daemon(env=settings)


def failure(ask: Callable[..., Any], *arguments: Any, **options: Any) -> WhisperdError:
    """Return the error of a request, and check that users can read it."""
    with pytest.raises(WhisperdError) as raised:
        ask(*arguments, **options)
    error = raised.value
    for sentence in (error.message, error.fix):
        assert sentence.endswith(".") and not sentence.endswith(".."), sentence
        assert "\n" not in sentence
        for jargon in ("Errno", "Traceback", "Exception"):
            assert jargon not in sentence
    return error


def transcription_fails(client: Client, sound: Path, model: str) -> WhisperdError:
    return failure(client.transcribe, sound, model=model, vad=False, language="en")


def check_it_transcribes(client: Client, sound: Path, model: str) -> None:
    assert client.transcribe(sound, model=model, vad=False, language="en").text == "transcribe 2.00 s"


def check_it_downloads(client: Client) -> None:
    assert client.models.pull(REPO)["installed"]


# Memory and the GPU.

LACK_OF_MEMORY = {"needed": None, "free": None, "largest": None}
OUT_OF_GPU_MEMORY = "CUDA failed with error out of memory"
OLD_DRIVER = "CUDA failed with error CUDA driver version is insufficient for CUDA runtime version"
NO_GPU = "CUDA failed with error no CUDA-capable device is detected"


@pytest.mark.parametrize("when", ["load_error", "exception"])
@pytest.mark.parametrize(
    ("words", "code", "fix"),
    [
        (OUT_OF_GPU_MEMORY, "memory.gpu_not_enough", ("smaller model", "--batch-size", "--device cpu")),
        (OLD_DRIVER, "cuda.driver_too_old", ("Update the NVIDIA driver", "--device cpu")),
        (NO_GPU, "cuda.not_available", ("nvidia-smi", "--device cpu")),
    ],
)
def test_errors_of_a_gpu_library(
    shared: RunningDaemon, toy: Toy, sound: Path, when: str, words: str, code: str, fix: tuple[str, ...]
) -> None:
    with shared.connect() as client:
        error = transcription_fails(client, sound, toy("bad", **{when: words}))
        assert error.code == code
        assert "GPU" in error.message
        assert all(part in error.fix for part in fix)
        assert words in error.data["said"]
        check_it_transcribes(client, sound, toy("good"))


@posix_only
@pytest.mark.parametrize("when", ["load_memory", "batch_memory"])
def test_an_impossible_allocation(shared: RunningDaemon, toy: Toy, sound: Path, when: str) -> None:
    model = toy("large", **{when: 2**46 + 2**45})
    with shared.connect() as client:
        error = transcription_fails(client, sound, model)
        assert error.code == "memory.not_enough"
        assert model in error.message
        assert "smaller model" in error.fix and "`whisperctl models available`" in error.fix
        assert error.data.items() >= LACK_OF_MEMORY.items()
        check_it_transcribes(client, sound, toy("small"))


@posix_only
def test_the_last_words_of_an_engine_out_of_memory(shared: RunningDaemon, toy: Toy, sound: Path) -> None:
    words = "terminate called after throwing an instance of 'std::bad_alloc'\n  what():  std::bad_alloc"
    with shared.connect() as client:
        error = transcription_fails(client, sound, toy("large", load_words=words))
        assert error.code == "memory.not_enough"
        assert (error.data["how"], words in error.data["stderr"]) == ("signal SIGABRT", True)
        check_it_transcribes(client, sound, toy("small"))


@pytest.fixture
def small_memory() -> Iterator[Callable[[int], None]]:
    """Confine a process, and those it starts later, to 800 MiB of memory."""
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    memberships = {controllers: path for _, controllers, path in (line.split(":", 2) for line in lines)}
    version_1 = "memory" in memberships
    root = Path("/sys/fs/cgroup", "memory") if version_1 else Path("/sys/fs/cgroup")
    own = root / memberships["memory" if version_1 else ""].lstrip("/")
    group = own / f"whisperd-test-{uuid.uuid4().hex[:8]}"
    limit = group / ("memory.limit_in_bytes" if version_1 else "memory.max")
    swap = group / ("memory.swappiness" if version_1 else "memory.swap.max")

    def confine(pid: int) -> None:
        (group / "cgroup.procs").write_text(str(pid))

    try:
        group.mkdir()
    except OSError:
        pytest.skip("only root may limit the memory of a group of processes")
    try:
        if not limit.exists():
            pytest.skip("the memory of this group of processes cannot be limited")
        limit.write_text(str(800 * 2**20))
        if swap.exists():
            swap.write_text("0")
        yield confine
    finally:
        group.rmdir()


@linux_only
@pytest.mark.parametrize(("when", "times"), [("load_memory", 1), ("batch_memory", 2)])
def test_an_engine_killed_by_the_system_for_its_memory(
    small_memory: Callable[[int], None], make_daemon: MakeDaemon, toy: Toy, sound: Path, when: str, times: int
) -> None:
    daemon = make_daemon().start()
    small_memory(daemon.pid)
    model = toy("large", **{when: 3 * 2**29})
    with daemon.connect() as client:
        error = transcription_fails(client, sound, model)
        assert error.code == "memory.not_enough"
        assert error.data.items() >= {**LACK_OF_MEMORY, "how": "signal SIGKILL"}.items()
        assert len(loads(model)) >= times
        check_it_transcribes(client, sound, toy("small"))


@posix_only
def test_an_engine_killed_by_another_program(shared: RunningDaemon, toy: Toy, sound: Path) -> None:
    with shared.connect() as client:
        error = transcription_fails(client, sound, toy(load_signal="SIGKILL"))
        assert error.code == "worker.died"
        assert "`whisperctl daemon logs`" in error.fix


# Libraries.


def make_32_bit(library: Path) -> None:
    data = library.read_bytes()
    library.write_bytes(data[:4] + b"\x01" + data[5:])


def make_for_another_processor(library: Path) -> None:
    data = library.read_bytes()
    library.write_bytes(data[:18] + b"\xf3\x00" + data[20:])  # RISC-V


@linux_only
@pytest.mark.parametrize(
    ("harm", "code"),
    [
        (Path.unlink, "library.missing"),
        (make_32_bit, "library.wrong_architecture"),
        (make_for_another_processor, "library.wrong_architecture"),
    ],
)
def test_a_library_that_cannot_be_loaded(
    shared: RunningDaemon,
    bundles: RunningDaemon,
    toy: Toy,
    sound: Path,
    tmp_path: Path,
    harm: Callable[[Path], None],
    code: str,
) -> None:
    with toy_bundle(shared, bundles) as (client, bundled):
        library = tmp_path / "lib.so"  # like a system library that the bundle needs
        library.write_bytes(bundled.read_bytes())
        model = toy(load_library=str(library))
        harm(library)
        error = transcription_fails(client, sound, model)
        assert error.code == code
        assert error.data["library"] == str(library) and str(library) in error.message
        assert "`whisperctl natives install toy-cpu`" in error.fix
        library.write_bytes(bundled.read_bytes())
        check_it_transcribes(client, sound, model)


@linux_only
@pytest.mark.parametrize("harm", [Path.unlink, make_32_bit, make_for_another_processor])
def test_a_damaged_library_of_the_bundle_is_repaired_before_loading(
    shared: RunningDaemon,
    bundles: RunningDaemon,
    toy: Toy,
    sound: Path,
    harm: Callable[[Path], None],
) -> None:
    with toy_bundle(shared, bundles) as (client, library):
        whole = library.read_bytes()
        library.parent.chmod(0o700)
        harm(library)
        check_it_transcribes(client, sound, toy(load_library=str(library)))
        assert library.read_bytes() == whole


@contextmanager
def toy_bundle(shared: RunningDaemon, bundles: RunningDaemon) -> Iterator[tuple[Client, Path]]:
    """Yield a client of a daemon with the toy engine's bundle, and the bundle's library."""
    with shared.connect() as client:  # share the decoder's bundle with the other tests
        media = Path(client.natives.install("media")["path"]).parent
    native_dir = Path(bundles.env["WHISPERD_NATIVE_DIR"])
    native_dir.mkdir()
    (native_dir / media.name).symlink_to(media)
    bundles.start()
    with bundles.connect() as client:
        yield client, Path(client.natives.install("toy-cpu")["path"], "toylib", "lib.so")


@posix_only
def test_a_processor_that_is_too_old_for_the_engine(shared: RunningDaemon, toy: Toy, sound: Path) -> None:
    with shared.connect() as client:
        error = transcription_fails(client, sound, toy("new", load_signal="SIGILL"))
        assert error.code == "library.wrong_architecture"
        assert "instructions" in error.message and "--backend" in error.fix
        check_it_transcribes(client, sound, toy("old"))


# Disks.


def test_a_model_larger_than_the_disk(downloads: RunningDaemon, hub: Hub) -> None:
    (commit,) = hub.repos[REPO]
    lfs = {"sha256": "0" * 64, "size": EXABYTE, "pointerSize": 134}
    large = {"rfilename": "model.bin", "size": EXABYTE, "blobId": "0" * 40, "lfs": lfs}
    small = [
        {"rfilename": name, "size": 2, "blobId": "0" * 40} for name in tiny_files() if name != "model.bin"
    ]
    listing = json.dumps({"id": REPO, "sha": commit, "siblings": [large, *small]}).encode()
    hub.answers.append(Answer("/api/models/", 200, {"Content-Type": "application/json"}, listing, times=1))
    downloads.start()
    with downloads.connect() as client:
        error = failure(client.models.pull, REPO)
        assert error.code == "disk.full"
        assert error.data["needed_bytes"] >= EXABYTE > error.data["free_bytes"] > 0
        assert error.data["path"] in error.message
        assert "Free some space" in error.fix and "WHISPERD_MODELS_DIR" in error.fix
        assert hub.served == {}
        assert client.daemon.status()


@posix_only
def test_a_disk_that_fills_up_during_a_model_download(downloads: RunningDaemon, hub: Hub) -> None:
    start_with_small_files(downloads)
    with downloads.connect() as client:
        error = failure(client.models.pull, REPO)
        assert error.code == "disk.full"
        assert REPO in error.message and "`whisperctl models remove NAME`" in error.fix
        hub.add(REPO, {**tiny_files(), "model.bin": b"little"})
        check_it_downloads(client)


def test_a_bundle_larger_than_the_disk(bundles: RunningDaemon, index: IndexServer) -> None:
    lock = Path(bundles.env["TOY_LOCK"])
    text = lock.read_text()
    size = next(word for word in text.replace(",", " ").split() if word.isdigit() and int(word) > 2 * 2**20)
    lock.write_text(text.replace(size, str(EXABYTE)))
    bundles.start()
    with bundles.connect() as client:
        error = failure(client.natives.install, "toy-cpu")
        assert error.code == "disk.full"
        assert error.data["needed_bytes"] >= EXABYTE
        assert "Free some space" in error.fix and "WHISPERD_NATIVE_DIR" in error.fix
        assert index.downloads == []
        assert client.daemon.status()


@posix_only
def test_a_disk_that_fills_up_during_a_bundle_installation(bundles: RunningDaemon) -> None:
    start_with_small_files(bundles)
    with bundles.connect() as client:
        error = failure(client.natives.install, "toy-cpu")
        assert error.code == "disk.full"
        assert "toy-cpu" in error.message and "WHISPERD_NATIVE_DIR" in error.fix
        assert client.daemon.status()


@posix_only
def test_read_only_folders(downloads: RunningDaemon, index: IndexServer, bundles: RunningDaemon) -> None:
    models = Path(downloads.env["WHISPERD_MODELS_DIR"])
    natives = Path(bundles.env["WHISPERD_NATIVE_DIR"])
    for folder in (models, natives):
        folder.mkdir(mode=0o500)
    downloads.env |= {name: bundles.env[name] for name in ("TOY_LOCK", "WHISPERD_NATIVE_DIR")}
    try:
        start_without_privileges(downloads)
        with downloads.connect() as client:
            for ask, name, code, folder, setting in (
                (client.models.pull, REPO, "model.read_only", models, "WHISPERD_MODELS_DIR"),
                (client.natives.install, "toy-cpu", "native.not_writable", natives, "WHISPERD_NATIVE_DIR"),
            ):
                error = failure(ask, name)
                assert error.code == code
                assert name in error.message and str(folder) in error.message
                assert setting in error.fix and error.data["path"] == str(folder)
            assert client.daemon.status()
    finally:
        for folder in (models, natives):
            folder.chmod(0o700)


# Downloads.


def test_a_hub_that_falls_silent(downloads: RunningDaemon, hub: Hub) -> None:
    hub.stall_after = 1_000_000
    downloads.settings("[models]\npackage_index = false\nstall_timeout_s = 2.0\n")
    downloads.start()
    with downloads.connect() as client:
        error = failure(client.models.pull, REPO)
        assert error.code == "download.stuck"
        assert REPO in error.message and "no data" in error.message.lower()
        assert "resumes" in error.fix
        assert [child.cmdline() for child in downloads.children()] == [], "the download process has ended"
        client.daemon.stop()
    downloads.wait()
    hub.gate.set()
    downloads.settings("[models]\npackage_index = false\n")  # the usual timeout: this computer may be busy
    with downloads.start().connect() as client:
        check_it_downloads(client)


def test_an_index_that_falls_silent(bundles: RunningDaemon, index: IndexServer) -> None:
    index.holds = "toylib"
    index.gate.clear()
    bundles.env["PIP_DEFAULT_TIMEOUT"] = "2"
    bundles.start()
    with bundles.connect() as client:
        error = failure(client.natives.install, "toy-cpu")
        assert error.code == "network.unreachable"
        assert "stopped responding" in error.message and "proxy" in error.fix
        index.gate.set()
        assert client.natives.install("toy-cpu")["name"] == "toy-cpu"


def test_models_that_do_not_exist(downloads: RunningDaemon, hub: Hub) -> None:
    hub.answers.append(Answer("/api/models/Gone/", 404, {"X-Error-Code": "RepoNotFound"}))
    downloads.start()
    with downloads.connect() as client:
        for name, code, fix in (
            ("tini.en", "model.unknown", "tiny.en"),
            ("Gone/model", "hub.not_found", "`whisperctl models available`"),
            ("Nobody/model", "hub.unauthorised", "Check the spelling"),  # the hub does not say which
            (f"{REPO}@nothing", "hub.not_found", "another revision"),
        ):
            error = failure(client.models.pull, name)
            assert error.code == code
            assert name.partition("@")[0] in error.message and fix in error.fix
        assert client.daemon.status()


def test_a_gated_repository(downloads: RunningDaemon, hub: Hub) -> None:
    hub.gated.add(REPO)
    downloads.start()
    with downloads.connect() as client:
        error = failure(client.models.pull, REPO)
        assert error.code == "hub.unauthorised"
        assert REPO in error.fix and "HF_TOKEN" in error.fix and "`whisperctl daemon restart`" in error.fix
        hub.gated.clear()
        check_it_downloads(client)


def test_a_login_page_in_place_of_the_hub(downloads: RunningDaemon, hub: Hub) -> None:
    downloads.start()
    with downloads.connect() as client:
        for path in ("/api/", "/resolve/"):
            hub.answers = [Answer(path, 200, {"Content-Type": "text/html"}, b"<html>Log in</html>")]
            error = failure(client.models.pull, REPO)
            assert error.code == "network.captive_portal"
            assert "login page" in error.message and "Log in" in error.fix
        hub.answers.clear()
        check_it_downloads(client)


def test_a_wrong_byte_of_a_model(downloads: RunningDaemon, hub: Hub) -> None:
    hub.flip = "model.bin"
    downloads.start()
    with downloads.connect() as client:
        error = failure(client.models.pull, REPO)
        assert error.code == "model.hash_mismatch"
        assert "model.bin" in error.message
        assert "another source" in error.fix and f"`whisperctl models remove {REPO}`" in error.fix
        assert client.models.list() == []
        hub.flip = None
        check_it_downloads(client)


def test_a_wrong_byte_of_a_bundle(bundles: RunningDaemon, index: IndexServer) -> None:
    index.behaviour = "wrong"
    bundles.start()
    with bundles.connect() as client:
        error = failure(client.natives.install, "toy-cpu")
        assert error.code == "native.hash_mismatch"
        assert "toylib" in error.message and "python -m pip cache purge" in error.fix
        index.behaviour = "serve"
        assert client.natives.install("toy-cpu")["name"] == "toy-cpu"
