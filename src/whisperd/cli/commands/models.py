"""`whisperctl models`: the models on this computer."""

from __future__ import annotations

import argparse
from typing import Any

from whisperd.cli.command import add_names, call_with_progress, confirm, connect_as, for_each
from whisperd.cli.output import print_json, print_table, printable, size
from whisperd.cli.parser import Parser
from whisperd.client.inputs import model_name


def add(parser: Parser) -> None:
    """Add the verbs."""
    parser.add_verb("list", list_, "the models that are installed")
    parser.add_verb("available", available, "the models that can be had, with their sizes")
    parser.add_verb("recommend", recommend, "which models suit this computer")
    parser.add_verb("pull", pull, "download models", _add_models)
    parser.add_verb("verify", verify, "compare every byte of models with its hash", _add_models)
    parser.add_verb("remove", remove, "delete models", _add_models)
    parser.add_verb("path", path, "where models lie", _add_models)
    parser.add_verb("import", import_, "copy a model from a folder into the store", _add_folder_and_name)


def _add_models(parser: Parser) -> None:
    add_names(parser, "names of the catalogue, hub repositories (owner/name), or folders (./name)")


def _add_folder_and_name(parser: Parser) -> None:
    parser.add_argument("folder", metavar="FOLDER", help="a model in CTranslate2's format")
    parser.add_argument("name", metavar="NAME", help="the name that it gets")


def list_(options: argparse.Namespace) -> None:
    with connect_as(options) as client:
        models = client.models.list()
    if options.json:
        print_json(models)
        return
    print_table(
        ("NAME", "SIZE", "MEMORY", "LANGUAGES", "VERIFIED"),
        [
            (one["name"], size(one["size"]), size(one["memory"]), _languages(one), one["verified"])
            for one in models
        ],
    )


def available(options: argparse.Namespace) -> None:
    with connect_as(options) as client:
        models = client.models.available()
    if options.json:
        print_json(models)
        return
    print_table(
        ("NAME", "SIZE", "MEMORY", "LANGUAGES", "INSTALLED"),
        [
            (
                one["name"],
                size(one["size"]),
                size(one["memory"]),
                _languages(one),
                "yes" if one["installed"] else "no",
            )
            for one in models
        ],
    )


def recommend(options: argparse.Namespace) -> None:
    with connect_as(options) as client:
        models = client.models.recommend()
    if options.json:
        print_json(models)
        return
    print_table(
        ("", "NAME", "SIZE", "MEMORY", "FITS", "WHY"),
        [
            (
                "*" if one["recommended"] else "",
                one["name"],
                size(one["size"]),
                size(one["memory"]),
                "yes" if one["fits"] else "no",
                one["reason"],
            )
            for one in models
        ],
    )


def pull(options: argparse.Namespace) -> int:
    return for_each(
        options,
        options.names,
        lambda client, name: call_with_progress(
            options, client, ("models",), "models.pull", name=model_name(name)
        ),
        lambda answer: _tell(options, f"{answer['name']} is installed ({size(answer['size'])})"),
    )


def verify(options: argparse.Namespace) -> int:
    def tell(answer: dict[str, Any]) -> None:
        if answer["ok"]:
            _tell(options, f"{answer['name']}: every byte is right")
            return
        print(f"{printable(answer['name'])}: damaged")
        for name in answer["damaged"]:
            print(f"  damaged: {printable(name)}")
        print(f"  {printable(answer['fix'])}")

    return for_each(options, options.names, lambda client, name: client.models.verify(name), tell)


def remove(options: argparse.Namespace) -> int:
    return for_each(
        options,
        options.names,
        lambda client, name: client.models.remove(name),
        lambda answer: _tell(options, f"{answer['name']} is removed ({size(answer['freed'])} freed)"),
    )


def path(options: argparse.Namespace) -> int:
    return for_each(
        options,
        options.names,
        lambda client, name: {"name": name, **client.models.path(name)},
        lambda answer: print(answer["path"]),
    )


def import_(options: argparse.Namespace) -> None:
    with connect_as(options) as client:
        answer = client.models.import_(options.folder, options.name)
    confirm(options, answer, f"{answer['name']} is installed ({size(answer['size'])})")


def _tell(options: argparse.Namespace, text: str) -> None:
    if not options.quiet:
        print(printable(text))


def _languages(model: dict[str, object]) -> str:
    languages = model["languages"]
    if isinstance(languages, list) and len(languages) == 1:
        return str(languages[0])
    return "many" if languages else "-"
