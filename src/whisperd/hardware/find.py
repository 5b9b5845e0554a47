"""Finding out what this computer has, without a risk: everything is looked at in child processes.

A probe that hangs or crashes is ended with its process, and costs the fact that it was to find; the facts
that come after it are looked for by another process.
"""

from __future__ import annotations

import subprocess
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec

from whisperd.child import how_it_ended, open_child, python_command
from whisperd.hardware.detect import FACTS
from whisperd.hardware.facts import Hardware
from whisperd.hardware.gpus import Gpus, find_gpus
from whisperd.hardware.messages import FactAnswer
from whisperd.paths import native_dir

__all__ = ["find_hardware"]

FACT_TIMEOUT_S = 8.0
"""What is given to each fact, a hundred times what it takes. Programs that are asked have less."""
MAX_LINE_BYTES = 1 << 20


async def find_hardware(
    find_gpus: Callable[[], Awaitable[Gpus]] = find_gpus,
    *,
    look: Sequence[str] | None = None,
    timeout_s: float = FACT_TIMEOUT_S,
) -> Hardware:
    """All that this computer has. Raises nothing: what could not be found out is in `unknown`.

    `look` is the command that looks at it; the names of facts are added.
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
        if not search.has_begun:  # the next process would fare no better
            unknown |= dict.fromkeys(left, why)
            break
        if left:
            unknown[left.pop(0)] = why
    return found, unknown


class _Search:
    """One process that looks for facts, and what it has said."""

    def __init__(self, names: Sequence[str]) -> None:
        self.has_begun = False
        self.found: dict[str, Any] = {}
        self.unknown: dict[str, str] = {}
        self._names = names

    async def run(self, command: Sequence[str], timeout_s: float) -> str:
        """Run it to its end; returns why it says no more."""
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
                f"Looking takes more than {timeout_s:g} seconds: "
                "the computer is busy, or a disk does not answer."
            )
        except OSError as error:
            return f"The process that looks at it cannot be started ({error.strerror or error})."
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return "The process that looks at it says something that is not understood."
        return f"Looking at it crashed ({how_it_ended(status)})."

    def _take(self, line: bytes) -> None:
        self.has_begun = True
        if not line:
            return
        answer = msgspec.json.decode(line, type=FactAnswer)
        if answer.name not in self._names:
            return
        if answer.why is None:
            self.found[answer.name] = msgspec.json.decode(answer.fact, type=FACTS[answer.name].type)
        else:
            self.unknown[answer.name] = answer.why
