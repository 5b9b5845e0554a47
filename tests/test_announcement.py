"""The mistakes in a plugin's announcement, and how each is reported."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whisperd.announcement import COMPUTE_TYPES, faults, names_a_module
from whisperd.installed_plugins import backends
from whisperd.plugins import Backend, ModelFormat, Needs, Variant

VARIANT = Variant(name="one-cpu", lock=None, device="cpu", priority=1, compute_types=("int8",))
BACKEND = Backend(
    name="one",
    engine="one.engine:load",
    variants=(VARIANT, replace(VARIANT, name="one-cuda", device="cuda", needs=Needs(cuda=(12, 0)))),
    need_bytes=lambda *_, **__: 1,
    model_format=ModelFormat(name="ggml", convert="one.convert:convert"),
)


def with_variant(**changes: Any) -> Backend:
    return replace(BACKEND, variants=(replace(VARIANT, **changes),))


def with_needs(**changes: Any) -> Backend:
    return with_variant(needs=Needs(**changes))


def test_valid_announcements_have_no_faults() -> None:
    assert list(faults(BACKEND, "one")) == []
    assert list(faults(replace(BACKEND, need_bytes=None, model_format=None, variants=[VARIANT]), "one")) == []
    assert list(faults(with_variant(lock="text", build={"GGML_BLAS": "ON"}), "one")) == []
    for kind in COMPUTE_TYPES:
        assert list(faults(with_variant(compute_types=(kind,)), "one")) == []


def test_our_own_backends_have_no_faults() -> None:
    assert backends()
    for backend in backends():
        assert list(faults(backend, backend.name)) == []


@pytest.mark.parametrize(
    ("announced", "words"),
    [
        ("one", "`'one'`, which is not a Backend"),
        (replace(BACKEND, name="One!"), "`'One!'` is not a valid name for a backend"),
        (replace(BACKEND, name="auto"), "`'auto'` is not a valid name for a backend"),
        (replace(BACKEND, name=1), "`1` is not a valid name"),
        (replace(BACKEND, engine="one.engine"), "not `module:function`"),
        (replace(BACKEND, need_bytes=5), "need_bytes is `5`"),
        (replace(BACKEND, model_format="ggml"), "which is not a ModelFormat"),
        (
            replace(BACKEND, model_format=ModelFormat(name="", convert="a:b")),
            "not a valid name for a model format",
        ),
        (
            replace(BACKEND, model_format=ModelFormat(name="g", convert="a:b", magic=b"g", read="r")),  # type: ignore[arg-type]
            "which is not a function",
        ),
        (
            replace(BACKEND, model_format=ModelFormat(name="g", convert="a:b", read=print)),  # type: ignore[arg-type]
            "not some bytes",
        ),
        (
            replace(BACKEND, model_format=ModelFormat(name="g", convert="a")),
            "its model_format.convert is `'a'`",
        ),
        (
            replace(BACKEND, model_format=ModelFormat(name="g", convert="a:b", replaces=1)),  # type: ignore[arg-type]
            "its model_format.replaces is `1`",
        ),
        (replace(BACKEND, variants=()), "a tuple of at least one"),
        (replace(BACKEND, variants=VARIANT), "a tuple of at least one"),
        (replace(BACKEND, variants=("one-cpu",)), "`'one-cpu'`, which is not a Variant"),
        (replace(BACKEND, variants=(VARIANT, VARIANT)), "two of its variants have the same name"),
        (with_variant(name="other-cpu"), "`'other-cpu'`, not one-HARDWARE"),
        (with_variant(name="one-"), "`'one-'`, not one-HARDWARE"),
        (with_variant(lock=b"format = 1"), "the lock of one-cpu"),
        (with_variant(device="tpu"), "`'tpu'`, not cpu or cuda"),
        (with_variant(priority="high"), "the priority of one-cpu"),
        (with_variant(converts="int8"), "one-cpu converts `'int8'`"),
        (with_variant(compute_types=()), "the compute types of one-cpu are `()`"),
        (with_variant(compute_types="int8"), "the compute types of one-cpu are `'int8'`, not a tuple"),
        (with_variant(compute_types=("int3",)), "the compute type int3, not one of int8,"),
        (with_variant(compute_types=("auto",)), "the compute type auto, not one of int8,"),
        (with_variant(environment={"THREADS": 1}), "the environment of one-cpu"),
        (with_variant(environment=None), "the environment of one-cpu"),
        (with_variant(build={"A": "1"}), "one-cpu has a build but no lock"),
        (with_variant(needs=None), "not a Needs"),
        (
            with_needs(platforms="linux-x86_64"),
            "platforms of one-cpu are `'linux-x86_64'`, not a tuple of names",
        ),
        (with_needs(cpu_features=(1,)), "cpu_features of one-cpu are `(1,)`"),
        (with_needs(frameworks=None), "frameworks of one-cpu are `None`"),
        (with_needs(cuda="12"), "cuda of one-cpu is `'12'`, not two numbers"),
        (with_needs(cuda=(12,)), "cuda of one-cpu is `(12,)`, not two numbers"),
    ],
)
def test_each_mistake_is_reported(announced: Any, words: str) -> None:
    name = announced.name if isinstance(announced, Backend) else "one"
    assert words in next(faults(announced, name))


def test_a_backend_must_have_the_name_of_its_entry_point() -> None:
    assert list(faults(BACKEND, "two")) == ["the backend is called one, but its entry point two"]


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.tuples(inner) | st.dictionaries(st.text(max_size=3), inner)
    ),
    max_leaves=5,
)


@pytest.mark.hypothesis  # the property is defined inside the test
@pytest.mark.parametrize("make", [Backend, Variant, Needs, ModelFormat])
def test_arbitrary_values_never_raise(make: Callable[..., Any]) -> None:
    names = [field.name for field in fields(make)]  # type: ignore[arg-type]

    @given(st.fixed_dictionaries(dict.fromkeys(names, ANYTHING)))
    def check(values: dict[str, Any]) -> None:
        made = make(**values)
        announced = {
            Backend: lambda: made,
            Variant: lambda: replace(BACKEND, variants=(made,)),
            Needs: lambda: with_variant(needs=made),
            ModelFormat: lambda: replace(BACKEND, model_format=made),
        }[make]()
        assert all(isinstance(fault, str) for fault in faults(announced, "one"))

    check()


@pytest.mark.parametrize(
    ("value", "is_one"),
    [("a", True), ("a.b_c", True), ("a:b", True), ("", False), ("a b", False), (":a", False), ("1a", False)],
)
def test_module_names_are_recognised(value: str, is_one: bool) -> None:
    assert names_a_module(value) is is_one
