"""The manager of all runtimes: it alone owns the presets, the loaded models and the leases on them."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType

import anyio
import msgspec
from anyio.abc import TaskGroup

from whisperd.clock import now_rfc3339
from whisperd.plugins import ModelFacts
from whisperd.rpc.errors import WhisperdError
from whisperd.runtimes import errors
from whisperd.runtimes.admission import Admission
from whisperd.runtimes.daemon_interface import DaemonInterface
from whisperd.runtimes.editing import Editor
from whisperd.runtimes.history import StatusChange
from whisperd.runtimes.host import Host
from whisperd.runtimes.lease import Lease
from whisperd.runtimes.life import Effect, Life, Lives, Refused, refusal
from whisperd.runtimes.life import Event as LifeEvent
from whisperd.runtimes.preset import RuntimeChanges, RuntimePreset, needs_reload, new_preset
from whisperd.runtimes.presets import PresetStore
from whisperd.runtimes.provisioner import Provisioner
from whisperd.runtimes.runtime import Hosting, Runtime, RuntimeView

__all__ = ["RuntimeManager"]

log = logging.getLogger(__name__)

KEPT_FAILURES = 20
"""The most unsaved runtimes that remain listed after they failed."""


class RuntimeManager:
    """Keeps the presets, loads each at most once at a time, and unloads what no client needs.

    Actions raise `WhisperdError`: `runtime.unknown`, `runtime.disabled`, `runtime.is_default`,
    `runtime.is_protected`, `runtime.in_use`, `runtime.stale`, `runtime.exists`, `runtime.invalid`.
    """

    def __init__(
        self,
        tasks: TaskGroup,
        store: PresetStore,
        provisioner: Provisioner,
        admission: Admission,
        daemon: DaemonInterface,
    ) -> None:
        self._tasks = tasks
        self._store = store
        self.provisioner = provisioner
        self.admission = admission
        self.daemon = daemon
        self.editor = Editor(provisioner, daemon.settings)
        self._lives = Lives()
        self._runtimes: dict[str, Runtime] = {}
        self._saving = anyio.Lock()
        self._held_count = 0

    # Looking up runtimes

    async def open(
        self,
        first_model: Callable[[], Awaitable[str]],
        last_used: Mapping[str, str] = MappingProxyType({}),
        histories: Mapping[str, Sequence[StatusChange]] = MappingProxyType({}),
    ) -> None:
        """Read the presets; on the first start, create the default with the model `first_model`.

        `last_used` and `histories` hold, by id, the records of the runtimes from before this start.
        """
        presets, default = await self._store.load()
        if default is None:
            model = await first_model()
            preset = new_preset(RuntimeChanges(name=model, model=model), self.daemon.settings())
            await self._store.insert(preset, make_default=True)
            presets, default = (preset,), preset.id
        for preset in presets:
            runtime = Runtime(preset, last_used=last_used.get(preset.id))
            runtime.history.extend(histories.get(preset.id, ()))
            self._add(runtime, is_default=preset.id == default)

    def all(self) -> list[Runtime]:
        """Return all saved runtimes, the oldest first, and the current unsaved ones."""
        return list(self._runtimes.values())

    def find(self, name: str) -> Runtime:
        """Return a runtime by its name, else by its id. Raises `runtime.unknown`."""
        by_name = (one for one in self._runtimes.values() if one.is_saved and one.name == name)
        if found := next(by_name, None) or self._runtimes.get(name):
            return found
        if found := next((one for one in self._runtimes.values() if one.name == name), None):
            return found
        raise errors.unknown(name, [one.name for one in self._presets()])

    def id_of(self, name: str) -> str:
        """Return the id of a saved runtime by name or id. Raises `runtime.unknown`, `runtime.not_saved`."""
        return self._saved(self.find(name)).id

    def name_of(self, id: str) -> str:
        """Return the current name of a runtime, or its id if it was deleted."""
        return self._runtimes[id].name if id in self._runtimes else id

    def with_model(self, model: str, facts: ModelFacts | None = None) -> Runtime:
        """Return an enabled runtime with this model, preferably the default, else a new unsaved one."""
        having = [
            one for one in self._runtimes.values() if one.preset.model == model and self._is_enabled(one)
        ]
        having.sort(key=lambda one: (not one.is_saved, not self.life(one).is_default))
        if having:
            return having[0]
        runtime = Runtime(self.editor.unsaved(model, facts), is_saved=False)
        self._add(runtime)
        return runtime

    @property
    def default(self) -> Runtime:
        """The default runtime."""
        return self._runtimes[self._lives.default]

    @property
    def answering(self) -> Runtime:
        """The runtime for requests that name none: the default, or the previous one until it is loaded."""
        return self._runtimes[self._lives.answering]

    def life(self, runtime: Runtime) -> Life:
        """Return the state of a runtime."""
        return self._lives[runtime.id]

    def view(self, runtime: Runtime, waiting: int = 0) -> RuntimeView:
        """Return the view of a runtime for clients; `waiting` windows wait for it."""
        return runtime.view(self.life(runtime), waiting=waiting)

    def check_unused(self, model: str) -> None:
        """Raise `model.in_use` if a worker has the model's files open."""
        for runtime in self._runtimes.values():
            # The running worker may have the model from before an edit.
            loaded = runtime.loaded.params.model_name if runtime.loaded else None
            if model in (runtime.preset.model, loaded) and self.life(runtime).is_hosted:
                life = self.life(runtime)
                raise errors.model_in_use(
                    model, runtime.name, life.reported_status, is_default=life.is_default
                )

    # Actions of users

    async def create(self, fields: RuntimeChanges, *, make_default: bool = False) -> Runtime:
        """Save a new runtime and, with `make_default`, make it the default in the same transaction."""
        async with self._saving:
            preset = await self.editor.new(fields, self._presets())
            await self._store.insert(preset, make_default=make_default)
            runtime = Runtime(preset)
            self._add(runtime)
            if make_default:
                self._apply_default(runtime)
        self.publish_state(runtime)
        return runtime

    async def edit(self, runtime: Runtime, changes: RuntimeChanges, version: int | None = None) -> None:
        """Change a runtime. Raises `runtime.stale` if its version is not `version`.

        If needed, a loaded runtime is reloaded: at once, or when the running jobs have ended.
        """
        async with self._saving:
            before = self._saved(runtime)
            errors.check_version("runtime", before.name, before.version, version)
            preset = await self.editor.changed(before, changes, self._presets())
            await self._save(runtime, preset)
            if needs_reload(before, preset):
                self.provisioner.failures.forget(preset.model)  # the change may fix them
                if runtime.hosting is None:
                    runtime.prepared = None
                self.apply(runtime, "edit")
            self._lives.protect(runtime.id, preset.protected)
        runtime.wake()
        self.publish_state(runtime)

    async def delete(self, runtime: Runtime) -> None:
        """Unload and delete a runtime."""
        async with self._saving:
            self._saved(runtime)
            self.apply(runtime, "delete")
            try:
                if runtime.hosting is not None:
                    await runtime.hosting.ended.wait()
                await self._store.delete(runtime.id)
            except BaseException:
                self._lives.cancel_delete(runtime.id)
                raise
            del self._runtimes[runtime.id]
            self._lives.remove(runtime.id)
        runtime.detail = "deleted"
        self.daemon.publish(runtime.event(Life()))

    async def make_default(self, runtime: Runtime) -> None:
        """Make a runtime the default and start to load it. The old default serves requests until then."""
        async with self._saving:
            self._saved(runtime)
            self._check_refusal(runtime, "default")
            if runtime is not self.default:
                await self._store.set_default(runtime.id)
            self._apply_default(runtime)

    async def enable(self, runtime: Runtime) -> None:
        """Let a runtime accept jobs again."""
        await self._set_enabled(runtime, "enable", is_enabled=True)

    async def disable(self, runtime: Runtime) -> None:
        """Stop accepting jobs for a runtime, and unload it once its current jobs are done."""
        await self._set_enabled(runtime, "disable", is_enabled=False)

    async def prepare(self, runtime: Runtime) -> None:
        """Download what a runtime needs, without loading it. Stops when no caller waits any longer."""
        with self.lease(runtime):
            while True:
                self.apply(runtime, "prepare")
                hosting = runtime.hosting
                assert hosting is not None
                is_ending = self.life(runtime).ending is not None
                await hosting.prepared.wait()
                if self.life(runtime).goal == "prepared":
                    await hosting.ended.wait()
                if hosting.error is not None and not is_ending:  # else the error predates this call
                    raise hosting.error.copy()
                if runtime.prepared is not None:
                    return

    async def load(self, runtime: Runtime) -> None:
        """Load a runtime, retrying variants that failed before. Stops when no caller waits any longer."""
        self.provisioner.failures.forget(runtime.preset.model)
        with self.lease(runtime) as lease:
            if runtime.prepared is not None and runtime.prepared.passed_over:
                self.reload(runtime)
            await lease.loaded()
            while self.life(runtime).is_restarting:
                await runtime.changed.wait()
                await lease.loaded()
            runtime.awaits_first_use = True

    def begin_to_load(self, runtime: Runtime) -> None:
        """Start to load a runtime, whether or not a caller waits for it."""
        self.apply(runtime, "load")

    async def reload_if_faster(self, model: str) -> None:
        """Reload the runtimes with a model whose fastest variant or tuning has changed."""
        for runtime in self.all():
            prepared = runtime.prepared if runtime.loaded else None
            if prepared is None or runtime.preset.model != model:
                continue
            with suppress(WhisperdError):  # its next load reports the error
                _, variant, tuning = await self.provisioner.choose(runtime.preset)
                if (variant.name, tuning) != (prepared.variant.name, prepared.tuning):
                    self.reload(runtime)

    def reload(self, runtime: Runtime) -> None:
        """Reload a loaded runtime as soon as no job uses it, to pick up a better variant or tuning."""
        if runtime in self.all() and self.life(runtime).is_ready:
            self.apply(runtime, "edit")

    async def cancel(self, runtime: Runtime) -> None:
        """Cancel the download or load of a runtime, if there is one."""
        hosting = runtime.hosting
        self.apply(runtime, "cancel")
        if hosting is not None and self.life(runtime).ending == "cancelled":
            hosting.error = errors.cancelled(runtime.name)
            await hosting.ended.wait()

    async def unload(self, runtime: Runtime) -> None:
        """End the worker of a runtime, if it has one, and wait until its memory is free."""
        hosting = runtime.hosting
        self.apply(runtime, "unload")
        if hosting is not None:
            await hosting.ended.wait()

    # Leases

    def lease(self, runtime: Runtime) -> Lease:
        """Take a lease on a runtime: once loaded, it is not unloaded before the lease ends.

        `Lease.loaded` loads it. A download or load is cancelled when its last lease ends.
        Raises `runtime.disabled`.
        """
        self.apply(runtime, "lease")
        return Lease(self, runtime)

    def occupants(self) -> list[Runtime]:
        """Return the runtimes that have a worker, or memory reserved for one."""
        return [one for one in self.all() if one.needs and self.life(one).is_hosted]

    def evict(self, runtime: Runtime) -> anyio.Event:
        """Unload an idle runtime; the returned event is set when its memory is free."""
        assert runtime.hosting is not None
        ended = runtime.hosting.ended
        self.apply(runtime, "evict")
        return ended

    def relieve(self, *, with_default: bool) -> list[tuple[str, anyio.Event]]:
        """Unload all idle runtimes and, with `with_default`, every other one without a lease.

        Returns the name of each, and an event that is set when its memory is free.
        """
        gone = []
        for runtime in self.all():
            life, hosting = self.life(runtime), runtime.hosting
            if hosting is not None and (life.is_idle or (with_default and life.is_unused)):
                gone.append((runtime.name, hosting.ended))
                self.apply(runtime, "relieve")
        return gone

    def released(self, runtime: Runtime) -> None:
        """Handle the end of a lease on a runtime."""
        runtime.unused_since_s = self.daemon.clock()
        self.apply(runtime, "release")
        self._forget_unsaved()

    # Hosting

    def apply(self, runtime: Runtime, event: LifeEvent) -> None:
        """Apply an event, and start or stop hosts accordingly. Raises `WhisperdError` if it is refused."""
        before = self.life(runtime).reported_status
        try:
            effects = self._lives.apply(runtime.id, event)
        except Refused as refused:
            raise errors.refused(refused.code, runtime.name, self._usable_names(runtime)) from refused
        self._carry_out(effects)
        runtime.wake()
        if self.life(runtime).reported_status != before:
            self._status_changed(runtime)

    def _carry_out(self, effects: Mapping[str, Effect]) -> None:
        for id, effect in effects.items():
            runtime = self._runtimes[id]
            if effect == "stop" and runtime.hosting is not None:
                runtime.hosting.scope.cancel()
            elif effect == "start":
                runtime.hosting = hosting = Hosting()
                runtime.error = None
                self._tasks.start_soon(Host(self, runtime, hosting).run)

    def _apply_default(self, runtime: Runtime) -> None:
        """Apply the change of the default, once it is saved."""
        before = self.default
        self.apply(runtime, "default")
        for changed in {before, runtime}:
            self.publish_state(changed)
        self.wake_all()

    def _check_refusal(self, runtime: Runtime, event: LifeEvent) -> None:
        """Raise the error that `apply` would raise, before anything is saved."""
        if code := refusal(self.life(runtime), event):
            raise errors.refused(code, runtime.name, self._usable_names(runtime))

    def hosting_ended(self, runtime: Runtime, hosting: Hosting, error: WhisperdError | None) -> None:
        """Handle the end of a runtime's host, with an error or because it was told to end."""
        life = self.life(runtime)
        runtime.loaded = runtime.hosting = runtime.progress = runtime.detail = None
        runtime.needs = {}
        if life.ending is None and error is not None:
            runtime.error = error
            hosting.error = errors.failed(error, runtime.name, self._usable_names(runtime))
        elif life.ending != "cancelled":
            hosting.error = None  # it was cancelled, and then requested again
        self.apply(runtime, "failed" if error else "ended")
        hosting.prepared.set()
        hosting.settled.set()
        hosting.ended.set()
        self.wake_all()
        self._forget_unsaved()

    # Bookkeeping

    def _add(self, runtime: Runtime, *, is_default: bool = False) -> None:
        self._runtimes[runtime.id] = runtime
        preset = runtime.preset
        life = Life(is_enabled=preset.enabled, is_protected=preset.protected, is_default=is_default)
        self._lives.add(runtime.id, life)

    def _forget_unsaved(self) -> None:
        """Remove unsaved runtimes whose worker has ended, except the last few that failed."""
        gone = [
            one
            for one in self._runtimes.values()
            if not (one.is_saved or self.life(one).is_hosted or self.life(one).leases)
        ]
        failed = [one for one in gone if self.life(one).status == "failed"][-KEPT_FAILURES:]
        for one in gone:
            if one not in failed:
                del self._runtimes[one.id]
                self._lives.remove(one.id)

    def _presets(self) -> list[RuntimePreset]:
        """Return the presets of all saved runtimes."""
        return [one.preset for one in self._runtimes.values() if one.is_saved]

    def _saved(self, runtime: Runtime) -> RuntimePreset:
        """Return its preset. Raises `runtime.not_saved`, and `runtime.unknown` if it has been deleted."""
        if not runtime.is_saved:
            raise errors.not_saved(runtime.name)
        if runtime.id not in self._runtimes:
            raise errors.unknown(runtime.name, [one.name for one in self._presets()])
        return runtime.preset

    async def _save(self, runtime: Runtime, preset: RuntimePreset) -> None:
        await self._store.update(preset)
        runtime.preset = preset

    async def _set_enabled(self, runtime: Runtime, event: LifeEvent, *, is_enabled: bool) -> None:
        async with self._saving:
            before = self._saved(runtime)
            self._check_refusal(runtime, event)
            if before.enabled != is_enabled:
                preset = msgspec.structs.replace(
                    before, enabled=is_enabled, changed=now_rfc3339(), version=before.version + 1
                )
                await self._save(runtime, preset)
            self.apply(runtime, event)
        self.publish_state(runtime)

    def _is_enabled(self, runtime: Runtime) -> bool:
        life = self.life(runtime)
        return life.is_enabled and life.ending != "deleted"

    def _usable_names(self, but: Runtime) -> list[str]:
        return [one.name for one in self.all() if one.is_saved and one is not but and self._is_enabled(one)]

    # Notifications

    def _status_changed(self, runtime: Runtime) -> None:
        change = runtime.remember(self.life(runtime).reported_status)
        if runtime.is_saved:
            self.daemon.remember(runtime.id, change)
        self.publish_state(runtime)
        held = sum(self.life(one).status in ("loading", "loaded") for one in self._runtimes.values())
        if held != self._held_count:
            self._held_count = held
            self.daemon.held_count_changed(held)

    def wake_all(self) -> None:
        """Have all hosts check again whether to keep their runtime loaded."""
        for runtime in self._runtimes.values():
            runtime.wake()

    def publish_state(self, runtime: Runtime) -> None:
        """Publish the current state of a runtime to subscribers."""
        if runtime.id in self._runtimes:
            self.daemon.publish(runtime.event(self.life(runtime)))
