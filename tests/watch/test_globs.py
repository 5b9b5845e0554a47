"""Patterns of names."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whisperd.watch import globs
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
        ("a[z--].wav", "a[z--].wav", True),
        ("new\nline.wav", "*.wav", True),
        ("drafts", "drafts/", True),
    ],
)
def test_patterns(path: str, glob: str, is_match: bool) -> None:
    assert matches(path, glob) is is_match


@given(st.text(max_size=30), st.text(st.sampled_from("/*?[]!-&|~^\\") | st.characters(), max_size=30))
def test_no_pattern_fails(path: str, glob: str) -> None:
    matches(path, glob)


@given(NAMES)
def test_a_name_with_its_special_signs_escaped_matches_itself(name: str) -> None:
    glob = "".join(f"[{sign}]" if sign in "*?[" else sign for sign in name)
    assert matches(name, glob)


@given(st.text("ab/", min_size=1, max_size=9), st.text("ab/*?", min_size=1, max_size=9))
def test_a_pattern_fits_what_it_says(path: str, glob: str) -> None:
    glob = f"a/{glob}b"  # so that it is about the whole path, and has nothing to be stripped
    assert matches(path, glob) is fits(path, glob)


def fits(path: str, glob: str) -> bool:
    """By trying all there is."""
    if not glob:
        return not path
    if glob.startswith("**/"):
        head, slash, rest = path.partition("/")
        return fits(path, glob[3:]) or bool(head and slash and fits(rest, glob))
    if glob.startswith("**"):
        return any(fits(path[count:], glob[2:]) for count in range(len(path) + 1))
    if glob.startswith("*"):
        return any(fits(path[count:], glob[1:]) for count in range(len(path.partition("/")[0]) + 1))
    return (
        bool(path) and (path[0] == glob[0] or (glob[0] == "?" != path[0] != "/")) and fits(path[1:], glob[1:])
    )


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of the expression that is made here
@given(st.text("aB/\n", max_size=12), st.text("ab/*?[]!-\n", max_size=12))
def test_a_pattern_means_what_its_regular_expression_does(path: str, glob: str) -> None:
    glob = f"a/{glob}b"
    try:
        means = re.compile(MEANING.sub(expression, glob), re.IGNORECASE | re.DOTALL)
    except re.error:
        means = re.compile(re.escape(glob), re.IGNORECASE)
    assert matches(path, glob) is bool(means.fullmatch(path))


MEANING = re.compile(r"\*\*/|\*\*|[*?]|\[!?(?!\])[^\]]+\]|\[!?\][^\]]*\]|.", re.DOTALL)


def expression(found: re.Match[str]) -> str:
    sign = found[0]
    if len(sign) > 2 and sign.startswith("["):
        inside = re.sub(r"([\\\[\]^])", r"\\\1", sign[1:-1].removeprefix("!"))
        return f"[{'^/' if sign[1] == '!' else ''}{inside}]"
    return {"**/": "(?:[^/]+/)*", "**": ".*", "*": "[^/]*", "?": "[^/]"}.get(sign) or re.escape(sign)


def test_no_name_keeps_a_pattern_busy() -> None:
    assert not matches("a" * 250, "*a" * 20 + "*b")
    assert matches("a" * 250 + "b", "*a" * 20 + "*b")
    assert not matches("a" * 250, "**a*a" * 10 + "**b")
    assert matches("a" * 250 + "b", "**a*a" * 10 + "**b")


@pytest.mark.parametrize("wild", ["**/a/", "**/", "**a/", "**/*a*/", "**/*/**/"])
def test_no_path_keeps_a_pattern_busy(wild: str) -> None:
    assert not matches("a/" * 500 + "c", wild * 20 + "b")
    assert matches("a/" * 500 + "b", wild * 20 + "b")


def test_what_is_remembered_of_a_pattern_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(globs, "REMEMBERED", 3)
    for path in ("talks/1.wav", "talks/2026/02.wav", "talks/1.mp3", "talk/1.wav") * 2:
        assert matches(path, "talks/**/*.wav") is (path.startswith("talks/") and path.endswith(".wav"))
