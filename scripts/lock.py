"""Renew the lock files of the native bundles from `bundles.toml`: `python scripts/lock.py [BUNDLE...]`.

All questions go to the package index that pip is configured for. A wheel that a lock already holds is not
fetched again; a new one is fetched once, to learn its sizes.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from packaging.utils import canonicalize_name

from whisperd.natives.lock import Distribution, Lock, Wheel, format_lock, parse_lock
from whisperd.natives.target import PLATFORMS, PYTHONS, Target
from whisperd.rpc.errors import WhisperdError

PROJECT = Path(__file__).parents[1]
BUNDLES = Path(__file__).with_name("bundles.toml")

HEADING = """\
The native bundle {name}: its wheels, pinned by hash. Written by `make lock`; do not edit.
Made for {platforms}
with Python {pythons}, less what the index has no wheels for:
{missing}"""


@dataclass(frozen=True)
class Found:
    """A wheel that the index offers."""

    name: str
    version: str
    tag: str
    sha256: str


def main() -> None:
    """Renew the locks of the bundles that are named on the command line, or all."""
    declared = tomllib.loads(BUNDLES.read_text(encoding="utf-8"))
    for name in sys.argv[1:] or declared:
        bundle = declared[name]
        path = PROJECT / bundle["lock"]
        text = renew(name, bundle["main"], bundle["distributions"], path)
        path.write_text(text, encoding="utf-8", newline="\n")
        print(f"{name}: {bundle['lock']}")


def renew(name: str, main_distribution: str, distributions: list[str], path: Path) -> str:
    """The text of a bundle's lock as the index would have it today."""
    known = known_wheels(path)
    rows: dict[tuple[str, str], dict[str, Wheel]] = {}
    complete: dict[tuple[str, str], list[Found]] = {}
    missing = []
    for platform, python in itertools.product(PLATFORMS, PYTHONS):
        found, lacking = resolve_all(distributions, platform, python)
        print(f"{name}: {platform} {python}", *(f"{each.name} {each.version}" for each in found), *lacking)
        for each in found:
            wheels = rows.setdefault((each.name, each.version), {})
            if each.tag not in wheels:
                wheels[each.tag] = known.get(each.sha256) or measure(each, platform, python)
        if lacking:
            missing.append(f"  {platform} {python}: {', '.join(lacking)}")
        else:
            complete[platform, python] = found
    pinned = (Distribution(*key, tuple(wheels.values())) for key, wheels in rows.items())
    lock = Lock(format=1, main=main_distribution, distributions=tuple(pinned))
    check(lock, complete)
    heading = HEADING.format(
        name=name,
        platforms=", ".join(PLATFORMS),
        pythons=", ".join(PYTHONS),
        missing="\n".join(missing) or "  nothing",
    )
    return format_lock(lock, heading)


def known_wheels(path: Path) -> dict[str, Wheel]:
    """The wheels of the lock as it stands, by hash."""
    try:
        lock = parse_lock(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, WhisperdError):
        return {}
    return {wheel.sha256: wheel for distribution in lock.distributions for wheel in distribution.wheels}


def resolve_all(distributions: list[str], platform: str, python: str) -> tuple[list[Found], list[str]]:
    """What pip would install for a platform and Python, and what has no wheel for them.

    The wheels of an incomplete set are kept, so that the lock can tell which distribution is to blame.
    """
    together = resolve(distributions, platform, python)
    if together is not None:
        return together, []
    alone = {each: resolve([each], platform, python) for each in distributions}
    found = [wheel for wheels in alone.values() for wheel in wheels or ()]
    return found, [f"no wheel of {each}" for each, wheels in alone.items() if wheels is None]


def resolve(distributions: list[str], platform: str, python: str) -> list[Found] | None:
    """What pip would install, or None when it finds no wheel for one of them."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        status, output = pip(
            *("install", "--dry-run", "--ignore-installed", "--target", folder, "--report", str(report)),
            *(*foreign(platform, python), *distributions),
        )
        # An index that cannot be reached has no wheels either: that must not end up in a lock.
        if status and ("No matching distribution found" not in output or "Retrying" in output):
            raise SystemExit(output)
        if status:
            return None
        items = json.loads(report.read_text(encoding="utf-8"))["install"]
        return [read_report(item) for item in items]


def read_report(item: dict[str, Any]) -> Found:
    """One distribution of pip's report."""
    download = item["download_info"]
    file = unquote(download["url"].rpartition("/")[2])
    tag = "-".join(file.removesuffix(".whl").split("-")[-3:])
    name = canonicalize_name(item["metadata"]["name"])
    return Found(name, item["metadata"]["version"], tag, download["archive_info"]["hashes"]["sha256"])


def measure(found: Found, platform: str, python: str) -> Wheel:
    """Fetch a wheel by its hash, for its sizes."""
    with tempfile.TemporaryDirectory() as folder:
        requirements = Path(folder, "requirements.txt")
        requirement = f"{found.name}=={found.version} --hash=sha256:{found.sha256}\n"
        requirements.write_text(requirement, encoding="utf-8")
        status, output = pip(
            *("download", "--require-hashes", "--no-cache-dir", "--dest", folder, "-r", str(requirements)),
            *foreign(platform, python),
        )
        if status:
            raise SystemExit(output)
        (path,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(path) as archive:
            unpacked_bytes = sum(member.file_size for member in archive.infolist())
        return Wheel(found.tag, path.stat().st_size, unpacked_bytes, found.sha256)


def check(lock: Lock, complete: dict[tuple[str, str], list[Found]]) -> None:
    """The lock selects for each target exactly what pip would have installed there."""
    for (platform, python), found in complete.items():
        selected = {pinned.wheel.sha256 for pinned in lock.select(Target.known(platform, python)).pinned}
        assert selected == {each.sha256 for each in found}, (platform, python)


def foreign(platform: str, python: str) -> list[str]:
    """Options that have pip choose for another computer."""
    platforms = (option for tag in PLATFORMS[platform] for option in ("--platform", tag))
    return [*platforms, "--python-version", python, "--implementation", "cp"]


def pip(command: str, *arguments: str) -> tuple[int, str]:
    """Run pip; its exit status and what it said."""
    options = ["--only-binary", ":all:", "--no-deps", "--no-input", "--disable-pip-version-check"]
    done = subprocess.run(
        [sys.executable, "-m", "pip", command, *options, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


if __name__ == "__main__":
    main()
