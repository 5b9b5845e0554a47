"""Prepares types for msgspec, which is not safe in threads the first time that it decodes a type."""

from __future__ import annotations

import threading
from typing import Any, TypeVar, overload

import msgspec

__all__ = ["decodable"]

T = TypeVar("T")

_prepared: set[Any] = set()
_lock = threading.RLock()


@overload
def decodable(kind: type[T]) -> type[T]: ...
@overload
def decodable(kind: Any) -> Any: ...
def decodable(kind: Any) -> Any:
    """Return a type that any thread may decode or convert to; every use of one for that goes through this.

    msgspec describes a type when it first decodes it, and crashes the process if another thread decodes the
    type, or one that contains it, before the description is complete.
    """
    if kind not in _prepared:
        with _lock:  # one for all types, as they contain one another
            msgspec.msgpack.Decoder(kind)
            _prepared.add(kind)
    return kind
