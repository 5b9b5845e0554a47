"""The socket is accessible to one user only, at every moment."""

from __future__ import annotations

import os
import socket
import stat
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest
from raw_client import RawClient

from whisperd import paths
from whisperd.daemon.listener import claim_socket
from whisperd.rpc.errors import WhisperdError
from whisperd.rpc.transport import connect_socket, peer_user
from whisperd_testing import LIMIT_S, RunningDaemon

MakeDaemon = Callable[..., RunningDaemon]
NOBODY = 65534

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can act as another user")


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder whose path is short enough for a socket in it."""
    with tempfile.TemporaryDirectory(prefix="wd-") as folder:
        yield Path(folder)


@contextmanager
def mask(bits: int) -> Iterator[None]:
    previous = os.umask(bits)
    try:
        yield
    finally:
        os.umask(previous)


@contextmanager
def as_another_user() -> Iterator[None]:
    """Run the block as another user."""
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def mode(path: Path | str) -> int:
    return stat.S_IMODE(Path(path).lstat().st_mode)


def at(daemon: RunningDaemon, path: Path) -> RunningDaemon:
    """Make the daemon listen on another path."""
    daemon.socket = daemon.env["WHISPERD_SOCKET"] = str(path)
    return daemon


def failure(daemon: RunningDaemon, *arguments: str) -> str:
    """Return the error output of a foreground daemon that fails to start."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "whisperd", *arguments],
        env=daemon.env,
        capture_output=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 3
    assert done.stdout == b""
    lines = done.stderr.decode().splitlines()
    assert len(lines) == 2, lines  # what happened, and what to do next
    return "\n".join(lines)


async def claim(path: Path) -> None:
    async with claim_socket(str(path)):
        pass


def refusal(path: Path) -> str:
    """Return the code of the error with which a daemon refuses to listen on a path."""
    with pytest.raises(WhisperdError) as caught:
        anyio.run(claim, path)
    assert caught.value.fix
    return caught.value.code


# Modes


def test_modes_are_private_whatever_the_umask(make_daemon: MakeDaemon, short: Path) -> None:
    daemon = at(make_daemon(), short / "new" / "d.sock")
    with mask(0):
        daemon.start()
    assert mode(daemon.socket) == 0o600
    assert mode(short / "new") == 0o700
    assert mode(f"{daemon.socket}.lock") == 0o600
    with daemon.connect() as client:
        assert client.daemon.status()["pid"] == daemon.pid


def test_all_files_are_private_whatever_the_umask(
    make_daemon: MakeDaemon, toy: Callable[..., str], short: Path
) -> None:
    daemon, home = at(make_daemon(), short / "home" / "run" / "whisperd" / "d.sock"), short / "home"
    for variable, name in {
        "WHISPERD_CONFIG": "config/whisperd/config.toml",
        "WHISPERD_STATE_DIR": "state/whisperd",
        "WHISPERD_MODELS_DIR": "data/whisperd/models",
        "WHISPERD_NATIVE_DIR": "data/whisperd/native",
    }.items():
        daemon.env[variable] = str(home / name)
    with mask(0):
        assert daemon.ctl("daemon", "config", "--init").status == 0
        daemon.start()
        assert daemon.ctl("models", "import", toy()).status == 0
    made = {path: mode(path) for path in (home, *home.glob("*"), *home.glob("*/*"), *home.glob("*/*/*"))}
    assert {path for path, bits in made.items() if bits not in (0o600, 0o700)} == set()
    assert {"config.toml", "models", "uploads", "whisperd.sqlite3"} <= {path.name for path in made}


def test_the_socket_is_private_from_creation(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def bind(self: socket.socket, path: str) -> None:
        super(socket.socket, self).bind(path)
        seen.append(mode(path))

    monkeypatch.setattr(socket.socket, "bind", bind, raising=False)
    with mask(0):
        anyio.run(claim, short / "d.sock")
        assert os.umask(0) == 0  # the umask is restored
    assert seen == [0o600]


def test_the_usual_folder_is_made_private(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short))
    folder = short / "whisperd"
    folder.mkdir()
    folder.chmod(0o777)
    anyio.run(claim, folder / "daemon.sock")
    assert mode(folder) == 0o700


# Places


@pytest.mark.parametrize(("bits", "refused"), [(0o777, True), (0o770, True), (0o755, False), (0o1777, False)])
def test_a_folder_writable_by_others_is_refused(short: Path, bits: int, refused: bool) -> None:
    folder = short / "whisperd"  # such as a checkout
    folder.mkdir()
    folder.chmod(bits)
    if refused:
        assert refusal(folder / "d.sock") == "socket.not_private"
        assert list(folder.iterdir()) == []
    else:
        anyio.run(claim, folder / "d.sock")
    assert mode(folder) == bits


@needs_root
def test_a_folder_of_another_user_is_refused(short: Path) -> None:
    os.chown(short, NOBODY, NOBODY)
    assert refusal(short / "d.sock") == "socket.not_private"


@needs_root
def test_a_link_of_another_user_to_our_folder_is_refused(
    short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In /tmp, anyone could otherwise have us make any folder of ours inaccessible to others."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short))
    (short / "shared").mkdir()
    (short / "shared").chmod(0o755)
    (short / "whisperd").symlink_to("shared")
    os.lchown(short / "whisperd", NOBODY, NOBODY)
    assert refusal(short / "whisperd" / "daemon.sock") == "socket.not_private"
    assert mode(short / "shared") == 0o755 and list((short / "shared").iterdir()) == []


def test_a_file_that_is_not_a_socket_is_preserved(short: Path) -> None:
    (short / "file").write_text("precious")
    assert refusal(short / "file") == "socket.not_a_socket"
    assert (short / "file").read_text() == "precious"
    (short / "folder").mkdir()
    assert refusal(short / "folder") == "socket.not_a_socket"
    (short / "link").symlink_to(short / "file")
    assert refusal(short / "link") == "socket.not_a_socket"
    assert (short / "link").is_symlink()


def test_a_folder_that_cannot_be_created_is_an_error(short: Path) -> None:
    (short / "file").write_text("")
    assert refusal(short / "file" / "d.sock") == "socket.not_writable"


def test_a_path_that_is_too_long_is_refused(make_daemon: MakeDaemon, short: Path) -> None:
    daemon = make_daemon()
    longest = short / ("x" * (paths.MAX_SOCKET_PATH_BYTES - len(os.fsencode(short)) - 1))
    at(daemon, longest).start()
    with daemon.connect() as client:
        assert client.daemon.status()["socket"] == str(longest)

    # One byte too many, but no more characters: an umlaut takes two bytes.
    other = at(make_daemon(), longest.with_name(longest.name[:-1] + "ü"))
    too_long = f"{paths.MAX_SOCKET_PATH_BYTES + 1} bytes"
    assert too_long in failure(other)
    assert too_long in failure(make_daemon(), "--socket", other.socket)
    for options in (("--no-start",), ()):
        done = other.ctl("daemon", "status", "--json", *options)
        assert done.status == 3
        assert done.json["error"]["code"] == "socket.path_too_long"
        assert "WHISPERD_SOCKET" in done.json["error"]["fix"]


def test_the_default_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("WHISPERD_SOCKET", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "of-somebody-else"))
    assert "of-somebody-else" not in paths.socket_path()
    for written in (str(tmp_path), f"{tmp_path}/"):
        monkeypatch.setenv("XDG_RUNTIME_DIR", written)
        assert paths.runtime_dir() == str(tmp_path)
    monkeypatch.setattr(paths, "_is_own", lambda _: True)
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/7")
    assert paths.socket_path() == "/run/user/7/whisperd/daemon.sock"
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/" + "long" * 25)
    assert paths.socket_path() == f"/tmp/whisperd-{os.getuid()}/daemon.sock"
    monkeypatch.setenv("WHISPERD_SOCKET", "d.sock")
    monkeypatch.chdir(tmp_path)
    assert paths.socket_path() == str(tmp_path / "d.sock")
    assert paths.socket_path("named.sock") == str(tmp_path / "named.sock")


@pytest.mark.skipif(os.name != "posix" or os.getuid() != 0, reason="needs root")
def test_root_does_not_use_the_runtime_directory_of_another_user(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """After `su`, the variable is still that of the other user, and root could write to the folder."""
    os.chown(tmp_path, 12345, -1)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert paths.runtime_dir() != str(tmp_path)


def test_a_suggested_command_names_an_unusual_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHISPERD_SOCKET", "/a/usual.sock")
    assert paths.whisperctl_for("/a/usual.sock") == "whisperctl"
    assert paths.whisperctl_for("/an/other one.sock") == "whisperctl --socket '/an/other one.sock'"


def test_the_default_folder_is_created_and_found(make_daemon: MakeDaemon, short: Path) -> None:
    daemon = make_daemon(env={"XDG_RUNTIME_DIR": str(short)})
    del daemon.env["WHISPERD_SOCKET"]
    daemon.socket = str(short / "whisperd" / "daemon.sock")
    daemon.start()
    assert mode(short / "whisperd") == 0o700
    done = daemon.ctl("daemon", "status", "--json", "--no-start")
    assert done.json["pid"] == daemon.pid


# Peers


def test_the_peer_user_is_known() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert peer_user(ours) == peer_user(theirs) == os.getuid()


@pytest.mark.skipif(sys.platform != "linux", reason="uses the format of Linux")
def test_a_large_user_id() -> None:
    class Peer:
        """A process of a user whose ID comes from a directory service."""

        def getsockopt(self, *_: int) -> bytes:
            return struct.pack("=iII", 4711, 3_000_000_000, 4_000_000_000)

    assert peer_user(Peer()) == 3_000_000_000  # type: ignore[arg-type]


@needs_root
def test_another_user_is_refused_whatever_the_modes(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon().start()
    Path(daemon.socket).parent.chmod(0o711)
    Path(daemon.socket).chmod(0o666)
    with RawClient(daemon) as owner:
        with as_another_user():
            stranger = RawClient(daemon)
        with stranger:
            assert stranger.error() == "daemon.not_yours"
        assert owner.request("daemon.status")["clients"] == 1


@needs_root
def test_a_client_does_not_speak_to_another_users_socket(short: Path, make_daemon: MakeDaemon) -> None:
    """A user who creates a socket in place of ours might want to intercept recordings."""
    short.chmod(0o777)
    daemon = at(make_daemon(), short / "d.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        with as_another_user():
            listener.bind(daemon.socket)
            listener.listen()
        with pytest.raises(WhisperdError) as caught:
            connect_socket(daemon.socket)
        assert caught.value.code == "socket.foreign"
        done = daemon.ctl("daemon", "status", "--json")
        assert (done.status, done.json["error"]["code"]) == (3, "socket.foreign")
    short.chmod(0o700)
    Path(daemon.socket).unlink()


@pytest.mark.anyio
async def test_a_socket_with_the_same_inode_on_another_disk_is_another_one(
    short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as that of the next daemon, in the runtime directory of the next login."""
    path = short / "s"
    async with claim_socket(str(path)) as listener:
        assert listener.is_reachable()
        status, lstat = path.lstat(), Path.lstat
        moved = os.stat_result((status[0], status[1], status.st_dev + 1, *status[3:]))
        monkeypatch.setattr(Path, "lstat", lambda self: moved if self == path else lstat(self))
        assert not listener.is_reachable()
        listener.unlink()
        assert path.exists()
