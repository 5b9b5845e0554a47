"""Renders the findings for a bug report, without names of people, computers, files and folders. Pure."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from whisperd.doctor.checks import check
from whisperd.doctor.facts import Facts, Finding
from whisperd.models import Catalogue
from whisperd.quantities import size

__all__ = ["Private", "about", "page", "private_names", "report", "scrubbed"]

_PUBLIC: Final = ("/bin", "/dev", "/etc", "/lib", "/lib64", "/opt", "/proc", "/sbin", "/sys", "/usr")
"""System folders, which contain no private files."""
_QUOTED: Final = r"""(?:[^'"`\0]|'"'"')*"""  # includes an apostrophe as quoted for a shell
_PATH: Final = re.compile(
    rf"(?<=(['\"`]))(?:/|[A-Za-z]:\\){_QUOTED}\s{_QUOTED}(?=\1)"  # in quotes, with spaces
    r"|(?<![\w.~\0])(?:/|[A-Za-z]:\\)[^\s,;:'\"`()<>\0]+"
)


class Private(msgspec.Struct, frozen=True, kw_only=True):
    """What a report must not reveal."""

    home: str
    users: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    """Names that the user has given to runtimes, models and the like."""
    places: Mapping[str, str] = {}
    """whisperd's folders and files by path, each with its label, shown if it is outside the home folder."""


def page(facts: Facts, catalogue: Catalogue) -> dict[str, Any]:
    """Return all findings except those of daemon and socket, a description of the computer, and what is
    private.
    """
    return {
        "checks": check(facts),
        "about": about(facts, catalogue),
        "places": {folder.path: f"{folder.role} folder" for folder in facts.folders},
        "names": private_names(facts, catalogue),
    }


def about(facts: Facts, catalogue: Catalogue) -> dict[str, str]:
    """Describe what one must know of a computer to understand a bug."""
    hardware = facts.hardware
    system, processor, memory = hardware.system, hardware.processor, hardware.memory
    gpus = ", ".join(f"{gpu.name} {size(gpu.memory_total)}" for gpu in hardware.gpus.gpus) or "none"
    installed = [f"{one.name} {one.version}" for one in facts.bundles if one.version]
    known = [model.name for model in facts.models if catalogue.find(model.name)]
    others = len(facts.models) - len(known)
    return {
        "whisperd": facts.version,
        "Python": facts.python,
        "system": f"{system.name}, {system.arch}, {system.libc or ''} {system.libc_version or ''}".rstrip(
            " ,"
        )
        if system
        else "unknown",
        "processor": f"{processor.model or 'unknown'}, {processor.cores.usable} cores, "
        f"{' '.join(processor.features)}"
        if processor
        else "unknown",
        "memory": f"{size(memory.total)}, {size(memory.available)} free" if memory else "unknown",
        "GPUs": f"{gpus}, driver {hardware.gpus.driver or 'none'}",
        "bundles": ", ".join(installed) or "none",
        "variants": ", ".join(one.variant.name for one in facts.variants if one.problem is None) or "none",
        "models": ", ".join([*known, *([f"{others} not in the catalogue"] if others else [])]) or "none",
        "variables": ", ".join(facts.environment) or "none that is relevant",
    }


def private_names(facts: Facts, catalogue: Catalogue) -> list[str]:
    """Return the names that are not in the catalogue, hence chosen by a user, and the paths with spaces in
    variables.
    """
    names = {model.name for model in facts.models}
    for value in facts.environment.values():
        names |= {place.rstrip("/") for place in value.split(os.pathsep) if " " in place}
    for runtime in facts.runtimes or ():
        names |= {runtime.name, runtime.model}
    return sorted(name for name in names if catalogue.find(name) is None)


def report(described: Mapping[str, str], findings: Sequence[Finding], private: Private) -> str:
    """Return the text of the report, which ends with a newline."""
    width = max(map(len, described))
    lines = [f"{label:{width}}  {value}" for label, value in described.items()]
    lines.append("")
    for finding in findings:
        lines.append(f"{finding.status:7}  {finding.name}: {finding.message}")
        if finding.fix:
            lines.append(f"         {finding.fix}")
    return "".join(f"{scrubbed(line, private)}\n" for line in lines)


def scrubbed(text: str, private: Private) -> str:
    """Remove what is private from a text: replace paths of the user as a whole, shorten those of whisperd."""
    text = _without(text, private.names, "NAME")  # first, since a name may be a path with spaces
    places = sorted(private.places, key=len, reverse=True)
    for number, place in enumerate(places):
        text = text.replace(place, f"\0{number}\0")
    text = _PATH.sub(lambda found: found[0] if _is_public(found[0], found[1]) else "<path>", text)
    for number, place in enumerate(places):
        text = text.replace(f"\0{number}\0", _shown(place, private))
    if len(private.home) > 1:
        text = text.replace(private.home, "~")
    text = _without(text, private.hosts, "HOST")
    return _without(text, private.users, "USER")


def _shown(place: str, private: Private) -> str:
    if len(private.home) > 1 and place.startswith((f"{private.home}/", f"{private.home}\\")):
        return "~" + place[len(private.home) :]
    return f"<{private.places[place]}>"


def _is_public(text: str, quote: str | None) -> bool:
    """Whether a path, or a command in backticks, reveals nothing private."""
    path, *words = text.split()
    if words and (quote != "`" or any(sign in word for word in words for sign in "/\\")):
        return False
    return path.startswith(tuple(f"{one}/" for one in _PUBLIC)) or path in _PUBLIC


def _without(text: str, names: Iterable[str], label: str) -> str:
    for name in sorted(filter(None, names), key=len, reverse=True):
        text = re.sub(rf"(?<![^\W_]){re.escape(name)}(?![^\W_])", label, text, flags=re.IGNORECASE)
    return text
