"""Daemon, worker and decoder are killed while files are copied, renamed, edited and deleted.

`make torture` runs a hundred rounds. The seed is printed; `WHISPERD_TORTURE_SEED` repeats a run.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import sqlite3
import time
import wave
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import psutil
import pytest

from whisperd.rpc.errors import WhisperdError
from whisperd_testing import RunningDaemon, toy_model, until, write_tone

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.skipif(os.name != "posix", reason="signals")]

ROUNDS = int(os.environ.get("WHISPERD_TORTURE_ROUNDS", "2"))
SEED = os.environ.get("WHISPERD_TORTURE_SEED", "1" if ROUNDS == 2 else str(time.time_ns()))
STEPS = 25
"""Steps per round."""
MOST_FILES = 60
"""Above this number, most steps delete files, so that late rounds are as quick as early ones."""
SETTINGS = """
[watch]
settle_s = 0.3
retry_delay_s = 0.2
attempts = 100
[jobs]
keep_count = 100000
"""


class Tree:
    """A watched folder, and a busy user who works in it."""

    def __init__(self, root: Path, chance: random.Random) -> None:
        self.root = root
        self.chance = chance
        self.made = 0
        self.stems: dict[Path, set[str]] = {}
        """For each file, all stems it has had since its text was last checked."""
        self.left_behind: set[str] = set()
        """Stems whose texts may stay, because their recordings were deleted."""
        self.edited: set[Path] = set()

    def act(self) -> str:
        """Take a random step and return its name."""
        doings = [
            self.create,
            self.create,
            self.copy,
            self.rename,
            self.rename,
            self.replace,
            self.edit,
            self.delete,
            self.carry,
        ]
        if len(self.stems) > MOST_FILES:
            doings += [self.delete] * len(doings)
        doing = self.chance.choice(doings if self.stems else [self.create])
        doing()
        return doing.__name__

    def create(self) -> None:
        path = self._new_path()
        part = path.with_name(path.name + ".part")
        write_tone(part if self.chance.random() < 0.3 else path, self._seconds())
        if part.exists():
            part.rename(path)
        self.stems[path] = {path.stem}

    def copy(self) -> None:
        path = self._new_path()
        shutil.copy(self._any(), path)
        self.stems[path] = {path.stem}

    def rename(self) -> None:
        old, new = self._any(), self._new_path()
        old.rename(new)
        self._has_moved(old, new)

    def replace(self) -> None:
        """Rename a file, and put another one under its old name."""
        old, new = self._any(), self._new_path()
        old.rename(new)
        self._has_moved(old, new)
        write_tone(old, self._seconds())
        self.stems[old] = {old.stem}

    def edit(self) -> None:
        path = self._any()
        if self.chance.random() < 0.5:
            write_tone(path, self._seconds())
        else:
            new = write_tone(path.with_name(f".{path.name}"), self._seconds())
            new.replace(path)
        self.edited.add(path)
        # If it was renamed just before, the watch may see another file with another name.
        self.left_behind |= self.stems[path] - {path.stem}

    def delete(self) -> None:
        path = self._any()
        path.unlink()
        self.left_behind |= self.stems.pop(path)

    def carry(self) -> None:
        """Rename a folder with its contents."""
        folders = [one for one in self.root.iterdir() if one.is_dir()]
        if not folders:
            return
        old = self.chance.choice(sorted(folders))
        self.made += 1
        new = self.root / f"folder{self.made}"
        # The text of a recording that just left this folder moves along, and another one is written.
        self.left_behind |= {text.name.removesuffix(".en.txt") for text in old.glob("*.en.txt")}
        old.rename(new)
        for path in [one for one in self.stems if old in one.parents]:
            self._has_moved(path, new / path.relative_to(old))

    def _has_moved(self, old: Path, new: Path) -> None:
        self.stems[new] = {*self.stems.pop(old), new.stem}
        if old in self.edited:  # name, inode and content all differ: another file
            self.edited.discard(old)
            self.edited.add(new)
            self.left_behind |= self.stems[new] - {new.stem}

    def _any(self) -> Path:
        return self.chance.choice(sorted(self.stems))

    def _new_path(self) -> Path:
        self.made += 1
        folders = [self.root, *sorted(one for one in self.root.iterdir() if one.is_dir())]
        if self.chance.random() < 0.2 and len(folders) < 6:
            folders.append(self.root / f"folder{self.made}")
            folders[-1].mkdir()
        return self.chance.choice(folders) / f"{self.made}.wav"

    def _seconds(self) -> float:
        return self.chance.randint(50, 500) / 100

    def check(self, database: Path) -> None:
        """Check that each file has one current text, nothing is partial, and the ledger agrees."""
        files = {path for path in self.root.rglob("*") if path.is_file()}
        texts = {path for path in files if path.name.endswith(".en.txt")}
        assert files - texts == set(self.stems), "there are partial or error files"
        for path in self.stems:
            text = path.with_name(f"{path.stem}.en.txt")
            with wave.open(str(path)) as sound:
                seconds = sound.getnframes() / sound.getframerate()
            assert text.exists(), f"{path.name} has no text"
            assert text.read_text() == f"transcribe {seconds:.2f} s\n", path.name
            texts.discard(text)
        strange = {text.name.removesuffix(".en.txt") for text in texts} - self.left_behind
        assert not strange, f"texts of no recording: {strange}"
        assert ledger(database) == {
            str(path.relative_to(self.root)): ("done", hashlib.sha256(path.read_bytes()).hexdigest())
            for path in self.stems
        }
        self.edited.clear()
        self.stems = {path: {path.stem} for path in self.stems}


def ledger(database: Path) -> dict[str, tuple[str, str]]:
    with closing(sqlite3.connect(database)) as connection:
        rows = connection.execute("SELECT path, status, hash FROM watch_files WHERE gone IS NULL").fetchall()
    return {os.fsdecode(path): (status, hashed) for path, status, hashed in rows}


def kill_something(daemon: RunningDaemon, chance: random.Random) -> str:
    """Kill the daemon, a worker or a decoder, as a power failure or a crash would."""
    what = chance.choice(["daemon", "whisperd.worker", "whisperd.audio.decoder", "whisperd.audio.decoder"])
    if what == "daemon":
        daemon.signal(signal.SIGKILL)
        daemon.wait()
        time.sleep(chance.random() * 0.3)
        daemon.start()
        return what
    place = chance.random()  # always drawn: the steps of a seed must not depend on the running processes
    with suppress(psutil.Error):
        named = [one for one in daemon.children() if any(what in word for word in one.cmdline())]
        if named:
            named[int(place * len(named))].kill()
    return what


def is_idle(daemon: RunningDaemon, root: Path) -> bool:
    """Whether all work is done. Polls the view first, because a scan keeps the daemon from its work."""
    with suppress(WhisperdError), daemon.connect() as client:
        until(lambda: client.watch.show(str(root))["pending"] == 0, "all to be done", every_s=0.1)
        watch = client.watch.scan(str(root))
        return bool(watch["pending"] == 0 and watch["status"] == "watching")
    return False


@pytest.mark.timeout(7200)
def test_torture_of_watches(make_daemon: Callable[..., RunningDaemon], tmp_path: Path) -> None:
    print(f"\nWHISPERD_TORTURE_SEED={SEED} WHISPERD_TORTURE_ROUNDS={ROUNDS}")
    root = tmp_path / "tree"
    root.mkdir()
    daemon = make_daemon()
    daemon.settings(SETTINGS)
    daemon.start()
    daemon.make_default(toy_model(tmp_path / "toy", window_s=0.02))
    with daemon.connect() as client:
        client.watch.add(root, options={"vad": False, "language": "en"})
    tree = Tree(root, random.Random(SEED))
    for round_number in range(ROUNDS):
        chance = random.Random(f"{SEED} {round_number}")
        done = []
        for _ in range(STEPS):
            done.append(tree.act() if chance.random() < 0.85 else kill_something(daemon, chance))
            time.sleep(chance.choice([0, 0, 0.05, 0.1, 0.4]))  # less or more than the settling time
        until(lambda: is_idle(daemon, root), "all to be done")
        try:
            until_consistent(tree, daemon)
        except AssertionError:
            print(f"round {round_number}: {' '.join(done)}")
            raise
        print(f"round {round_number}: {len(tree.stems)} files", flush=True)


def until_consistent(tree: Tree, daemon: RunningDaemon) -> None:
    """Check repeatedly, because the last changes may not have been noticed yet."""
    database = daemon.folder / "state" / "whisperd.sqlite3"
    for _ in range(10):
        with suppress(AssertionError):
            tree.check(database)
            return
        time.sleep(0.5)
        until(lambda: is_idle(daemon, tree.root), "all to be done")
    tree.check(database)
