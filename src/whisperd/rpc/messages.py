"""The messages of MessagePack-RPC and how they are encoded and strictly decoded.

Requests are `[0, msgid, method, params]`, responses `[1, msgid, error, result]`, notifications
`[2, method, params]`. `params` is an array of one map, or empty. Parameters stay raw bytes until
the method is known, and are then decoded into that method's own struct.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Generic, TypeVar

import msgspec

from whisperd.rpc.errors import WhisperdError, sendable

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
"""What something is called. A longer text is no name, and looking for what was meant would take long."""


class Params(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every method's parameters: a closed map, checked strictly."""


class NoParams(Params, frozen=True):
    """For methods that take nothing."""


class Named(Params, frozen=True):
    """What is meant: its name, where it has one also its id or path."""

    name: Name


Changes = TypeVar("Changes")


class Edit(Named, Generic[Changes], frozen=True):
    """What is meant, what of it is to be changed, and the version that the change was made from."""

    changes: Changes
    version: int | None = None


class InvalidAnswer(WhisperdError):
    """An answer holds something that cannot be decoded, such as a text that is not UTF-8."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            "rpc.invalid_answer",
            f"The other side sent an answer that cannot be read: {reason}.",
            "Update whisperd and its plugins, so that they are of one version.",
        )
        self.reason = reason


class Request(msgspec.Struct, frozen=True):
    """A call that wants an answer under `id`."""

    id: int
    method: str
    params: msgspec.Raw


class Response(msgspec.Struct, frozen=True):
    """The answer to the request with this `id`: either an error map or a result, still raw."""

    id: int
    error: msgspec.Raw
    result: msgspec.Raw

    def unwrap(self) -> Any:
        """The decoded result. Raises the error, or `InvalidAnswer` if it cannot be read."""
        try:
            error, result = msgspec.msgpack.decode(self.error), msgspec.msgpack.decode(self.result)
        except (ValueError, TypeError, RecursionError) as failure:
            raise InvalidAnswer(str(failure)) from failure
        if error is not None:
            raise WhisperdError.from_wire(error)
        return result


class Notification(msgspec.Struct, frozen=True):
    """A message that wants no answer."""

    method: str
    params: msgspec.Raw


_encoder = msgspec.msgpack.Encoder()
_decode_parts = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode
_decode_int = msgspec.msgpack.Decoder(int).decode
_decode_str = msgspec.msgpack.Decoder(str).decode

P = TypeVar("P")


def decode_message(frame: bytes) -> Request | Response | Notification:
    """Read one frame. Raises `WhisperdError` (`rpc.invalid_message`) if it is none of the three."""
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
        "A message is neither a request, a response nor a notification.",
        "Send [0, msgid, method, params] or [2, method, params].",
    )


def decode_params(raw: msgspec.Raw | bytes, into: type[P]) -> P:
    """Read a method's parameters strictly; an empty array or an empty inner array is an empty map.

    Raises `WhisperdError` (`rpc.invalid_params`) that names the place and what was expected.
    """
    try:
        arguments = msgspec.msgpack.decode(raw, type=list[msgspec.Raw])
        if len(arguments) > 1:
            raise invalid_params(f"parameters are one map, and {len(arguments)} values came")
        # Lua cannot tell an empty map from an empty array (0x90).
        body = arguments[0] if arguments and bytes(arguments[0]) != b"\x90" else b"\x80"
        return msgspec.msgpack.decode(body, type=into, strict=True)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise invalid_params(str(error)) from error


def invalid_params(reason: str) -> WhisperdError:
    """The parameters do not fit the method; `reason` names the place."""
    return WhisperdError(
        "rpc.invalid_params",
        f"The parameters do not fit: {reason}.",
        "See docs/interface.md for what this method takes.",
    )


def encode_request(message_id: int, method: str, params: object) -> bytes:
    """`[0, msgid, method, [params]]`."""
    return _encoder.encode((0, message_id, method, () if params is None else (params,)))


def encode_response(
    message_id: int, *, error: WhisperdError | str | None = None, result: object = None
) -> bytes:
    """`[1, msgid, error, result]`."""
    said = error.to_wire() if isinstance(error, WhisperdError) else error
    return encode_value((1, message_id, said, result))


def encode_notification(method: str, *params: object) -> bytes:
    """`[2, method, params]`."""
    return encode_value((2, method, params))


def encode_value(value: object) -> bytes:
    """A part of a message."""
    try:
        return _encoder.encode(value)
    except UnicodeEncodeError:  # a path that is not UTF-8 is in it
        return _encoder.encode(sendable(msgspec.to_builtins(value, builtin_types=(bytes,))))


def _checked_id(raw: msgspec.Raw) -> int:
    message_id = _decode_int(raw)
    if not 0 <= message_id <= MAX_MESSAGE_ID:
        raise msgspec.ValidationError("a message id is an unsigned 32-bit number")
    return message_id
