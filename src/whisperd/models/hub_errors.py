"""What went wrong with the hub, in words that a person can act on. Used in the child process only."""

from __future__ import annotations

import json

from huggingface_hub.errors import (
    FileMetadataError,
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RevisionNotFoundError,
)

from whisperd.disk import refusal
from whisperd.models.messages import Failed, FetchRequest

__all__ = ["CaptivePortal", "TooLarge", "explain", "is_passing"]

_PASSING_STATUS = (408, 500, 502, 503, 504)
_TRANSPORT_MODULES = ("httpx", "httpx2", "httpcore", "httpcore2")


class CaptivePortal(Exception):
    """Something else than the hub answered."""


class TooLarge(Exception):
    """More bytes come of a file, whose name is the argument, than it is to have."""


def is_passing(error: Exception) -> bool:
    """Whether the same request may well succeed a moment later."""
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in _PASSING_STATUS
    return isinstance(error, ConnectionError) or _is_transport(error)


def explain(error: Exception, request: FetchRequest) -> Failed:
    """The error to report for an exception. Its message is a clause; who reads it adds what was wanted."""
    data: dict[str, str | int | None] = {}
    if isinstance(error, OfflineModeIsEnabled):
        code, message = "model.offline", "HF_HUB_OFFLINE switches the hub off"
        fix = "Unset HF_HUB_OFFLINE, run `whisperctl daemon restart` and pull again."
    elif _is_portal(error):
        code, message = "network.captive_portal", "something else than the hub answered, perhaps a login page"
        fix = (
            "Log in to the network with a web browser, or correct HF_ENDPOINT and run"
            " `whisperctl daemon restart`; then pull again."
        )
    elif isinstance(error, TooLarge):
        code, message = "model.hash_mismatch", f"it sends more of {error} than the file is to have"
        fix = "Check HF_ENDPOINT: it may be a mirror that is out of date or was tampered with."
    elif isinstance(error, HfHubHTTPError):
        code, message, fix = _explain_status(error, request)
        data["status"] = error.response.status_code
    elif isinstance(error, OSError) and refusal(error) == "full":
        code, message, fix = "disk.full", "the disk is full", "Free some space and pull again."
    elif isinstance(error, ConnectionError) or _is_transport(error):
        code, message = "network.unreachable", f"it cannot be reached ({_reason(error)})"
        fix = (
            "Check the network and the proxy settings, then pull again; or bring the model on another way and"
            " run `whisperctl models import PATH`."
        )
    else:
        code, message = "hub.failed", f"it failed ({_reason(error)})"
        fix = "Pull again; if it fails again, report it."
    return Failed(code=code, message=message, fix=fix, data=data)


def _explain_status(error: HfHubHTTPError, request: FetchRequest) -> tuple[str, str, str]:
    """Code, message and fix for an answer that is an error."""
    repo, status = request.repo, error.response.status_code
    if isinstance(error, GatedRepoError):
        code, message = "hub.unauthorised", f"{repo} is open only to those who accepted its conditions"
        fix = (
            f"Accept them on the hub's page of {repo}, set HF_TOKEN to a token of yours (for a service in a"
            " drop-in), run `whisperctl daemon restart` and pull again."
        )
    elif isinstance(error, RevisionNotFoundError):
        code, message = "hub.not_found", f"{repo} has no revision {request.revision}"
        fix = "Name another revision after the @, or none."
    elif isinstance(error, RemoteEntryNotFoundError):
        code, message = "hub.not_found", f"a file of {repo} is not there any more"
        fix = "Name another repository or revision."
    elif status in (401, 403):
        code, message = "hub.unauthorised", f"access to {repo} is refused: it is private, or does not exist"
        fix = (
            "Check the spelling, and set HF_TOKEN to a token that may read it (for a service in a"
            " drop-in); then run `whisperctl daemon restart`."
        )
    elif status == 404:
        code, message = "hub.not_found", f"there is no repository {repo}"
        fix = "Check the spelling; `whisperctl models available` lists the names that are known."
    elif status == 429:
        code, message = "hub.rate_limited", "it has had too many requests from here"
        fix = f"Pull again {_when(error)}; with HF_TOKEN set the limit is higher."
    elif status >= 500:
        code, message, fix = "hub.unavailable", f"it is out of order ({status})", "Pull again later."
    else:
        code, message = "hub.failed", f"it refuses the request ({status})"
        fix = "Check HF_ENDPOINT, run `whisperctl daemon restart` and pull again."
    return code, message, fix


def _is_portal(error: Exception) -> bool:
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code == 511
    return isinstance(error, CaptivePortal | FileMetadataError | json.JSONDecodeError)


def _when(error: HfHubHTTPError) -> str:
    after = error.response.headers.get("Retry-After", "")
    return f"in {after} seconds" if after.isdigit() else "in a few minutes"


def _is_transport(error: Exception) -> bool:
    """Whether it is an exception of the HTTP client, which differs between versions of the hub's library."""
    return type(error).__module__.partition(".")[0] in _TRANSPORT_MODULES


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:200] if text else type(error).__name__
