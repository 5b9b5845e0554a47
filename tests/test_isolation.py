"""Isolation of a process with a native bundle: its environment, and the modules that it can import."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from whisperd import isolation
from whisperd.isolation import isolated_environment, library_folders
from whisperd_testing import LIMIT_S

posix_only = pytest.mark.skipif(os.name != "posix", reason="paths are joined by colons")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle with the folders of two NVIDIA wheels."""
    for part in ("cublas", "cudnn"):
        (tmp_path / "bundle" / "nvidia" / part / "lib").mkdir(parents=True)
    return tmp_path / "bundle"


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """A bundle without such folders."""
    folder = tmp_path / "plain"
    folder.mkdir()
    return folder


def linux(environment: dict[str, str], bundle: Path) -> dict[str, str]:
    return isolated_environment(environment, bundle, platform="linux", python_library="libpython3.11.so.1.0")


def folder_with(folder: Path, *libraries: str) -> str:
    folder.mkdir()
    for library in libraries:
        (folder / library).touch()
    return str(folder)


@pytest.mark.parametrize(
    "name",
    ["LD_PRELOAD", "LD_AUDIT", "DYLD_LIBRARY_PATH", "DYLD_INSERT_LIBRARIES", "GGML_BACKEND_PATH"],
)
def test_variables_that_redirect_library_loading_are_removed(plain: Path, name: str) -> None:
    assert linux({name: "/opt/lib", "HOME": "/home/user"}, plain) == {"HOME": "/home/user"}


@pytest.mark.parametrize(
    "name", ["PATH", "CUDA_VISIBLE_DEVICES", "CUDA_PATH", "LANG", "PYTHONPATH", "CT2_VERBOSE"]
)
def test_other_variables_are_inherited(plain: Path, name: str) -> None:
    assert linux({name: "as it was"}, plain) == {name: "as it was"}


@posix_only
def test_the_folders_of_a_bundle_come_first(bundle: Path, tmp_path: Path) -> None:
    decoy = folder_with(tmp_path / "decoy", "libcublas.so.12")
    driver = folder_with(tmp_path / "driver", "libcuda.so.1")
    python = folder_with(tmp_path / "python", "libpython3.11.so.1.0")
    inherited = {"LD_LIBRARY_PATH": f"{decoy}:{driver}::{python}:/nowhere"}
    own = [str(bundle / "nvidia" / part / "lib") for part in ("cublas", "cudnn")]
    assert linux(inherited, bundle)["LD_LIBRARY_PATH"].split(":") == [*own, driver, python]


@posix_only
def test_an_empty_library_path_is_not_set(plain: Path) -> None:
    assert linux({"LD_LIBRARY_PATH": "/nowhere"}, plain) == {}


def test_on_windows_the_folders_are_added_to_path(tmp_path: Path) -> None:
    folder = tmp_path / "nvidia" / "cublas" / "bin"
    folder.mkdir(parents=True)
    inherited = {"Path": "C:\\Windows"}
    assert isolated_environment(inherited, tmp_path, platform="win32") == {"Path": f"{folder};C:\\Windows"}
    assert library_folders(tmp_path) == [folder]


def test_the_environment_of_the_daemon_is_not_changed(bundle: Path) -> None:
    inherited = {"LD_LIBRARY_PATH": "/opt/lib"}
    linux(inherited, bundle)
    assert inherited == {"LD_LIBRARY_PATH": "/opt/lib"}


# The modules

CHILD = """
import sys
from pathlib import Path
from whisperd.isolation import enter_bundle

enter_bundle(Path(sys.argv[1]), "engine")
{code}
"""


def in_bundle(bundle: Path, code: str, *beside: Path | str) -> str:
    """Return what code prints in a child with a bundle, and with other folders on its path."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", CHILD.format(code=code), str(bundle)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, beside))},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def module(folder: Path, name: str, says: str) -> Path:
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").write_text(f"SAYS = {says!r}\n")
    return folder


def test_modules_installed_next_to_whisperd_are_hidden(plain: Path, tmp_path: Path) -> None:
    beside = module(tmp_path / "beside", "torch", "a torch with a CUDA of its own")
    code = "import importlib.util\nprint(importlib.util.find_spec('torch'))"
    assert in_bundle(plain, code, beside) == "None"
    code = "try:\n    import torch\nexcept ModuleNotFoundError as error:\n    print(error.name)"
    assert in_bundle(plain, code, beside) == "torch"


def test_a_bundle_may_have_a_module_of_a_hidden_name(plain: Path, tmp_path: Path) -> None:
    beside = module(tmp_path / "beside", "torch", "beside")
    module(plain, "torch", "bundle")
    assert in_bundle(plain, "import torch\nprint(torch.SAYS)", beside) == "bundle"


def test_the_engine_module_is_importable_from_any_folder(plain: Path, tmp_path: Path) -> None:
    beside = module(tmp_path / "beside", "engine", "beside")
    (beside / "engine" / "part.py").write_text("SAYS = 'part'\n")
    assert in_bundle(plain, "import engine.part\nprint(engine.part.SAYS)", beside) == "part"


def test_dependencies_of_whisperd_are_importable(plain: Path) -> None:
    code = "import huggingface_hub, tqdm, yaml, pluggy, whisperd.plugins, sqlite3\nprint('seen')"
    assert in_bundle(plain, code) == "seen"


def test_a_distribution_without_record_is_known_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Linux distributions package Python projects without RECORD."""
    monkeypatch.setattr(metadata.Distribution, "files", None)
    assert isolation._required_modules(()) >= {"whisperd", "huggingface_hub", "tqdm", "yaml"}


def test_tools_in_the_same_environment_are_hidden(plain: Path) -> None:
    """pytest is installed next to whisperd, and no dependency of whisperd requires it."""
    code = "import importlib.util\nprint(importlib.util.find_spec('pytest'))"
    assert in_bundle(plain, code) == "None"


@pytest.mark.parametrize("spelt", [["{}"], ["{}/"], ["."], ["", ""]])
def test_pythons_own_modules_are_not_overridden(
    plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spelt: list[str]
) -> None:
    beside = module(tmp_path / "beside", "colorsys", "beside")  # a standard module, not imported yet
    monkeypatch.chdir(beside)
    code = "import colorsys\nprint(hasattr(colorsys, 'SAYS'))"
    assert in_bundle(plain, code, *(each.format(beside) for each in spelt)) == "False"


def test_installed_distributions_can_be_queried(plain: Path) -> None:
    code = "from importlib.metadata import version\nprint(version('whisperd') == whisperd.__version__)"
    assert in_bundle(plain, f"import whisperd\n{code}") == "True"
