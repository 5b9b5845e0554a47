"""Validates what a plugin announces. Pure.

A plugin is written by third parties, and everything that chooses a variant reads what it announces: a value
of the wrong type is reported here, with its name, rather than later and elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final, get_args

from whisperd.plugins import Backend, ModelFormat, Needs, Variant
from whisperd.worker.protocol import ComputeType

__all__ = ["COMPUTE_TYPES", "DEVICES", "faults", "names_a_module"]

COMPUTE_TYPES: Final = tuple(kind for kind in get_args(ComputeType) if kind != "auto")
DEVICES: Final = ("cpu", "cuda")

_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_MODULE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*(:\w+)?", re.ASCII)
_FUNCTION = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:\w+", re.ASCII)


def names_a_module(value: str) -> bool:
    """Whether the value of an entry point is `module` or `module:attribute`."""
    return _MODULE.fullmatch(value) is not None


def faults(backend: object, entry_name: str) -> Iterator[str]:
    """Yield each fault of what the plugin of an entry point announced, as the end of a sentence."""
    if not isinstance(backend, Backend):
        yield f"`whisperd_backend` returns {_shown(backend)}, which is not a Backend"
        return
    if not _matches(_NAME, backend.name) or backend.name == "auto":
        yield (
            f"{_shown(backend.name)} is not a valid name for a backend: use lower-case letters, digits and "
            "hyphens"
        )
    elif backend.name != entry_name:
        yield f"the backend is called {backend.name}, but its entry point {entry_name}"
    if not _matches(_FUNCTION, backend.engine):
        yield f"its engine is {_shown(backend.engine)}, not `module:function`"
    if backend.need_bytes is not None and not _is_function(backend.need_bytes):
        yield f"need_bytes is {_shown(backend.need_bytes)}, which is not a function"
    yield from _format_faults(backend.model_format)
    if not isinstance(backend.variants, tuple | list) or not backend.variants:
        yield f"its variants are {_shown(backend.variants)}, not a tuple of at least one"
        return
    for variant in backend.variants:
        yield from _variant_faults(variant, backend.name)
    names = [getattr(variant, "name", None) for variant in backend.variants]
    if any(names.count(name) > 1 for name in names):
        yield "two of its variants have the same name"


def _format_faults(model_format: object) -> Iterator[str]:
    if model_format is None:
        return
    if not isinstance(model_format, ModelFormat):
        yield f"its model_format is {_shown(model_format)}, which is not a ModelFormat"
        return
    if not _matches(_NAME, model_format.name):
        yield f"{_shown(model_format.name)} is not a valid name for a model format"
    if not _matches(_FUNCTION, model_format.convert):
        yield f"its model_format.convert is {_shown(model_format.convert)}, not `module:function`"
    if model_format.replaces is not None and not _are_texts([model_format.replaces]):
        yield f"its model_format.replaces is {_shown(model_format.replaces)}, not the name of a file"
    if model_format.read is not None and not _is_function(model_format.read):
        yield f"its model_format.read is {_shown(model_format.read)}, which is not a function"
    if not isinstance(model_format.magic, bytes) or (
        model_format.read is not None and not model_format.magic
    ):
        yield f"its model_format.magic is {_shown(model_format.magic)}, not some bytes"


def _variant_faults(variant: object, backend_name: str) -> Iterator[str]:
    if not isinstance(variant, Variant):
        yield f"its variants include {_shown(variant)}, which is not a Variant"
        return
    if not _matches(_NAME, variant.name) or not variant.name.startswith(f"{backend_name}-"):
        yield f"a variant is called {_shown(variant.name)}, not {backend_name}-HARDWARE"
    if variant.lock is not None and not _are_texts([variant.lock]):
        yield f"the lock of {variant.name} is {_shown(variant.lock)}, not the text of a lock file"
    if variant.device not in DEVICES:
        yield f"the device of {variant.name} is {_shown(variant.device)}, not {' or '.join(DEVICES)}"
    if not _are_numbers([variant.priority]):
        yield f"the priority of {variant.name} is {_shown(variant.priority)}, not a whole number"
    if not _are_texts(variant.compute_types) or not variant.compute_types:
        yield f"the compute types of {variant.name} are {_shown(variant.compute_types)}, not a tuple of names"
    elif unknown := [kind for kind in variant.compute_types if kind not in COMPUTE_TYPES]:
        yield f"{variant.name} has the compute type {unknown[0]}, not one of {', '.join(COMPUTE_TYPES)}"
    if variant.converts is not None and not _are_texts(variant.converts):
        yield f"{variant.name} converts {_shown(variant.converts)}, not a tuple of compute types"
    if not _are_variables(variant.environment):
        yield f"the environment of {variant.name} is {_shown(variant.environment)}, not a map of strings"
    if variant.build is not None and not _are_variables(variant.build):
        yield f"the build of {variant.name} is {_shown(variant.build)}, not a map of strings"
    elif variant.build is not None and not variant.lock:
        yield f"{variant.name} has a build but no lock"
    yield from _needs_faults(variant)


def _needs_faults(variant: Variant) -> Iterator[str]:
    needs: object = variant.needs
    if not isinstance(needs, Needs):
        yield f"the needs of {variant.name} are {_shown(needs)}, not a Needs"
        return
    for field_name in ("platforms", "cpu_features", "frameworks"):
        if not _are_texts(value := getattr(needs, field_name)):
            yield f"the needs.{field_name} of {variant.name} are {_shown(value)}, not a tuple of names"
    if needs.cuda is not None and not (_are_numbers(needs.cuda) and len(needs.cuda) == 2):
        yield f"the needs.cuda of {variant.name} is {_shown(needs.cuda)}, not two numbers such as (12, 0)"


def _matches(pattern: re.Pattern[str], value: object) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None


def _are_texts(value: object) -> bool:
    """Whether it is a list or tuple of strings. A single string is not: a comma was forgotten."""
    return isinstance(value, tuple | list) and all(isinstance(one, str) for one in value)


def _are_numbers(value: object) -> bool:
    return isinstance(value, tuple | list) and all(isinstance(one, int) for one in value)


def _is_function(value: object) -> bool:
    return callable(value)


def _are_variables(value: object) -> bool:
    return isinstance(value, Mapping) and _are_texts([*value, *value.values()])


def _shown(value: object) -> str:
    return f"`{value!r:.80}`"
