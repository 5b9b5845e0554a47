"""The synchronous client."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING, Any, Literal, overload

from whisperd.client.inputs import hello_params, input_params, is_path, option_params, pieces
from whisperd.client.nouns import Nouns
from whisperd.client.start import open_socket
from whisperd.client.values import InOrder, Segment, Transcript, end_of_job, is_over
from whisperd.client.wire import Wire
from whisperd.paths import socket_path
from whisperd.rpc.errors import WhisperdError

if TYPE_CHECKING:
    from typing import Unpack

    from whisperd.client.dictation import Dictation
    from whisperd.client.inputs import Input
    from whisperd.client.options import JobOptions

__all__ = ["Client", "connect"]

Map = dict[str, Any]


def connect(socket: str | None = None, *, start: bool = True, profile: str | None = None) -> Client:
    """Connect to the user's daemon, which is started if none runs and `start` allows it.

    The profile holds for all that is asked on this connection; without one it is that of the variable
    `WHISPERD_PROFILE`, and the empty name is none.

    Raises `WhisperdError` if it cannot be reached, `protocol.unsupported` and `profile.unknown`.
    """
    path = socket_path(socket)
    try:
        return _greet(path, start=start, profile=profile)
    except WhisperdError as error:
        if not (start and error.code == "daemon.connection_lost"):
            raise
    return _greet(path, start=start, profile=profile)  # that one was just ending: another is started


def _greet(path: str, *, start: bool, profile: str | None) -> Client:
    client = Client(Wire(open_socket(path, start=start)), lambda: connect(path, start=False, profile=profile))
    try:
        client.server = client.request("session.hello", **hello_params(profile))
    except BaseException:
        client.close()
        raise
    return client


class Client(Nouns[Map, list[Map]]):
    """A connection to the daemon, made by `connect`. Use it as a context manager.

    It serves one thread at a time: give every thread a client of its own, which costs little. When
    it is closed, its jobs that were not detached are cancelled.
    """

    def __init__(self, wire: Wire, connect_again: Callable[[], Client] = connect) -> None:
        super().__init__(self.request)
        self._wire = wire
        self._connect_again = connect_again
        self.server: Map = {}
        """What the daemon said of itself: its `version`, and the `protocol` that it speaks."""

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up."""
        self._wire.close()

    def request(self, method: str, **params: Any) -> Any:
        """Ask for any method of the wire. Raises `WhisperdError`."""
        return self._wire.request(method, params)

    @overload
    def transcribe(
        self, input: Input, *, stream: Literal[False] = False, **options: Unpack[JobOptions]
    ) -> Transcript: ...
    @overload
    def transcribe(
        self, input: Input, *, stream: Literal[True], **options: Unpack[JobOptions]
    ) -> Generator[Segment, None, None]: ...
    def transcribe(
        self, input: Input, *, stream: bool = False, **options: Unpack[JobOptions]
    ) -> Transcript | Generator[Segment, None, None]:
        """Transcribe; with `stream`, yield each segment as it is recognised.

        `input` is a path, the bytes of a media file, or a binary file, which is read to its end.
        Raises `WhisperdError`. Leaving the iteration early cancels the job, as Ctrl-C does.
        """
        job = self.submit(input, **options)
        if stream:
            return self._segments(job)
        try:
            return Transcript.from_wire(self.jobs.wait(job))
        except WhisperdError:
            raise
        except BaseException:
            self._quietly("jobs.cancel", id=job)
            raise

    def submit(self, input: Input, *, detach: bool = False, **options: Unpack[JobOptions]) -> str:
        """Begin a job and return its id. It is cancelled when this connection ends, unless detached."""
        source = self._input(input)
        try:
            params = {"input": source, "options": option_params(options), "detach": detach}
            return self._begin("jobs.submit", "jobs.cancel", **params)
        except BaseException:
            if "upload" in source:
                self._quietly("uploads.delete", id=source["upload"])
            raise

    def dictate(self, **options: Unpack[JobOptions]) -> Dictation:
        """Transcribe what is being spoken: push it, and iterate over what is understood.

            with daemon.dictate(language="en") as dictation:
                threading.Thread(target=speak_into, args=[dictation]).start()  # dictation.push(pcm), …
                for event in dictation:
                    ...

        It has connections of its own, so that this one stays free. Raises `WhisperdError`.
        """
        from whisperd.client.dictation import Dictation

        return Dictation(self._connect_again, options)

    @overload
    def follow(self, job: str, *, topics: Sequence[str] = ()) -> Generator[Map, None, None]: ...
    @overload
    def follow(
        self, job: str, *, topics: Sequence[str] = (), deadline_s: float | None
    ) -> Generator[Map | None, None, None]: ...
    def follow(
        self, job: str, *, topics: Sequence[str] = (), deadline_s: float | None = None
    ) -> Generator[Map | None, None, None]:
        """The events of a job, from its beginning to its end; those of `topics` come among them.

        `jobs` is no such topic: it has the job's events as well. With a deadline, on the monotonic clock,
        None comes when it is past.
        """
        with self._subscribed(*([{"topics": topics}] if topics else []), {"job": job}) as number:
            while True:
                event = self._wire.next_event(deadline_s, number)
                yield event
                if event is not None and self._is_last(event, job):
                    return

    def next_event(self, deadline_s: float | None = None) -> Map | None:
        """The next event of what was asked for with `events.subscribe` on this connection.

        None once the deadline, on the monotonic clock, is past.
        """
        return self._wire.next_event(deadline_s)

    def request_with_events(
        self, topics: tuple[str, ...], method: str, on_event: Callable[[Map], None], **params: Any
    ) -> Any:
        """Ask for a method that takes long, and hear the events of some topics until it is answered."""
        with self._subscribed({"topics": topics}) as number:
            return self._wire.answer(self._wire.send(method, params), on_event, number)

    @contextmanager
    def _subscribed(self, *wanted: Map) -> Iterator[int]:
        """Subscribe to all of it; the number under which these events come, and no others."""
        number, subscriptions = self._wire.listen(), []
        call = {"method": "event", "args": [number]}
        try:
            for params in wanted:
                answer = self.request("events.subscribe", **params, call=call)
                subscriptions.append(answer["subscription"])
            yield number
        finally:
            self._wire.forget(number)
            for subscription in subscriptions:
                self._quietly("events.unsubscribe", subscription=subscription)

    def _segments(self, job: str) -> Generator[Segment, None, None]:
        has_ended, in_order = False, InOrder()
        try:
            with closing(self.follow(job)) as events:
                for event in events:
                    has_ended = end_of_job(event)
                    if event["type"] == "transcription.segment" and in_order.is_next(event["index"]):
                        yield Segment.from_event(event)
            # What an overloaded connection missed, and the job's error if it has one.
            yield from in_order.rest(Transcript.from_wire(self.jobs.wait(job)))
        finally:
            if not has_ended:
                self._quietly("jobs.cancel", id=job)

    def _is_last(self, event: Map, job: str) -> bool:
        if event["type"] == "events.missed":  # among them may be the last
            return is_over(self.jobs.show(job))
        return event.get("id") == job and end_of_job(event)

    def _begin(self, method: str, undo: str, **params: Any) -> str:
        """The id of a job or an upload. Who is interrupted goes at once; it is undone when that is told."""
        number = self._wire.send(method, params)
        try:
            return str(self._wire.answer(number)["id"])
        except WhisperdError:
            raise
        except BaseException:
            with suppress(WhisperdError):
                self._wire.undo(number, undo)
            raise

    def _quietly(self, method: str, **params: Any) -> None:
        """Ask for something on the way out: if there is nobody to ask any more, it is done already."""
        with suppress(WhisperdError):
            self.request(method, **params)

    def _input(self, input: Input) -> Map:
        if is_path(input):
            return input_params(input)
        upload = self._begin("uploads.create", "uploads.delete")
        try:
            for piece in pieces(input):
                self.request("uploads.append", id=upload, data=piece)
        except BaseException:
            self._quietly("uploads.delete", id=upload)
            raise
        return {"upload": upload}
