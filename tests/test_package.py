"""What `pip install whisperd` installs."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path
from typing import Any

import pytest
from benchmarks import size

from whisperd import __version__

ROOT = Path(__file__).parent.parent


@pytest.mark.real
def test_it_is_small_and_installs_no_inference_library() -> None:
    outcome = size.measure()
    assert outcome.met, outcome.rows
    assert outcome.data["inference_libraries"] == []


def test_it_pins_the_plugins_of_its_own_version() -> None:
    plugins = [project(path.parent) for path in ROOT.glob("plugins/*/pyproject.toml")]
    pins = {each for each in project(ROOT)["dependencies"] if each.startswith("whisperd-")}
    assert {f"{each['name']}=={each['version']}" for each in plugins} == pins
    assert {each["version"] for each in plugins} == {__version__}


def test_the_source_distribution_has_the_service_files_and_only_this_package(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "--target", "sdist", "--directory", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (archive,) = tmp_path.iterdir()
    with tarfile.open(archive) as opened:
        places = {Path(name).parts[1] for name in opened.getnames()}
    added = {".gitignore", "PKG-INFO", "pyproject.toml"}  # by hatchling
    documents = {"README.md", "LICENSE", "CHANGELOG.md"}
    assert places == {"src", "systemd", "launchd", "contrib"} | documents | added


def project(folder: Path) -> dict[str, Any]:
    table: dict[str, Any] = tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))["project"]
    return table
