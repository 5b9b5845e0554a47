"""Real messages of native libraries, as users report them, and the errors made from them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whisperd.worker.faults import explain, explain_death, killed_for_memory, words_of
from whisperd.worker.protocol import LoadParams

ON_CPU = LoadParams(model_path="/models/base", model_name="base", bundle_name="ctranslate2-cpu")
ON_GPU = LoadParams(
    model_path="/models/base", model_name="base", bundle_name="ctranslate2-cuda12", device="cuda"
)

SAID = {
    "memory.gpu_not_enough": (
        # CTranslate2
        "RuntimeError: CUDA failed with error out of memory",
        "RuntimeError: cuBLAS failed with status CUBLAS_STATUS_ALLOC_FAILED",
        # PyTorch
        "torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB",
        "RuntimeError: CUDA error: out of memory",
        # thrust
        "std::bad_alloc: cudaErrorMemoryAllocation: out of memory",
        # ggml: whisper.cpp
        (
            "ggml_backend_cuda_buffer_type_alloc_buffer: allocating 144817.04 MiB on device 0: cudaMalloc "
            "failed: out of memory"
        ),
        "alloc_tensor_range: failed to allocate CUDA0 buffer of size 151851674624",
    ),
    "memory.not_enough": (
        # CTranslate2
        "RuntimeError: mkl_malloc: failed to allocate memory",
        # ggml: whisper.cpp
        "ggml_aligned_malloc: insufficient memory (attempted to allocate 14796.44 MB)",
        "alloc_tensor_range: failed to allocate CPU buffer of size 15515189248",
        # C++, Python, numpy and the system
        "terminate called after throwing an instance of 'std::bad_alloc'\n  what():  std::bad_alloc",
        "MemoryError: ",
        "_ArrayMemoryError: Unable to allocate 3.00 GiB for an array with shape (805306368,)",
        "OSError: [Errno 12] Cannot allocate memory",
        "RuntimeError: Cannot allocate memory mmap failed for size 2953349384 at offset 0",
    ),
    "cuda.driver_too_old": (
        # CTranslate2
        "RuntimeError: CUDA failed with error CUDA driver version is insufficient for CUDA runtime version",
        # PyTorch
        "RuntimeError: The NVIDIA driver on your system is too old (found version 11040).",
        # onnxruntime
        "CUDA failure 35: CUDA driver version is insufficient for CUDA runtime version ; GPU=0",
    ),
    "cuda.not_available": (
        # CTranslate2
        "RuntimeError: CUDA failed with error no CUDA-capable device is detected",
        "RuntimeError: CUDA failed with error invalid device ordinal",
        "RuntimeError: CUDA failed with error unknown error",
        "ValueError: This CTranslate2 package was not compiled with CUDA support",
        (
            "RuntimeError: parallel_for failed: cudaErrorNoKernelImageForDevice: no kernel image is "
            "available for execution on the device"
        ),
        # PyTorch
        "RuntimeError: Found no NVIDIA driver on your system.",
        "RuntimeError: CUDA unknown error - this may be due to an incorrectly set up environment",
        # ggml: whisper.cpp
        "ggml_cuda_init: failed to initialize CUDA: no CUDA-capable device is detected",
        "ggml_cuda_init: no CUDA devices found, CUDA will be disabled",
        # loaders
        "ImportError: libcuda.so.1: cannot open shared object file: No such file or directory",
    ),
    "library.missing": (
        # CTranslate2
        "RuntimeError: Library libcublas.so.12 is not found or cannot be loaded",
        "RuntimeError: Library cublas64_12.dll is not found or cannot be loaded",
        # cuDNN 8 and 9, which end the process
        (
            "Could not load library libcudnn_ops_infer.so.8. Error: libcudnn_ops_infer.so.8: cannot open "
            "shared object file: No such file or directory"
        ),
        (
            "Unable to load any of {libcudnn_ops.so.9.1.0, libcudnn_ops.so.9.1, libcudnn_ops.so.9, "
            "libcudnn_ops.so}"
        ),
        "Could not locate cudnn_cnn_infer64_8.dll. Please make sure it is in your library path!",
        # loaders
        "ImportError: libgomp-a34b3233.so.1: cannot open shared object file: No such file or directory",
        "ImportError: DLL load failed while importing _ext: Das angegebene Modul wurde nicht gefunden.",
        "OSError: [WinError 126] The specified module could not be found",
        (
            "FileNotFoundError: Could not find module 'D:\\ctranslate2\\libiomp5md.dll' (or one of its "
            "dependencies)."
        ),
    ),
    "library.wrong_architecture": (
        # loaders
        "OSError: /bundle/a b/lib.so: wrong ELF class: ELFCLASS32",
        "OSError: /bundle/lib.so: invalid ELF header",
        (
            "ImportError: dlopen(/b/core.so, 0x0002): tried: '/b/core.so' (mach-o file, but is an "
            "incompatible architecture (have 'x86_64', need 'arm64')), '/usr/lib/core.so' (no such file)"
        ),
        "ImportError: DLL load failed while importing _ext: %1 is not a valid Win32 application.",
        "ImportError: /lib/libc.so.6: version `GLIBC_2.38' not found (required by /bundle/lib.so)",
    ),
}


@pytest.mark.parametrize(
    ("said", "code"),
    [
        pytest.param(said, code, id=f"{code}-{number}")
        for code in SAID
        for number, said in enumerate(SAID[code])
    ],
)
def test_library_messages_are_recognised(said: str, code: str) -> None:
    error = explain(f"an earlier line\n{said}\na later line", ON_GPU)
    assert error is not None
    assert error.code == code
    assert error.message.endswith(".") and error.fix.endswith(".")
    assert error.data["said"] == error.data["said"].strip() != ""
    assert "\n" not in error.data["said"]
    if code.startswith("memory."):
        assert {"needed", "free", "largest"} <= error.data.keys()


@pytest.mark.parametrize(
    ("said", "library"),
    [
        ("Library libcublas.so.12 is not found or cannot be loaded", "libcublas.so.12"),
        ("Could not load library libcudnn_ops_infer.so.8. Error: no", "libcudnn_ops_infer.so.8"),
        ("Unable to load any of {libcudnn_ops.so.9.1.0, libcudnn_ops.so}", "libcudnn_ops.so.9.1.0"),
        ("OSError: /a b/c.so: wrong ELF class: ELFCLASS32", "/a b/c.so"),
        ("ImportError: libx.so: cannot open shared object file: No such file", "libx.so"),
        ("version `GLIBC_2.38' not found (required by /a/lib.so)", "/a/lib.so"),
    ],
)
def test_the_library_is_named(said: str, library: str) -> None:
    error = explain(said, ON_CPU)
    assert error is not None
    assert error.data["library"] == library
    assert f" {library}: " in error.message
    assert "`whisperctl natives install ctranslate2-cpu`" in error.fix


def test_an_existing_library_that_is_not_found_is_for_another_processor(tmp_path: Path) -> None:
    library = tmp_path / "lib.so"
    library.touch()
    said = f"OSError: {library}: cannot open shared object file: No such file or directory"
    error = explain(said, ON_CPU)
    assert error is not None and error.code == "library.wrong_architecture"


def test_an_unspecific_lack_of_memory_is_attributed_to_the_device() -> None:
    said = "bfc_arena.cc:376 Failed to allocate memory for requested buffer of size 4585490"
    of_cpu, of_gpu = explain(said, ON_CPU), explain(said, ON_GPU)
    assert of_cpu is not None and of_cpu.code == "memory.not_enough"
    assert of_gpu is not None and of_gpu.code == "memory.gpu_not_enough"


@pytest.mark.parametrize(
    "said",
    [
        "",
        "RuntimeError: Unsupported model binary version",
        "ImportError: libgomp.so.1: cannot allocate memory in static TLS block",
        "ModuleNotFoundError: No module named 'ctranslate2'",
        "FileNotFoundError: [Errno 2] No such file or directory: '/models/base/model.bin'",
        "RuntimeError: cuBLAS failed with status CUBLAS_STATUS_NOT_SUPPORTED",
        "ValueError: Requested float16 compute type, but the target device does not support it",
    ],
)
def test_unknown_messages_are_not_explained(said: str) -> None:
    assert explain(said, ON_GPU) is None


@given(st.text())
def test_arbitrary_text_is_not_explained(said: str) -> None:
    assert explain(said, ON_CPU) is None


def test_an_exception_without_a_message_is_recognised_by_its_type() -> None:
    error = explain(words_of(MemoryError()), ON_CPU)
    assert error is not None and error.code == "memory.not_enough"


@pytest.mark.parametrize("how", ["signal SIGILL", "exit status 3221225501"])
def test_a_processor_that_is_too_old(how: str) -> None:
    error = explain_death(how, "", ON_CPU)
    assert error is not None and error.code == "library.wrong_architecture"
    assert "instructions" in error.message and "--backend" in error.fix


def test_last_words_count_unless_the_process_was_killed() -> None:
    words = "terminate called after throwing an instance of 'std::bad_alloc'"
    aborted = explain_death("signal SIGABRT", words, ON_CPU)
    assert aborted is not None and aborted.code == "memory.not_enough"
    assert explain_death("signal SIGKILL", words, ON_CPU) is None
    assert explain_death("signal SIGSEGV", "", ON_CPU) is None


def test_a_process_killed_for_its_memory() -> None:
    error = killed_for_memory("signal SIGKILL", ON_CPU)
    assert (error.code, error.message) == (
        "memory.not_enough",
        "There is not enough memory for the model base.",
    )


@pytest.mark.parametrize(
    ("said", "code", "fix"),
    [
        (
            "libgomp.so.1: cannot open shared object file: No such file or directory",
            "library.missing",
            "Install libgomp.so.1, or reinstall the engine's plugin.",
        ),
        (
            "/lib/libx.so: invalid ELF header",
            "library.wrong_architecture",
            "Reinstall the engine's plugin for this computer's Python and CPU.",
        ),
    ],
)
def test_an_engine_without_a_bundle_is_repaired_by_reinstalling_its_plugin(
    said: str, code: str, fix: str
) -> None:
    unbundled = explain(f"before\n{said}\nafter", LoadParams(model_path="/models/base"))
    assert unbundled is not None
    assert (unbundled.code, unbundled.fix, unbundled.data["said"]) == (code, fix, said)
    bundled = explain(said, ON_CPU)
    assert bundled is not None and "`whisperctl natives install ctranslate2-cpu`" in bundled.fix
