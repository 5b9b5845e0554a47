"""What each service manager is to be given, as values: files, and the commands that make it read them.

Nothing here looks at the computer or changes it; `install` does.
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
"""What the service is called by every manager."""


@dataclass(frozen=True)
class Place:
    """Where whisperd is to run, and as what."""

    command: Command
    """What starts the daemon in the foreground."""
    reload: Command
    """What has it read its settings again."""
    socket: str
    """Its path."""
    listen: str
    """The same as systemd is told it, where `%t` may be the user's runtime directory."""
    units: Path
    """The folder of the user's units of systemd."""
    agents: Path
    """The folder of the user's agents of launchd."""
    state: Path
    """Our own folder for state, where Windows is told its task from."""
    user: int = 0
    """The number of the user."""
    user_name: str = ""
    """The user as Windows calls them."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables that the daemon is to have."""


@dataclass(frozen=True)
class ServiceFile:
    """A file that a manager reads."""

    path: Path
    text: str
    encoding: str = "utf-8"


@dataclass(frozen=True)
class Manager:
    """A service manager, told how to run whisperd."""

    name: ManagerName
    files: tuple[ServiceFile, ...]
    check: Command = ()
    """Fails where the manager does not run."""
    before: tuple[Command, ...] = ()
    """Stops what runs, before files change or go."""
    enable: tuple[Command, ...] = ()
    """Has it read the files, start whisperd now and whenever the user logs in."""
    disable: tuple[Command, ...] = ()
    """Has it forget whisperd, before the files go."""
    after: tuple[Command, ...] = ()
    """Has it notice that the files are gone."""
    is_enabled: Command = ()
    """Fails where the manager does not know whisperd; without it, `enable` can be run again at any time."""
    is_active: Command = ()
    """Fails where the daemon does not run; without it that is not known."""
    start: tuple[Command, ...] = ()
    stop: tuple[Command, ...] = ()
    """What is left to do where the daemon itself was asked to end: its socket goes as well."""
    hint: str = ""
    """Where a person sees what it has to say."""


def systemd(place: Place) -> Manager:
    """User units of systemd: a socket that is always there, and the daemon behind it."""
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
    return Manager(
        "systemd",
        (
            ServiceFile(place.units / "whisperd.service", marked(service, place.socket)),
            ServiceFile(place.units / "whisperd.socket", marked(socket, place.socket)),
        ),
        check=(*ctl, "show", "--property=Version"),
        before=((*ctl, "stop", *units),),
        enable=((*ctl, "daemon-reload"), (*ctl, "enable", "--now", *units)),
        disable=((*ctl, "disable", "--now", *units),),
        after=((*ctl, "daemon-reload"),),
        is_active=(*ctl, "is-active", "--quiet", "whisperd.service"),
        start=((*ctl, "start", *units),),
        stop=((*ctl, "stop", *units),),
        hint="`systemctl --user status whisperd` and `journalctl --user -u whisperd`",
    )


def launchd(place: Place) -> Manager:
    """An agent of launchd, which keeps the daemon running while the user is logged in."""
    agent = {
        "Label": LABEL,
        "ProgramArguments": list(place.command),
        "EnvironmentVariables": {**place.environment, "WHISPERD_SERVICE": "launchd"},
        "RunAtLoad": True,
        "KeepAlive": {"SuccessfulExit": False},  # ended on request is ended
        "ThrottleInterval": 10,  # seconds between one start and the next
        "ExitTimeOut": 60,  # seconds that it has to end
        "ProcessType": "Interactive",  # somebody waits: not throttled as background work is
        "Umask": 0o077,
        "StandardOutPath": "/dev/null",
        "StandardErrorPath": "/dev/null",  # what happens is in the log file
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
    """A task of Windows that starts the daemon when the user logs in. Written, and not tried yet.

    Its action has no variables of its own: the daemon has those of the user.
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
    """A file for OpenRC, which its owner has to put in its place."""
    program, *arguments = place.command
    # Quoted twice: a shell reads the file, and OpenRC has a shell read what is in the variables once more.
    values = {"PROGRAM": shlex.quote(shlex.quote(program)), "ARGUMENTS": shlex.quote(shlex.join(arguments))}
    return Manager("openrc", (ServiceFile(Path("/etc/init.d/whisperd"), _template("openrc", values)),))


def runit(place: Place) -> Manager:
    """A file for runit, which its owner has to put in its place."""
    text = _template("runit", {"COMMAND": shlex.join(place.command)})
    return Manager("runit", (ServiceFile(Path("/etc/sv/whisperd/run"), text),))


MANAGERS: Final = {
    "systemd": systemd,
    "launchd": launchd,
    "task-scheduler": task_scheduler,
    "openrc": openrc,
    "runit": runit,
}
"""Each of them by its name."""


def unit_quoted(word: str, *, has_variables: bool = True) -> str:
    """A word as systemd reads it back: in quotes where it has to be, without specifiers and variables.

    Variables are only known in commands.
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
