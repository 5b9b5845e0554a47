"""Helpers that the commands share: connecting, progress of downloads, requests for several names."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from whisperd._version import __version__
from whisperd.cli import exit_status
from whisperd.cli.output import Progress, duration, print_error, print_json, print_notice, printable
from whisperd.client import Client, connect
from whisperd.paths import socket_path, whisperctl_for
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
    "call_with_progress",
    "confirm",
    "confirm_download",
    "connect_as",
    "for_each",
    "is_refused",
    "model_warnings",
    "print_damage",
    "print_unless_quiet",
    "print_warnings",
    "progress_of",
    "show_answers",
    "show_download",
    "user_agrees",
]


def add_names(parser: Parser, what: str) -> None:
    """Add the argument of a verb that takes one name or several; `what` is its help."""
    parser.add_argument("names", nargs="+", metavar="NAME", help=what)


def connect_as(
    options: argparse.Namespace, *, start: bool = True, has_profile: bool = False, is_last_call: bool = False
) -> Client:
    """Return a client for the common options.

    `WHISPERD_PROFILE` applies only to a command that `has_profile`: no other should fail because of it.
    `is_last_call`, for a daemon that is about to end, omits the warning about its version.

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
        _warn_of_other_version(client, options.socket)
    return client


def _connected(options: argparse.Namespace, profile: str | None, *, start: bool) -> Client:
    """Connect. If a daemon must be started first, which may take seconds, show that as progress."""
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
    """Return a progress line that respects `--quiet`, `--json` and `--verbose`."""
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
    """Send a request for each name, continuing after a failure; show the answers; return the exit status.

    The names are those of `add_names`, unless others are given. `show` returns a confirmation, which
    `--quiet` omits, or prints the answer itself. With `--json`, one name is answered with an object; several,
    or a list that the user did not write (`is_list`), with an array; `key` is the field with the name.

    Ctrl-C, or the loss of the daemon, ends this; the answers so far are shown.
    """
    names = options.names if names is None else names
    answers: list[Map] = []
    statuses: list[int] = []
    try:
        with connect_as(options) as client:
            for name in names:
                try:
                    answer = ask(client, name)
                except WhisperdError as error:
                    if len(names) == 1:
                        raise
                    answer = {key: name, "error": error.to_wire()}
                answers.append(answer)
                statuses.append(_show_answer(options, answer, show, key))
                if statuses[-1] == exit_status.UNREACHABLE:
                    break
    except KeyboardInterrupt:
        if options.json and answers:
            print_json(answers)
        raise
    if options.json:
        print_json(answers if is_list or len(names) > 1 else answers[0])
    return exit_status.of_several(statuses)


def show_answers(
    options: argparse.Namespace, answers: Sequence[Map], show: Callable[[Map], str | None]
) -> int:
    """Show the answers to one request for several ids, as `for_each` does; a failed one has its `error`."""
    statuses = [_show_answer(options, answer, show, "id") for answer in answers]
    if options.json:
        print_json(answers)
    return exit_status.of_several(statuses)


def _show_answer(
    options: argparse.Namespace, answer: Map, show: Callable[[Map], str | None], key: str
) -> int:
    """Show the answer for one name; return its exit status."""
    if answer.keys() == {key, "error"}:
        error = WhisperdError.from_wire(answer["error"])
        if not options.json:
            print_error(error, subject=answer[key])
        return exit_status.status_of(error)
    if not options.json and (words := show(answer)):
        print_unless_quiet(options, words)
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
    """Send a request that may download, with progress. `show` displays an event."""
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
    _log_milestones(progress, event)
    if event["detail"] == "building":
        details = event["file"] or ""  # its counts are steps, not bytes
    elif total:
        details = f"{size(done)} of {size(total)}"
    else:
        details = size(done) if done else ""
    if event["rate"]:
        details += f", {size(event['rate'])}/s"
    if event["eta"] is not None:
        details += f", {duration(event['eta'])} left"
    progress.show(f"{event['detail'].capitalize()} {name}", 100 * done / total if total else None, details)


def _log_milestones(progress: Progress, event: Map) -> None:
    """In a pipe, print a line when something long begins, and when a download has ended."""
    name, detail, total = printable(event["name"]), event["detail"], event["total"]
    if detail not in ("waiting", "downloading", "retrying") or event["done"] == total:
        progress.end(f"downloading {name}", f"{name} is downloaded")
    if detail in ("downloading", "building", "converting") and event["done"] != total:
        much = f", {size(total)}" if total and detail == "downloading" else ""
        progress.begin(f"{detail} {name}", f"{detail.capitalize()} {name}{much} ...")


def confirm_download(
    options: argparse.Namespace, warnings: Sequence[Map], *, is_to_be_loaded: bool = False
) -> None:
    """Print the warnings about a download, and on a terminal ask whether to continue.

    With `is_to_be_loaded`, skip this for a model that cannot be loaded here: the daemon refuses it with the
    same message before anything is downloaded. Raises `download.declined`.
    """
    if is_to_be_loaded and is_refused(warnings):
        return
    print_warnings(options, warnings)
    much = sum(warning["data"].get("download") or 0 for warning in warnings)
    if warnings and not user_agrees(options, f"Download {size(much)} anyway?"):
        raise WhisperdError(
            "download.declined",
            "Nothing was downloaded.",
            "`whisperctl models recommend` shows the models that fit.",
        )


def user_agrees(options: argparse.Namespace, question: str) -> bool:
    """Ask the user at a terminal; without a terminal, do not ask and return True."""
    is_at_terminal = all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stderr))
    if options.quiet or options.json or not is_at_terminal:
        return True
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    answer = ""
    with suppress(OSError):  # the terminal may be closed
        answer = sys.stdin.readline()
    if not answer.endswith("\n"):  # Ctrl-D: what follows needs its own line
        print_notice("")
    return answer.strip().lower() in ("y", "yes")


def is_refused(warnings: Sequence[Map]) -> bool:
    """Whether a model with these warnings cannot be loaded on this computer."""
    return not all(warning["data"]["loadable"] for warning in warnings)


def print_warnings(options: argparse.Namespace, warnings: Sequence[Map]) -> None:
    """Print warnings to standard error. With `--json` they are part of the answer."""
    if options.quiet or options.json:
        return
    for warning in warnings:
        print_error(WhisperdError.from_wire(warning))


def model_warnings(client: Client, name: str | os.PathLike[str]) -> list[Map]:
    """Return the warnings about downloading a model. An unknown model has none."""
    try:
        return list(client.models.show(name)["warnings"])
    except WhisperdError as error:
        if exit_status.is_unreachable(error):
            raise
        return []


def confirm(options: argparse.Namespace, document: object, *lines: str) -> None:
    """Confirm that something was done: as JSON, in words, or with `--quiet` not at all."""
    if options.json:
        print_json(document)
    for line in lines:
        print_unless_quiet(options, line)


def print_unless_quiet(options: argparse.Namespace, text: str) -> None:
    """Print a line to standard output, unless `--quiet` or `--json` is given."""
    if not (options.quiet or options.json):
        print(printable(text), flush=True)


def print_damage(name: str, damage: Sequence[str], fix: str) -> None:
    """Print the damaged files of something that was verified, and the fix."""
    print(f"{printable(name)}: damaged")
    for line in damage:
        print(f"  {printable(line)}")
    print(f"  {printable(fix)}")


def _warn_of_other_version(client: Client, socket: str | None) -> None:
    """Warn if the daemon has another version: after an upgrade, the old one may keep running for weeks."""
    version = str(client.server.get("version", __version__))
    if version != __version__:
        print_notice(
            f"whisperctl: The daemon has version {printable(version)}, but whisperctl has {__version__}."
        )
        print_notice(f"  Run `{printable(whisperctl_for(socket_path(socket)))} daemon restart` to update it.")
