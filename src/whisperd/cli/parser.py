"""The command line: a tree of commands over argparse, each built only when it is called.

It differs from argparse where scripts and people benefit: nothing may be abbreviated, options and files
may be mixed, a misspelt word gets the closest match as a suggestion, and wrong usage is a `WhisperdError`
like every other error.
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

__all__ = ["Parser", "comma_separated", "non_empty", "usage_error", "whole_number"]

HELP_COLUMNS = 100
MAX_DIGITS = 18
"""The most digits of a number: more may not fit into a message, and Python refuses to parse thousands."""
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
"""Commands of other programs, and their names here: the first one that exists is suggested."""

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
"""Options of other transcription programs, and their names here."""

VALUES_ELSEWHERE = {"gpu": "cuda", "markdown": "md", "txt": "text", "webvtt": "vtt"}
"""Option values of other programs, and their names here."""

_MARK = "\0"  # a character that no program argument can contain

Fill = Callable[["Parser"], None]
"""Adds arguments or subcommands to a command's parser."""


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
        """The commands below it, with their summaries."""
        self._fills: dict[str, Fill] = {}

    def add_command(self, name: str, summary: str, fill: Fill) -> None:
        """Add a command below this one; `fill` runs when the command is called."""
        self.commands[name] = summary
        self._fills[name] = fill

    def add_verb(
        self,
        name: str,
        run: Callable[[argparse.Namespace], int | None],
        summary: str,
        fill: Fill | None = None,
    ) -> None:
        """Add a command that runs a function; the function returns the exit status (None is 0)."""

        def fill_in(parser: Parser) -> None:
            parser.set_defaults(run=run)
            if fill is not None:
                fill(parser)

        self.add_command(name, summary, fill_in)

    def command(self, name: str) -> Parser:
        """Return the parser of a command below this one. Raises `usage.unknown_command`."""
        if name not in self._fills:
            raise usage_error(
                f"There is no command `{self.prog} {name}`",
                self._suggestion(name, self.commands),
                "unknown_command",
            )
        parser = Parser(f"{self.prog} {name}", self.commands[name])
        self._fills[name](parser)
        return parser.finish()

    def finish(self) -> Parser:
        """Complete the parser after everything was added."""
        self.arguments = list(self._actions)  # includes those in groups, which `add_argument` does not see
        self._add_common()
        if self.commands:
            self.add_argument("words", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
            self.description = f"{self.description}\n\n{_listing(self.commands)}"
            self.epilog = f"`{self.prog} COMMAND --help` describes each command."
        self.usage = f"{self.prog} {self.synopsis}"
        return self

    @property
    def synopsis(self) -> str:
        """What follows the command's name in its usage line."""
        if self.commands:
            return "[OPTION]... COMMAND ..."
        needed = (_shown(action) for action in self.arguments if not action.option_strings)
        return " ".join(["[OPTION]...", *needed])

    def parse(self, words: Sequence[str], options: argparse.Namespace) -> argparse.Namespace:
        """Parse a command line down to the command that it calls; options may appear on every level.

        Raises `usage.unknown_command`, `usage.unknown_option` and `usage.invalid`.
        """
        if not self.commands:
            return self._parse_own(_marked(words), options)
        options, unknown = self.parse_known_args(words, options)
        self._refuse(unknown)
        if not options.words:
            if not options.json:
                with suppress(OSError):  # the error to report is the wrong usage
                    self.print_help(sys.stderr)
            raise self._invalid(f"`{self.prog}` needs a command")
        name, *rest = options.words
        del options.words
        if name == "help":
            return self.parse([*rest, "--help"], options)
        return self.command(name).parse(rest, options)

    def error(self, message: str) -> NoReturn:
        """Raise an error that argparse found."""
        raise self._invalid(message[:1].upper() + message[1:])

    def _print_message(self, message: str, file: Any = None) -> None:
        """Write the help or the version; argparse would hide a failure to write it."""
        (file or sys.stderr).write(message)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Refuse a value that is not a choice. Overrides argparse, which would only list the choices."""
        values = value if action.type is comma_separated else [value]
        wrong = [one for one in values if one not in (action.choices or values)]
        if not wrong:
            return
        choices = [str(one) for one in action.choices or ()]
        closest = _closest(str(wrong[0]), choices)
        raise usage_error(
            f"{action.option_strings[0] if action.option_strings else action.metavar} cannot be {wrong[0]!r}",
            f"{f'Did you mean {closest}? ' if closest else ''}"
            f"Use {'any' if action.type is comma_separated else 'one'} of {', '.join(choices)}",
        )

    def _add_common(self) -> None:
        """Add the options of every command. Their defaults are in the namespace: no level may reset them.

        A command may have its own option of the same name: `--version` of a bundle.
        """
        group = self.add_argument_group("options of every command")
        own = set(self._option_names())
        for names, details in (
            (("-h", "--help"), {"action": "help", "help": "show this help and exit"}),
            (("--json",), {"help": "print one JSON document and nothing else"}),
            (("-q", "--quiet"), {"help": "print no progress and no confirmations; ask no questions"}),
            (("-v", "--verbose"), {"help": "print more, such as progress in a pipe"}),
            (("--socket",), {"action": "store", "metavar": "PATH", "help": "the daemon's socket"}),
            (
                ("--profile",),
                {
                    "action": "store",
                    "metavar": "NAME",
                    "help": "use this profile (default for transcribe and dictate: $WHISPERD_PROFILE)",
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
            self._refuse([word for word in words if self._is_unknown_option(word)])  # the likelier cause
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
        if not unknown[0].startswith("-"):  # also what follows `--`, which is marked
            word = unknown[0].removeprefix(_MARK)
            raise self._invalid(f"`{self.prog}` does not take the extra argument {word!r}")
        word = unknown[0].partition("=")[0]
        raise usage_error(
            f"`{self.prog}` has no option {word}",
            self._suggestion(word, self._option_names()),
            "unknown_option",
        )

    def _invalid(self, message: str) -> WhisperdError:
        return usage_error(message, f"Run `{self.prog} --help` for its usage")

    def _suggestion(self, word: str, known: Collection[str]) -> str:
        if closest := _closest(word, known) or self._subcommands(word):
            return f"Did you mean {closest}?"
        if word.startswith("-") and not self.commands:
            return f"`{self.prog} --help` lists the options; put -- before a name that begins with a dash."
        return f"`{self.prog} --help` lists the {'commands' if self.commands else 'options'}."

    def _subcommands(self, word: str) -> str:
        """Return the commands one level down with this name, such as `daemon logs`."""
        found = [f"{name} {word}" for name in self.commands if word in self.command(name).commands]
        return " or ".join([", ".join(found[:-1]), found[-1]] if found[1:] else found)


def _closest(word: str, known: Collection[str]) -> str | None:
    """Return the known word that was probably meant."""
    import difflib

    for ours in (*ELSEWHERE.get(word, ()), OPTIONS_ELSEWHERE.get(word, ""), VALUES_ELSEWHERE.get(word, "")):
        if ours.partition(" ")[0] in known:
            return ours
    return next(iter(difflib.get_close_matches(word, known, 1)), None)


def usage_error(message: str, fix: str, problem: str = "invalid") -> WhisperdError:
    """Return an error for a wrong command line; missing capitals and full stops are added."""
    return WhisperdError(f"usage.{problem}", _sentence(message), _sentence(fix))


def non_empty(text: str) -> str:
    """Refuse an empty name, for argparse's `type`: most likely an unset variable of a script."""
    if not text:
        raise argparse.ArgumentTypeError("it is empty")
    return text


def comma_separated(text: str) -> list[str]:
    """Split comma-separated choices, for argparse's `type` with the `action` `extend`."""
    return text.split(",")


def whole_number(least: int = 0, most: int = MOST) -> Callable[[str], int]:
    """Return a reader of numbers within limits, for argparse's `type`."""
    kind = (
        f"whole number of at most {MAX_DIGITS} digits" if most == MOST else f"number from {least} to {most}"
    )

    def read(text: str) -> int:
        if not (text.isdecimal() and len(text) <= MAX_DIGITS and least <= int(text) <= most):
            raise argparse.ArgumentTypeError(f"{text!r} is not a {kind}")
        return int(text)

    return read


def _marked(words: Sequence[str]) -> list[str]:
    """Return the words without `--`, and mark those after it, so that none of them begins with a dash.

    Some versions of argparse forget the `--` where options and files are mixed.
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
        width = min(columns(sys.stdout) - 2, HELP_COLUMNS)  # argparse would import shutil for this
        super().__init__(prog, max_help_position=28, width=max(width, 40))


def _shown(action: argparse.Action) -> str:
    """Return an argument as shown in a synopsis: `FILE...`, `[MODEL]`."""
    name = f"{action.metavar or action.dest.upper()}"
    return {"+": f"{name}...", "*": f"[{name}]...", "?": f"[{name}]"}.get(str(action.nargs), name)


def _listing(commands: dict[str, str]) -> str:
    width = max(map(len, commands))
    return "\n".join(["commands:", *(f"  {name:{width}}  {summary}" for name, summary in commands.items())])


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "?", "!")) else ".")
