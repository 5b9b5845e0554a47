"""The daemon's parts, wired together. Nothing here knows of sockets, signals or logging."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import msgspec
from anyio.abc import TaskGroup

from whisperd import paths
from whisperd.audio import DecoderOptions, DecoderPool, media_lock, open_decoder_pool
from whisperd.calibration import CalibrationTable, Calibrator, Idle
from whisperd.daemon.calibrating import calibration_surroundings, is_busy
from whisperd.daemon.conditions import Conditions
from whisperd.daemon.connection import Connection
from whisperd.daemon.hub import EventHub
from whisperd.daemon.leasing import lease_for_options
from whisperd.daemon.metrics import Metrics
from whisperd.daemon.recipes import recipe_of
from whisperd.daemon.reporting import status_line
from whisperd.daemon.uploads import UploadStore
from whisperd.jobs.executor import jobs_at_once
from whisperd.jobs.job import Job
from whisperd.jobs.journal import JobRecord, job_of, open_journal
from whisperd.jobs.keeper import JobKeeper
from whisperd.jobs.manager import JobManager
from whisperd.jobs.options import job_options
from whisperd.jobs.transcripts import TranscriptStore
from whisperd.jobs.work import WorkLog
from whisperd.models import ModelStore, default_sources
from whisperd.natives import Bundle, NativeStore
from whisperd.plugins import Backend, Variant, variants
from whisperd.progress import OnProgress, Progress
from whisperd.rpc.errors import WhisperdError
from whisperd.rpc.events import Event, ModelProgress, NativeProgress, TranscriptionCompleted
from whisperd.runtimes import Lease, Runtime, RuntimeManager, RuntimePreset, RuntimeView, Surroundings
from whisperd.runtimes.advice import Advisor
from whisperd.runtimes.computer import Computer
from whisperd.runtimes.fallback import FailedVariant, VariantFailures
from whisperd.runtimes.prepare import Prepared, choose_variant, is_prepared, prepare
from whisperd.runtimes.presets import PresetStore, check_presets
from whisperd.runtimes.profile_manager import ProfileManager
from whisperd.runtimes.profiles import ProfileStore, check_profiles
from whisperd.runtimes.room import Room
from whisperd.service_manager.notify import Notifier
from whisperd.settings import Settings, is_offline, load_settings
from whisperd.store import open_database
from whisperd.tasks import open_task_group
from whisperd.watch import WatchJobs, WatchManager, WatchStore, check_watches
from whisperd.worker.protocol import LoadParams

__all__ = ["Service", "native_bundles", "open_service"]

log = logging.getLogger(__name__)


RETIRE_INTERVAL_S = 3600.0
"""How often we look for what is kept for too long."""

_FIXED = ("decoder.processes",)
"""Settings of which the decoder pool and the job manager are made."""


class Service:
    """Everything that handlers use. Make one with `open_service`."""

    jobs: JobManager
    job_keeper: JobKeeper
    runtimes: RuntimeManager
    profiles: ProfileManager
    decoders: DecoderPool
    calibrator: Calibrator
    work: WorkLog
    watches: WatchManager

    def __init__(
        self,
        tasks: TaskGroup,
        config_file: Path,
        settings: Settings,
        socket: str,
        state_dir: Path,
        kept_uploads: Collection[str] = (),
    ) -> None:
        self.config_file = config_file
        self.settings = settings
        self._settings_at_start = settings
        self.socket = socket
        self.started_s = time.monotonic()
        self.database_set_aside: Path | None = None
        """Where the data base went that was found damaged at the start: with it went all that was saved."""
        self.notifier = Notifier({})
        """Tells the service manager, if one started the daemon, how it is."""
        self.manager_name = os.environ.get("WHISPERD_SERVICE") or None
        """The service manager that started the daemon, as its files say it."""
        self.is_socket_passed = False
        """Whether the socket is a service manager's, and stays when the daemon ends."""
        self.stop_requested = anyio.Event()
        """Set when the daemon is to end."""
        self.on_reload: Callable[[Settings], None] = lambda _settings: None
        """Called with settings that were read again."""
        self.hub = EventHub()
        self.metrics = Metrics()
        self.conditions = Conditions()
        self.settings_changed = anyio.Event()
        """Set when the settings are read again; then there is another one."""
        self.natives = NativeStore(paths.native_dir(), offline=is_offline())
        self.models = ModelStore(
            paths.models_dir(), sources=default_sources(settings.models), offline=is_offline()
        )
        self.computer = Computer(
            start_soon=tasks.start_soon,
            is_installed=lambda bundle: self.natives.find(bundle) is not None,
        )
        self.variant_failures = VariantFailures(self.stamp_of)
        self.advisor = Advisor(self.models, self.computer, self.measured_speeds)
        self.uploads = UploadStore(state_dir / "uploads", socket, lambda: self.settings.limits, kept_uploads)
        self.connections: set[Connection] = set()
        self.idle = Idle(lambda: is_busy(self))
        self._tasks = tasks

    def reload(self) -> list[str]:
        """Read the settings again. Raises `WhisperdError` and keeps the old ones if they are not valid.

        New jobs, loads, downloads and connections follow them; what runs goes on as it began. Returns
        the keys, such as `decoder.processes`, whose new values hold only after a restart.
        """
        self.notifier.reloading()
        try:
            self.settings = load_settings(self.config_file)
        finally:
            self.notifier.ready(status_line(self))
        self.models.look_in(default_sources(self.settings.models))
        self.decoders.limit(
            stall_timeout_s=self.settings.decoder.stall_timeout_s,
            memory_limit_bytes=self.settings.decoder.memory_bytes,
        )
        self.on_reload(self.settings)
        self.settings_changed.set()
        self.settings_changed = anyio.Event()
        self.idle.notice()
        waiting = [
            key for key in _FIXED if _value(self.settings, key) != _value(self._settings_at_start, key)
        ]
        log.info("settings read again from %s", self.config_file)
        if waiting:
            log.warning("these settings need a restart: %s", ", ".join(waiting))
        return waiting

    def publish_job(self, event: Event) -> None:
        """Tell whoever follows a job, and count it."""
        self.metrics.take(event, time.monotonic())
        if isinstance(event, TranscriptionCompleted) and not event.cached:
            self.work.add(event.duration, event.elapsed)
        self.hub.publish_job(event)

    def on_native_progress(self, progress: Progress) -> None:
        """Tell subscribers how far an installation is."""
        self.hub.publish("natives", NativeProgress(**_fields(progress)))

    def on_model_progress(self, progress: Progress) -> None:
        """Tell subscribers how far a download is."""
        self.hub.publish("models", ModelProgress(**_fields(progress)))

    async def find_media_bundle(self) -> Path:
        """The bundle of the decoder, installed first if need be."""
        return (await self.natives.install(native_bundles()[0], self.on_native_progress)).path

    async def prepare_runtime(
        self,
        preset: RuntimePreset,
        on_progress: OnProgress,
        failed: Sequence[FailedVariant] = (),
        is_to_be_loaded: bool = True,
    ) -> Prepared:
        """Get what a worker needs, and tell of the downloads as if somebody had asked for them alone."""

        def on_native_progress(progress: Progress) -> None:
            self.on_native_progress(progress)
            on_progress(progress)

        def on_model_progress(progress: Progress) -> None:
            self.on_model_progress(progress)
            on_progress(progress)

        ranked = await self.ranked_variants(preset)
        if is_to_be_loaded:
            failed = [*failed, *await self.advisor.never_fitting(preset, ranked)]
        prepared = await prepare(
            preset,
            ranked,
            self.natives,
            self.models,
            on_native_progress,
            on_model_progress,
            self.variant_failures,
            failed,
        )
        tuning = await self.calibrator.tuning(preset, prepared.backend, prepared.variant)
        return replace(prepared, tuning=tuning)

    async def measured_speeds(self) -> dict[str, float]:
        """How many seconds of speech are transcribed in a second, by those models that were measured here."""
        return await self.calibrator.speeds()

    async def ranked_variants(self, preset: RuntimePreset) -> list[tuple[Backend, Variant]]:
        """Those that this computer can use, the best first: what was measured goes before the priority.

        One that has to be built here, which takes minutes, comes last until it was.
        """
        ranked = await self.calibrator.ranked(preset, await self.computer.usable_variants(preset))
        return sorted(ranked, key=lambda pair: self._has_to_be_built(pair[1]))

    def _has_to_be_built(self, variant: Variant) -> bool:
        bundle = Bundle.of(variant)
        return bundle is not None and self.natives.has_to_be_built(bundle)

    async def use_calibration(self, model: str) -> None:
        """Load what is loaded with a model anew, where that has become faster in another way."""
        for runtime in self.runtimes.all():
            loaded, prepared = runtime.loaded, runtime.prepared
            if runtime.preset.model != model or loaded is None or prepared is None:
                continue
            backend, variant = choose_variant(runtime.preset, await self.ranked_variants(runtime.preset))
            tuning = await self.calibrator.tuning(runtime.preset, backend, variant)
            if variant.name != prepared.variant.name or tuning != prepared.tuning:
                self.runtimes.load_anew(runtime)

    async def stamp_of(self, variant: Variant) -> str:
        """What a variant depends on: something else once its bundle or the driver has changed."""
        bundle = Bundle.of(variant)
        installed = self.natives.find(bundle) if bundle else None
        changed = installed.path.stat().st_mtime_ns if installed else None
        wanted = bundle.select().digest if bundle else None
        driver = (await self.computer.hardware()).gpus.driver if variant.device == "cuda" else None
        return f"{wanted} {installed and installed.digest} {changed} {driver}"

    async def resume_jobs(self, records: Sequence[JobRecord]) -> None:
        """Take over the jobs of the daemon before this one: go on with what it was to do and did not."""
        self.jobs.restore(
            sorted((job_of(one) for one in records if one.ended is not None), key=lambda job: job.ended or "")
        )
        for record in records:
            if record.ended is not None:
                continue
            job = job_of(record)
            if not record.detached:
                self.jobs.cancel_unfinished(job, _daemon_ended())
                continue
            try:
                lease = await self.lease_for(job)
            except WhisperdError as error:
                self.jobs.fail(job, error.copy())
                continue
            self.jobs.resume(job, lease)
            if job.input.upload is not None:
                self.remove_upload_after(job, job.input.upload)

    async def lease_for(self, job: Job) -> Lease:
        """A lease on the runtime of a job of which only the journal tells; else on one with its model.

        Raises `runtime.unknown`, `runtime.disabled`, and what is wrong with the model.
        """
        if job.runtime_id is not None:
            return self.runtimes.lease(self.runtimes.find(job.runtime_id))
        return self.runtimes.lease(self.runtimes.with_model((await self.models.describe(job.model)).name))

    async def retire_jobs(self) -> None:
        """Now and then, forget what is kept for longer than the settings say."""
        while True:
            self.jobs.retire()
            try:
                await self.job_keeper.retire()
            except WhisperdError as error:
                log.warning("old transcripts cannot be deleted: %s (%s)", error.message, error.code)
            await anyio.sleep(RETIRE_INTERVAL_S)

    async def preload(self) -> None:
        """Load the default runtime, unless something would have to be downloaded for it unasked."""
        preset = self.runtimes.default.preset
        try:
            usable = await self.ranked_variants(preset)
            is_there = await is_prepared(preset, usable, self.natives, self.models)
        except WhisperdError:
            is_there = True  # it fails before anything is downloaded, and its status says why
        if is_there:
            self.runtimes.begin_to_load(self.runtimes.default)

    async def known_model(self, name: str) -> str:
        """The one name of a model. Raises `model.unknown` and `model.invalid_folder`."""
        return (await self.models.describe(name)).name

    def view_runtime(self, runtime: Runtime) -> RuntimeView:
        """What is told of a runtime."""
        waiting = self.jobs.waiting_windows(runtime.loaded) if runtime.loaded else 0
        return self.runtimes.view(runtime, waiting)

    def name_of_runtime(self, id: str) -> str:
        """What a runtime is called now; its id if it was deleted."""
        return next((one.name for one in self.runtimes.all() if one.id == id), id)

    def remove_upload_after(self, job: Job, upload: str) -> None:
        """An upload goes when its job is over, and does not go on in the next daemon."""

        async def remove() -> None:
            await job.over.wait()
            if not job.is_suspended:
                self.uploads.remove(upload)

        self._tasks.start_soon(remove)

    async def finish_connections(self) -> None:
        """Let every client have the answers that it waits for, or hear that the daemon ends."""
        async with open_task_group() as tasks:
            for connection in self.connections:
                tasks.start_soon(connection.finish)

    def client_gone(self, connection: Connection) -> None:
        """A client went: its subscriptions end, its attached jobs are cancelled, its uploads deleted."""
        self.connections.discard(connection)
        self.idle.notice()
        for subscription in connection.subscriptions.values():
            self.hub.unsubscribe(subscription)
        for job in list(connection.attached_jobs):
            self.jobs.cancel(job, _client_gone())
        for upload in connection.uploads:
            self.uploads.remove(upload)


@asynccontextmanager
async def open_service(
    config_file: Path, settings: Settings, socket: str, state_dir: Path | None = None
) -> AsyncIterator[Service]:
    """The wired daemon; when the block ends, no job, worker or decoder is left.

    What it keeps is in `state_dir`, by default the user's own, which only the daemon may use.
    """
    state_dir = state_dir or paths.state_dir()
    database_file = state_dir / paths.database_file().name
    checks = (check_presets, check_profiles, check_watches)
    async with (
        open_database(database_file, checks=checks) as database,
        open_journal(database, socket) as journal,
        open_task_group() as tasks,
    ):
        records = await journal.load()
        kept_uploads = {one.input.upload for one in records if one.input.upload and _goes_on(one)}
        service = Service(tasks, config_file, settings, socket, state_dir, kept_uploads)
        options = DecoderOptions(
            max_processes=sum(jobs_at_once(settings).values()),
            stall_timeout_s=settings.decoder.stall_timeout_s,
            memory_limit_bytes=settings.decoder.memory_bytes,
        )
        async with open_decoder_pool(service.find_media_bundle, options) as service.decoders:
            service.database_set_aside = database.set_aside
            room = Room(service.models, service.computer, lambda: service.settings.runtime.memory_bytes)
            table = CalibrationTable(database)
            await table.open()
            service.calibrator = Calibrator(table, service.idle, calibration_surroundings(service, room))
            service.runtimes = RuntimeManager(tasks, PresetStore(database), _surroundings(service, room))
            await service.runtimes.open(service.advisor.suitable, _last_uses(records))
            service.profiles = ProfileManager(
                ProfileStore(database),
                check_options=job_options,
                runtime_id=lambda name: service.runtimes.find(name).id,
                runtime_name=service.name_of_runtime,
            )
            await service.profiles.open()
            service.job_keeper = JobKeeper(
                journal, TranscriptStore(database), lambda: service.settings.jobs, partial(recipe_of, service)
            )
            service.jobs = JobManager(
                tasks,
                decoders=lambda: service.decoders,
                settings=lambda: service.settings,
                publish=service.publish_job,
                forget=service.hub.forget_job,
                active_changed=service.idle.notice,
                keeper=service.job_keeper,
            )
            service.work = WorkLog(database, journal)
            await service.work.open()
            await service.resume_jobs(records)
            service.watches = WatchManager(
                tasks,
                WatchStore(database, socket),
                WatchJobs(service.jobs, partial(lease_for_options, service), service.lease_for),
                settings=lambda: service.settings.watch,
                check_options=job_options,
                runtime_id=lambda name: service.runtimes.find(name).id,
                runtime_name=service.name_of_runtime,
                check_profile=service.profiles.find,
            )
            await service.watches.open()
            tasks.start_soon(service.retire_jobs)
            try:
                yield service
            finally:
                tasks.cancel_scope.cancel()


def _surroundings(service: Service, room: Room) -> Surroundings:
    async def make_room(
        runtimes: RuntimeManager, runtime: Runtime, prepared: Prepared, params: LoadParams
    ) -> None:
        await service.idle.vacated()  # calibration takes no memory that somebody needs
        await room.make(runtimes, runtime, prepared, params)

    def publish(event: Event) -> None:
        service.idle.notice()
        service.metrics.take(event, time.monotonic())
        service.hub.publish("runtimes", event)

    return Surroundings(
        prepare=service.prepare_runtime,
        capabilities=service.computer.capabilities,
        known_model=service.known_model,
        settings=lambda: service.settings.runtime,
        publish=publish,
        make_room=make_room,
        failures=service.variant_failures,
        held_count_changed=_keep_decoder_warm(service.decoders),
    )


def native_bundles() -> list[Bundle]:
    """Every bundle there is: the decoder's first, then those of the variants, the best first."""
    return [
        Bundle("media", media_lock()),
        *filter(None, (Bundle.of(variant) for _, variant in variants())),
    ]


def _keep_decoder_warm(decoders: DecoderPool) -> Callable[[int], None]:
    # A decoder stands ready while a model does: a daemon that was idle for long holds neither.
    def on_held_count(count: int) -> None:
        decoders.keep_warm = count > 0

    return on_held_count


def _value(settings: Settings, key: str) -> object:
    section, _, name = key.partition(".")
    return getattr(getattr(settings, section), name)


def _fields(progress: Progress) -> dict[str, Any]:
    return msgspec.structs.asdict(progress)


def _last_uses(records: Sequence[JobRecord]) -> dict[str, str]:
    """When each runtime was used last, as far as the jobs tell that are kept."""
    uses: dict[str, str] = {}
    for one in records:
        time = one.ended or one.started
        if time is not None and one.runtime_id is not None and not one.cached:
            uses[one.runtime_id] = max(time, uses.get(one.runtime_id, ""))
    return uses


def _goes_on(record: JobRecord) -> bool:
    """Whether the next daemon goes on with a job."""
    return record.detached and record.ended is None


def _daemon_ended() -> WhisperdError:
    return WhisperdError(
        "daemon.ended",
        "The daemon ended while the job was not done.",
        "Try it again: `whisperctl jobs retry ID`; submit it with --detach if it should outlive the daemon.",
    )


def _client_gone() -> WhisperdError:
    return WhisperdError(
        "job.client_gone",
        "The client that asked for the job went away.",
        "Submit it with --detach if it should outlive its client.",
    )
