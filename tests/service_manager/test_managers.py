"""The files for each service manager: valid for the manager, and equal to the packaged ones."""

from __future__ import annotations

import getpass
import os
import plistlib
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripts.service_files import ROOT, files

from whisperd.rpc.errors import WhisperdError
from whisperd.service_manager.install import install, is_active, this_place
from whisperd.service_manager.managers import (
    MANAGERS,
    Manager,
    Place,
    launchd,
    systemd,
    task_scheduler,
    unit_quoted,
)
from whisperd.service_manager.mark import is_unchanged, marked, socket_in

EXPOSURE_LIMIT = 6.0
"""Out of 10, per `systemd-analyze security`. Half of it is capabilities, which a user service lacks."""

posix_only = pytest.mark.skipif(sys.platform == "win32", reason="files as on POSIX")


def place(**changes: object) -> Place:
    fields = {
        "command": (sys.executable, "-P", "-m", "whisperd"),
        "reload": (sys.executable, "-P", "-m", "whisperd.cli.main", "daemon", "reload"),
        "socket": "/run/user/1000/whisperd/daemon.sock",
        "listen": "%t/whisperd/daemon.sock",
        "units": Path("units"),
        "agents": Path("agents"),
        "state": Path("state"),
        "user": 501,
        "user_name": "DESK\\anna & co",
        "environment": {"WHISPERD_STATE_DIR": "/a folder/$x 100% \"'\\"},
        **changes,
    }
    return Place(**fields)  # type: ignore[arg-type]


def settings(text: str) -> dict[str, str]:
    """Return the settings of a unit that have a single value."""
    pairs = (line.split("=", 1) for line in text.splitlines() if "=" in line and not line.startswith("#"))
    return dict(pairs)  # type: ignore[arg-type]


def test_the_systemd_units() -> None:
    service, socket = (settings(file.text) for file in systemd(place()).files)
    assert service["Type"] == "notify"
    assert service["ExecStart"] == f"{unit_quoted(sys.executable)} -P -m whisperd"
    assert service["OOMPolicy"] == "continue"
    assert float(service["WatchdogSec"]) > 0
    assert socket["ListenStream"] == "%t/whisperd/daemon.sock"
    assert (socket["SocketMode"], socket["DirectoryMode"]) == ("0600", "0700")


def test_the_service_inherits_download_variables_without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (
        ("HTTPS_PROXY", "http://proxy:3128"),
        ("no_proxy", "localhost"),
        ("SSL_CERT_FILE", "//nas/openssl@3/ours.pem"),
        ("HF_ENDPOINT", "https://anna:secret@mirror"),
        ("HTTP_PROXY", "http://anna:secret@proxy:3128"),
        ("ALL_PROXY", "//anna:secret@proxy:3128"),
        ("FTP_PROXY", "/anna:secret@proxy:3128"),
        ("HF_TOKEN", "secret"),
        ("PIP_INDEX_URL", "https://mirror/simple"),
        ("PIP_EXTRA_INDEX_URL", "https://anna:secret@mirror/simple"),
        ("PIP_CERT", "/opt/openssl@3/ours.pem"),
        ("HF_HUB_CACHE", "/scratch/hub"),
        ("OPENBLAS_PATH", "/opt/blas"),
    ):
        monkeypatch.setenv(name, value)
    environment = this_place().environment
    assert environment["HTTPS_PROXY"] == "http://proxy:3128"
    assert environment["SSL_CERT_FILE"] == "//nas/openssl@3/ours.pem"
    assert "localhost" in environment.values()
    assert environment["PIP_INDEX_URL"] == "https://mirror/simple"
    assert {"PIP_CERT", "HF_HUB_CACHE", "OPENBLAS_PATH"} <= environment.keys()
    assert "secret" not in str(environment)


def test_relative_paths_are_resolved_at_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    places = {"WHISPERD_CONFIG": "c.toml", "WHISPERD_SOCKET": "s", "SSL_CERT_FILE": "ca.pem"}
    for name, value in places.items():
        monkeypatch.setenv(name, value)
    assert (
        this_place().environment.items()
        >= {name: str(tmp_path / one) for name, one in places.items()}.items()
    )


def test_every_line_of_the_sandbox_is_explained() -> None:
    """A comment above each setting, or group of settings, says what it is for."""
    text = systemd(place()).files[0].text
    sandbox = text[text.index("# The sandbox.") : text.index("[Install]")].splitlines()
    for above, line in pairwise(sandbox):
        if "=" in line and not line.startswith("#"):
            assert above.strip(), f"nothing explains {line}"


@posix_only
@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    written = [tmp_path / file.path.name for file in systemd(place()).files]
    for path, file in zip(written, systemd(place()).files, strict=True):
        path.write_text(file.text)
    with tempfile.TemporaryDirectory(prefix="whisperd-") as runtime:
        env = {**os.environ, "XDG_RUNTIME_DIR": runtime}
        done = subprocess.run(
            ["systemd-analyze", "verify", "--user", *map(str, written)],
            env=env,
            capture_output=True,
            text=True,
            check=False,
        )
    said = [line for line in done.stderr.splitlines() if "whisperd" in line]
    assert (done.returncode, said) == (0, [])


@posix_only
@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_the_exposure_of_the_service_is_limited(tmp_path: Path) -> None:
    unit = tmp_path / "whisperd.service"
    unit.write_text(systemd(place()).files[0].text)
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--no-pager", str(unit)],
        env={**os.environ, "NO_COLOR": "1", "SYSTEMD_COLORS": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    if "unrecognized option" in done.stderr:
        pytest.skip("this systemd-analyze cannot check files")
    (line,) = [line for line in done.stdout.splitlines() if "Overall exposure level" in line]
    assert float(line.split(":")[1].split()[0]) <= EXPOSURE_LIMIT, done.stdout


def test_the_launchd_agent() -> None:
    (file,) = launchd(place()).files
    agent = plistlib.loads(file.text.encode())
    assert agent["Label"] == "whisperd"
    assert agent["ProgramArguments"] == [sys.executable, "-P", "-m", "whisperd"]
    assert agent["EnvironmentVariables"] == {**place().environment, "WHISPERD_SERVICE": "launchd"}
    assert agent["KeepAlive"] == {"SuccessfulExit": False}
    assert agent["Umask"] == 0o077
    assert ("launchctl", "bootstrap", "gui/501", "agents/whisperd.plist") in launchd(place()).enable


STAND_IN_MANAGER = """#!/bin/sh
case "$1 $2" in
    bootout* | /End*) rm -f runs ;;
    bootstrap* | /Run*) test ! -e broken && touch runs ;;
    print*/whisperd) test -e runs ;;
esac
"""


@posix_only
@pytest.mark.parametrize(("make", "program"), [(launchd, "launchctl"), (task_scheduler, "schtasks")])
def test_a_service_that_failed_to_start_is_started_by_the_next_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, make: Callable[[Place], Manager], program: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    Path(program).write_text(STAND_IN_MANAGER)
    Path(program).chmod(0o755)
    install(make(place()))
    changed = make(place(command=("another", "whisperd")))
    Path("broken").touch()
    with pytest.raises(WhisperdError):
        install(changed)
    assert not Path("runs").exists()
    assert is_active(changed), "a client may have started a daemon itself"
    Path("broken").unlink()
    install(changed)
    assert Path("runs").exists()


def test_the_windows_task() -> None:
    (file,) = task_scheduler(place(command=("C:\\My Programs\\python.exe", "-m", "a b"))).files
    root = ElementTree.fromstring(file.text.encode(file.encoding))
    names = {"": "http://schemas.microsoft.com/windows/2004/02/mit/task"}
    assert root.findtext(".//Command", namespaces=names) == "C:\\My Programs\\pythonw.exe"
    assert root.findtext(".//Arguments", namespaces=names) == '-m "a b"'
    assert root.findtext(".//LogonTrigger/UserId", namespaces=names) == "DESK\\anna & co"


@posix_only
@pytest.mark.parametrize("name", ["openrc", "runit"])
def test_the_scripts_are_valid_shell(name: str) -> None:
    (file,) = MANAGERS[name](place()).files  # type: ignore[index]
    subprocess.run(["sh", "-n"], input=file.text, text=True, check=True)


@posix_only
def test_the_runit_script_runs_the_command(tmp_path: Path) -> None:
    (file,) = MANAGERS["runit"](place(command=("/bin/echo", "it is", getpass.getuser()))).files
    script = tmp_path / "run"
    script.write_text(file.text)
    done = subprocess.run(["sh", str(script)], capture_output=True, text=True, check=True)
    assert done.stdout == f"it is {getpass.getuser()}\n"


@posix_only
def test_the_openrc_script_preserves_the_command(tmp_path: Path) -> None:
    command = ("/opt/my programs/python's", "-P", 'a "b" $HOME', "it's `here`")
    (file,) = MANAGERS["openrc"](place(command=command)).files
    script = tmp_path / "whisperd"
    script.write_text(file.text)
    # OpenRC sources the file and evaluates these variables once more.
    words = """. "$0"; eval "printf '%s\\n' $command $command_args\""""
    done = subprocess.run(["sh", "-c", words, str(script)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == list(command)


@pytest.mark.parametrize("name", files())
def test_the_packaged_files_are_up_to_date(name: str) -> None:
    written = (ROOT / name).read_text("utf-8").replace('encoding="UTF-8"', 'encoding="UTF-16"', 1)
    assert written == files()[name] or (ROOT / name).read_text("utf-8") == files()[name], (
        "run scripts/service_files.py"
    )


@given(st.text(st.characters(codec="utf-8", exclude_characters="\n\r\0")), st.booleans())
def test_quoted_words_survive_a_round_trip(word: str, has_variables: bool) -> None:
    """Undo the quoting as systemd does."""
    quoted = unit_quoted(word, has_variables=has_variables)
    assert "\n" not in quoted
    if quoted.startswith('"'):
        back = quoted[1:-1].replace("\\\\", "\0").replace('\\"', '"').replace("\\t", "\t").replace("\0", "\\")
    else:
        back = quoted
    if has_variables:
        back = back.replace("$$", "$")
    assert back.replace("%%", "%") == word
    if word and not set(word) & set("%$\\'\"") and word.isprintable() and " " not in word:
        assert shlex.split(quoted, comments=False) == [word]


@given(st.text(), st.sampled_from(["# ", "<!-- "]))
def test_a_mark_detects_changes_of_its_text(text: str, before: str) -> None:
    comment = (before, " -->" if before == "<!-- " else "")
    written = marked(text, "/run/a.sock", comment)
    assert is_unchanged(written)
    assert socket_in(written) == "/run/a.sock"
    assert not is_unchanged(written + "x")
    assert not is_unchanged(text)


def test_a_mark_follows_a_shebang_or_xml_declaration() -> None:
    for first in ('<?xml version="1.0"?>', "#!/bin/sh"):
        written = marked(f"{first}\nrest\n", "/s")
        assert written.splitlines()[0] == first
        assert is_unchanged(written)
        assert not is_unchanged(written.replace("rest", "more"))
