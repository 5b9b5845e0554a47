"""`whisperctl daemon install` and `uninstall`: every file is written, used and removed, and no other."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
from service_user import User

from whisperd import paths
from whisperd.service_manager.install import run
from whisperd_testing import until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="systemd is Linux's"),
]


def files_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}


def test_install_and_uninstall(user: User) -> None:
    before = files_below(user.home)
    done = user.ctl("daemon", "install")
    assert (done.status, done.err) == (0, "")
    assert done.out.splitlines()[0] == "whisperd is installed as a service of systemd and running"
    status = user.ctl("daemon", "status", "--json", "--no-start").json
    assert (status["service"], status["socket"]) == ("systemd", str(user.socket))
    assert str(status["pid"]) == (user.stand_in / "main_pid").read_text()

    done = user.ctl("daemon", "uninstall")
    assert (done.status, done.err) == (0, "")
    assert done.out.splitlines()[0] == "whisperd is no longer a service"
    told = done.out.partition("your data stays until you delete it:\n")[2]
    assert (
        "  transcripts, jobs, runtimes and log: " in told and "  settings: " not in told
    )  # no settings file exists
    assert not user.socket.exists()
    state = {one for one in files_below(user.home) if one.startswith(".local/")}
    assert files_below(user.home) - state == before
    assert user.ctl("daemon", "status", "--no-start").status == 3
    assert user.asked()[-1] == "--user daemon-reload"


def test_installing_and_uninstalling_twice_is_harmless(user: User) -> None:
    first = user.ctl("daemon", "install", "--json").json
    assert len(first["written"]) == 2
    pid = user.ctl("daemon", "status", "--json").json["pid"]
    texts = {path: path.read_text() for path in user.units.glob("whisperd.*")}
    second = user.ctl("daemon", "install", "--json").json
    assert (second["written"], len(second["unchanged"])) == ([], 2)
    assert user.ctl("daemon", "status", "--json").json["pid"] == pid  # not even restarted
    assert {path: path.read_text() for path in user.units.glob("whisperd.*")} == texts

    assert len(user.ctl("daemon", "uninstall", "--json").json["removed"]) == 2
    again = user.ctl("daemon", "uninstall")
    assert (again.status, again.out) == (0, "whisperd was not installed as a service\n")


def test_print_and_dry_run_change_nothing(user: User) -> None:
    done = user.ctl("daemon", "install", "--print")
    assert done.status == 0
    assert "ListenStream=%t/whisperd/daemon.sock" in done.out
    assert f"# would write {user.units}/whisperd.service" in done.err
    assert "# would run systemctl --user enable --now whisperd.socket whisperd.service" in done.err
    planned = user.ctl("daemon", "install", "--dry-run", "--json").json
    assert (planned["manager"], len(planned["files"])) == ("systemd", 2)
    assert not user.units.exists()
    assert user.asked() == []


def test_an_edited_unit_is_overwritten_only_with_force(user: User) -> None:
    assert user.ctl("daemon", "install").status == 0
    unit = user.units / "whisperd.service"
    edited = unit.read_text().replace("WatchdogSec=60", "WatchdogSec=600")
    unit.write_text(edited)
    for verb in ("install", "uninstall"):
        done = user.ctl("daemon", verb, "--json")
        assert (done.status, done.json["error"]["code"]) == (5, "service.edited")
        assert "systemctl --user edit whisperd" in done.json["error"]["fix"]
    assert unit.read_text() == edited
    assert user.ctl("daemon", "status", "--no-start").status == 0  # and still runs

    done = user.ctl("daemon", "install", "--force", "--json")
    assert done.json["written"] == [str(unit)]
    assert "WatchdogSec=60\n" in unit.read_text()
    assert (user.units / "whisperd.service.old").read_text() == edited
    assert user.ctl("daemon", "status", "--no-start").status == 0


def test_drop_ins_are_respected(user: User) -> None:
    drop_in = user.units / "whisperd.service.d" / "mine.conf"
    drop_in.parent.mkdir(parents=True)
    drop_in.write_text('[Service]\nEnvironment=WHISPERD_OFFLINE=1 "PYTHONDONTWRITEBYTECODE=1"\n')
    done = user.ctl("daemon", "install", "--json")
    assert (done.status, done.json["kept"]) == (0, [str(drop_in)])
    assert user.ctl("daemon", "uninstall", "--json").json["kept"] == [str(drop_in)]
    assert "OFFLINE" in drop_in.read_text()


def test_installing_replaces_a_daemon_started_by_hand(user: User) -> None:
    by_hand = user.ctl("daemon", "start", "--json").json
    assert by_hand["service"] is None
    assert user.ctl("daemon", "install").status == 0
    status = user.ctl("daemon", "status", "--json").json
    assert status["service"] == "systemd"
    assert status["pid"] != by_hand["pid"]


def test_start_stop_and_restart_go_through_the_manager(user: User) -> None:
    user.ctl("daemon", "install")
    first = user.ctl("daemon", "status", "--json").json["pid"]
    assert user.ctl("daemon", "stop").out == "whisperd has stopped\n"
    assert not user.socket.exists()
    assert user.ctl("daemon", "status", "--no-start").status == 3
    assert user.ctl("daemon", "stop").out == "whisperd is not running\n"
    started = user.ctl("daemon", "start", "--json").json
    assert (started["service"], started["pid"] != first) == ("systemd", True)
    assert user.ctl("daemon", "start", "--json").json["pid"] == started["pid"]
    again = user.ctl("daemon", "restart", "--json").json
    assert (again["service"], again["pid"] != started["pid"]) == ("systemd", True)
    assert user.run("systemctl", "--user", "reload", "whisperd").status == 0


def test_a_client_starts_the_daemon_through_the_manager(user: User) -> None:
    user.ctl("daemon", "install")
    user.ctl("daemon", "stop")
    assert user.ctl("models", "available").status == 0
    assert user.ctl("daemon", "status", "--json").json["service"] == "systemd"


def test_connecting_restarts_a_killed_daemon(user: User) -> None:
    user.ctl("daemon", "install")
    pid = user.ctl("daemon", "status", "--json").json["pid"]
    user.run(sys.executable, "-c", f"import os, signal; os.kill({pid}, signal.SIGKILL)")
    status = user.ctl("daemon", "status", "--json").json
    assert (status["service"], status["pid"] != pid) == ("systemd", True)


def test_completion_does_not_start_the_daemon(user: User) -> None:
    assert user.ctl("daemon", "install").status == 0
    pid = int((user.stand_in / "main_pid").read_text())
    os.kill(pid, signal.SIGTERM)
    until(lambda: not (user.stand_in / "main_pid").exists())
    assert user.ctl("__complete", "jobs", "show", "").out == "words\n"
    assert not (user.stand_in / "main_pid").exists()


def test_another_socket_is_another_daemon(user: User) -> None:
    user.ctl("daemon", "install")
    asked = user.asked()
    other = {
        "WHISPERD_SOCKET": str(user.runtime / "other.sock"),
        "WHISPERD_STATE_DIR": str(user.runtime / "other state"),
    }
    assert user.ctl("daemon", "start", "--json", env=other).json["service"] is None
    assert user.ctl("daemon", "stop", env=other).status == 0
    assert user.asked() == asked
    assert user.ctl("daemon", "status", "--no-start", "--json").json["service"] == "systemd"


def test_without_a_manager_installing_fails(user: User) -> None:
    (user.stand_in / "no_bus").touch()
    done = user.ctl("daemon", "install", "--json")
    assert (done.status, done.json["error"]["code"]) == (1, "service.no_manager")
    assert "No medium found" in done.json["error"]["message"]
    assert "contrib/openrc" in done.json["error"]["fix"]
    assert "contrib/runit" in done.json["error"]["fix"]
    assert not user.units.exists()


def test_the_manager_is_found_without_a_session(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As by `sudo -u` or cron, while the user's manager runs."""
    (tmp_path / "systemctl").write_text(f'#!/bin/sh\necho "$XDG_RUNTIME_DIR" > "{tmp_path}/said"\n')
    (tmp_path / "systemctl").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setattr(paths, "runtime_dir", lambda: "/run/user/7")
    run([("systemctl", "--user", "start", "whisperd.service")])
    assert (tmp_path / "said").read_text() == "/run/user/7\n"


def test_without_systemctl_installing_fails(user: User) -> None:
    done = user.ctl("daemon", "install", env={"PATH": "/nowhere"})
    assert done.status == 1
    assert "there is no systemctl here" in done.err


@pytest.mark.parametrize("name", ["openrc", "runit"])
def test_system_wide_managers_are_only_printed(user: User, name: str) -> None:
    done = user.ctl("daemon", "install", "--manager", name, "--print")
    assert (done.status, sys.executable in done.out) == (0, True)
    refused = user.ctl("daemon", "install", "--manager", name, "--json")
    assert (refused.status, refused.json["error"]["code"]) == (1, "service.no_manager")


def test_a_failed_install_leaves_no_files(user: User) -> None:
    (user.stand_in / "broken").touch()
    done = user.ctl("daemon", "install", "--json")
    assert (done.status, done.json["error"]["code"]) == (1, "service.failed")
    assert "journalctl --user -u whisperd" in done.json["error"]["fix"]
    assert files_below(user.units) == set()


def test_a_folder_of_units_that_cannot_be_created(user: User) -> None:
    user.units.parent.mkdir(parents=True)
    user.units.symlink_to("on an unplugged disk")
    done = user.ctl("daemon", "install", "--json")
    assert (done.status, done.json["error"]["code"]) == (1, "service.not_writable")
    assert str(user.units) in done.json["error"]["message"] and done.json["error"]["fix"]
    assert not any("enable" in command for command in user.asked())


def test_clients_start_the_daemon_themselves_if_the_manager_fails(user: User) -> None:
    user.ctl("daemon", "install")
    user.ctl("daemon", "stop")
    (user.stand_in / "broken").touch()
    assert user.ctl("models", "available").status == 0  # started as if there were no service
    done = user.ctl("daemon", "start", "--json")
    assert (done.status, done.json["error"]["code"]) == (1, "service.failed")
    assert user.ctl("daemon", "status", "--json", "--no-start").json["service"] is None
    assert user.ctl("daemon", "stop").out == "whisperd has stopped\n"
    assert not user.socket.exists()


def test_the_service_uses_the_paths_of_the_installing_user(user: User) -> None:
    env = {"WHISPERD_STATE_DIR": str(user.home / "a state $HOME 100%")}
    assert user.ctl("daemon", "install", env=env).status == 0
    status = user.ctl("daemon", "status", "--json", "--no-start").json
    assert status["log"] == f"{env['WHISPERD_STATE_DIR']}/daemon.log"
