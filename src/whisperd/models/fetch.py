"""The child process that talks to the hub: it lists and downloads a model's files, or searches the cache.

Run as `python -m whisperd.models.fetch REQUEST` with a `FetchRequest` as JSON; it prints `Line`s as lines
of JSON. It is a separate process so that it can be killed at once, and so that the daemon never imports
`huggingface_hub`. It verifies nothing: the store does that.

The download is implemented here because that of `huggingface_hub` starts over after every interruption,
while a file of several gigabytes must resume where it stopped, even after a kill.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
from huggingface_hub import HfApi, get_hf_file_metadata, get_session, hf_hub_url, try_to_load_from_cache
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status  # type: ignore[attr-defined]

from whisperd.decodable import decodable
from whisperd.models.catalogue import ModelFile, expected
from whisperd.models.hub_errors import CaptivePortal, TooLarge, explain, is_transient
from whisperd.models.messages import (
    Cached,
    CachedFile,
    FetchRequest,
    Finished,
    Line,
    Listed,
    Received,
    Started,
    partial_name,
)

_SHA256 = re.compile(r"[0-9a-f]{64}")
_GIT_SHA1 = re.compile(r"[0-9a-f]{40}")
_REPORT_EVERY_S = 0.1


def main() -> None:
    """Run the request in the first argument."""
    request = msgspec.json.decode(sys.argv[1], type=decodable(FetchRequest))
    try:
        _say(Started())
        if request.folder is None:
            _say(search_cache(request))
        else:
            fetch(request, Path(request.folder))
    except Exception as error:
        _say(explain(error, request))


def search_cache(request: FetchRequest) -> Cached:
    """Find the files in the hub cache, which other programs filled."""
    revision = request.revision or "main"
    found = [(name, try_to_load_from_cache(request.repo, name, revision=revision)) for name in request.names]
    paths = [(name, Path(path)) for name, path in found if isinstance(path, str)]
    files = tuple(CachedFile(file=_cached(name, path), path=str(path)) for name, path in paths)
    return Cached(commit=paths[0][1].parent.name if paths else None, files=files)


def fetch(request: FetchRequest, folder: Path) -> None:
    """List those of the requested files that the hub has, and download them."""
    commit, files = list_files(request)
    _say(Listed(commit=commit, files=files))
    for file in files:
        url = hf_hub_url(request.repo, file.name, revision=commit)
        download(url, folder / partial_name(file), file, request, _reporter(file))
    _say(Finished())


def list_files(request: FetchRequest) -> tuple[str, tuple[ModelFile, ...]]:
    """Return the commit, and the files with the sizes and hashes that the hub states."""
    info = HfApi().model_info(
        request.repo,
        revision=request.revision,
        files_metadata=True,
        timeout=request.settings.connect_timeout_s,
    )
    if info.sha is None or info.siblings is None:
        raise CaptivePortal
    known = {file.name: file for file in request.files}
    stated = {sibling.rfilename: sibling for sibling in info.siblings}
    files = []
    for name in request.names:
        if name not in stated:
            continue
        sibling = stated[name]
        file = ModelFile(
            name=name,
            size_bytes=sibling.lfs.size if sibling.lfs else sibling.size,
            sha256=sibling.lfs.sha256 if sibling.lfs else None,
            git_sha1=None if sibling.lfs else sibling.blob_id,
        )
        if file.sha256 is None and file.git_sha1 is None:  # a mirror whose listing has no hashes
            file = _stated_by_headers(request, info.sha, name)
        files.append(expected(known.get(name), file))
    return info.sha, _checked(files)


def _checked(files: Sequence[ModelFile]) -> tuple[ModelFile, ...]:
    """Check that the hashes are hashes, and return the files: the hash becomes the download's file name."""
    try:
        return msgspec.convert(msgspec.to_builtins(files), decodable(tuple[ModelFile, ...]))
    except msgspec.ValidationError as error:
        raise CaptivePortal from error


def download(
    url: str, path: Path, file: ModelFile, request: FetchRequest, report: Callable[[int], None]
) -> None:
    """Append to `path` until the file is complete, resuming after broken connections and earlier runs."""
    failures = 0
    while True:
        before = _size(path)
        if file.size_bytes is not None and before > file.size_bytes:
            path.unlink()
        elif before == file.size_bytes:
            report(before)
            return
        try:
            _receive(url, path, file, request, report)
            if file.size_bytes is None or _size(path) >= file.size_bytes:
                return
            raise ConnectionResetError("the connection was closed before the end of the file")
        except TooLarge:
            path.unlink()  # none of it can be trusted
            raise
        except Exception as error:
            failures = 1 if _size(path) > before else failures + 1
            if failures >= request.settings.attempts or not is_transient(error):
                raise
            time.sleep(request.settings.retry_delay_s * 2 ** (failures - 1))


def _receive(
    url: str, path: Path, file: ModelFile, request: FetchRequest, report: Callable[[int], None]
) -> None:
    """Request the missing bytes once. Never write more than the file's stated size."""
    done = _size(path)
    headers = build_hf_headers() | {"Accept-Encoding": "identity"}
    if done:
        headers["Range"] = f"bytes={done}-"
    with get_session().stream(
        "GET", url, headers=headers, timeout=request.settings.read_timeout_s
    ) as response:
        if response.status_code == 416:  # the file ends where ours does; the store verifies it
            return
        if response.is_error:
            response.read()
        hf_raise_for_status(response)
        if "text/html" in response.headers.get("Content-Type", ""):
            raise CaptivePortal
        resumed = response.status_code == 206
        with path.open("ab" if resumed else "wb", buffering=0) as target:
            done = done if resumed else 0
            for chunk in response.iter_bytes():
                done += len(chunk)
                if file.size_bytes is not None and done > file.size_bytes:
                    raise TooLarge(file.name)
                target.write(chunk)
                report(done)


def _stated_by_headers(request: FetchRequest, commit: str, name: str) -> ModelFile:
    url = hf_hub_url(request.repo, name, revision=commit)
    metadata = get_hf_file_metadata(url, timeout=request.settings.connect_timeout_s)
    return _named_by(metadata.etag or "", name, metadata.size)


def _cached(name: str, path: Path) -> ModelFile:
    """Describe a file of the cache: a link to a blob named by its hash (a copy where links do not work)."""
    blob = path.readlink().name if path.is_symlink() else ""
    return _named_by(blob, name, path.stat().st_size)


def _named_by(etag: str, name: str, size_bytes: int | None) -> ModelFile:
    """Describe a file by the hub's ETag: the SHA-256 of a large file, or the git blob hash of a small one."""
    return ModelFile(
        name=name,
        size_bytes=size_bytes,
        sha256=etag if _SHA256.fullmatch(etag) else None,
        git_sha1=etag if _GIT_SHA1.fullmatch(etag) else None,
    )


def _reporter(file: ModelFile) -> Callable[[int], None]:
    last_s = 0.0

    def report(done: int) -> None:
        nonlocal last_s
        now_s = time.monotonic()
        if now_s - last_s >= _REPORT_EVERY_S or done == file.size_bytes:
            last_s = now_s
            _say(Received(file=file.name, done=done))

    return report


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _say(line: Line) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(line) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
