"""The documentation page of commands is generated from the program, and is current."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from whisperd.cli.exit_status import DONE, FAILED, INTERRUPTED, NOT_FOUND, REFUSED, UNREACHABLE, USAGE
from whisperd.cli.main import COMMANDS

SCRIPT = Path(__file__).parents[2] / "scripts" / "command_docs.py"


@pytest.fixture(scope="module")
def command_docs() -> ModuleType:
    """Import the script as a module."""
    spec = importlib.util.spec_from_file_location("command_docs", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_current() -> None:
    done = subprocess.run([sys.executable, SCRIPT, "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stderr}run `make docs`"


def test_an_outdated_page_is_detected(
    command_docs: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command_docs, "PAGE", tmp_path / "commands.md")
    monkeypatch.setattr(sys, "argv", ["command_docs.py", "--check"])
    with pytest.raises(SystemExit):
        command_docs.main()
    (tmp_path / "commands.md").write_text("old")
    with pytest.raises(SystemExit):
        command_docs.main()
    monkeypatch.setattr(sys, "argv", ["command_docs.py"])
    command_docs.main()
    monkeypatch.setattr(sys, "argv", ["command_docs.py", "--check"])
    command_docs.main()


def test_the_page_is_complete(command_docs: ModuleType) -> None:
    page = command_docs.page()
    assert all(f"\n## `whisperctl {name}`\n" in page for name in COMMANDS)
    assert "| `-o FILE`, `--output FILE` | " in page
    assert "\n| `--forget` | " in page
    assert "transcribe\\|translate" in page
    for status in (DONE, FAILED, USAGE, UNREACHABLE, NOT_FOUND, REFUSED, INTERRUPTED):
        assert f"\n| {status} | " in page


def test_the_help_names_the_default_priority_of_each_kind_of_job(command_docs: ModuleType) -> None:
    sections = command_docs.page().split("\n### ")
    defaults = {
        section.partition("\n")[0]: section.split("scheduling priority (default: ")[1].partition(")")[0]
        for section in sections
        if "scheduling priority" in section
    }
    watched = {name for name, default in defaults.items() if default == "bulk"}
    assert watched == {"`whisperctl watch add`", "`whisperctl watch edit`"}
    assert defaults["`whisperctl profiles create`"] == "normal"
