"""Checks and their outcomes."""

from __future__ import annotations

import inspect
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

import msgspec
import psutil

from whisperd.rpc.errors import WhisperdError
from whisperd.worker.process import WorkerDied

__all__ = ["Check", "Checks", "Failure", "Outcome", "Skip", "Status", "judge"]

T = TypeVar("T")
Status = Literal["ok", "failed", "skipped"]


class Failure(Exception):
    """Raised by a check that fails, with the reason."""


class Skip(Exception):
    """Raised by a check that does not apply, with the reason."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of a check."""

    name: str
    what: str
    """The checked requirement, as a sentence without its full stop."""
    status: Status
    reason: str | None = None
    """Why it failed or was skipped."""
    elapsed_s: float = 0.0


@dataclass(frozen=True)
class Check(Generic[T]):
    """A function that returns if the backend passes, and raises `Failure` or `Skip` if not."""

    name: str
    what: str
    run: Callable[[T], Awaitable[None] | None]

    def outcome(self, status: Status, reason: str | None = None, elapsed_s: float = 0.0) -> Outcome:
        """Return its outcome with a status."""
        return Outcome(
            name=self.name, what=self.what, status=status, reason=reason, elapsed_s=round(elapsed_s, 3)
        )


class Checks(list[Check[T]]):
    """The checks of one stage, in order; used as a decorator, it adds a function to them."""

    def __call__(self, function: Callable[[T], Any]) -> Callable[[T], Any]:
        """Add a check. The function's name and docstring are shown to users."""
        name = function.__name__.replace("_", "-")
        self.append(Check(name, inspect.getdoc(function).rstrip("."), function))  # type: ignore[union-attr]
        return function


async def judge(check: Check[T], subject: T) -> Outcome:
    """Run a check and return its outcome, whatever the backend does."""
    began_s = time.monotonic()
    status: Status
    try:
        running = check.run(subject)
        if running is not None:
            await running
        status, reason = "ok", None
    except Failure as failure:
        status, reason = "failed", str(failure)
    except Skip as skip:
        status, reason = "skipped", str(skip)
    except WorkerDied as death:
        status, reason = "failed", describe_death(death)
    except psutil.NoSuchProcess:
        status, reason = "failed", "the worker's process ended while it was being inspected"
    except WhisperdError as error:
        status, reason = "failed", describe(error)
    return check.outcome(status, reason, time.monotonic() - began_s)


def describe(error: WhisperdError) -> str:
    """Return an error as one line."""
    return f"{error.message} ({error.code})"


def describe_death(death: WorkerDied) -> str:
    """Describe how a worker ended, with the last line it wrote."""
    last_line = death.last_words.strip().rpartition("\n")[2]
    return f"the worker's process ended: {death.how}" + (f"; it wrote: {last_line}" if last_line else "")
