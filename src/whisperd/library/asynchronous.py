"""The asynchronous library, on anyio: `AsyncWhisper`, `ainitialize` and `adownload_model`."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import AsyncGenerator, Coroutine, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import anyio
import msgspec
from anyio import to_thread

from whisperd import paths
from whisperd.client.inputs import absolute, is_path, model_name, option_params, pieces, runtime_params
from whisperd.client.values import Segment, Transcript, end_of_job
from whisperd.daemon.bundles import install_media_bundle
from whisperd.daemon.hub import job_topic
from whisperd.decodable import decodable
from whisperd.jobs.identity import check_path
from whisperd.jobs.job import Job, JobInput, Source
from whisperd.jobs.options import job_options
from whisperd.library.samples import SAMPLE_RATE_HZ, is_samples, wav_pieces
from whisperd.library.setup import Engine, Listener, install_engine, open_library_service, until_cancelled
from whisperd.models import ModelStore, default_sources
from whisperd.outputs import verbose
from whisperd.progress import OnProgress
from whisperd.rpc.errors import WhisperdError, sendable
from whisperd.runtimes import Lease, LoadedRuntime, RuntimeChanges
from whisperd.settings import is_offline, load_settings
from whisperd.validation import explain

if TYPE_CHECKING:
    from typing import Unpack

    from typing_extensions import Buffer

    from whisperd.client.inputs import Input
    from whisperd.client.options import RuntimeFields, TranscriptionOptions
    from whisperd.daemon.service import Service

__all__ = ["AsyncWhisper", "adownload_model", "ainitialize", "closed"]

NAME = "whisper"
"""The name of the library's runtime, in errors and logs."""


async def ainitialize(progress: OnProgress | None = None, *, cancel: threading.Event | None = None) -> Engine:
    """Asynchronous `initialize`. Cancelling its task has the same effect as `cancel`."""
    async with open_library_service(progress) as service:
        return await until_cancelled(lambda: install_engine(service), cancel)


async def adownload_model(
    name: str | os.PathLike[str],
    progress: OnProgress | None = None,
    *,
    cancel: threading.Event | None = None,
) -> Path:
    """Asynchronous `download_model`. Cancelling its task has the same effect as `cancel`."""
    settings = load_settings(paths.config_file())
    store = ModelStore(paths.models_dir(), sources=default_sources(settings.models), offline=is_offline())
    tell = progress or (lambda _: None)
    return Path((await until_cancelled(lambda: store.pull(model_name(name), tell), cancel)).path)


class AsyncWhisper:
    """A model in child processes of this program. An asynchronous context manager; any task may use it.

    The arguments are those of `Whisper`.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | None = None,
        *,
        progress: OnProgress | None = None,
        **fields: Unpack[RuntimeFields],
    ) -> None:
        self._model = model
        self._progress = progress
        self._fields: dict[str, Any] = {**fields}
        self._stack: AsyncExitStack | None = None
        self._service: Service
        self._lease: Lease
        self._loaded: LoadedRuntime

    async def __aenter__(self) -> AsyncWhisper:
        async with AsyncExitStack() as stack:
            service = await stack.enter_async_context(open_library_service(self._progress))
            model = self._model if self._model is not None else service.runtimes.default.preset.model
            changes = {**self._fields, "name": NAME, "model": model}
            runtime = await service.runtimes.create(_checked_fields(runtime_params(changes)))
            lease = stack.enter_context(service.runtimes.lease(runtime))
            # Install the decoder as well, so that the first recording needs no download.
            await install_media_bundle(service)
            loaded = await lease.loaded()
            self._service, self._lease, self._loaded = service, lease, loaded
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._stack is not None:
            stack, self._stack = self._stack, None
            await stack.aclose()  # without the exception of the caller, which our task groups would wrap

    @property
    def model(self) -> str:
        """The model's name."""
        return self._lease.model

    @property
    def languages(self) -> tuple[str, ...]:
        """The languages that the model knows, as codes."""
        return tuple(self._loaded.info.languages)

    @overload
    def transcribe(
        self,
        input: Input | Buffer,
        *,
        stream: Literal[False] = False,
        sample_rate: int | None = None,
        **options: Unpack[TranscriptionOptions],
    ) -> Coroutine[Any, Any, Transcript]: ...
    @overload
    def transcribe(
        self,
        input: Input | Buffer,
        *,
        stream: Literal[True],
        sample_rate: int | None = None,
        **options: Unpack[TranscriptionOptions],
    ) -> AsyncGenerator[Segment, None]: ...
    def transcribe(
        self,
        input: Input | Buffer,
        *,
        stream: bool = False,
        sample_rate: int | None = None,
        **options: Unpack[TranscriptionOptions],
    ) -> Coroutine[Any, Any, Transcript] | AsyncGenerator[Segment, None]:
        """Transcribe as `Whisper.transcribe`: await the result, or with `stream` iterate with `async for`.

        Cancelling the waiting task cancels the job, and so does leaving the iteration early: at once with
        `contextlib.aclosing`, else when the iterator is garbage-collected.
        """
        given: dict[str, Any] = {**options}
        if stream:
            return self._segments(input, sample_rate, given)
        return self._transcript(input, sample_rate, given)

    async def _transcript(
        self, input: Input | Buffer, sample_rate: int | None, options: dict[str, Any]
    ) -> Transcript:
        job = await self._submit(input, sample_rate, options)
        try:
            await job.over.wait()
        finally:
            self._service.jobs.cancel(job)
        # In a thread, because that of a day of audio takes tenths of a second.
        return await to_thread.run_sync(_result, job)

    async def _segments(
        self, input: Input | Buffer, sample_rate: int | None, options: dict[str, Any]
    ) -> AsyncGenerator[Segment, None]:
        job = await self._submit(input, sample_rate, options)
        send, receive = anyio.create_memory_object_stream[dict[str, Any]](math.inf)
        try:
            with send, receive, Listener(self._service, {job_topic(job.id)}, send.send_nowait):
                async for event in receive:
                    if event["type"] == "transcription.segment":
                        yield Segment.from_event(event)
                    if end_of_job(event):
                        break
        finally:
            self._service.jobs.cancel(job)
        await job.over.wait()
        if job.error is not None:
            raise _error(job.error)

    async def _submit(self, input: Input | Buffer, sample_rate: int | None, options: dict[str, Any]) -> Job:
        if self._stack is None:
            raise closed("is not open")
        checked = job_options(option_params(_without_runtime(options)))
        upload = None
        path = await _path_of(input) if sample_rate is None else None
        if path is not None:
            await check_path(path)
            shown = JobInput(path=sendable(path))
        else:
            upload = await self._spool(_bytes_of(input, sample_rate))
            path, shown = str(self._service.uploads.path(upload)), JobInput(upload=upload)
        lease = self._service.runtimes.lease(self._service.runtimes.find(NAME))
        try:
            with lease.released_on_error():
                job = self._service.jobs.submit(Source(shown, path), checked, lease, self.languages)
        except BaseException:
            if upload is not None:
                await self._service.remove_upload(upload)
            raise
        if upload is not None:
            self._service.remove_upload_after(job, upload)
        return job

    async def _spool(self, data: Iterator[bytes]) -> str:
        """Write the data to a file that a decoder can open."""
        uploads = self._service.uploads
        upload = await to_thread.run_sync(uploads.create)
        try:
            # A pipe or a disk may block a thread forever: abandon the thread when cancelled.
            while piece := await to_thread.run_sync(next, data, None, abandon_on_cancel=True):
                await to_thread.run_sync(uploads.append, upload, piece)
            if not uploads.size_bytes(upload):
                raise WhisperdError("audio.empty", "The recording is empty.", "Check that it was saved.")
        except BaseException:
            await self._service.remove_upload(upload)
            raise
        return upload


async def _path_of(input: Input | Buffer) -> str | None:
    """Return the absolute path of an input that a decoder can open itself, else None."""
    if isinstance(input, str | os.PathLike) and await to_thread.run_sync(
        is_path, input, abandon_on_cancel=True
    ):
        return absolute(input)
    return None


def _bytes_of(input: Input | Buffer, sample_rate: int | None) -> Iterator[bytes]:
    if is_samples(input) or (sample_rate is not None and isinstance(input, bytes | bytearray | memoryview)):
        return wav_pieces(input, sample_rate or SAMPLE_RATE_HZ)
    if sample_rate is not None:
        raise WhisperdError(
            "audio.not_samples",
            "`sample_rate` was given for a file, which states its own rate.",
            "Omit `sample_rate`, or read the file and pass its samples as bytes.",
        )
    return pieces(input)  # type: ignore[arg-type]  # the other types are ruled out above


def _checked_fields(fields: dict[str, Any]) -> RuntimeChanges:
    """Validate the fields of the runtime. Raises `runtime.invalid` for an unknown field or a wrong type."""
    try:
        return msgspec.convert(fields, decodable(RuntimeChanges), strict=True)
    except msgspec.ValidationError as error:
        raise WhisperdError(
            "runtime.invalid",
            f"The arguments of Whisper are not valid: {explain(error, RuntimeChanges, 'they')}.",
            "See `whisperctl runtimes create --help` for the fields: device, compute_type, workers, …",
        ) from error


def _without_runtime(options: dict[str, Any]) -> dict[str, Any]:
    for name in ("model", "runtime"):
        if options.get(name) is not None:
            raise WhisperdError(
                "runtime.invalid",
                f"`{name}` cannot be given to `transcribe`: this Whisper has its model already.",
                "Open another Whisper for another model.",
                {"field": name},
            )
    return options


def _result(job: Job) -> Transcript:
    """Return the transcript of a finished job, or raise its error."""
    if job.transcript is not None:
        return Transcript.from_wire(verbose(job.transcript))
    assert job.error is not None
    raise _error(job.error)


def _error(error: WhisperdError) -> WhisperdError:
    """Return the error of a failed or cancelled job, as this program sees it."""
    return closed("was closed while in use") if error.code == "daemon.stopping" else error.copy()


def closed(how: str) -> WhisperdError:
    """Return the error for a use of Whisper before it is opened or after it is closed."""
    return WhisperdError(
        "whisper.closed",
        f"This Whisper {how}.",
        "Transcribe within the block that opens it: `with whisperd.Whisper(...) as whisper:`.",
    )
