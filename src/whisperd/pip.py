"""pip in a child process: how it is run, how far it is, and why it failed.

What is fetched, pinned by hash unless newer versions are looked for, and how a failure is worded for
people, is the business of the rooms that fetch it.
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
    "untrusted",
    "unreachable",
    "refused",
    "absent",
    "unknown",
]
"""`forbidden` by the file system, `untrusted` for its certificate, `refused` by the index."""


@asynccontextmanager
async def open_pip(
    action: str,
    *options: str,
    requirements: str,
    temporary: Path,
    environment: Mapping[str, str] | None = None,
    require_hashes: bool = True,
) -> AsyncIterator[Pip]:
    """Run `pip install`, `download` or `wheel` for requirements, by default with hashes; it is dead when
    the block ends.

    It takes wheels only, unless an option says otherwise. Its temporary files go to an existing folder
    that the caller removes. Without an `environment` it has the user's own.
    """
    file = temporary / "requirements.txt"
    file.write_text(requirements, encoding="utf-8")
    # Before options of its configuration: no other place than the one that it is told.
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
    """The user's environment, less what would have pip install elsewhere, or other things, or say less than
    we read.

    Index, mirror, proxy, certificates, cache and timeouts stay the user's own.
    """
    here = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(temporary))
    off = dict.fromkeys(_SWITCHES, "0")
    none = dict.fromkeys(_LISTS, " ")  # it passes over an empty variable, and takes its configuration's
    return {**environment, **here, **off, **none, "PYTHONUTF8": "1", "NO_COLOR": "1"}


_SWITCHES = (
    *("PIP_USER", "PIP_REQUIRE_VIRTUALENV", "PIP_QUIET", "PIP_VERBOSE"),
    *("PIP_DRY_RUN", "PIP_REQUIRE_HASHES"),
)
_LISTS = ("PIP_CONSTRAINT", "PIP_BUILD_CONSTRAINT", "PIP_REQUIREMENT", "PIP_EDITABLE")
"""What would have it want others, or more, than it is told."""


class Pip:
    """A pip that runs, or another child whose lines are read."""

    def __init__(self, process: Process) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    async def lines(self) -> AsyncIterator[str]:
        """What it prints, until it falls silent for good."""
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
        """Wait for its end; whether all went well."""
        return await self._process.wait() == 0


class PipReader:
    """Follows pip by what it prints with `--progress-bar raw`, line by line. Pure."""

    def __init__(self, sizes_bytes: Mapping[str, int]) -> None:
        """The size of each file by the normalised name of its distribution; one that is missing is learnt."""
        self._sizes_bytes = dict(sizes_bytes)
        self._finished: set[str] = set()
        self._current_bytes = 0
        self._lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self.file: str | None = None
        """The distribution that is coming in."""
        self.detail = "downloading"
        """`downloading`, `retrying` or `installing`."""

    @property
    def done_bytes(self) -> int:
        """What has come of all wheels together; a wheel from pip's cache counts as come."""
        finished_bytes = sum(self._sizes_bytes[name] for name in self._finished)
        return finished_bytes + (0 if self.file in self._finished else self._current_bytes)

    @property
    def lines(self) -> list[str]:
        """The last lines other than progress."""
        return list(self._lines)

    def feed(self, line: str) -> bool:
        """Take in a line; True when it says something new on progress."""
        before = (self.file, self._current_bytes, self.detail)
        if progress := _PROGRESS.match(line):
            # Never back: after a cut, pip counts from the place where it goes on.
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
    """What could not be had, such as `av==18.1.0`, if it said so."""
    said: list[str]
    """Its last lines."""

    @property
    def reason(self) -> str:
        """Its last words, as a clause."""
        return f"pip says {self.said[-1].strip()!r:.200}" if self.said else "pip ended without a word"


def explain(lines: Sequence[str]) -> PipFailure:
    """Why pip failed, from its last lines; the first cause in the list that they show."""
    text = "\n".join(lines)
    cause: Cause = next((cause for cause, pattern in _CAUSES if re.search(pattern, text)), "unknown")
    missing = _MISMATCH.search(text) if cause == "hash_mismatch" else _MISSING.search(text)
    said = [line for line in lines if line.strip()][-_REPORTED_LINES:]
    return PipFailure(cause, missing[1] if missing else None, said)


_MISMATCH = re.compile(r"^ +(\S+==\S+) from ", re.MULTILINE)
_MISSING = re.compile(r"(?:No matching distribution found for|not install requirement) ([^\s;]+)")

# An index that is not reached has "no matching distribution" as well, so that comes last.
_CAUSES: tuple[tuple[Cause, str], ...] = (
    ("hash_mismatch", r"DO NOT MATCH THE HASHES"),
    ("disk_full", r"No space left on device|Disk quota exceeded|File too large|WinError 112"),
    # Of a connection, a firewall or a sandbox says the same.
    ("forbidden", r"Read-only file system|(?<!new connection: )\[Errno (?:1|13|30)\]|WinError 5\b"),
    ("no_pip", r"[Nn]o module named '?pip\b"),
    # Of a connection that is cut, or to what speaks no TLS, pip doubts the certificate.
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
