"""The blocking connection, with every kind of peer."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgpack
import pytest

from whisperd.client import wire as wire_module
from whisperd.client.synchronous import Client
from whisperd.client.wire import Wire
from whisperd.rpc.errors import WhisperdError

pytestmark = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="needs Unix sockets")


@pytest.fixture
def ends() -> Iterator[tuple[Wire, socket.socket]]:
    """A wire and the socket at its other end."""
    near, far = socket.socketpair()
    wire = Wire(near, "/run/other.sock")
    with far:
        yield wire, far
    wire.close()


def answer(far: socket.socket, *messages: object) -> None:
    far.sendall(b"".join(msgpack.packb(message) for message in messages))


def event(number: int) -> list[object]:
    return [2, "event", [{"type": "x", "number": number}]]


def failing(call: Callable[[], object]) -> WhisperdError:
    with pytest.raises(WhisperdError) as caught:
        call()
    return caught.value


def test_answers_are_matched_to_requests_in_any_order(ends: tuple[Wire, socket.socket]) -> None:
    wire, far = ends
    first, second = wire.send("a.b"), wire.send("c.d", {"x": 1})
    answer(far, [1, second, None, "two"], event(1), [1, first, None, "one"])
    assert wire.answer(first) == "one"
    assert wire.answer(second) == "two"
    assert wire.next_event() == {"type": "x", "number": 1}
    unpacker = msgpack.Unpacker()
    unpacker.feed(far.recv(4096))
    assert list(unpacker) == [[0, first, "a.b", []], [0, second, "c.d", [{"x": 1}]]]


def test_an_error_is_raised_as_it_was_sent(ends: tuple[Wire, socket.socket]) -> None:
    wire, far = ends
    wire.send("a.b")
    answer(far, [1, 0, {"code": "a.b", "message": "M.", "fix": "F.", "data": {"n": 1}}, None])
    error = failing(lambda: wire.answer(0))
    assert error.to_wire() == {"code": "a.b", "message": "M.", "fix": "F.", "data": {"n": 1}}


def test_an_answer_without_a_request_is_dropped(ends: tuple[Wire, socket.socket]) -> None:
    wire, far = ends
    answer(far, [1, 77, None, "x"], [1, 0, None, "y"])
    assert wire.request("a.b") == "y"
    assert wire._answers == {}


def test_events_are_passed_on_while_an_answer_is_awaited(ends: tuple[Wire, socket.socket]) -> None:
    wire, far = ends
    answer(far, event(1), event(2), [1, 0, None, "done"], event(3))
    seen: list[Any] = []
    assert wire.answer(wire.send("a.b"), seen.append) == "done"
    assert [one["number"] for one in seen][:2] == [1, 2]


def test_waiting_for_an_event_times_out(ends: tuple[Wire, socket.socket]) -> None:
    wire, _ = ends
    began_s = time.monotonic()
    assert wire.next_event(began_s + 0.05) is None
    assert time.monotonic() - began_s >= 0.05


@pytest.mark.parametrize(("value", "said"), [("caf\udce9", r"caf\xe9"), (2**70, "number")])
def test_unencodable_parameters_are_refused_and_the_next_request_succeeds(
    ends: tuple[Wire, socket.socket], value: object, said: str
) -> None:
    wire, far = ends
    error = failing(lambda: wire.request("a.b", {"x": value}))
    assert error.code == "rpc.invalid_params"
    assert said in error.message
    answer(far, [1, 1, None, "here"])
    assert wire.request("c.d") == "here"


def test_a_connection_closed_by_the_daemon(ends: tuple[Wire, socket.socket]) -> None:
    wire, far = ends
    message_id = wire.send("a.b")
    far.close()
    assert failing(lambda: wire.answer(message_id)).code == "daemon.connection_lost"
    assert failing(lambda: wire.request("a.b")).code == "daemon.connection_lost"


def test_a_connection_closed_by_the_client(ends: tuple[Wire, socket.socket]) -> None:
    wire, _ = ends
    message_id = wire.send("a.b")
    wire.close()
    for ask in (lambda: wire.answer(message_id), lambda: wire.request("a.b"), wire.next_event):
        assert failing(ask).code == "client.closed"


def test_the_reason_for_closing_is_raised(ends: tuple[Wire, socket.socket]) -> None:
    wire, far = ends
    answer(far, [2, "error", [{"code": "daemon.too_many_connections", "message": "M.", "fix": "F."}]])
    far.close()
    assert failing(lambda: wire.request("a.b")).code == "daemon.too_many_connections"


@pytest.mark.parametrize(
    "said", [b"HTTP/1.1 400 Bad Request\r\n", b"\xc1", b"\x93\x02\xa1\xff\x90", b"\x91" * 2000 + b"\xc0"]
)
def test_another_program_at_the_other_end(ends: tuple[Wire, socket.socket], said: bytes) -> None:
    wire, far = ends
    far.sendall(said)
    far.shutdown(socket.SHUT_WR)
    error = failing(lambda: wire.request("a.b"))
    assert error.code == "daemon.foreign"
    assert "WHISPERD_SOCKET" in error.fix


@pytest.mark.skipif(os.name != "posix", reason="signals as on POSIX")
def test_nothing_follows_half_a_message(ends: tuple[Wire, socket.socket]) -> None:
    """After Ctrl-C during a large message, anything sent later would be taken for its rest."""
    wire, far = ends
    main_thread = threading.main_thread().ident
    assert main_thread is not None

    def interrupt() -> None:
        far.recv(10)  # wait until it is being sent
        signal.pthread_kill(main_thread, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        wire.send("uploads.append", {"data": bytes(16 * 2**20)})  # the rest is never read
    thread.join()
    assert failing(lambda: wire.request("a.b")).code == "daemon.connection_lost"


def test_a_client_is_closed_by_its_block(ends: tuple[Wire, socket.socket]) -> None:
    wire, far = ends
    with Client(wire):
        pass
    assert far.recv(1) == b""


def test_each_subscription_gets_its_own_events_once(ends: tuple[Wire, socket.socket]) -> None:
    wire, far = ends
    subscriptions: list[dict[str, Any]] = []

    def publish(kind: str, *subscriptions: dict[str, Any]) -> None:
        for one in subscriptions:
            event = {"type": f"transcription.{kind}", "id": one.get("job", "c")}
            answer(far, [2, "event", [*one["call"]["args"], [event]] if "call" in one else [event]])

    def serve() -> None:
        unpacker = msgpack.Unpacker()
        while data := far.recv(4096):
            unpacker.feed(data)
            for _, message_id, method, (params,) in unpacker:
                assert method != "session.ping", "the client must not wait for events that never come"
                if method == "events.subscribe":
                    subscriptions.append(params)
                    publish("segment", params)
                elif method == "models.pull":
                    publish("completed", *subscriptions)
                answer(far, [1, message_id, None, {"subscription": message_id}])

    serving = threading.Thread(target=serve)
    serving.start()
    client, heard = Client(wire), []
    client.request("events.subscribe", job="a")
    followed = [client.follow("a"), client.follow("a"), client.follow("b", topics=["models"])]
    seen = [[next(events)["id"]] for events in followed]
    client.request_with_events(("models",), "models.pull", lambda event: heard.append(event["id"]), name="x")
    for one, events in zip(seen, followed, strict=True):
        one += [event["id"] for event in events]
    others = [client.next_event(0), client.next_event(0), client.next_event(0)]
    wire.close()
    serving.join()
    assert seen == [["a", "a"], ["a", "a"], ["c", "b", "c", "b"]]
    assert heard == ["c", "c"]
    assert [event and event["id"] for event in others] == ["a", "a", None]


@pytest.mark.parametrize(
    ("source", "methods"),
    [("a.mp3", ["jobs.submit", "jobs.cancel"]), (b"RIFF", ["uploads.create", "uploads.delete"])],
)
@pytest.mark.parametrize("is_answered", [False, True])
def test_an_interrupted_submission_is_undone_once_its_id_is_known(
    ends: tuple[Wire, socket.socket],
    monkeypatch: pytest.MonkeyPatch,
    source: Any,
    methods: list[str],
    is_answered: bool,
) -> None:
    wire, far = ends
    reply = [1, 0, None, {"id": "five"}]
    receive = wire._receive

    def interrupt(_: object) -> None:
        monkeypatch.undo()
        if is_answered:
            answer(far, reply)
            receive(None)
        raise KeyboardInterrupt

    monkeypatch.setattr(wire, "_receive", interrupt)
    with pytest.raises(KeyboardInterrupt):
        Client(wire).submit(source)
    if not is_answered:
        answer(far, reply)
    answer(far, event(1))
    wire.next_event()
    unpacker = msgpack.Unpacker()
    unpacker.feed(far.recv(4096))
    asked = list(unpacker)
    assert [method for _, _, method, _ in asked] == methods
    assert asked[1][3] == [{"id": "five"}]


class TestSilence:
    """The client pings a daemon that stays silent."""

    @pytest.fixture(autouse=True)
    def impatient(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(wire_module, "PING_AFTER_S", 0.01)
        monkeypatch.setattr(wire_module, "PATIENCE_S", 0.02)

    def pings(self, far: socket.socket) -> Iterator[int]:
        unpacker = msgpack.Unpacker()
        while data := far.recv(4096):
            unpacker.feed(data)
            yield from (number for _, number, method, _ in unpacker if method == "session.ping")

    def test_a_daemon_that_answers_no_ping_is_abandoned(self, ends: tuple[Wire, socket.socket]) -> None:
        wire, far = ends
        error = failing(lambda: wire.request("daemon.status"))
        assert error.code == "daemon.not_responding"
        assert "`whisperctl --socket /run/other.sock daemon restart --force`" in error.fix
        assert len(list(self.pings(far))) == 1
        assert failing(lambda: wire.request("daemon.status")).code == "daemon.connection_lost"

    def test_a_silent_daemon_is_abandoned_while_waiting_for_events(
        self, ends: tuple[Wire, socket.socket]
    ) -> None:
        wire, _ = ends
        assert failing(wire.next_event).code == "daemon.not_responding"

    def test_a_daemon_that_reads_nothing_is_abandoned(self, ends: tuple[Wire, socket.socket]) -> None:
        wire, _ = ends
        error = failing(lambda: wire.send("uploads.append", {"data": bytes(2**24)}))
        assert error.code == "daemon.not_responding"

    def test_work_may_take_any_time_while_pings_are_answered(
        self, ends: tuple[Wire, socket.socket], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(wire_module, "PATIENCE_S", 600.0)
        wire, far = ends
        request = wire.send("jobs.wait")

        def work() -> None:
            pings = self.pings(far)
            for _ in range(5):
                answer(far, [1, next(pings), None, {}])
            answer(far, [1, request, None, "done"])

        working = threading.Thread(target=work)
        working.start()
        assert wire.answer(request) == "done"
        working.join()

    def test_unread_events_do_not_count_as_silence(self, ends: tuple[Wire, socket.socket]) -> None:
        wire, far = ends
        for number in range(20):
            answer(far, event(number))
            time.sleep(0.01)  # in total longer than its patience
        for number in range(20):
            assert wire.next_event() == {"type": "x", "number": number}
        assert wire.next_event(time.monotonic()) is None
