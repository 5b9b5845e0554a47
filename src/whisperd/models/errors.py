"""The errors about models, with actionable messages and fixes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from whisperd import disk
from whisperd.models.names import Reference
from whisperd.models.sources.base import NotHere
from whisperd.rpc.errors import WhisperdError

__all__ = [
    "Outcome",
    "already_installed",
    "busy",
    "catalogue_name",
    "conversions_damaged",
    "damaged",
    "disk_full",
    "from_os_error",
    "hash_mismatch",
    "in_place",
    "invalid_name",
    "not_installed",
    "offline",
    "os_errors",
    "unavailable",
]

Outcome = tuple[str, WhisperdError | NotHere]
"""The name of a source that was tried, and why it failed."""

_PRECEDENCE = (
    "model.hash_mismatch",
    "model.unsupported_format",
    "hub.no_hash",
    "hub.unauthorised",
    "hub.rate_limited",
    "hub.not_found",
    "download.stuck",
    "network.captive_portal",
    "hub.unavailable",
    "hub.failed",
    "index.failed",
    "network.untrusted",
    "network.unreachable",
    "model.offline",
)
"""If several sources failed, the error has the first of these codes; all of them are in its `data`."""


def unavailable(model: Reference, outcomes: Sequence[Outcome]) -> WhisperdError:
    """Return the error for a model that no source had, which sums up all that were tried."""
    failures = {error.code: error for _, error in reversed(outcomes) if isinstance(error, WhisperdError)}
    tried = "; ".join(f"{source}: {outcome}" for source, outcome in outcomes)
    data = {"name": model.name, "tried": [_tried(source, outcome) for source, outcome in outcomes]}
    for code in (*_PRECEDENCE, *failures):
        if code in failures:
            error = failures[code]
            message = f"The model {model.name} could not be fetched ({tried})."
            return WhisperdError(code, message, error.fix, {**error.data, **data})
    return WhisperdError(
        "model.unavailable",
        f"No source has the model {model.name} ({tried or 'none is enabled that could have it'}).",
        "Use another model, add a folder that contains this one to `models.folders`, or import it with "
        "`whisperctl models import PATH`.",
        data,
    )


def offline(name: str) -> WhisperdError:
    """Return the error for forbidden downloads. As the outcome of a source, its message is a clause."""
    return WhisperdError(
        "model.offline",
        "downloads are forbidden",
        "Unset WHISPERD_OFFLINE, run `whisperctl daemon restart` and try again; or copy the model to this "
        "computer yourself and run `whisperctl models import PATH`.",
        {"name": name},
    )


def not_installed(name: str) -> WhisperdError:
    """Return the error for a known model that is not installed."""
    return WhisperdError(
        "model.not_installed",
        f"The model {name} is not installed.",
        f"Install it with `whisperctl models pull {name}`.",
        {"name": name},
    )


def damaged(name: str, files: Sequence[str]) -> WhisperdError:
    """Return the error for an installed model whose files are missing or changed."""
    return WhisperdError(
        "model.damaged",
        f"The model {name} is damaged: {', '.join(files)} {'is' if len(files) == 1 else 'are'} "
        "missing or changed.",
        f"Repair it with `whisperctl models pull {name}`, which fetches only these files again.",
        {"name": name, "files": list(files)},
    )


def conversions_damaged(name: str, files: Sequence[str]) -> WhisperdError:
    """Return the error for converted files that were damaged and are removed. The model itself is intact."""
    return WhisperdError(
        "model.damaged",
        f"Files converted from the model {name} were damaged and have been removed: {', '.join(files)}.",
        "Check the disk. The files are converted again when they are needed.",
        {"name": name, "files": list(files)},
    )


def hash_mismatch(name: str, problem: str) -> WhisperdError:
    """Return the error for a source with wrong bytes. As the outcome of a source, its message is a clause."""
    return WhisperdError(
        "model.hash_mismatch",
        problem,
        "Try again; if that fails too, use another source. If the model was changed there on purpose and "
        f"you trust the change, run `whisperctl models remove {name}` and try again.",
    )


def disk_full(
    name: str, folder: Path, needed_bytes: int | None = None, free_bytes: int | None = None
) -> WhisperdError:
    """Return the error for a disk without enough space for a model."""
    fix = (
        "Free some space there, remove a model with `whisperctl models remove NAME`, or set "
        "WHISPERD_MODELS_DIR to a folder on a larger disk."
    )
    return disk.disk_full("model", name, folder, fix, needed_bytes, free_bytes)


@contextmanager
def os_errors(name: str | None, folder: Path) -> Iterator[None]:
    """Convert an OSError raised in the block into an error of this room."""
    try:
        yield
    except OSError as error:
        raise from_os_error(name, folder, error) from error


def from_os_error(name: str | None, folder: Path, error: OSError) -> WhisperdError:
    """Return the error for an OSError in reading, storing or removing a model; without a name, all models."""
    what = f"The model {name}" if name else f"The models in {folder}"
    refusal = disk.refusal(error)
    if refusal == "full":
        return disk_full(name or "", folder)
    code, fix = "model.storage_failed", "Check the disk, then try again."
    if refusal == "forbidden":
        code = "model.read_only"
        fix = "Ask the owner of that folder to do it, or set WHISPERD_MODELS_DIR to a folder of your own."
    reason = f"{error.filename or folder}: {error.strerror or error}"
    message = f"{what} cannot be read, stored or removed: {reason}."
    return WhisperdError(code, message, fix, {"name": name, "path": str(folder)})


def busy(name: str) -> WhisperdError:
    """Return the error for a model that another task or process is changing."""
    return WhisperdError(
        "model.busy",
        f"The model {name} is being installed or removed.",
        "Wait until that has finished, or cancel it, then try again.",
        {"name": name},
    )


def in_place(name: str) -> WhisperdError:
    """Return the error for removing a folder or file that is used in place, which belongs to the user."""
    return WhisperdError(
        "model.in_place",
        f"The model {name} is used in place, so whisperd does not remove it.",
        "Delete it yourself if you no longer need it.",
        {"name": name},
    )


def invalid_name(name: str) -> WhisperdError:
    """Return the error for a name that an imported model cannot have."""
    return WhisperdError(
        "model.invalid_name",
        f"A model cannot be named {name!r}.",
        "Use letters (a to z, A to Z), digits, dots, single hyphens and underscores, and begin with a letter "
        "or digit.",
        {"name": name},
    )


def catalogue_name(name: str) -> WhisperdError:
    """Return the error for a user's file under the name of a catalogue model."""
    return WhisperdError(
        "model.invalid_name",
        f"{name} is the name of a model in the catalogue, and this file is not one of its files.",
        "Import the file under another name: `whisperctl models import FILE NAME`.",
        {"name": name},
    )


def already_installed(name: str) -> WhisperdError:
    """Return the error for an import that would replace an installed model."""
    return WhisperdError(
        "model.exists",
        f"A model named {name} already exists.",
        "Import it under another name, `whisperctl models import PATH NAME`, or run "
        f"`whisperctl models remove {name}` first.",
        {"name": name},
    )


def _tried(source: str, outcome: WhisperdError | NotHere) -> dict[str, str | None]:
    code = outcome.code if isinstance(outcome, WhisperdError) else None
    return {"source": source, "code": code, "message": str(outcome)}
