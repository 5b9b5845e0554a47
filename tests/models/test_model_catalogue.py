"""The shipped catalogue, and the meaning of model names."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from whisperd.models import shipped_catalogue
from whisperd.models.names import is_path, is_plain, key_of, resolve
from whisperd.models.sources.base import missing_names
from whisperd.rpc.errors import WhisperdError

CATALOGUE = shipped_catalogue()


def never(_: str) -> bool:
    return False


def test_the_catalogue_has_every_size() -> None:
    names = {model.name for model in CATALOGUE.models}
    sizes = {"tiny", "tiny.en", "base", "base.en", "small", "small.en", "medium", "medium.en"}
    large = {"large-v1", "large-v2", "large-v3", "large-v3-turbo"}
    distilled = {"small.en", "medium.en", "large-v2", "large-v3", "large-v3.5"}
    assert names == sizes | large | {f"distil-{name}" for name in distilled}
    assert [CATALOGUE.find(name).name for name in ("turbo", "large", "TINY.en")] == [  # type: ignore[union-attr]
        "large-v3-turbo",
        "large-v3",
        "tiny.en",
    ]


@pytest.mark.parametrize("model", CATALOGUE.models, ids=lambda model: model.name)
def test_an_entry_is_complete(model) -> None:  # type: ignore[no-untyped-def]
    assert model.revision is not None and len(model.revision) == 40
    assert model.size_bytes is not None and model.licence == "MIT"
    if model.files:
        assert missing_names({file.name for file in model.files}) == []
        weights = next(file for file in model.files if file.name == "model.bin")
        assert weights.sha256 is not None
        # The weights are stored as float16.
        assert weights.size_bytes == pytest.approx(model.parameters_millions * 2e6, rel=0.05)
    assert model.english_only == (model.languages == ("en",))
    assert len(model.languages) in (1, 99, 100)
    needs = [model.memory_bytes(compute_type) for compute_type in ("int8", "float16", "float32")]
    assert needs == sorted(needs)
    assert model.memory_bytes("int8_float16") == model.memory_bytes("int8")


def test_equal_hashes_mean_equal_sizes() -> None:
    sizes: dict[str, set[int | None]] = {}
    for model in CATALOGUE.models:
        for file in model.files:
            if file.sha256:
                sizes.setdefault(file.sha256, set()).add(file.size_bytes)
    assert all(len(each) == 1 for each in sizes.values())


def test_packages_contain_every_file() -> None:
    packaged = {model.name: model for model in CATALOGUE.models if model.package}
    assert set(packaged) == {"tiny.en", "base"}
    for model in packaged.values():
        assert model.package is not None
        assert set(model.package.members) == {file.name for file in model.files}
        assert all(file.sha256 and file.size_bytes for file in model.files)


@pytest.mark.parametrize(
    ("name", "near"),
    [("larg-v3", "large-v3"), ("smal", "small"), ("tiny_en", "tiny.en"), ("turbo-v3", "turbo")],
)
def test_similar_names_are_suggested(name: str, near: str) -> None:
    with pytest.raises(WhisperdError) as caught:
        resolve(name, CATALOGUE, never)
    assert near in caught.value.data["near"]
    assert caught.value.fix.startswith("Did you mean ") and near in caught.value.fix


def test_nothing_is_suggested_for_a_name_like_no_other() -> None:
    with pytest.raises(WhisperdError) as caught:
        resolve("xyzzy", CATALOGUE, never)
    assert caught.value.fix.startswith("`whisperctl models available` lists the names; ")


def test_a_repository_may_have_a_revision() -> None:
    found = resolve("Some-One/whisper_x.y@refs/pr/3", CATALOGUE, never)
    assert (found.repo, found.revision) == ("Some-One/whisper_x.y", "refs/pr/3")
    assert found.key == "Some-One--whisper_x.y@refs--pr--3"
    assert resolve("Systran/faster-whisper-base", CATALOGUE, never).name == "base"


@pytest.mark.parametrize("name", ["/models/x", "./x", "../x", "~/x", "~", ".", ".."])
def test_paths_denote_folders(name: str) -> None:
    assert is_path(name)


@given(st.text())
def test_any_text_is_a_model_name_or_an_error(name: str) -> None:
    try:
        found = resolve(name, CATALOGUE, lambda _: True)
    except WhisperdError as error:
        assert error.code == "model.unknown" and error.fix
    else:
        assert not {"/", "\\", "\0", ":"} & set(found.key)
        assert not found.key.startswith(".")
        assert ".." not in found.key.split("--")


NAMES = st.from_regex(
    r"[a-zA-Z0-9._-]{1,20}(/[a-zA-Z0-9._-]{1,20})?(@[a-zA-Z0-9._/-]{1,10})?", fullmatch=True
)


@given(NAMES, NAMES)
@example("a/b--c", "a--b/c")
@example("a/b@c--d", "a/b@c/d")
def test_different_models_have_different_keys(first: str, second: str) -> None:
    references = []
    for name in (first, second):
        try:
            references.append(resolve(name, CATALOGUE, is_plain))
        except WhisperdError:
            return
    if references[0].key == references[1].key:
        assert references[0].name == references[1].name
    assert key_of(references[0].name) == references[0].key


def test_the_daemon_does_not_import_the_childs_libraries() -> None:
    code = "import sys, whisperd.models; print({'huggingface_hub', 'httpx', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
