from __future__ import annotations

import dataclasses
import itertools
import random
import tomllib
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from whisperd.natives.lock import Distribution, Lock, Wheel, format_lock, parse_lock, requirements
from whisperd.natives.target import PLATFORMS, PYTHONS, Target
from whisperd.rpc.errors import WhisperdError

LINUX, MAC = "manylinux_2_17_x86_64", "macosx_11_0_arm64"

TEXT = """
format = 1
main = "engine"

[[distributions]]
name = "engine"
version = "2.1"
wheels = [
  ["cp311-abi3-manylinux_2_17_x86_64", 1000, 3000, "{a}"],
  ["cp312-cp312-macosx_11_0_arm64", 900, 2000, "{b}"],
]

[[distributions]]
name = "parts"
version = "0.9"
wheels = [["py3-none-any", 10, 20, "{c}"]]
""".format(a="a" * 64, b="b" * 64, c="c" * 64)

SOURCE = """
[[sources]]
name = "built"
version = "3.0"
file = "built-3.0.tar.gz"
size_bytes = 500
unpacked_bytes = 900
sha256 = "{d}"

[[tools]]
name = "maker"
version = "1.0"
wheels = [["py3-none-any", 7, 9, "{e}"]]
""".format(d="d" * 64, e="e" * 64)


def lock(*distributions: Distribution) -> Lock:
    return Lock(format=1, main=distributions[0].name, distributions=distributions)


def wheel(tag: str, mark: str = "0") -> Wheel:
    return Wheel(tag, 10, 20, mark * 64)


def refusal(lock: Lock, target: Target) -> WhisperdError:
    with pytest.raises(WhisperdError) as caught:
        lock.select(target)
    assert caught.value.code == "native.unsupported"
    return caught.value


class TestSelect:
    def test_a_target_gets_its_wheels(self) -> None:
        selection = parse_lock(TEXT).select(Target.known("linux-x86_64", "3.13"))
        assert selection.version == "2.1"
        assert selection.download_bytes == 1010
        assert selection.required_bytes == 1010 + 3020 * 11 // 10
        assert requirements(selection.pinned) == (
            f"engine==2.1 --hash=sha256:{'a' * 64}\nparts==0.9 --hash=sha256:{'c' * 64}\n"
        )
        assert selection.folder == f"2.1-cp313-{selection.digest[:8]}"

    def test_a_build_is_specific_to_its_processor_and_variables(self) -> None:
        selection = parse_lock(TEXT + SOURCE).select(Target.known("linux-x86_64", "3.13"))
        assert selection.versions == {"engine": "2.1", "parts": "0.9", "built": "3.0"}
        assert selection.sizes_bytes == {"engine": 1000, "parts": 10, "built": 500, "maker": 7}
        assert selection.required_bytes == 1517 + 3029 * 11 // 10 + 3 * 900
        others = [
            dataclasses.replace(selection, build={"GGML_BLAS": "ON"}),
            dataclasses.replace(selection, processor="another"),
        ]
        assert len({each.digest for each in (selection, *others)}) == 3

    def test_the_digest_depends_on_the_wheels_only(self) -> None:
        parsed = parse_lock(TEXT)
        digests = {parsed.select(Target.known("linux-x86_64", python)).digest for python in PYTHONS}
        assert len(digests) == 1
        assert parsed.select(Target.known("macos-arm64", "3.12")).digest not in digests

    def test_the_newest_version_that_has_a_wheel(self) -> None:
        old = Distribution("engine", "1.9", (wheel(f"cp311-cp311-{LINUX}"), wheel(f"cp311-cp311-{MAC}")))
        new = Distribution("engine", "1.10", (wheel(f"cp311-cp311-{LINUX}"),))
        both = lock(old, new)
        assert both.select(Target.known("linux-x86_64", "3.11")).version == "1.10"
        assert both.select(Target.known("macos-arm64", "3.11")).version == "1.9"

    def test_the_wheel_that_fits_best(self) -> None:
        wheels = (
            wheel("py3-none-any", "1"),
            wheel(f"cp311-abi3-{LINUX}", "2"),
            wheel(f"cp312-cp312-{LINUX}", "3"),
        )
        engine = lock(Distribution("engine", "1.0", wheels))
        marks = [
            engine.select(Target.known("linux-x86_64", python)).pinned[0].wheel.sha256[0]
            for python in PYTHONS
        ]
        assert marks == ["2", "3", "2", "2"]
        assert engine.select(Target.known("windows-x86_64", "3.12")).pinned[0].wheel.sha256[0] == "1"


class TestUnsupported:
    ENGINE = lock(
        Distribution("engine", "1.0", (wheel(f"cp311-cp311-{LINUX}"), wheel(f"cp312-cp312-{LINUX}")))
    )

    def test_the_platform(self) -> None:
        error = refusal(self.ENGINE, Target.known("windows-x86_64", "3.11"))
        assert "no build of engine for windows-x86_64" in error.message
        assert "linux-x86_64" in error.fix

    def test_a_platform_that_no_lock_knows(self) -> None:
        error = refusal(self.ENGINE, Target("linux-armv7l", "cp311", {}, "glibc 2.36"))
        assert "linux-armv7l" in error.message

    def test_the_python(self) -> None:
        error = refusal(self.ENGINE, Target.known("linux-x86_64", "3.14"))
        assert "no build of engine for Python cp314" in error.message
        assert error.fix == "Install whisperd under one of these versions of Python: 3.11, 3.12."

    def test_a_free_threaded_python(self) -> None:
        regular = Target.known("linux-x86_64", "3.13")
        error = refusal(self.ENGINE, Target("linux-x86_64", "cp313t", regular.ranks, "glibc 2.36"))
        assert "cp313t" in error.message

    def test_a_glibc_that_is_too_old(self) -> None:
        ranks = {
            tag: rank
            for tag, rank in Target.known("linux-x86_64", "3.11").ranks.items()
            if tag.platform != LINUX
        }
        error = refusal(self.ENGINE, Target("linux-x86_64", "cp311", ranks, "glibc 2.12"))
        assert LINUX in error.message
        assert "glibc 2.12" in error.message

    def test_musl(self) -> None:
        ranks = {
            tag: rank
            for tag, rank in Target.known("linux-x86_64", "3.11").ranks.items()
            if tag.platform != LINUX
        }
        error = refusal(self.ENGINE, Target("linux-x86_64", "cp311", ranks, "musl"))
        assert "need glibc" in error.message

    def test_the_distribution_without_a_build_is_named(self) -> None:
        parts = Distribution("parts", "1.0", (wheel("py3-none-any"),))
        error = refusal(lock(*self.ENGINE.distributions, parts), Target.known("macos-arm64", "3.11"))
        assert error.data["distribution"] == "engine"


class TestParse:
    @pytest.mark.parametrize(
        ("right", "wrong"),
        [
            ("format = 1", "format = 2"),
            ('main = "engine"', 'main = "other"'),
            ('main = "engine"', 'man = "engine"'),
            ('"' + "a" * 64 + '"', '"' + "A" * 64 + '"'),
            ('"' + "a" * 64 + '"', '"' + "a" * 63 + '"'),
            ("1000, 3000", "0, 3000"),
            ("1000, 3000", '"1000", 3000'),
            ("1000, 3000,", "1000,"),
            ('name = "parts"', 'name = "parts --index-url=elsewhere"'),
            ('name = "parts"', 'name = "Parts"'),
            ('version = "0.9"', 'version = "0.9\\n--hash"'),
            ('version = "0.9"', 'version = "a.b"'),
            ("cp311-abi3-manylinux_2_17_x86_64", "cp311"),
            ("[[distributions]]", "[[distribution]]"),
            ("built-3.0.tar.gz", "../built-3.0.tar.gz"),
            ("built-3.0.tar.gz", "built-3.0.exe"),
            ('version = "3.0"', 'version = "a.b"'),
            ("size_bytes = 500", "size_bytes = 0"),
            (">=2,<3", ">=2,<3 --index-url=elsewhere"),
            (">=2,<3", ">=2\\n--index-url=elsewhere"),
            (">=2,<3", "@ file:///elsewhere"),
            (">=2,<3", ""),
        ],
    )
    def test_invalid_locks_are_refused(self, right: str, wrong: str) -> None:
        text = TEXT.replace("[[", '[ranges]\nengine = ">=2,<3"\n\n[[', 1) + SOURCE
        assert parse_lock(text)
        assert right in text
        with pytest.raises(WhisperdError) as caught:
            parse_lock(text.replace(right, wrong))
        assert caught.value.code == "native.bad_lock"

    @given(st.text())
    @example("format = 1")
    @example("format = 99999999999999999999999999")
    @example("format = " + "9" * 5000)
    @example("format = " + "[" * 5000)
    def test_any_text_is_a_lock_or_refused(self, text: str) -> None:
        with pytest.raises(WhisperdError) as caught:
            parse_lock(text)
        assert caught.value.code == "native.bad_lock"


PROJECT = Path(__file__).parents[2]
DECLARED = tomllib.loads((PROJECT / "scripts/bundles.toml").read_text(encoding="utf-8"))
UNSERVED = {
    ("media", "macos-x86_64", "3.14"),
    *(("whispercpp", "macos-x86_64", python) for python in PYTHONS),
}
"""Targets for which the package index has no wheels."""


def bounds(declared: dict[str, list[str]], *tables: str) -> dict[str, SpecifierSet]:
    """Return the declared version ranges, by name."""
    wanted = (Requirement(each) for table in tables for each in declared.get(table, []))
    return {each.name: each.specifier for each in wanted}


class TestShippedLocks:
    """The project's lock files match `scripts/bundles.toml`; `make lock` updates them."""

    @pytest.mark.parametrize("name", DECLARED)
    def test_every_target_gets_every_distribution_within_its_bounds(self, name: str) -> None:
        declared = DECLARED[name]
        held, tools = bounds(declared, "distributions", "sources"), bounds(declared, "tools")
        lock = parse_lock((PROJECT / "scripts" / declared["lock"]).read_text(encoding="utf-8"))
        platforms, pythons = declared.get("platforms", PLATFORMS), declared.get("pythons", PYTHONS)
        unserved = set()
        for platform, python in itertools.product(platforms, pythons):
            try:
                selection = lock.select(Target.known(platform, python))
            except WhisperdError:
                unserved.add((name, platform, python))
                continue
            assert selection.versions.keys() == held.keys()
            assert {each.name for each in selection.tools} == tools.keys()
            used = selection.versions | {each.name: each.version for each in selection.tools}
            assert all((held | tools)[each].contains(version) for each, version in used.items())
        assert unserved == {target for target in UNSERVED if target[0] == name}
        assert lock.main == declared["main"]
        assert lock.ranges.keys() == held.keys()
        assert all(SpecifierSet(lock.ranges[each]) == (held[each] or SpecifierSet(">=0")) for each in held)

    @pytest.mark.parametrize("name", DECLARED)
    def test_the_files_are_formatted_as_the_script_writes_them(self, name: str) -> None:
        text = (PROJECT / "scripts" / DECLARED[name]["lock"]).read_text(encoding="utf-8")
        heading = [
            line.removeprefix("#").removeprefix(" ") for line in text.splitlines() if line.startswith("#")
        ]
        assert format_lock(parse_lock(text), "\n".join(heading)) == text


tags = st.sampled_from(
    ["py3-none-any", *(f"cp31{minor}-cp31{minor}-{tag[0]}" for minor in (1, 4) for tag in PLATFORMS.values())]
)
wheels = st.builds(
    Wheel,
    tag=tags,
    size_bytes=st.integers(1, 2**40),
    unpacked_bytes=st.integers(1, 2**40),
    sha256=st.text("0123456789abcdef", min_size=64, max_size=64),
)
distributions = st.builds(
    Distribution,
    name=st.sampled_from(["engine", "parts", "parts-more"]),
    version=st.builds("{}.{}".format, st.integers(0, 20), st.integers(0, 20)),
    wheels=st.lists(wheels, min_size=1, max_size=5, unique_by=lambda wheel: wheel.tag).map(tuple),
)
locks = st.lists(
    distributions,
    min_size=1,
    max_size=6,
    unique_by=lambda distribution: (distribution.name, distribution.version),
).map(lambda found: lock(*found))


@given(locks)
def test_a_written_lock_is_read_back(lock: Lock) -> None:
    read = parse_lock(format_lock(lock, "A heading\n\nof three lines"))
    assert read.main == lock.main
    assert _wheels(read) == _wheels(lock)


def _wheels(lock: Lock) -> dict[tuple[str, str], set[Wheel]]:
    return {(each.name, each.version): set(each.wheels) for each in lock.distributions}


@given(locks, st.randoms(use_true_random=False), st.sampled_from(list(PLATFORMS)), st.sampled_from(PYTHONS))
def test_the_order_of_distributions_and_wheels_is_irrelevant(
    lock: Lock, order: random.Random, platform: str, python: str
) -> None:
    def outcome(lock: Lock) -> object:
        try:
            return lock.select(Target.known(platform, python)).digest
        except WhisperdError as error:
            return error.code

    shuffled = [
        Distribution(each.name, each.version, tuple(order.sample(each.wheels, len(each.wheels))))
        for each in lock.distributions
    ]
    order.shuffle(shuffled)
    reordered = Lock(format=1, main=lock.main, distributions=tuple(shuffled))
    assert outcome(reordered) == outcome(lock) == outcome(parse_lock(format_lock(lock, "")))
