"""Update the generated parts of docs/runtimes.md.

    python scripts/runtimes_page.py             # the table of transitions (`make docs`)
    python scripts/runtimes_page.py --outputs   # also the output of the commands, by running each of them
    python scripts/runtimes_page.py --check     # fail if the table is not current

The page's `console` blocks contain its commands. They run in order from the root of the repository, against
a separate daemon with the models `tiny.en` and `base`, which are downloaded into the test cache.
`tests/test_runtimes_page.py` runs them too, and compares the output.
"""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from whisperd.runtimes.life import ACTIONS, STATUSES, Event, Life, Refused, step

if TYPE_CHECKING:
    from whisperd_testing import RunningDaemon

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "runtimes.md"
TABLE = re.compile(r"(?<=<!-- transitions -->\n).*?(?=<!-- end of transitions -->)", re.DOTALL)
BLOCK = re.compile(r"(?<=```console\n).*?(?=```)", re.DOTALL)
MODELS = ("tiny.en", "base")
FIRST = "base"
"""The model of the initial default; on a user's computer, one that suits it."""

# Differences between two runs. Runs of spaces count as one: column widths depend on the content.
DIFFERENT = (
    (r"\b[0-9a-f]{8}(?:[0-9a-f]{2})?\b", "ID"),
    (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "TIME"),
    (r"\b[\d.]+ [kMG]B\b", "SIZE"),
    (r"\bnow\b(?= +\d+$)|\b\d+ (s|min) ago\b", "AGO"),
    (r"\bint8(_float32)?(?=, \d+ worker)", "PRECISION"),
    (r"(?<=^process:) +\d+", " PID"),
    (r"(?<=^last used:) .*", " AGO"),
    (r" +", " "),
)

EVENTS: tuple[tuple[Event, str], ...] = (
    *((action, f"`{action}`") for action in ACTIONS),
    ("prepared", "everything is present"),
    ("ready", "the model is loaded"),
    ("fallback", "its variant fails, and there is another one"),
    ("failed", "it fails"),
    ("idle", "unused for its keep-alive"),
    ("evict", "another runtime needs its memory"),
    ("relieve", "the computer is short of memory"),
    ("release", "the last waiting client or job leaves"),
)
WAITED_FOR = ("prepared", "ready", "fallback", "release")


# The table of transitions


def transitions() -> str:
    """Return the table of events and statuses for an enabled runtime that is not the default."""
    lines = [
        "| | " + " | ".join(STATUSES) + " |",
        "| --- |" + " --- |" * len(STATUSES),
        *(
            f"| {label} | " + " | ".join(_becomes(status, event) for status in STATUSES) + " |"
            for event, label in EVENTS
        ),
    ]
    return "\n".join(lines) + "\n"


def _becomes(status: str, event: Event) -> str:
    life = Life(status, leases=int(event in WAITED_FOR))  # type: ignore[arg-type]
    try:
        after, effect = step(life, event)
    except Refused:
        return ""
    if event == "delete":
        return "deleted"
    begins = effect == "start"
    if effect == "stop":
        after, effect = step(after, "ended")
        begins = effect == "start"
    return "stays" if after.status == status and not begins else after.status


# The commands


@dataclass
class Command:
    """A command of the page and its output there."""

    line: str
    output: str


def blocks(page: str) -> list[list[Command]]:
    """Return the commands of each block, in order."""
    return [list(_commands(match[0])) for match in BLOCK.finditer(page)]


def _commands(block: str) -> Iterator[Command]:
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        line, _, output = part.partition("\n")
        yield Command(line, output)


def run(line: str, daemon: RunningDaemon) -> str:
    """Run a command and return its standard output and error, mixed as in a terminal."""
    words = shlex.split(line)
    variables = dict(word.split("=", 1) for word in words[: _count_variables(words)])
    program, *arguments = words[len(variables) :]
    assert program == "whisperctl", f"the page may run only whisperctl: {line}"
    done = subprocess.run(
        [sys.executable, "-P", "-m", "whisperd.cli.main", *arguments],
        env={**daemon.env, **variables},
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    return done.stdout.decode()


def _count_variables(words: Sequence[str]) -> int:
    return next(index for index, word in enumerate(words) if "=" not in word)


def normal(output: str) -> str:
    """Replace the parts of an output in which two runs differ."""
    for pattern, name in DIFFERENT:
        output = re.sub(pattern, name, output, flags=re.MULTILINE)
    return output


def begin(folder: Path) -> RunningDaemon:
    """Start the daemon that the page assumes: both models present, one runtime with `base`."""
    sys.path.append(str(ROOT / "tests"))
    from whisperd_testing import RunningDaemon

    env = {"HF_HUB_OFFLINE": "0", "COLUMNS": "100", "TZ": "UTC"}
    daemon = RunningDaemon(folder, toy=False, env=env).start()
    try:
        for what in (("natives", "install", "media", "ctranslate2-cpu"), ("models", "pull", *MODELS)):
            done = daemon.ctl(*what, timeout=600)
            assert done.status == 0, done
        with daemon.connect() as client:
            (first,) = client.runtimes.list()
            for model in (*MODELS, FIRST):  # converted weights are then present, too
                client.runtimes.edit(first["id"], name=FIRST, model=model)
                client.runtimes.prepare(first["id"])
        # Editing the default has loaded it; on the page it begins unloaded.
        daemon.ctl("daemon", "stop")
        daemon.wait()
        daemon.start()
    except BaseException:
        daemon.close()
        raise
    return daemon


def with_outputs(page: str) -> str:
    """Return the page with the current output of its commands."""
    with TemporaryDirectory() as folder:
        daemon = begin(Path(folder))
        try:
            return BLOCK.sub(lambda block: _run_block(block[0], daemon), page)
        finally:
            daemon.close()


def _run_block(block: str, daemon: RunningDaemon) -> str:
    return "".join(f"$ {one.line}\n{run(one.line, daemon)}" for one in _commands(block))


def main() -> None:
    """Update the page, or check it."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--outputs", action="store_true", help="run the commands and store their output")
    options.add_argument("--check", action="store_true", help="fail if the table is not current")
    chosen = options.parse_args()
    old = PAGE.read_text(encoding="utf-8")
    new = TABLE.sub(lambda _: transitions(), old)
    if chosen.check and new != old:
        sys.exit(f"{PAGE.name} is not current: run `make docs`.")
    if chosen.outputs:
        new = with_outputs(new)
    if not chosen.check:
        PAGE.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
