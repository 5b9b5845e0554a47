"""The kinds of input, and how each is encoded in a request."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whisperd.client.inputs import (
    UPLOAD_PIECE_BYTES,
    input_params,
    is_path,
    model_name,
    option_params,
    pieces,
)
from whisperd.rpc.errors import WhisperdError

posix = pytest.mark.skipif(os.name != "posix", reason="names and pipes as on POSIX")


def test_a_path_is_sent_as_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert input_params("a/../b.wav") == {"path": str(tmp_path / "b.wav")}
    assert input_params(Path("b.wav")) == {"path": str(tmp_path / "b.wav")}


@posix
def test_a_path_that_is_not_utf8_is_sent_as_bytes() -> None:
    assert input_params("/caf\udce9.wav") == {"path_bytes": b"/caf\xe9.wav"}


def test_an_empty_path_is_refused() -> None:
    with pytest.raises(WhisperdError) as caught:
        input_params("")
    assert caught.value.code == "audio.not_found"


def test_a_url_is_refused_with_a_command_that_downloads_it() -> None:
    with pytest.raises(WhisperdError) as caught:
        input_params("https://localhost/a.wav")
    assert caught.value.code == "audio.not_found"
    assert "https://localhost/a.wav is a URL" in caught.value.message and "curl" in caught.value.fix


@posix
def test_an_existing_file_may_be_named_like_a_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a:").mkdir()
    (tmp_path / "a:" / "b.wav").touch()
    assert input_params("a://b.wav") == {"path": str(tmp_path / "a:" / "b.wav")}


@posix
def test_the_daemon_opens_files_and_the_client_opens_pipes(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").touch()
    assert is_path(tmp_path / "file")
    assert is_path(str(tmp_path / "missing"))
    assert is_path("/dev/zero")
    assert not is_path(tmp_path / "pipe")
    assert not is_path(b"RIFF")
    assert not is_path(io.BytesIO())


@given(st.binary(max_size=3 * UPLOAD_PIECE_BYTES))
def test_the_chunks_add_up_to_the_content(content: bytes) -> None:
    for source in (content, bytearray(content), memoryview(content), io.BytesIO(content)):
        parts = list(pieces(source))
        assert b"".join(parts) == content
        assert all(0 < len(part) <= UPLOAD_PIECE_BYTES for part in parts)


def test_a_path_is_opened_to_be_sent(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"RIFF")
    for path in (tmp_path / "a.wav", str(tmp_path / "a.wav")):
        assert list(pieces(path)) == [b"RIFF"]
    with pytest.raises(WhisperdError) as caught:
        list(pieces(tmp_path / "b.wav"))
    assert caught.value.code == "audio.not_readable" and "b.wav" in caught.value.message


def test_a_file_in_text_mode_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="binary mode"):
        list(pieces(io.StringIO("RIFF")))  # type: ignore[arg-type]


def test_an_invalid_input_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="not int"):
        list(pieces(12))  # type: ignore[arg-type]


def test_options_at_their_default_are_not_sent() -> None:
    assert option_params({"model": None, "language": None, "vad": False}) == {"vad": False}
    assert option_params({"temperature": 0.5}) == {"temperature": [0.5]}
    assert option_params({"temperature": (0, 0.5)}) == {"temperature": (0, 0.5)}
    assert option_params({"model": Path("mine")}) == {"model": str(Path.cwd() / "mine")}


def test_a_model_folder_is_sent_as_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    for name in ("./mine", Path("mine"), "~/mine", str(tmp_path / "mine")):
        assert model_name(name) == str(tmp_path / "mine")
    assert model_name(".") == str(tmp_path)


def test_an_existing_model_file_or_folder_is_sent_as_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("mine", "empty"):
        (tmp_path / "models" / name).mkdir(parents=True)
    for name in ("ggml-base.bin", "mine/model.bin", "file"):
        (tmp_path / "models" / name).touch()
    (tmp_path / "base").touch()
    assert model_name("models/ggml-base.bin") == str(tmp_path / "models" / "ggml-base.bin")
    assert model_name("models/ggml-tiny.bin") == "models/ggml-tiny.bin"
    assert model_name("models/mine") == str(tmp_path / "models" / "mine")
    for name in ("models/other", "models/empty", "models/file"):
        assert model_name(name) == name, "it may be on the hub"
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "model.bin").touch()
    for name in ("models", "base", "tiny"):
        assert model_name(name) == name, "it may be in the catalogue"
    assert model_name("models/mine", is_in_store=True) == "models/mine"
    assert model_name("./models/mine", is_in_store=True) == str(tmp_path / "models" / "mine")


@pytest.mark.parametrize("name", ["tiny.en", "Systran/faster-whisper-base", "owner/name@main", ".hidden"])
def test_other_model_names_are_sent_unchanged(name: str) -> None:
    assert model_name(name) == name
