"""Install whisperd as a service of the operating system, and uninstall it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

from whisperd import paths
from whisperd.child import python_command
from whisperd.environment import NETWORK, daemon_environment
from whisperd.rpc.errors import WhisperdError
from whisperd.service_manager.managers import MANAGERS, Manager, ManagerName, Place, ServiceFile
from whisperd.service_manager.mark import is_unchanged, socket_in

__all__ = [
    "Outcome",
    "check",
    "file_problem",
    "install",
    "installed_manager",
    "is_active",
    "manager_of",
    "run",
    "this_place",
    "uninstall",
]

COMMAND_TIMEOUT_S: Final = 180.0
"""How long a manager may take; its start command waits until the daemon is ready."""

KEPT_VARIABLES: Final = (
    "WHISPERD_SOCKET", "WHISPERD_CONFIG", "WHISPERD_STATE_DIR", "WHISPERD_NATIVE_DIR", "WHISPERD_MODELS_DIR",
    "WHISPERD_OFFLINE", "HF_HOME", "HF_HUB_CACHE", "HF_ENDPOINT", "HF_HUB_OFFLINE",
    "CUDA_PATH", "MKLROOT", "OPENBLAS_PATH",
    "XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME",
)  # fmt: skip
"""Variables that locate files: without them, the service would look elsewhere than the installing user."""

_BY_PLATFORM: Final[dict[str, ManagerName]] = {
    "linux": "systemd",
    "darwin": "launchd",
    "win32": "task-scheduler",
}


@dataclass(frozen=True)
class Outcome:
    """The files that were written or removed."""

    manager: ManagerName
    written: tuple[Path, ...] = ()
    removed: tuple[Path, ...] = ()
    unchanged: tuple[Path, ...] = ()
    kept: tuple[Path, ...] = ()
    """Files that the user added next to ours, which are left alone."""


def this_place(socket: str | None = None) -> Place:
    """Return where whisperd runs if started from this environment."""
    ours = daemon_environment(os.environ)
    environment = {name: value for name, value in ours.items() if value and _is_kept(name, value)}
    path = paths.socket_path(socket)
    named = bool(socket or os.environ.get("WHISPERD_SOCKET"))
    if named:
        environment["WHISPERD_SOCKET"] = path
    home = paths.home()
    config = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
    runtime = paths.runtime_dir() if os.name == "posix" else None
    domain, name = os.environ.get("USERDOMAIN", ""), os.environ.get("USERNAME", "")
    return Place(
        command=tuple(python_command("whisperd")),
        reload=tuple(python_command("whisperd.cli.main", "--no-start", "daemon", "reload")),
        socket=path,
        listen=f"%t{path.removeprefix(runtime)}"
        if runtime and path.startswith(f"{runtime}/") and not named
        else path.replace("%", "%%"),
        units=config / "systemd" / "user",
        agents=home / "Library" / "LaunchAgents",
        state=paths.state_dir(),
        user=_user(),
        user_name=f"{domain}\\{name}" if domain else name,
        environment=environment,
    )


def _is_kept(name: str, value: str) -> bool:
    """Whether to pass a variable to the service. Others may read its files, so no address with a password."""
    # Paths may contain an `@` too, such as that of `openssl@3`.
    is_address = name == "HF_ENDPOINT" or name.upper().endswith("_PROXY") or "://" in value
    is_needed = name in KEPT_VARIABLES or name.upper() in NETWORK or name.startswith("PIP_")
    return is_needed and not (is_address and "@" in value)


def manager_of(place: Place, name: str | None) -> Manager:
    """Return the manager of this computer, or the named one. Raises `service.no_manager`."""
    chosen = name or _BY_PLATFORM.get(sys.platform)
    if chosen is None:
        raise _no_manager("whisperd supports none on this system")
    return MANAGERS[cast("ManagerName", chosen)](place)


def installed_manager(socket: str) -> Manager | None:
    """Return the manager that runs the daemon of a socket, if its files are installed. Only reads a file."""
    name = _BY_PLATFORM.get(sys.platform)
    if name is None:
        return None
    try:
        manager = MANAGERS[name](this_place())
    except WhisperdError:  # there is no home folder to install into
        return None
    first = _read(manager.files[0])
    return manager if first is not None and socket_in(first) == socket else None


def install(manager: Manager, *, force: bool = False) -> Outcome:
    """Write the files, and have the manager start whisperd. Repeating it changes nothing.

    Raises `service.no_manager`, `service.edited` for a file that the user has changed (unless `force`: then
    it is kept as `NAME.old`), `service.not_writable` and `service.failed`.
    """
    check(manager, force=force)
    changed = [one for one in manager.files if _read(one) != one.text]
    is_installed = any(one.path.exists() for one in manager.files)
    if changed and is_installed:
        run(manager.before, may_fail=True)
    for one in changed:
        _write(one)
    try:
        if changed or not (manager.is_enabled and _may_succeed(manager.is_enabled)):
            run(manager.enable, manager.hint)
    except WhisperdError:
        if not is_installed:  # leave nothing half done
            run(manager.disable, may_fail=True)
            for one in changed:
                one.path.unlink(missing_ok=True)
            run(manager.after, may_fail=True)
        raise
    written = tuple(one.path for one in changed)
    return Outcome(
        manager.name,
        written=written,
        unchanged=tuple(one.path for one in manager.files if one.path not in written),
        kept=_beside(manager),
    )


def uninstall(manager: Manager, *, force: bool = False) -> Outcome:
    """Stop the service, make the manager forget it, and remove its files. Harmless if nothing is installed.

    The user's drop-ins and other files stay. Raises `service.edited` (unless `force`).
    """
    there = [one for one in manager.files if one.path.exists()]
    if not there:
        return Outcome(manager.name, kept=_beside(manager))
    for one in there:
        if (problem := file_problem(one)) is not None and not force:
            raise problem
    run(manager.disable, may_fail=True)
    for one in there:
        try:
            one.path.unlink(missing_ok=True)
        except OSError as error:
            raise _not_writable(one.path, error) from error
    run(manager.after, may_fail=True)
    return Outcome(manager.name, removed=tuple(one.path for one in there), kept=_beside(manager))


def run(commands: Sequence[tuple[str, ...]], hint: str = "", *, may_fail: bool = False) -> None:
    """Run commands of the manager. Raises `service.failed`, unless they `may_fail`."""
    for one in commands:
        try:
            done = _run(one)
        except (OSError, subprocess.TimeoutExpired) as error:
            if may_fail:
                continue
            raise _failed(one, str(error), hint) from error
        if done.returncode != 0 and not may_fail:
            raise _failed(one, _last_line(done) or f"exit status {done.returncode}", hint)


def is_active(manager: Manager) -> bool:
    """Whether the daemon is running, as far as the manager reports it; True if unknown."""
    return not manager.is_active or _may_succeed(manager.is_active)


def file_problem(file: ServiceFile) -> WhisperdError | None:
    """Return why a file must not be overwritten or removed: it exists, and is not as we wrote it."""
    present = _read(file)
    if present is None or is_unchanged(present):
        return None
    return WhisperdError(
        "service.edited",
        f"{file.path} was not written by whisperd, or was changed since then.",
        "Move your changes to a drop-in (`systemctl --user edit whisperd`) and use `--force`, which keeps "
        f"the file as {file.path.name}.old; or remove the file.",
        {"path": str(file.path)},
    )


def check(manager: Manager, *, force: bool = False) -> None:
    """Check that whisperd can be installed. Raises `service.no_manager` and `service.edited`."""
    if not manager.check:
        raise _no_manager(f"a file for {manager.name} has to be installed by an administrator")
    if shutil.which(manager.check[0]) is None:
        raise _no_manager(f"there is no {manager.check[0]} here")
    try:
        done = _run(manager.check)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _no_manager(f"{manager.name} does not respond: {error}") from error
    if done.returncode != 0:
        raise _no_manager(f"{manager.name} does not respond: {_last_line(done) or 'it printed nothing'}")
    for one in manager.files:
        if _read(one) != one.text and (problem := file_problem(one)) is not None and not force:
            raise problem


def _run(arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    environment = dict(os.environ)
    if sys.platform == "linux" and (runtime := paths.runtime_dir()):
        environment["XDG_RUNTIME_DIR"] = runtime  # not set by `sudo -u` and cron; systemd's socket is in it
    return subprocess.run(
        arguments,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=COMMAND_TIMEOUT_S,
        check=False,
    )


def _may_succeed(arguments: Sequence[str]) -> bool:
    try:
        return _run(arguments).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return True


def _last_line(done: subprocess.CompletedProcess[str]) -> str:
    lines = (done.stderr or done.stdout).strip().splitlines()
    return lines[-1].rstrip(".") if lines else ""


def _read(file: ServiceFile) -> str | None:
    try:
        return file.path.read_text(file.encoding)
    except FileNotFoundError:
        return None
    except (OSError, UnicodeError):
        return ""  # it exists, but not as we wrote it


def _write(file: ServiceFile) -> None:
    try:
        file.path.parent.mkdir(parents=True, exist_ok=True)
        if (present := _read(file)) is not None and not is_unchanged(present):
            file.path.replace(file.path.with_name(f"{file.path.name}.old"))
        temporary = file.path.with_name(f".{file.path.name}.new")
        temporary.write_text(file.text, file.encoding)
        temporary.chmod(0o644)
        temporary.replace(file.path)
    except OSError as error:
        raise _not_writable(file.path, error) from error


def _beside(manager: Manager) -> tuple[Path, ...]:
    """Return the files that the user added: drop-ins, and files that `--force` kept."""
    found: list[Path] = []
    for one in manager.files:
        found += sorted(one.path.parent.glob(f"{one.path.name}.d/*"))
        found += sorted(one.path.parent.glob(f"{one.path.name}.old"))
    return tuple(found)


def _user() -> int:
    return os.getuid() if os.name == "posix" else 0


def _no_manager(why: str) -> WhisperdError:
    return WhisperdError(
        "service.no_manager",
        f"No service manager of the user can run whisperd: {why}.",
        "`whisperctl` starts the daemon automatically when it is needed. For OpenRC and runit there are "
        "contrib/openrc and contrib/runit, or `whisperctl daemon install --manager openrc --print`.",
    )


def _failed(arguments: Sequence[str], said: str, hint: str) -> WhisperdError:
    return WhisperdError(
        "service.failed",
        f"`{' '.join(arguments)}` failed: {said}.",
        f"For details, see {hint}." if hint else "Run it in a terminal for details.",
        {"command": list(arguments), "said": said},
    )


def _not_writable(path: Path, error: OSError) -> WhisperdError:
    return WhisperdError(
        "service.not_writable",
        f"{path} cannot be written: {error.strerror or error}.",
        "Check the permissions of its folder.",
    )
