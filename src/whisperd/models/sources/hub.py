"""The hub, and the cache that the user's other programs filled from it, both accessed in a child process."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import msgspec

from whisperd.decodable import decodable
from whisperd.models.catalogue import ModelFile
from whisperd.models.children import Child, ask_child
from whisperd.models.messages import (
    Cached,
    Failed,
    FetchRequest,
    Finished,
    HubSettings,
    Line,
    Listed,
    Received,
    partial_name,
)
from whisperd.models.names import Reference
from whisperd.models.sources.base import (
    Found,
    FoundFile,
    NotHere,
    Workspace,
    missing_names,
    wanted_names,
)
from whisperd.rpc.errors import WhisperdError

__all__ = ["HubCacheSource", "HubSettings", "HubSource"]

log = logging.getLogger(__name__)

_START_TIMEOUT_S = 60.0
_ON = {"1", "ON", "YES", "TRUE"}


class HubCacheSource:
    """The cache of `huggingface_hub` (`HF_HOME`, `HF_HUB_CACHE`). Links, so that no byte is stored twice."""

    name = "the hub cache"
    remote = False

    async def fetch(self, model: Reference, workspace: Workspace) -> Found:  # noqa: ARG002
        """See `Source.fetch`."""
        if model.repo is None:
            raise NotHere("does not have it")
        request = FetchRequest(repo=model.repo, revision=model.revision, names=wanted_names(model))
        async with _open_fetch(request) as child:
            line = await _next(child, request.settings.connect_timeout_s, _no_answer)
            if isinstance(line, Cached):
                return _found_in_cache(model, line)
            log.warning("the hub cache could not be searched: %s", child.last_words())
            raise NotHere("could not be searched")


class HubSource:
    """The hub itself, or the one that `HF_ENDPOINT` names."""

    name = "the hub"
    remote = True

    def __init__(self, settings: HubSettings | None = None) -> None:
        self.settings = settings or HubSettings()

    async def fetch(self, model: Reference, workspace: Workspace) -> Found:
        """See `Source.fetch`."""
        if model.repo is None:
            raise NotHere("does not have it")
        if os.environ.get("HF_HUB_OFFLINE", "").upper() in _ON:
            raise WhisperdError(
                "model.offline",
                "HF_HUB_OFFLINE disables the hub",
                "Unset HF_HUB_OFFLINE, run `whisperctl daemon restart` and try again.",
            )
        request = FetchRequest(
            repo=model.repo,
            revision=model.revision,
            files=model.files,
            names=wanted_names(model),
            folder=str(workspace.folder),
            settings=self.settings,
        )
        done: dict[str, int] = {}
        async with _open_fetch(request) as child:
            listed = await _next(child, self.settings.connect_timeout_s, _no_answer)
            if isinstance(listed, Listed):
                _check_listed(model, listed)
                workspace.need_space(_missing_bytes(listed.files, workspace.folder))
                workspace.meter.expect(sum(file.size_bytes or 0 for file in listed.files))
                while isinstance(
                    line := await _next(child, self.settings.stall_timeout_s, _no_byte), Received
                ):
                    done[line.file] = line.done
                    workspace.meter.report(sum(done.values()), line.file)
                if isinstance(line, Finished):
                    return Found(_downloaded(listed, workspace.folder), "move", listed.commit)
            raise _no_result(child.last_words())


@asynccontextmanager
async def _open_fetch(request: FetchRequest) -> AsyncIterator[Child]:
    """Run the child, and wait until it has started."""
    environment = {**os.environ, "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    async with ask_child("whisperd.models.fetch", request, environment) as child:
        await _next(child, _START_TIMEOUT_S, _no_answer)
        yield child


async def _next(child: Child, timeout_s: float, silence: Callable[[float], WhisperdError]) -> Line | None:
    """Return the child's next line; None at its end. Raises an error for a timeout or a reported failure."""
    try:
        with anyio.fail_after(timeout_s):
            data = await child.next_line()
    except TimeoutError:
        raise silence(timeout_s) from None
    line = None if data is None else msgspec.json.decode(data, type=decodable(Line))
    if isinstance(line, Failed):
        raise WhisperdError(line.code, line.message, line.fix, line.data)
    return line


def _no_result(last_words: str) -> WhisperdError:
    log.warning("a download ended without a result: %s", last_words)
    reason = last_words.rpartition("\n")[2]
    return WhisperdError(
        "hub.failed",
        f"the download ended without a result ({reason})"
        if reason
        else "the download ended without a result",
        "Try again, which resumes the download; if that fails too, reinstall whisperd.",
        {"stderr": last_words},
    )


def _no_answer(timeout_s: float) -> WhisperdError:
    return WhisperdError(
        "network.unreachable",
        f"it did not respond within {timeout_s:.0f} seconds",
        "Check the network and the proxy settings, then try again.",
    )


def _no_byte(timeout_s: float) -> WhisperdError:
    return WhisperdError(
        "download.stuck",
        f"no data arrived for {timeout_s:.0f} seconds",
        "Check the network and try again; the download resumes where it stopped.",
    )


def _check_listed(model: Reference, listed: Listed) -> None:
    if missing := missing_names({file.name for file in listed.files}, model):
        raise WhisperdError(
            "model.unsupported_format",
            f"{model.repo} lacks {', '.join(missing)}",
            _fix_for_missing(missing),
            {"missing": missing},
        )
    unproven = [file.name for file in listed.files if file.sha256 is None and file.git_sha1 is None]
    if unproven:
        raise WhisperdError(
            "hub.no_hash",
            f"it states no hash by which to verify {', '.join(unproven)}",
            "Use another HF_ENDPOINT, or import a folder: `whisperctl models import PATH`.",
        )


def _fix_for_missing(missing: Collection[str]) -> str:
    if "model.bin" in missing:
        return (
            "Name a repository with a Whisper model in CTranslate2's format, such as "
            "Systran/faster-whisper-small; or convert this one with `ct2-transformers-converter --copy_files "
            "tokenizer.json`, which is in the Python package ctranslate2, and run `whisperctl models import "
            "FOLDER`."
        )
    return (
        "Download it, add the missing files of the model that it was made from, and run "
        "`whisperctl models import FOLDER`."
    )


def _missing_bytes(files: tuple[ModelFile, ...], folder: Path) -> int:
    total = 0
    for file in files:
        partial = folder / partial_name(file)
        total += (file.size_bytes or 0) - (partial.stat().st_size if partial.exists() else 0)
    return max(total, 0)


def _downloaded(listed: Listed, folder: Path) -> tuple[FoundFile, ...]:
    return tuple(FoundFile(file, folder / partial_name(file)) for file in listed.files)


def _found_in_cache(model: Reference, cached: Cached) -> Found:
    """Return the files that can be verified: those cached under a hash, and those whose hash is known."""
    known = {file.name for file in model.files if file.sha256 is not None}
    files = tuple(
        FoundFile(found.file, Path(found.path))
        for found in cached.files
        if (found.file.sha256 or found.file.git_sha1 or found.file.name in known)
        and os.access(found.path, os.R_OK)
    )
    if missing := missing_names({found.file.name for found in files}, model):
        raise NotHere(f"lacks {', '.join(missing)}" if files else "does not have it")
    return Found(files, "link", cached.commit)
