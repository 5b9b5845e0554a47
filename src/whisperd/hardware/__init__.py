"""What this computer has: processor, memory, libraries, tools, and NVIDIA GPUs with their driver.

`find_hardware` looks at all of it, `find_gpus` at the GPUs, `read_memory` and `usable_cores` at what
changes from moment to moment. Everything else in this room is pure and takes what they saw: `find_fact` says
what a recorded computer has, `why_not` whether a computer has what a variant needs. No native library is
ever loaded into the process that asks: drivers, folders and programs are asked in child processes, so that
a broken one costs its answer and nothing else.
"""

from whisperd.hardware.cgroups import group_folders
from whisperd.hardware.cores import usable_cores
from whisperd.hardware.facts import CPU_FEATURES, Hardware, Processor
from whisperd.hardware.files import ReadFile, read_file
from whisperd.hardware.find import find_hardware
from whisperd.hardware.gpus import DEVICE_ORDER, Gpu, Gpus, find_gpus, gpu_compute_types
from whisperd.hardware.memory import Memory, read_memory
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
    "read_file",
    "read_memory",
    "usable_cores",
    "why_not",
]
