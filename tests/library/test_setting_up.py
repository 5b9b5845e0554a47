"""`whisperd.initialize()` and `whisperd.download_model()` fetch and verify what is needed."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from whisperd.library.setup import _state_folder
from whisperd_testing import LIMIT_S, TESTS, RunningDaemon, run_python, until

sys.path += [str(TESTS / "models"), str(TESTS / "natives")]

from hub_server import Hub, running_hub
from toy_models import REPO, content, tiny_files
from wheel_maker import lock_wheels, make_wheel

Run = Callable[..., str]


@pytest.fixture
def hub(surroundings: RunningDaemon, tmp_path: Path) -> Iterator[Hub]:
    """The only model source; it has a single model."""
    surroundings.settings("[models]\npackage_index = false\n")
    with running_hub() as running:
        running.add(REPO, tiny_files())
        surroundings.env |= {
            "HF_ENDPOINT": running.url,
            "HF_HUB_OFFLINE": "0",
            "HF_HOME": str(tmp_path / "hf"),
            "HF_TOKEN": "",
            "WHISPERD_MODELS_DIR": str(tmp_path / "store"),
        }
        yield running


def test_importing_whisperd_is_lightweight() -> None:
    """And all names in `__all__` exist."""
    code = (
        "import sys, whisperd; before = sorted(sys.modules)\n"
        "names = [getattr(whisperd, one).__name__ for one in whisperd.__all__ if one != '__version__']\n"
        "import json; print(json.dumps([before, names]))"
    )
    before, names = json.loads(run_python(code, env={"PATH": ""}))
    assert not {"anyio", "msgspec", "asyncio", "whisperd.library", "whisperd.client"} & set(before)
    assert {"Whisper", "AsyncWhisper", "initialize", "download_model", "Progress"} <= set(names)


def test_the_folder_of_a_program_is_locked_against_cleaners_of_tmp() -> None:
    fcntl = pytest.importorskip("fcntl")
    with _state_folder() as folder:
        others = os.open(folder, os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(others, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(others)
    assert not folder.exists()


def test_a_model_is_downloaded_once_with_progress(run: Run, hub: Hub) -> None:
    code = """
    import threading
    told = []
    def tell(progress):
        assert threading.current_thread() is threading.main_thread()
        told.append(progress)
    path = whisperd.download_model(sys.argv[1], progress=tell)
    assert {one.detail for one in told} == {"downloading", "verifying"}
    last = [one for one in told if one.detail == "downloading"][-1]
    assert last.done == last.total and sys.argv[1] in str(last)
    assert whisperd.download_model(sys.argv[1]) == path
    print(path)
    """
    assert content(run(code, REPO).strip()) == tiny_files()
    asked = len(hub.requests)
    run("whisperd.download_model(sys.argv[1])", REPO)
    assert len(hub.requests) == asked


def test_a_cancelled_download_resumes(
    start: Callable[..., object], run: Run, hub: Hub, tmp_path: Path
) -> None:
    hub.stall_after = 1_000_000
    code = """
    import threading
    cancel = threading.Event()
    threading.Thread(target=lambda: (input(), cancel.set()), daemon=True).start()
    try:
        whisperd.download_model(sys.argv[1], cancel=cancel)
    except whisperd.WhisperdError as error:
        print(error.code, bool(error.fix))
    import psutil
    print(psutil.Process().children())
    """
    program = start(code, REPO)
    parts = tmp_path / "store" / "partial"
    until(lambda: any(part.stat().st_size == 1_000_000 for part in parts.glob("*/*.partial")), "a part")
    assert program.communicate("\n", LIMIT_S) == ("download.cancelled True\n[]\n", "")  # type: ignore[attr-defined]
    hub.stall_after = None
    served = dict(hub.served)
    run("whisperd.download_model(sys.argv[1])", REPO)
    assert hub.served["model.bin"] - served["model.bin"] == 2_000_000


def test_an_exception_in_the_callback_ends_the_download(run: Run, hub: Hub) -> None:
    hub.stall_after = 1_000_000
    code = """
    def tell(progress):
        raise KeyError(progress.name)
    try:
        whisperd.download_model(sys.argv[1], progress=tell)
    except KeyError as error:
        import psutil
        print(error, psutil.Process().children())
    """
    assert run(code, REPO) == f"'{REPO}' []\n"


def test_an_asynchronous_download_is_cancelled(run: Run, hub: Hub) -> None:
    hub.stall_after = 1_000_000
    code = """
    import anyio, threading
    async def main():
        with anyio.CancelScope() as scope:
            await whisperd.adownload_model(sys.argv[1], lambda progress: scope.cancel())
        assert scope.cancelled_caught
        cancel = threading.Event()
        try:
            await whisperd.adownload_model(sys.argv[1], lambda progress: cancel.set(), cancel=cancel)
        except whisperd.WhisperdError as error:
            print(error.code)
    anyio.run(main)
    """
    assert run(code, REPO) == "download.cancelled\n"


@pytest.mark.parametrize(
    ("name", "env", "code"),
    [
        ("no such model", {}, "model.unknown"),
        (REPO, {"WHISPERD_OFFLINE": "1"}, "model.offline"),
        ("Someone/nothing", {}, "hub.unauthorised"),
    ],
)
def test_failed_downloads_raise_errors_with_a_fix(
    run: Run, surroundings: RunningDaemon, hub: Hub, name: str, env: dict[str, str], code: str
) -> None:
    surroundings.env |= env
    program = """
    try:
        whisperd.download_model(sys.argv[1])
    except whisperd.WhisperdError as error:
        print(error.code, bool(error.fix))
    """
    assert run(program, name) == f"{code} True\n"


@pytest.mark.real
def test_initialize_with_everything_installed(run: Run) -> None:
    code = """
    import anyio
    told = []
    engine = whisperd.initialize(told.append)
    assert {one.name for one in told} == {"media"}
    assert anyio.run(whisperd.ainitialize) == engine
    print(*engine)
    """
    assert run(code) == "toy-cpu cpu None None None\n"


@pytest.mark.real
def test_initialize_falls_back_to_the_next_best_variant(
    run: Run, surroundings: RunningDaemon, tmp_path: Path
) -> None:
    toy = surroundings.env.pop("PYTHONPATH")
    code = """
    engine = whisperd.initialize()
    assert engine.path.is_dir() and engine.version and engine.tried
    print(engine.variant)
    """
    best = run(code)
    lock = tmp_path / "toy.lock"
    lock.write_text(lock_wheels("toy-cpu", make_wheel(tmp_path, "toylib", "1.0")).lock)
    surroundings.env |= {"TOY_LOCK": str(lock), "WHISPERD_OFFLINE": "1", "PYTHONPATH": toy}
    assert run(code) == best != "toy-cpu\n"
