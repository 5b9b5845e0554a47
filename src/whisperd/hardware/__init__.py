"""Detect this computer's hardware: processor, memory, libraries, tools, and NVIDIA GPUs with their driver.

`find_hardware` detects everything, `find_gpus` only the GPUs; `read_memory` and `usable_cores` read the
values that change from moment to moment. Everything else in this room is pure and takes their results:
`find_fact` evaluates a recording of a computer, `why_not` checks whether a computer has what a variant needs.
No native library is ever loaded into the calling process: child processes query drivers, folders and
programs, so that a broken one costs only its own answer.

`find` starts the process `look`, which detects facts (`detect`, `processor`, `system`, `libraries`, `tools`)
with `probes`; `gpus` starts `nvml`, which asks the driver, and judges the answer. Both print `messages`.
"""

from whisperd.hardware.cgroups import group_folders
from whisperd.hardware.cores import usable_cores
from whisperd.hardware.facts import CPU_FEATURES, Hardware, Processor
from whisperd.hardware.files import ReadFile, read_file
from whisperd.hardware.find import find_hardware
from whisperd.hardware.gpus import DEVICE_ORDER, Gpu, Gpus, find_gpus, gpu_compute_types
from whisperd.hardware.memory import Memory, read_memory
from whisperd.hardware.probes import machine
from whisperd.hardware.usable import why_not

__all__ = [
    "CPU_FEATURES",
    "DEVICE_ORDER",
    "Gpu",
    "Gpus",
    "Hardware",
    "Memory",
    "Processor",
    "ReadFile",
    "find_gpus",
    "find_hardware",
    "gpu_compute_types",
    "group_folders",
    "machine",
    "read_file",
    "read_memory",
    "usable_cores",
    "why_not",
]
