"""`whisperctl daemon` and the service manager: install, uninstall, start and stop the service."""

from __future__ import annotations

import argparse
import shlex
import sys
from typing import TYPE_CHECKING, Any, Literal

from whisperd import paths
from whisperd.cli.command import confirm, connect_as
from whisperd.cli.output import print_json
from whisperd.cli.parser import Parser
from whisperd.rpc.errors import WhisperdError

if TYPE_CHECKING:
    from whisperd.service_manager.install import Outcome
    from whisperd.service_manager.managers import Manager

__all__ = ["add_install", "add_uninstall", "control", "install", "installed", "is_stopped", "uninstall"]

INSTALL_EXAMPLES = """examples:
  whisperctl daemon install
  whisperctl daemon install --print
  whisperctl daemon install --manager openrc --print"""
_MANAGERS = ("systemd", "launchd", "task-scheduler", "openrc", "runit")


def add_install(parser: Parser) -> None:
    """Add the options of `install`."""
    _add_common(parser, "overwrite changed files; they are kept as NAME.old")
    parser.epilog = INSTALL_EXAMPLES


def add_uninstall(parser: Parser) -> None:
    """Add the options of `uninstall`."""
    _add_common(parser, "remove changed files as well")


def _add_common(parser: Parser, force: str) -> None:
    parser.add_argument("--manager", choices=_MANAGERS, help="service manager (default: this computer's)")
    parser.add_argument("--force", action="store_true", help=force)
    parser.add_argument(
        "--print",
        "--dry-run",
        action="store_true",
        dest="print",
        help="show what would be done, without doing it",
    )


def installed(options: argparse.Namespace) -> Manager | None:
    """Return the manager of the service that is installed for the requested socket, if there is one."""
    from whisperd.service_manager.install import installed_manager

    return installed_manager(paths.socket_path(options.socket))


def control(options: argparse.Namespace, verb: Literal["start", "stop"]) -> None:
    """Make the manager start or stop the service, if there is one. Raises `service.failed`."""
    if (manager := installed(options)) is not None:
        from whisperd.service_manager.install import run

        run(manager.start if verb == "start" else manager.stop, manager.hint)


def is_stopped(options: argparse.Namespace) -> bool:
    """Whether the manager reports that the daemon is not running, although its socket may exist."""
    from whisperd.service_manager.install import is_active

    manager = installed(options)
    return manager is not None and not is_active(manager)


def install(options: argparse.Namespace, stop: Any) -> None:
    """Install the service. `stop` stops a daemon that was started by hand."""
    from whisperd.service_manager import install as installing

    manager = installing.manager_of(installing.this_place(options.socket), options.manager)
    if options.print:
        _show(options, manager, "write", [*manager.enable])
        return
    installing.check(manager, force=options.force)
    if _is_started_by_hand(options):
        stop(options)
    outcome = installing.install(manager, force=options.force)
    done = f"whisperd is installed as a service of {outcome.manager} and running"
    if not outcome.written:
        done += "; it was already installed"
    confirm(options, _as_map(outcome), done, *_lines(outcome))


def uninstall(options: argparse.Namespace) -> None:
    """Remove the service."""
    from whisperd.service_manager import install as installing

    manager = installing.manager_of(installing.this_place(options.socket), options.manager)
    if options.print:
        _show(options, manager, "remove", [*manager.disable, *manager.after])
        return
    outcome = installing.uninstall(manager, force=options.force)
    done = "whisperd is no longer a service" if outcome.removed else "whisperd was not installed as a service"
    confirm(options, _as_map(outcome), done, *_lines(outcome), *(_user_data() if outcome.removed else ()))


def _user_data() -> list[str]:
    """Return lines that list the user's data, which uninstalling keeps."""
    places = {
        "settings": paths.config_file(),
        "transcripts, jobs, runtimes and log": paths.state_dir(),
        "models": paths.models_dir(),
        "native bundles": paths.native_dir(),
    }
    stays = [f"  {what}: {place}" for what, place in places.items() if place.exists()]
    return ["your data stays until you delete it:", *stays] if stays else []


def _is_started_by_hand(options: argparse.Namespace) -> bool:
    """Whether a daemon is running that no manager started. This check does not start one."""
    if installed(options) is not None:
        return False
    try:
        with connect_as(options, start=False) as client:
            return client.daemon.status()["service"] is None
    except WhisperdError:
        return False


def _show(options: argparse.Namespace, manager: Manager, verb: str, commands: list[tuple[str, ...]]) -> None:
    if options.json:
        files = [{"path": str(one.path), "content": one.text} for one in manager.files]
        print_json({"manager": manager.name, "files": files, "commands": [list(one) for one in commands]})
        return
    for one in manager.files:
        print(f"# would {verb} {one.path}", file=sys.stderr)
        if verb == "write":
            print(one.text)
    for command in commands:
        print(f"# would run {shlex.join(command)}", file=sys.stderr)


def _as_map(outcome: Outcome) -> dict[str, Any]:
    return {
        "manager": outcome.manager,
        "written": [str(path) for path in outcome.written],
        "removed": [str(path) for path in outcome.removed],
        "unchanged": [str(path) for path in outcome.unchanged],
        "kept": [str(path) for path in outcome.kept],
    }


def _lines(outcome: Outcome) -> list[str]:
    return [
        *(f"wrote {path}" for path in outcome.written),
        *(f"removed {path}" for path in outcome.removed),
        *(f"kept {path}" for path in outcome.kept),
    ]
