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
    """Connect to the user's daemon, and start it if none is running and `start` is true.

    The profile applies to every request on this connection. Without one, that of the environment variable
    `WHISPERD_PROFILE` applies; an empty name means none.

    Raises `WhisperdError` if the daemon cannot be reached, `protocol.unsupported` and `profile.unknown`.
    """
    path = socket_path(socket)
    try:
        return _greet(path, start=start, profile=profile)
    except WhisperdError as error:
        if not (start and error.code == "daemon.connection_lost"):
            raise
    return _greet(path, start=start, profile=profile)  # that daemon was just ending: start another


def _greet(path: str, *, start: bool, profile: str | None) -> Client:
    wire = Wire(open_socket(path, start=start), path)
    client = Client(wire, lambda: connect(path, start=False, profile=profile))
    try:
        client.server = client.request("session.hello", **hello_params(profile))
    except BaseException:
        client.close()
        raise
    return client


class Client(Nouns[Map, list[Map]]):
    """A connection to the daemon, created by `connect`. Use it as a context manager.

    It serves one thread at a time: give every thread its own client, which costs little. Closing it cancels
    its jobs that are not detached.
    """

    def __init__(self, wire: Wire, connect_again: Callable[[], Client] = connect) -> None:
        super().__init__(self.request)
        self._wire = wire
        self._connect_again = connect_again
        self.server: Map = {}
        """The daemon's `version` and `protocol`, from its greeting."""

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._wire.close()

    def request(self, method: str, **params: Any) -> Any:
        """Call any method of the wire protocol. Raises `WhisperdError`."""
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
            self._request_quietly("jobs.cancel", id=job)
            raise

    def submit(self, input: Input, *, detach: bool = False, **options: Unpack[JobOptions]) -> str:
        """Submit a job and return its id. It is cancelled when this connection ends, unless detached."""
        source = self._input(input)
        try:
            params = {"input": source, "options": option_params(options), "detach": detach}
            return self._begin("jobs.submit", "jobs.cancel", **params)
        except BaseException:
            if "upload" in source:
                self._request_quietly("uploads.delete", id=source["upload"])
            raise

    def dictate(self, **options: Unpack[JobOptions]) -> Dictation:
        """Transcribe live speech: push audio, and iterate over the events.

            with daemon.dictate(language="en") as dictation:
                threading.Thread(target=speak_into, args=[dictation]).start()  # dictation.push(pcm), …
                for event in dictation:
                    ...

        It uses its own connections, so this one stays free. Raises `WhisperdError`.
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
        """Yield the events of a job, from its beginning to its end, along with those of `topics`.

        Do not pass the topic `jobs`: it would repeat the job's events. With a deadline, on the monotonic
        clock, yield None when it has passed.
        """
        with self._subscribed(*([{"topics": topics}] if topics else []), {"job": job}) as number:
            while True:
                event = self._wire.next_event(deadline_s, number)
                yield event
                if event is not None and self._is_last(event, job):
                    return

    def next_event(self, deadline_s: float | None = None) -> Map | None:
        """Return the next event of the topics subscribed to with `events.subscribe` on this connection.

        None once the deadline, on the monotonic clock, has passed.
        """
        return self._wire.next_event(deadline_s)

    def request_with_events(
        self, topics: tuple[str, ...], method: str, on_event: Callable[[Map], None], **params: Any
    ) -> Any:
        """Call a method that takes long, and pass on the events of some topics until it is answered."""
        with self._subscribed({"topics": topics}) as number:
            return self._wire.answer(self._wire.send(method, params), on_event, number)

    @contextmanager
    def _subscribed(self, *wanted: Map) -> Iterator[int]:
        """Subscribe to all of `wanted`; yield the number that identifies their events."""
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
                self._request_quietly("events.unsubscribe", subscription=subscription)

    def _segments(self, job: str) -> Generator[Segment, None, None]:
        has_ended, in_order = False, InOrder()
        try:
            with closing(self.follow(job)) as events:
                for event in events:
                    has_ended = end_of_job(event)
                    if event["type"] == "transcription.segment" and in_order.is_next(event["index"]):
                        yield Segment.from_event(event)
                    if has_ended and in_order.is_whole(event):
                        return
            # The segments that an overloaded connection missed, and the job's error if it has one.
            yield from in_order.rest(Transcript.from_wire(self.jobs.wait(job)))
        finally:
            if not has_ended:
                self._request_quietly("jobs.cancel", id=job)

    def _is_last(self, event: Map, job: str) -> bool:
        if event["type"] == "events.missed":  # the last event may be among them
            return is_over(self.jobs.show(job))
        return event.get("id") == job and end_of_job(event)

    def _begin(self, method: str, undo: str, **params: Any) -> str:
        """Return the id of a job or an upload. If interrupted, leave at once; the late answer is undone."""
        number = self._wire.send(method, params)
        try:
            return str(self._wire.answer(number)["id"])
        except WhisperdError:
            raise
        except BaseException:
            with suppress(WhisperdError):
                self._wire.undo(number, undo)
            raise

    def _request_quietly(self, method: str, **params: Any) -> None:
        """Send a cleanup request and ignore errors: without a daemon, there is nothing left to clean up."""
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
            self._request_quietly("uploads.delete", id=upload)
            raise
        return {"upload": upload}
