"""`whisperctl models`: manage the models on this computer."""

from __future__ import annotations

import argparse
import os
from typing import Any

from whisperd.cli.command import (
    add_names,
    call_with_progress,
    confirm,
    confirm_download,
    connect_as,
    for_each,
    model_warnings,
    print_damage,
    print_unless_quiet,
    print_warnings,
)
from whisperd.cli.output import print_json, print_problem, print_table, wrapped
from whisperd.cli.parser import Parser
from whisperd.client import Client, model_name
from whisperd.quantities import size, speed

PULL_EXAMPLES = """examples:
  whisperctl models pull small
  whisperctl models pull owner/name"""
IMPORT_EXAMPLES = """examples:
  whisperctl models import ~/Downloads/ggml-base-q5_1.bin
  whisperctl models import ./fine-tuned mine"""


def add(parser: Parser) -> None:
    """Add the verbs."""
    parser.add_verb("list", list_, "list the installed models")
    parser.add_verb("available", available, "list the models that can be downloaded, with their sizes")
    parser.add_verb("recommend", recommend, "recommend models for this computer, best first", _add_language)
    parser.add_verb("show", show, "show the details of models", _add_models)
    parser.add_verb("pull", pull, "download models", _add_pull)
    parser.add_verb("verify", verify, "check every byte of models against their hashes", _add_models)
    parser.add_verb("remove", remove, "delete models", _add_installed)
    parser.add_verb("path", path, "print where models are stored", _add_models)
    parser.add_verb("import", import_, "copy a model folder or file into the store", _add_path_and_name)


def _add_models(parser: Parser) -> None:
    add_names(parser, "catalogue names, hub repositories (owner/name), or folders and files (./name)")


def _add_installed(parser: Parser) -> None:
    add_names(parser, "names of installed models, as `whisperctl models list` shows them")


def _add_pull(parser: Parser) -> None:
    add_names(parser, "catalogue names, or hub repositories (owner/name)")
    parser.epilog = PULL_EXAMPLES


def _add_language(parser: Parser) -> None:
    parser.add_argument(
        "--language", metavar="CODE", help="only models that support it: en, de, ... (default: any)"
    )


def _add_path_and_name(parser: Parser) -> None:
    parser.add_argument(
        "path",
        metavar="PATH",
        help="folder with a model in CTranslate2 format, or a whisper.cpp file",
    )
    parser.add_argument("name", metavar="NAME", nargs="?", help="name of the new model (default: its own)")
    parser.epilog = IMPORT_EXAMPLES


def list_(options: argparse.Namespace) -> None:
    with connect_as(options) as client:
        models = client.models.list()
    _print_models(options, models, "verified")


def available(options: argparse.Namespace) -> None:
    with connect_as(options) as client:
        models = client.models.available()
    _print_models(options, models, "installed")


def _print_models(options: argparse.Namespace, models: list[dict[str, Any]], trait: str) -> None:
    """Print a table of models; its last column says whether each has this trait."""
    if options.json:
        print_json(models)
        return
    print_table(
        ("NAME", "SIZE", "MEMORY", "LANGUAGES", trait.upper()),
        [
            (
                one["name"],
                size(one["size"]),
                size(one["memory"]),
                _languages(one),
                one[trait],
            )
            for one in models
        ],
    )


def recommend(options: argparse.Namespace) -> None:
    with connect_as(options) as client:
        models = client.models.recommend(options.language)
    if options.json:
        print_json(models)
        return
    print_table(
        ("", "NAME", "SIZE", "MEMORY", "SPEED", "FITS", "WHY"),
        [
            (
                "*" if one["recommended"] else "",
                one["name"],
                size(one["size"]),
                size(one["memory"]),
                _speed(one),
                one["fits"],
                one["reason"],
            )
            for one in models
        ],
    )
    for one in models:
        if one["recommended"]:
            print_unless_quiet(options, "")
            print_unless_quiet(options, one["summary"])
    if not any(one["measured"] for one in models):
        print_unless_quiet(options, "Run `whisperctl calibrate` to measure their speed on this computer.")


def show(options: argparse.Namespace) -> int:
    return for_each(options, lambda client, name: client.models.show(name), _show)


def _show(model: dict[str, Any]) -> None:
    rows = {
        "Name": model["name"],
        "Repository": model["repo"],
        "Format": _format(model),
        "Size": size(model["size"]),
        "Memory": size(model["memory"]),
        "Languages": ", ".join(model["languages"] or ()),
        "Installed": model["path"] if model["installed"] else "no",
    }
    for label, value in rows.items():
        if value:
            print("\n".join(wrapped(value, 80, label=label, cells=12)))
    for warning in model["warnings"]:
        print_problem(warning)


def pull(options: argparse.Namespace) -> int:
    def ask(client: Client, name: str) -> dict[str, Any]:
        confirm_download(options, model_warnings(client, name))
        return _with_progress(options, client, "models.pull", name=model_name(name))

    return for_each(
        options,
        ask,
        lambda answer: f"{answer['name']} is installed ({size(answer['size'])})",
    )


def verify(options: argparse.Namespace) -> int:
    return for_each(
        options,
        lambda client, name: _with_progress(options, client, "models.verify", name=model_name(name)),
        _verified,
    )


def _verified(answer: dict[str, Any]) -> str | None:
    if answer["ok"] and os.path.isabs(answer["name"]):
        return f"{answer['name']}: usable; a model used in place has no known hashes to compare with"
    if answer["ok"]:
        return f"{answer['name']}: intact"
    print_damage(answer["name"], [f"damaged: {name}" for name in answer["damaged"]], answer["fix"])
    return None


def remove(options: argparse.Namespace) -> int:
    return for_each(
        options,
        lambda client, name: client.models.remove(name),
        lambda answer: f"{answer['name']} is removed ({size(answer['freed'])} freed)",
    )


def path(options: argparse.Namespace) -> int:
    return for_each(
        options,
        lambda client, name: {"name": name, **client.models.path(name)},
        lambda answer: print(answer["path"]),
    )


def import_(options: argparse.Namespace) -> None:
    with connect_as(options) as client:
        answer = _with_progress(
            options, client, "models.import", path=os.path.abspath(options.path), name=options.name
        )
    print_warnings(options, answer["warnings"])
    confirm(options, answer, f"{answer['name']} is installed ({size(answer['size'])})")


def _with_progress(options: argparse.Namespace, client: Client, method: str, **params: Any) -> dict[str, Any]:
    return call_with_progress(options, client, ("models",), method, **params)


def _format(model: dict[str, Any]) -> str | None:
    """Return the format and precision of a single-file model; None for others."""
    facts = model["facts"]
    return f"{facts['format']}, {facts['precision']}" if facts else None


def _speed(model: dict[str, Any]) -> str:
    """Return its speed on this computer; a tilde marks an estimate from the speed of other models."""
    is_expected = not (model["speed"] is None or model["measured"])
    return f"{'~' if is_expected else ''}{speed(model['speed'])}"


def _languages(model: dict[str, object]) -> str:
    languages = model["languages"]
    if isinstance(languages, list) and len(languages) == 1:
        return str(languages[0])
    return "many" if languages else "-"
