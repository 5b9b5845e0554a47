"""The translation of pip's output to errors about a bundle."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import pytest

from whisperd.natives.errors import pip_failed
from whisperd.pip import explain
from whisperd.rpc.errors import WhisperdError

RECORDED = Path(__file__).parent.parent / "data" / "pip"


def error_of(recording: str) -> WhisperdError:
    said = (RECORDED / f"{recording}.txt").read_text(encoding="utf-8").splitlines()
    return pip_failed("media", PurePosixPath("/native"), explain(said))


@pytest.mark.parametrize(
    ("recording", "code", "words"),
    [
        ("hash_mismatch", "native.hash_mismatch", "av==18.1.0"),
        ("no_version", "native.not_found", "av==18.1.0"),
        ("forbidden", "native.not_found", "av==18.1.0"),
        ("unreachable", "network.unreachable", "could not be reached"),
        ("server_error", "network.unreachable", "could not be reached"),
        ("incomplete", "network.unreachable", "could not be reached"),
        ("untrusted", "network.untrusted", "certificate"),
        ("disk_full", "disk.full", "/native"),
        ("read_only", "native.not_writable", "/native"),
        ("denied_windows", "native.not_writable", "/native"),
        ("no_pip", "native.no_pip", "no pip"),
        ("socks", "network.unreachable", "SOCKS"),
        ("exception", "native.install_failed", "division by zero"),
        ("silence", "native.install_failed", "without a message"),
    ],
)
def test_a_pip_failure_is_explained(recording: str, code: str, words: str) -> None:
    error = error_of(recording)
    assert error.code == code
    assert words in error.message
    assert error.fix
    assert error.data["name"] == "media"


def test_an_unknown_failure_quotes_pip() -> None:
    assert "ZeroDivisionError: division by zero" in error_of("exception").data["said"]
