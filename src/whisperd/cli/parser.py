"""The command line: a tree of commands over argparse, each filled in only when it is called for.

What argparse does by itself is made stricter or kinder where scripts and people want that: nothing
may be abbreviated, options and files may be mixed, a misspelt word is answered with its nearest
neighbour, and a wrong usage is a `WhisperdError` like every other error.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import Any, NoReturn

from whisperd._version import __version__
from whisperd.cli.output import columns
from whisperd.rpc.errors import WhisperdError

__all__ = ["Parser", "filled", "several", "usage_error", "whole_number"]

HELP_COLUMNS = 100
MAX_DIGITS = 18
"""Of a number: more may be more than can be sent, and thousands more than Python reads."""
MOST = 10**MAX_DIGITS - 1
ELSEWHERE = {
    "add": ("create",),
    "delete": ("remove", "clear"),
    "download": ("pull", "install", "prepare", "models pull"),
    "get": ("show", "pull", "models pull"),
    "info": ("show",),
    "inspect": ("show",),
    "install": ("pull", "models pull"),
    "kill": ("cancel",),
    "ls": ("list", "models list"),
    "new": ("create",),
    "prepare": ("pull", "install"),
    "ps": ("list", "runtimes list"),
    "pull": ("install", "prepare", "models pull"),
    "remove": ("delete", "clear"),
    "rm": ("delete", "remove", "clear", "models remove"),
    "run": ("load", "transcribe"),
    "serve": ("daemon start",),
    "set": ("edit",),
    "start": ("load", "daemon start"),
    "status": ("show", "daemon status"),
    "stop": ("unload", "cancel", "daemon stop"),
    "uninstall": ("remove", "delete", "daemon uninstall"),
    "update": ("edit",),
    "use": ("default",),
}
"""What other programs call something, and what it is called here: the first one that there is."""

OPTIONS_ELSEWHERE = {
    "--device": "--runtime",
    "--output_format": "--format",
    "--output-format": "--format",
    "--threads": "--runtime",
    "--translate": "--task translate",
    "--vad_filter": "--vad",
    "--word_timestamps": "--timestamps word",
    "-l": "--language",
    "-m": "--model",
}
"""What other programs that transcribe call an option, and what it is called here."""

VALUES_ELSEWHERE = {"gpu": "cuda", "markdown": "md", "txt": "text", "webvtt": "vtt"}
"""What other programs call a choice of an option, and what it is called here."""

_MARK = "\0"  # no argument of a program can hold it

Fill = Callable[["Parser"], None]
"""Adds its arguments, or commands of its own, to a command's parser."""


class Parser(argparse.ArgumentParser):
    """One command: its arguments, or the commands below it."""

    def __init__(self, prog: str, summary: str) -> None:
        super().__init__(
            prog=prog,
            description=_sentence(summary),
            formatter_class=_Help,
            add_help=False,
            allow_abbrev=False,
        )
        self.arguments: list[argparse.Action] = []
        """Its own arguments, in the order in which they were added."""
        self.common: list[argparse.Action] = []
        """The options of every command."""
        self.commands: dict[str, str] = {}
        """The commands below it, with what they do."""
        self._fills: dict[str, Fill] = {}

    def add_command(self, name: str, summary: str, fill: Fill) -> None:
        """Add a command below this one; `fill` runs when it is called for."""
        self.commands[name] = summary
        self._fills[name] = fill

    def add_verb(
        self,
        name: str,
        run: Callable[[argparse.Namespace], int | None],
        summary: str,
        fill: Fill | None = None,
    ) -> None:
        """Add a command that runs a function, whose value is the exit status (0 for None)."""

        def fill_in(parser: Parser) -> None:
            parser.set_defaults(run=run)
            if fill is not None:
                fill(parser)

        self.add_command(name, summary, fill_in)

    def command(self, name: str) -> Parser:
        """The parser of a command below this one. Raises `usage.unknown_command`."""
        if name not in self._fills:
            raise usage_error(
                f"There is no command `{self.prog} {name}`",
                self._meant(name, self.commands),
                "unknown_command",
            )
        parser = Parser(f"{self.prog} {name}", self.commands[name])
        self._fills[name](parser)
        return parser.finish()

    def finish(self) -> Parser:
        """To be called once all is added."""
        self.arguments = list(self._actions)  # also those in groups, which `add_argument` does not see
        self._add_common()
        if self.commands:
            self.add_argument("words", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
            self.description = f"{self.description}\n\n{_listing(self.commands)}"
            self.epilog = f"`{self.prog} COMMAND --help` describes each command."
        self.usage = f"{self.prog} {self.synopsis}"
        return self

    @property
    def synopsis(self) -> str:
        """What comes behind the command's name."""
        if self.commands:
            return "[OPTION]... COMMAND ..."
        needed = (_shown(action) for action in self.arguments if not action.option_strings)
        return " ".join(["[OPTION]...", *needed])

    def parse(self, words: Sequence[str], options: argparse.Namespace) -> argparse.Namespace:
        """Parse a command line down to the command that it calls; options may stand on every level.

        Raises `usage.unknown_command`, `usage.unknown_option` and `usage.invalid`.
        """
        if not self.commands:
            return self._parse_own(_marked(words), options)
        options, unknown = self.parse_known_args(words, options)
        self._refuse(unknown)
        if not options.words:
            if not options.json:
                with suppress(OSError):  # what is told of is the usage
                    self.print_help(sys.stderr)
            raise self._invalid(f"`{self.prog}` needs a command")
        name, *rest = options.words
        del options.words
        if name == "help":
            return self.parse([*rest, "--help"], options)
        return self.command(name).parse(rest, options)

    def error(self, message: str) -> NoReturn:
        """Raise what argparse finds wrong."""
        raise self._invalid(message[:1].upper() + message[1:])

    def _print_message(self, message: str, file: Any = None) -> None:
        """Write the help or the version; argparse would hide that it cannot be written."""
        (file or sys.stderr).write(message)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Refuse what is none of the choices; argparse calls this, and would only list them."""
        values = value if action.type is several else [value]
        wrong = [one for one in values if one not in (action.choices or values)]
        if not wrong:
            return
        choices = [str(one) for one in action.choices or ()]
        near = _near(str(wrong[0]), choices)
        raise usage_error(
            f"{action.option_strings[0] if action.option_strings else action.metavar} cannot be {wrong[0]!r}",
            f"{f'Did you mean {near}? ' if near else ''}It is {'some' if action.type is several else 'one'}"
            f" of {', '.join(choices)}",
        )

    def _add_common(self) -> None:
        """The options of every command. Their defaults come with the namespace, so that none is undone.

        A command may have one of its own by that name: `--version` of a bundle.
        """
        group = self.add_argument_group("options of every command")
        own = set(self._option_names())
        for names, details in (
            (("-h", "--help"), {"action": "help", "help": "show this help and exit"}),
            (("--json",), {"help": "print one JSON document and nothing else"}),
            (("-q", "--quiet"), {"help": "print no progress and no confirmations"}),
            (("-v", "--verbose"), {"help": "print more, such as progress in a pipe"}),
            (("--socket",), {"action": "store", "metavar": "PATH", "help": "the daemon's socket"}),
            (
                ("--profile",),
                {
                    "action": "store",
                    "metavar": "NAME",
                    "help": "use this profile (default: $WHISPERD_PROFILE)",
                },
            ),
            (("--no-start",), {"help": "do not start the daemon if it is not running"}),
            (
                ("--version",),
                {
                    "action": "version",
                    "version": f"whisperctl {__version__}",
                    "help": "show the version and exit",
                },
            ),
        ):
            if not own.isdisjoint(names):
                continue
            settings: dict[str, Any] = {"action": "store_true", "default": argparse.SUPPRESS, **details}
            self.common.append(group.add_argument(*names, **settings))

    def _parse_own(self, words: list[str], options: argparse.Namespace) -> argparse.Namespace:
        try:
            options, unknown = self.parse_known_intermixed_args(words, options)
        except WhisperdError:
            self._refuse([word for word in words if self._is_unknown_option(word)])  # the likelier reason
            raise
        self._refuse(unknown)
        return _unmarked(options)

    def _is_unknown_option(self, word: str) -> bool:
        if len(word) < 2 or not word.startswith("-"):
            return False
        name = word.partition("=")[0] if word.startswith("--") else word[:2]
        return name not in self._option_names()

    def _option_names(self) -> list[str]:
        return [name for action in (*self.arguments, *self.common) for name in action.option_strings]

    def _refuse(self, unknown: Sequence[str]) -> None:
        if not unknown:
            return
        word = unknown[0].removeprefix(_MARK).partition("=")[0]
        if not word.startswith("-"):
            raise self._invalid(f"`{self.prog}` does not take {word!r} as well")
        raise usage_error(
            f"`{self.prog}` has no option {word}", self._meant(word, self._option_names()), "unknown_option"
        )

    def _invalid(self, message: str) -> WhisperdError:
        return usage_error(message, f"`{self.prog} --help` says what it takes")

    def _meant(self, word: str, known: Collection[str]) -> str:
        if near := _near(word, known) or self._deeper(word):
            return f"Did you mean {near}?"
        if word.startswith("-") and not self.commands:
            return f"`{self.prog} --help` lists what there is; a name that begins with a dash goes behind --."
        return f"`{self.prog} --help` lists what there is."

    def _deeper(self, word: str) -> str:
        """The commands further down that are called so, such as `daemon logs`."""
        return " or ".join(f"{name} {word}" for name in self.commands if word in self.command(name).commands)


def _near(word: str, known: Collection[str]) -> str | None:
    """What was probably meant."""
    import difflib

    for ours in (*ELSEWHERE.get(word, ()), OPTIONS_ELSEWHERE.get(word, ""), VALUES_ELSEWHERE.get(word, "")):
        if ours.partition(" ")[0] in known:
            return ours
    return next(iter(difflib.get_close_matches(word, known, 1)), None)


def usage_error(message: str, fix: str, problem: str = "invalid") -> WhisperdError:
    """The command line is wrong; `message` and `fix` are sentences, with or without their full stops."""
    return WhisperdError(f"usage.{problem}", _sentence(message), _sentence(fix))


def filled(text: str) -> str:
    """The `type` of a name. One that is empty is most likely a variable of a script that is not set."""
    if not text:
        raise argparse.ArgumentTypeError("it is empty")
    return text


def several(text: str) -> list[str]:
    """The `type` of choices of which some can be made, with commas between; its `action` is `extend`."""
    return text.split(",")


def whole_number(least: int = 0, most: int = MOST) -> Callable[[str], int]:
    """The `type` of an argument that is a number within limits."""
    kind = (
        f"whole number of at most {MAX_DIGITS} digits" if most == MOST else f"number from {least} to {most}"
    )

    def read(text: str) -> int:
        if not (text.isdecimal() and len(text) <= MAX_DIGITS and least <= int(text) <= most):
            raise argparse.ArgumentTypeError(f"{text!r} is not a {kind}")
        return int(text)

    return read


def _marked(words: Sequence[str]) -> list[str]:
    """The same without `--`: what is behind it is marked instead, so that none of it begins with a dash.

    Where options and files are mixed, argparse forgets in some of its versions what `--` said.
    """
    if "--" not in words:
        return list(words)
    place = words.index("--")
    return [*words[:place], *(_MARK + word for word in words[place + 1 :])]


def _unmarked(options: argparse.Namespace) -> argparse.Namespace:
    for name, value in vars(options).items():
        if isinstance(value, str):
            setattr(options, name, value.removeprefix(_MARK))
        elif isinstance(value, list):
            setattr(
                options, name, [one.removeprefix(_MARK) if isinstance(one, str) else one for one in value]
            )
    return options


class _Help(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        width = min(columns(sys.stdout) - 2, HELP_COLUMNS)  # argparse by itself imports shutil for this
        super().__init__(prog, max_help_position=28, width=max(width, 40))


def _shown(action: argparse.Action) -> str:
    """An argument as it stands in a synopsis: `FILE...`, `[MODEL]`."""
    name = f"{action.metavar or action.dest.upper()}"
    return {"+": f"{name}...", "*": f"[{name}]...", "?": f"[{name}]"}.get(str(action.nargs), name)


def _listing(commands: dict[str, str]) -> str:
    width = max(map(len, commands))
    return "\n".join(["commands:", *(f"  {name:{width}}  {summary}" for name, summary in commands.items())])


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "?", "!")) else ".")
