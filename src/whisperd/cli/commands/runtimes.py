"""`whisperctl runtimes`: manage runtimes: which model runs, where and how."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable
from typing import Any, get_args

from whisperd.cli.command import (
    add_names,
    call_with_progress,
    confirm,
    confirm_download,
    connect_as,
    for_each,
    is_refused,
    print_unless_quiet,
    print_warnings,
)
from whisperd.cli.output import columns, print_json, print_notice, printable
from whisperd.cli.parser import Parser, usage_error, whole_number
from whisperd.cli.preparation import PREPARATION_TOPICS, Preparation
from whisperd.cli.runtime_view import details, runtime_table, what_runs
from whisperd.client import Client
from whisperd.quantities import size

Map = dict[str, Any]

FIELDS = (
    "model", "backend", "device", "device_index", "compute_type", "cpu_threads", "workers", "batched",
    "batch_size", "keep_alive", "protected",
)  # fmt: skip
EXAMPLES = """examples:
  whisperctl runtimes create fast --model tiny.en --keep-alive 1h
  whisperctl runtimes create best --model large-v3 --device cuda --device-index 0,1 --default --load
  whisperctl transcribe interview.mp3 --runtime fast"""


def add(parser: Parser) -> None:
    """Add the verbs."""
    parser.add_verb("list", list_, "list the runtimes; * marks the default", _add_watch)
    parser.add_verb("show", show, "show the details and history of a runtime", _add_name)
    parser.add_verb("create", create, "create a runtime", _add_creation)
    parser.add_verb(
        "edit", edit, "change the given options of a runtime, and reload it if necessary", _add_edition
    )
    parser.add_verb("delete", delete, "unload and delete runtimes", _add_names)
    parser.add_verb("prepare", prepare, "download everything that runtimes need", _add_names)
    parser.add_verb("load", load, "load runtimes into memory", _add_names)
    parser.add_verb("cancel", cancel, "stop downloading or loading runtimes", _add_names)
    parser.add_verb("unload", unload, "unload runtimes and free their memory", _add_names)
    parser.add_verb("default", default, "make a runtime the default", _add_name)
    parser.add_verb("enable", enable, "allow the use of runtimes", _add_names)
    parser.add_verb("disable", disable, "unload runtimes and forbid their use", _add_names)


def _add_name(parser: Parser) -> None:
    parser.add_argument("name", metavar="NAME", help="runtime name or id")


def _add_names(parser: Parser) -> None:
    add_names(parser, "runtime names or ids")


def _add_watch(parser: Parser) -> None:
    parser.add_argument(
        "--watch",
        action="store_true",
        help="keep showing changes until interrupted; with --json, a line for each",
    )


def _add_creation(parser: Parser) -> None:
    parser.add_argument(
        "name", metavar="NAME", help="name of the new runtime: a to z, A to Z, digits, spaces and . - _"
    )
    _add_fields(parser, is_new=True)
    parser.add_argument("--default", action="store_true", help="make it the default")
    parser.add_argument("--load", action="store_true", help="load it, and wait until it is loaded")
    parser.epilog = EXAMPLES


def _add_edition(parser: Parser) -> None:
    _add_name(parser)
    parser.add_argument("--rename", "--name", dest="new_name", metavar="NEW", help="new name")
    _add_fields(parser, is_new=False)
    parser.add_argument(
        "--if-version",
        type=whole_number(),
        metavar="N",
        help="only if this is still its version, as `whisperctl runtimes show NAME` shows it",
    )


def _add_fields(parser: Parser, *, is_new: bool) -> None:
    from whisperd.client import ComputeType, Device

    parser.add_argument(
        "--model",
        metavar="MODEL",
        help="catalogue name, hub repository (owner/name), or folder or file (./name)"
        + (" (default: the best for this computer)" if is_new else ""),
    )
    parser.add_argument(
        "--backend",
        metavar="NAME",
        help="engine that runs it, such as ctranslate2 or whispercpp (default: auto)",
    )
    parser.add_argument("--device", choices=get_args(Device), help="device to run on (default: auto)")
    parser.add_argument(
        "--device-index",
        type=_numbers,
        metavar="N[,N...]",
        help="GPU numbers, each with the whole model; none: automatic (default: none)",
    )
    types = get_args(ComputeType)
    parser.add_argument(
        "--compute-type", choices=types, metavar="TYPE", help=f"precision: {', '.join(types)} (default: auto)"
    )
    parser.add_argument(
        "--cpu-threads",
        type=whole_number(),
        metavar="N",
        help="CPU threads per worker; 0: automatic (default: 0)",
    )
    parser.add_argument(
        "--workers",
        type=whole_number(),
        metavar="N",
        help="batches to compute at once; 0: automatic (default: 0)",
    )
    parser.add_argument(
        "--batched",
        action=argparse.BooleanOptionalAction,
        help="compute several windows together (default: yes)",
    )
    parser.add_argument(
        "--batch-size",
        type=whole_number(),
        metavar="N",
        help="maximum windows per batch; 4: automatic (default: 4)",
    )
    parser.add_argument(
        "--keep-alive",
        metavar="TIME",
        help="how long to stay loaded when idle, such as 90s or 1h30m; 0: not at all, never: no limit"
        " (default: 15m)",
    )
    parser.add_argument(
        "--protected", action=argparse.BooleanOptionalAction, help="forbid deletion (default: no)"
    )


def list_(options: argparse.Namespace) -> None:
    with connect_as(options) as client:
        if options.watch:
            from whisperd.cli.runtime_watch import watch

            watch(client, as_json=options.json)
        runtimes = client.runtimes.list()
    if options.json:
        print_json(runtimes)
        return
    print("\n".join(runtime_table(runtimes, _now(), columns(sys.stdout))))


def show(options: argparse.Namespace) -> None:
    with connect_as(options) as client:
        runtime = client.runtimes.show(options.name)
    if options.json:
        print_json(runtime)
        return
    print("\n".join(details(runtime, _now())))


def create(options: argparse.Namespace) -> None:
    with connect_as(options) as client:
        runtime = client.runtimes.create(options.name, **_fields(options))
        chosen = "" if options.model else f", with the model {runtime['model']}"
        print_unless_quiet(options, f"{runtime['name']} is created{chosen}")
        warnings = runtime["warnings"]
        if options.load or (options.default and not is_refused(warnings)):
            confirm_download(options, warnings, is_to_be_loaded=True)
        else:
            print_warnings(options, warnings)
        if not (options.load or options.default):
            _announce_download(options, runtime)
        if options.default:  # this also starts loading it
            runtime |= client.runtimes.default(runtime["id"])
            print_unless_quiet(options, _as_default(runtime))
        if options.load:
            runtime = _prepare_or_load(options, client, "runtimes.load", runtime["id"], is_agreed=True)
            print_unless_quiet(options, _as_loaded(runtime))
    if options.json:
        print_json(runtime)


def edit(options: argparse.Namespace) -> None:
    changes = _fields(options)
    if options.new_name is not None:
        changes["name"] = options.new_name
    if not changes:
        raise usage_error("No change was given", "`whisperctl runtimes edit --help` lists the options")
    with connect_as(options) as client:
        runtime = client.runtimes.edit(options.name, version=options.if_version, **changes)
    print_warnings(options, runtime["warnings"])
    done = f"{options.name} is now {runtime['name']}" if options.new_name else f"{runtime['name']} is changed"
    confirm(options, runtime, done)
    if runtime["status"] == "unloaded" and options.model:
        _announce_download(options, runtime)


def delete(options: argparse.Namespace) -> int:
    return for_each(
        options,
        lambda client, name: client.runtimes.delete(name),
        lambda answer: f"{answer['name']} is deleted",
    )


def prepare(options: argparse.Namespace) -> int:
    return for_each(
        options,
        lambda client, name: _prepare_or_load(options, client, "runtimes.prepare", name),
        lambda runtime: f"{runtime['name']} has everything it needs",
    )


def load(options: argparse.Namespace) -> int:
    return for_each(
        options,
        lambda client, name: _prepare_or_load(options, client, "runtimes.load", name),
        _as_loaded,
    )


def cancel(options: argparse.Namespace) -> int:
    return _change_each(options, lambda client, name: client.runtimes.cancel(name))


def unload(options: argparse.Namespace) -> int:
    return _change_each(options, lambda client, name: client.runtimes.unload(name))


def default(options: argparse.Namespace) -> None:
    with connect_as(options) as client:
        before = client.runtimes.show(options.name)
        warnings = before["warnings"]
        if is_refused(warnings):  # it is loaded in the background, where its failure would go unnoticed
            print_warnings(options, warnings)
        else:
            confirm_download(options, warnings, is_to_be_loaded=True)
        runtime = client.runtimes.default(before["id"])
    confirm(options, runtime, _as_default(before | runtime))


def enable(options: argparse.Namespace) -> int:
    return _change_each(options, lambda client, name: client.runtimes.enable(name), "enabled")


def disable(options: argparse.Namespace) -> int:
    return _change_each(options, lambda client, name: client.runtimes.disable(name), "disabled")


def _change_each(
    options: argparse.Namespace, change: Callable[[Client, str], Any], became: str | None = None
) -> int:
    """Change each named runtime and print its state: `became`, or its status."""
    return for_each(
        options,
        change,
        lambda runtime: f"{runtime['name']} is {became or runtime['status']}",
    )


def _prepare_or_load(
    options: argparse.Namespace, client: Client, method: str, name: str, *, is_agreed: bool = False
) -> Map:
    """Prepare or load a runtime, with progress. Disconnecting gives it up."""
    runtime = client.runtimes.show(name)
    if not is_agreed:
        is_to_be_loaded = method == "runtimes.load"
        confirm_download(options, runtime["warnings"], is_to_be_loaded=is_to_be_loaded)
    preparation = Preparation(runtime)
    return call_with_progress(options, client, PREPARATION_TOPICS, method, show=preparation.show, name=name)


def _fields(options: argparse.Namespace) -> Map:
    """Return the fields that were given; the daemon has the defaults of the others."""
    values = {name: getattr(options, name) for name in FIELDS}
    return {name: value for name, value in values.items() if value is not None}


def _announce_download(options: argparse.Namespace, runtime: Map) -> None:
    """Say now, not at the first recording, that hundreds of MB must be downloaded first."""
    missing = runtime["to_download"]
    if missing and not (options.quiet or options.json or is_refused(runtime["warnings"])):
        print_notice(
            f"Its model {printable(_with_size(missing))} is not installed: the first job will download it."
        )
        print_notice(
            f"  Run `whisperctl runtimes prepare {printable(shlex.quote(runtime['name']))}` to do so now."
        )


def _as_loaded(runtime: Map) -> str:
    return f"{runtime['name']} is loaded: {what_runs(runtime['loaded'])}, {size(runtime['memory'])}"


def _as_default(runtime: Map) -> str:
    done = f"{runtime['name']} is the default"
    if runtime["status"] == "loaded" or is_refused(runtime["warnings"]):
        return done
    if missing := runtime["to_download"]:
        return f"{done}, and its model {_with_size(missing)} is being downloaded"
    return f"{done}, and is being loaded"


def _with_size(model: Map) -> str:
    """Return a model to download, with its size if known: `base, 148 MB,`."""
    much = f", {size(model['size'])}," if model["size"] else ""
    return f"{model['model']}{much}"


def _now() -> Any:
    from datetime import UTC, datetime

    return datetime.now(UTC)


def _numbers(text: str) -> list[int]:
    if text == "none":
        return []
    read = whole_number()
    try:
        return [read(part) for part in text.split(",")]
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither `none` nor numbers such as 0,1") from None
