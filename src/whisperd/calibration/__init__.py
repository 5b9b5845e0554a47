"""Calibration: which variant, replicas, threads, batch size and margin are fastest here, measured.

`planner` decides what is tried, `bench` tries it in a worker of its own, `table` keeps what came of it, and
`Calibrator` puts them together. What was measured decides wherever a runtime leaves something open.
"""

from whisperd.calibration.calibrator import Calibrator, Surroundings, chosen_trial
from whisperd.calibration.circumstances import Circumstances
from whisperd.calibration.idle import Idle
from whisperd.calibration.planner import reference_errors, striking_trial
from whisperd.calibration.table import CalibrationTable
from whisperd.calibration.values import Calibration, Setting, Trial

__all__ = [
    "Calibration",
    "CalibrationTable",
    "Calibrator",
    "Circumstances",
    "Idle",
    "Setting",
    "Surroundings",
    "Trial",
    "chosen_trial",
    "reference_errors",
    "striking_trial",
]
