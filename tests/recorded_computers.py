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
    told = _read(name)
    told["env"] = {**told["env"], **env}
    return detect(_probes(told), _gpus(told))


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
    told = tomllib.loads((FOLDER / f"{name}.toml").read_text())
    for table in ("env", "files", "folders", "programs", "registry"):
        told.setdefault(table, {})
    text = told["files"].get(CPUINFO, "")
    if text.count("processor\t:") == 1:
        told["files"][CPUINFO] = "\n".join(
            text.replace("processor\t: 0", f"processor\t: {number}") for number in range(told["cpu_count"])
        )
    return told


def _probes(told: dict[str, Any]) -> Probes:
    paths = ntpath if told["platform"] == "win32" else posixpath
    folders: dict[str, set[str]] = defaultdict(set)
    for path, names in [*told["folders"].items(), *((path, ()) for path in told["files"])]:
        folders[path] |= set(names)
        below = path
        while (parent := paths.dirname(below)) != below:
            folders[parent].add(paths.basename(below))
            below = parent

    def run(command: Sequence[str]) -> str:
        if " ".join(command) not in told["programs"]:
            raise ProbeFailed(f"`{command[0]}` cannot be started (No such file or directory)")
        return str(told["programs"][" ".join(command)])

    return Probes(
        platform=told["platform"],
        machine=told["machine"],
        release=told["release"],
        python=tuple(told["python"]),
        libc=told["libc"] or None,
        env=told["env"],
        cpu_count=told["cpu_count"],
        affinity=told.get("affinity"),
        physical_count=lambda: told["physical_count"],
        memory=lambda: Memory(*told["memory"]),
        site_folders=tuple(told["site_folders"]),
        native_folder=told["native_folder"],
        read=told["files"].get,
        names=lambda folder: sorted(folders.get(paths.normpath(folder), ())),
        run=run,
        has_feature=lambda number: number in told.get("features", ()),
        registry=lambda key, value: told["registry"].get(f"{key}\\{value}"),
    )


def _gpus(told: dict[str, Any]) -> Gpus:
    answer = msgspec.convert(told.get("driver", {"has_library": False}), DriverAnswer)
    return gpus_from(answer, told["env"].get("CUDA_VISIBLE_DEVICES"))
