"""Says in plain words why a value is not of the type that was expected."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import msgspec

__all__ = ["explain"]

_NOUNS: Final = {
    "int": "an integer",
    "float": "a number",
    "str": "a string",
    "bytes": "bytes",
    "bool": "true or false",
    "array": "an array",
    "object": "a map",
}
_GIVEN: Final = _NOUNS | {"float": "a float", "bool": "a boolean", "None": "null"}
_BOUNDS: Final = {"<=": "at most", ">=": "at least", "<": "less than", ">": "more than"}
_PLACE: Final = re.compile(r" - at `(key` in `)?\$\.?([^`]*)`\Z")
_STEP: Final = re.compile(r"\[[^\]]*\]|[^.\[\]]+")
_MAX_SHOWN: Final = 100


def explain(error: msgspec.ValidationError, expected: Any, whole: str) -> str:
    """Return what is wrong with a value that is not of the type `expected`: "beam_size must be at most 16".

    `whole` is what to call the value itself. Problems not known here keep msgspec's words.
    """
    problem, path, subject = str(error), "", whole
    if place := _PLACE.search(problem):
        problem, path = problem[: place.start()], place[2]
        subject = f"each key of {path or whole}" if place[1] else path or whole
    if missing := re.fullmatch(r"Object missing required field `(\w+)`", problem):
        return f"{path}.{missing[1]} is missing" if path else f"{missing[1]} is missing"
    if wanted := _wanted(problem) or _allowed(problem, expected, path):
        return f"{subject} {wanted}"
    return f"{subject}: {problem}"


def _wanted(problem: str) -> str | None:
    """Return what a value must be, if its type or its size is wrong."""
    if found := re.fullmatch(r"Expected `([\w |]+)`(?:, got `(\w+)`)?", problem):
        wanted = _either([_NOUNS[kind] for kind in found[1].split(" | ") if kind in _NOUNS])
        return f"must be {wanted}{f', not {_GIVEN.get(found[2], found[2])}' if found[2] else ''}"
    if found := re.fullmatch(r"Expected `(\w+)` (of length )?([<>]=?) (\S+)", problem):
        kind, is_length, bound, limit = found.groups()
        size = f"{_BOUNDS[bound]} {limit.removesuffix('.0')}"
        if is_length:
            return f"must have {size} {'characters' if kind == 'str' else 'elements'}"
        return f"must be {size}"
    return None


def _allowed(problem: str, expected: Any, path: str) -> str | None:
    """Return what is allowed at a place, if it has another value or contains another field."""
    kinds = list(_types_at(msgspec.inspect.type_info(expected), _STEP.findall(path)))
    if found := re.fullmatch("Invalid enum value (.*)", problem, re.DOTALL):
        values = [str(value) for kind in kinds for value in getattr(kind, "values", ())]
        return f"must be {_either(values)}, not {found[1][:_MAX_SHOWN]}"
    if found := re.fullmatch("Object contains unknown field `(.*)`", problem, re.DOTALL):
        fields = [field.encode_name for kind in kinds for field in getattr(kind, "fields", ())]
        return f"cannot contain {found[1][:_MAX_SHOWN]!r}, only {_either(fields)}"
    return None


def _either(choices: Sequence[str]) -> str:
    """Return the choices as people list them: "a", "a or b", "a, b or c"."""
    return " or ".join([", ".join(choices[:-1]), choices[-1]] if choices[1:] else choices)


def _types_at(info: msgspec.inspect.Type, steps: Sequence[str]) -> Iterator[msgspec.inspect.Type]:
    """Return the types that a value may have behind these fields, indices and keys."""
    if isinstance(info, msgspec.inspect.Metadata):
        info = info.type
    inner: Iterable[msgspec.inspect.Type] = ()
    match info:
        case msgspec.inspect.UnionType(types=inner):
            steps = ["", *steps]
        case _ if not steps:
            yield info
        case msgspec.inspect.StructType(fields=fields):
            inner = [field.type for field in fields if field.encode_name == steps[0]]
        case msgspec.inspect.TupleType(item_types=inner):
            pass
        case msgspec.inspect.DictType(value_type=kind) | msgspec.inspect.CollectionType(item_type=kind):
            inner = [kind]
    for one in inner:
        yield from _types_at(one, steps[1:])
