"""Detect the processor: its vendor, model and features."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from whisperd.hardware.cores import cores
from whisperd.hardware.facts import ARM_FEATURES, CPU_FEATURES, X86_FEATURES, Processor
from whisperd.hardware.probes import ProbeFailed, Probes

__all__ = ["find_processor", "parse_cpuinfo", "parse_sysctl"]

CPUINFO: Final = "/proc/cpuinfo"
SYSCTL: Final = ("/usr/sbin/sysctl", "-i", "hw", "machdep.cpu")
REGISTRY_KEY: Final = r"HARDWARE\DESCRIPTION\System\CentralProcessor\0"


def find_processor(probes: Probes) -> Processor:
    """Detect the processor. Raises `ProbeFailed`."""
    look = {"darwin": _on_macos, "win32": _on_windows}.get(probes.platform, _on_linux)
    return look(probes)


def parse_cpuinfo(text: str) -> tuple[str | None, str | None, set[str]]:
    """Return vendor, model, and the features that every core has, from the text of `/proc/cpuinfo`."""
    blocks = [_block(lines) for lines in text.split("\n\n")]
    per_core = [_core_features(block) for block in blocks if _FLAGS.keys() & block.keys()]
    features = set.intersection(*per_core) if per_core else set()
    vendor = _first(blocks, "vendor_id")
    if vendor is not None or _first(blocks, "cpu implementer") is None:
        return _VENDORS.get(vendor or "", vendor), _first(blocks, "model name"), features
    parts = dict.fromkeys((block.get("cpu implementer"), block.get("cpu part")) for block in blocks)
    named = [_ARM_PARTS[part] for part in parts if part in _ARM_PARTS]
    model = " and ".join(named) or _first(blocks, "model name") or _first(blocks, "model")
    return _ARM_VENDORS.get(_first(blocks, "cpu implementer") or ""), model, features


def parse_sysctl(text: str) -> dict[str, str]:
    """Return the values in the output of macOS' `sysctl`, by name."""
    return dict(_pair(line) for line in text.splitlines() if ":" in line)


def _on_linux(probes: Probes) -> Processor:
    text = probes.read(CPUINFO)
    if text is None:
        raise ProbeFailed(f"{CPUINFO} cannot be read")
    vendor, model, features = parse_cpuinfo(text)
    return _processor(probes, vendor, model, features, CPUINFO)


def _on_macos(probes: Probes) -> Processor:
    values = parse_sysctl(probes.run(SYSCTL))
    family = X86_FEATURES if probes.arch == "x86_64" else ARM_FEATURES
    features = {
        feature
        for feature, names in _SYSCTL_NAMES.items()
        if feature in family and any(values.get(f"hw.optional.{name}") == "1" for name in names)
    }
    model = values.get("machdep.cpu.brand_string")
    vendor = values.get("machdep.cpu.vendor", "")
    if "Apple" in (model or ""):  # under Rosetta, the vendor is Intel
        vendor = "Apple"
    return _processor(probes, _VENDORS.get(vendor, vendor) or None, model, features, "sysctl")


def _on_windows(probes: Probes) -> Processor:
    features = {name for name, number in _WINDOWS_NUMBERS.items() if probes.has_feature(number)}
    if "avx2" in features:  # Windows does not report them, but processors with AVX2 have both
        features |= {"f16c", "fma"}
    vendor = (probes.registry(REGISTRY_KEY, "VendorIdentifier") or "").strip()
    model = (probes.registry(REGISTRY_KEY, "ProcessorNameString") or "").strip()
    source = "the registry, and IsProcessorFeaturePresent, which does not report VNNI or AMX"
    return _processor(probes, _VENDORS.get(vendor, vendor) or None, model or None, features, source)


def _processor(
    probes: Probes, vendor: str | None, model: str | None, features: Iterable[str], source: str
) -> Processor:
    return Processor(
        vendor=vendor,
        model=" ".join(model.split()) if model else None,
        features=tuple(feature for feature in CPU_FEATURES if feature in features),
        cores=cores(probes),
        source=source,
    )


# /proc/cpuinfo

_FLAGS: Final = {"flags": X86_FEATURES, "features": ARM_FEATURES}
"""The name of the line on each family of processors."""
_LINUX_NAMES: Final = {"asimd": "neon", "asimdhp": "fp16", "asimddp": "dotprod"}
"""Features that have another name on Linux."""

_VENDORS: Final = {
    "GenuineIntel": "Intel",
    "AuthenticAMD": "AMD",
    "HygonGenuine": "Hygon",
    "CentaurHauls": "VIA",
    "Qualcomm Technologies Inc": "Qualcomm",
}
_ARM_VENDORS: Final = {
    "0x41": "ARM",
    "0x42": "Broadcom",
    "0x43": "Cavium",
    "0x46": "Fujitsu",
    "0x48": "HiSilicon",
    "0x4e": "NVIDIA",
    "0x50": "Applied Micro",
    "0x51": "Qualcomm",
    "0x53": "Samsung",
    "0x61": "Apple",
    "0x6d": "Microsoft",
    "0xc0": "Ampere",
}
_ARM_PARTS: Final = {
    ("0x41", "0xd03"): "Cortex-A53",
    ("0x41", "0xd04"): "Cortex-A35",
    ("0x41", "0xd05"): "Cortex-A55",
    ("0x41", "0xd07"): "Cortex-A57",
    ("0x41", "0xd08"): "Cortex-A72",
    ("0x41", "0xd09"): "Cortex-A73",
    ("0x41", "0xd0a"): "Cortex-A75",
    ("0x41", "0xd0b"): "Cortex-A76",
    ("0x41", "0xd0c"): "Neoverse N1",
    ("0x41", "0xd40"): "Neoverse V1",
    ("0x41", "0xd41"): "Cortex-A78",
    ("0x41", "0xd49"): "Neoverse N2",
    ("0x41", "0xd4f"): "Neoverse V2",
    ("0xc0", "0xac3"): "Ampere-1",
}


def _block(text: str) -> dict[str, str]:
    """Return the lines of one processor, by name in lower case."""
    pairs = (_pair(line) for line in text.splitlines())
    return {name.lower(): value for name, value in pairs}


def _pair(line: str) -> tuple[str, str]:
    name, _, value = line.partition(":")
    return name.strip(), value.strip()


def _core_features(block: Mapping[str, str]) -> set[str]:
    """Return the features of one core."""
    found: set[str] = set()
    for line, family in _FLAGS.items():
        words = block.get(line, "").lower().split()
        found |= {_LINUX_NAMES.get(word, word) for word in words} & family.keys()
    return found


def _first(blocks: Iterable[Mapping[str, str]], name: str) -> str | None:
    return next((block[name] for block in blocks if block.get(name)), None)


# macOS and Windows

_SYSCTL_NAMES: Final = {
    "sse4_1": ("sse4_1",),
    "sse4_2": ("sse4_2",),
    "avx": ("avx1_0",),
    "f16c": ("f16c",),
    "fma": ("fma",),
    "avx2": ("avx2_0",),
    "avx512f": ("avx512f",),
    "avx512dq": ("avx512dq",),
    "avx512bw": ("avx512bw",),
    "avx512vl": ("avx512vl",),
    "avx512_vnni": ("avx512vnni",),
    "neon": ("AdvSIMD", "neon", "arm.AdvSIMD"),
    "fp16": ("arm.FEAT_FP16", "neon_fp16"),
    "dotprod": ("arm.FEAT_DotProd",),
    "i8mm": ("arm.FEAT_I8MM",),
    "bf16": ("arm.FEAT_BF16",),
}
"""Names below `hw.optional`, older and newer ones; the feature exists if any of them is 1."""

_WINDOWS_NUMBERS: Final = {
    "neon": 19,
    "sse4_1": 37,
    "sse4_2": 38,
    "avx": 39,
    "avx2": 40,
    "avx512f": 41,
    "dotprod": 43,
    "sve": 46,
    "i8mm": 66,
    "fp16": 67,
    "bf16": 68,
}
"""`PF_..._AVAILABLE` of Windows' header winnt.h."""
