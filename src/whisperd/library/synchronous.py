"""The engine inside a program that knows no event loop: one runs in a thread for it."""

from __future__ import annotations

import os
import threading
from collections.abc import Awaitable, Callable, Generator
from concurrent.futures import CancelledError, Future
from contextlib import AbstractAsyncContextManager, ExitStack, aclosing, contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar, overload

import anyio
from anyio.from_thread import BlockingPortal

from whisperd.client.values import Segment, Transcript
from whisperd.library.asynchronous import AsyncWhisper, adownload_model, ainitialize, closed
from whisperd.library.portals import open_portal
from whisperd.library.setup import Engine
from whisperd.progress import OnProgress, Progress

if TYPE_CHECKING:
    from typing import Unpack

    from typing_extensions import Buffer

    from whisperd.client.inputs import Input
    from whisperd.client.options import RuntimeFields, TranscriptionOptions

__all__ = ["Whisper", "download_model", "initialize"]

T = TypeVar("T")
_END: Final = object()


def initialize(progress: OnProgress | None = None, *, cancel: threading.Event | None = None) -> Engine:
    """Install and check what the best variant for this computer needs, so that nothing is left to do later.

    What is there already is only checked, file by file, and mended. `progress` is called in this thread.
    Setting `cancel` gives it up (`download.cancelled`). Raises `WhisperdError`.
    """
    return _run(lambda tell: ainitialize(tell, cancel=cancel), progress)


def download_model(
    name: str | os.PathLike[str],
    progress: OnProgress | None = None,
    *,
    cancel: threading.Event | None = None,
) -> Path:
    """Download a model unless it is there, verified byte by byte; returns its folder.

    `name` is one of the catalogue, a hub repository, or a folder. `progress` is called in this thread with
    a `Progress`, which prints well. Setting `cancel` gives it up (`download.cancelled`); what has come is
    kept. Raises `WhisperdError`, such as `model.unknown`, `model.offline`, `disk.full`.
    """
    return _run(lambda tell: adownload_model(name, tell, cancel=cancel), progress)


class Whisper:
    """A model in processes of this program's own: no daemon, and no socket. Any thread may use it.

        with whisperd.Whisper(model="base") as whisper:
            print(whisper.transcribe("interview.mp3").text)

    It is loaded when it is made, and what is missing is downloaded first. Close it, or use it as a context
    manager: then no process of it is left. They end with the program in any case, however that ends.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | None = None,
        *,
        progress: OnProgress | None = None,
        **fields: Unpack[RuntimeFields],
    ) -> None:
        """Load a model: a name of the catalogue, a hub repository or a folder; None suits this computer.

        `fields` are those of a runtime, such as `device`, `compute_type`, `workers` and `cpu_threads`.
        `progress` is called in this thread with each `Progress` of a download. Raises `WhisperdError`.
        """
        with ExitStack() as stack:
            self._portal = stack.enter_context(open_portal())

            def opened(tell: OnProgress | None) -> AbstractAsyncContextManager[AsyncWhisper]:
                return AsyncWhisper(model, progress=tell, **fields)

            self._whisper = stack.enter_context(_entered(self._portal, opened, progress))
            self._stack = stack.pop_all()

    def __enter__(self) -> Whisper:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Cancel what is being transcribed and end every process of it. Harmless when that is done."""
        self._stack.close()

    @property
    def model(self) -> str:
        """The model's name."""
        return self._whisper.model

    @property
    def languages(self) -> tuple[str, ...]:
        """The languages that the model knows, as codes."""
        return self._whisper.languages

    @overload
    def transcribe(
        self,
        input: Input | Buffer,
        *,
        stream: Literal[False] = False,
        sample_rate: int | None = None,
        **options: Unpack[TranscriptionOptions],
    ) -> Transcript: ...
    @overload
    def transcribe(
        self,
        input: Input | Buffer,
        *,
        stream: Literal[True],
        sample_rate: int | None = None,
        **options: Unpack[TranscriptionOptions],
    ) -> Generator[Segment, None, None]: ...
    def transcribe(
        self,
        input: Input | Buffer,
        *,
        stream: bool = False,
        sample_rate: int | None = None,
        **options: Unpack[TranscriptionOptions],
    ) -> Transcript | Generator[Segment, None, None]:
        """Transcribe; with `stream`, yield each segment as it is recognised.

        `input` is a path, the bytes of a media file, a binary file, which is read to its end, or an array of
        samples: one channel of floats between -1 and 1 or of integers, 16,000 a second unless `sample_rate`
        says otherwise. With `sample_rate`, bytes are such samples, too, of 16 bits.

        Raises `WhisperdError`. Leaving the iteration early cancels it, as Ctrl-C does.
        """
        given: dict[str, Any] = {**options}
        if stream:
            return self._segments(input, sample_rate, given)
        transcript: Transcript = self._run(
            lambda: self._whisper.transcribe(input, sample_rate=sample_rate, **given)
        )
        return transcript

    def _segments(
        self, input: Input | Buffer, sample_rate: int | None, options: dict[str, Any]
    ) -> Generator[Segment, None, None]:
        heard: SimpleQueue[Any] = SimpleQueue()

        async def listen() -> None:
            segments = self._whisper.transcribe(input, stream=True, sample_rate=sample_rate, **options)
            async with aclosing(segments):
                async for segment in segments:
                    heard.put(segment)

        future = self._start(listen)
        future.add_done_callback(lambda _: heard.put(_END))
        try:
            while (segment := heard.get()) is not _END:
                yield segment
            _outcome(future)
        finally:
            future.cancel()

    def _run(self, work: Callable[[], Awaitable[T]]) -> T:
        future = self._start(work)
        try:
            return _outcome(future)
        finally:
            future.cancel()  # Ctrl-C, or something of the kind, has ended the waiting

    def _start(self, work: Callable[[], Awaitable[T]]) -> Future[T]:
        try:
            return self._portal.start_task_soon(work)
        except RuntimeError:
            raise closed("is not open") from None


def _run(work: Callable[[OnProgress | None], Awaitable[T]], progress: OnProgress | None) -> T:
    """Do some asynchronous work in a thread, also where an event loop runs in this one.

    `progress` is called in this thread; what it raises gives the work up.
    """
    told: SimpleQueue[Any] = SimpleQueue()
    with open_portal() as portal:
        future: Future[T] = portal.start_task_soon(work, told.put if progress else None)
        future.add_done_callback(lambda _: told.put(_END))
        _pass_on(told, progress)
        return future.result()


@contextmanager
def _entered(
    portal: BlockingPortal,
    manager: Callable[[OnProgress | None], AbstractAsyncContextManager[T]],
    progress: OnProgress | None,
) -> Generator[T, None, None]:
    """An asynchronous context manager, entered and left by one task of the portal's thread.

    `progress` is called in this thread until it is entered; what it raises gives that up.
    """
    told: SimpleQueue[Any] = SimpleQueue()
    wanted = portal.call(anyio.Event)

    async def keep() -> None:
        async with manager(told.put if progress else None) as value:
            told.put([value])
            await wanted.wait()

    future = portal.start_task_soon(keep)
    future.add_done_callback(lambda _: told.put(_END))
    entered = _pass_on(told, progress)
    if entered is _END:
        future.result()
    try:
        yield entered[0]
    finally:
        with suppress(RuntimeError):  # the program's main thread has ended, and the portal with it
            portal.start_task_soon(wanted.set)
        with suppress(CancelledError):
            future.result()


def _pass_on(told: SimpleQueue[Any], progress: OnProgress | None) -> Any:
    """Tell of all progress that comes, until something else does, which is returned."""
    while isinstance(one := told.get(), Progress):
        if progress is not None:
            progress(one)
    return one


def _outcome(future: Future[T]) -> T:
    try:
        return future.result()
    except CancelledError:
        raise closed("was closed before it was done") from None
