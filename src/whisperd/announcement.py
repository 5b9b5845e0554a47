"""What is wrong with what a plugin announces. Pure.

A plugin is written by others and read by everything that chooses a variant: what is of another kind than
it should be is found here, by its own name, and not later and elsewhere.
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
    """What is wrong with what the plugin of an entry point announced, each as the end of a sentence."""
    if not isinstance(backend, Backend):
        yield f"`whisperd_backend` answers with {_shown(backend)}, which is no Backend"
        return
    if not _matches(_NAME, backend.name) or backend.name == "auto":
        yield f"{_shown(backend.name)} is no name for a backend: small letters, digits and hyphens"
    elif backend.name != entry_name:
        yield f"the backend is called {backend.name}, and its entry point {entry_name}"
    if not _matches(_FUNCTION, backend.engine):
        yield f"its engine is {_shown(backend.engine)}, and not `module:function`"
    if backend.need_bytes is not None and not _is_function(backend.need_bytes):
        yield f"need_bytes is {_shown(backend.need_bytes)}, which is no function"
    yield from _format_faults(backend.model_format)
    if not isinstance(backend.variants, tuple | list) or not backend.variants:
        yield f"its variants are {_shown(backend.variants)}, and not a tuple of at least one"
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
        yield f"its model_format is {_shown(model_format)}, which is no ModelFormat"
        return
    if not _matches(_NAME, model_format.name):
        yield f"{_shown(model_format.name)} is no name for a model format"
    if not _matches(_FUNCTION, model_format.convert):
        yield f"the model format is made by {_shown(model_format.convert)}, and not by a `module:function`"
    if model_format.replaces is not None and not _are_texts([model_format.replaces]):
        yield f"the model format replaces {_shown(model_format.replaces)}, and not a file of a model"
    if model_format.read is not None and not _is_function(model_format.read):
        yield f"its model files are read by {_shown(model_format.read)}, which is no function"
    if not isinstance(model_format.magic, bytes) or (
        model_format.read is not None and not model_format.magic
    ):
        yield f"its model files begin with {_shown(model_format.magic)}, and not with some bytes"


def _variant_faults(variant: object, backend_name: str) -> Iterator[str]:
    if not isinstance(variant, Variant):
        yield f"among its variants is {_shown(variant)}, which is no Variant"
        return
    if not _matches(_NAME, variant.name) or not variant.name.startswith(f"{backend_name}-"):
        yield f"a variant is called {_shown(variant.name)}, and not {backend_name}-HARDWARE"
    if variant.lock is not None and not _are_texts([variant.lock]):
        yield f"the lock of {variant.name} is {_shown(variant.lock)}, and not the text of a lock file"
    if variant.device not in DEVICES:
        yield f"the device of {variant.name} is {_shown(variant.device)}, and not {' or '.join(DEVICES)}"
    if not _are_numbers([variant.priority]):
        yield f"the priority of {variant.name} is {_shown(variant.priority)}, and no whole number"
    if not _are_texts(variant.compute_types) or not variant.compute_types:
        yield f"the compute types of {variant.name} are {_shown(variant.compute_types)}, and not a tuple"
    elif unknown := [kind for kind in variant.compute_types if kind not in COMPUTE_TYPES]:
        yield f"{variant.name} has the compute type {unknown[0]}; there are {', '.join(COMPUTE_TYPES)}"
    if variant.converts is not None and not _are_texts(variant.converts):
        yield f"{variant.name} converts {_shown(variant.converts)}, and not a tuple of compute types"
    if not _are_variables(variant.environment):
        yield f"the environment of {variant.name} is {_shown(variant.environment)}, and no map of texts"
    if variant.build is not None and not (_are_variables(variant.build) and variant.lock):
        yield f"the build of {variant.name} is {_shown(variant.build)}, and no map of texts beside a lock"
    yield from _needs_faults(variant)


def _needs_faults(variant: Variant) -> Iterator[str]:
    needs: object = variant.needs
    if not isinstance(needs, Needs):
        yield f"the needs of {variant.name} are {_shown(needs)}, and no Needs"
        return
    for field_name in ("platforms", "cpu_features", "frameworks"):
        if not _are_texts(value := getattr(needs, field_name)):
            yield f"{variant.name} needs {field_name} {_shown(value)}, and not a tuple of names"
    if needs.cuda is not None and not (_are_numbers(needs.cuda) and len(needs.cuda) == 2):
        yield f"{variant.name} needs cuda {_shown(needs.cuda)}, and not two numbers such as (12, 0)"


def _matches(pattern: re.Pattern[str], value: object) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None


def _are_texts(value: object) -> bool:
    """Whether it is a list of texts. One text alone is not: a comma was forgotten."""
    return isinstance(value, tuple | list) and all(isinstance(one, str) for one in value)


def _are_numbers(value: object) -> bool:
    return isinstance(value, tuple | list) and all(isinstance(one, int) for one in value)


def _is_function(value: object) -> bool:
    return callable(value)


def _are_variables(value: object) -> bool:
    return isinstance(value, Mapping) and _are_texts([*value, *value.values()])


def _shown(value: object) -> str:
    return f"`{value!r:.80}`"
