"""The program `whisperctl`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from importlib import import_module

from whisperd.cli import exit_status
from whisperd.cli.output import discard_output, prepare_streams, print_error
from whisperd.cli.parser import Parser
from whisperd.rpc.errors import WhisperdError

__all__ = ["main", "program"]

COMMANDS = {
    "transcribe": "turn recordings into text",
    "dictate": "turn speech into text as you speak",
    "jobs": "list, follow, cancel and retry jobs",
    "watch": "manage watch folders: new files are transcribed automatically",
    "search": "find where something was said, in all stored transcripts",
    "runtimes": "manage runtimes: which model runs, where and how",
    "profiles": "manage profiles: a runtime and options of a user or program",
    "models": "manage the models on this computer",
    "natives": "manage the native libraries that engines need",
    "hardware": "show this computer's hardware and the variants it can use",
    "calibrate": "measure the fastest way to run a model on this computer",
    "doctor": "find problems and say how to fix them",
    "daemon": "manage the daemon: status, start, stop, settings, log",
    "completion": "print the shell script that completes commands, options and names",
}
"""Every command with its summary; each is a module of that name in `whisperd.cli.commands`."""
COMPLETE = "__complete"
"""The hidden command that shell completion scripts call."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit with its status."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Run one command; return the exit status."""
    prepare_streams()
    try:
        status = _run(arguments)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        return exit_status.INTERRUPTED
    except BrokenPipeError:  # the reader has closed the pipe, as `| head` does
        discard_output()
        return exit_status.DONE
    except OSError as error:
        discard_output()
        print_error(_not_written(error))
        return exit_status.FAILED


def program() -> Parser:
    """Return the parser of `whisperctl`, with every command below it."""
    parser = Parser("whisperctl", "speech to text on this computer, through the whisperd daemon")
    for name, summary in COMMANDS.items():
        parser.add_command(name, summary, partial(_fill, name))
    return parser.finish()


def _fill(name: str, parser: Parser) -> None:
    import_module(f"whisperd.cli.commands.{name}").add(parser)


def _run(arguments: Sequence[str]) -> int:
    defaults = argparse.Namespace(
        socket=None, profile=None, json=False, no_start=False, quiet=False, verbose=False
    )
    try:
        if arguments[:1] == [COMPLETE]:
            from whisperd.cli.completion import print_offer

            print_offer(program(), arguments[1:])
            return exit_status.DONE
        options = program().parse(arguments, defaults)
        return int(options.run(options) or exit_status.DONE)
    except SystemExit as ended:  # argparse has shown the help or the version
        return int(ended.code or exit_status.DONE)
    except WhisperdError as error:
        print_error(error, as_json="--json" in arguments)
        return exit_status.status_of(error)
    except Exception as error:
        if isinstance(error, FileNotFoundError) and error.filename is None:  # from os.getcwd
            print_error(_no_folder(), as_json="--json" in arguments)
            return exit_status.FAILED
        if isinstance(error, OSError) and error.filename is None:
            raise  # standard output
        from traceback import print_exc

        print_exc()
        print_error(_unexpected(error), as_json="--json" in arguments)
        return exit_status.FAILED


def _not_written(error: OSError) -> WhisperdError:
    return WhisperdError(
        "output.not_writable",
        f"Standard output cannot be written: {error.strerror or error}.",
        "Check the space on its disk.",
    )


def _no_folder() -> WhisperdError:
    return WhisperdError(
        "folder.gone", "The current folder was deleted.", "Change to another folder, such as with `cd ~`."
    )


def _unexpected(error: Exception) -> WhisperdError:
    return WhisperdError(
        "internal.error",
        f"whisperctl failed because of a bug: {error!r}.",
        "Please report it with the lines above.",
    )


if __name__ == "__main__":
    main()
