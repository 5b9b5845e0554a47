"""`whisperctl natives`: the native libraries that engines need."""

from __future__ import annotations

import argparse
from typing import Any

from whisperd.cli.command import add_names, call_with_progress, connect_as, for_each
from whisperd.cli.output import print_json, print_table, printable, size
from whisperd.cli.parser import Parser


def add(parser: Parser) -> None:
    """Add the verbs."""
    parser.add_verb("list", list_, "every bundle, and what of it is installed")
    parser.add_verb("install", install, "install bundles", _add_bundles)
    parser.add_verb("verify", verify, "compare every file of bundles with its hash", _add_bundles)
    parser.add_verb("remove", remove, "delete bundles", _add_bundles)
    parser.add_verb("path", path, "where bundles lie", _add_bundles)


def _add_bundles(parser: Parser) -> None:
    add_names(parser, "bundles, as `whisperctl natives list` names them")


def list_(options: argparse.Namespace) -> None:
    with connect_as(options) as client:
        bundles = client.natives.list()
    if options.json:
        print_json(bundles)
        return
    print_table(
        ("NAME", "STATUS", "VERSION", "SIZE"),
        [
            (
                one["name"],
                "installed" if one["current"] else "not installed" if one["usable"] else "not usable",
                one["current"],
                size(one["size"]) if one["current"] else f"{size(one['download_size'])} to download",
            )
            for one in bundles
        ],
    )
    for one in bundles:
        if not one["usable"]:
            print(f"{one['name']}: {one['reason']}\n  {one['fix']}")


def install(options: argparse.Namespace) -> int:
    def tell(answer: dict[str, Any]) -> None:
        if not options.quiet:
            print(f"{answer['name']} {answer['version']} is installed ({size(answer['size'])})")

    return for_each(
        options,
        options.names,
        lambda client, name: call_with_progress(options, client, ("natives",), "natives.install", name=name),
        tell,
    )


def verify(options: argparse.Namespace) -> int:
    def tell(answer: dict[str, Any]) -> None:
        if answer["ok"]:
            if not options.quiet:
                print(f"{answer['name']}: every file is as it was installed")
            return
        print(f"{answer['name']}: damaged")
        for damage in answer["damage"]:
            print(f"  {damage['problem']}: {printable(damage['path'])}")
        print(f"  Run `whisperctl natives install {answer['name']}` to mend it.")

    return for_each(options, options.names, lambda client, name: client.natives.verify(name), tell)


def remove(options: argparse.Namespace) -> int:
    def tell(answer: dict[str, Any]) -> None:
        if not options.quiet:
            print(f"{answer['name']} is removed ({', '.join(answer['removed'])})")

    return for_each(options, options.names, lambda client, name: client.natives.remove(name), tell)


def path(options: argparse.Namespace) -> int:
    return for_each(
        options,
        options.names,
        lambda client, name: {"name": name, **client.natives.path(name)},
        lambda answer: print(answer["path"]),
    )
