"""A process that has a native bundle sees the libraries of that bundle, and nobody else's.

Two things could mix them up. The system's loader follows variables such as `LD_LIBRARY_PATH`, so a child is
started with an environment of its own: `isolated_environment`. And Python finds whatever is installed
beside whisperd, such as a PyTorch with a CUDA of its own, so a child looks at a bundle with `enter_bundle`:
then a library in it can import what is in the bundle, in Python, and in whisperd and its plugin, no more.
"""

from __future__ import annotations

import os
import re
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from importlib import metadata

__all__ = ["enter_bundle", "isolated_environment", "library_folders"]

_FOREIGN_PREFIXES: Final = ("LD_", "DYLD_")
"""Of Linux' and macOS' loaders."""
_FOREIGN: Final = ("GGML_BACKEND_PATH",)
"""A library that ggml opens."""
_DRIVER: Final = "libcuda.so.1"
"""It comes with the driver of the GPU, and is in no bundle."""


def isolated_environment(
    environment: Mapping[str, str],
    bundle: Path,
    *,
    platform: str = sys.platform,
    python_library: str | None = sysconfig.get_config_var("INSTSONAME"),
) -> dict[str, str]:
    """The environment of a child that has this bundle.

    What is kept of `LD_LIBRARY_PATH` are the folders of what no bundle has: the GPU's driver, and Python's
    own library. They come last.
    """
    isolated = {
        name: value
        for name, value in environment.items()
        if name not in _FOREIGN and not name.startswith(_FOREIGN_PREFIXES)
    }
    folders = [str(folder) for folder in library_folders(bundle)]
    if platform == "win32":
        variable = next((name for name in isolated if name.upper() == "PATH"), "PATH")
        folders += [isolated[variable]] if variable in isolated else []
        isolated[variable] = ";".join(folders)
    elif platform == "linux":
        wanted = [_DRIVER, *([python_library] if python_library else [])]
        for folder in filter(None, environment.get("LD_LIBRARY_PATH", "").split(":")):
            if any(Path(folder, name).exists() for name in wanted):
                folders.append(folder)
        if folders:
            isolated["LD_LIBRARY_PATH"] = ":".join(folders)
    return isolated


def library_folders(bundle: Path) -> list[Path]:
    """Where a bundle has libraries that others in it open by their bare names: NVIDIA's wheels have such."""
    return sorted(folder for name in ("lib", "bin") for folder in bundle.glob(f"nvidia/*/{name}"))


def enter_bundle(bundle: Path, *own_modules: str) -> None:
    """In a child: have the bundle first on the path, and hide what is beside whisperd and these modules.

    What `PYTHONPATH` names comes last, so that it hides nothing of Python or of the bundle.
    """
    named = os.environ.pop("PYTHONPATH", "")
    folders = named.split(os.pathsep) if named else []
    last = {os.path.abspath(folder) for folder in folders}  # noqa: PTH100 - as Python has them
    sys.path[:] = [str(bundle), *sorted(sys.path, key=last.__contains__)]
    if sys.platform == "win32":
        for folder in (bundle, *library_folders(bundle)):
            os.add_dll_directory(str(folder))
    sys.meta_path[:] = [_OwnModules(bundle, own_modules, sys.meta_path)]


class _OwnModules:
    """Finds the modules that a child may import, by the finders that were there before."""

    def __init__(self, bundle: Path, own_modules: Sequence[str], finders: Sequence[Any]) -> None:
        self._bundle = str(bundle)
        self._known = {__package__, *own_modules, *sys.stdlib_module_names}
        self._own_modules = own_modules
        self._required: frozenset[str] | None = None
        self._finders = list(finders)

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Where a module is; None for one that is hidden."""
        found = (finder.find_spec(name, path, target) for finder in self._finders)
        spec = next((spec for spec in found if spec is not None), None)
        # Parts of a package that may be seen may be seen.
        return spec if spec is None or path is not None or self._may_be_seen(name) else None

    def find_distributions(self, *context: Any) -> Iterator[Any]:
        """What is installed: importing asks for modules alone, `importlib.metadata` for this."""
        for finder in self._finders:
            if hasattr(finder, "find_distributions"):
                yield from finder.find_distributions(*context)

    def invalidate_caches(self) -> None:
        """Python asks for this after files were written."""
        for finder in self._finders:
            if hasattr(finder, "invalidate_caches"):
                finder.invalidate_caches()

    def _may_be_seen(self, name: str) -> bool:
        if name in self._known or PathFinder.find_spec(name, [self._bundle]) is not None:
            return True
        if self._required is None:  # only now, for it takes a while
            self._required = _required_modules(self._own_modules)
        return name in self._required


def _required_modules(own_modules: Sequence[str]) -> frozenset[str]:
    """The top modules of all that whisperd and the plugin with these modules depend on."""
    from importlib import metadata  # a decoder never needs it

    plugins = [
        point.dist.name
        for point in metadata.entry_points(group="whisperd")
        if point.dist is not None and point.module.partition(".")[0] in own_modules
    ]
    required: dict[str, metadata.Distribution] = {}
    waiting = ["whisperd", *plugins]
    while waiting:
        name = waiting.pop()
        if name in required:
            continue
        try:
            required[name] = found = metadata.distribution(name)
        except metadata.PackageNotFoundError:  # it is needed on another system
            continue
        # What an extra asks for is left out; of the rest, what is not needed here is not installed.
        lines = [line for line in found.requires or () if "extra ==" not in line]
        waiting += [each[0] for line in lines if (each := _NAME.match(line))]
    return frozenset(module for found in required.values() for module in _top_modules(found))


def _top_modules(found: metadata.Distribution) -> Iterator[str]:
    files = found.files
    if files is None:  # distributions of Linux leave out what tells of them
        yield from (found.read_text("top_level.txt") or found.name.replace("-", "_")).split()
    for file in files or ():
        if file.suffix in (".py", ".so", ".pyd"):
            yield file.parts[0].partition(".")[0]


_NAME: Final = re.compile(r"[A-Za-z0-9._-]+")
