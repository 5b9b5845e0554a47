"""A user without a home folder, as in a container that runs under an arbitrary user ID."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from whisperd import paths
from whisperd.rpc.errors import WhisperdError
from whisperd.service_manager.install import installed_manager

pytestmark = pytest.mark.skipif(os.name != "posix", reason="on other systems, every user has one")


@pytest.fixture(autouse=True)
def no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(_number: int) -> None:
        raise KeyError("uid not found")

    for name in [name for name in os.environ if name.startswith(("HOME", "XDG_", "WHISPERD_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setattr("pwd.getpwuid", unknown)


@pytest.mark.parametrize(
    "find", [paths.home, paths.config_file, paths.state_dir, paths.native_dir, paths.models_dir]
)
def test_a_missing_home_is_an_error_with_a_fix(find: Callable[[], Path]) -> None:
    with pytest.raises(WhisperdError) as caught:
        find()
    assert caught.value.code == "home.unknown"
    assert "HOME" in caught.value.fix


def test_explicit_folders_need_no_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WHISPERD_STATE_DIR", str(tmp_path))
    assert paths.state_dir() == tmp_path
    assert paths.socket_path().endswith("daemon.sock")
    assert installed_manager("/a/socket") is None, "nor does anything else at start need one"
