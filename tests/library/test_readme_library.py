"""The library example of the README works."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from whisperd_testing import AUDIO, LIMIT_S, TESTS, RunningDaemon

pytestmark = pytest.mark.real

PROGRAMS = re.findall(r"```python\n(.*?)```", (TESTS.parent / "README.md").read_text("utf-8"), re.DOTALL)


def test_the_library_example_of_the_readme(surroundings: RunningDaemon, tmp_path: Path) -> None:
    (program,) = (one for one in PROGRAMS if "whisperd.Whisper(" in one)
    shutil.copy(AUDIO / "jfk.flac", tmp_path / "interview.mp3")  # the type is detected from the content
    del surroundings.env["PYTHONPATH"]
    surroundings.env["HF_HUB_OFFLINE"] = "0"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=tmp_path,
        env=surroundings.env,
        capture_output=True,
        text=True,
        timeout=5 * LIMIT_S,
        check=True,
    )
    assert done.stderr == ""
    assert done.stdout.count("ask not what your country can do for you") == 2
    assert "verifying media" in done.stdout
    assert not Path(surroundings.socket).exists()
