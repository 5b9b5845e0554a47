"""Find build tools: C and C++ compilers, and CMake."""

from __future__ import annotations

from typing import Final

from whisperd.hardware.facts import Tool, Tools
from whisperd.hardware.probes import ProbeFailed, Probes

__all__ = ["find_tools"]

C: Final = ("cc", "gcc", "clang")
CXX: Final = ("c++", "g++", "clang++")
VSWHERE: Final = r"Microsoft Visual Studio\Installer\vswhere.exe"
VSWHERE_OPTIONS: Final = (
    "-latest",
    "-products",
    "*",
    "-requires",
    "Microsoft.VisualStudio.Component.VC.Tools.x86.x64",
    "-property",
    "installationPath",
)


def find_tools(probes: Probes) -> Tools:
    """Find the compilers that the variables `CC` and `CXX` name, or else those in `PATH`, and CMake."""
    cmake = _named(probes, "CMAKE", ("cmake",))
    if probes.platform == "win32":
        studio = _visual_studio(probes)
        return Tools(
            c=studio or _named(probes, "CC", ("cl", *C)),
            cxx=studio or _named(probes, "CXX", ("cl", *CXX)),
            cmake=cmake,
        )
    if probes.platform == "darwin" and not _has_developer_tools(probes):
        return Tools(cmake=cmake)
    return Tools(c=_named(probes, "CC", C), cxx=_named(probes, "CXX", CXX), cmake=cmake)


def _named(probes: Probes, variable: str, names: tuple[str, ...]) -> Tool | None:
    words = probes.env.get(variable, "").split()  # such as `ccache g++`
    if words:
        path = probes.program(words[0])
        return Tool(path=path, source=variable) if path else None
    path = probes.program(*names)
    return Tool(path=path, source="PATH") if path else None


def _has_developer_tools(probes: Probes) -> bool:
    """Whether the compilers in macOS' /usr/bin are real, rather than stubs that offer to install them."""
    try:
        folder = probes.run(("/usr/bin/xcode-select", "-p")).strip()
    except ProbeFailed:
        return False
    return bool(folder) and probes.exists(folder)


def _visual_studio(probes: Probes) -> Tool | None:
    """Find Microsoft's compiler, which is not in `PATH`; builds find it the same way."""
    vswhere = probes.join(probes.env.get("ProgramFiles(x86)", r"C:\Program Files (x86)"), VSWHERE)
    if not probes.exists(vswhere):
        return None
    try:
        folder = probes.run((vswhere, *VSWHERE_OPTIONS)).strip()
    except ProbeFailed:
        return None
    return Tool(path=folder, source="vswhere") if folder else None
