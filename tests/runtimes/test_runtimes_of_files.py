"""Runtimes whose model is one file in a backend's own format."""

from __future__ import annotations

import pytest

from whisperd.installed_plugins import find_variant
from whisperd.plugins import Backend, ModelFacts, ModelFormat, Variant
from whisperd.rpc.errors import WhisperdError
from whisperd.runtimes.file_models import as_stored, narrowed, variants_for
from whisperd.runtimes.preset import RuntimeChanges, RuntimePreset

FACTS = ModelFacts(format="ggml", precision="q5_0", compute_type="int8", parameters=10**8, language_count=99)
UNREAD = ModelFacts(format="other", precision="x", compute_type="int8", parameters=1, language_count=1)


def preset(**fields: str) -> RuntimePreset:
    return RuntimePreset(id="1", name="mine", model="/m.bin", created="", changed="", **fields)  # type: ignore[arg-type]


def pair(name: str) -> tuple[Backend, Variant]:
    found = find_variant(name)
    assert found is not None
    return found


def test_the_compute_type_is_left_to_the_file_unless_given() -> None:
    changes = RuntimeChanges(name="mine", model="/m.bin")
    assert as_stored(changes, None) == changes
    assert as_stored(changes, FACTS).compute_type == "auto"
    said = RuntimeChanges(name="mine", model="/m.bin", compute_type="float16")
    assert as_stored(said, FACTS) == said


@pytest.mark.parametrize("fields", [{}, {"backend": "whispercpp"}, {"compute_type": "int8"}])
def test_a_file_implies_its_backend(fields: dict[str, str]) -> None:
    found = narrowed(preset(**fields), FACTS)
    assert (found.backend, found.compute_type) == ("whispercpp", "auto")
    assert narrowed(preset(**fields), None) == preset(**fields)


@pytest.mark.parametrize(
    ("fields", "field", "said", "fix"),
    [
        ({"backend": "ctranslate2"}, "backend", "ctranslate2 cannot load /m.bin", "Use auto or whispercpp."),
        ({"compute_type": "float16"}, "compute_type", "stored as q5_0", "Use auto or int8."),
    ],
)
def test_another_backend_or_compute_type_is_refused(
    fields: dict[str, str], field: str, said: str, fix: str
) -> None:
    with pytest.raises(WhisperdError) as raised:
        narrowed(preset(**fields), FACTS)
    assert (raised.value.code, raised.value.data["field"]) == ("runtime.invalid", field)
    assert said in raised.value.message and raised.value.fix == fix


def test_only_backends_that_load_the_file_are_tried() -> None:
    usable = [pair("ctranslate2-cpu"), pair("whispercpp-avx"), pair("whispercpp-generic")]
    assert variants_for(preset(), None, usable) == usable
    able = variants_for(preset(), FACTS, usable)
    assert [variant.name for _, variant in able] == ["whispercpp-avx", "whispercpp-generic"]
    assert {variant.compute_types for _, variant in able} == {("int8",)}


def test_a_file_that_no_backend_loads_is_an_error() -> None:
    with pytest.raises(WhisperdError) as raised:
        narrowed(preset(), UNREAD)
    assert raised.value.code == "backend.not_usable"
    with pytest.raises(WhisperdError) as raised:
        variants_for(preset(), FACTS, [pair("ctranslate2-cpu")])
    assert raised.value.code == "backend.not_usable" and "/m.bin" in raised.value.message


def test_several_backends_may_load_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    made = ModelFormat(name="ggml", convert="other:convert")
    both = [pair("whispercpp-avx")[0], Backend(name="other", engine="o:o", variants=(), model_format=made)]
    monkeypatch.setattr("whisperd.runtimes.file_models.backends_for", lambda _: both)
    assert narrowed(preset(), FACTS).backend == "auto"
    assert narrowed(preset(backend="other"), FACTS).backend == "other"
