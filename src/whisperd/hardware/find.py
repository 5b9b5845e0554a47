"""Detect this computer's hardware safely, in child processes.

A probe that hangs or crashes takes down only its process and costs only its own fact; a new process looks for
the facts that follow it.
"""

from __future__ import annotations

import subprocess
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec

from whisperd.child import how_it_ended, open_child, python_command
from whisperd.decodable import decodable
from whisperd.hardware.detect import FACTS
from whisperd.hardware.facts import Hardware
from whisperd.hardware.gpus import Gpus, find_gpus
from whisperd.hardware.messages import FactAnswer
from whisperd.paths import native_dir

__all__ = ["find_hardware"]

FACT_TIMEOUT_S = 8.0
"""The time limit per fact, a hundred times what one usually takes. Programs that a probe runs get less."""
MAX_LINE_BYTES = 1 << 20


async def find_hardware(
    find_gpus: Callable[[], Awaitable[Gpus]] = find_gpus,
    *,
    look: Sequence[str] | None = None,
    timeout_s: float = FACT_TIMEOUT_S,
) -> Hardware:
    """Return everything this computer has. Raises nothing: undetermined facts are in `unknown`.

    `look` is the command of the child process; the names of the facts are appended to it.
    """
    import anyio

    if look is None:
        look = python_command("whisperd.hardware.look", str(native_dir()))
    gpus = Gpus()

    async def ask_driver() -> None:
        nonlocal gpus
        gpus = await find_gpus()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask_driver)
        found, unknown = await _find_facts(look, timeout_s)
    return Hardware(**found, gpus=gpus, unknown=unknown)


async def _find_facts(look: Sequence[str], timeout_s: float) -> tuple[dict[str, Any], dict[str, str]]:
    found: dict[str, Any] = {}
    unknown: dict[str, str] = {}
    left = list(FACTS)
    while left:
        search = _Search(left)
        why = await search.run([*look, *left], timeout_s)
        found |= search.found
        unknown |= search.unknown
        left = [name for name in left if name not in found and name not in unknown]
        if not search.has_begun:  # the next process would not start either
            unknown |= dict.fromkeys(left, why)
            break
        if left:
            unknown[left.pop(0)] = why
    return found, unknown


class _Search:
    """One child process that looks for facts, and its answers so far."""

    def __init__(self, names: Sequence[str]) -> None:
        self.has_begun = False
        self.found: dict[str, Any] = {}
        self.unknown: dict[str, str] = {}
        self._names = names

    async def run(self, command: Sequence[str], timeout_s: float) -> str:
        """Run the process to its end; return why it stopped before it found every fact."""
        import anyio
        from anyio.streams.buffered import BufferedByteReceiveStream

        status: int | None = None
        try:
            async with open_child(command, stderr=subprocess.DEVNULL) as child:
                assert child.stdout is not None
                lines = BufferedByteReceiveStream(child.stdout)
                while len(self.found) + len(self.unknown) < len(self._names):
                    with anyio.fail_after(timeout_s):
                        try:
                            line = await lines.receive_until(b"\n", MAX_LINE_BYTES)
                        except (anyio.IncompleteRead, anyio.DelimiterNotFound):
                            status = await child.wait()
                            break
                    self._take(line)
        except TimeoutError:
            return (
                f"Detection did not finish within {timeout_s:g} seconds: "
                "the computer is busy, or a disk does not respond."
            )
        except OSError as error:
            return f"The detection process could not be started ({error.strerror or error})."
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return "The detection process sent an invalid answer."
        return f"The detection process crashed ({how_it_ended(status)})."

    def _take(self, line: bytes) -> None:
        self.has_begun = True
        if not line:
            return
        answer = msgspec.json.decode(line, type=decodable(FactAnswer))
        if answer.name not in self._names:
            return
        if answer.why is None:
            fact = FACTS[answer.name]
            self.found[answer.name] = msgspec.json.decode(answer.fact, type=decodable(fact.type))
        else:
            self.unknown[answer.name] = answer.why
