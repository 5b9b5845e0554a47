"""Detection on this computer in separate processes: a probe that hangs or crashes loses only its own fact."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import psutil
import pytest

from whisperd.hardware import Gpu, Gpus, Hardware, find_hardware
from whisperd.hardware.detect import FACTS
from whisperd.hardware.probes import ProbeFailed, run_program

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform == "win32", reason="the odd processes end by signals"),
]

PATIENT_S = 120.0
ODD = str(Path(__file__).with_name("odd_look.py"))
GPUS = Gpus((Gpu(0, "made up", 8, 7, (8, 0)),), "550.1", (12, 4))


async def find_gpus() -> Gpus:
    return GPUS


async def look_oddly(behaviour: str, timeout_s: float = PATIENT_S) -> Hardware:
    return await find_hardware(find_gpus, look=[sys.executable, ODD, behaviour], timeout_s=timeout_s)


def known(hardware: Hardware) -> set[str]:
    return {name for name in FACTS if getattr(hardware, name) is not None}


async def test_every_fact_of_this_computer_is_found() -> None:
    found = await find_hardware(find_gpus, timeout_s=PATIENT_S)
    assert found.unknown == {}
    assert known(found) == set(FACTS)
    assert found.gpus is GPUS
    assert found.system is not None and found.system.python == sys.version_info[:2]
    assert found.processor is not None and found.processor.cores.logical == os.cpu_count()
    assert found.memory is not None and 0 < found.memory.available <= found.memory.total


@pytest.mark.parametrize(
    ("behaviour", "why"),
    [
        ("crash", "The detection process crashed (signal SIGSEGV)."),
        ("exit", "The detection process crashed (exit status 3)."),
        ("chatter", "The detection process sent an invalid answer."),
    ],
)
async def test_a_crashing_probe_loses_only_its_fact(behaviour: str, why: str) -> None:
    found = await look_oddly(behaviour)
    assert dict(found.unknown) == {"processor": why}
    assert known(found) == set(FACTS) - {"processor"}
    assert found.system is not None and found.system.name.startswith("Ubuntu")
    assert found.gpus is GPUS


async def test_a_hanging_probe_loses_only_its_fact_and_leaves_no_process() -> None:
    before = set(psutil.Process().children())
    found = await look_oddly(
        "hang", timeout_s=12.0
    )  # time for two processes to start, even on a busy computer
    why = "Detection did not finish within 12 seconds: the computer is busy, or a disk does not respond."
    assert dict(found.unknown) == {"processor": why}
    assert known(found) == set(FACTS) - {"processor"}
    assert set(psutil.Process().children()) <= before


async def test_a_process_that_fails_at_start_is_not_restarted_for_each_fact() -> None:
    found = await look_oddly("never exit")
    assert dict(found.unknown) == dict.fromkeys(FACTS, "The detection process crashed (exit status 3).")
    assert found.gpus is GPUS


async def test_a_process_that_cannot_be_started(tmp_path: Path) -> None:
    found = await find_hardware(find_gpus, look=[str(tmp_path / "nothing")])
    assert set(found.unknown) == set(FACTS)
    assert "could not be started (No such file or directory)" in found.unknown["system"]


async def test_a_broken_driver_affects_only_the_gpus() -> None:
    broken = Gpus(problem=None, driver="broken")

    async def ask() -> Gpus:
        return broken

    found = await find_hardware(ask)
    assert found.gpus is broken and known(found) == set(FACTS)


# External programs


@pytest.mark.parametrize(
    ("code", "timeout_s", "why"),
    [
        ("import time; time.sleep(3600)", 0.5, "did not finish within 0.5 seconds"),
        ("raise SystemExit(3)", PATIENT_S, r"failed \(exit status 3\)"),
        ("import os; os.abort()", PATIENT_S, r"failed \(signal SIGABRT\)"),
    ],
)
def test_a_program_that_fails_or_hangs(code: str, timeout_s: float, why: str) -> None:
    with pytest.raises(ProbeFailed, match=why):
        run_program([sys.executable, "-c", code], timeout_s)


def test_a_missing_program() -> None:
    with pytest.raises(ProbeFailed, match="could not be started"):
        run_program(["/no/such/program"])


def test_invalid_utf8_in_output_is_replaced() -> None:
    assert run_program([sys.executable, "-c", "import os; os.write(1, b'a\\xff')"], PATIENT_S) == "a\ufffd"
