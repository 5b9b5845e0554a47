"""What can go wrong with native bundles, in the words that a person reads."""

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
    """A bundle is missing, and downloads are forbidden."""
    return WhisperdError(
        "native.offline",
        f"The native bundle {name} has to be downloaded, and that is forbidden (WHISPERD_OFFLINE).",
        f"Unset WHISPERD_OFFLINE, run `whisperctl daemon restart` and `whisperctl natives install {name}`"
        f" ({size(download_bytes)}), or point WHISPERD_NATIVE_DIR at a folder that has it.",
        {"name": name, "download_bytes": download_bytes},
    )


def damaged_offline(name: str, folder: PurePath, download_bytes: int) -> WhisperdError:
    """A file of a bundle is not as it was installed, and downloads are forbidden."""
    return WhisperdError(
        "native.offline",
        f"The native bundle {name} is damaged, and mending it is a download, which is forbidden"
        " (WHISPERD_OFFLINE).",
        f"Copy {folder} anew from where it is whole; or unset WHISPERD_OFFLINE, run `whisperctl daemon"
        f" restart` and `whisperctl natives install {name}` ({size(download_bytes)}).",
        {"name": name, "path": str(folder), "download_bytes": download_bytes},
    )


def disk_full(
    name: str, folder: PurePath, needed_bytes: int | None = None, free_bytes: int | None = None
) -> WhisperdError:
    """There is no room for a bundle; how much it takes is told when it is known."""
    fix = (
        "Free some space there, remove what older versions have left with `whisperctl natives prune`, or set "
        "WHISPERD_NATIVE_DIR to a folder on a larger disk."
    )
    return disk.disk_full("native bundle", name, folder, fix, needed_bytes, free_bytes)


def not_writable(name: str, folder: PurePath, said: str | None = None) -> WhisperdError:
    """The system forbids something in the folder of the bundles."""
    return WhisperdError(
        "native.not_writable",
        f"The native bundle {name} cannot be installed, read or removed: "
        f"{said or f'{folder} cannot be written to'}.",
        "Ask the owner of that folder to do it, or set WHISPERD_NATIVE_DIR to a folder of your own.",
        {"name": name, "path": str(folder)},
    )


def in_use(name: str) -> WhisperdError:
    """A bundle cannot be removed while a process has files of it open (Windows)."""
    return WhisperdError(
        "native.in_use",
        f"The native bundle {name} is in use.",
        "End what uses it with `whisperctl daemon stop`, then try again.",
        {"name": name},
    )


def install_failed(name: str, reason: str, said: list[str] | None = None) -> WhisperdError:
    """Anything else; `said` are the last lines of the program that failed."""
    return WhisperdError(
        "native.install_failed",
        f"The native bundle {name} could not be installed: {reason}.",
        f"Try again with `whisperctl natives install {name}`; if it fails again, report this"
        " with what `whisperctl daemon logs` says.",
        {"name": name, "said": said or []},
    )


def build_failed(name: str, reason: str, fix: str, said: list[str], log: PurePath | None) -> WhisperdError:
    """A source could not be built here; `log` has all that the build said."""
    where = f" What the build said is in {log}." if log else ""
    return WhisperdError(
        "native.build_failed",
        f"The native bundle {name} could not be built on this computer: {reason}.{where}",
        fix,
        {"name": name, "said": said, "log": str(log) if log else None},
    )


def not_upgradable(name: str) -> WhisperdError:
    """A lock that allows no version but its own."""
    return WhisperdError(
        "native.not_upgradable",
        f"The native bundle {name} comes in one version only.",
        "Update whisperd and its plugins: a newer one may bring a newer version.",
        {"name": name},
    )


def out_of_range(name: str, main: str, versions: str, version: str) -> WhisperdError:
    """A version that the plugin was not made for."""
    return WhisperdError(
        "native.out_of_range",
        f"The native bundle {name} works with {main} {versions}, and {version!r} is none of these.",
        "Ask for another version, or update whisperd and its plugins, which may allow more.",
        {"name": name, "versions": versions},
    )


def upgrade_failed(name: str, version: str, old: str | None, cause: WhisperdError) -> WhisperdError:
    """The new version does not do its work here."""
    stays = f"{old} stays in use" if old else "it is not used"
    return WhisperdError(
        "native.upgrade_failed",
        f"The native bundle {name} {version} was tried and does not work here, so {stays}: {cause.message}",
        f"Ask for another one with `whisperctl natives upgrade {name} --version VERSION`.",
        {"name": name, "version": version, "cause": cause.to_wire()},
    )


def no_previous(name: str) -> WhisperdError:
    """There is nothing to go back to."""
    return WhisperdError(
        "native.no_previous",
        f"The native bundle {name} was not upgraded, so there is no version to go back to.",
        f"`whisperctl natives upgrade {name} --version VERSION` installs another one.",
        {"name": name},
    )


@contextmanager
def os_errors(name: str, folder: PurePath) -> Iterator[None]:
    """What the system refuses meanwhile is said in the words of this room."""
    try:
        yield
    except OSError as error:
        raise from_os_error(name, folder, error) from error


def from_os_error(name: str, folder: PurePath, error: OSError) -> WhisperdError:
    """What the system refused while a bundle was installed, read or removed."""
    said = f"{error.filename or folder}: {error.strerror or error}"
    match disk.refusal(error):
        case "full":
            return disk_full(name, folder)
        case "forbidden":
            return not_writable(name, folder, said)
        case None:
            return WhisperdError(
                "native.install_failed",
                f"The native bundle {name} cannot be installed, read or removed: {said}.",
                "Check the disk, then try again.",
                {"name": name, "said": []},
            )


def pip_failed(name: str, folder: PurePath, failure: PipFailure) -> WhisperdError:
    """Why pip could not install a bundle."""
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
    "The package index does not have {what}, or refuses to give it.",
    "Check the index, and the password for it, that `python -m pip config list` shows: it has to offer"
    " this version.",
)

_PIP_FAILURES: dict[Cause, tuple[str, str, str]] = {
    "hash_mismatch": (
        "native.hash_mismatch",
        "The package index served something else as {what} than the file that whisperd was made for,"
        " so it was not installed.",
        "Run `python -m pip cache purge` and try again; if it stays so, ask who runs the index or mirror"
        " that `python -m pip config list` shows.",
    ),
    "no_pip": (
        "native.no_pip",
        "The Python that runs whisperd has no pip, which installs native bundles.",
        "Run `python -m ensurepip` with that Python, or reinstall whisperd.",
    ),
    "untrusted": (
        "network.untrusted",
        "The package index could not be trusted: its certificate was refused.",
        "Tell pip of your network's certificate with `python -m pip config set global.cert FILE`,"
        " and check that the computer's clock is right.",
    ),
    "unreachable": (
        "network.unreachable",
        "The package index could not be reached, or stopped answering.",
        "Check the network, and the index and proxy that `python -m pip config list` shows; then try again.",
    ),
    "refused": _NOT_FOUND,
    "absent": _NOT_FOUND,
}
