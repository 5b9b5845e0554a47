"""`whisperctl natives`: manage the native libraries that engines need."""

from __future__ import annotations

import argparse
from typing import Any

from whisperd.cli import exit_status
from whisperd.cli.command import (
    add_names,
    call_with_progress,
    confirm,
    connect_as,
    for_each,
    print_damage,
    print_unless_quiet,
)
from whisperd.cli.output import print_json, print_problem, print_table
from whisperd.cli.parser import Parser, non_empty
from whisperd.quantities import size

UPGRADE_EXAMPLES = """examples:
  whisperctl natives upgrade
  whisperctl natives upgrade ctranslate2-cpu --version 4.8.5"""


def add(parser: Parser) -> None:
    """Add the verbs."""
    parser.add_verb("list", list_, "list all bundles, and the installed versions of each")
    parser.add_verb("install", install, "install bundles", _add_bundles)
    parser.add_verb("verify", verify, "check every file of bundles against its hash", _add_bundles)
    parser.add_verb(
        "upgrade", upgrade, "install newer versions of bundles, test them, and switch to them", _add_upgrade
    )
    parser.add_verb("rollback", rollback, "switch bundles back to their previous versions", _add_bundles)
    parser.add_verb("remove", remove, "delete bundles", _add_remove)
    parser.add_verb("prune", prune, "delete leftovers of older versions of whisperd, Python and bundles")
    parser.add_verb("path", path, "print where bundles are stored", _add_bundles)


def _add_bundles(parser: Parser) -> None:
    add_names(parser, "bundle names, as `whisperctl natives list` shows them")


def _add_upgrade(parser: Parser) -> None:
    parser.add_argument("names", nargs="*", metavar="NAME", help="bundle names (default: all installed ones)")
    parser.add_argument(
        "--version",
        type=non_empty,
        metavar="VERSION",
        dest="bundle_version",
        help="this version (default: the newest)",
    )
    parser.epilog = UPGRADE_EXAMPLES


def _add_remove(parser: Parser) -> None:
    _add_bundles(parser)
    parser.add_argument(
        "--version",
        type=non_empty,
        metavar="VERSION",
        dest="bundle_version",
        help="only this version (default: all)",
    )


def list_(options: argparse.Namespace) -> None:
    with connect_as(options) as client:
        bundles = client.natives.list()
        problems = client.daemon.status()["plugin_problems"]
    if options.json:
        print_json(bundles)
        return
    print_table(
        ("NAME", "STATUS", "VERSION", "OTHERS", "SIZE"),
        [
            (
                one["name"],
                "installed" if one["current"] else "not installed" if one["usable"] else "not usable",
                one["current"],
                _others(one),
                _size(one),
            )
            for one in bundles
        ],
    )
    for one in bundles:
        if not one["usable"]:
            print_problem({"message": one["reason"], "fix": one["fix"]}, f"{one['name']}: ")
    for problem in problems:
        print_problem(problem)


def _others(bundle: dict[str, Any]) -> str | None:
    """Return the other installed versions; the current one again if it is also there for another Python."""
    others = list(bundle["installed"])
    if bundle["current"] in others:
        others.remove(bundle["current"])
    return ", ".join(others) or None


def _size(bundle: dict[str, Any]) -> str | None:
    if bundle["current"]:
        return size(bundle["size"])
    if bundle["download_size"] is None:
        return None
    building = ", then minutes to build" if bundle["built_here"] else ""
    return f"{size(bundle['download_size'])} to download{building}"


def install(options: argparse.Namespace) -> int:
    return for_each(
        options,
        lambda client, name: call_with_progress(options, client, ("natives",), "natives.install", name=name),
        lambda answer: f"{answer['name']} {answer['version']} is installed ({size(answer['size'])})",
    )


def verify(options: argparse.Namespace) -> int:
    return for_each(
        options,
        lambda client, name: call_with_progress(options, client, ("natives",), "natives.verify", name=name),
        _verified,
    )


def _verified(answer: dict[str, Any]) -> str | None:
    if answer["ok"]:
        return f"{answer['name']}: intact"
    damage = [f"{one['problem']}: {one['path']}" for one in answer["damage"]]
    print_damage(answer["name"], damage, f"Run `whisperctl natives install {answer['name']}` to repair it.")
    return None


def upgrade(options: argparse.Namespace) -> int:
    def show(answer: dict[str, Any]) -> None:
        if not answer["changed"]:
            state = "already in use" if options.bundle_version else "the newest version"
            print_unless_quiet(options, f"{answer['name']} {answer['version']} is {state}")
            return
        print_unless_quiet(options, f"{answer['name']} now uses {answer['version']}: {answer['tried']}")
        print_unless_quiet(
            options, f"  Loaded runtimes keep using {answer['before']} until they are loaded again."
        )
        print_unless_quiet(options, f"  Run `whisperctl natives rollback {answer['name']}` to return to it.")

    names = options.names or _installed_names(options)
    if not names:
        confirm(options, [], "No bundle is installed.")
        return exit_status.DONE
    version = {"version": options.bundle_version} if options.bundle_version else {}
    return for_each(
        options,
        lambda client, name: call_with_progress(
            options, client, ("natives", "models"), "natives.upgrade", name=name, **version
        ),
        show,
        names=names,
        is_list=not options.names,
    )


def _installed_names(options: argparse.Namespace) -> list[str]:
    with connect_as(options) as client:
        return [one["name"] for one in client.natives.list() if one["current"]]


def rollback(options: argparse.Namespace) -> int:
    return for_each(
        options,
        lambda client, name: call_with_progress(options, client, ("natives",), "natives.rollback", name=name),
        lambda answer: f"{answer['name']} is rolled back to {answer['version']}",
    )


def remove(options: argparse.Namespace) -> int:
    return for_each(
        options,
        lambda client, name: client.natives.remove(name, options.bundle_version),
        lambda answer: f"{answer['name']} is removed ({', '.join(answer['removed'])})",
    )


def prune(options: argparse.Namespace) -> None:
    with connect_as(options) as client:
        removed = client.natives.prune()
    lines = [f"{one['name']} {one['version']} is removed: {one['path']}" for one in removed]
    nothing = "Nothing to remove: all installed versions are in use or kept for a rollback."
    confirm(options, removed, *(lines or [nothing]))


def path(options: argparse.Namespace) -> int:
    return for_each(
        options,
        lambda client, name: {"name": name, **client.natives.path(name)},
        lambda answer: print(answer["path"]),
    )
