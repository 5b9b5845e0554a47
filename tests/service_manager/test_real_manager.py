"""The service with a real systemd user manager, where one can be started: as root in a container."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from service_user import User
from test_service_page import blocks

from whisperd_testing import LIMIT_S, Finished, write_tone

RUNNER = Path(__file__).with_name("real_manager.sh")
NO_MANAGER = 77

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        sys.platform != "linux"
        or os.getuid() != 0
        or Path("/run/systemd/system").exists()
        or any(shutil.which(program) is None for program in ("unshare", "systemctl")),
        reason="needs root, in a container without systemd, in which systemd is installed",
    ),
]

Run = Callable[[str], Finished]


@pytest.fixture
def run(user: User) -> Iterator[Run]:
    """Return a function that runs a script with its own user manager."""
    systemctl = user.programs / "systemctl"
    systemctl.unlink()  # the stand-in
    base = Path("/sys/fs/cgroup/systemd")
    group = (base if base.is_dir() else base.parent) / f"whisperd-test-{os.getpid()}"
    env = {**user.env, "XDG_RUNTIME_DIR": "/run/user/0", "DBUS_SESSION_BUS_ADDRESS": ""}

    def run(script: str) -> Finished:
        file = user.home.parent / "script"
        file.write_text(script)
        # Waits for all processes that hold its output; that of the daemon goes to the journal.
        out, err = user.home.parent / "out", user.home.parent / "err"
        with out.open("wb") as to_out, err.open("wb") as to_err:
            process = subprocess.Popen(
                ["bash", str(RUNNER), str(group), str(file)],
                env=env,
                cwd=user.home,
                stdin=subprocess.DEVNULL,
                stdout=to_out,
                stderr=to_err,
                start_new_session=True,
            )
            try:
                status = process.wait(2 * LIMIT_S)
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
        if status == NO_MANAGER:
            pytest.skip("cannot start a user manager")
        return Finished(status, out.read_text(), err.read_text())

    yield run
    for folder, _, _ in os.walk(group, topdown=False):
        with suppress(OSError):  # a group in use is deleted with its last process
            Path(folder).rmdir()


def test_the_commands_of_the_page_work(run: Run, user: User) -> None:
    done = run("\n".join(f"set -x\n{block}" for block in blocks()))
    assert done.status == 0, done
    assert "whisperd is installed as a service of systemd and running" in done.out
    assert "whisperd.service - whisperd, speech to text" in done.out
    assert "whisperd is no longer a service" in done.out
    assert not list(user.units.glob("whisperd.s*[!d]"))


def test_the_service_under_a_real_manager(run: Run, toy: Callable[..., str], tmp_path: Path) -> None:
    tone = write_tone(tmp_path / "tone.wav", 1.0)
    done = run(f"""
        pid() {{ systemctl --user show --property=MainPID --value whisperd.service; }}
        whisperctl daemon install --quiet
        systemctl --user show --property=StatusText whisperd.service
        grep -E 'NoNewPrivs|Seccomp:' /proc/$(pid)/status
        first=$(pid)
        whisperctl daemon install --quiet
        [ "$first" = "$(pid)" ] && echo installed twice, one daemon
        whisperctl transcribe --no-vad --model {toy()} {tone}
        systemctl --user kill --signal=KILL --kill-whom=main whisperd.service
        whisperctl daemon status --json > /dev/null
        [ "$first" != "$(pid)" ] && echo started again after a crash
        whisperctl daemon stop
        systemctl --user is-active whisperd.service whisperd.socket || true
        whisperctl --no-start daemon status 2>/dev/null || echo not reached
        whisperctl models available > /dev/null
        [ "$(pid)" -gt 0 ] && echo started by a client through the manager
        mkdir -p "$XDG_CONFIG_HOME/whisperd"
        echo nonsense > "$XDG_CONFIG_HOME/whisperd/config.toml"
        systemctl --user reload whisperd.service 2>/dev/null || echo a wrong file is refused
        systemctl --user is-active whisperd.service
        systemctl --user stop whisperd.service
        whisperctl --no-start daemon status 2>/dev/null || true
        systemctl --user show --property=Result whisperd.socket
        rm "$XDG_CONFIG_HOME/whisperd/config.toml"
        whisperctl daemon start --json | grep -q pid && echo started again after its settings were corrected
        whisperctl daemon uninstall --quiet
        systemctl --user list-unit-files 'whisperd*' --no-pager --no-legend || true
    """)
    assert done.status == 0, done
    lines = done.out.splitlines()
    assert lines[0] == "StatusText=no job; loaded: nothing"
    assert "NoNewPrivs:\t1" in lines
    assert "Seccomp:\t2" in lines
    for said in (
        "installed twice, one daemon",
        "transcribe 1.00 s",
        "started again after a crash",
        "whisperd has stopped",
        "not reached",
        "started by a client through the manager",
        "a wrong file is refused",
        "Result=service-start-limit-hit",
        "started again after its settings were corrected",
    ):
        assert said in lines, done
    assert lines.count("inactive") == 2
    assert "active" in lines  # with the old settings
    assert lines[-1].startswith("started again")  # no unit is left


def test_created_folders_pass_on_their_group(run: Run, toy: Callable[..., str], tmp_path: Path) -> None:
    """The sandbox must allow the bit by which a shared folder does so."""
    shared = tmp_path / "shared"
    (shared / "in" / "sub").mkdir(parents=True)
    for folder in (shared, shared / "in", shared / "in" / "sub"):
        folder.chmod(0o2770)
    write_tone(shared / "in" / "sub" / "tone.wav", 1.0)
    texts = shared / "texts" / "sub"
    done = run(f"""
        whisperctl daemon install --quiet
        whisperctl watch add {shared}/in --output-dir {shared}/texts --no-vad --language en --model {toy()}
        until [ -e {texts}/tone.en.txt ]; do sleep 0.1; done
        whisperctl daemon uninstall --quiet
    """)
    assert done.status == 0, done
    assert [oct(folder.stat().st_mode & 0o7777) for folder in (texts.parent, texts)] == ["0o2770"] * 2
