"""What this computer has: memory, and NVIDIA GPUs with their driver.

`read_memory` and `find_gpus` look; everything else in this room is pure and takes what they saw. No native
library is ever loaded into the process that asks: a driver is asked in a child process, so that a
broken one costs the answer and nothing else.
"""

from whisperd.hardware.gpus import Gpu, Gpus, check_cuda, find_gpus, gpu_compute_types
from whisperd.hardware.memory import Memory, read_memory

__all__ = ["Gpu", "Gpus", "Memory", "check_cuda", "find_gpus", "gpu_compute_types", "read_memory"]
