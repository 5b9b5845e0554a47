"""Selects the environment variables that a daemon inherits from the client that starts it.

The daemon runs for weeks, and so would whatever a shell happened to have set: keys of other programs, the
virtual environment of a project. So it inherits only what it and its engines read. A daemon that is started
by hand or by a service manager has the environment that it is given. Imports stay light here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

__all__ = ["MORE", "NETWORK", "daemon_environment"]

MORE: Final = "WHISPERD_ENVIRONMENT"
"""The variable that lists further ones to inherit: names, or prefixes followed by `*`, comma-separated."""

_NETWORK_PLACES: Final = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NETRC")

NETWORK: Final = (
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "FTP_PROXY"),
    *_NETWORK_PLACES,
)
"""Variables that downloads need. Proxies may also be in lower case."""

_PLACES: Final = (
    *("WHISPERD_CONFIG", "WHISPERD_STATE_DIR", "WHISPERD_NATIVE_DIR", "WHISPERD_MODELS_DIR"),
    *("HF_HOME", "HF_HUB_CACHE"),
    *_NETWORK_PLACES,
)
"""Variables whose value may be relative to the client's working folder, which is not the daemon's."""

_TAKEN: Final = frozenset(
    (
        # The user and the system
        *("HOME", "USER", "LOGNAME", "SHELL", "PATH", "LANG", "LANGUAGE", "TZ", "TZDIR"),
        *("TMPDIR", "TEMP", "TMP", "DBUS_SESSION_BUS_ADDRESS", "COLUMNS", "NO_COLOR"),
        *NETWORK,
        # Engines and their builds
        *("MKLROOT", "GGML_BACKEND_PATH", "LIBRARY_PATH", "CPATH", "CC", "CXX"),
        *("CFLAGS", "CXXFLAGS", "CPPFLAGS", "LDFLAGS", "PKG_CONFIG_PATH"),
        *("SDKROOT", "DEVELOPER_DIR", "MACOSX_DEPLOYMENT_TARGET"),
        # Windows
        *("SYSTEMROOT", "SYSTEMDRIVE", "WINDIR", "COMSPEC", "PATHEXT", "OS", "COMPUTERNAME"),
        *("USERNAME", "USERDOMAIN", "USERPROFILE", "HOMEDRIVE", "HOMEPATH", "APPDATA", "LOCALAPPDATA"),
        *("ALLUSERSPROFILE", "PUBLIC", "PROGRAMDATA", "PROGRAMFILES", "PROGRAMFILES(X86)", "PROGRAMW6432"),
        *("COMMONPROGRAMFILES", "NUMBER_OF_PROCESSORS", "PROCESSOR_ARCHITECTURE", "PROCESSOR_IDENTIFIER"),
    )
)
_TAKEN_BEGINNINGS: Final = (
    *("WHISPERD_", "XDG_", "LC_", "PIP_", "HF_", "HUGGINGFACE_", "PYTHON", "LD_", "DYLD_", "MALLOC_"),
    *("CUDA_", "NVIDIA_", "CUBLAS_", "CUDNN_", "CT2_", "GGML_", "OMP_", "KMP_", "MKL_", "OPENBLAS_"),
    "CMAKE_",
)


def daemon_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the part of a client's environment that the daemon is started with; its paths are absolute."""
    named = [name.strip() for name in environment.get(MORE, "").split(",") if name.strip()]
    names = _TAKEN.union(named)
    beginnings = (*_TAKEN_BEGINNINGS, *(name[:-1] for name in named if name.endswith("*")))
    return {
        name: os.path.abspath(value) if name in _PLACES and value else value  # noqa: PTH100 - light
        for name, value in environment.items()
        if name in names or name.upper() in _TAKEN or name.startswith(beginnings)
    }
