"""`uploads.*`: inputs that are not files, sent in pieces."""

from __future__ import annotations

from typing import Any

import anyio.to_thread

from whisperd.daemon.service import Call
from whisperd.rpc.errors import WhisperdError
from whisperd.rpc.messages import NoParams, Params

__all__ = ["check_owned"]


class AppendParams(Params, frozen=True):
    """A piece of an upload."""

    id: str
    data: bytes


class UploadParams(Params, frozen=True):
    """Which upload."""

    id: str


async def create(call: Call, params: NoParams) -> dict[str, Any]:
    """Begin an upload. It is deleted with the connection unless a job uses it."""
    _check_room(call)
    upload = await anyio.to_thread.run_sync(call.service.uploads.create)
    try:
        _check_room(call)  # others may have been created meanwhile
    except WhisperdError:
        await call.service.remove_upload(upload)
        raise
    call.connection.uploads.add(upload)
    return {"id": upload}


async def append(call: Call, params: AppendParams) -> dict[str, Any]:
    """Append bytes to an upload. The next piece may be sent before the response."""
    async with call.connection.uploading:
        check_owned(call, params.id)
        try:
            size_bytes = await anyio.to_thread.run_sync(call.service.uploads.append, params.id, params.data)
        except Exception:  # also if no thread can be started: no later piece may take its place
            call.connection.uploads.discard(params.id)
            call.service.discard_upload(params.id)
            raise
    return {"size": size_bytes}


async def delete(call: Call, params: UploadParams) -> dict[str, Any]:
    """Delete an upload."""
    check_owned(call, params.id)
    call.connection.uploads.discard(params.id)
    await call.service.remove_upload(params.id)
    return {}


def _check_room(call: Call) -> None:
    limit = call.service.settings.limits.max_uploads
    if len(call.connection.uploads) >= limit:
        raise WhisperdError(
            "upload.too_many",
            f"This connection has {limit} uploads that no job has used.",
            "Submit jobs for them or delete some, or raise `limits.max_uploads` in the settings.",
        )


def check_owned(call: Call, upload: str) -> None:
    """Raise `upload.unknown` if an upload does not belong to this connection."""
    if upload not in call.connection.uploads:
        raise WhisperdError(
            "upload.unknown",
            f"This connection has no upload {upload[:40]!r}.",
            "Begin one with `uploads.create`.",
        )
