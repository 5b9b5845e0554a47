"""Glob patterns for names and paths."""

from __future__ import annotations

from fnmatch import fnmatchcase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whisperd.watch.globs import matches

NAMES = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=80)


@pytest.mark.parametrize(
    ("path", "glob", "is_match"),
    [
        ("a/b/c.wav", "*.wav", True),
        ("a/b/c.WAV", "*.wav", True),
        ("a/b/c.wav", "b/*.wav", False),
        ("a/b/c.wav", "a/*/c.wav", True),
        ("a/b/c.wav", "a/*.wav", False),
        ("a/b/c.wav", "**/c.wav", True),
        ("c.wav", "**/c.wav", True),
        ("a/b/c.wav", "a/**", True),
        ("a/b/c.wav", "**.wav", True),
        ("a1.wav", "a[0-9].wav", True),
        ("ab.wav", "a[0-9].wav", False),
        ("ab.wav", "a[!0-9].wav", True),
        ("a[.wav", "a[.wav", True),
        ("a,.wav", "a[+--].wav", True),
        ("a-.wav", "a[z-].wav", True),
        ("new\nline.wav", "*.wav", True),
        ("drafts", "drafts/", True),
        ("a/drafts", "drafts/", True),
        ("drafts", "/drafts", True),
        ("a/drafts", "/drafts", False),
        ("a", "a/**", False),
        ("a/b.wav", "a/**/**/b.wav", True),
        ("a/b/c.wav", "a/**.wav", False),
    ],
)
def test_patterns(path: str, glob: str, is_match: bool) -> None:
    assert matches(path, glob) is is_match


@given(st.text(max_size=30), st.text(st.sampled_from("/*?[]!-&|~^\\") | st.characters(), max_size=30))
def test_no_pattern_raises(path: str, glob: str) -> None:
    matches(path, glob)


@given(NAMES)
def test_an_escaped_name_matches_itself(name: str) -> None:
    glob = "".join(f"[{sign}]" if sign in "*?[" else sign for sign in name)
    assert matches(name, glob)


@given(st.text("aB/\n", max_size=12), st.text("ab/*?[]!-\n", max_size=12))
def test_patterns_match_like_the_reference(path: str, glob: str) -> None:
    glob = f"a/{glob}b"  # so that it applies to the whole path, and nothing is stripped
    assert matches(path, glob) is reference_matches(path.lower().split("/"), glob.split("/"))


def reference_matches(names: list[str], parts: list[str]) -> bool:
    """Match by exhaustive search."""
    if not (names and parts):
        return names == parts or (not names and set(parts) == {"**"})
    if parts[0] == "**":
        return reference_matches(names, parts[1:]) or reference_matches(names[1:], parts)
    return fnmatchcase(names[0], parts[0]) and reference_matches(names[1:], parts[1:])


def test_no_name_makes_matching_slow() -> None:
    assert not matches("a" * 250, "*a" * 20 + "*b")
    assert matches("a" * 250 + "b", "*a" * 20 + "*b")
    assert not matches("a" * 250, "**a*a" * 10 + "**b")
    assert matches("a" * 250 + "b", "**a*a" * 10 + "**b")


@pytest.mark.parametrize("wild", ["**/a/", "**/", "**/*a*/", "**/*/**/"])
def test_no_path_makes_matching_slow(wild: str) -> None:
    assert not matches("a/" * 500 + "c", wild * 20 + "b")
    assert matches("a/" * 500 + "b", wild * 20 + "b")
