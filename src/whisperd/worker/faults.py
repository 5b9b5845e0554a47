"""Translates failure messages of native libraries into errors that a user can act on.

An engine fails with a message of its library or of the system's loader. Each pattern below matches such a
message. Messages that match none are left unchanged: the library's own words are better than wrong advice.
"""

from __future__ import annotations

import os
import re
from typing import Any, Final, Literal

from whisperd.child import ENDED_BY_OTHERS
from whisperd.rpc.errors import WhisperdError
from whisperd.worker.protocol import LoadParams

__all__ = ["explain", "explain_death", "killed_for_memory", "words_of"]

Cause = Literal["gpu_memory", "memory", "device_memory", "driver", "cuda", "architecture", "library"]
"""`device_memory` means the memory of the GPU or of the computer, whichever the engine runs on."""

QUOTED_CHARACTERS: Final = 500
"""The most characters of a library's message that an error's data holds."""


def _is_file(path: str) -> bool:
    return os.path.isabs(path) and os.path.isfile(path)  # noqa: PTH113, PTH117 - it may not be a path


def words_of(error: BaseException) -> str:
    """Return an exception's type and message; some have no message."""
    return f"{type(error).__name__}: {error}"


def explain(said: str, params: LoadParams) -> WhisperdError | None:
    """Return the error for a library's message from loading or computing; None if it is not recognised."""
    for cause, patterns in _SIGNS:
        for pattern in patterns:
            if found := pattern.search(said):
                library = found.groupdict().get("library")
                # Linux's loader reports a library for another CPU as missing, although it exists.
                is_foreign = cause == "library" and library is not None and _is_file(library)
                line = said[said.rfind("\n", 0, found.start()) + 1 :].partition("\n")[0]
                return _error("architecture" if is_foreign else cause, library, line.strip(), params)
    return None


def explain_death(how: str, last_words: str, params: LoadParams) -> WhisperdError | None:
    """Return the error for how an engine's process ended and what it wrote last; None if not recognised.

    `how` comes from `whisperd.child.how_it_ended`.
    """
    if how in _ILLEGAL_INSTRUCTION:
        return _cpu_too_old(how, params)
    if how in ENDED_BY_OTHERS:  # its last words are not the cause
        return None
    return explain(last_words, params)


def killed_for_memory(how: str, params: LoadParams) -> WhisperdError:
    """Return the error for a process that the system killed because it ran out of memory."""
    return _memory(f"the system killed its process to free memory ({how})", params)


_ILLEGAL_INSTRUCTION = ("signal SIGILL", f"exit status {0xC000001D}")  # the second is for Windows


def _sign(cause: Cause, *patterns: str) -> tuple[Cause, tuple[re.Pattern[str], ...]]:
    return cause, tuple(re.compile(pattern, re.IGNORECASE) for pattern in patterns)


_FILE = r"(?P<library>/[^:\n]+|[^\s:'\"]+)"  # a path may contain spaces, a bare name may not

# The first match counts. Messages without a named origin are CTranslate2's, and so those of everything built
# on it.
_SIGNS: Final = (
    # MKL's allocator, also while the model computes on a GPU.
    _sign("memory", r"mkl_malloc: failed to allocate"),
    _sign(
        "gpu_memory",
        r"CUDA failed with error out of memory",
        r"CUDA out of memory",  # PyTorch
        r"CUDA error:? (?:\d+:? )?out of memory",  # PyTorch, ggml
        r"CUDA failure 2\b",  # onnxruntime
        r"cudaErrorMemoryAllocation|CUDA_ERROR_OUT_OF_MEMORY",  # thrust, the driver
        r"cudaMalloc\w* failed: out of memory",  # ggml
        r"failed to allocate (?:CUDA|ROCm|Vulkan|Metal)\d* buffer",  # ggml
        r"ErrorOutOfDeviceMemory",  # Vulkan, in ggml
        r"(?:CUBLAS|CUDNN)_STATUS_ALLOC_FAILED",
    ),
    _sign(
        "driver",
        # Also reported if there is no driver at all, as in a container without access to the GPU.
        r"CUDA driver version is insufficient for CUDA runtime version",
        r"cudaErrorInsufficientDriver|CUDA failure 35\b",  # thrust, onnxruntime
        r"The NVIDIA driver on your system is too old",  # PyTorch
        r"unsupported display driver / cuda driver combination",
        r"forward compatibility was attempted on non supported HW",
        r"provided PTX was compiled with an unsupported toolchain",
    ),
    _sign(
        "cuda",
        r"no CUDA-capable device is detected|CUDA_ERROR_NO_DEVICE|cudaErrorNoDevice",
        r"CUDA-capable device\(s\) is/are busy or unavailable",
        r"invalid device ordinal|cudaErrorInvalidDevice",
        r"not compiled with CUDA support",
        r"CUDA failed with error (?:unknown|initialization) error",
        r"CUDA unknown error|Found no NVIDIA driver on your system",  # PyTorch
        r"failed to initialize CUDA|no CUDA devices found",  # ggml
        r"no kernel image is available for execution",  # the library is too new or too old for the GPU
        r"(?:libcuda\.so|nvcuda\.dll)\S*(?:: cannot open| is not found)",  # it comes with the driver
    ),
    _sign(
        "architecture",
        rf"{_FILE}: (?:wrong ELF class|invalid ELF header)",  # Linux's loader
        r"'(?P<library>[^']+)' \(mach-o file, but is an incompatible architecture",  # macOS's loader
        r"incompatible architecture",
        r"is not a valid Win32 application|WinError 193\b",  # Windows's loader
        r"Exec format error",
        r"version `[\w.]+' not found \(required by (?P<library>[^)]+)\)",  # built for a newer Linux
    ),
    _sign(
        "library",
        r"Library (?P<library>\S+) is not found or cannot be loaded",
        r"Could not load library (?P<library>\S+)\. Error:",  # cuDNN 8
        r"Unable to load any of \{(?P<library>[^\s,}]+)",  # cuDNN 9
        r"Could not locate (?P<library>\S+)\. Please make sure",  # cuDNN on Windows
        rf"{_FILE}: (?:cannot open shared object file|file too short)",  # Linux's loader
        r"Library not loaded: (?P<library>\S+)",  # macOS's loader
        r"Could not find module '(?P<library>[^']+)'",  # Python on Windows
        r"DLL load failed while importing|WinError 126\b",  # the rest is in the user's language
    ),
    _sign(
        "memory",
        r"std::bad_alloc|MemoryError\b",  # C++; Python and numpy
        # Thread-local storage is a fixed space; running out of it is not a lack of memory.
        r"cannot allocate memory(?! in static TLS block)",
        r"WinError (?:8|1455)\b",
        r"ggml_aligned_malloc: insufficient memory|failed to allocate CPU buffer",
    ),
    _sign(
        "device_memory",
        r"failed to allocate memory for requested buffer",  # onnxruntime
        r"failed to allocate buffer|\bout of memory\b",  # ggml and others
    ),
)


def _error(cause: Cause, library: str | None, said: str, params: LoadParams) -> WhisperdError:
    if cause == "device_memory":
        cause = "memory" if params.device == "cpu" else "gpu_memory"
    match cause:
        case "gpu_memory":
            return _gpu_memory(said, params)
        case "memory":
            return _memory(said, params)
        case "driver":
            return _cuda(
                "cuda.driver_too_old",
                "the driver is missing, or too old for the library that the engine was built with",
                f"Update the NVIDIA driver, or {_ON_THE_CPU}.",
                said,
            )
        case "cuda":
            return _cuda(
                "cuda.not_available",
                "the engine finds none that it can run on",
                "Check that `nvidia-smi` lists the GPU that the runtime names (and that a container has "
                f"access to it), or {_ON_THE_CPU}.",
                said,
            )
        case "architecture":
            return _wrong_architecture(library, said, params)
        case _:
            return _missing_library(library, said, params)


_ON_THE_CPU = "use the CPU with `whisperctl runtimes edit NAME --device cpu`"
_UNKNOWN_AMOUNTS: Final = {"needed": None, "free": None, "largest": None}


def _memory(said: str, params: LoadParams) -> WhisperdError:
    return WhisperdError(
        "memory.not_enough",
        f"There is not enough memory for the model {_model(params)}.",
        "Close programs that use a lot of memory, or choose a smaller model: `whisperctl models available` "
        "lists models with the memory they need.",
        {**_UNKNOWN_AMOUNTS, **_quote(said)},
    )


def _gpu_memory(said: str, params: LoadParams) -> WhisperdError:
    return WhisperdError(
        "memory.gpu_not_enough",
        f"The GPU does not have enough memory for the model {_model(params)}.",
        "Close other programs that use the GPU, choose a smaller model, a smaller batch or a lower precision "
        f"with `whisperctl runtimes edit NAME --batch-size 1 --compute-type int8`, or {_ON_THE_CPU}.",
        {**_UNKNOWN_AMOUNTS, **_quote(said)},
    )


def _cuda(code: str, why: str, fix: str, said: str) -> WhisperdError:
    return WhisperdError(code, f"No NVIDIA GPU can be used: {why}.", fix, _quote(said))


def _missing_library(library: str | None, said: str, params: LoadParams) -> WhisperdError:
    what = library or "a library that the engine needs"
    if params.bundle_name is None:
        fix = f"Install {what}, or reinstall the engine's plugin."
    else:
        fix = (
            f"Repair the bundle with `whisperctl natives install {params.bundle_name}`; if that does not "
            f"help, install {what} with the system's package manager."
        )
    return WhisperdError(
        "library.missing",
        f"The engine cannot load {what}: it is missing or incomplete.",
        fix,
        {"library": library, **_quote(said)},
    )


def _wrong_architecture(library: str | None, said: str, params: LoadParams) -> WhisperdError:
    what = library or "a library that the engine needs"
    if params.bundle_name is None:
        fix = "Reinstall the engine's plugin for this computer's Python and CPU."
    else:
        fix = (
            f"Repair the bundle with `whisperctl natives install {params.bundle_name}`; if that does not "
            "help, set WHISPERD_NATIVE_DIR to a folder that no other computer shares."
        )
    return WhisperdError(
        "library.wrong_architecture",
        f"The engine cannot load {what}: it is damaged, or built for another CPU or system.",
        fix,
        {"library": library, **_quote(said)},
    )


def _cpu_too_old(how: str, params: LoadParams) -> WhisperdError:
    return WhisperdError(
        "library.wrong_architecture",
        f"The engine of {_model(params)} uses instructions that this CPU does not have ({how}).",
        "Choose another engine from `whisperctl natives list` with "
        "`whisperctl runtimes edit NAME --backend BACKEND`; for a virtual machine, enable all features of "
        "the host's CPU.",
        {"library": None, **_quote(how)},
    )


def _model(params: LoadParams) -> str:
    return params.model_name or params.model_path


def _quote(said: str) -> dict[str, Any]:
    return {"said": said[:QUOTED_CHARACTERS]}
