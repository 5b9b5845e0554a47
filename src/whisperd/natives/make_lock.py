"""Write the locks of native bundles: `python -m whisperd.natives.make_lock BUNDLES.TOML [BUNDLE...]`.

The file defines the contents of each bundle, and the path of its lock, relative to the file's own folder:

    [plain-cpu]
    lock = "whisperd_plain/plain-cpu.lock"
    main = "ctranslate2"                                 # the distribution whose version is the bundle's
    distributions = ["ctranslate2>=4.6,<5", "numpy>=2"]  # all of them: dependencies are not followed
    platforms = ["linux-x86_64"]                         # without these two: all that whisperd knows
    pythons = ["3.12", "3.13"]

`sources` are distributions that are built where they are used, and `tools` are what builds them.

All queries go to the package index that pip is configured for. A wheel that is already in the lock is not
examined again. For a new one, only the ZIP directory at its end is fetched, which has its sizes, because
some wheels are larger than half a gigabyte. If the index does not serve parts of files, the whole wheel is
fetched.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from whisperd.natives.lock import Distribution, Lock, Source, Wheel, format_lock, parse_lock
from whisperd.natives.lock_entries import measure_source, measure_wheel, wheel_tag
from whisperd.natives.remote_file import RemoteFile
from whisperd.natives.target import PLATFORMS, PYTHONS, Target
from whisperd.rpc.errors import WhisperdError

Platform = tuple[str, str]
"""A platform and a version of Python."""

HEADING = """\
The native bundle {name}: its wheels, pinned by hash. Written by whisperd.natives.make_lock; do not edit.
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
    url: str


def main(arguments: Sequence[str] | None = None) -> None:
    """Renew the locks of the bundles named on the command line, or of all."""
    parser = argparse.ArgumentParser(
        prog="python -m whisperd.natives.make_lock",
        description="Write the locks of native bundles from the wheels that the package index has now.",
    )
    parser.add_argument("file", metavar="BUNDLES.TOML", type=Path, help="defines the contents of each bundle")
    parser.add_argument("bundles", metavar="BUNDLE", nargs="*", help="the bundles to renew (default: all)")
    options = parser.parse_args(arguments)
    try:
        declared = tomllib.loads(options.file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        parser.error(f"{options.file} cannot be read: {error}")
    for name in options.bundles or declared:
        if name not in declared:
            parser.error(f"there is no bundle {name!r} in {options.file}; it defines {', '.join(declared)}")
        bundle = declared[name]
        if missing := [key for key in ("lock", "main") if key not in bundle]:
            parser.error(f"{name} has no {missing[0]!r}")
        path = options.file.parent / bundle["lock"]
        targets = list(itertools.product(bundle.get("platforms", PLATFORMS), bundle.get("pythons", PYTHONS)))
        text = renew(name, bundle, targets, path)
        path.write_text(text, encoding="utf-8", newline="\n")
        _say(f"{name}: {path}")


def renew(name: str, bundle: dict[str, Any], targets: Sequence[Platform], path: Path) -> str:
    """Return the text of a bundle's lock, from what the index has now."""
    known = known_wheels(path)
    distributions, sources, tools = (bundle.get(key, []) for key in ("distributions", "sources", "tools"))
    wheels = gather(name, distributions, targets, known)
    tool_wheels = gather(name, tools, targets, known)
    lock = Lock(
        format=1,
        main=bundle["main"],
        distributions=wheels.pinned,
        sources=tuple(find_source(each) for each in sources),
        tools=tool_wheels.pinned,
        ranges=dict(map(read_range, [*distributions, *sources])),
    )
    check(lock, wheels.complete, tool_wheels.complete)
    heading = HEADING.format(
        name=name,
        platforms=", ".join(dict.fromkeys(platform for platform, _ in targets)),
        pythons=", ".join(dict.fromkeys(python for _, python in targets)),
        missing="\n".join([*wheels.missing, *tool_wheels.missing]) or "  nothing",
    )
    return format_lock(lock, heading)


@dataclass(frozen=True)
class Gathered:
    """The wheels found for all targets."""

    pinned: tuple[Distribution, ...]
    complete: dict[Platform, list[Found]]
    """The wheels of each target for which none is missing."""
    missing: list[str]
    """Lines that say which distributions have no wheel for which target."""


def gather(name: str, wanted: list[str], targets: Sequence[Platform], known: dict[str, Wheel]) -> Gathered:
    """Find the wheels of some distributions for all targets."""
    rows: dict[tuple[str, str], dict[str, Wheel]] = {}
    complete: dict[Platform, list[Found]] = {}
    missing = []
    for platform, python in targets if wanted else ():
        found, lacking = resolve_all(wanted, platform, python)
        versions = [f"{each.name} {each.version}" for each in found]
        _say(" ".join([f"{name}: {platform} {python}", *versions, *lacking]))
        for each in found:
            wheels = rows.setdefault((each.name, each.version), {})
            if each.tag not in wheels:
                wheels[each.tag] = known.get(each.sha256) or measure(each, platform, python)
        if lacking:
            missing.append(f"  {platform} {python}: {', '.join(lacking)}")
        else:
            complete[platform, python] = found
    pinned = tuple(Distribution(*key, tuple(wheels.values())) for key, wheels in rows.items())
    return Gathered(pinned, complete, missing)


def find_source(wanted: str) -> Source:
    """Download the newest source distribution; pip inspects it as it does a wheel."""
    name = canonicalize_name(Requirement(wanted).name)
    with tempfile.TemporaryDirectory() as folder:
        status, output = pip("download", "--no-binary", name, "--dest", folder, wanted)
        if status:
            raise SystemExit(output)
        (path,) = Path(folder).iterdir()
        source = measure_source(path)
        _say(f"  {name} {source.version}: {path.name}")
        return source


def read_range(wanted: str) -> tuple[str, str]:
    """Return the name of a distribution, and the versions that an upgrade may choose from."""
    requirement = Requirement(wanted)
    versions = wanted.removeprefix(requirement.name).strip()
    return canonicalize_name(requirement.name), versions or ">=0"


def known_wheels(path: Path) -> dict[str, Wheel]:
    """Return the wheels of the current lock, by hash."""
    try:
        lock = parse_lock(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, WhisperdError):
        return {}
    pinned = (*lock.distributions, *lock.tools)
    return {wheel.sha256: wheel for distribution in pinned for wheel in distribution.wheels}


def resolve_all(distributions: list[str], platform: str, python: str) -> tuple[list[Found], list[str]]:
    """Return what pip would install for a platform and Python, and which distributions have no wheel there.

    The wheels of an incomplete set are kept, so that the lock shows which distribution is missing.
    """
    together = resolve(distributions, platform, python)
    if together is not None:
        return together, []
    alone = {each: resolve([each], platform, python) for each in distributions}
    found = [wheel for wheels in alone.values() for wheel in wheels or ()]
    return found, [f"no wheel of {each}" for each, wheels in alone.items() if wheels is None]


def resolve(distributions: list[str], platform: str, python: str) -> list[Found] | None:
    """Return what pip would install, or None if it finds no wheel for one of them."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        status, output = pip(
            *("install", "--dry-run", "--ignore-installed", "--target", folder, "--report", str(report)),
            *(*target_options(platform, python), *distributions),
        )
        # With an unreachable index, pip finds no wheels either: that must not end up in a lock.
        if status and ("No matching distribution found" not in output or "Retrying" in output):
            raise SystemExit(output)
        if status:
            return None
        items = json.loads(report.read_text(encoding="utf-8"))["install"]
        return [read_report(item) for item in items]


def read_report(item: dict[str, Any]) -> Found:
    """Parse one distribution of pip's report."""
    download = item["download_info"]
    url = download["url"]
    file = unquote(url.rpartition("/")[2])
    name = canonicalize_name(item["metadata"]["name"])
    return Found(
        name, item["metadata"]["version"], wheel_tag(file), download["archive_info"]["hashes"]["sha256"], url
    )


def measure(found: Found, platform: str, python: str) -> Wheel:
    """Return a wheel with its sizes."""
    try:
        wheel = RemoteFile(found.url)
        with zipfile.ZipFile(io.BufferedReader(wheel, buffer_size=1 << 18)) as archive:
            unpacked_bytes = sum(member.file_size for member in archive.infolist())
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        _say(f"  {found.name}: downloading all of it to measure it ({error})")
        return measure_whole(found, platform, python)
    return Wheel(found.tag, wheel.size_bytes, unpacked_bytes, found.sha256)


def measure_whole(found: Found, platform: str, python: str) -> Wheel:
    """Download a whole wheel by its hash, to measure its sizes."""
    with tempfile.TemporaryDirectory() as folder:
        requirements = Path(folder, "requirements.txt")
        requirement = f"{found.name}=={found.version} --hash=sha256:{found.sha256}\n"
        requirements.write_text(requirement, encoding="utf-8")
        status, output = pip(
            *("download", "--require-hashes", "--no-cache-dir", "--dest", folder, "-r", str(requirements)),
            *target_options(platform, python),
        )
        if status:
            raise SystemExit(output)
        (path,) = Path(folder).glob("*.whl")
        return measure_wheel(path)


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def check(
    lock: Lock, complete: dict[Platform, list[Found]], complete_tools: dict[Platform, list[Found]]
) -> None:
    """Assert that the lock selects for each target exactly what pip would install there."""
    for target in complete.keys() | complete_tools.keys():
        try:
            selection = lock.select(Target.known(*target))
        except WhisperdError:  # a wheel is missing for this target
            assert not (target in complete and target in complete_tools), target
            continue
        for found, pinned in (
            (complete.get(target, []), selection.pinned),
            (complete_tools.get(target, []), selection.tools),
        ):
            assert {each.wheel.sha256 for each in pinned} == {each.sha256 for each in found}, target


def target_options(platform: str, python: str) -> list[str]:
    """Return the options that make pip choose for another computer."""
    platforms = (option for tag in PLATFORMS[platform] for option in ("--platform", tag))
    return [*platforms, "--python-version", python, "--implementation", "cp"]


def pip(command: str, *arguments: str) -> tuple[int, str]:
    """Run pip; return its exit status and its output."""
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
