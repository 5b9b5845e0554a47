"""Check whether this computer has what a variant needs. Pure: both are passed in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from whisperd.hardware.facts import ARM_FEATURES, CPU_FEATURES, X86_FEATURES, Hardware, System
from whisperd.hardware.gpus import check_cuda
from whisperd.rpc.errors import WhisperdError

if TYPE_CHECKING:
    from whisperd.plugins import Needs

__all__ = ["why_not"]


def why_not(needs: Needs, hardware: Hardware, name: str = "it") -> WhisperdError | None:
    """Return the reason why this computer cannot use a variant, with a fix; None if it can.

    `name` names the variant in the message. Of several reasons, this is the one that is hardest to fix:
    `variant.not_usable`, with the missing thing as `data.missing`, or `cuda.not_available` or
    `cuda.driver_too_old`. An unknown CPU rules out no variant: nearly all have the required features.
    """
    reasons = (check(needs, hardware) for check in _CHECKS)
    reason = next((reason for reason in reasons if reason is not None), None)
    if isinstance(reason, _Missing):
        message = f"This computer cannot use {name}: {reason.why}."
        return WhisperdError(
            "variant.not_usable", message, reason.fix, {"missing": reason.what, **reason.data}
        )
    return reason


@dataclass(frozen=True)
class _Missing:
    """A missing thing: a keyword, the reason as a clause, the fix, and details."""

    what: str
    why: str
    fix: str
    data: Mapping[str, object] = field(default_factory=dict)


Check = Callable[["Needs", Hardware], "_Missing | WhisperdError | None"]


def _platform(needs: Needs, hardware: Hardware) -> _Missing | None:
    system = hardware.system
    if not needs.platforms or system is None or system.platform in needs.platforms:
        return None
    if system.rosetta and "macos-arm64" in needs.platforms:
        return _Missing(
            "platform",
            "this Python is built for Intel and runs on Apple silicon through Rosetta",
            "Install whisperd under a Python for Apple silicon, such as Homebrew's in /opt/homebrew.",
        )
    return _Missing(
        "platform",
        f"it is built for {_any_of(needs.platforms)}, but this is {system.platform}",
        _USE_ANOTHER,
    )


def _processor(needs: Needs, hardware: Hardware) -> _Missing | None:
    processor, system = hardware.processor, hardware.system
    if processor is None or system is None:
        return None
    family: Mapping[str, str] = {"x86_64": X86_FEATURES, "aarch64": ARM_FEATURES}.get(system.arch, {})
    missing = [name for name in needs.cpu_features if name in family and name not in processor.features]
    if not missing:
        return None
    if system.rosetta:
        why = f"Rosetta, which runs this Python on Apple silicon, does not support {_names(missing)}"
        return _Missing(
            "cpu",
            why,
            "Install whisperd under a Python for Apple silicon, such as Homebrew's in /opt/homebrew.",
            {"features": missing},
        )
    return _Missing(
        "cpu",
        f"this CPU has no {_names(missing)}",
        f"{_USE_ANOTHER} In a virtual machine, pass through the host's CPU features.",
        {"features": missing},
    )


def _frameworks(needs: Needs, hardware: Hardware) -> _Missing | None:
    system = hardware.system
    missing = [name for name in needs.frameworks if system is None or name not in system.frameworks]
    if not missing:
        return None
    if system is not None and system.os == "macos":
        return _Missing("frameworks", f"this macOS has no {_names(missing)}", "Update macOS.")
    verb = "is" if len(missing) == 1 else "are"
    return _Missing("frameworks", f"{_names(missing)} {verb} available only on macOS", _USE_ANOTHER)


def _cuda(needs: Needs, hardware: Hardware) -> WhisperdError | None:
    if needs.cuda is None:
        return None
    try:
        check_cuda(hardware.gpus, needs.cuda)
    except WhisperdError as error:
        return error.copy()
    if not hardware.gpus.gpus:
        return WhisperdError(
            "cuda.not_available",
            "No NVIDIA GPU can be used: none was found.",
            "Run `whisperctl hardware` to detect this computer's hardware again.",
        )
    return None


def _compiler(needs: Needs, hardware: Hardware) -> _Missing | None:
    if not needs.compiler or (hardware.tools and hardware.tools.cxx):
        return None
    if hardware.tools is None:
        return _unknown(hardware, "tools")
    return _Missing(
        "compiler",
        "it must be built on this computer, which has no C++ compiler",
        _how_to_install(hardware.system, _COMPILERS),
    )


def _blas(needs: Needs, hardware: Hardware) -> _Missing | None:
    if not needs.blas:
        return None
    if hardware.blas is None:
        return _unknown(hardware, "blas")
    if any(library.headers for library in hardware.blas.found):
        return None
    fix = _how_to_install(hardware.system, _BLAS)
    if hardware.blas.found:
        found = hardware.blas.found[0]
        return _Missing("blas", f"the headers of {_LIBRARY_NAMES[found.name]} are missing", fix)
    return _Missing("blas", "it is built against OpenBLAS or MKL, and neither was found", fix)


_CHECKS: Final[tuple[Check, ...]] = (_platform, _processor, _frameworks, _cuda, _compiler, _blas)


# Error messages

_LIBRARY_NAMES: Final = {"openblas": "OpenBLAS", "mkl": "MKL"}
_USE_ANOTHER: Final = "This cannot be fixed on this computer: let whisperd choose another variant."

_COMPILERS: Final = {
    "debian": "sudo apt install build-essential",
    "fedora": "sudo dnf install gcc-c++",
    "rhel": "sudo dnf install gcc-c++",
    "suse": "sudo zypper install gcc-c++",
    "arch": "sudo pacman -S base-devel",
    "alpine": "sudo apk add build-base",
    "macos": "xcode-select --install",
    "windows": "winget install Microsoft.VisualStudio.2022.BuildTools",
    "": "a C++ compiler",
}
_BLAS: Final = {
    "debian": "sudo apt install libopenblas-dev",
    "fedora": "sudo dnf install openblas-devel",
    "rhel": "sudo dnf install openblas-devel",
    "suse": "sudo zypper install openblas-devel",
    "arch": "sudo pacman -S openblas",
    "alpine": "sudo apk add openblas-dev",
    "macos": "brew install openblas",
    "": "OpenBLAS with its headers, and set OPENBLAS_PATH to its folder",
}
"""By distribution or system, the command to run; the entry without a name says what to install."""


def _how_to_install(system: System | None, commands: Mapping[str, str]) -> str:
    known = [*system.distributions, system.os] if system else []
    command = next((commands[name] for name in known if name in commands), None)
    if command is None:
        return f"Install {commands['']}."
    return f"Run `{command}`, then check with `whisperctl hardware` that it is found."


def _unknown(hardware: Hardware, fact: str) -> _Missing:
    why = hardware.unknown.get(fact, "")
    return _Missing(
        fact,
        f"the tools or libraries to build it with could not be searched for. {why}".rstrip(". "),
        "Fix the cause, then run `whisperctl hardware` to detect this computer's hardware again.",
    )


def _names(features: Sequence[str]) -> str:
    return ", ".join(CPU_FEATURES.get(name, name) for name in features)


def _any_of(names: Sequence[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} or {last}" if first else last
