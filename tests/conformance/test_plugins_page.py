"""The example plugin in docs/plugins.md is built from the page, installed, used, and conforms."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from whisperd_testing import AUDIO, KENNEDY, RunningDaemon

pytestmark = pytest.mark.real

PAGE = Path(__file__).parents[2] / "docs" / "plugins.md"
BLOCK = re.compile(r"^`([\w./-]+)`:[^\n]*\n(?:[^\n]+\n)*\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks() -> dict[str, str]:
    """Return the files on the page, by path."""
    return dict(BLOCK.findall(PAGE.read_text("utf-8")))


def pip(*arguments: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments, "--no-deps", "--no-index"],
        check=True,
        capture_output=True,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the plugin installed from a wheel that is built from the page."""
    folder = tmp_path_factory.mktemp("plugin")
    for path, text in blocks().items():
        file = folder / "source" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, "utf-8")
    pip("wheel", "--no-build-isolation", "--wheel-dir", str(folder), str(folder / "source"))
    (wheel,) = folder.glob("*.whl")
    pip("install", "--target", str(folder / "site"), str(wheel))
    return folder / "site"


@pytest.fixture
def daemon(make_daemon: Callable[..., RunningDaemon], site: Path) -> RunningDaemon:
    return make_daemon(toy=False, env={"PYTHONPATH": str(site)}).start()


def test_the_page_contains_a_complete_plugin() -> None:
    files = blocks()
    assert set(files) == {
        "pyproject.toml",
        "whisperd_plain/__init__.py",
        "whisperd_plain/engine.py",
        "whisperd_plain/plain-cpu.lock",
    }
    code = [line for path, text in files.items() if path.endswith(".py") for line in text.splitlines()]
    assert 50 <= len([line for line in code if line.strip()]) <= 70, "about 60 lines, as the page says"


@pytest.mark.skipif(
    (sys.platform, platform.machine()) != ("linux", "x86_64"), reason="its lock is for Linux on x86-64"
)
def test_the_plugin_transcribes_and_conforms(daemon: RunningDaemon, site: Path) -> None:
    with daemon.connect() as client:
        assert "plain-cpu" in [one["name"] for one in client.natives.list()]
    created = daemon.ctl("runtimes", "create", "plain", "--model", "tiny.en", "--backend", "plain")
    assert created.status == 0, created
    done = daemon.ctl("transcribe", "--runtime", "plain", str(AUDIO / "jfk.flac"))
    assert re.findall(r"[a-z]+", done.out.lower()) == KENNEDY.lower().split(), done
    with daemon.connect() as client:
        (runtime,) = [one for one in client.runtimes.list() if one["name"] == "plain"]
        assert runtime["variant"] == "plain-cpu"
    checked = subprocess.run(
        [sys.executable, "-m", "whisperd.testing.conformance", "plain"],
        env={**daemon.env, "PYTHONPATH": os.pathsep.join([str(site)])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout
