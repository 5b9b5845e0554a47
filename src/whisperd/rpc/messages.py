"""The messages of MessagePack-RPC: types, encoding and strict decoding.

Requests are `[0, msgid, method, params]`, responses `[1, msgid, error, result]`, notifications `[2, method,
params]`. `params` is an array of one map, or empty. Parameters stay raw bytes until the method is known, and
are then decoded into that method's own struct.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Generic, TypeVar

import msgspec

from whisperd.decodable import decodable
from whisperd.rpc.errors import WhisperdError, sendable
from whisperd.validation import explain

__all__ = [
    "Edit",
    "InvalidAnswer",
    "Name",
    "Named",
    "NoParams",
    "Notification",
    "Params",
    "Request",
    "Response",
    "decode_message",
    "decode_params",
    "encode_notification",
    "encode_request",
    "encode_response",
    "encode_value",
    "invalid_params",
]

MAX_MESSAGE_ID: Final = 2**32 - 1


Name = Annotated[str, msgspec.Meta(max_length=4096)]
"""The name of something. It is limited because searching for similar names takes long for a longer one."""


class Params(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every method's parameters: a map without unknown keys, checked strictly."""


class NoParams(Params, frozen=True):
    """The parameters of methods that take none."""


class Named(Params, frozen=True):
    """Names the object concerned: by its name, or its id or path if it has one."""

    name: Name


Changes = TypeVar("Changes")


class Edit(Named, Generic[Changes], frozen=True):
    """Names the object to edit, the changes, and the version that they are based on."""

    changes: Changes
    version: int | None = None


class InvalidAnswer(WhisperdError):
    """A response contains something that cannot be decoded, such as a string that is not UTF-8."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            "rpc.invalid_answer",
            f"The other side sent a response that cannot be decoded: {reason}.",
            "Update whisperd and its plugins, so that they have the same version.",
        )
        self.reason = reason


class Request(msgspec.Struct, frozen=True):
    """A call that expects a response with this `id`."""

    id: int
    method: str
    params: msgspec.Raw


class Response(msgspec.Struct, frozen=True):
    """The response to the request with this `id`: either an error map or a result, still raw."""

    id: int
    error: msgspec.Raw
    result: msgspec.Raw

    def unwrap(self) -> Any:
        """Return the decoded result. Raises the error, or `InvalidAnswer` if either cannot be decoded."""
        try:
            error, result = msgspec.msgpack.decode(self.error), msgspec.msgpack.decode(self.result)
        except (ValueError, TypeError, RecursionError) as failure:
            raise InvalidAnswer(str(failure)) from failure
        if error is not None:
            raise WhisperdError.from_wire(error)
        return result


class Notification(msgspec.Struct, frozen=True):
    """A message that expects no response."""

    method: str
    params: msgspec.Raw


_encoder = msgspec.msgpack.Encoder()
_decode_parts = msgspec.msgpack.Decoder(decodable(list[msgspec.Raw])).decode
_decode_int = msgspec.msgpack.Decoder(decodable(int)).decode
_decode_str = msgspec.msgpack.Decoder(decodable(str)).decode
_decode_map = msgspec.msgpack.Decoder(decodable(dict[str, msgspec.Raw])).decode

P = TypeVar("P")


def decode_message(frame: bytes) -> Request | Response | Notification:
    """Decode one frame. Raises `WhisperdError` (`rpc.invalid_message`) if it is none of the three."""
    try:
        match _decode_parts(frame):
            case [kind, message_id, method, params] if _decode_int(kind) == 0:
                return Request(_checked_id(message_id), _decode_str(method), params)
            case [kind, message_id, error, result] if _decode_int(kind) == 1:
                return Response(_checked_id(message_id), error, result)
            case [kind, method, params] if _decode_int(kind) == 2:
                return Notification(_decode_str(method), params)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        pass
    raise WhisperdError(
        "rpc.invalid_message",
        "A message is not a request, a response or a notification.",
        "Send [0, msgid, method, params], where msgid is an integer from 0 to 4294967295 and method is a "
        "str, or [2, method, params].",
    )


def decode_params(raw: msgspec.Raw | bytes, into: type[P]) -> P:
    """Decode a method's parameters strictly; an empty array or an empty inner array is an empty map, and a
    parameter that is null and must not be counts as missing.

    Raises `WhisperdError` (`rpc.invalid_params`) that names the place and what was expected.
    """
    try:
        arguments = _decode_parts(raw)
        if len(arguments) > 1:
            raise invalid_params(f"expected one map, got {len(arguments)} values")
        # Lua cannot tell an empty map from an empty array (0x90).
        body = arguments[0] if arguments and bytes(arguments[0]) != b"\x90" else b"\x80"
        try:
            return msgspec.msgpack.decode(body, type=decodable(into), strict=True)
        except msgspec.ValidationError:
            # Many libraries send null for a value that is not set, such as JavaScript's `undefined`.
            given = _decode_map(body)
            named = {name: value for name, value in given.items() if bytes(value) != b"\xc0"}
            if len(named) == len(given):
                raise
            return msgspec.msgpack.decode(_encoder.encode(named), type=decodable(into), strict=True)
    except msgspec.ValidationError as error:
        raise invalid_params(explain(error, into, "they")) from error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise invalid_params(str(error)) from error


def invalid_params(reason: str) -> WhisperdError:
    """Return the error for parameters that do not fit the method; `reason` names the place."""
    return WhisperdError(
        "rpc.invalid_params",
        f"The parameters are invalid: {reason}.",
        "See docs/interface.md for the parameters of this method.",
    )


def encode_request(message_id: int, method: str, params: object) -> bytes:
    """Encode `[0, msgid, method, [params]]`."""
    return _encoder.encode((0, message_id, method, () if params is None else (params,)))


def encode_response(
    message_id: int, *, error: WhisperdError | str | None = None, result: object = None
) -> bytes:
    """Encode `[1, msgid, error, result]`."""
    wire = error.to_wire() if isinstance(error, WhisperdError) else error
    return encode_value((1, message_id, wire, result))


def encode_notification(method: str, *params: object) -> bytes:
    """Encode `[2, method, params]`."""
    return encode_value((2, method, params))


def encode_value(value: object) -> bytes:
    """Encode a message or a part of one."""
    try:
        return _encoder.encode(value)
    except UnicodeEncodeError:  # it contains a path that is not UTF-8
        return _encoder.encode(sendable(msgspec.to_builtins(value, builtin_types=(bytes,))))


def _checked_id(raw: msgspec.Raw) -> int:
    message_id = _decode_int(raw)
    if not 0 <= message_id <= MAX_MESSAGE_ID:
        raise msgspec.ValidationError("a message id is an unsigned 32-bit number")
    return message_id
