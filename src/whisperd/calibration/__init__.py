"""Calibration: measures which variant, replicas, threads, batch size and margin are fastest on this computer.

`planner` decides what to try, `bench` measures it in a separate worker, `table` stores the results, and
`Calibrator` combines them. The results decide every choice that a runtime leaves open.
"""

from whisperd.calibration.calibrator import Calibrator, DaemonInterface, chosen_trial
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
    "DaemonInterface",
    "Idle",
    "Setting",
    "Trial",
    "chosen_trial",
    "reference_errors",
    "striking_trial",
]
