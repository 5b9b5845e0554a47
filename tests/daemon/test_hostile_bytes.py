"""Whatever bytes a client sends: it gets an error or is disconnected, and no other client is affected."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from raw_client import RawClient, memory_bytes, until

from fuzzing import examples
from whisperd.rpc.errors import WhisperdError
from whisperd_testing import RunningDaemon

STATUS = msgpack.packb([0, 1, "daemon.status", []])


@pytest.fixture
def daemon(shared: RunningDaemon) -> Iterator[RunningDaemon]:
    """The module's daemon, which must still serve another client when the test is over."""
    with RawClient(shared) as other:
        yield shared
        assert other.request("daemon.status")["pid"] == shared.pid
    assert "Traceback" not in shared.log()


@pytest.mark.parametrize(
    ("name", "data", "code"),
    [
        ("text", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", "rpc.frame_malformed"),
        ("never used byte", b"\xc1" * 100, "rpc.frame_malformed"),
        ("no array", msgpack.packb({"method": "daemon.status"}), "rpc.frame_malformed"),
        ("no message", msgpack.packb([1, 2]), "rpc.invalid_message"),
        ("no known kind", msgpack.packb([7, 1, "daemon.status", []]), "rpc.invalid_message"),
        ("id is text", msgpack.packb([0, "1", "daemon.status", []]), "rpc.invalid_message"),
        ("id too large", msgpack.packb([0, 2**32, "daemon.status", []]), "rpc.invalid_message"),
        ("id negative", msgpack.packb([0, -1, "daemon.status", []]), "rpc.invalid_message"),
        ("method is a number", msgpack.packb([0, 1, 2, []]), "rpc.invalid_message"),
        ("method is no UTF-8", b"\x94\x00\x01\xa2\xff\xfe\x90", "rpc.invalid_message"),
        ("too deep", b"\x94\x00\x01\xa1m" + b"\x91" * 100 + b"\xc0", "rpc.frame_too_deep"),
        ("deeper than any stack", b"\x91" * 1_000_000, "rpc.frame_too_deep"),
        ("too many items", msgpack.packb([0, 1, "m", [[None] * 30_000]]), "rpc.frame_too_large"),
        ("too many bytes", msgpack.packb([0, 1, "m", [b"x" * 5_000_000]]), "rpc.frame_too_large"),
        ("claims four billion", b"\x91\xdd\xff\xff\xff\xff" + b"\x01" * 5_000_000, "rpc.frame_too_large"),
        ("good, then bad", STATUS + b"\xc1", "rpc.frame_malformed"),
    ],
)  # fmt: skip
def test_invalid_messages_close_the_connection_with_an_error(
    daemon: RunningDaemon, name: str, data: bytes, code: str
) -> None:
    with RawClient(daemon) as client:
        with suppress(BrokenPipeError, ConnectionResetError):  # the daemon may disconnect before the end
            client.send(data)
        assert client.error() == code


def test_a_request_may_be_encoded_in_more_bytes_than_necessary(daemon: RunningDaemon) -> None:
    """Encoders that do not know lengths in advance use the 32-bit forms."""
    request = b"\xdd\0\0\0\4" + b"\xcc\0" + b"\xce\0\0\0\x09" + b"\xdb\0\0\0\x0csession.ping" + b"\xdc\0\0"
    with RawClient(daemon) as client:
        client.send(request)
        assert client.answer(9) == {}


@settings(
    max_examples=examples(150),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.binary(max_size=300), st.booleans())
def test_random_bytes_do_not_affect_others(shared: RunningDaemon, garbage: bytes, is_begun: bool) -> None:
    with RawClient(shared) as client, RawClient(shared) as other:
        client.send((STATUS if is_begun else b"") + garbage)
        client.socket.shutdown(socket.SHUT_WR)
        assert client.is_closed()
        assert other.request("session.hello", {"client": "t", "version": "1", "protocol": 1})


def test_parameters_of_wrong_types_are_refused_by_every_method(daemon: RunningDaemon) -> None:
    """No parameters of the wrong type reach any handler."""
    methods = (
        "daemon.config daemon.reload events.subscribe events.unsubscribe jobs.cancel jobs.list jobs.result",
        "jobs.show jobs.submit jobs.wait models.import models.pull models.verify natives.install",
        "natives.verify session.hello uploads.append uploads.delete",
    )
    wrong: list[Any] = [
        7,
        "text",
        b"bytes",
        None,
        [1],
        {1: 2},
        {"id": []},
        {"path": {}},
        {"no_such_field": 1},
        -1.5,
    ]
    with RawClient(daemon) as client:
        for message_id, method in enumerate(" ".join(methods).split()):
            for params in wrong:
                client.send([0, message_id, method, [params, params]])
                with pytest.raises(WhisperdError, match="parameters"):
                    client.answer(message_id)
                client.send([0, message_id, method, [params]])
                with pytest.raises(WhisperdError) as caught:
                    client.answer(message_id)
                assert caught.value.code == "rpc.invalid_params", (method, params)


@pytest.mark.parametrize(
    ("called", "meant"),
    [("daemon.statsu", "daemon.status"), ("job.submit", "jobs.submit"), ("models.pul", "models.pull")],
)
def test_an_unknown_method_gets_a_suggestion(daemon: RunningDaemon, called: str, meant: str) -> None:
    with RawClient(daemon) as client:
        with pytest.raises(WhisperdError) as caught:
            client.request(called)
        assert caught.value.code == "rpc.unknown_method"
        assert called in caught.value.message
        assert meant in caught.value.fix
        assert client.request("daemon.status")


def test_an_unknown_field_is_named(daemon: RunningDaemon, some_file: str) -> None:
    with RawClient(daemon) as client:
        for params, named in (
            ({"input": {"path": some_file, "pth": 1}}, "pth"),
            ({"input": {"path": some_file}, "option": {}}, "option"),
            ({"input": {"path": some_file}, "options": {"beam_sise": 3}}, "beam_sise"),
        ):
            with pytest.raises(WhisperdError, match=named) as caught:
                client.request("jobs.submit", params)
            assert caught.value.code == "rpc.invalid_params"


def test_long_names_are_not_echoed_in_full(daemon: RunningDaemon) -> None:
    long = "daemon.status" * 200_000
    with RawClient(daemon) as client:
        for method, params in (
            (long, {}),
            ("jobs.show", {"id": long}),
            ("models.verify", {"name": long}),
            ("natives.verify", {"name": long}),
            ("uploads.delete", {"id": long}),
            ("events.subscribe", {"topics": [long]}),
            ("jobs.submit", {"input": {"path": "/" + long}}),
            ("jobs.submit", {"input": {"path": "/tmp"}, "options": {"language": long}}),
            ("daemon.status", {long: 1}),
        ):
            with pytest.raises(WhisperdError) as caught:
                client.request(method, params)
            assert caught.value.code != "internal.error", method[:50]
            assert len(caught.value.message) < 10_000


def test_a_path_that_is_not_utf8_gets_its_own_error(daemon: RunningDaemon) -> None:
    with RawClient(daemon) as client:
        for path, code in ((b"/no/such/\xff.wav", "audio.not_found"), (b"no/\xff", "input.not_absolute")):
            with pytest.raises(WhisperdError) as caught:
                client.request("jobs.submit", {"input": {"path_bytes": path}})
            assert caught.value.code == code


def test_half_a_message_then_end_of_stream(daemon: RunningDaemon) -> None:
    for length in range(1, len(STATUS)):
        with RawClient(daemon) as client:
            client.send(STATUS[:length])
    with RawClient(daemon) as client:
        client.send(STATUS[:5])
        client.socket.shutdown(socket.SHUT_WR)
        assert client.is_closed()


def test_a_message_byte_by_byte(daemon: RunningDaemon) -> None:
    with RawClient(daemon) as client:
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        for byte in STATUS:
            client.send(bytes([byte]))
        assert client.answer(1)["pid"] == daemon.pid


def test_a_connection_that_is_half_closed_is_closed(daemon: RunningDaemon) -> None:
    with RawClient(daemon) as client:
        client.request("daemon.status")
        client.socket.shutdown(socket.SHUT_WR)
        assert client.is_closed()


def test_a_request_before_a_half_close_is_answered(daemon: RunningDaemon) -> None:
    with RawClient(daemon) as client:
        client.send(STATUS)
        client.socket.shutdown(socket.SHUT_WR)
        assert client.answer(1)["pid"] == daemon.pid
        assert client.is_closed()


def test_an_answer_or_a_notification_from_a_client_is_ignored(daemon: RunningDaemon) -> None:
    with RawClient(daemon) as client:
        client.send([1, 5, None, "what you asked"], [2, "hello", []], [2, "daemon.stop", []])
        assert client.request("daemon.status")["pid"] == daemon.pid


def test_another_protocol_is_refused_with_the_fix(daemon: RunningDaemon) -> None:
    with RawClient(daemon) as client:
        hello = {"client": "test", "version": "9", "protocol": 1}
        assert client.request("session.hello", hello)["protocol"] == 1
        for protocol, older in ((0, "client"), (2, "daemon")):
            with pytest.raises(WhisperdError) as caught:
                client.request("session.hello", {**hello, "protocol": protocol})
            assert caught.value.code == "protocol.unsupported"
            assert f"Upgrade the {older}" in caught.value.fix


@pytest.mark.parametrize("mutations", [1, 5])
def test_damaged_requests(daemon: RunningDaemon, mutations: int) -> None:
    """Flip bits in valid requests: many remain valid MessagePack and reach deep into the daemon."""
    chance = random.Random(mutations)
    requests = [
        [
            0,
            1,
            "jobs.submit",
            [{"input": {"path": "/no/such"}, "options": {"model": "base", "beam_size": 3}}],
        ],
        [0, 2, "events.subscribe", [{"topics": ["jobs"], "call": {"method": "m", "args": ["a"]}}]],
        [0, 3, "uploads.append", [{"id": "0123456789abcdef", "data": b"x" * 50}]],
        [0, 4, "session.hello", [{"client": "test", "version": "1", "protocol": 1}]],
    ]
    for _ in range(300):
        damaged = bytearray(msgpack.packb(chance.choice(requests)))
        for _ in range(mutations):
            damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
        with RawClient(daemon) as client:
            client.send(bytes(damaged))
            client.socket.shutdown(socket.SHUT_WR)
            assert client.is_closed()


def test_large_bad_frames_do_not_leak_memory(daemon: RunningDaemon) -> None:
    """A hundred megabytes of the worst frames leave no memory in use."""
    empty_arrays = b"\x94\x00\x01\xa1m\xdd\x00\x2d\xc6\xc0" + b"\x90" * 3_000_000
    incomplete = msgpack.packb([0, 1, "m", [b"x" * 4_000_000]])[:-1]
    before_bytes = memory_bytes(daemon)
    for _ in range(15):
        for frame in (empty_arrays, incomplete):
            with RawClient(daemon) as client:
                client.send(frame)
    until(
        lambda: memory_bytes(daemon) - before_bytes < 15 * 2**20
    )  # it may still be processing the last frames
