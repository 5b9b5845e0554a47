"""Daemon, worker and decoder are killed while jobs are submitted, cancelled, retried and cleared.

Each job must end once and with the right text, and no window may be computed again once it is in the
journal. `make torture` runs a hundred rounds. The seed is printed; `WHISPERD_TORTURE_SEED` repeats a run.
"""

from __future__ import annotations

import json
import os
import random
import sqlite3
import time
import wave
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from job_campaign import LENGTHS_S, VICTIMS, Cancel, Clear, Kill, Retry, Step, Submit, plan
from whisperd.client import Client
from whisperd.jobs.journal import decode_window
from whisperd.rpc.errors import WhisperdError
from whisperd_testing import RunningDaemon, computed_windows, toy_model, until

pytestmark = [pytest.mark.real, pytest.mark.skipif(os.name != "posix", reason="signals")]

ROUNDS = int(os.environ.get("WHISPERD_TORTURE_ROUNDS", "1"))
SEED = os.environ.get("WHISPERD_TORTURE_SEED", "1" if ROUNDS == 1 else str(time.time_ns()))
STEPS = 25 if ROUNDS > 1 else 12
"""Steps per round."""
SETTINGS = "[jobs]\nkeep_count = 100000\n[decoder]\nmax_window_s = 5\n"
ENDS = ("transcription.completed", "transcription.failed", "transcription.cancelled")
KILLED = "worker.died"
"""Error of a job whose worker was killed twice at the same window. A retry completes it."""
ATTACHED = ("daemon.ended", "job.client_gone")
"""Errors of an attached job that is cancelled because its daemon ended or its client disconnected."""
RUNTIME = "toy"
PROGRAMS = {"worker": "whisperd.worker.main", "decoder": "whisperd.audio.decoder"}


@given(st.text(), st.integers(0, 100), st.integers(12, 40))
def test_a_seed_always_yields_the_same_plan(seed: str, round_number: int, steps: int) -> None:
    planned = plan(seed, round_number, steps)
    assert planned == plan(seed, round_number, steps)
    assert {one.step.victim for one in planned if isinstance(one.step, Kill)} == set(VICTIMS)
    assert isinstance(planned[0].step, Submit)


class Campaign:
    """Jobs of a daemon that is killed repeatedly, and the invariants that must hold."""

    def __init__(self, daemon: RunningDaemon, model: Path, folder: Path) -> None:
        self.daemon = daemon
        self.model = model
        self.client: Client = daemon.connect()
        self.sounds = {length: write_noise(folder / f"{length}.wav", length) for length in LENGTHS_S}
        # The transcript of each recording without interruptions.
        self.texts = {
            length: self.client.transcribe(path, runtime=RUNTIME, vad=False, language="en").text
            for length, path in self.sounds.items()
        }
        self.jobs: dict[str, Submit] = {}
        """Remembered jobs by id."""
        self.prompts: dict[str, str] = {}
        """A unique prompt per job, so that no stored transcript answers it and its windows are known."""
        self.over: dict[str, tuple[str, str]] = {}
        """Status and time of the first observed end of each job."""
        self.finished: dict[tuple[str, int | None], int] = {}
        """By prompt and checksum (None: the whole job): how many windows had been computed in total when this
        one was first seen in the journal."""

    def close(self) -> None:
        """Disconnect from the daemon."""
        self.client.close()

    def act(self, step: Step) -> None:
        """Take one step, then check the journal."""
        match step:
            case Submit():
                self._submit(step)
            case Cancel(places):
                self.client.jobs.cancel(ids=sorted({self._at(place) for place in places}))
            case Retry(place):
                self._retry(self._at(place))
            case Clear():
                self._clear()
            case Kill():
                self._kill(step)
        self.check_journal()

    def _submit(self, asked: Submit) -> None:
        path, prompt = self.sounds[asked.length_s], str(len(self.prompts))
        job = self.client.submit(
            path.read_bytes() if asked.is_uploaded else path,
            detach=asked.is_detached,
            runtime=RUNTIME,
            priority=asked.priority,
            prompt=prompt,
            vad=False,
            language="en",
        )
        self.jobs[job], self.prompts[job] = asked, prompt

    def _at(self, place: float) -> str:
        return list(self.jobs)[int(place * len(self.jobs))] if self.jobs else "none"

    def _retry(self, job: str) -> bool:
        try:
            self.client.jobs.retry(job)
        except WhisperdError as error:
            assert error.code in ("job.unknown", "job.not_retryable", "job.input_gone")
            return False
        self.over.pop(job, None)
        self.jobs[job] = replace(self.jobs[job], is_detached=True)
        return True

    def _clear(self) -> None:
        self.check_ends()
        self.client.jobs.clear()
        left = {one["id"] for one in self.client.jobs.list()}
        self.jobs = {job: asked for job, asked in self.jobs.items() if job in left}

    def _kill(self, step: Kill) -> None:
        if step.victim == "daemon":
            self.daemon.kill()
            self.check_journal()
            self.daemon.start()
            self.client.close()
            self.client = self.daemon.connect()
            return
        with suppress(psutil.Error):
            named = [one for one in self.daemon.children() if PROGRAMS[step.victim] in one.cmdline()]
            if named:
                named[int(step.place * len(named))].kill()

    def check_journal(self) -> None:
        """Check that ended jobs keep their end, and record when finished windows were first seen."""
        finished: list[tuple[str, int | None]] = []
        for job, record, windows in self._journal():
            prompt = self.prompts[job]
            if record["ended"] is not None:
                end = (record["status"], record["ended"])
                assert self.over.setdefault(job, end) == end, "an ended job got another end"
            if record["status"] == "completed":
                finished.append((prompt, None))
            finished += [(prompt, self._checksum(job, window)) for window in windows]
        computed = len(computed_windows(self.model))
        for window in finished:
            self.finished.setdefault(window, computed)

    def _journal(self) -> Iterator[tuple[str, dict[str, Any], list[bytes]]]:
        """Yield the records of our jobs in the journal, and their finished windows."""
        with closing(sqlite3.connect(self.daemon.folder / "state" / "whisperd.sqlite3")) as connection:
            connection.execute("BEGIN")  # all reads see the same snapshot
            for job, record in connection.execute("SELECT id, record FROM jobs").fetchall():
                if job in self.jobs:
                    rows = connection.execute("SELECT finished FROM job_windows WHERE job = ?", (job,))
                    yield job, json.loads(record), [data for (data,) in rows]

    def _checksum(self, job: str, data: bytes) -> int:
        """Return the checksum of the audio of a window, as the engine logs it."""
        window = decode_window(data)
        with wave.open(str(self.sounds[self.jobs[job].length_s])) as sound:
            first, last = round(window.start * 16_000), round(window.end * 16_000)
            sound.setpos(first)
            return zlib.crc32(sound.readframes(last - first))

    def end(self) -> None:
        """Without further kills, check that every job ends as it should and nothing is left behind."""
        self._wait()
        failed = [job for job in self.jobs if self.client.jobs.show(job)["status"] == "failed"]
        self.check_ends()
        again = [job for job in failed if self._retry(job)]
        self._wait()
        self.check_journal()
        self.check_ends()
        assert {self.client.jobs.show(job)["status"] for job in again} <= {"completed"}
        self.check_nothing_is_computed_twice()
        self.check_nothing_is_left()

    def _wait(self) -> None:
        until(
            lambda: not [one for one in self.client.jobs.list() if one["status"] in ("queued", "running")],
            "all jobs to be over",
        )
        self.daemon.until_saved()

    def check_ends(self) -> None:
        """Check that each ended job has exactly one end, and an allowed one."""
        for job, asked in self.jobs.items():
            shown = self.client.jobs.show(job)
            if shown["status"] == "completed":
                assert shown["text"] == self.texts[asked.length_s]
            elif shown["status"] in ("failed", "cancelled"):
                allowed = KILLED if shown["status"] == "failed" else "job.cancelled"
                assert shown["error"]["code"] in (allowed, *(() if asked.is_detached else ATTACHED))
            else:
                continue
            told = [event["type"] for event in self.client.follow(job) if event is not None]
            ends = [one for one in told if one in ENDS]
            assert len(ends) == 1 or (not ends and told == ["events.missed"]), told

    def check_nothing_is_computed_twice(self) -> None:
        """Check that windows in the journal were not computed again from then on."""
        for number, window in enumerate(computed_windows(self.model)):
            for key in ((window["prompt"], window["sound"]), (window["prompt"], None)):
                assert number < self.finished.get(key, number + 1), f"{key} was finished"

    def check_nothing_is_left(self) -> None:
        """Check for leftovers: leases, uploads, windows of completed jobs, processes of earlier daemons."""
        self.client.runtimes.unload(RUNTIME)  # refused while it is leased
        state = self.daemon.folder / "state"
        until(lambda: not list((state / "uploads").iterdir()), "no upload left")
        for job, _, windows in self._journal():
            assert not windows or self.over[job][0] != "completed"
        until(lambda: not self._strangers(), "earlier processes to end")

    def _strangers(self) -> list[psutil.Process]:
        ours = {self.daemon.pid, os.getpid(), *(one.pid for one in self.daemon.children())}
        return [one for one in psutil.process_iter() if one.pid not in ours and self._is_of_daemon(one)]

    def _is_of_daemon(self, process: psutil.Process) -> bool:
        with suppress(psutil.Error):
            return process.environ().get("WHISPERD_SOCKET") == self.daemon.socket
        return False


def write_noise(path: Path, seconds: float) -> Path:
    """Write a recording in which no two windows are alike."""
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(random.Random(seconds).randbytes(2 * int(16_000 * seconds)))
    return path


@pytest.mark.timeout(7200)
def test_torture_of_jobs(make_daemon: Callable[..., RunningDaemon], tmp_path: Path) -> None:
    print(f"\nWHISPERD_TORTURE_SEED={SEED} WHISPERD_TORTURE_ROUNDS={ROUNDS}")
    daemon = make_daemon()
    daemon.settings(SETTINGS)
    daemon.start()
    model = toy_model(tmp_path / "toy", window_s=0.05, identify=True)
    with daemon.connect() as client:
        client.runtimes.create(RUNTIME, model)
    with closing(Campaign(daemon, model, tmp_path)) as campaign:
        for round_number in range(ROUNDS):
            planned = plan(SEED, round_number, STEPS)
            try:
                for one in planned:
                    time.sleep(one.pause_s)
                    campaign.act(one.step)
                campaign.end()
            except (AssertionError, WhisperdError):
                print(f"round {round_number}:", *planned, sep="\n  ")
                raise
            print(f"round {round_number}: {len(campaign.prompts)} jobs so far", flush=True)
