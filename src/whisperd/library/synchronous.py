"""The synchronous library: runs the asynchronous one on an event loop in a thread."""

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
    """Install and check all that the best variant for this computer needs, so that nothing is left for later.

    An existing installation is only checked, file by file, and repaired. `progress` is called in this thread.
    Setting `cancel` cancels the call (`download.cancelled`). Raises `WhisperdError`.
    """
    return _run(lambda tell: ainitialize(tell, cancel=cancel), progress)


def download_model(
    name: str | os.PathLike[str],
    progress: OnProgress | None = None,
    *,
    cancel: threading.Event | None = None,
) -> Path:
    """Download a model unless it is installed, verified byte by byte, and return its folder.

    `name` is a name of the catalogue, a hub repository, or a folder. `progress` is called in this thread with
    a `Progress`; `print` formats it well. Setting `cancel` cancels the download (`download.cancelled`); the
    part already downloaded is kept. Raises `WhisperdError`, such as `model.unknown`, `model.offline`,
    `disk.full`.
    """
    return _run(lambda tell: adownload_model(name, tell, cancel=cancel), progress)


class Whisper:
    """A model in child processes of this program, without a daemon or socket. Any thread may use it.

        with whisperd.Whisper(model="base") as whisper:
            print(whisper.transcribe("interview.mp3").text)

    The constructor downloads what is missing and loads the model. Close the object, or use it as a context
    manager, to end its processes. They end with the program in any case, however that ends.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | None = None,
        *,
        progress: OnProgress | None = None,
        **fields: Unpack[RuntimeFields],
    ) -> None:
        """Load a model: a name of the catalogue, a hub repository or a folder.

        None chooses a model that suits this computer. `fields` are those of a runtime, such as `device`,
        `compute_type`, `workers` and `cpu_threads`.
        `progress` is called in this thread with each `Progress` of a download. Raises `WhisperdError`.
        """
        with ExitStack() as stack:
            self._portal = stack.enter_context(open_portal())
            stack.callback(self._cancel_all)

            def opened(tell: OnProgress | None) -> AbstractAsyncContextManager[AsyncWhisper]:
                return AsyncWhisper(model, progress=tell, **fields)

            self._whisper = stack.enter_context(_entered(self._portal, opened, progress))
            self._stack = stack.pop_all()

    def __enter__(self) -> Whisper:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Cancel running transcriptions and end all processes. Closing twice is harmless."""
        self._stack.close()

    def _cancel_all(self) -> None:
        """Cancel what has no job yet: a transcription that still reads its recording."""
        with suppress(RuntimeError):  # the main thread has ended, and has stopped the portal
            self._portal.call(self._portal.stop, True)

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
        says otherwise. With `sample_rate`, bytes are also such samples, of 16 bits.

        Raises `WhisperdError`. Leaving the iteration early cancels the transcription, as Ctrl-C does.
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
        received: SimpleQueue[Any] = SimpleQueue()

        async def listen() -> None:
            segments = self._whisper.transcribe(input, stream=True, sample_rate=sample_rate, **options)
            async with aclosing(segments):
                async for segment in segments:
                    received.put(segment)

        future = self._start(listen)
        future.add_done_callback(lambda _: received.put(_END))
        try:
            while (segment := received.get()) is not _END:
                yield segment
            _outcome(future)
        finally:
            future.cancel()

    def _run(self, work: Callable[[], Awaitable[T]]) -> T:
        future = self._start(work)
        try:
            return _outcome(future)
        finally:
            future.cancel()  # if Ctrl-C or the like has ended the wait

    def _start(self, work: Callable[[], Awaitable[T]]) -> Future[T]:
        try:
            return self._portal.start_task_soon(work)
        except RuntimeError:
            raise closed("is not open") from None


def _run(work: Callable[[OnProgress | None], Awaitable[T]], progress: OnProgress | None) -> T:
    """Do some asynchronous work in a thread, even if this thread runs an event loop.

    `progress` is called in this thread; an exception from it cancels the work.
    """
    messages: SimpleQueue[Any] = SimpleQueue()
    with open_portal() as portal:
        future: Future[T] = portal.start_task_soon(work, messages.put if progress else None)
        future.add_done_callback(lambda _: messages.put(_END))
        _relay_progress(messages, progress)
        return future.result()


@contextmanager
def _entered(
    portal: BlockingPortal,
    manager: Callable[[OnProgress | None], AbstractAsyncContextManager[T]],
    progress: OnProgress | None,
) -> Generator[T, None, None]:
    """Enter and leave an asynchronous context manager in one task of the portal's thread.

    `progress` is called in this thread until the manager is entered; an exception from it cancels that.
    """
    messages: SimpleQueue[Any] = SimpleQueue()
    left = portal.call(anyio.Event)

    async def keep() -> None:
        async with manager(messages.put if progress else None) as value:
            messages.put([value])
            await left.wait()

    future = portal.start_task_soon(keep)
    future.add_done_callback(lambda _: messages.put(_END))
    entered = _relay_progress(messages, progress)
    if entered is _END:
        future.result()
    try:
        yield entered[0]
    finally:
        with suppress(RuntimeError):  # the main thread has ended, and has stopped the portal
            portal.start_task_soon(left.set)
        with suppress(CancelledError):
            future.result()


def _relay_progress(messages: SimpleQueue[Any], progress: OnProgress | None) -> Any:
    """Pass progress on until another message arrives, and return that message."""
    while isinstance(one := messages.get(), Progress):
        if progress is not None:
            progress(one)
    return one


def _outcome(future: Future[T]) -> T:
    try:
        return future.result()
    except CancelledError:
        raise closed("was closed while in use") from None
