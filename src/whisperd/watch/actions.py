"""What comes after the outputs: the recording is moved or deleted, a command runs, the desktop is told."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import anyio

from whisperd.child import kill

__all__ = ["CommandEnd", "command_words", "notify_desktop", "run_command"]

NOTIFY_TIMEOUT_S: Final = 10.0


class CommandEnd(NamedTuple):
    """How a command has ended."""

    ok: bool
    words: str
    """A sentence."""


def command_words(command: Sequence[str], values: Mapping[str, str]) -> list[str]:
    """The words of a command with its `{placeholders}` filled in; whatever a name holds, each stays one word.

    A brace that stands for nothing we know is a brace. Pure.
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
    """Run a command, without a shell; what it prints is not kept. It is killed with all that it started."""
    # Shielded: cancelled half-way, asyncio would lose sight of a process that runs.
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
        with anyio.CancelScope(shield=True):
            kill(process)
            await process.wait()
    return CommandEnd(
        status == 0, "The command has run." if status == 0 else f"The command ended with {status}."
    )


async def notify_desktop(title: str, text: str) -> None:
    """Show a notification where there is a desktop and a program for it; else nothing happens."""
    if (words := _notification(title, text)) is not None:
        await run_command(words, NOTIFY_TIMEOUT_S, {})


def _notification(title: str, text: str) -> list[str] | None:
    if sys.platform == "darwin":
        script = "on run argv\ndisplay notification (item 2 of argv) with title (item 1 of argv)\nend run"
        return ["osascript", "-e", script, title, text]
    program = shutil.which("notify-send")
    if program is None or not (
        os.environ.get("DBUS_SESSION_BUS_ADDRESS") or os.environ.get("XDG_RUNTIME_DIR")
    ):
        return None
    return [program, "--app-name=whisperd", "--", title, text]
