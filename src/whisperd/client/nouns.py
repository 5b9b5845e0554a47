"""The methods of the daemon, by noun: `client.jobs.cancel(id)` asks `jobs.cancel`.

Written once for both clients. `One` and `Many` are a map and a list of maps for the synchronous
client, and awaitables of these for the asynchronous one.
"""

from __future__ import annotations

import os
from typing import Any, Generic, Protocol, TypeVar, cast

from whisperd.client.inputs import absolute, model_name

__all__ = ["Ask", "Daemon", "Jobs", "Models", "Natives"]

One = TypeVar("One")
Many = TypeVar("Many")


class Ask(Protocol):
    """Sends a request. Its answer is typed by the noun that asks."""

    def __call__(self, method: str, **params: Any) -> Any:
        """Ask for a method with these parameters."""


class _Noun(Generic[One, Many]):
    def __init__(self, ask: Ask) -> None:
        self._ask = ask


class Jobs(_Noun[One, Many]):
    """Transcriptions, running and past."""

    def submit(self, input: dict[str, Any], options: dict[str, Any], *, detach: bool = False) -> One:
        """Take a job; the answer has its `id`."""
        return cast("One", self._ask("jobs.submit", input=input, options=options, detach=detach))

    def list(self, status: str | None = None) -> Many:
        """The jobs that are remembered, the oldest first, without their texts."""
        return cast("Many", self._ask("jobs.list", status=status))

    def show(self, id: str) -> One:
        """One job."""
        return cast("One", self._ask("jobs.show", id=id))

    def wait(self, id: str) -> One:
        """Wait for a job's end; the answer is its result in the shape of `verbose_json`."""
        return cast("One", self._ask("jobs.wait", id=id))

    def result(self, id: str, format: str = "text") -> One:
        """A completed job's text; the answer has it as `content`."""
        return cast("One", self._ask("jobs.result", id=id, format=format))

    def cancel(self, id: str) -> One:
        """Cancel a job and wait until it is over."""
        return cast("One", self._ask("jobs.cancel", id=id))

    def clear(self) -> One:
        """Forget every job that is over."""
        return cast("One", self._ask("jobs.clear"))


class Models(_Noun[One, Many]):
    """The model store."""

    def list(self) -> Many:
        """The models that are installed."""
        return cast("Many", self._ask("models.list"))

    def available(self) -> Many:
        """The catalogue."""
        return cast("Many", self._ask("models.available"))

    def pull(self, name: str | os.PathLike[str]) -> One:
        """Download a model unless it is there."""
        return cast("One", self._ask("models.pull", name=model_name(name)))

    def verify(self, name: str | os.PathLike[str]) -> One:
        """Compare every byte of a model with its hash."""
        return cast("One", self._ask("models.verify", name=model_name(name)))

    def remove(self, name: str | os.PathLike[str]) -> One:
        """Delete a model from the store."""
        return cast("One", self._ask("models.remove", name=model_name(name)))

    def path(self, name: str | os.PathLike[str]) -> One:
        """Where an installed model lies, as `path`."""
        return cast("One", self._ask("models.path", name=model_name(name)))

    def import_(self, path: str | os.PathLike[str], name: str) -> One:
        """Copy a model from a folder into the store."""
        return cast("One", self._ask("models.import", path=absolute(path), name=name))


class Natives(_Noun[One, Many]):
    """The native bundles."""

    def list(self) -> Many:
        """Every bundle there is, and what of it is installed."""
        return cast("Many", self._ask("natives.list"))

    def install(self, name: str) -> One:
        """Install a bundle unless it is there."""
        return cast("One", self._ask("natives.install", name=name))

    def verify(self, name: str) -> One:
        """Compare every file of a bundle with its hash."""
        return cast("One", self._ask("natives.verify", name=name))

    def remove(self, name: str) -> One:
        """Delete every installed version of a bundle."""
        return cast("One", self._ask("natives.remove", name=name))

    def path(self, name: str) -> One:
        """Where an installed bundle lies, as `path`."""
        return cast("One", self._ask("natives.path", name=name))


class Daemon(_Noun[One, Many]):
    """The daemon itself."""

    def status(self) -> One:
        """How it is: version, uptime, runtimes, jobs, memory."""
        return cast("One", self._ask("daemon.status"))

    def stop(self) -> One:
        """Have it end; running jobs get the grace period."""
        return cast("One", self._ask("daemon.stop"))

    def reload(self) -> One:
        """Have it read its settings again."""
        return cast("One", self._ask("daemon.reload"))

    def config(self) -> One:
        """The settings in force, as a documented TOML file in `content`."""
        return cast("One", self._ask("daemon.config"))
