"""Shell completion.

The scripts in `shells/` call `whisperctl __complete WORD...` with the words of the command line, the last of
which is being typed. The first line of the answer is `files`, `folders` or `words`; the others are the
completions, each followed by a tab and a description. Errors are never printed, and no daemon is started: if
none is running, no names are offered.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import pairwise
from threading import Thread
from typing import Any, Final, Literal, NamedTuple

from whisperd.cli.parser import Parser, comma_separated
from whisperd.rpc.errors import WhisperdError

__all__ = ["Names", "Offer", "Word", "offer", "print_offer"]

Kind = Literal["words", "files", "folders"]
Names = Callable[[str], Iterable["Word"]]
"""Returns the existing names of a noun, such as `runtimes`."""

KIND_OF: Final[dict[str, Kind]] = {"FILE": "files", "PATH": "files", "DIR": "folders", "FOLDER": "folders"}
"""What to complete for a metavar."""
NOUN_OF: Final = {"--runtime": "runtimes", "--profile": "profiles", "--model": "models", "MODEL": "models"}
"""The noun to complete for an option or a metavar."""
OWN_NAMES: Final = ("NAME", "ID", "FOLDER")
"""Metavars that stand for a name of the command's own noun."""
CREATING_VERBS: Final = ("create", "add", "import")
"""Verbs whose name does not exist yet."""
STATUSES_FOR: Final = {
    "cancel": ("queued", "running"),
    "retry": ("failed", "cancelled"),
    "result": ("completed",),
    "clear": ("completed", "failed", "cancelled"),
}
"""The statuses of the jobs that a verb applies to."""

PATIENCE_S: Final = 2.0
"""How long to wait for the daemon's names."""

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")


class Word(NamedTuple):
    """A completion."""

    text: str
    summary: str = ""


class Offer(NamedTuple):
    """What the shell offers: file names, folder names, or these words."""

    words: Sequence[Word] = ()
    kind: Kind = "words"


def offer(parser: Parser, words: Sequence[str], names: Names) -> Offer:
    """Return the completions of the last word of a command line; `parser` is that of the whole program."""
    *before, current = words or ("",)
    place = _walk(parser, before)
    if place.option is not None:
        return _value(place.parser, place.option, current, names)
    if current.startswith("-") and not place.has_only_names:
        name, equals, value = current.partition("=")
        if not equals:
            return Offer(_matching(_options(place.parser), current))
        found = _value(place.parser, _option(place.parser, name), value, names)
        return found._replace(words=[one._replace(text=f"{name}={one.text}") for one in found.words])
    if place.parser.commands:
        return Offer(_matching((Word(*one) for one in place.parser.commands.items()), current))
    return _value(place.parser, _argument(place.parser, place.arguments), current, names)


def print_offer(parser: Parser, words: Sequence[str]) -> None:
    """Print the answer for a shell."""
    socket = next((value for name, value in pairwise(_split_values(words)) if name == "--socket"), None)
    found = offer(parser, words, partial(_known_names, socket))
    print(found.kind)
    for one in found.words:
        if not _CONTROL.search(one.text):  # else it does not fit on a line
            print(one.text, _CONTROL.sub(" ", one.summary), sep="\t")


def _split_values(words: Sequence[str]) -> list[str]:
    """Return the words with the values of `--name=value` as separate words."""
    return [part for word in words for part in (word.split("=", 1) if word.startswith("--") else [word])]


class _Place(NamedTuple):
    """A position in a command line."""

    parser: Parser
    """The command's parser."""
    arguments: int = 0
    """How many positional arguments precede this position."""
    option: argparse.Action | None = None
    """The option whose value comes next."""
    has_only_names: bool = False
    """Whether `--` precedes this position, so that no option follows."""


def _walk(parser: Parser, words: Sequence[str]) -> _Place:
    place = _Place(parser)
    for word in words:
        if place.option is not None:
            place = place._replace(option=None)
        elif word == "--":
            place = place._replace(has_only_names=True)
        elif word.startswith("-") and not place.has_only_names:
            place = place._replace(option=_valued(place.parser, word))
        elif word in place.parser.commands:
            place = place._replace(parser=place.parser.command(word))
        elif word != "help":
            place = place._replace(arguments=place.arguments + 1)
    return place


def _options(parser: Parser) -> Iterable[Word]:
    return (
        Word(name, action.help or "")
        for action in (*parser.arguments, *parser.common)
        if action.help != argparse.SUPPRESS
        for name in action.option_strings
        if name.startswith("--")
    )


def _option(parser: Parser, name: str) -> argparse.Action | None:
    actions = (*parser.arguments, *parser.common)
    return next((action for action in actions if name in action.option_strings), None)


def _valued(parser: Parser, word: str) -> argparse.Action | None:
    """Return the option that a word is, if the next word is its value."""
    action = None if "=" in word else _option(parser, word)
    return action if action is not None and action.nargs != 0 else None


def _argument(parser: Parser, place: int) -> argparse.Action | None:
    """Return the positional argument at a place; the last one may take any number of words."""
    own = [action for action in parser.arguments if not action.option_strings]
    if place < len(own):
        return own[place]
    return own[-1] if own and own[-1].nargs in ("+", "*", argparse.REMAINDER) else None


def _value(parser: Parser, action: argparse.Action | None, current: str, names: Names) -> Offer:
    if action is None:
        return Offer()
    if action.choices is not None:
        made = current[: current.rfind(",") + 1] if action.type is comma_separated else ""
        return Offer(_matching((Word(f"{made}{one}") for one in action.choices), current))
    noun, verb = [*parser.prog.split(), "", ""][1:3]
    metavar = str(action.metavar)
    is_watched = (noun, metavar) == ("watch", "FOLDER") and verb not in CREATING_VERBS
    if metavar in KIND_OF and not is_watched:
        return Offer(kind=KIND_OF[metavar])
    by_option = next((NOUN_OF[name] for name in action.option_strings if name in NOUN_OF), None)
    if by_option or metavar in NOUN_OF:
        noun = by_option or NOUN_OF[metavar]
    elif action.option_strings or verb in CREATING_VERBS or metavar not in OWN_NAMES:
        return Offer()
    elif (noun, verb) == ("models", "pull"):
        noun = "available"
    found = names(noun)
    if noun == "jobs" and verb in STATUSES_FOR:
        found = [one for one in found if one.summary in STATUSES_FOR[verb]]
    offered = _matching(found, current)
    # The folder may be typed in another form, such as with ~.
    return Offer(offered, "folders" if noun == "watch" and current and not offered else "words")


def _matching(words: Iterable[Word], current: str) -> Sequence[Word]:
    return [one for one in words if one.text.startswith(current)]


def _known_names(socket: str | None, noun: str) -> Iterable[Word]:
    """Ask a running daemon for names, but not for long: the shell is waiting."""
    found: list[Word] = []
    asking = Thread(target=lambda: found.extend(_names_from_daemon(socket, noun)), daemon=True)
    asking.start()
    asking.join(PATIENCE_S)
    return found


def _names_from_daemon(socket: str | None, noun: str) -> list[Word]:
    from argparse import Namespace

    from whisperd.cli import service
    from whisperd.client import connect

    ask, key, summary = _ASK.get(noun, (None, "", ""))
    if ask is None or service.is_stopped(Namespace(socket=socket)):  # connecting would start it
        return []
    try:
        with connect(socket, start=False, profile="") as client:
            return [Word(str(one[key]), str(one.get(summary) or "")) for one in ask(client)]
    except WhisperdError:
        return []


_ASK: Final[dict[str, tuple[Callable[[Any], list[dict[str, Any]]], str, str]]] = {
    "runtimes": (lambda client: client.runtimes.list(), "name", "model"),
    "profiles": (lambda client: client.profiles.list(), "name", "runtime"),
    "models": (lambda client: client.models.list(), "name", ""),
    "available": (lambda client: client.models.available(), "name", ""),
    "natives": (lambda client: client.natives.list(), "name", ""),
    "jobs": (lambda client: client.jobs.list()[::-1], "id", "status"),
    "watch": (lambda client: client.watch.list(), "path", "status"),
}
"""For each noun: the request, the field with the name, and the field with the description."""
