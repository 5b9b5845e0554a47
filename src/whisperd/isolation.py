"""Makes sure that a process with a native bundle loads the libraries of that bundle and no others.

Two things could mix them up. The system's loader follows variables such as `LD_LIBRARY_PATH`, so a child is
started with the environment that `isolated_environment` returns. And Python finds everything that is
installed alongside whisperd, such as a PyTorch with its own CUDA, so a child calls `enter_bundle`: then a
library in the bundle can import only from the bundle, Python, whisperd, its plugin, and the dependencies of
these two.
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
"""Variables of the loaders of Linux and macOS."""
_FOREIGN: Final = ("GGML_BACKEND_PATH",)
"""Names a library that ggml opens."""
_DRIVER: Final = "libcuda.so.1"
"""Comes with the GPU's driver; no bundle contains it."""


def isolated_environment(
    environment: Mapping[str, str],
    bundle: Path,
    *,
    platform: str = sys.platform,
    python_library: str | None = sysconfig.get_config_var("INSTSONAME"),
) -> dict[str, str]:
    """Return the environment for a child with this bundle.

    Of `LD_LIBRARY_PATH`, it keeps only the folders of libraries that no bundle contains: the GPU's driver and
    Python's own library. They come last.
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
    """Return the folders of libraries that others in the bundle open by bare name: NVIDIA's wheels do."""
    return sorted(folder for name in ("lib", "bin") for folder in bundle.glob(f"nvidia/*/{name}"))


def enter_bundle(bundle: Path, *own_modules: str) -> None:
    """In a child: put the bundle first on the path, and hide what is installed alongside whisperd, except
    these modules and dependencies.

    The folders of `PYTHONPATH` come last, so that they shadow nothing of Python or the bundle.
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
    """A finder that uses the previous finders, and hides modules that a child may not import."""

    def __init__(self, bundle: Path, own_modules: Sequence[str], finders: Sequence[Any]) -> None:
        self._bundle = str(bundle)
        self._known = {__package__, *own_modules, *sys.stdlib_module_names}
        self._own_modules = own_modules
        self._required: frozenset[str] | None = None
        self._finders = list(finders)

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find a module; None for one that is hidden."""
        found = (finder.find_spec(name, path, target) for finder in self._finders)
        spec = next((spec for spec in found if spec is not None), None)
        # Submodules of a visible package are visible.
        return spec if spec is None or path is not None or self._is_visible(name) else None

    def find_distributions(self, *context: Any) -> Iterator[Any]:
        """Yield the installed distributions, for `importlib.metadata`; imports do not need this."""
        for finder in self._finders:
            if hasattr(finder, "find_distributions"):
                yield from finder.find_distributions(*context)

    def invalidate_caches(self) -> None:
        """Invalidate the caches of the previous finders, which Python requests after files were written."""
        for finder in self._finders:
            if hasattr(finder, "invalidate_caches"):
                finder.invalidate_caches()

    def _is_visible(self, name: str) -> bool:
        if name in self._known or PathFinder.find_spec(name, [self._bundle]) is not None:
            return True
        if self._required is None:  # only when needed, since it takes a while
            self._required = _required_modules(self._own_modules)
        return name in self._required


def _required_modules(own_modules: Sequence[str]) -> frozenset[str]:
    """Return the top-level modules of all dependencies of whisperd and the plugin with these modules."""
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
        except metadata.PackageNotFoundError:  # only needed on another system
            continue
        # Dependencies of extras are ignored; of the others, those not needed here are not installed.
        lines = [line for line in found.requires or () if "extra ==" not in line]
        waiting += [each[0] for line in lines if (each := _NAME.match(line))]
    return frozenset(module for found in required.values() for module in _top_modules(found))


def _top_modules(found: metadata.Distribution) -> Iterator[str]:
    files = found.files
    if files is None:  # packages of Linux distributions omit the list
        yield from (found.read_text("top_level.txt") or found.name.replace("-", "_")).split()
    for file in files or ():
        if file.suffix in (".py", ".so", ".pyd"):
            yield file.parts[0].partition(".")[0]


_NAME: Final = re.compile(r"[A-Za-z0-9._-]+")
