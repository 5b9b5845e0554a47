"""A user's own model files: how they are recognised, used in place and imported."""

from __future__ import annotations

import errno
import functools
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import pytest

from ggml_models import ggml_model
from whisperd.models import ModelStore, files, shipped_catalogue
from whisperd.models.in_place import open_in_place
from whisperd.plugins import Backend, ModelFacts, ModelFormat
from whisperd.rpc.errors import WhisperdError
from whisperd_testing import unprivileged

pytestmark = pytest.mark.anyio

Make = Callable[[], ModelStore]
whole_model = functools.cache(ggml_model)


@pytest.fixture
def make(tmp_path: Path) -> Make:
    return lambda: ModelStore(tmp_path / "store", sources=[])


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "ggml-mine.en.bin"
    path.write_bytes(whole_model())
    return path


async def failure(store: ModelStore, path: Path) -> WhisperdError:
    with pytest.raises(WhisperdError) as caught:
        await store.find(str(path))
    return caught.value


async def test_a_file_is_used_in_place(make: Make, model: Path) -> None:
    found = await make().pull(str(model))
    assert (found.name, found.path, found.source) == (str(model), str(model), "file")
    assert found.facts is not None and found.facts.precision == "q4_0"
    assert (found.size, found.languages) == (model.stat().st_size, ("en",))
    assert found.memory is not None and 100e6 < found.memory < 300e6
    assert await make().facts(str(model)) == found.facts
    assert await make().parameters(str(model)) == found.facts.parameters
    with pytest.raises(WhisperdError) as caught:
        await make().remove(str(model))
    assert caught.value.code == "model.in_place" and model.exists()


@pytest.mark.parametrize(("vocabulary", "name"), [(51_865, "base"), (51_866, "large-v3")])
async def test_a_file_has_the_languages_of_its_model_size(
    make: Make, model: Path, vocabulary: int, name: str
) -> None:
    model.write_bytes(ggml_model(vocabulary=vocabulary))
    known = shipped_catalogue().find(name)
    assert known is not None
    assert (await make().describe(str(model))).languages == known.languages


async def test_only_model_files_have_facts(make: Make, tmp_path: Path) -> None:
    for name in ("base", "unheard-of", "Someone/model", str(tmp_path), str(tmp_path / "nothing")):
        assert await make().facts(name) is None


@pytest.mark.parametrize(
    ("begins", "said"),
    [
        (b"", "it is empty"),
        (b"GGUF\3\0\0\0", "GGUF"),
        (b"tjgg\3\0\0\0", "llama.cpp"),
        (b"PK\x03\x04model/data.pkl", "PyTorch"),
        (b"\x80\x02\x8a\x0al\xfc", "PyTorch"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:", "Git LFS"),
        (b"<!DOCTYPE html>", "a web page"),
        (b"\6\0\0\0\x0c\0WhisperSpec\0", "only one file of a model"),
        (b"lmgg", "cut off"),
        (b"lmg", "recognises its format"),
        (b"\xff" * 99, "recognises its format"),
    ],
)
async def test_a_file_that_is_no_model_is_identified(
    make: Make, model: Path, begins: bytes, said: str
) -> None:
    model.write_bytes(begins)
    error = await failure(make(), model)
    assert error.code == "model.invalid_file"
    assert said in error.message and str(model) in error.message and error.fix


async def test_a_missing_file_is_an_unknown_model(make: Make, model: Path) -> None:
    model.unlink()
    error = await failure(make(), model)
    assert (error.code, "does not exist" in error.message) == ("model.unknown", True)
    for other in (model.with_name("ggml"), model / "below.bin", Path(f"{model}\0.bin")):
        assert (await failure(make(), other)).code == "model.unknown"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such files")
async def test_devices_pipes_and_link_loops_are_refused_without_blocking(make: Make, tmp_path: Path) -> None:
    pipe, link, loop = (tmp_path / name for name in ("pipe.bin", "link.bin", "loop.bin"))
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    loop.symlink_to(loop)
    for path in (pipe, link, Path("/dev/null")):
        error = await failure(make(), path)
        assert (error.code, "a device or a pipe" in error.message) == ("model.invalid_file", True)
    error = await failure(make(), loop)
    assert (error.code, os.strerror(errno.ELOOP) in error.message) == ("model.invalid_file", True)


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege there")
async def test_a_link_to_a_file_is_followed(make: Make, model: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(model)
    assert (await make().pull(str(link))).path == str(link)
    model.unlink()
    assert (await failure(make(), link)).code == "model.unknown"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such permissions")
async def test_an_unreadable_file_is_reported(make: Make, model: Path) -> None:
    model.chmod(0)
    with unprivileged(), pytest.raises(WhisperdError) as caught:
        files.open_file(model)
    assert caught.value.code == "model.invalid_file"
    assert "cannot be read" in caught.value.message


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such permissions")
@pytest.mark.parametrize("name", ["model", "ggml-tiny.bin"])
async def test_a_model_below_a_private_folder_of_another_user_is_explained(name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:  # `tmp_path` is below a private folder of root itself
        private = Path(folder) / "private"
        private.mkdir()
        Path(folder).chmod(0o755)
        private.chmod(0)
        with unprivileged(), pytest.raises(WhisperdError) as caught:
            await open_in_place(str(private / name))
    assert caught.value.code == ("model.invalid_file" if name.endswith(".bin") else "model.invalid_folder")
    assert "Permission denied" in caught.value.message


def reading(monkeypatch: pytest.MonkeyPatch, read: Callable[[BinaryIO, int], ModelFacts] | None) -> None:
    """Register a single backend, which reads files that begin with `toy`."""
    made = ModelFormat(name="toy", convert="toy:convert", magic=b"toy", read=read)
    backend = Backend(name="toy", engine="toy:load", variants=(), model_format=made)
    monkeypatch.setattr(files, "backends", lambda: (backend,))


FACTS = ModelFacts(format="toy", precision="int8", compute_type="int8", parameters=1000, language_count=1)


async def test_a_file_that_changes_while_it_is_read_is_refused(
    make: Make, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(file: BinaryIO, size: int) -> ModelFacts:
        if size == 3:
            model.write_bytes(b"toy and more")
        return FACTS

    reading(monkeypatch, read)
    model.write_bytes(b"toy")
    error = await failure(make(), model)
    assert (error.code, "changed while it was read" in error.message) == ("model.invalid_file", True)
    assert (await make().find(str(model))) is not None  # it has stopped changing


async def test_a_format_without_single_file_models_is_not_recognised(
    make: Make, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading(monkeypatch, None)
    model.write_bytes(b"toy")
    assert "recognises its format" in (await failure(make(), model)).message


async def test_a_changed_file_has_another_identity(make: Make, model: Path) -> None:
    before = await make().identity(str(model))
    (model.parent / "other.bin").write_bytes(b"what lies beside it changes nothing")
    assert await make().identity(str(model)) == before
    model.write_bytes(ggml_model("q5_0"))
    assert await make().identity(str(model)) != before


# Imports


async def test_a_file_is_imported_under_its_file_name(make: Make, model: Path) -> None:
    data = model.read_bytes()
    imported = await make().import_model(model)
    model.unlink()
    assert imported.name == "ggml-mine.en"
    assert Path(imported.path).read_bytes() == data
    store = make()
    (listed,) = await store.list()
    assert (listed.name, listed.path, listed.verified) == ("ggml-mine.en", imported.path, True)
    assert listed.facts == imported.facts is not None
    assert (listed.memory, listed.languages) == (imported.memory, ("en",))
    assert await store.pull("ggml-mine.en") == imported == await store.verify("ggml-mine.en")
    assert await store.facts("ggml-mine.en") == imported.facts
    assert len(await store.identity("ggml-mine.en")) == 64
    assert await store.remove("ggml-mine.en") == len(data)
    assert await store.list() == ()
    assert not any((store.root / "blobs").iterdir())


async def test_importing_the_same_file_repairs_a_damaged_import(make: Make, model: Path) -> None:
    imported = await make().import_model(model, "mine")
    blob = Path(imported.path).resolve()
    data = bytearray(blob.read_bytes())
    data[-1] ^= 1
    blob.write_bytes(data)
    assert await make().find("mine") is None
    with pytest.raises(WhisperdError) as caught:
        await make().path("mine")
    assert (caught.value.code, caught.value.data["files"]) == ("model.damaged", ["model.ggml"])
    repaired = await make().import_model(model, "mine")
    assert repaired.facts == imported.facts and repaired.verified


@pytest.mark.parametrize(
    ("name", "code"),
    [("base", "model.invalid_name"), ("a/b", "model.invalid_name"), ("taken", "model.exists")],
)
async def test_an_unusable_import_name_is_refused(make: Make, model: Path, name: str, code: str) -> None:
    await make().import_model(model, "taken")
    with pytest.raises(WhisperdError) as caught:
        await make().import_model(model, name)
    assert caught.value.code == code and caught.value.fix


async def test_a_file_that_changes_while_it_is_copied_is_not_imported(
    make: Make, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(file: BinaryIO, size: int) -> ModelFacts:
        parameters = os.fstat(file.fileno()).st_size
        if Path(file.name) == model:  # and not the copy
            model.write_bytes(b"toy, and then some")
        return replace(FACTS, parameters=parameters)

    reading(monkeypatch, read)
    monkeypatch.setattr(files, "_mark", lambda _: (3, 0))  # it changes right after the last check
    model.write_bytes(b"toy")
    with pytest.raises(WhisperdError) as caught:
        await make().import_model(model, "mine")
    assert (caught.value.code, "while it was copied" in caught.value.message) == ("model.invalid_file", True)
    assert await make().list() == ()
