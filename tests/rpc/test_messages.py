"""Encoding messages and decoding them strictly."""

from __future__ import annotations

import copy
import pickle
import traceback
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Annotated, Any

import msgpack
import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from whisperd.rpc.errors import MAX_TEXT_CHARACTERS, WhisperdError
from whisperd.rpc.messages import (
    InvalidAnswer,
    NoParams,
    Notification,
    Params,
    Request,
    Response,
    decode_message,
    decode_params,
    encode_notification,
    encode_request,
    encode_response,
)

ids = st.integers(0, 2**32 - 1)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
NOT_UTF8 = b"/home/\xff.wav".decode(errors="surrogateescape")


class Inner(Params, frozen=True):
    pieces: tuple[bytes, ...] = ()


class Example(Params, frozen=True):
    name: str
    count: Annotated[int, msgspec.Meta(ge=0)] = 3
    inner: Inner | None = None


@given(ids, st.text(), st.dictionaries(st.text(), values))
def test_a_request_survives_a_round_trip(message_id: int, method: str, params: dict[str, Any]) -> None:
    encoded = encode_request(message_id, method, params)
    message = decode_message(encoded)
    assert isinstance(message, Request)
    assert (message.id, message.method) == (message_id, method)
    assert msgspec.msgpack.decode(message.params) == [params]
    assert msgpack.unpackb(encoded) == [0, message_id, method, [params]]


@given(ids, values)
def test_a_response_survives_a_round_trip(message_id: int, result: Any) -> None:
    message = decode_message(encode_response(message_id, result=result))
    assert isinstance(message, Response)
    assert message.id == message_id
    assert message.unwrap() == result


@given(ids, st.text(), st.text(), st.text(), st.dictionaries(st.text(), values))
def test_an_error_survives_a_round_trip(
    message_id: int, code: str, message: str, fix: str, data: dict[str, Any]
) -> None:
    response = decode_message(
        encode_response(message_id, error=WhisperdError(f"noun.{code}", message, fix, data))
    )
    assert isinstance(response, Response)
    with pytest.raises(WhisperdError) as caught:
        response.unwrap()
    error = caught.value
    assert (error.code, error.message, error.fix, error.data) == (f"noun.{code}", message, fix, data)


@pytest.mark.parametrize(
    ("held", "told"),
    [
        (PurePosixPath("/a"), "/a"),
        ([2**64], ["18446744073709551616"]),
        ({(1, 2): {3}}, {"(1, 2)": "{3}"}),
        (-(2**63), -(2**63)),
    ],
)
def test_error_data_that_cannot_be_encoded_becomes_text(held: object, told: object) -> None:
    error = WhisperdError("a.problem", "It broke.", "Mend it.", {"held": held})
    response = decode_message(encode_response(1, error=error))
    assert isinstance(response, Response)
    with pytest.raises(WhisperdError, match="It broke") as caught:
        response.unwrap()
    assert caught.value.data == {"held": told}


@given(st.text(), st.lists(values))
def test_a_notification_survives_a_round_trip(method: str, params: list[Any]) -> None:
    message = decode_message(encode_notification(method, *params))
    assert isinstance(message, Notification)
    assert message.method == method
    assert msgspec.msgpack.decode(message.params) == params


@pytest.mark.parametrize(
    "message",
    [
        [0, -1, "m", []],
        [0, 2**32, "m", []],
        [0, 1.0, "m", []],
        [0, True, "m", []],
        [3, 1, "m", []],
        [0, 1, b"m", []],
        [1, 1, None],
        [1, 2**32, None, None],
        [2, "m"],
    ],
)
def test_an_invalid_message_is_refused(message: list[Any]) -> None:
    with pytest.raises(WhisperdError) as caught:
        decode_message(msgpack.packb(message))
    assert caught.value.code == "rpc.invalid_message"


@given(values)
def test_only_an_array_with_a_known_type_is_a_message(value: Any) -> None:
    try:
        decode_message(msgpack.packb(value))
    except WhisperdError as error:
        assert error.code == "rpc.invalid_message"
    else:
        assert isinstance(value, list) and value[0] in (0, 1, 2)


@given(st.binary())
@example(b"\x94\x00\x01\xa1\xff\x90")  # a method that is not UTF-8
@example(b"\x94\x00\xcf\xff\xff\xff\xff\xff\xff\xff\xff\xa1m\x90")
@example(b"\x94\x00\x01\xa1m")
def test_garbage_raises_only_our_error(garbage: bytes) -> None:
    for decode in (decode_message, lambda data: decode_params(data, Example)):
        try:
            decode(garbage)
        except WhisperdError as error:
            assert error.code in ("rpc.invalid_message", "rpc.invalid_params")


@pytest.mark.parametrize("raw", [b"\x90", b"\x91\x80", b"\x91\x90"])
def test_an_empty_array_is_an_empty_map(raw: bytes) -> None:
    assert decode_params(raw, NoParams) == NoParams()


def test_a_parameter_that_is_null_counts_as_missing() -> None:
    """JavaScript's `undefined` and Go's nil pointers are sent as null."""
    params = msgpack.packb([{"name": "a", "count": None, "inner": None}])
    assert decode_params(params, Example) == Example(name="a")


@pytest.mark.parametrize(
    ("params", "named"),
    [
        ([], "name"),
        ([{"name": None, "count": 1}], "name is missing"),
        ([{}], "name"),
        ([{"name": 1}], "name must be a string, not an integer"),
        ([{"name": "a", "count": "3"}], "count must be an integer, not a string"),
        ([{"name": "a", "count": 3.5}], "count must be an integer, not a float"),
        ([{"name": "a", "count": True}], "count must be"),
        ([{"name": "a", "count": -1}], "count must be at least 0"),
        ([{"name": "a", "nmae": 1}], "nmae"),
        ([{"name": "a", "inner": {"pieces": ["text"]}}], "inner.pieces[0]"),
        ([{"name": "a", "inner": {"other": 1}}], "other"),
        ([{"name": "a"}, 2], "2 values"),
        (["name"], "they must be a map"),
        ({"name": "a"}, "array"),
        (None, "array"),
    ],
)
def test_invalid_parameters_are_refused_by_path(params: Any, named: str) -> None:
    with pytest.raises(WhisperdError) as caught:
        decode_params(msgpack.packb(params), Example)
    assert caught.value.code == "rpc.invalid_params"
    assert named in caught.value.message


@pytest.mark.parametrize("again", [copy.copy, lambda error: pickle.loads(pickle.dumps(error))])
def test_an_error_can_be_copied_and_passed_to_another_process(
    again: Callable[[WhisperdError], WhisperdError],
) -> None:
    error = WhisperdError("audio.not_found", "There is no file.", "Look.", {"path": "a"})
    assert again(error).to_wire() == error.to_wire()


def test_a_path_that_is_not_utf8_can_be_reported() -> None:
    """An error about such a file, or a result that names it, once crashed the daemon."""
    error = WhisperdError("audio.not_found", f"There is no file {NOT_UTF8}.", "Look.", {"path": [NOT_UTF8]})
    response = msgpack.unpackb(encode_response(1, error=error))
    assert response[2]["message"] == "There is no file /home/\\xff.wav."
    assert response[2]["data"] == {"path": ["/home/\\xff.wav"]}
    response = msgpack.unpackb(encode_response(1, result={"path": NOT_UTF8, "data": b"\xff"}))
    assert response[3] == {"path": "/home/\\xff.wav", "data": b"\xff"}
    assert msgpack.unpackb(encode_notification("event", {"path": NOT_UTF8}))[2] == [
        {"path": "/home/\\xff.wav"}
    ]


def test_a_long_error_is_shortened() -> None:
    with pytest.raises(WhisperdError) as caught:
        decode_params(msgpack.packb([{"name": "a", "x" * 1_000_000: 1}]), Example)
    assert len(encode_response(1, error=caught.value)) < 2 * MAX_TEXT_CHARACTERS


@given(values)
def test_any_error_of_a_foreign_server_can_be_read(wire: Any) -> None:
    error = WhisperdError.from_wire(wire)
    assert isinstance(error.code, str) and isinstance(error.data, dict)


@pytest.mark.parametrize("value", [b"\xa2\xff\xfe", b"\x81\x80\x01", b"\xc1", b"\x92\x01"])
def test_an_undecodable_answer_is_an_error(value: bytes) -> None:
    """A text that is not UTF-8, a map as a key, no value at all, and half a value."""
    for error, result in ((b"\xc0", value), (value, b"\xc0")):
        with pytest.raises(InvalidAnswer) as raised:
            Response(1, msgspec.Raw(error), msgspec.Raw(result)).unwrap()
        assert raised.value.code == "rpc.invalid_answer"


def test_a_traceback_has_the_fix_and_the_code() -> None:
    error = WhisperdError("runtime.unknown", "There is no runtime 'fest'.", "Did you mean fast?")
    _, *shown = "".join(traceback.format_exception_only(error.copy())).partition(": ")[2].splitlines()
    assert (str(error), shown) == (error.message, ["Did you mean fast? (runtime.unknown)"])
