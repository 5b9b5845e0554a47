"""The page about runtimes is accurate: its table is current, and its commands print the output shown."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from whisperd.runtimes.life import ACTIONS
from whisperd_testing import RunningDaemon

SCRIPT = Path(__file__).parent.parent / "scripts" / "runtimes_page.py"


def load_script() -> ModuleType:
    """Import the script as a module."""
    spec = importlib.util.spec_from_file_location("runtimes_page", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["runtimes_page"] = module
    spec.loader.exec_module(module)
    return module


script = load_script()
PAGE = script.PAGE.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    """The daemon that the page's commands talk to."""
    daemon = script.begin(tmp_path_factory.mktemp("daemon"))
    yield daemon
    daemon.close()


@pytest.mark.real
def test_the_commands_print_the_output_shown(walk: RunningDaemon) -> None:
    for block in script.blocks(PAGE):
        for command in block:
            printed = script.run(command.line, walk)
            assert script.normal(printed) == script.normal(command.output), (
                f"$ {command.line}\n{printed}\nIf that is right, run `make walk` to update the page."
            )


def test_the_page_shows_every_action() -> None:
    lines = [command.line for block in script.blocks(PAGE) for command in block]
    for verb in ("list", "show", "create", *ACTIONS):
        assert any(f"whisperctl runtimes {verb}" in line for line in lines), verb


def test_the_table_is_current() -> None:
    done = subprocess.run([sys.executable, SCRIPT, "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stderr}run `make docs`"
    assert script.transitions() in PAGE


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (
            "fast    loaded    tiny.en  cpu     140 MB  never  0",
            "fast  loaded  tiny.en  cpu  98 MB  never  0",
        ),
        ("good  loaded  base  cpu  230 MB  now        1", "good  loaded  base  cpu  230 MB  3 s ago  1"),
        ("id:            221d21db", "id:            0863560a"),
        ("process:       24311", "process:       7"),
        ("2026-11-21 15:37:54  loading  -", "2026-11-22 01:00:00  loading  -"),
    ],
)
def test_values_that_vary_between_runs_are_ignored(one: str, other: str) -> None:
    assert script.normal(one) == script.normal(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("fast is loaded", "fast is unloaded"),
        ("leases:        0", "leases:        1"),
        ("fast *  loaded  tiny.en", "fast    loaded  tiny.en"),
        ("version:       1", "version:       2"),
    ],
)
def test_all_other_values_are_compared(one: str, other: str) -> None:
    assert script.normal(one) != script.normal(other)
