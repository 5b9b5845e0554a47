"""Probes that replay the computers recorded in tests/data/hardware."""

from __future__ import annotations

import dataclasses
import ntpath
import posixpath
import tomllib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from whisperd.hardware import Gpus, Hardware, Memory
from whisperd.hardware.detect import FACTS, find_fact
from whisperd.hardware.gpus import gpus_from
from whisperd.hardware.messages import DriverAnswer
from whisperd.hardware.probes import ProbeFailed, Probes

FOLDER = Path(__file__).parent / "data" / "hardware"
NAMES = sorted(path.stem for path in FOLDER.glob("*.toml"))
CPUINFO = "/proc/cpuinfo"


def computer(name: str, **env: str) -> Hardware:
    """Detect the hardware of a recorded computer, with these variables in its environment."""
    record = _read(name)
    record["env"] = {**record["env"], **env}
    return detect(_probes(record), _gpus(record))


def detect(probes: Probes, gpus: Gpus | None = None) -> Hardware:
    """Detect all facts about a computer."""
    facts = {name: find_fact(name, probes) for name in FACTS}
    return Hardware(
        **{name: fact for name, (fact, why) in facts.items() if why is None},
        gpus=gpus or Gpus(),
        unknown={name: why for name, (_, why) in facts.items() if why is not None},
    )


def probes_of(name: str, **changes: Any) -> Probes:
    """Return a computer's probes, with some of them replaced."""
    return dataclasses.replace(_probes(_read(name)), **changes)


def _read(name: str) -> dict[str, Any]:
    record = tomllib.loads((FOLDER / f"{name}.toml").read_text())
    for table in ("env", "files", "folders", "programs", "registry"):
        record.setdefault(table, {})
    text = record["files"].get(CPUINFO, "")
    if text.count("processor\t:") == 1:
        record["files"][CPUINFO] = "\n".join(
            text.replace("processor\t: 0", f"processor\t: {number}") for number in range(record["cpu_count"])
        )
    return record


def _probes(record: dict[str, Any]) -> Probes:
    paths = ntpath if record["platform"] == "win32" else posixpath
    folders: dict[str, set[str]] = defaultdict(set)
    for path, names in [*record["folders"].items(), *((path, ()) for path in record["files"])]:
        folders[path] |= set(names)
        below = path
        while (parent := paths.dirname(below)) != below:
            folders[parent].add(paths.basename(below))
            below = parent

    def run(command: Sequence[str]) -> str:
        if " ".join(command) not in record["programs"]:
            raise ProbeFailed(f"`{command[0]}` cannot be started (No such file or directory)")
        return str(record["programs"][" ".join(command)])

    return Probes(
        platform=record["platform"],
        machine=record["machine"],
        release=record["release"],
        python=tuple(record["python"]),
        libc=record["libc"] or None,
        env=record["env"],
        cpu_count=record["cpu_count"],
        affinity=record.get("affinity"),
        physical_count=lambda: record["physical_count"],
        memory=lambda: Memory(*record["memory"]),
        site_folders=tuple(record["site_folders"]),
        native_folder=record["native_folder"],
        read=record["files"].get,
        names=lambda folder: sorted(folders.get(paths.normpath(folder), ())),
        run=run,
        has_feature=lambda number: number in record.get("features", ()),
        registry=lambda key, value: record["registry"].get(f"{key}\\{value}"),
    )


def _gpus(record: dict[str, Any]) -> Gpus:
    answer = msgspec.convert(record.get("driver", {"has_library": False}), DriverAnswer)
    return gpus_from(answer, record["env"].get("CUDA_VISIBLE_DEVICES"))
