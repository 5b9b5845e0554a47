"""The CPU features that matter to whisperd, with their usual names. Imports stay light: clients use this."""

from __future__ import annotations

from typing import Final

__all__ = ["ARM_FEATURES", "CPU_FEATURES", "X86_FEATURES"]

X86_FEATURES: Final = {
    "sse4_1": "SSE4.1",
    "sse4_2": "SSE4.2",
    "avx": "AVX",
    "f16c": "F16C",
    "fma": "FMA",
    "avx2": "AVX2",
    "avx_vnni": "AVX-VNNI",
    "avx512f": "AVX-512 F",
    "avx512dq": "AVX-512 DQ",
    "avx512bw": "AVX-512 BW",
    "avx512vl": "AVX-512 VL",
    "avx512_vnni": "AVX-512 VNNI",
    "avx512_bf16": "AVX-512 BF16",
    "avx512_fp16": "AVX-512 FP16",
    "amx_tile": "AMX",
    "amx_int8": "AMX INT8",
    "amx_bf16": "AMX BF16",
}
ARM_FEATURES: Final = {
    "neon": "NEON",
    "fp16": "FP16",
    "dotprod": "dot product",
    "i8mm": "I8MM",
    "bf16": "BF16",
    "sve": "SVE",
}
CPU_FEATURES: Final = {**X86_FEATURES, **ARM_FEATURES}
"""All features, each with its usual name."""
