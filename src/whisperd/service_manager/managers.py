"""The files and commands for each service manager, as values.

Nothing here inspects or changes the computer; `install` does.
"""

from __future__ import annotations

import plistlib
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Final, Literal
from xml.sax.saxutils import escape

from whisperd.service_manager.mark import marked

__all__ = [
    "MANAGERS",
    "Manager",
    "ManagerName",
    "Place",
    "ServiceFile",
    "launchd",
    "openrc",
    "runit",
    "systemd",
    "task_scheduler",
    "unit_quoted",
]

ManagerName = Literal["systemd", "launchd", "task-scheduler", "openrc", "runit"]
Command = tuple[str, ...]

LABEL: Final = "whisperd"
"""The name of the service in every manager."""


@dataclass(frozen=True)
class Place:
    """Where whisperd runs, and as which user."""

    command: Command
    """The command that starts the daemon in the foreground."""
    reload: Command
    """The command that makes it reload its settings."""
    socket: str
    """Its path."""
    listen: str
    """The same in systemd's syntax, where `%t` may stand for the user's runtime directory."""
    units: Path
    """The folder of the user's systemd units."""
    agents: Path
    """The folder of the user's launchd agents."""
    state: Path
    """Our state folder, from which Windows reads the task."""
    user: int = 0
    """The user id."""
    user_name: str = ""
    """The user's name in Windows."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Environment variables for the daemon."""


@dataclass(frozen=True)
class ServiceFile:
    """A file that a manager reads."""

    path: Path
    text: str
    encoding: str = "utf-8"


@dataclass(frozen=True)
class Manager:
    """A service manager, with the files and commands for running whisperd."""

    name: ManagerName
    files: tuple[ServiceFile, ...]
    check: Command = ()
    """Fails if the manager is not running."""
    before: tuple[Command, ...] = ()
    """Stops running services before files are changed or removed."""
    enable: tuple[Command, ...] = ()
    """Makes the manager read the files, and start whisperd now and at each login."""
    disable: tuple[Command, ...] = ()
    """Makes the manager forget whisperd before the files are removed."""
    after: tuple[Command, ...] = ()
    """Makes the manager notice that the files were removed."""
    is_enabled: Command = ()
    """Fails if the manager does not know whisperd; if empty, `enable` may be repeated at any time."""
    is_active: Command = ()
    """Fails if the daemon is not running; if empty, that is unknown."""
    start: tuple[Command, ...] = ()
    stop: tuple[Command, ...] = ()
    """What remains to be done after asking the daemon itself to stop: its socket is stopped as well."""
    hint: str = ""
    """The commands that show the user more about a failure."""


def systemd(place: Place) -> Manager:
    """User units of systemd: a permanent socket, and the daemon behind it."""
    environment = {**place.environment, "WHISPERD_SERVICE": "systemd"}
    lines = "\n".join(
        f"Environment={unit_quoted(f'{name}={value}', has_variables=False)}"
        for name, value in sorted(environment.items())
    )
    service = _template("whisperd.service", {
        "COMMAND": " ".join(map(unit_quoted, place.command)),
        "RELOAD": " ".join(map(unit_quoted, place.reload)),
        "ENVIRONMENT": lines,
    })  # fmt: skip
    socket = _template("whisperd.socket", {"LISTEN": place.listen})
    units = ("whisperd.socket", "whisperd.service")
    ctl = ("systemctl", "--user")
    # After some failures, systemd refuses to start even a mended service. A pattern may match no unit.
    forget_failures = (*ctl, "reset-failed", "whisperd.*")
    return Manager(
        "systemd",
        (
            ServiceFile(place.units / "whisperd.service", marked(service, place.socket)),
            ServiceFile(place.units / "whisperd.socket", marked(socket, place.socket)),
        ),
        check=(*ctl, "show", "--property=Version"),
        before=((*ctl, "stop", *units),),
        enable=((*ctl, "daemon-reload"), forget_failures, (*ctl, "enable", "--now", *units)),
        disable=((*ctl, "disable", "--now", *units),),
        after=((*ctl, "daemon-reload"),),
        is_active=(*ctl, "is-active", "--quiet", "whisperd.service"),
        start=(forget_failures, (*ctl, "start", *units)),
        stop=((*ctl, "stop", *units),),
        hint="`systemctl --user status whisperd` and `journalctl --user -u whisperd`",
    )


def launchd(place: Place) -> Manager:
    """A launchd agent, which keeps the daemon running while the user is logged in."""
    agent = {
        "Label": LABEL,
        "ProgramArguments": list(place.command),
        "EnvironmentVariables": {**place.environment, "WHISPERD_SERVICE": "launchd"},
        "RunAtLoad": True,
        "KeepAlive": {"SuccessfulExit": False},  # not restarted after a requested exit
        "ThrottleInterval": 10,  # seconds between starts
        "ExitTimeOut": 60,  # seconds until it is killed
        "ProcessType": "Interactive",  # users wait for it: no throttling as for background work
        "Umask": 0o077,
        "StandardOutPath": "/dev/null",
        "StandardErrorPath": "/dev/null",  # messages are in the log file
    }
    text = plistlib.dumps(agent, sort_keys=False).decode()
    path, domain = place.agents / f"{LABEL}.plist", f"gui/{place.user}"
    bootstrap = ("launchctl", "bootstrap", domain, str(path))
    bootout = ("launchctl", "bootout", f"{domain}/{LABEL}")
    kickstart = ("launchctl", "kickstart", f"{domain}/{LABEL}")
    return Manager(
        "launchd",
        (ServiceFile(path, marked(text, place.socket, ("<!-- ", " -->"))),),
        check=("launchctl", "print", domain),
        before=(bootout,),
        enable=(("launchctl", "enable", f"{domain}/{LABEL}"), bootstrap),
        disable=(bootout,),
        is_enabled=("launchctl", "print", f"{domain}/{LABEL}"),
        start=(kickstart,),
        hint=f"`launchctl print {domain}/{LABEL}` and `whisperctl daemon logs`",
    )


def task_scheduler(place: Place) -> Manager:
    """A Windows task that starts the daemon when the user logs in. Not tested yet.

    Its action cannot set variables: the daemon gets those of the user.
    """
    program, *arguments = place.command
    values = {
        "USER": escape(place.user_name),
        "PROGRAM": escape(program.replace("python.exe", "pythonw.exe")),  # without a window
        "ARGUMENTS": escape(_windows_joined(arguments)),
    }
    path = place.state / "whisperd-task.xml"
    text = marked(_template("task.xml", values), place.socket, ("<!-- ", " -->"))
    run, end = ("schtasks", "/Run", "/TN", LABEL), ("schtasks", "/End", "/TN", LABEL)
    return Manager(
        "task-scheduler",
        (ServiceFile(path, text, encoding="utf-16"),),
        check=("schtasks", "/Query"),
        before=(end,),
        enable=(("schtasks", "/Create", "/TN", LABEL, "/XML", str(path), "/F"), run),
        disable=(end, ("schtasks", "/Delete", "/TN", LABEL, "/F")),
        start=(run,),
        hint=f"`schtasks /Query /TN {LABEL} /V /FO LIST` and `whisperctl daemon logs`",
    )


def openrc(place: Place) -> Manager:
    """A service script for OpenRC, which the administrator has to install."""
    program, *arguments = place.command
    # Quoted twice: a shell reads the file, and OpenRC has a shell read the variables again.
    values = {"PROGRAM": shlex.quote(shlex.quote(program)), "ARGUMENTS": shlex.quote(shlex.join(arguments))}
    return Manager("openrc", (ServiceFile(Path("/etc/init.d/whisperd"), _template("openrc", values)),))


def runit(place: Place) -> Manager:
    """A service script for runit, which the administrator has to install."""
    text = _template("runit", {"COMMAND": shlex.join(place.command)})
    return Manager("runit", (ServiceFile(Path("/etc/sv/whisperd/run"), text),))


MANAGERS: Final = {
    "systemd": systemd,
    "launchd": launchd,
    "task-scheduler": task_scheduler,
    "openrc": openrc,
    "runit": runit,
}
"""The managers, by name."""


def unit_quoted(word: str, *, has_variables: bool = True) -> str:
    """Quote a word for systemd if necessary, and escape specifiers and variables.

    Only commands may contain variables.
    """
    plain = word.replace("%", "%%")
    if has_variables:
        plain = plain.replace("$", "$$")
    if plain and not any(sign in plain for sign in " \t\n\"'\\;"):
        return plain
    escaped = plain.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
    return f'"{escaped}"'


def _template(name: str, values: Mapping[str, str]) -> str:
    text = (resources.files("whisperd.service_manager") / "files" / name).read_text("utf-8")
    for key, value in values.items():
        text = text.replace(f"@{key}@", value)
    return text


def _windows_joined(arguments: list[str]) -> str:
    import subprocess

    return subprocess.list2cmdline(arguments)
