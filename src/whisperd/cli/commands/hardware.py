"""`whisperctl hardware`: show this computer's hardware and the variants it can use."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from whisperd.cli.command import connect_as
from whisperd.cli.output import columns, counted, print_json, wrapped
from whisperd.cli.parser import Parser
from whisperd.quantities import size

if TYPE_CHECKING:
    from typing import Any

    Map = dict[str, Any]

MOST_COLUMNS = 100
LABEL_CELLS = 11
LIBRARIES = {"cudart": "CUDA", "cublas": "cuBLAS", "cudnn": "cuDNN", "openblas": "OpenBLAS", "mkl": "MKL"}


def add(parser: Parser) -> None:
    """Add the arguments."""
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    with connect_as(options) as client:
        found = client.hardware.show()
    if options.json:
        print_json(found)
        return
    for line in page(found, min(columns(sys.stdout), MOST_COLUMNS)):
        print(line)


def page(found: Map, width: int) -> list[str]:
    """Return the report as lines of at most this width."""
    return [
        *_facts(found, width),
        "",
        *_variants(found["variants"], width),
        *_plugin_problems(found["plugin_problems"], width),
    ]


def _facts(found: Map, width: int) -> Iterator[str]:
    facts = {
        "System": ("system", _system),
        "Processor": ("processor", _processor),
        "Memory": ("memory", _memory),
        "GPU": ("gpus", _gpus),
        "CUDA": ("cuda_libraries", _libraries),
        "BLAS": ("blas", _libraries),
        "Compilers": ("tools", _tools),
    }
    for label, (name, describe) in facts.items():
        fact = found[name]
        said = [f"unknown: {found['unknown'].get(name, '')}"] if fact is None else describe(fact)
        for place, text in enumerate(said):
            yield from wrapped(text, width, label="" if place else label, cells=LABEL_CELLS)


def _variants(variants: list[Map], width: int) -> Iterator[str]:
    for one in variants:
        if one["usable"]:
            yield f"{one['name']}: usable"
            continue
        yield f"{one['name']}: not usable"
        yield from wrapped(one["reason"], width, cells=2)
        yield from wrapped(one["fix"], width, cells=2)


def _plugin_problems(problems: list[Map], width: int) -> Iterator[str]:
    for one in problems:
        yield from wrapped(one["message"], width)
        yield from wrapped(one["fix"], width, cells=2)


def _system(system: Map) -> Iterator[str]:
    parts = [system["name"], system["arch"]]
    if system["libc"]:
        parts.append(f"{system['libc']} {system['libc_version'] or ''}".rstrip())
    if system["rosetta"]:
        parts.append("translated by Rosetta for Apple silicon")
    elif system["apple_silicon"]:
        parts.append("Apple silicon")
    yield ", ".join([*parts, f"Python {'.'.join(map(str, system['python']))}"])
    if system["frameworks"]:
        yield f"frameworks: {', '.join(system['frameworks'])}"
    yield _from(system)


def _processor(processor: Map) -> Iterator[str]:
    vendor, model = processor["vendor"], processor["model"]
    is_enough = model and (not vendor or vendor in model)
    yield model if is_enough else " ".join(filter(None, (vendor, model))) or "unknown model"
    yield _cores(processor["cores"])
    yield _features(processor["features"]) or "no relevant instruction set extensions"
    yield _from(processor)


def _features(features: list[str]) -> str:
    """Return their usual names, grouped by family: `SSE4.1, SSE4.2, AVX-512 (F, VNNI)`."""
    from whisperd.processor_features import CPU_FEATURES

    families: dict[str, list[str]] = {}
    for feature in features:
        family, _, part = CPU_FEATURES.get(feature, feature).partition(" ")
        families.setdefault(family, []).extend([part] if part else [])
    return ", ".join(
        f"{family} ({', '.join(parts)})" if len(parts) > 1 else " ".join([family, *parts])
        for family, parts in families.items()
    )


def _cores(cores: Map) -> str:
    logical, physical = cores["logical"], cores["physical"]
    kinds = counted(logical, "core")
    if physical and physical != logical:
        kinds = f"{physical} physical, {logical} logical cores"
    limits = []
    if cores["affinity"]:
        limits.append(f"the scheduler allows {cores['affinity']}")
    if cores["quota"]:
        limits.append(f"a control group allows the CPU time of {cores['quota']:g}")
    why = f" ({', '.join(limits)})" if limits else ""
    return f"{kinds}, {cores['usable']} usable{why}"


def _memory(memory: Map) -> Iterator[str]:
    yield f"{size(memory['total'])}, {size(memory['available'])} of it free"
    yield _from(memory)


def _gpus(gpus: Map) -> Iterator[str]:
    for one in gpus["found"]:
        major, minor = one["compute_capability"]
        memory = f"{size(one['memory_total'])}, {size(one['memory_free'])} of it free"
        yield f"{one['index']}: {one['name']}, {memory}, compute capability {major}.{minor}"
    if gpus["driver"] or gpus["cuda"]:
        cuda = f", CUDA up to {'.'.join(map(str, gpus['cuda']))}" if gpus["cuda"] else ""
        yield f"NVIDIA driver {gpus['driver'] or ''}{cuda}"
    if gpus["error"]:
        yield gpus["error"]["message"]
        yield gpus["error"]["fix"]
    yield _from(gpus)


def _libraries(libraries: Map) -> Iterator[str]:
    for one in libraries["found"]:
        headers = f", headers in {one['headers']}" if one["headers"] else ""
        version = f" {one['version']}" if one["version"] else ""
        yield f"{LIBRARIES.get(one['name'], one['name'])}{version}: {one['path']}{headers} ({one['source']})"
    if not libraries["found"]:
        yield "no libraries found"
    yield from libraries["notes"]


def _tools(tools: Map) -> Iterator[str]:
    names = {"c": "C", "cxx": "C++", "cmake": "CMake"}
    there = [
        f"{names[name]}: {tool['path']} ({tool['source']})"
        for name in names
        if (tool := tools[name]) is not None
    ]
    yield from there or ["none found"]


def _from(fact: Map) -> str:
    return f"(from {fact['source']})"
