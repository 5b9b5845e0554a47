"""The methods of the daemon, by noun: `client.jobs.cancel(id)` calls `jobs.cancel`.

Written once for both clients. `One` and `Many` are a map and a list of maps for the synchronous client, and
awaitables of these for the asynchronous one.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, overload

from whisperd.client.inputs import (
    absolute,
    model_name,
    option_params,
    path_params,
    runtime_params,
    watch_params,
)
from whisperd.rpc.errors import sendable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Unpack

    from whisperd.client.options import JobOptions, ProfileChanges, RuntimeChanges, RuntimeFields, WatchFields

__all__ = ["Nouns"]

One = TypeVar("One")
Many = TypeVar("Many")


class _Noun(Generic[One, Many]):
    def __init__(self, ask: Callable[..., Any]) -> None:
        self._one: Callable[..., One] = ask
        self._many: Callable[..., Many] = ask


class Jobs(_Noun[One, Many]):
    """Transcriptions, running and past."""

    def submit(
        self,
        input: dict[str, Any],
        options: dict[str, Any],
        *,
        detach: bool = False,
        profile: str | None = None,
    ) -> One:
        """Submit a job; the answer has its `id`. A profile replaces that of the connection."""
        params = {"input": input, "options": options, "detach": detach}
        return self._one("jobs.submit", **params, **_given(profile=profile))

    def push(self, id: str, pcm: bytes) -> One:
        """Send audio for a live job; answered once the daemon has room for it."""
        return self._one("jobs.push", id=id, pcm=pcm)

    def finish(self, id: str) -> One:
        """End the audio of a live job."""
        return self._one("jobs.finish", id=id)

    def list(
        self, status: str | None = None, *, since: str | None = None, runtime: str | None = None
    ) -> Many:
        """List the remembered jobs, oldest first, without their texts; `since` is RFC 3339."""
        params = _given(since=since, runtime=runtime)
        return self._many("jobs.list", status=status, **params)

    def show(self, id: str) -> One:
        """Show a job."""
        return self._one("jobs.show", id=id)

    def wait(self, id: str) -> One:
        """Wait until a job ends; the answer is its result in the form of `verbose_json`."""
        return self._one("jobs.wait", id=id)

    def result(self, id: str, format: str = "text") -> One:
        """Get a completed job's text, as `content`."""
        return self._one("jobs.result", id=id, format=format)

    @overload
    def cancel(self, id: str) -> One: ...
    @overload
    def cancel(self, *, ids: Sequence[str]) -> Many: ...
    @overload
    def cancel(
        self,
        *,
        all: Literal[True],
        status: str | None = None,
        since: str | None = None,
        runtime: str | None = None,
    ) -> Many: ...
    def cancel(
        self,
        id: str | None = None,
        *,
        ids: Sequence[str] | None = None,
        all: bool = False,
        status: str | None = None,
        since: str | None = None,
        runtime: str | None = None,
    ) -> One | Many:
        """Cancel a job and wait until it is over; or several `ids` at once, or `all` that match the filters.

        Several are answered with one map for each: the job, or `id` and `error` if it does not exist.
        """
        params = _given(id=id, ids=ids, all=all or None, status=status, since=since, runtime=runtime)
        return self._one("jobs.cancel", **params)

    def retry(self, id: str) -> One:
        """Resume a failed or cancelled job from where it stopped; it outlives this connection."""
        return self._one("jobs.retry", id=id)

    def clear(
        self, ids: Sequence[str] | None = None, *, older_than: float | None = None, purge: bool = False
    ) -> One:
        """Forget finished jobs: all, those with these ids, or those ended `older_than` seconds ago or more.

        `purge` also erases their transcripts; without ids, all transcripts that are so old.
        """
        params = _given(ids=ids, older_than=older_than, purge=purge or None)
        return self._one("jobs.clear", **params)


class Transcripts(_Noun[One, Many]):
    """The stored transcripts."""

    def search(self, query: str, limit: int = 50) -> Many:
        """Find recordings in which something was said, best first, with at most `limit` matches as `hits`.

        `whisperctl search --help` explains the query.
        """
        return self._many("transcripts.search", query=query, limit=limit)


class Runtimes(_Noun[One, Many]):
    """The saved runtimes, by name or id. Every change answers with the changed runtime."""

    def list(self) -> Many:
        """List all runtimes."""
        return self._many("runtimes.list")

    def show(self, name: str) -> One:
        """Show a runtime, with its `history`."""
        return self._one("runtimes.show", name=name)

    def create(
        self,
        name: str,
        model: str | os.PathLike[str] | None = None,
        *,
        default: bool = False,
        **fields: Unpack[RuntimeFields],
    ) -> One:
        """Create a runtime, as the default if requested. Its default model is the best for this computer."""
        params = runtime_params({**fields, **_given(model=model)})
        return self._one("runtimes.create", name=name, **params, **_given(default=default or None))

    def edit(self, name: str, /, *, version: int | None = None, **changes: Unpack[RuntimeChanges]) -> One:
        """Change fields. With the `version` that was read, fail if another client has changed it since."""
        params = {"name": name, "changes": runtime_params(changes)}
        return self._one("runtimes.edit", **params, **_given(version=version))

    def delete(self, name: str) -> One:
        """Unload and delete it."""
        return self._one("runtimes.delete", name=name)

    def prepare(self, name: str) -> One:
        """Download everything it needs, and wait for that."""
        return self._one("runtimes.prepare", name=name)

    def load(self, name: str) -> One:
        """Load it, and wait until it is loaded."""
        return self._one("runtimes.load", name=name)

    def cancel(self, name: str) -> One:
        """Cancel its download or loading, for all clients that wait for it."""
        return self._one("runtimes.cancel", name=name)

    def unload(self, name: str) -> One:
        """End its worker process and free its memory."""
        return self._one("runtimes.unload", name=name)

    def default(self, name: str) -> One:
        """Make it the default. It is loaded in the background."""
        return self._one("runtimes.default", name=name)

    def enable(self, name: str) -> One:
        """Allow its use."""
        return self._one("runtimes.enable", name=name)

    def disable(self, name: str) -> One:
        """Unload it and forbid its use."""
        return self._one("runtimes.disable", name=name)


class Profiles(_Noun[One, Many]):
    """The profiles: a runtime and job options of a user or program."""

    def list(self) -> Many:
        """List all profiles."""
        return self._many("profiles.list")

    def show(self, name: str) -> One:
        """Show a profile."""
        return self._one("profiles.show", name=name)

    def create(self, name: str, runtime: str | None = None, options: JobOptions | None = None) -> One:
        """Create a profile. Without a runtime, it uses the default one."""
        params = {"runtime": runtime, "options": option_params(options) if options else None}
        return self._one("profiles.create", name=name, **_given(**params))

    def edit(self, name: str, /, *, version: int | None = None, **changes: Unpack[ProfileChanges]) -> One:
        """Change fields. With the `version` that was read, fail if another client has changed it since."""
        params: dict[str, Any] = {**changes}
        if "options" in changes:
            params["options"] = option_params(changes["options"])
        return self._one("profiles.edit", name=name, changes=params, **_given(version=version))

    def delete(self, name: str) -> One:
        """Delete it."""
        return self._one("profiles.delete", name=name)


class Watch(_Noun[One, Many]):
    """The watch folders, by id or path. Every change answers with the changed folder."""

    def add(self, path: str | os.PathLike[str], **fields: Unpack[WatchFields]) -> One:
        """Watch a folder from now on."""
        return self._one("watch.add", **path_params(path), **watch_params(fields))

    def list(self) -> Many:
        """List all watch folders, oldest first."""
        return self._many("watch.list")

    def show(self, name: str) -> One:
        """Show a watch folder."""
        return self._one("watch.show", name=sendable(name))

    def edit(self, name: str, /, *, version: int | None = None, **changes: Unpack[WatchFields]) -> One:
        """Change fields. With the `version` that was read, fail if another client has changed it since."""
        params = {"name": sendable(name), "changes": watch_params(changes)}
        return self._one("watch.edit", **params, **_given(version=version))

    def remove(self, name: str) -> One:
        """Stop watching it; written files stay."""
        return self._one("watch.remove", name=sendable(name))

    def pause(self, name: str) -> One:
        """Start no more files in it; those in progress are finished."""
        return self._one("watch.pause", name=sendable(name))

    def resume(self, name: str) -> One:
        """Resume it."""
        return self._one("watch.resume", name=sendable(name))

    def retry(self, name: str, paths: Sequence[str] | None = None, *, all: bool = False) -> One:
        """Retry failed files, or transcribe these files again, or `all` in the folder.

        The answer has their number as `retried`.
        """
        given = _given(paths=sendable(paths), all=all or None)
        return self._one("watch.retry", name=sendable(name), **given)

    def log(self, name: str, limit: int = 100) -> Many:
        """List its events, oldest first: `time`, `event`, `path`, `message`."""
        return self._many("watch.log", name=sendable(name), limit=limit)

    def scan(self, name: str) -> One:
        """Check everything in it now, and wait for that."""
        return self._one("watch.scan", name=sendable(name))


class Models(_Noun[One, Many]):
    """The model store."""

    def list(self) -> Many:
        """List the installed models."""
        return self._many("models.list")

    def available(self) -> Many:
        """List the catalogue."""
        return self._many("models.available")

    def recommend(self, language: str | None = None) -> Many:
        """List the catalogue, with which models fit this computer and which suits it best."""
        return self._many("models.recommend", **_given(language=language))

    def show(self, name: str | os.PathLike[str]) -> One:
        """Show a model, installed or not; `warnings` are the reasons against it on this computer."""
        return self._one("models.show", name=model_name(name))

    def pull(self, name: str | os.PathLike[str]) -> One:
        """Download a model unless it is already installed."""
        return self._one("models.pull", name=model_name(name))

    def verify(self, name: str | os.PathLike[str]) -> One:
        """Check every byte of a model against its hashes."""
        return self._one("models.verify", name=model_name(name))

    def remove(self, name: str | os.PathLike[str]) -> One:
        """Delete a model from the store."""
        return self._one("models.remove", name=model_name(name, is_in_store=True))

    def path(self, name: str | os.PathLike[str]) -> One:
        """Get the location of an installed model, as `path`."""
        return self._one("models.path", name=model_name(name))

    def import_(self, path: str | os.PathLike[str], name: str | None = None) -> One:
        """Copy a model folder, or a whisper.cpp file, into the store."""
        return self._one("models.import", path=absolute(path), **_given(name=name))


class Natives(_Noun[One, Many]):
    """The native bundles."""

    def list(self) -> Many:
        """List all bundles, with their installed versions."""
        return self._many("natives.list")

    def install(self, name: str) -> One:
        """Install a bundle, or repair a damaged one."""
        return self._one("natives.install", name=name)

    def verify(self, name: str) -> One:
        """Check every file of a bundle against its hash."""
        return self._one("natives.verify", name=name)

    def upgrade(self, name: str, version: str | None = None) -> One:
        """Install and test its newest version, or the given one, and switch to it."""
        return self._one("natives.upgrade", name=name, **_given(version=version))

    def rollback(self, name: str) -> One:
        """Switch back to the version before the last upgrade."""
        return self._one("natives.rollback", name=name)

    def remove(self, name: str, version: str | None = None) -> One:
        """Delete every installed version of a bundle, or the given one."""
        return self._one("natives.remove", name=name, **_given(version=version))

    def prune(self) -> Many:
        """Delete every bundle that is neither in use nor the target of a rollback."""
        return self._many("natives.prune")

    def path(self, name: str) -> One:
        """Get the location of an installed bundle, as `path`."""
        return self._one("natives.path", name=name)


class Hardware(_Noun[One, Many]):
    """The hardware of this computer."""

    def show(self) -> One:
        """Show processor, memory, GPUs, libraries and tools, and which variants can be used."""
        return self._one("hardware.show")


class Doctor(_Noun[One, Many]):
    """The daemon's checks for problems."""

    def check(self) -> One:
        """Check everything; the answer has `checks`, each with `name`, `status`, `message` and `fix`."""
        return self._one("doctor.check")


class Calibration(_Noun[One, Many]):
    """The fastest way to run a model on this computer; by default the default runtime's model."""

    def run(self, model: str | os.PathLike[str] | None = None) -> One:
        """Measure it, which takes about a minute, and use it from now on."""
        return self._one("calibration.run", **_named_model(model))

    def show(self, model: str | os.PathLike[str] | None = None) -> One:
        """Show the result and what was tried."""
        return self._one("calibration.show", **_named_model(model))

    def forget(self, model: str | os.PathLike[str] | None = None) -> One:
        """Forget the result."""
        return self._one("calibration.forget", **_named_model(model))


class Daemon(_Noun[One, Many]):
    """The daemon itself."""

    def status(self) -> One:
        """Show its status: version, uptime, runtimes, jobs, memory."""
        return self._one("daemon.status")

    def metrics(self) -> One:
        """Get its metrics in the Prometheus text format, as `content`."""
        return self._one("daemon.metrics")

    def stop(self) -> One:
        """Stop it; running jobs get the grace period."""
        return self._one("daemon.stop")

    def reload(self) -> One:
        """Make it read its settings again."""
        return self._one("daemon.reload")

    def config(self) -> One:
        """Get the settings in force, as a documented TOML file in `content`."""
        return self._one("daemon.config")


class Nouns(Generic[One, Many]):
    """All nouns, as attributes of a client; `ask` sends a request."""

    def __init__(self, ask: Callable[..., Any]) -> None:
        self.jobs: Jobs[One, Many] = Jobs(ask)
        self.transcripts: Transcripts[One, Many] = Transcripts(ask)
        self.watch: Watch[One, Many] = Watch(ask)
        self.runtimes: Runtimes[One, Many] = Runtimes(ask)
        self.profiles: Profiles[One, Many] = Profiles(ask)
        self.models: Models[One, Many] = Models(ask)
        self.natives: Natives[One, Many] = Natives(ask)
        self.hardware: Hardware[One, Many] = Hardware(ask)
        self.doctor: Doctor[One, Many] = Doctor(ask)
        self.calibration: Calibration[One, Many] = Calibration(ask)
        self.daemon: Daemon[One, Many] = Daemon(ask)


def _named_model(model: str | os.PathLike[str] | None) -> dict[str, Any]:
    return {} if model is None else {"model": model_name(model)}


def _given(**params: Any) -> dict[str, Any]:
    """Return the parameters that have a value; the daemon has defaults for the others."""
    return {name: value for name, value in params.items() if value is not None}
