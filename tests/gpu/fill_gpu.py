"""Allocate GPU memory through the driver until only `BYTES` are free, and hold it: `fill_gpu.py BYTES`.

Prints the free bytes as a line of text, and frees everything when its standard input is closed. Uses
the CUDA driver API (https://docs.nvidia.com/cuda/cuda-driver-api), which comes with the driver.
"""

from __future__ import annotations

import ctypes
import sys

CHUNKS = tuple(size * 2**20 for size in (1024, 256, 64, 16, 2))
"""Sizes of allocations, largest first: free memory may be fragmented."""
OUT_OF_MEMORY = 2


def main() -> None:
    wanted = int(sys.argv[1])
    driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")

    def call(name: str, *arguments: object) -> int:
        code = int(getattr(driver, name)(*arguments))
        assert code in (0, OUT_OF_MEMORY), f"{name} fails with {code}"
        return code

    call("cuInit", ctypes.c_uint(0))
    device, context = ctypes.c_int(), ctypes.c_void_p()
    call("cuDeviceGet", ctypes.byref(device), ctypes.c_int(0))
    call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
    call("cuCtxSetCurrent", context)

    def free() -> int:
        left, total = ctypes.c_size_t(), ctypes.c_size_t()
        call("cuMemGetInfo_v2", ctypes.byref(left), ctypes.byref(total))
        return left.value

    for size in CHUNKS:
        while free() - size >= wanted:
            pointer = ctypes.c_uint64()
            if call("cuMemAlloc_v2", ctypes.byref(pointer), ctypes.c_size_t(size)) == OUT_OF_MEMORY:
                break
    print(free(), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
