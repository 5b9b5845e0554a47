"""What is wrong with a value, in plain words."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
import pytest
from msgspec import Meta

from whisperd.validation import explain


class Inner(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    order: Literal["first", "last"] | None = None
    count: int = 0


class Outer(msgspec.Struct, forbid_unknown_fields=True):
    name: Annotated[str, Meta(min_length=1, max_length=4)]
    size: Annotated[int, Meta(ge=0, le=16)] = 0
    share: Annotated[float, Meta(gt=0, lt=1.5)] | None = None
    flag: bool = False
    data: bytes = b""
    inner: Inner = Inner()
    several: Annotated[tuple[Inner, ...], Meta(max_length=2)] = ()
    pair: tuple[int, Literal["a", 2]] = (0, "a")
    by_name: dict[str, Inner] = {}


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (3, "it must be a map, not an integer"),
        ({}, "name is missing"),
        ({"name": 3}, "name must be a string, not an integer"),
        ({"name": None}, "name must be a string, not null"),
        ({"name": ""}, "name must have at least 1 characters"),
        ({"name": "abcde"}, "name must have at most 4 characters"),
        ({"name": "a", "size": 17}, "size must be at most 16"),
        ({"name": "a", "size": 1.5}, "size must be an integer, not a float"),
        ({"name": "a", "share": 0.0}, "share must be more than 0"),
        ({"name": "a", "share": 1.5}, "share must be less than 1.5"),
        ({"name": "a", "share": "b"}, "share must be a number, not a string"),
        ({"name": "a", "flag": 1}, "flag must be true or false, not an integer"),
        ({"name": "a", "flag": []}, "flag must be true or false, not an array"),
        ({"name": "a", "size": True}, "size must be an integer, not a boolean"),
        ({"name": "a", "data": 1}, "data must be bytes, not an integer"),
        ({"name": "a", "inner": {"order": "next"}}, "inner.order must be first or last, not 'next'"),
        ({"name": "a", "several": [{}, {"order": "x"}]}, "several[1].order must be first or last, not 'x'"),
        ({"name": "a", "several": [{}, {}, {}]}, "several must have at most 2 elements"),
        (
            {"name": "a", "by_name": {"b": {"order": "x"}}},
            "by_name[...].order must be first or last, not 'x'",
        ),
        ({"name": "a", "by_name": {3: {}}}, "each key of by_name must be a string, not an integer"),
        ({"name": "a", "pair": [1, "b"]}, "pair[1] must be 2 or a, not 'b'"),
        ({"name": "a", "inner": {"cuont": 1}}, "inner cannot contain 'cuont', only order or count"),
        ({"x - at `$.y`": 1}, "it cannot contain 'x - at `$.y`', only name, size, share, flag"),
        (
            {"name": "a", "inner": {"order": "x - at `$.y`"}},
            "inner.order must be first or last, not 'x - at `$.y`'",
        ),
    ],
)
def test_a_wrong_value_is_explained(value: Any, words: str) -> None:
    with pytest.raises(msgspec.ValidationError) as raised:
        msgspec.msgpack.decode(msgspec.msgpack.encode(value), type=Outer)
    assert explain(raised.value, Outer, "it").startswith(words)


def test_other_problems_keep_their_words() -> None:
    class Even(msgspec.Struct):
        number: int

        def __post_init__(self) -> None:
            if self.number % 2:
                raise ValueError("it is odd")

    with pytest.raises(msgspec.ValidationError) as raised:
        msgspec.convert([{"number": 1}], list[Even])
    assert explain(raised.value, list[Even], "it") == "[0]: it is odd"


def test_a_long_value_is_cut() -> None:
    with pytest.raises(msgspec.ValidationError) as raised:
        msgspec.convert({"order": "x" * 10_000}, Inner)
    assert len(explain(raised.value, Inner, "it")) < 200
