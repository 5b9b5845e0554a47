"""The errors about native bundles, with actionable messages and fixes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePath

from whisperd import disk
from whisperd.pip import Cause, PipFailure
from whisperd.quantities import size
from whisperd.rpc.errors import WhisperdError

__all__ = [
    "build_failed",
    "damaged_offline",
    "disk_full",
    "from_os_error",
    "in_use",
    "install_failed",
    "no_previous",
    "not_upgradable",
    "not_writable",
    "offline",
    "os_errors",
    "out_of_range",
    "pip_failed",
    "upgrade_failed",
]


def offline(name: str, download_bytes: int) -> WhisperdError:
    """Return the error for a missing bundle while downloads are forbidden."""
    return WhisperdError(
        "native.offline",
        f"The native bundle {name} must be downloaded, but WHISPERD_OFFLINE forbids downloads.",
        f"Unset WHISPERD_OFFLINE, run `whisperctl daemon restart` and `whisperctl natives install {name}`"
        f" ({size(download_bytes)}), or set WHISPERD_NATIVE_DIR to a folder that contains it.",
        {"name": name, "download_bytes": download_bytes},
    )


def damaged_offline(name: str, folder: PurePath, download_bytes: int) -> WhisperdError:
    """Return the error for a damaged bundle while downloads are forbidden."""
    return WhisperdError(
        "native.offline",
        f"The native bundle {name} is damaged, and WHISPERD_OFFLINE forbids the download to repair it.",
        f"Replace {folder} with an intact copy; or unset WHISPERD_OFFLINE, run `whisperctl daemon"
        f" restart` and `whisperctl natives install {name}` ({size(download_bytes)}).",
        {"name": name, "path": str(folder), "download_bytes": download_bytes},
    )


def disk_full(
    name: str, folder: PurePath, needed_bytes: int | None = None, free_bytes: int | None = None
) -> WhisperdError:
    """Return the error for a disk without enough space for a bundle, with the needed size if known."""
    fix = (
        "Free some space there, remove leftovers of older versions with `whisperctl natives prune`, or set "
        "WHISPERD_NATIVE_DIR to a folder on a larger disk."
    )
    return disk.disk_full("native bundle", name, folder, fix, needed_bytes, free_bytes)


def not_writable(name: str, folder: PurePath, reason: str | None = None) -> WhisperdError:
    """Return the error for missing permissions in the folder of the bundles."""
    return WhisperdError(
        "native.not_writable",
        f"The native bundle {name} cannot be installed, read or removed: "
        f"{reason or f'{folder} is not writable'}.",
        "Ask the owner of that folder to do it, or set WHISPERD_NATIVE_DIR to a folder of your own.",
        {"name": name, "path": str(folder)},
    )


def in_use(name: str) -> WhisperdError:
    """Return the error for removing a bundle while a process has its files open (Windows)."""
    return WhisperdError(
        "native.in_use",
        f"The native bundle {name} is in use.",
        "Stop the daemon with `whisperctl daemon stop`, then try again.",
        {"name": name},
    )


def install_failed(name: str, reason: str, said: list[str] | None = None) -> WhisperdError:
    """Return the error for any other failure; `said` holds the last lines of the program that failed."""
    return WhisperdError(
        "native.install_failed",
        f"The native bundle {name} could not be installed: {reason}.",
        f"Try again with `whisperctl natives install {name}`; if that fails too, report this"
        " with the output of `whisperctl daemon logs`.",
        {"name": name, "said": said or []},
    )


def build_failed(name: str, reason: str, fix: str, said: list[str], log: PurePath | None) -> WhisperdError:
    """Return the error for a source that could not be built here; `log` has the whole output of the build."""
    where = f" The build log is {log}." if log else ""
    return WhisperdError(
        "native.build_failed",
        f"The native bundle {name} could not be built on this computer: {reason}.{where}",
        fix,
        {"name": name, "said": said, "log": str(log) if log else None},
    )


def not_upgradable(name: str) -> WhisperdError:
    """Return the error for a lock that allows no version but its own."""
    return WhisperdError(
        "native.not_upgradable",
        f"The native bundle {name} has only one version.",
        "Update whisperd and its plugins, which may bring a newer version.",
        {"name": name},
    )


def out_of_range(name: str, main: str, versions: str, version: str) -> WhisperdError:
    """Return the error for a version that the plugin does not support."""
    return WhisperdError(
        "native.out_of_range",
        f"The native bundle {name} works with {main} {versions}, which does not include {version!r}.",
        "Choose another version, or update whisperd and its plugins, which may allow more.",
        {"name": name, "versions": versions},
    )


def upgrade_failed(name: str, version: str, old: str | None, cause: WhisperdError) -> WhisperdError:
    """Return the error for a new version that failed its trial on this computer."""
    stays = f"{old} stays in use" if old else "it is not used"
    return WhisperdError(
        "native.upgrade_failed",
        f"The native bundle {name} {version} was tried and does not work here, so {stays}: {cause.message}",
        f"Try another version with `whisperctl natives upgrade {name} --version VERSION`.",
        {"name": name, "version": version, "cause": cause.to_wire()},
    )


def no_previous(name: str) -> WhisperdError:
    """Return the error for a rollback without a previous version."""
    return WhisperdError(
        "native.no_previous",
        f"The native bundle {name} was not upgraded, so there is no version to go back to.",
        f"Install another version with `whisperctl natives upgrade {name} --version VERSION`.",
        {"name": name},
    )


@contextmanager
def os_errors(name: str, folder: PurePath) -> Iterator[None]:
    """Convert an OSError raised in the block into an error of this room."""
    try:
        yield
    except OSError as error:
        raise from_os_error(name, folder, error) from error


def from_os_error(name: str, folder: PurePath, error: OSError) -> WhisperdError:
    """Return the error for an OSError while a bundle was installed, read or removed."""
    reason = f"{error.filename or folder}: {error.strerror or error}"
    match disk.refusal(error):
        case "full":
            return disk_full(name, folder)
        case "forbidden":
            return not_writable(name, folder, reason)
        case None:
            return WhisperdError(
                "native.install_failed",
                f"The native bundle {name} cannot be installed, read or removed: {reason}.",
                "Check the disk, then try again.",
                {"name": name, "said": []},
            )


def pip_failed(name: str, folder: PurePath, failure: PipFailure) -> WhisperdError:
    """Return the error for a failure of pip to install a bundle."""
    match failure.cause:
        case "disk_full":
            return disk_full(name, folder)
        case "forbidden":
            return not_writable(name, folder)
        case "unknown":
            return install_failed(name, failure.reason, failure.said)
        case cause:
            code, message, fix = _PIP_FAILURES[cause]
            what = failure.requirement or f"a part of {name}"
            return WhisperdError(code, message.format(what=what), fix, {"name": name, "said": failure.said})


_NOT_FOUND = (
    "native.not_found",
    "The package index does not have {what}, or refuses access to it.",
    "Check the index and its password with `python -m pip config list`: the index must offer this version.",
)

_PIP_FAILURES: dict[Cause, tuple[str, str, str]] = {
    "hash_mismatch": (
        "native.hash_mismatch",
        "The package index served a file for {what} that differs from the one pinned by whisperd,"
        " so it was not installed.",
        "Run `python -m pip cache purge` and try again; if that fails too, ask the operator of the index or"
        " mirror that `python -m pip config list` shows.",
    ),
    "no_pip": (
        "native.no_pip",
        "The Python that runs whisperd has no pip, which installs native bundles.",
        "Run `python -m ensurepip` with that Python, or reinstall whisperd.",
    ),
    "untrusted": (
        "network.untrusted",
        "The package index could not be trusted: its certificate was refused.",
        "Set your network's certificate with `python -m pip config set global.cert FILE`,"
        " and check that the computer's clock is right.",
    ),
    "proxy": (
        "network.unreachable",
        "The package index could not be reached: pip cannot use a SOCKS proxy.",
        "Set HTTPS_PROXY to an HTTP proxy, unset ALL_PROXY, run `whisperctl daemon restart` and try again.",
    ),
    "unreachable": (
        "network.unreachable",
        "The package index could not be reached, or stopped responding.",
        "Check the network, and the index and proxy that `python -m pip config list` shows, then try again.",
    ),
    "refused": _NOT_FOUND,
    "absent": _NOT_FOUND,
}
