"""`whisperctl natives` over the life of a bundle: upgraded under a running daemon, tried, rolled back."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from index_server import IndexServer
from wheel_maker import lock_wheels, make_wheel

from whisperd_testing import LIMIT_S, RunningDaemon, runtime_with, until

pytestmark = pytest.mark.real

NAME = "toy-cpu"


def make_engine(wheels: Path, version: str, says: str) -> Path:
    return make_wheel(wheels, "engine", version, files={"core.py": f"SAYS = {says!r}\n".encode()})


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    """An index with the shipped version 2.1 of the engine; tests add newer ones."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    make_engine(folder, "2.1", "well")
    return folder


@pytest.fixture
def daemon(
    make_daemon: Callable[..., RunningDaemon], wheels: Path, index: IndexServer, tmp_path: Path
) -> RunningDaemon:
    """A daemon whose only variant has a bundle, and whose model store is empty."""
    bundle = lock_wheels(NAME, wheels / "engine-2.1-py3-none-any.whl", ranges={"engine": ">=2,<3"})
    lock = tmp_path / "toy.lock"
    lock.write_text(bundle.lock)
    return make_daemon(
        env={
            "TOY_LOCK": str(lock),
            "TOY_ENGINE": "speaking_engine:load",
            "WHISPERD_NATIVE_DIR": str(tmp_path / "native"),
            "WHISPERD_MODELS_DIR": str(tmp_path / "models"),
        }
    ).start()


def described(daemon: RunningDaemon) -> dict[str, object]:
    with daemon.connect() as client:
        (bundle,) = (one for one in client.natives.list() if one["name"] == NAME)
    return {key: bundle[key] for key in ("installed", "current", "previous")}


def test_upgrade_use_and_rollback(daemon: RunningDaemon, wheels: Path, toy: Callable[..., str]) -> None:
    daemon.ctl("natives", "install", NAME)
    make_engine(wheels, "2.2", "well")
    daemon.ctl("runtimes", "create", "mine", "--model", toy())
    done = daemon.ctl("--json", "natives", "upgrade", NAME)
    assert done.status == 0, done
    assert (done.json["version"], done.json["before"], done.json["changed"]) == ("2.2", "2.1", True)
    assert "it transcribed" in done.json["tried"]
    assert described(daemon) == {"installed": ["2.1", "2.2"], "current": "2.2", "previous": "2.1"}
    said = daemon.ctl("natives", "upgrade")
    assert f"{NAME} 2.2 is the newest version" in said.out
    (answer,) = daemon.ctl("--json", "natives", "upgrade").json  # all bundles: always a list
    assert (answer["name"], answer["changed"]) == (NAME, False)
    back = daemon.ctl("natives", "rollback", NAME)
    assert f"{NAME} is rolled back to 2.1" in back.out
    assert described(daemon) == {"installed": ["2.1", "2.2"], "current": "2.1", "previous": "2.2"}
    removed = daemon.ctl("--json", "natives", "remove", NAME, "--version", "2.2")
    assert removed.json["removed"] == ["2.2"]
    assert described(daemon) == {"installed": ["2.1"], "current": "2.1", "previous": None}
    again = daemon.ctl("--json", "natives", "remove", NAME, "--version", "2.2")
    assert (again.status, again.json["error"]["fix"]) == (4, "Choose an installed version: 2.1.")
    nothing = daemon.ctl("natives", "rollback", NAME)
    assert nothing.status == 4
    assert "was not upgraded" in nothing.err


def test_unused_versions_are_deleted_on_demand(daemon: RunningDaemon) -> None:
    path = Path(daemon.ctl("natives", "install", NAME, "--json").json["path"])
    assert daemon.ctl("natives", "prune").out.startswith("Nothing to remove")
    assert daemon.ctl("natives", "prune", "--json").json == []
    older = path.parent.with_name("2.0-cp311-1a2b3c4d") / NAME
    shutil.copytree(path, older)
    assert daemon.ctl("natives", "prune").out == f"{NAME} 2.1 is removed: {older}\n"
    assert path.exists() and not older.exists()


def test_a_loaded_runtime_keeps_its_version_until_it_is_loaded_again(
    daemon: RunningDaemon, wheels: Path, toy: Callable[..., str]
) -> None:
    model = toy()

    def loaded() -> tuple[int, str]:
        with daemon.connect() as client:
            runtime = runtime_with(client, model)
        return runtime["pid"], runtime["loaded"]["library"]

    daemon.ctl("runtimes", "create", "mine", "--model", model)
    daemon.ctl("runtimes", "load", "mine")
    pid, library = loaded()
    assert library == "engine 2.1"
    make_engine(wheels, "2.2", "well")
    assert daemon.ctl("natives", "upgrade", NAME).status == 0
    assert loaded() == (pid, "engine 2.1")
    daemon.ctl("runtimes", "unload", "mine")
    daemon.ctl("runtimes", "load", "mine")
    assert loaded()[1] == "engine 2.2"


@pytest.mark.parametrize(
    ("says", "why"), [("nonsense", "speech wrongly"), ("abort", "SIGABRT")], ids=["nonsense", "abort"]
)
def test_a_version_that_fails_its_trial_is_not_used(
    daemon: RunningDaemon, wheels: Path, toy: Callable[..., str], says: str, why: str
) -> None:
    daemon.ctl("natives", "install", NAME)
    daemon.ctl("runtimes", "create", "mine", "--model", toy())
    make_engine(wheels, "2.2", says)
    failed = daemon.ctl("natives", "upgrade", NAME)
    assert failed.status == 1
    assert "2.1 stays in use" in failed.err
    assert why in failed.err
    assert described(daemon) == {"installed": ["2.1"], "current": "2.1", "previous": None}
    assert daemon.workers() == []


def test_without_a_model_the_trial_only_loads_the_engine(daemon: RunningDaemon, wheels: Path) -> None:
    make_engine(wheels, "2.2", "well")
    done = daemon.ctl("--json", "natives", "upgrade", NAME)
    assert "no model is installed" in done.json["tried"]
    make_wheel(wheels, "engine", "2.3", files={"core.py": b"import a_module_that_is_not_there\n"})
    failed = daemon.ctl("natives", "upgrade", NAME)
    assert failed.status == 1
    assert "a_module_that_is_not_there" in failed.err
    assert described(daemon)["current"] == "2.2"


def test_ctrl_c_leaves_nothing(
    daemon: RunningDaemon, wheels: Path, index: IndexServer, tmp_path: Path
) -> None:
    daemon.ctl("natives", "install", NAME)
    newer = make_engine(wheels, "2.2", "well")
    index.holds = newer.name
    index.half_way.clear()
    index.gate.clear()
    command = [sys.executable, "-P", "-m", "whisperd.cli.main", "natives", "upgrade", NAME]
    with subprocess.Popen(command, env=daemon.env, stderr=subprocess.PIPE) as upgrade:
        assert index.half_way.wait(LIMIT_S)
        upgrade.send_signal(signal.SIGINT)
        assert upgrade.wait(LIMIT_S) == 130
    staging = tmp_path / "native" / ".staging"
    until(lambda: not list(staging.iterdir()), "the staging folder to be empty")
    assert described(daemon) == {"installed": ["2.1"], "current": "2.1", "previous": None}
