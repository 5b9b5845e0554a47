"""Runs pip in a child process, follows its progress, and explains why it failed.

The packages that use this module decide what to fetch, which is pinned by hash except when searching for
newer versions, and how to word a failure for users.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from packaging.utils import canonicalize_name

from whisperd.child import open_child, python_command

if TYPE_CHECKING:
    from anyio.abc import Process

__all__ = ["Cause", "Pip", "PipFailure", "PipReader", "explain", "open_pip", "pip_environment"]

_KEPT_LINES = 200
_REPORTED_LINES = 15

Cause = Literal[
    "hash_mismatch",
    "disk_full",
    "forbidden",
    "no_pip",
    "proxy",
    "untrusted",
    "unreachable",
    "refused",
    "absent",
    "unknown",
]
"""`forbidden`: by the file system; `proxy`: pip cannot use it; `untrusted`: because of the certificate;
`refused`: by the index."""


@asynccontextmanager
async def open_pip(
    action: str,
    *options: str,
    requirements: str,
    temporary: Path,
    environment: Mapping[str, str] | None = None,
    require_hashes: bool = True,
) -> AsyncIterator[Pip]:
    """Run `pip install`, `download` or `wheel` for requirements, by default with hashes; kill it when the
    block ends.

    It accepts only wheels, unless an option says otherwise. Its temporary files go to an existing folder,
    which the caller deletes. `environment` defaults to that of this process.
    """
    file = temporary / "requirements.txt"
    file.write_text(requirements, encoding="utf-8")
    # These override pip's configuration files: it must install nowhere but where `options` say.
    here = ("--target=", "--prefix=", f"--root={temporary.anchor or os.sep}")
    command = python_command(
        *("whisperd.child", "pip", action, *(here if action == "install" else ())),
        *(("--require-hashes",) if require_hashes else ()),
        *("--only-binary", ":all:", "--no-deps"),
        *("--progress-bar", "raw", "--no-input", "--disable-pip-version-check"),
        *(*options, "--requirement", str(file)),
    )
    environment = pip_environment(os.environ if environment is None else environment, temporary)
    async with open_child(command, env=environment, stderr=subprocess.STDOUT) as process:
        yield Pip(process)


def pip_environment(environment: Mapping[str, str], temporary: Path) -> dict[str, str]:
    """Return the user's environment, without what would make pip install elsewhere, install other packages,
    or print less than we read.

    The user's index, mirror, proxy, certificates, cache and timeouts stay in effect.
    """
    here = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(temporary))
    off = dict.fromkeys(_SWITCHES, "0")
    none = dict.fromkeys(_LISTS, " ")  # pip would ignore an empty variable and use its configuration file
    return {**environment, **here, **off, **none, "PYTHONUTF8": "1", "NO_COLOR": "1"}


_SWITCHES = (
    *("PIP_USER", "PIP_REQUIRE_VIRTUALENV", "PIP_QUIET", "PIP_VERBOSE"),
    *("PIP_DRY_RUN", "PIP_REQUIRE_HASHES"),
)
_LISTS = ("PIP_CONSTRAINT", "PIP_BUILD_CONSTRAINT", "PIP_REQUIREMENT", "PIP_EDITABLE")
"""Variables that would make pip install other or more packages than requested."""


class Pip:
    """A running pip, or another child whose output is read by lines."""

    def __init__(self, process: Process) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    async def lines(self) -> AsyncIterator[str]:
        """Yield the lines that it prints, until its output ends."""
        from anyio.streams.text import TextReceiveStream

        assert self._process.stdout is not None
        rest = ""
        async for text in TextReceiveStream(self._process.stdout, errors="replace"):
            *lines, rest = (rest + text).split("\n")
            for line in lines:
                yield line.rstrip("\r")
        if rest:
            yield rest

    async def succeeded(self) -> bool:
        """Wait until it exits; whether it succeeded."""
        return await self._process.wait() == 0


class PipReader:
    """Follows pip's progress by the lines that it prints with `--progress-bar raw`. Pure."""

    def __init__(self, sizes_bytes: Mapping[str, int]) -> None:
        """`sizes_bytes`: file sizes by normalised name of the distribution; missing ones are learnt."""
        self._sizes_bytes = dict(sizes_bytes)
        self._finished: set[str] = set()
        self._current_bytes = 0
        self._lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self.file: str | None = None
        """The distribution that is being downloaded."""
        self.detail = "downloading"
        """`downloading`, `retrying` or `installing`."""

    @property
    def done_bytes(self) -> int:
        """Bytes downloaded of all wheels together; a wheel from pip's cache counts as downloaded."""
        finished_bytes = sum(self._sizes_bytes[name] for name in self._finished)
        return finished_bytes + (0 if self.file in self._finished else self._current_bytes)

    @property
    def lines(self) -> list[str]:
        """The last lines other than progress."""
        return list(self._lines)

    def feed(self, line: str) -> bool:
        """Read a line; return whether it changed the progress."""
        before = (self.file, self._current_bytes, self.detail)
        if progress := _PROGRESS.match(line):
            # Never decreases: after an interruption, pip counts from where it resumes.
            done_bytes = min(int(progress[1]), self._size_bytes(int(progress[2])))
            self._current_bytes = max(self._current_bytes, done_bytes)
            self.detail = "downloading"
        else:
            self._lines.append(line.rstrip())
            self._read_message(line)
        return before != (self.file, self._current_bytes, self.detail)

    def _size_bytes(self, announced_bytes: int) -> int:
        return self._sizes_bytes.setdefault(self.file, announced_bytes) if self.file else 0

    def _read_message(self, line: str) -> None:
        if wheel := _WHEEL.match(line):
            self._begin(canonicalize_name(wheel[1]))
            self.detail = "downloading"
        elif line.startswith(_INSTALLING):
            self._begin(None)
            self._finished = set(self._sizes_bytes)
            self.detail = "installing"
        elif _RETRYING.search(line):
            self.detail = "retrying"

    def _begin(self, name: str | None) -> None:
        if name != self.file:
            if self.file is not None and self.file in self._sizes_bytes:
                self._finished.add(self.file)
            self.file, self._current_bytes = name, 0


_PROGRESS = re.compile(r"Progress (\d{1,15}) of (\d{1,15})")
_WHEEL = re.compile(
    r"\s*(?:Downloading|Using cached|Processing) (?:.*[/\\])?"
    r"([A-Za-z0-9_.]+)-[^/\\ ]*\.(?:whl|tar\.gz|zip)(?=\s|$)"
)
_RETRYING = re.compile(r"WARNING: (?:Retrying|Connection interrupted|Attempting to resume)")
_INSTALLING = "Installing collected packages"


@dataclass(frozen=True)
class PipFailure:
    """Why pip failed."""

    cause: Cause
    requirement: str | None
    """The requirement that could not be fetched, such as `av==18.1.0`, if pip named it."""
    said: list[str]
    """Its last lines."""

    @property
    def reason(self) -> str:
        """Its last line, as a clause."""
        return f"pip says {self.said[-1].strip()!r:.200}" if self.said else "pip exited without a message"


def explain(lines: Sequence[str]) -> PipFailure:
    """Explain why pip failed, from its last lines: by the first entry of `_CAUSES` that they match."""
    text = "\n".join(lines)
    cause: Cause = next((cause for cause, pattern in _CAUSES if re.search(pattern, text)), "unknown")
    missing = _MISMATCH.search(text) if cause == "hash_mismatch" else _MISSING.search(text)
    said = [line for line in lines if line.strip()][-_REPORTED_LINES:]
    return PipFailure(cause, missing[1] if missing else None, said)


_MISMATCH = re.compile(r"^ +(\S+==\S+) from ", re.MULTILINE)
_MISSING = re.compile(r"(?:No matching distribution found for|not install requirement) ([^\s;]+)")

# An unreachable index also leads to "No matching distribution", so that comes last.
_CAUSES: tuple[tuple[Cause, str], ...] = (
    ("hash_mismatch", r"DO NOT MATCH THE HASHES"),
    ("disk_full", r"No space left on device|Disk quota exceeded|File too large|WinError 112"),
    # A firewall or sandbox that blocks a connection raises the same errors.
    ("forbidden", r"Read-only file system|(?<!new connection: )\[Errno (?:1|13|30)\]|WinError 5\b"),
    ("no_pip", r"[Nn]o module named '?pip\b"),
    ("proxy", r"Missing dependencies for SOCKS support"),
    # pip reports a connection that is cut, or to a server without TLS, as a certificate error.
    ("unreachable", r"UNEXPECTED_EOF_WHILE_READING|WRONG_VERSION_NUMBER|EOF occurred in violation"),
    (
        "untrusted",
        r"(?i)CERTIFICATE_VERIFY_FAILED|confirming the ssl certificate|SSLError|SSL verification",
    ),
    (
        "unreachable",
        r"Retry\(total=0|Max retries exceeded|incomplete-download|NewConnectionError|ReadTimeout"
        r"|ConnectionResetError|ProtocolError|ProxyError|network connectivity|HTTP error 5\d\d",
    ),
    ("refused", r"HTTP error 4\d\d"),
    ("absent", r"No matching distribution found"),
)
