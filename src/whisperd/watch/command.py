"""Run the command that a user configured: fill in its words and report how it ended."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import anyio

from whisperd.child import end, how_it_ended

__all__ = ["CommandEnd", "command_words", "run_command"]


class CommandEnd(NamedTuple):
    """How a command ended."""

    ok: bool
    words: str
    """One sentence for the log."""


def command_words(command: Sequence[str], values: Mapping[str, str]) -> list[str]:
    """Fill in the `{placeholders}` of a command. Each word stays one word, whatever a file name contains.

    Braces around anything but a known placeholder are kept literally. Pure.
    """
    words = []
    for word in command:
        filled, rest = "", word
        while rest:
            before, brace, after = rest.partition("{")
            name, end, behind = after.partition("}")
            if brace and end and name in values:
                filled, rest = filled + before + values[name], behind
            else:
                filled, rest = filled + before + brace, after
        words.append(filled)
    return words


async def run_command(words: Sequence[str], timeout_s: float, variables: Mapping[str, str]) -> CommandEnd:
    """Run a command without a shell and discard its output. After `timeout_s`, kill it and all it started."""
    # Shielded: if cancelled half-way, asyncio would lose track of a running process.
    with anyio.CancelScope(shield=True):
        try:
            process = await anyio.open_process(
                list(words),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**os.environ, **variables},
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            return CommandEnd(
                False, f"The command could not be started: {getattr(error, 'strerror', None) or error}."
            )
    try:
        with anyio.fail_after(timeout_s):
            status = await process.wait()
    except TimeoutError:
        return CommandEnd(False, f"The command was killed after {timeout_s:g} seconds.")
    finally:
        await end(process)
    if status == 0:
        return CommandEnd(True, "The command succeeded.")
    return CommandEnd(False, f"The command failed ({how_it_ended(status)}).")
