"""The hub, and the cache that other programs of the user filled from it. Both through a child process."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import BinaryIO

import anyio
import msgspec
from anyio.streams.buffered import BufferedByteReceiveStream

from whisperd.child import last_words, open_child, python_command
from whisperd.models.catalogue import ModelFile
from whisperd.models.messages import (
    Cached,
    Failed,
    FetchRequest,
    Finished,
    HubSettings,
    Line,
    Listed,
    Received,
    Started,
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

_MAX_LINE_BYTES = 1 << 20
_START_TIMEOUT_S = 60.0
_ON = {"1", "ON", "YES", "TRUE"}


class HubCacheSource:
    """The cache of `huggingface_hub` (`HF_HOME`, `HF_HUB_CACHE`). Links, so that no byte is kept twice."""

    name = "the hub cache"
    remote = False

    async def fetch(self, model: Reference, workspace: Workspace) -> Found:  # noqa: ARG002
        """See `Source.fetch`."""
        if model.repo is None:
            raise NotHere("does not have it")
        request = FetchRequest(repo=model.repo, revision=model.revision, names=wanted_names(model))
        async with _open_fetch(request) as lines:
            async for line in lines:
                if isinstance(line, Cached):
                    return _found_in_cache(model, line)
            log.warning("the hub cache could not be searched: %s", lines.last_words())
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
                "HF_HUB_OFFLINE switches the hub off",
                "Unset HF_HUB_OFFLINE, run `whisperctl daemon restart` and pull again.",
            )
        request = FetchRequest(
            repo=model.repo,
            revision=model.revision,
            files=model.files,
            names=wanted_names(model),
            folder=str(workspace.folder),
            settings=self.settings,
        )
        listed: Listed | None = None
        done: dict[str, int] = {}
        async with _open_fetch(request) as lines:
            async for line in lines:
                match line:
                    case Listed():
                        listed = line
                        _check_listed(model, listed)
                        workspace.need_space(_missing_bytes(listed.files, workspace.folder))
                        workspace.expect(sum(file.size_bytes or 0 for file in listed.files))
                    case Received():
                        done[line.file] = line.done
                        workspace.report(sum(done.values()), line.file)
                    case Finished() if listed is not None:
                        return Found(_downloaded(listed, workspace.folder), "move", listed.commit)
            raise _no_result(lines.last_words())


class _Fetch:
    """A running child: iterate over its lines, without the first one, to the end."""

    def __init__(self, lines: AsyncGenerator[Line], stderr: BinaryIO) -> None:
        self._lines = lines
        self._stderr = stderr

    def __aiter__(self) -> AsyncIterator[Line]:
        return self._lines

    def last_words(self) -> str:
        """What it wrote last to its standard error: why it came to no result."""
        return last_words(self._stderr)


@asynccontextmanager
async def _open_fetch(request: FetchRequest) -> AsyncIterator[_Fetch]:
    """Run the child. It is dead when the block is left."""
    command = python_command("whisperd.child", "whisperd.models.fetch", msgspec.json.encode(request).decode())
    env = {**os.environ, "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    # A file and not a pipe, which a child that writes much would fill, and then wait.
    with tempfile.TemporaryFile() as stderr:
        async with open_child(command, env=env, stderr=stderr.fileno()) as process:
            assert process.stdout is not None
            lines = _lines(BufferedByteReceiveStream(process.stdout), request.settings)
            try:
                yield _Fetch(lines, stderr)
            finally:
                await lines.aclose()


async def _lines(stream: BufferedByteReceiveStream, settings: HubSettings) -> AsyncGenerator[Line]:
    """What the child says, but for its start. Silence and failures become errors."""
    timeout_s, silence = _START_TIMEOUT_S, _no_answer
    while True:
        try:
            with anyio.fail_after(timeout_s):
                data = await stream.receive_until(b"\n", _MAX_LINE_BYTES)
        except TimeoutError:
            raise silence(timeout_s) from None
        except (anyio.IncompleteRead, anyio.EndOfStream):
            return
        line = msgspec.json.decode(data, type=Line)
        if isinstance(line, Failed):
            raise WhisperdError(line.code, line.message, line.fix, line.data)
        if isinstance(line, Started):
            timeout_s = settings.connect_timeout_s
        else:
            timeout_s, silence = settings.stall_timeout_s, _no_byte
            yield line


def _no_result(last_words: str) -> WhisperdError:
    log.warning("a download ended without a result: %s", last_words)
    reason = last_words.rpartition("\n")[2]
    return WhisperdError(
        "hub.failed",
        f"the download ended without a result ({reason})"
        if reason
        else "the download ended without a result",
        "Pull again, which takes it up where it ended; if that fails too, reinstall whisperd.",
        {"stderr": last_words},
    )


def _no_answer(timeout_s: float) -> WhisperdError:
    return WhisperdError(
        "network.unreachable",
        f"it has not answered within {timeout_s:.0f} seconds",
        "Check the network and the proxy settings, then pull again.",
    )


def _no_byte(timeout_s: float) -> WhisperdError:
    return WhisperdError(
        "download.stuck",
        f"no byte has come for {timeout_s:.0f} seconds",
        "Check the network and pull again; the download is taken up where it ended.",
    )


def _check_listed(model: Reference, listed: Listed) -> None:
    if missing := missing_names({file.name for file in listed.files}, model):
        raise WhisperdError(
            "model.unsupported_format",
            f"{model.repo} lacks {', '.join(missing)}",
            "Name a repository with a Whisper model in CTranslate2's format, such as "
            "Systran/faster-whisper-small.",
            {"missing": missing},
        )
    unproven = [file.name for file in listed.files if file.sha256 is None and file.git_sha1 is None]
    if unproven:
        raise WhisperdError(
            "hub.no_hash",
            f"it states no hash for {', '.join(unproven)}, so that it cannot be verified",
            "Use another HF_ENDPOINT, or import a folder: `whisperctl models import PATH`.",
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
    """Keep what can be verified: what the cache keeps under a hash, or what we know the hash of."""
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
