"""Explain why a build failed, from its output. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["why_build_failed"]

_REASON_LENGTH = 200


def why_build_failed(lines: Sequence[str], platform: str) -> tuple[str, str]:
    """Return the reason, as a clause, and the fix, from the output of the build."""
    text = "\n".join(lines)
    for pattern, reason, fixes in _CAUSES:
        if re.search(pattern, text):
            return reason, fixes.get(platform) or fixes["linux"]
    error = re.search(r"(?im)^.*\b(?:fatal error|error)\b ?:.*$", text)
    reason = error[0].strip()[:_REASON_LENGTH] if error else "the compiler gave no reason"
    return reason, "Use another variant, or report this with the build log."


_CAUSES = (
    (
        r"No CMAKE_C(?:XX)?_COMPILER could be found|CMAKE_C(?:XX)?_COMPILER not set"
        r"|could not find any instance of Visual Studio|Unable to find vcvarsall"
        r"|is not a full path to an existing compiler|is not found in the PATH",
        "there is no C++ compiler",
        {
            "linux": "Install a C++ compiler (on Debian and Ubuntu `apt install g++`, on Fedora `dnf install"
            " gcc-c++`), or use another variant.",
            "darwin": "Install one with `xcode-select --install`, or use another variant.",
            "win32": "Install the Build Tools for Visual Studio with C++, or use another variant.",
        },
    ),
    (
        r"BLAS not found|Could NOT find BLAS|(?:cblas|openblas_config|mkl)\.h: No such file"
        r"|cannot find -lopenblas",
        "OpenBLAS with its headers was not found",
        {
            "linux": "Install it (on Debian and Ubuntu `apt install libopenblas-dev pkg-config`, on"
            " Fedora `dnf install openblas-devel pkgconf`), or set OPENBLAS_PATH to its folder.",
            "darwin": "Install it with `brew install openblas pkgconf` and set OPENBLAS_PATH to its folder.",
            "win32": "Set OPENBLAS_PATH to the folder of OpenBLAS, or use another variant.",
        },
    ),
    (
        r"Python\.h: No such file|Could NOT find Python",
        "the Python headers are missing",
        {
            "linux": "Install them (on Debian and Ubuntu `apt install python3-dev`, on Fedora"
            " `dnf install python3-devel`), or use another variant.",
        },
    ),
    (
        r"Killed signal|internal compiler error: Killed|virtual memory exhausted|out of memory",
        "the compiler ran out of memory",
        {"linux": "Close programs that use a lot of memory and try again, or use another variant."},
    ),
)
