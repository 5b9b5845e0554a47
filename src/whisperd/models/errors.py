"""What can go wrong with models, in words that a person can act on."""

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
    "conversions_damaged",
    "damaged",
    "disk_full",
    "from_os_error",
    "hash_mismatch",
    "in_place",
    "invalid_name",
    "name_of_catalogue",
    "not_installed",
    "offline",
    "os_errors",
    "unavailable",
]

Outcome = tuple[str, WhisperdError | NotHere]
"""The name of a source that was tried, and why it did not help."""

_MOST_TELLING = (
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
"""When several sources failed, the person is told of the first of these; the rest stands in `data`."""


def unavailable(model: Reference, outcomes: Sequence[Outcome]) -> WhisperdError:
    """No source had the model: the one error for all that was tried."""
    failures = {error.code: error for _, error in reversed(outcomes) if isinstance(error, WhisperdError)}
    tried = "; ".join(f"{source}: {outcome}" for source, outcome in outcomes)
    data = {"name": model.name, "tried": [_tried(source, outcome) for source, outcome in outcomes]}
    for code in (*_MOST_TELLING, *failures):
        if code in failures:
            error = failures[code]
            message = f"The model {model.name} could not be fetched ({tried})."
            return WhisperdError(code, message, error.fix, {**error.data, **data})
    return WhisperdError(
        "model.unavailable",
        f"The model {model.name} was found nowhere ({tried or 'there is no source that could have it'}).",
        "Name another model, add a folder that has it to `models.folders`, or import one with "
        "`whisperctl models import PATH`.",
        data,
    )


def offline(name: str) -> WhisperdError:
    """Downloads are forbidden. As an outcome of a source it is a clause."""
    return WhisperdError(
        "model.offline",
        "downloads are forbidden",
        "Unset WHISPERD_OFFLINE, run `whisperctl daemon restart` and pull again, or bring the model on "
        "another way with `whisperctl models import PATH`.",
        {"name": name},
    )


def not_installed(name: str) -> WhisperdError:
    """The model is known, and not there."""
    return WhisperdError(
        "model.not_installed",
        f"The model {name} is not installed.",
        f"Install it with `whisperctl models pull {name}`.",
        {"name": name},
    )


def damaged(name: str, files: Sequence[str]) -> WhisperdError:
    """Files of an installed model are missing or hold other bytes."""
    return WhisperdError(
        "model.damaged",
        f"The model {name} is damaged: {', '.join(files)} {'is' if len(files) == 1 else 'are'} "
        "missing or changed.",
        f"Fetch what is damaged again with `whisperctl models pull {name}`.",
        {"name": name, "files": list(files)},
    )


def conversions_damaged(name: str, files: Sequence[str]) -> WhisperdError:
    """Files that were converted from a model held other bytes, and are removed. The model itself is whole."""
    return WhisperdError(
        "model.damaged",
        f"What was converted from the model {name} was damaged and has been removed: {', '.join(files)}.",
        "What was removed is made anew when it is needed. Check the disk.",
        {"name": name, "files": list(files)},
    )


def hash_mismatch(name: str, problem: str) -> WhisperdError:
    """A source has other bytes than the right ones. As an outcome of a source it is a clause."""
    return WhisperdError(
        "model.hash_mismatch",
        problem,
        "Pull again; if it stays so, use another source. If the model was changed there on purpose and you "
        f"trust the change, run `whisperctl models remove {name}` and pull it anew.",
    )


def disk_full(
    name: str, folder: Path, needed_bytes: int | None = None, free_bytes: int | None = None
) -> WhisperdError:
    """There is no room for a model."""
    fix = (
        "Free some space there, remove a model with `whisperctl models remove NAME`, or set "
        "WHISPERD_MODELS_DIR to a folder on a larger disk."
    )
    return disk.disk_full("model", name, folder, fix, needed_bytes, free_bytes)


@contextmanager
def os_errors(name: str | None, folder: Path) -> Iterator[None]:
    """What the system refuses meanwhile is said in the words of this room."""
    try:
        yield
    except OSError as error:
        raise from_os_error(name, folder, error) from error


def from_os_error(name: str | None, folder: Path, error: OSError) -> WhisperdError:
    """What the system refused while a model, or without a name all of them, were read, stored or removed."""
    what = f"The model {name}" if name else f"What is in {folder}"
    refusal = disk.refusal(error)
    if refusal == "full":
        return disk_full(name or "", folder)
    code, fix = "model.storage_failed", "Check the disk, then try again."
    if refusal == "forbidden":
        code = "model.read_only"
        fix = "Ask the owner of that folder to do it, or set WHISPERD_MODELS_DIR to a folder of your own."
    said = f"{error.filename or folder}: {error.strerror or error}"
    message = f"{what} cannot be read, stored or removed: {said}."
    return WhisperdError(code, message, fix, {"name": name, "path": str(folder)})


def busy(name: str) -> WhisperdError:
    """Another task or process is changing the model."""
    return WhisperdError(
        "model.busy",
        f"The model {name} is being installed or removed just now.",
        "Wait until that has ended, or cancel it, then try again.",
        {"name": name},
    )


def in_place(name: str) -> WhisperdError:
    """A folder or file that is used in place is not ours to remove."""
    return WhisperdError(
        "model.in_place",
        f"The model {name} is used in place; whisperd does not remove it.",
        "Delete it yourself if it is not needed any more.",
        {"name": name},
    )


def invalid_name(name: str) -> WhisperdError:
    """A name that an imported model cannot have."""
    return WhisperdError(
        "model.invalid_name",
        f"A model cannot be named {name!r}.",
        "Use letters (a to z, A to Z), digits, dots, single hyphens and underscores, and begin with a letter "
        "or digit.",
        {"name": name},
    )


def name_of_catalogue(name: str) -> WhisperdError:
    """A file of the user's cannot stand for a model whose files the catalogue knows."""
    return WhisperdError(
        "model.invalid_name",
        f"{name} is the name of a model whose files the catalogue knows, and this is none of them.",
        "Give the file a name of its own: `whisperctl models import FILE NAME`.",
        {"name": name},
    )


def already_installed(name: str) -> WhisperdError:
    """An import would replace an installed model."""
    return WhisperdError(
        "model.exists",
        f"There is a model named {name} already.",
        "Import it under another name, `whisperctl models import PATH NAME`, or run "
        f"`whisperctl models remove {name}` first.",
        {"name": name},
    )


def _tried(source: str, outcome: WhisperdError | NotHere) -> dict[str, str | None]:
    code = outcome.code if isinstance(outcome, WhisperdError) else None
    return {"source": source, "code": code, "message": str(outcome)}
