"""Wires the daemon's parts together. Independent of sockets, signals and the log file."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread
import msgspec
from anyio.abc import TaskGroup

from whisperd import paths
from whisperd.audio import DecoderOptions, DecoderPool, open_decoder_pool
from whisperd.calibration import CalibrationTable, Calibrator, Idle
from whisperd.daemon.bundles import install_media_bundle
from whisperd.daemon.calibrating import calibration_interface, is_busy
from whisperd.daemon.connection import Connection
from whisperd.daemon.hub import EventHub
from whisperd.daemon.leasing import lease_for_job, lease_for_options
from whisperd.daemon.metrics import Metrics
from whisperd.daemon.recipes import recipe_of
from whisperd.daemon.reporting import status_line
from whisperd.daemon.resuming import RETIRE_INTERVAL_S, is_resumed, last_uses, resume_jobs, retire_jobs
from whisperd.daemon.uploads import UploadStore
from whisperd.jobs.executor import jobs_at_once
from whisperd.jobs.job import Job
from whisperd.jobs.journal import JobJournal, JobRecord
from whisperd.jobs.keeper import JobKeeper
from whisperd.jobs.lifecycle import retry_hint
from whisperd.jobs.manager import JobManager
from whisperd.jobs.options import job_options
from whisperd.jobs.transcripts import TranscriptStore
from whisperd.jobs.work_log import WorkLog
from whisperd.models import ModelStore, default_sources
from whisperd.natives import NativeStore
from whisperd.progress import Progress
from whisperd.rpc.errors import WhisperdError
from whisperd.rpc.events import Event, ModelProgress, NativeProgress, TranscriptionCompleted
from whisperd.runtimes import DaemonInterface, Runtime, RuntimeManager, RuntimeView
from whisperd.runtimes.admission import Admission
from whisperd.runtimes.advice import Advisor
from whisperd.runtimes.computer import Computer
from whisperd.runtimes.history import HistoryStore
from whisperd.runtimes.presets import PresetStore, check_presets
from whisperd.runtimes.profile_manager import ProfileManager
from whisperd.runtimes.profiles import ProfileStore, check_profiles
from whisperd.runtimes.provisioner import Provisioner
from whisperd.service_manager.notify import Notifier
from whisperd.settings import Settings, is_offline, load_settings
from whisperd.store import Database, Saver, open_database, open_saver
from whisperd.tasks import RepeatedEvent, keep_running, open_task_group
from whisperd.watch import Editor, WatchJobs, WatchManager, WatchStore, check_watches

__all__ = ["Call", "Service", "open_service"]

log = logging.getLogger(__name__)


class Service:
    """Everything that request handlers use. Create one with `open_service`."""

    database: Database
    jobs: JobManager
    job_keeper: JobKeeper
    runtimes: RuntimeManager
    profiles: ProfileManager
    decoders: DecoderPool
    calibrator: Calibrator
    advisor: Advisor
    provisioner: Provisioner
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
        self.is_config_named = False
        """Whether the settings file was named on the command line, and therefore must exist."""
        self.settings = settings
        self._decoder_processes = settings.decoder.processes
        """The number with which the decoder pool and the job manager were created."""
        self.socket = socket
        self.started_s = time.monotonic()
        self.notifier = Notifier({})
        """Reports the daemon's status to the service manager that started it, if any."""
        self.manager_name = os.environ.get("WHISPERD_SERVICE") or None
        """The service manager that started the daemon, as named in its service file."""
        self.stop_requested = anyio.Event()
        """Set when the daemon is to stop."""
        self.on_reload: Callable[[Settings], None] = lambda _settings: None
        """Called with the new settings after a reload."""
        self.hub = EventHub()
        self.metrics = Metrics()
        self.is_on_battery: bool | None = None
        """None if the computer has no battery, or that is unknown."""
        self.is_bulk_held = False
        """Whether bulk work waits for mains power."""
        self.settings_changed = RepeatedEvent()
        """Set whenever the settings are reloaded."""
        self.natives = NativeStore(paths.native_dir(), offline=is_offline())
        self.models = ModelStore(
            paths.models_dir(), sources=default_sources(settings.models), offline=is_offline()
        )
        self.computer = Computer(
            start_soon=tasks.start_soon,
            is_installed=lambda bundle: self.natives.find(bundle) is not None,
        )
        self.uploads = UploadStore(state_dir / "uploads", lambda: self.settings.limits, kept_uploads)
        self.connections: set[Connection] = set()
        self.idle = Idle(lambda: is_busy(self))
        self._tasks = tasks

    def reload(self) -> list[str]:
        """Reload the settings. Raises `WhisperdError` and keeps the old ones if the new ones are invalid.

        They apply to new jobs, loads, downloads and connections, not to running ones. Returns the keys, such
        as `decoder.processes`, whose new values take effect only after a restart.
        """
        self.notifier.reloading()
        try:
            self.settings = load_settings(self.config_file, has_to_be_there=self.is_config_named)
        finally:
            self.notifier.ready(status_line(self))
        self.models.use_sources(default_sources(self.settings.models))
        self.decoders.limit(
            stall_timeout_s=self.settings.decoder.stall_timeout_s,
            memory_limit_bytes=self.settings.decoder.memory_bytes,
        )
        self.on_reload(self.settings)
        self.settings_changed.set()
        self.idle.notice()
        is_waiting = self.settings.decoder.processes != self._decoder_processes
        waiting = ["decoder.processes"] if is_waiting else []
        log.info("settings read again from %s", self.config_file)
        if waiting:
            log.warning("these settings need a restart: %s", ", ".join(waiting))
        return waiting

    def publish_job(self, event: Event) -> None:
        """Publish an event of a job, and count it."""
        self.metrics.take(event, time.monotonic())
        if isinstance(event, TranscriptionCompleted) and not event.cached:
            self.work.add(event.total, event.elapsed)
        self.hub.publish_job(event)

    def on_native_progress(self, progress: Progress) -> None:
        """Publish the progress of an installation."""
        self.hub.publish("natives", NativeProgress(**msgspec.structs.asdict(progress)))

    def on_model_progress(self, progress: Progress) -> None:
        """Publish the progress of a download."""
        self.hub.publish("models", ModelProgress(**msgspec.structs.asdict(progress)))

    async def known_model(self, name: str) -> str:
        """Return a model's canonical name. Raises `model.unknown`, and errors of a model's folder or file."""
        return (await self.models.describe(name)).name

    def view_runtime(self, runtime: Runtime) -> RuntimeView:
        """Return what clients are shown of a runtime."""
        waiting = self.jobs.waiting_windows(runtime.loaded) if runtime.loaded else 0
        return self.runtimes.view(runtime, waiting)

    def remove_upload_after(self, job: Job, upload: str) -> None:
        """Delete an upload once its job is over and the next daemon will not resume it."""

        async def remove() -> None:
            await job.over.wait()
            while job.is_detached and job.end is not None and not job.end.is_saved:
                try:
                    await job.end.saved()
                except WhisperdError:  # until its end is saved, the next daemon would restart the job
                    await anyio.sleep(RETIRE_INTERVAL_S)
            if not job.is_suspended:
                await self.remove_upload(upload)

        self._tasks.start_soon(keep_running, remove)

    async def remove_upload(self, upload: str) -> None:
        """Delete an upload, even while the daemon stops. Does nothing if it was deleted."""
        with anyio.CancelScope(shield=True):
            # In a thread, since deleting a large file takes a while.
            await anyio.to_thread.run_sync(self.uploads.remove, upload)

    def discard_upload(self, upload: str) -> None:
        """Delete an upload in the background, as soon as that is possible."""
        self._tasks.start_soon(keep_running, partial(self.remove_upload, upload))

    async def finish_connections(self) -> None:
        """Send every client the responses that it waits for, or the error that the daemon stops."""
        async with open_task_group() as tasks:
            for connection in self.connections:
                tasks.start_soon(connection.finish)

    def client_gone(self, connection: Connection) -> None:
        """Clean up after a client: end its subscriptions, cancel its attached jobs, delete its uploads."""
        self.connections.discard(connection)
        self.idle.notice()
        for subscription in connection.subscriptions.values():
            self.hub.unsubscribe(subscription)
        for job in list(connection.attached_jobs):
            self.jobs.cancel(job, _client_gone(job))
        for upload in connection.uploads:
            self.discard_upload(upload)


@dataclass(frozen=True)
class Call:
    """The context of a request, passed to its handler."""

    service: Service
    connection: Connection


@asynccontextmanager
async def open_service(
    config_file: Path, settings: Settings, socket: str, state_dir: Path | None = None
) -> AsyncIterator[Service]:
    """Open the service; when the block ends, no job, worker or decoder is left.

    Its state is in `state_dir`, by default the user's, which only the daemon may use.
    """
    state_dir = state_dir or paths.state_dir()
    database_file = state_dir / paths.database_file().name
    checks = (check_presets, check_profiles, check_watches)
    async with (
        open_database(database_file, checks=checks) as database,
        open_saver(database) as saver,
        open_task_group() as tasks,
    ):
        journal = JobJournal(saver)
        records = await journal.load()
        kept_uploads = {one.input.upload for one in records if one.input.upload and is_resumed(one)}
        service = Service(tasks, config_file, settings, socket, state_dir, kept_uploads)
        service.database = database
        bundle = partial(install_media_bundle, service)
        async with open_decoder_pool(bundle, _decoder_options(settings)) as service.decoders:
            await _open_runtimes(service, tasks, saver, records)
            await _open_jobs(service, tasks, journal, records)
            await _open_watches(service, tasks, database)
            tasks.start_soon(keep_running, partial(retire_jobs, service))
            try:
                yield service
            finally:
                tasks.cancel_scope.cancel()


def _decoder_options(settings: Settings) -> DecoderOptions:
    return DecoderOptions(
        max_processes=sum(jobs_at_once(settings).values()),
        stall_timeout_s=settings.decoder.stall_timeout_s,
        memory_limit_bytes=settings.decoder.memory_bytes,
    )


async def _open_runtimes(
    service: Service, tasks: TaskGroup, saver: Saver, records: Sequence[JobRecord]
) -> None:
    """Open the runtimes, their calibration, and the profiles that choose among them."""
    database = saver.database
    admission = Admission(service.models, service.computer, lambda: service.settings.runtime.memory_bytes)
    table = CalibrationTable(database)
    await table.open()
    service.calibrator = Calibrator(table, service.idle, calibration_interface(service))
    service.advisor = Advisor(service.models, service.computer, service.calibrator.speeds)
    service.provisioner = Provisioner(
        service.models,
        service.natives,
        service.computer,
        service.advisor,
        service.calibrator,
        service.on_native_progress,
        service.on_model_progress,
    )
    histories = HistoryStore(saver)
    interface = _runtime_interface(service, histories)
    service.runtimes = RuntimeManager(tasks, PresetStore(database), service.provisioner, admission, interface)
    await service.runtimes.open(service.advisor.suitable, last_uses(records), await histories.resume())
    service.profiles = ProfileManager(ProfileStore(database), service.runtimes, check_options=job_options)
    await service.profiles.open()


def _runtime_interface(service: Service, histories: HistoryStore) -> DaemonInterface:
    def publish(event: Event) -> None:
        service.idle.notice()
        service.metrics.take(event, time.monotonic())
        service.hub.publish("runtimes", event)

    def held_count_changed(count: int) -> None:
        # A decoder is kept ready while a model is loaded: a daemon that was idle for long holds neither.
        service.decoders.keep_warm = count > 0

    return DaemonInterface(
        settings=lambda: service.settings.runtime,
        publish=publish,
        vacated=service.idle.vacated,  # calibration must not take memory that a runtime needs
        remember=histories.add,
        held_count_changed=held_count_changed,
    )


async def _open_jobs(
    service: Service, tasks: TaskGroup, journal: JobJournal, records: Sequence[JobRecord]
) -> None:
    """Open the job manager, and resume the jobs of the previous daemon."""
    service.job_keeper = JobKeeper(
        journal, TranscriptStore(service.database), lambda: service.settings.jobs, partial(recipe_of, service)
    )
    service.jobs = JobManager(
        tasks,
        decoders=service.decoders,
        settings=lambda: service.settings,
        publish=service.publish_job,
        forget=service.hub.forget_job,
        active_changed=service.idle.notice,
        keeper=service.job_keeper,
    )
    service.work = WorkLog(journal.saver)
    await service.work.open()
    await resume_jobs(service, records)


async def _open_watches(service: Service, tasks: TaskGroup, database: Database) -> None:
    service.watches = WatchManager(
        tasks,
        WatchStore(database),
        WatchJobs(service.jobs, partial(lease_for_options, service), partial(lease_for_job, service)),
        settings=lambda: service.settings.watch,
        editor=Editor(
            check_options=job_options,
            runtime_id=service.runtimes.id_of,
            runtime_name=service.runtimes.name_of,
            check_profile=service.profiles.find,
            check_model=service.known_model,
        ),
        on_outcome=service.metrics.watched,
    )
    await service.watches.open()


def _client_gone(job: Job) -> WhisperdError:
    return WhisperdError(
        "job.client_gone",
        "The client that submitted the job disconnected.",
        f"{retry_hint(job)}; submit it with --detach if it should outlive its client.",
    )
