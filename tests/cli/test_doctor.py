"""`whisperctl doctor`: each problem that it knows is created, and found."""

from __future__ import annotations

import getpass
import os
import platform
import re
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scripted_daemon import ScriptedDaemon
from whisperd.cli.commands.doctor import summary
from whisperd.rpc.errors import WhisperdError
from whisperd_testing import CACHE, TESTS, RunningDaemon, toy_model, write_tone

sys.path.append(str(TESTS / "natives"))

from wheel_maker import lock_wheels, make_wheel

posix_only = pytest.mark.skipif(os.name != "posix", reason="signals and permissions as on POSIX")
MakeDaemon = Callable[..., RunningDaemon]


@pytest.fixture
def user(make_daemon: MakeDaemon, tmp_path: Path) -> RunningDaemon:
    """A user without a daemon and with nothing installed."""
    places = {
        "WHISPERD_NATIVE_DIR": str(tmp_path / "native"),
        "WHISPERD_MODELS_DIR": str(tmp_path / "models"),
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": (tmp_path / "wheels").as_uri(),
        "COLUMNS": "200",
    }
    daemon = make_daemon(env=places)
    for variable in ("LD_PRELOAD", "LD_LIBRARY_PATH", "CUDA_PATH"):
        daemon.env.pop(variable, None)
    return daemon


def doctor(user: RunningDaemon, *options: str) -> tuple[int, dict[str, list[dict[str, Any]]]]:
    """Run the doctor; return the exit status and the checks by name."""
    done = user.ctl("doctor", "--json", *options)
    checks: dict[str, list[dict[str, Any]]] = {}
    for check in done.json["checks"]:
        assert set(check) == {"name", "status", "message", "fix"}
        assert bool(check["fix"]) == (check["status"] != "ok")
        checks.setdefault(check["name"], []).append(check)
    is_broken = any(check["status"] == "broken" for group in checks.values() for check in group)
    assert done.status == (1 if is_broken else 0)
    assert done.json["status"] == "broken" or not is_broken
    return done.status, checks


def check_finds(user: RunningDaemon, name: str, status: str, said: str, *options: str) -> None:
    """Check that the doctor reports exactly this problem under this name."""
    _, checks = doctor(user, *options)
    (found,) = [one for one in checks[name] if one["status"] != "ok"]
    assert found["status"] == status and said in f"{found['message']} {found['fix']}", found


@pytest.mark.parametrize(
    ("broken", "warnings", "said"),
    [
        (0, 0, "all is well"),
        (0, 1, "nothing is broken, 1 warning"),
        (1, 0, "1 thing is broken"),
        (2, 3, "2 things are broken, 3 warnings"),
    ],
)
def test_the_last_line_sums_up(broken: int, warnings: int, said: str) -> None:
    assert summary(broken, warnings) == said


class TestWithoutADaemon:
    def test_a_new_user_has_no_problems(self, user: RunningDaemon) -> None:
        status, checks = doctor(user, "--no-start")
        assert status == 0
        assert "not running" in checks["daemon"][0]["message"]
        assert "runtimes" not in checks
        assert not Path(user.env["WHISPERD_STATE_DIR"]).exists()
        assert not (Path(user.env["WHISPERD_MODELS_DIR"])).exists()

    def test_invalid_settings(self, user: RunningDaemon) -> None:
        user.settings("[runtime]\nworkerz = 2\n")
        check_finds(user, "settings", "broken", "Did you mean `workers`?")
        check_finds(user, "daemon", "broken", "No daemon responds.")

    def test_a_state_folder_that_is_a_file(self, user: RunningDaemon) -> None:
        Path(user.env["WHISPERD_STATE_DIR"]).touch()
        check_finds(user, "state folder", "broken", "is not a folder")
        check_finds(user, "daemon", "broken", "No daemon responds.")

    def test_an_invalid_database(self, user: RunningDaemon) -> None:
        state = Path(user.env["WHISPERD_STATE_DIR"])
        state.mkdir(mode=0o700)
        (state / "whisperd.sqlite3").write_text("this is no data base, though it is long enough" * 100)
        check_finds(user, "database", "broken", "whisperctl daemon restart", "--no-start")
        check_finds(
            user, "database", "warning", "damaged and replaced by an empty one"
        )  # the doctor has started the daemon

    def test_missing_bundles_and_models_in_offline_mode(self, user: RunningDaemon) -> None:
        user.env["WHISPERD_OFFLINE"] = "1"
        check_finds(user, "bundle", "broken", "media is not installed", "--no-start")
        check_finds(user, "models", "warning", "downloads are forbidden", "--no-start")

    def test_interfering_libraries(self, user: RunningDaemon, tmp_path: Path) -> None:
        (tmp_path / "cuda").mkdir()
        (tmp_path / "cuda" / "libcublas.so.11").touch()
        user.env["CUDA_PATH"] = "/no/such/folder"
        check_finds(user, "libraries", "warning", "CUDA_PATH", "--no-start")
        del user.env["CUDA_PATH"]
        if sys.platform == "linux":
            user.env["LD_LIBRARY_PATH"] = str(tmp_path / "cuda")
            check_finds(user, "libraries", "warning", "libcublas.so.11", "--no-start")
            del user.env["LD_LIBRARY_PATH"]
            user.env["LD_PRELOAD"] = "/no/such/library.so"
            check_finds(user, "libraries", "warning", "LD_PRELOAD loads /no/such/library.so", "--no-start")

    def test_a_plugin_that_cannot_be_imported(self, user: RunningDaemon, tmp_path: Path) -> None:
        info = tmp_path / "site" / "broken_backend-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-backend\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[whisperd]\nbroken = no_such_module\n")
        user.env["PYTHONPATH"] += f"{os.pathsep}{info.parent}"
        check_finds(user, "plugin", "warning", "broken", "--no-start")

    @posix_only
    def test_permissions(self, user: RunningDaemon) -> None:
        state, natives = (Path(user.env[name]) for name in ("WHISPERD_STATE_DIR", "WHISPERD_NATIVE_DIR"))
        state.mkdir()
        state.chmod(0o755)
        check_finds(user, "state folder", "warning", "chmod 700", "--no-start")
        natives.mkdir()
        natives.chmod(0o777)
        check_finds(user, "bundle folder", "warning", "chmod go-w", "--no-start")
        folder = Path(user.socket).parent
        folder.chmod(0o777)
        check_finds(user, "socket", "broken", f"chmod 700 {folder}", "--no-start")
        folder.chmod(0o700)

    @pytest.mark.skipif("os.name != 'posix' or os.geteuid() != 0", reason="only root can change owners")
    def test_a_file_of_another_user(self, user: RunningDaemon) -> None:
        state = Path(user.env["WHISPERD_STATE_DIR"])
        state.mkdir(mode=0o700)
        (state / "daemon.log").touch()
        os.chown(state / "daemon.log", 65534, 65534)
        check_finds(user, "state folder", "broken", "sudo chown -R", "--no-start")

    def test_something_else_in_place_of_the_socket(self, user: RunningDaemon) -> None:
        Path(user.socket).touch()
        check_finds(user, "socket", "broken", "is not a socket", "--no-start")
        Path(user.socket).unlink()


class TestWithADaemon:
    def test_a_healthy_daemon(self, user: RunningDaemon) -> None:
        status, checks = doctor(user.start())
        assert status == 0
        assert f"process {user.pid}" in checks["daemon"][0]["message"]
        assert "is the default" in checks["runtimes"][0]["message"]
        assert {one["status"] for group in checks.values() for one in group} == {"ok"}
        page = user.ctl("doctor")
        assert (page.status, page.err) == (0, "") and page.out.endswith("\nall is well\n")
        with user.connect() as client:
            asked = client.doctor.check()["checks"]
        assert [one["name"] for one in asked] == [name for name in checks for _ in checks[name]][2:]

    @posix_only
    def test_a_replaced_database(self, user: RunningDaemon) -> None:
        database = user.start().folder / "state" / "whisperd.sqlite3"
        shutil.copy(database, database.with_name("copy"))
        database.with_name("copy").replace(database)
        check_finds(user, "database", "broken", "deleted or replaced")

    def test_the_doctor_starts_the_daemon(self, user: RunningDaemon) -> None:
        _, checks = doctor(user)
        assert "responds, process" in checks["daemon"][0]["message"]

    @posix_only
    def test_a_killed_daemon(self, user: RunningDaemon) -> None:
        user.start()
        user.signal(signal.SIGKILL)
        user.wait()
        check_finds(user, "socket", "warning", "left behind", "--no-start")
        check_finds(user, "crashes", "warning", "The daemon ended once")  # a new daemon has started since
        _, checks = doctor(user)
        assert checks["socket"][0]["status"] == "ok"

    @posix_only
    def test_a_daemon_whose_socket_was_deleted(self, user: RunningDaemon) -> None:
        Path(user.start().socket).unlink()
        check_finds(user, "socket", "broken", "its socket", "--no-start")

    @posix_only
    def test_an_engine_that_crashes(self, user: RunningDaemon, tmp_path: Path) -> None:
        model = toy_model(tmp_path / "toy", load_signal="SIGSEGV")
        user.start()
        assert user.ctl("runtimes", "create", "ill", "--model", str(model), "--load").status == 1
        check_finds(user, "crashes", "warning", "An engine ended 3 times in the last 7 days (signal SIGSEGV)")
        check_finds(user, "runtime", "warning", "ill failed")

    def test_a_model_with_a_changed_byte(self, user: RunningDaemon, tmp_path: Path) -> None:
        user.start()
        assert user.ctl("models", "import", str(toy_model(tmp_path / "toy")), "mine").status == 0
        _, checks = doctor(user)
        assert checks["models"][0]["message"] == "mine: intact"
        (Path(user.env["WHISPERD_MODELS_DIR"]) / "installed" / "mine" / "model.bin").write_text("{]")
        check_finds(user, "model", "broken", "whisperctl models pull mine")

    def test_a_bundle_with_a_changed_byte(self, user: RunningDaemon, tmp_path: Path) -> None:
        (tmp_path / "wheels").mkdir()
        wheel = make_wheel(tmp_path / "wheels", "toylib", "1.0", files={"lib.so": bytes(1000)})
        (tmp_path / "toy.lock").write_text(lock_wheels("toy-cpu", wheel).lock)
        user.env["TOY_LOCK"] = str(tmp_path / "toy.lock")
        user.start()
        installed = user.ctl("natives", "install", "toy-cpu", "--json")
        assert installed.status == 0, installed
        _, checks = doctor(user)
        assert "toy-cpu 1.0, intact" in [one["message"] for one in checks["bundle"]]
        library = Path(installed.json["path"]) / "toylib" / "lib.so"
        library.write_bytes(bytes(999) + b"\1")
        check_finds(user, "bundle", "broken", "whisperctl natives install toy-cpu")
        assert user.ctl("natives", "install", "toy-cpu").status == 0
        assert doctor(user)[0] == 0


@posix_only
def test_a_daemon_of_another_version(user: RunningDaemon) -> None:
    """A daemon so old that it has no doctor: the client does the checks itself."""

    def unknown(_params: object) -> None:
        raise WhisperdError("rpc.unknown_method", "There is no method.", "Ask for another.")

    hello = {"server": "whisperd", "version": "0.0.1", "protocol": 1}
    old = ScriptedDaemon(
        Path(user.socket), session_hello=hello, daemon_status={"pid": 1}, doctor_check=unknown
    )
    check_finds(user, "daemon", "warning", "has version 0.0.1")
    _, checks = doctor(user)
    assert "settings" in checks and "runtimes" not in checks
    old.close()
    Path(user.socket).unlink()


@pytest.mark.real
def test_a_report_contains_nothing_private(
    user: RunningDaemon, tmp_path: Path, toy: Callable[..., str]
) -> None:
    home = tmp_path / "home" / "maria"
    home.mkdir(parents=True)
    (home / "talks").mkdir()
    user.env |= {
        "HOME": str(home),
        "USER": "maria",
        "LOGNAME": "maria",
        "WHISPERD_STATE_DIR": str(home / "state"),
        "WHISPERD_MODELS_DIR": str(home / "models"),
        "WHISPERD_NATIVE_DIR": str(CACHE / "native"),
        "LD_LIBRARY_PATH": str(home / "talks"),
    }
    (home / "talks" / "libcudnn.so.8").touch()
    user.start()
    recording = write_tone(home / "talks" / "divorce.wav", 2.0)
    poisoned = toy("Herr Schmidt", load_signal="SIGSEGV") if os.name == "posix" else toy(load_error="no")
    user.ctl("models", "import", toy("whole"), "schmidt-v2")
    user.ctl("runtimes", "create", "Schmidt vs Schmidt", "--model", poisoned, "--load")
    user.ctl("transcribe", "--no-vad", "--model", poisoned, str(recording))
    done = user.ctl("transcribe", "--no-vad", "--model", toy("whole"), str(recording))
    assert done.status == 0, done
    shown = user.ctl("doctor", "--report")
    secrets = ["maria", "schmidt", "divorce", "talks", "transcribe 2.00", str(home), str(tmp_path)]
    assert [secret for secret in secrets if secret.lower() in shown.out.lower()] == [], shown.out
    # These may be short, and happen to be part of another word or of a random name.
    words = re.findall(r"[^\W_]+", shown.out.replace("USER", "").replace("HOST", "").lower())
    for name in (getpass.getuser(), platform.node()):
        parts = re.findall(r"[^\W_]+", name.lower())
        said = any(words[place : place + len(parts)] == parts for place in range(len(words)))
        assert not (parts and said), f"{name}: {shown.out}"
    assert "NAME failed" in shown.out and "~/state" in shown.out and shown.err == "", shown
