"""`whisperctl profiles`: manage profiles: a runtime and options of a user or program."""

from __future__ import annotations

import argparse
from typing import Any

from whisperd.cli.command import add_names, confirm, connect_as, for_each
from whisperd.cli.job_options import (
    add_job_options,
    add_unset,
    merge_options,
    options_in_words,
    stored_options,
)
from whisperd.cli.output import facts, local_time, print_json, print_table
from whisperd.cli.parser import Parser, usage_error

EXAMPLES = """examples:
  whisperctl profiles create interviews --runtime best --language de --hotwords "Ruhrgebiet, Zeche"
  whisperctl transcribe talk.mp3 --profile interviews
  export WHISPERD_PROFILE=interviews"""


def add(parser: Parser) -> None:
    """Add the verbs."""
    parser.add_verb("list", list_, "list the profiles")
    parser.add_verb("show", show, "show the details of a profile", _add_name)
    parser.add_verb("create", create, "create a profile", _add_creation)
    parser.add_verb("edit", edit, "change the given options of a profile", _add_edition)
    parser.add_verb("delete", delete, "delete profiles", _add_names)


def _add_name(parser: Parser) -> None:
    parser.add_argument("name", metavar="NAME", help="profile name")


def _add_names(parser: Parser) -> None:
    add_names(parser, "profile names")


def _add_creation(parser: Parser) -> None:
    parser.add_argument(
        "name", metavar="NAME", help="name of the new profile: a to z, A to Z, digits, spaces and . - _"
    )
    add_job_options(parser, is_stored=True)
    parser.epilog = EXAMPLES


def _add_edition(parser: Parser) -> None:
    _add_name(parser)
    parser.add_argument("--rename", "--name", dest="new_name", metavar="NEW", help="new name")
    add_job_options(parser, is_stored=True)
    add_unset(parser, "runtime", examples="runtime or beam_size")


def list_(options: argparse.Namespace) -> None:
    with connect_as(options) as client:
        profiles = client.profiles.list()
    if options.json:
        print_json(profiles)
        return
    print_table(
        ("NAME", "RUNTIME", "OPTIONS"),
        [
            (
                one["name"],
                one["runtime"] or ("by model" if "model" in one["options"] else "default"),
                options_in_words(one["options"]),
            )
            for one in profiles
        ],
    )


def show(options: argparse.Namespace) -> None:
    with connect_as(options) as client:
        profile = client.profiles.show(options.name)
    if options.json:
        print_json(profile)
        return
    known = (
        ("name", profile["name"]),
        ("runtime", profile["runtime"] or ("by model" if "model" in profile["options"] else "the default")),
        ("options", options_in_words(profile["options"])),
        ("created", local_time(profile["created"])),
        ("changed", local_time(profile["changed"])),
        ("version", profile["version"]),
    )
    print("\n".join(facts(known)))


def create(options: argparse.Namespace) -> None:
    given = stored_options(options)
    with connect_as(options) as client:
        profile = client.profiles.create(options.name, runtime=options.runtime, options=given)
    confirm(options, profile, f"{profile['name']} is created")


def edit(options: argparse.Namespace) -> None:
    if not (stored_options(options) or options.unset or options.runtime or options.new_name):
        raise usage_error("No change was given", "`whisperctl profiles edit --help` lists the options")
    with connect_as(options) as client:
        profile = client.profiles.show(options.name)
        changes: dict[str, Any] = {"options": merge_options(profile["options"], options)}
        if options.runtime or options.model or "runtime" in options.unset:
            changes["runtime"] = options.runtime  # None where a model takes its place
        if options.new_name:
            changes["name"] = options.new_name
        # With the version that was read, so that options set by another client meanwhile are not undone.
        profile = client.profiles.edit(options.name, version=profile["version"], **changes)
    done = f"{options.name} is now {profile['name']}" if options.new_name else f"{profile['name']} is changed"
    confirm(options, profile, done)


def delete(options: argparse.Namespace) -> int:
    return for_each(
        options,
        lambda client, name: client.profiles.delete(name),
        lambda profile: f"{profile['name']} is deleted",
    )
