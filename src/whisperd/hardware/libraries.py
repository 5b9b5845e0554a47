"""Find libraries already on this computer: CUDA's, and those for linear algebra, OpenBLAS and MKL.

The search order is that of a program: the folder that a variable names, the loader's path, the usual
installation folders, Python packages, native bundles.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from whisperd.hardware.facts import Libraries, Library
from whisperd.hardware.probes import ProbeFailed, Probes

__all__ = ["find_blas", "find_cuda_libraries", "parse_loader_cache"]

LDCONFIG: Final = "/sbin/ldconfig"
CACHE: Final = "the loader's cache"
USED_CUDA: Final = (11, 12)
"""The major versions of CUDA that variants are built with."""


@dataclass(frozen=True)
class Place:
    """A folder to search; `files` limits the search to these names, None searches all."""

    folder: str
    source: str
    files: tuple[str, ...] | None = None


def find_cuda_libraries(probes: Probes) -> Libraries:
    """Find CUDA's runtime libraries. macOS has none."""
    if probes.platform == "darwin":
        return Libraries()
    own = _below(probes, "CUDA_PATH", _CUDA_FOLDERS)
    places = [*own, *_loader_places(probes), *_cuda_folders(probes), *_packages(probes), *_bundles(probes)]
    found = _find(probes, places, _CUDA_FILES)
    return Libraries(
        found=found,
        notes=(*_notes(probes, "CUDA_PATH", own, found), *_unused_versions(found)),
    )


def find_blas(probes: Probes) -> Libraries:
    """Find OpenBLAS and MKL, with the folders of their headers."""
    openblas = _below(probes, "OPENBLAS_PATH", _BLAS_FOLDERS)
    mkl = _below(probes, "MKLROOT", _BLAS_FOLDERS)
    places = [*openblas, *mkl, *_loader_places(probes), *_blas_folders(probes)]
    found = tuple(_with_headers(probes, one) for one in _find(probes, places, _BLAS_FILES))
    return Libraries(
        found=found,
        notes=(
            *_notes(probes, "OPENBLAS_PATH", openblas, found),
            *_notes(probes, "MKLROOT", mkl, found),
        ),
    )


def parse_loader_cache(text: str, arch: str) -> list[tuple[str, str]]:
    """Return folder and file name of each library for an architecture, from the output of `ldconfig -p`."""
    kind = {"x86_64": "x86-64", "aarch64": "AArch64"}.get(arch, "")
    return [
        (line["folder"] or "/", line["file"]) for line in _CACHE_LINE.finditer(text) if kind in line["kind"]
    ]


# Search

_CUDA_FILES: Final = (
    r"lib(?P<name>cudart|cublas|cudnn)\.so(?:\.(?P<version>[0-9][0-9.]*))?",
    r"(?P<name>cudart|cublas|cudnn)64_(?P<version>[0-9]+)\.dll",
)
_BLAS_FILES: Final = (
    r"lib(?P<name>openblas)[op]?(?:-r(?P<version>[0-9][0-9.]*))?\.(?:so(?:\.[0-9.]+)?|dylib)",
    r"(?:lib)?(?P<name>openblas)\.dll",
    r"lib(?P<name>mkl)_rt\.so(?:\.(?P<version>[0-9]+))?",
    r"lib(?P<name>mkl)_rt(?:\.(?P<version>[0-9]+))?\.dylib",
    r"(?P<name>mkl)_rt(?:\.(?P<version>[0-9]+))?\.dll",
)
_CACHE_LINE: Final = re.compile(
    r"^\s*\S+ \((?P<kind>[^()\n]*)\) => (?P<folder>/[^\n]*?)?/(?P<file>[^/\n]+)$", re.MULTILINE
)


def _find(probes: Probes, places: Iterable[Place], patterns: Sequence[str]) -> tuple[Library, ...]:
    """Return the first library of each name and major version; within a folder, the longest version wins."""
    found: dict[tuple[str, int | None], Library] = {}
    for place in places:
        here: dict[tuple[str, int | None], Library] = {}
        for file in sorted(place.files if place.files is not None else probes.names(place.folder)):
            named = next((match for one in patterns if (match := re.fullmatch(one, file))), None)
            if named is None:
                continue
            version = _version(named.groupdict().get("version"))
            path = probes.join(place.folder, file)
            library = Library(name=named["name"], version=version, path=path, source=place.source)
            key = (library.name, library.major)
            if key not in here or len(version or "") > len(here[key].version or ""):
                here[key] = library
        known = {name for name, major in here if major is not None}
        for key, library in here.items():
            is_link_of_another = key[1] is None and key[0] in known
            if not is_link_of_another:
                found.setdefault(key, library)
    return tuple(found.values())


def _version(text: str | None) -> str | None:
    """Return the version in a file name; for CUDA 11 on Windows that is `110`, version 11.0."""
    if text is not None and len(text) == 3 and text.isdecimal():
        return f"{text[:2]}.{text[2]}"
    return text.rstrip(".")[:20] if text else None


def _with_headers(probes: Probes, library: Library) -> Library:
    """Return a BLAS with the folder of its headers, if there is one."""
    variable, marker = _BLAS_HEADERS[library.name]
    root = probes.env.get(variable)
    if library.source == variable and root:
        folders = [probes.join(root, "include"), probes.join(root, "include", library.name)]
    else:
        folders = [*_adjacent_headers(probes, library), *_HEADER_FOLDERS]
        if probes.platform == "linux":
            folders = [*_debian_headers(probes), *folders]
    headers = next((folder for folder in folders if marker in probes.names(folder)), None)
    return msgspec.structs.replace(library, headers=headers)


# Search folders

_CUDA_FOLDERS: Final = {
    "linux": ("lib64", "lib", "targets/x86_64-linux/lib", "targets/sbsa-linux/lib"),
    "win32": ("bin", r"bin\x64"),
}
_BLAS_FOLDERS: Final = {
    "linux": ("lib", "lib64", "lib/intel64", "."),
    "darwin": ("lib", "."),
    "win32": ("bin", "lib", r"redist\intel64", "."),
}
_BLAS_HEADERS: Final = {
    "openblas": ("OPENBLAS_PATH", "openblas_config.h"),
    "mkl": ("MKLROOT", "mkl.h"),
}
"""The variable, and a header file that no other library has."""
_HEADER_FOLDERS: Final = (
    "/usr/include/openblas",
    "/usr/include",
    "/usr/local/include/openblas",
    "/usr/local/include",
    "/usr/include/mkl",
    "/opt/intel/oneapi/mkl/latest/include",
)
_MUSL_FOLDERS: Final = ("/lib", "/usr/local/lib", "/usr/lib")


def _below(probes: Probes, variable: str, folders: dict[str, tuple[str, ...]]) -> list[Place]:
    """Return the library folders below the folder that a variable names."""
    root = probes.env.get(variable)
    if not root:
        return []
    below = folders.get(probes.platform, ())
    return [Place(root if one == "." else probes.join(root, one), variable) for one in below]


def _loader_places(probes: Probes) -> Iterator[Place]:
    """Yield the folders that the loader searches."""
    variable = {"linux": "LD_LIBRARY_PATH", "darwin": "DYLD_LIBRARY_PATH"}.get(probes.platform, "PATH")
    for folder in probes.folders(variable):
        yield Place(folder, variable)
    if probes.platform == "linux":
        yield from _cached_places(probes)


def _cached_places(probes: Probes) -> list[Place]:
    try:
        cached = parse_loader_cache(probes.run((LDCONFIG, "-p")), probes.arch)
    except ProbeFailed:  # musl has no cache
        return [Place(folder, "the loader's folders") for folder in _MUSL_FOLDERS]
    folders = dict.fromkeys(folder for folder, _ in cached)
    return [Place(one, CACHE, tuple(file for folder, file in cached if folder == one)) for one in folders]


def _cuda_folders(probes: Probes) -> Iterator[Place]:
    """Yield the folders of CUDA's own installer, the newest version first."""
    if probes.platform == "linux":
        versions = sorted(
            (name for name in probes.names("/usr/local") if name.startswith("cuda-")), reverse=True
        )
        for name in ("cuda", *versions):
            yield Place(f"/usr/local/{name}/lib64", "CUDA's usual folder")
    else:
        root = probes.join(probes.env.get("ProgramFiles", r"C:\Program Files"), _WINDOWS_CUDA)
        for name in sorted(probes.names(root), reverse=True):
            yield Place(probes.join(root, name, "bin"), "CUDA's usual folder")


_WINDOWS_CUDA: Final = r"NVIDIA GPU Computing Toolkit\CUDA"


def _blas_folders(probes: Probes) -> Iterator[Place]:
    """Yield the usual installation folders that the loader does not search."""
    folders = {
        "linux": ("/opt/OpenBLAS/lib", "/opt/intel/oneapi/mkl/latest/lib"),
        "darwin": ("/opt/homebrew/opt/openblas/lib", "/usr/local/opt/openblas/lib"),
    }
    for folder in folders.get(probes.platform, ()):
        yield Place(folder, "its usual folder")


def _packages(probes: Probes) -> Iterator[Place]:
    """Yield the folders of this Python's packages `nvidia-*`."""
    for folder in probes.site_folders:
        yield from _nvidia(probes, folder, "a Python package")


def _bundles(probes: Probes) -> Iterator[Place]:
    """Yield the folders of the packages `nvidia-*` in native bundles, which are in `{version}/{variant}`."""
    root = probes.native_folder
    for version in sorted(probes.names(root)) if root else ():
        if version.startswith("."):
            continue
        for variant in sorted(probes.names(probes.join(root or "", version))):
            folder = probes.join(root or "", version, variant)
            yield from _nvidia(probes, folder, f"the native bundle {variant}")


def _nvidia(probes: Probes, folder: str, source: str) -> Iterator[Place]:
    library_folder = "bin" if probes.platform == "win32" else "lib"
    nvidia = probes.join(folder, "nvidia")
    for name in sorted(probes.names(nvidia)):
        yield Place(probes.join(nvidia, name, library_folder), source)


def _adjacent_headers(probes: Probes, library: Library) -> list[str]:
    """Return the folders `include` next to the folder `lib` that contains a library."""
    parent = probes.parent(probes.parent(library.path))
    return [probes.join(parent, "include"), probes.join(parent, "include", library.name)]


def _debian_headers(probes: Probes) -> list[str]:
    """Return Debian's header folders: one for each build of OpenBLAS, in one for the architecture."""
    folder = f"/usr/include/{probes.arch}-linux-gnu"
    built = sorted(name for name in probes.names(folder) if name.startswith("openblas"))
    return [*(f"{folder}/{name}" for name in built), folder]


# Notes


def _notes(probes: Probes, variable: str, places: Sequence[Place], found: Sequence[Library]) -> Iterator[str]:
    """Yield what is wrong with a variable."""
    root = probes.env.get(variable)
    if not root or any(library.source == variable for library in found):
        return
    if not probes.exists(root):
        yield f"{variable} is ignored: the folder {root!r:.100} does not exist."
    elif places:
        yield f"{variable} is ignored: no library was found in {root!r:.100}."


def _unused_versions(found: Sequence[Library]) -> Iterator[str]:
    """Yield a note for each library that the user's variables lead to, but whose version no variant uses."""
    reported = set()
    for library in found:
        is_set = library.source in ("CUDA_PATH", "LD_LIBRARY_PATH") and library.name != "cudnn"
        is_used = library.major is None or library.major in USED_CUDA
        if is_set and not is_used and (library.source, library.major) not in reported:
            reported.add((library.source, library.major))
            yield (
                f"{library.source} leads to {library.path} of CUDA {library.major}, which no variant uses: "
                f"they bring their own libraries of CUDA {' and '.join(map(str, USED_CUDA))}."
            )
