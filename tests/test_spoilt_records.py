"""Corrupted small files that whisperd reads: each is read, ignored, or refused with an explanation."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fuzzing import CHANGES, Change, spoil
from whisperd.audio import media_lock
from whisperd.models.folders import open_folder
from whisperd.models.hashing import Stamp
from whisperd.models.manifest import Manifest, StoredFile, Verified
from whisperd.models.storage import Storage
from whisperd.natives.bundle import read_installed
from whisperd.natives.choice import Choice, Chosen, read_choice
from whisperd.natives.lock import parse_lock
from whisperd.natives.manifest import DESCRIPTION, MANIFEST, compare
from whisperd.rpc.errors import WhisperdError
from whisperd.running import read_running
from whisperd.settings import load_settings, settings_template

SHA256 = "0123456789abcdef" * 4
VERIFIED = Verified(SHA256, Stamp(7, 8, 9, 10))
MODEL = Manifest(name="é", source="hub", files=(StoredFile(name="model.bin", size_bytes=7, sha256=SHA256),))


class Record(NamedTuple):
    """A file's name, its valid content, and the function that reads it from its folder."""

    name: str
    whole: bytes
    read: Callable[[Path], Any]


def json_of(value: object) -> bytes:
    return msgspec.json.encode(value)


RECORDS = {
    "settings": Record(
        "config.toml",
        settings_template().replace("# ", "").encode(),
        lambda folder: load_settings(folder / "config.toml"),
    ),
    "lock": Record(
        "media.lock",
        media_lock()[:6000].encode(),
        lambda folder: parse_lock((folder / "media.lock").read_bytes().decode(errors="replace")),
    ),
    "choice": Record(
        "choice.json",
        json_of(Choice(current=Chosen(folder="1-é", lock="format = 1"))),
        lambda folder: read_choice(folder / "choice.json"),
    ),
    "description of a bundle": Record(
        DESCRIPTION,
        json_of(
            {
                **dict.fromkeys(("name", "version", "python", "digest"), "é"),
                "size_bytes": 7,
                "distributions": {"é": "1"},
            }
        ),
        read_installed,
    ),
    "manifest of a bundle": Record(MANIFEST, f"{SHA256}  é.so\n".encode(), compare),
    "manifest of a model": Record(
        "manifests/é.json", json_of(MODEL), lambda folder: Storage(folder).manifests()
    ),
    "stamps of a model": Record(
        "stamps/é.json", json_of({"é": VERIFIED}), lambda folder: Storage(folder).changed("é", MODEL)
    ),
    "who is running": Record("daemon.json", b'{"pid": 7, "socket": "\xc3\xa9"}', read_running),
    "config of a model": Record("config.json", json.dumps({"é": [1]}).encode(), open_folder),
}
DIGITS, DEPTH = 5000, 3000
"""More digits than Python accepts in a number, and deeper than its recursion limit."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the other files of a model."""
    for name in ("model.bin", "tokenizer.json", "vocabulary.txt"):
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


@pytest.mark.parametrize("record", RECORDS.values(), ids=list(RECORDS))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=CHANGES | st.binary(max_size=50))
@example(changes=b'{"\xc3\xa9": "\xff"}')
@example(changes=b'{"\xc3\xa9": ' + b"[" * DEPTH)
@example(changes=b'{"pid": 1e999, "socket": ""}')
@example(changes=b"format = " + b"9" * DIGITS)
@example(changes=b"format = " + b"[" * DEPTH)
@example(changes=[])
def test_a_corrupted_record_is_read_ignored_or_refused(
    record: Record, folder: Path, changes: list[Change] | bytes
) -> None:
    path = folder / record.name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(changes if isinstance(changes, bytes) else spoil(record.whole, changes))
    try:
        record.read(folder)
    except WhisperdError as error:
        assert error.message and error.fix


@pytest.mark.parametrize("record", RECORDS.values(), ids=list(RECORDS))
def test_a_single_invalid_byte_is_tolerated_or_refused(record: Record, folder: Path) -> None:
    """As a failing disk may corrupt a letter; tried at each place."""
    path = folder / record.name
    path.parent.mkdir(exist_ok=True)
    for place in range(min(len(record.whole), 600)):
        path.write_bytes(record.whole[:place] + b"\xff" + record.whole[place + 1 :])
        try:
            record.read(folder)
        except WhisperdError as error:
            assert error.message and error.fix
