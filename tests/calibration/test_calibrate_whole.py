"""Calibration as a whole: a real daemon, with variants that crash, hang, return nonsense or are slow."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from whisperd.client import Client
from whisperd.hardware import usable_cores
from whisperd.rpc.errors import WhisperdError
from whisperd_testing import LIMIT_S, RunningDaemon, batches, toy_model, until, write_tone

pytestmark = pytest.mark.real

BACKENDS = str(Path(__file__).parent / "backends")
SLOW_S = 0.05
"""Seconds per window; the other variants take a few thousandths."""

Many = Callable[..., RunningDaemon]


@pytest.fixture
def model(tmp_path: Path) -> str:
    return str(toy_model(tmp_path / "model"))


@pytest.fixture
def many(make_daemon: Callable[..., RunningDaemon], tmp_path: Path) -> Many:
    """Return a factory of daemons with these variants and nothing else to try."""

    def make(variants: dict[str, Any], settings: str = "", **env: str) -> RunningDaemon:
        daemon = make_daemon(
            toy=False,
            env={
                "PYTHONPATH": BACKENDS,
                "VARIANTS": json.dumps(variants),
                "WHISPERD_OFFLINE": "1",
                "LATE_S": "5",  # so that no variant is given up because this computer is busy
                **env,
            },
        )
        daemon.settings(settings)
        return daemon.start()

    return make


def calibrated(client: Client, model: str) -> dict[str, Any]:
    return client.calibration.run(model)


def trials_of(found: dict[str, Any], variant: str) -> list[dict[str, Any]]:
    return [trial for trial in found["trials"] if trial["variant"] == variant]


def struck_out(found: dict[str, Any]) -> dict[str, str]:
    """Return our own variants that were ruled out; others cannot load a toy model."""
    struck = {one["variant"]: one["error"]["code"] for one in found["struck_out"] if one["tried"]}
    return {name: code for name, code in struck.items() if name.startswith("many-")}


def loaded(client: Client, model: str, **fields: Any) -> dict[str, Any]:
    """Create a runtime of the model, and load it."""
    client.runtimes.create(name="one", model=model, **fields)
    return client.runtimes.load("one")


def test_broken_variants_are_ruled_out_and_the_fastest_working_one_is_used(many: Many, model: str) -> None:
    daemon = many(
        {
            "crashing-load": {"load_signal": "SIGABRT"},
            "crashing": {"signal": "SIGSEGV"},
            "mad": {"text": "I am not listening at all, I just go on talking about myself"},
            "slow": {"window_s": SLOW_S},
            "sound": {},
            "hanging": {"hangs": True},
            "deaf": {"least_margin_s": 99, "window_s": 0},
        }
    )
    with daemon.connect() as client:
        found = calibrated(client, model)
        assert found["chosen"]["variant"] == "many-sound", found
        assert struck_out(found) == {
            "many-crashing-load": "worker.died",
            "many-crashing": "worker.died",
            "many-mad": "calibration.wrong_text",
            "many-hanging": "calibration.stuck",
        }
        assert all(trial["errors"] > 0 for trial in trials_of(found, "many-deaf"))
        assert loaded(client, model)["variant"] == "many-sound"

    shown = daemon.ctl("calibrate", model, "--show").out
    assert "runs fastest as many-sound" in shown
    assert (
        "many-crashing was ruled out:\n  The engine of many-crashing exited unexpectedly (signal SIGSEGV)."
        in shown
    )
    assert "many-mad was ruled out:\n  It got" in shown


def test_measurements_decide_what_is_not_set_explicitly(many: Many, model: str) -> None:
    """Two replicas slow each other down here: one with all the threads is faster."""
    daemon = many({"first": {"per_replica": 10, "window_s": 0.003}, "second": {"window_s": SLOW_S}})
    with daemon.connect() as client:
        found = calibrated(client, model)
        chosen = found["chosen"]
        assert (chosen["variant"], chosen["workers"], chosen["cpu_threads"]) == (
            "many-first",
            1,
            usable_cores(),
        )

        auto = loaded(client, model)["loaded"]
        assert (auto["workers"], auto["cpu_threads"]) == (1, usable_cores())
        assert auto["batch_size"] == chosen["batch_size"]

        client.runtimes.edit("one", workers=3, batch_size=7)
        explicit = client.runtimes.load("one")["loaded"]
        assert (explicit["workers"], explicit["cpu_threads"], explicit["batch_size"]) == (3, 1, 7)


def test_a_result_survives_a_restart_until_it_is_forgotten(many: Many, model: str) -> None:
    variants = {"slow": {"window_s": SLOW_S}, "fast": {}}
    daemon = many(variants)
    with daemon.connect() as client:
        calibrated(client, model)
        client.daemon.stop()
    daemon.wait()
    daemon.start()
    with daemon.connect() as client:
        shown = client.calibration.show(model)
        assert (shown["current"], shown["changed"]) == (True, [])
        assert loaded(client, model)["variant"] == "many-fast"
        assert client.calibration.forget(model) == {"model": model, "forgotten": 1}
        client.runtimes.unload("one")
        assert client.runtimes.load("one")["variant"] == "many-slow"
        with pytest.raises(WhisperdError) as refused:
            client.calibration.show(model)
        assert refused.value.code == "calibration.none"
        client.daemon.stop()
    daemon.wait()


def test_a_result_no_longer_applies_to_other_variants_versions_or_settings(
    many: Many, model: str, tmp_path: Path
) -> None:
    daemon = many({"slow": {"window_s": SLOW_S}, "fast": {}})
    with daemon.connect() as client:
        calibrated(client, model)
        client.daemon.stop()
    daemon.wait()
    daemon.env["VARIANTS"] = json.dumps({"slow": {}, "fast": {}, "new": {}})
    daemon.settings("[runtime]\nbeam_size = 3")
    shutil.copytree(BACKENDS, tmp_path / "backends")
    (metadata,) = (tmp_path / "backends").rglob("METADATA")
    metadata.write_text(metadata.read_text().replace("Version: 1.0", "Version: 1.1"))
    daemon.env["PYTHONPATH"] = str(tmp_path / "backends")
    daemon.start()
    with daemon.connect() as client:
        shown = client.calibration.show(model)
        changed = ["beam_size is 3 and was 5", "many is 1.1 and was 1.0", "many-new is new"]
        assert (shown["current"], shown["changed"]) == (False, changed)
        assert loaded(client, model)["variant"] == "many-slow"
    said = daemon.ctl("calibrate", model, "--show").out
    assert f"This result no longer applies: {'; '.join(changed)}." in said


def test_a_job_precedes_a_trial(many: Many, model: str, tmp_path: Path, held_file: Path) -> None:
    """While the second variant computes a batch that never ends, a job runs on the first."""
    tone = write_tone(tmp_path / "tone.wav", 1.0)
    daemon = many({"first": {}, "second": {"hold": str(held_file)}}, LATE_S="60")
    with daemon.connect() as client, daemon.connect() as other:
        loaded(client, model)
        found: list[dict[str, Any]] = []
        thread = threading.Thread(target=lambda: found.append(calibrated(other, model)))
        thread.start()
        until(
            lambda: any(batch["variant"] == "many-second" for batch in batches(model)), "the second variant"
        )
        client.transcribe(tone, runtime="one", vad=False)
        assert thread.is_alive()
        held_file.unlink()
        thread.join()
    assert [trial["outcome"] for trial in trials_of(found[0], "many-second")].count("stuck") == 0
    assert struck_out(found[0]).get("many-second") is None


def test_calibration_does_not_take_memory_in_use(many: Many, model: str, tmp_path: Path) -> None:
    daemon = many(
        {"only": {}}, "[runtime]\nmemory_bytes = 1500000\n", NEED_BYTES="1000000", WHISPERD_CALIBRATE="0"
    )
    other = str(toy_model(tmp_path / "other"))
    with daemon.connect() as client:
        loaded(client, other)
        with pytest.raises(WhisperdError) as refused:
            calibrated(client, model)
        assert refused.value.code == "calibration.nothing_works"
        assert "memory" in refused.value.data["reasons"]["many-only"]
        assert client.runtimes.show("one")["status"] == "loaded"


def test_calibration_starts_automatically_once_the_default_is_loaded(many: Many, model: str) -> None:
    daemon = many(
        {"slow": {"window_s": SLOW_S}, "fast": {}},
        "[daemon]\ncalibrate_after_s = 0\n",
        WHISPERD_CALIBRATE="1",
    )
    daemon.make_default(model)
    with daemon.connect() as client:
        name = client.daemon.status()["default_runtime"]

        def is_used() -> bool:
            shown = client.runtimes.show(name)
            return shown["status"] == "loaded" and shown["variant"] == "many-fast"

        # A dozen workers are started: minutes on a busy computer, which polling slows further.
        until(is_used, "the default to be loaded as the fastest variant", 4 * LIMIT_S, every_s=0.2)
        assert client.calibration.show()["chosen"]["variant"] == "many-fast"


def test_an_interrupted_calibration_leaves_nothing_behind(many: Many, model: str, held_file: Path) -> None:
    daemon = many({"only": {"hold": str(held_file)}})
    calibrating = subprocess.Popen(
        [sys.executable, "-P", "-m", "whisperd.cli.main", "calibrate", model],
        env=daemon.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    until(lambda: batches(model), "a trial")
    assert daemon.ctl("daemon", "status", "--json").json["calibrating"] == model
    for said in (daemon.ctl("daemon", "status").out, daemon.log()):
        assert f"calibrating {model}: " in said
    calibrating.send_signal(signal.SIGINT)
    calibrating.communicate()
    assert calibrating.returncode == 130
    until(lambda: not daemon.workers(), "the worker to end")
    with daemon.connect() as client:
        until(lambda: client.daemon.status()["calibrating"] is None, "the calibration to end")
    assert daemon.ctl("calibrate", model, "--show").status == 4


def test_json_output_is_one_document(many: Many, model: str) -> None:
    daemon = many({"only": {}})
    done = daemon.ctl("calibrate", model, "--json")
    assert done.err == ""
    assert done.json == daemon.ctl("calibrate", model, "--show", "--json").json
    assert done.json["chosen"]["variant"] == "many-only"
    assert [trial for trial in done.json["trials"] if trial["chosen"]]
    quiet = daemon.ctl("calibrate", model, "--forget", "--quiet")
    assert (quiet.status, quiet.out) == (0, "")


@pytest.fixture
def held_file(tmp_path: Path) -> Path:
    file = tmp_path / "hold"
    file.touch()
    return file
