"""`whisperctl doctor`: find problems and say how to fix them."""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from whisperd._version import __version__
from whisperd.cli import exit_status
from whisperd.cli.command import connect_as
from whisperd.cli.output import columns, counted, print_json, print_notice, wrapped
from whisperd.cli.parser import Parser
from whisperd.paths import socket_path
from whisperd.rpc.errors import WhisperdError

if TYPE_CHECKING:
    from whisperd.doctor import Finding

    Map = dict[str, Any]

LABEL_CELLS = 24


def add(parser: Parser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "--report", action="store_true", help="print a text for a bug report, without private data"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Check everything; return 1 if anything is broken."""
    import msgspec

    from whisperd.doctor import check_daemon, check_socket, look_at_socket, worst

    if sys.stderr is not None and sys.stderr.isatty() and not (options.quiet or options.json):
        print_notice("checking ...")
    path = socket_path(options.socket)
    daemon, seen = _ask(options)
    findings = [
        check_daemon(__version__, daemon.get("version"), daemon.get("pid"), daemon.get("problem")),
        *check_socket(look_at_socket(path)),
        *seen["checks"],
    ]
    status = worst(findings)
    if options.report:
        _print_report(options, path, findings, seen)
    elif options.json:
        print_json(
            {
                "status": status,
                "version": __version__,
                "daemon": daemon.get("version"),
                "checks": msgspec.to_builtins(findings),
            }
        )
    else:
        _print_page(findings)
    return exit_status.FAILED if status == "broken" else exit_status.DONE


def _ask(options: argparse.Namespace) -> tuple[Map, Map]:
    """Return the daemon, or why there is none, and its checks. Without a daemon, run them here."""
    import msgspec

    from whisperd.decodable import decodable
    from whisperd.doctor import Finding

    daemon: Map = {}

    try:
        with connect_as(options, is_last_call=True) as client:
            status = client.daemon.status()
            daemon.update(version=client.server.get("version"), pid=status["pid"])
            seen = client.doctor.check()
        return daemon, {**seen, "checks": msgspec.convert(seen["checks"], decodable(list[Finding]))}
    except WhisperdError as error:
        if error.code == "daemon.unreachable":
            message = "not running: it starts when it is first needed"
            daemon["problem"] = Finding(name="daemon", status="ok", message=message)
        elif error.code != "rpc.unknown_method":  # an older daemon, whose version is reported
            how = "The daemon responds, but its checks fail" if "version" in daemon else "No daemon responds"
            daemon["problem"] = Finding(
                name="daemon", status="broken", message=f"{how}. {error.message}", fix=error.fix
            )
    return daemon, _check_here()


def _check_here() -> Map:
    """Run the checks without a daemon."""
    import anyio

    from whisperd.doctor import gather_here, page
    from whisperd.models import shipped_catalogue

    return page(anyio.run(gather_here), shipped_catalogue())


def _print_page(findings: list[Finding]) -> None:
    room = max(40, min(columns(sys.stdout), 110))
    for finding in findings:
        label = f"{finding.status:9}{finding.name}"
        for text, head in ((finding.message, label), (finding.fix, "")):
            if text:
                print("\n".join(wrapped(text, room, label=head, cells=LABEL_CELLS)))
    broken = sum(finding.status == "broken" for finding in findings)
    warnings = sum(finding.status == "warning" for finding in findings)
    print(f"\n{summary(broken, warnings)}")


def summary(broken: int, warnings: int) -> str:
    """Return the last line: how many problems there are."""
    if not (broken or warnings):
        return "all is well"
    parts = [counted(broken, "thing is broken", "things are broken") if broken else "nothing is broken"]
    if warnings:
        parts.append(counted(warnings, "warning"))
    return ", ".join(parts)


def _print_report(options: argparse.Namespace, path: str, findings: list[Finding], seen: Map) -> None:
    import getpass
    import platform

    from whisperd.doctor import Private, report

    host = platform.node()
    users = [os.path.basename(os.path.expanduser("~"))]
    with suppress(OSError, KeyError):
        users.append(getpass.getuser())
    private = Private(
        home=os.path.expanduser("~"),
        users=tuple(users),
        hosts=(host, host.partition(".")[0]),
        names=tuple(seen["names"]),
        places={**seen["places"], path: "socket", os.path.dirname(path): "socket folder"},
    )
    text = report(seen["about"], findings, private)
    if options.json:
        print_json({"report": text})
    else:
        sys.stdout.write(text)
