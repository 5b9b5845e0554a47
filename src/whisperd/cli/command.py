"""What the commands share: connecting, showing downloads, doing one thing to several names."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from whisperd._version import __version__
from whisperd.cli import exit_status
from whisperd.cli.output import Progress, duration, print_error, print_json, printable, say
from whisperd.client import Client, connect
from whisperd.quantities import size
from whisperd.rpc.errors import WhisperdError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence
    from typing import Any

    from whisperd.cli.parser import Parser

    Map = dict[str, Any]

__all__ = [
    "add_names",
    "agree_to_download",
    "call_with_progress",
    "confirm",
    "connect_as",
    "for_each",
    "is_agreed",
    "is_refused",
    "model_warnings",
    "progress_of",
    "say_warnings",
    "show_answers",
    "show_download",
    "tell",
    "tell_damage",
]


def add_names(parser: Parser, what: str) -> None:
    """For verbs that take one name or several; `what` says of what."""
    parser.add_argument("names", nargs="+", metavar="NAME", help=what)


def connect_as(
    options: argparse.Namespace, *, start: bool = True, has_profile: bool = False, is_last_call: bool = False
) -> Client:
    """A client as the options of every command ask for it.

    `WHISPERD_PROFILE` counts only for a command that `has_profile`: no other should fail because of it.
    With `is_last_call`, for a daemon that is about to end, nothing is said of its version.

    Raises `CannotConnect`, or `profile.unknown`.
    """
    profile = options.profile if has_profile else options.profile or ""
    try:
        client = _connected(options, profile, start=start and not options.no_start)
    except WhisperdError as error:
        if error.code == "profile.unknown":
            raise
        raise exit_status.CannotConnect(error.code, error.message, error.fix, error.data) from error
    if not (is_last_call or options.quiet or options.json):
        _tell_version(client)
    return client


def _connected(options: argparse.Namespace, profile: str | None, *, start: bool) -> Client:
    """A client. On a terminal it is said where a daemon has to be started first, which may take seconds."""
    try:
        return connect(options.socket, start=False, profile=profile)
    except WhisperdError as error:
        if not start or error.code not in ("daemon.unreachable", "daemon.connection_lost"):
            raise
    progress = progress_of(options)
    progress.show("Starting the daemon", None)
    try:
        return connect(options.socket, profile=profile)
    finally:
        progress.clear()


def progress_of(options: argparse.Namespace) -> Progress:
    """Where progress is shown, if at all."""
    return Progress(quiet=options.quiet or options.json, verbose=options.verbose)


def for_each(
    options: argparse.Namespace,
    ask: Callable[[Client, str], Map],
    show: Callable[[Map], str | None],
    *,
    names: Sequence[str] | None = None,
    key: str = "name",
    is_list: bool = False,
) -> int:
    """Ask for each name, go on after a failure, and show the answers; returns the exit status.

    The names are those of `add_names`, unless others are given. `show` puts into words what was done, which
    `--quiet` leaves unsaid, or prints it itself. Under `--json` one name is answered with a map, several,
    or a list that the user did not write (`is_list`), with an array of maps; `key` is what names them.
    """
    names = options.names if names is None else names
    answers: list[Map] = []
    statuses: list[int] = []
    with connect_as(options) as client:
        for name in names:
            try:
                answer = ask(client, name)
            except WhisperdError as error:
                if len(names) == 1 or exit_status.is_unreachable(error):
                    raise
                answer = {key: name, "error": error.to_wire()}
            answers.append(answer)
            statuses.append(_show_answer(options, answer, show, key))
    if options.json:
        print_json(answers if is_list or len(names) > 1 else answers[0])
    return exit_status.of_several(statuses)


def show_answers(
    options: argparse.Namespace,
    answers: Sequence[Map],
    show: Callable[[Map], str | None],
    *,
    key: str = "name",
) -> int:
    """As `for_each`, where one request was answered for all names: for one that failed, with its `error`."""
    statuses = [_show_answer(options, answer, show, key) for answer in answers]
    if options.json:
        print_json(answers)
    return exit_status.of_several(statuses)


def _show_answer(
    options: argparse.Namespace, answer: Map, show: Callable[[Map], str | None], key: str
) -> int:
    """Show the answer for one name; returns its exit status."""
    if answer.keys() == {key, "error"}:
        error = WhisperdError.from_wire(answer["error"])
        if not options.json:
            print_error(error, subject=answer[key])
        return exit_status.status_of(error)
    if not options.json and (words := show(answer)):
        tell(options, words)
    return exit_status.FAILED if answer.get("ok") is False else exit_status.DONE


def call_with_progress(
    options: argparse.Namespace,
    client: Client,
    topics: tuple[str, ...],
    method: str,
    *,
    show: Callable[[Progress, Map], None] | None = None,
    **params: Any,
) -> Map:
    """Ask for something that downloads, and show how far it is. `show` shows an event."""
    progress, show = progress_of(options), show or show_download
    try:
        answer: Map = client.request_with_events(
            topics, method, lambda event: show(progress, event), **params
        )
    finally:
        progress.clear()
    return answer


def show_download(progress: Progress, event: Map) -> None:
    """Show an event of the types `native.progress` and `model.progress`."""
    if event["type"] not in ("native.progress", "model.progress"):
        return
    name, done, total = event["name"], event["done"], event["total"]
    _tell_in_a_pipe(progress, event)
    if event["detail"] == "building":
        details = event["file"] or ""  # what it counts are steps
    elif total:
        details = f"{size(done)} of {size(total)}"
    else:
        details = size(done) if done else ""
    if event["rate"]:
        details += f", {size(event['rate'])}/s"
    if event["eta"] is not None:
        details += f", {duration(event['eta'])} left"
    progress.show(f"{event['detail'].capitalize()} {name}", 100 * done / total if total else None, details)


def _tell_in_a_pipe(progress: Progress, event: Map) -> None:
    """What takes long is said when it begins, and a download when it has ended."""
    name, detail, total = printable(event["name"]), event["detail"], event["total"]
    if detail not in ("waiting", "downloading", "retrying") or event["done"] == total:
        progress.end(f"downloading {name}", f"{name} is downloaded")
    if detail in ("downloading", "building", "converting") and event["done"] != total:
        much = f", {size(total)}" if total and detail == "downloading" else ""
        progress.begin(f"{detail} {name}", f"{detail.capitalize()} {name}{much} ...")


def agree_to_download(
    options: argparse.Namespace, warnings: Sequence[Map], *, is_to_be_loaded: bool = False
) -> None:
    """Say what speaks against a download. A person at a terminal is asked; whoever else it is, goes on.

    With `is_to_be_loaded`, nothing is said of what cannot be loaded here: it is refused in the same words
    before anything of it is downloaded. Raises `download.declined`.
    """
    if is_to_be_loaded and is_refused(warnings):
        return
    say_warnings(options, warnings)
    much = sum(warning["data"].get("download") or 0 for warning in warnings)
    if warnings and not is_agreed(options, f"Download {size(much)} all the same?"):
        raise WhisperdError(
            "download.declined", "Nothing was downloaded.", "`whisperctl models recommend` shows what fits."
        )


def is_agreed(options: argparse.Namespace, question: str) -> bool:
    """What a person at a terminal says to a question. Whoever else it is, is not asked, and agrees."""
    is_at_terminal = all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stderr))
    if options.quiet or options.json or not is_at_terminal:
        return True
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    with suppress(OSError):  # the terminal may be gone
        return sys.stdin.readline().strip().lower() in ("y", "yes")
    return False


def is_refused(warnings: Sequence[Map]) -> bool:
    """Whether what they speak of cannot be loaded on this computer."""
    return not all(warning["data"]["loadable"] for warning in warnings)


def say_warnings(options: argparse.Namespace, warnings: Sequence[Map]) -> None:
    """Say what speaks against something. Under `--json` the answer has it."""
    if options.quiet or options.json:
        return
    for warning in warnings:
        print_error(WhisperdError.from_wire(warning))


def model_warnings(client: Client, name: str | os.PathLike[str]) -> list[Map]:
    """What speaks against downloading a model. One that is not known has no warnings."""
    try:
        return list(client.models.show(name)["warnings"])
    except WhisperdError as error:
        if exit_status.is_unreachable(error):
            raise
        return []


def confirm(options: argparse.Namespace, document: object, *lines: str) -> None:
    """Say that something was done: as JSON, in words, or not at all."""
    if options.json:
        print_json(document)
    for line in lines:
        tell(options, line)


def tell(options: argparse.Namespace, text: str) -> None:
    """Say a line on standard output, unless it is to be quiet or to have one JSON document."""
    if not (options.quiet or options.json):
        print(printable(text), flush=True)


def tell_damage(name: str, damage: Sequence[str], fix: str) -> None:
    """Print what is damaged of something whose bytes were compared, and how that is mended."""
    print(f"{printable(name)}: damaged")
    for line in damage:
        print(f"  {printable(line)}")
    print(f"  {printable(fix)}")


def _tell_version(client: Client) -> None:
    """After an upgrade, the old daemon may go on running for weeks."""
    version = str(client.server.get("version", __version__))
    if version != __version__:
        say(f"whisperctl: The daemon is of version {printable(version)}, and this is {__version__}.")
        say("  `whisperctl daemon restart` makes it this one.")
