"""Turn exceptions of the hub's library into actionable errors. Used only in the child process."""

from __future__ import annotations

import json
import os
import ssl

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

__all__ = ["CaptivePortal", "TooLarge", "explain", "is_transient"]

_TRANSIENT_STATUS = (408, 500, 502, 503, 504)
_TRANSPORT_MODULES = ("httpx", "httpx2", "httpcore", "httpcore2")


class CaptivePortal(Exception):
    """The answer did not come from the hub."""


class TooLarge(Exception):
    """The hub sent more bytes than a file's stated size. The argument is the file's name."""


def is_transient(error: Exception) -> bool:
    """Whether the same request may succeed a moment later."""
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in _TRANSIENT_STATUS
    return isinstance(error, ConnectionError) or _is_transport(error)


def explain(error: Exception, request: FetchRequest) -> Failed:
    """Return the error to report for an exception. Its message is a clause, which the caller completes."""
    data: dict[str, str | int | None] = {}
    if isinstance(error, OfflineModeIsEnabled):
        code, message = "model.offline", "HF_HUB_OFFLINE disables the hub"
        fix = "Unset HF_HUB_OFFLINE, run `whisperctl daemon restart` and try again."
    elif _is_portal(error):
        code = "network.captive_portal"
        message = "something other than the hub answered, perhaps a login page"
        fix = (
            "Log in to the network with a web browser, or correct HF_ENDPOINT and run"
            " `whisperctl daemon restart`; then try again."
        )
    elif isinstance(error, TooLarge):
        code, message = "model.hash_mismatch", f"it sent more bytes of {error} than the file should have"
        fix = "Check HF_ENDPOINT: it may name a mirror that is outdated or was tampered with."
    elif isinstance(error, HfHubHTTPError):
        code, message, fix = _explain_status(error, request)
        data["status"] = error.response.status_code
    elif isinstance(error, OSError) and refusal(error) == "full":
        code, message, fix = "disk.full", "the disk is full", "Free some space and try again."
    elif problem := _certificate_problem(error):
        code, message = "network.untrusted", problem
        fix = (
            "Set SSL_CERT_FILE to a file with your network's certificate, or unset it if there is none; then"
            " run `whisperctl daemon restart` and try again."
        )
    elif isinstance(error, ImportError | ValueError) and "proxy" in str(error).lower():
        code, message = "network.unreachable", f"its proxy cannot be used ({_reason(error)})"
        fix = (
            "Set HTTPS_PROXY to an HTTP proxy, unset ALL_PROXY, run `whisperctl daemon restart` and try"
            " again."
        )
    elif isinstance(error, ConnectionError) or _is_transport(error):
        code, message = "network.unreachable", f"it cannot be reached ({_reason(error)})"
        places = "the network, HF_ENDPOINT" if "HF_ENDPOINT" in os.environ else "the network"
        fix = (
            f"Check {places} and the proxy settings, then try again; or copy the model to this computer"
            " yourself and run `whisperctl models import PATH`."
        )
    else:
        code, message = "hub.failed", f"it failed ({_reason(error)})"
        fix = "Try again; if that fails too, report it."
    return Failed(code=code, message=message, fix=fix, data=data)


def _explain_status(error: HfHubHTTPError, request: FetchRequest) -> tuple[str, str, str]:
    """Return code, message and fix for an HTTP error."""
    repo, status = request.repo, error.response.status_code
    if isinstance(error, GatedRepoError):
        code, message = "hub.unauthorised", f"{repo} is open only to users who have accepted its conditions"
        fix = (
            f"Accept them on the hub's page of {repo}, set HF_TOKEN to your token (for a service, in a"
            " drop-in), run `whisperctl daemon restart` and try again."
        )
    elif isinstance(error, RevisionNotFoundError):
        code, message = "hub.not_found", f"{repo} has no revision {request.revision}"
        fix = "Name another revision after the @, or none."
    elif isinstance(error, RemoteEntryNotFoundError):
        code, message = "hub.not_found", f"a file of {repo} no longer exists"
        fix = "Name another repository or revision."
    elif status == 401 and "Authorization" in error.response.request.headers:  # even for a public model
        code, message = "hub.unauthorised", "it refuses your token, which may have expired"
        fix = (
            "Set HF_TOKEN to a valid token (for a service, in a drop-in), or unset it and run `hf auth"
            " logout`: public models need none. Then run `whisperctl daemon restart`."
        )
    elif status in (401, 403):
        code, message = "hub.unauthorised", f"access to {repo} is refused: it is private, or does not exist"
        fix = (
            "Check the spelling, and set HF_TOKEN to a token with read access (for a service, in a"
            " drop-in); then run `whisperctl daemon restart`."
        )
    elif status == 404:
        code, message = "hub.not_found", f"there is no repository {repo}"
        fix = "Check the spelling; `whisperctl models available` lists the known names."
    elif status == 429:
        code, message = "hub.rate_limited", "it received too many requests from this network"
        fix = f"Try again {_when(error)}; the limit is higher if HF_TOKEN is set."
    elif status >= 500:
        code, message, fix = "hub.unavailable", f"it is unavailable (HTTP {status})", "Try again later."
    else:
        code, message = "hub.failed", f"it refused the request (HTTP {status})"
        fix = "Check HF_ENDPOINT, run `whisperctl daemon restart` and try again."
    return code, message, fix


def _certificate_problem(error: Exception) -> str | None:
    """Return why the hub is not trusted, as a clause; None if the cause is another one."""
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return f"its certificate was refused ({_reason(error)})"
    named = os.environ.get("SSL_CERT_FILE")
    is_unreadable = isinstance(error, OSError) and not os.access(named or "", os.R_OK)
    if named and (is_unreadable or isinstance(error, ssl.SSLError)):
        return f"the certificates in SSL_CERT_FILE cannot be read: {named}"
    return None


def _is_portal(error: Exception) -> bool:
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code == 511
    return isinstance(error, CaptivePortal | FileMetadataError | json.JSONDecodeError)


def _when(error: HfHubHTTPError) -> str:
    after = error.response.headers.get("Retry-After", "")
    return f"in {after} seconds" if after.isdigit() else "in a few minutes"


def _is_transport(error: Exception) -> bool:
    """Whether it is an exception of the HTTP client; which client depends on the version of the library."""
    return type(error).__module__.partition(".")[0] in _TRANSPORT_MODULES


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:200] if text else type(error).__name__
