"""Patterns of names, as people type them. Pure.

A pattern is read as a machine that takes a path sign by sign and is at all places of the pattern at once at
which it may be (Thompson, "Regular expression search algorithm", 1968). So a path costs its length times that
of the pattern at most, whatever both hold, where a search that goes back to try again could take years. What
follows upon a sign is remembered, and the next path costs a look-up for each sign.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Final

__all__ = ["matches"]

REMEMBERED: Final = 10_000
"""Steps that are remembered of each pattern: names may have many signs."""
_STAR, _ANYTHING, _FOLDERS = "*", "**", "**/"
_CHOICE: Final = re.compile(r"\[(!?)(\]?[^\]]*)\]")
_SPAN: Final = re.compile(r".-.|.", re.DOTALL)


def matches(path: str, glob: str) -> bool:
    """Whether a path matches a pattern; one without `/` is about the name alone. Case makes no difference.

    `*` and `?` stand for anything but `/`, `**/` for any number of folders, `[a-z]` for one character.
    """
    subject = path.replace(os.sep, "/") if "/" in glob else os.path.basename(path)
    return _machine(glob).fits(subject)


class _State:
    """Places of the pattern at which one may be, and where the signs lead that were met there."""

    def __init__(self, places: frozenset[int]) -> None:
        self.places = places
        self.after: dict[str, _State] = {}


class _Machine:
    """What follows what. The pattern begins at place 0 and is at an end at the last one."""

    def __init__(self, parts: Iterable[str]) -> None:
        """`parts` are the stars, and regular expressions of one sign each."""
        self._moves: list[list[tuple[Callable[[str], object], int]]] = [[]]
        """Of each place: where one that reads such a sign comes to."""
        self._skips: dict[int, int] = {}
        """Places that may be left for another one without reading anything."""
        for part in parts:
            self._add(part)
        self._forget()

    def _add(self, part: str) -> None:
        here = len(self._moves) - 1
        if part == _FOLDERS:
            inside = here + 1
            self._moves[here] = [(_sign("[^/]"), inside)]
            self._moves.append([(_sign("[^/]"), inside), (_sign("/"), here)])
        elif part in (_STAR, _ANYTHING):
            self._moves[here] = [(_sign("[^/]" if part == _STAR else "."), here)]
        self._moves.append([])
        after = len(self._moves) - 1
        if part in (_STAR, _ANYTHING, _FOLDERS):
            self._skips[here] = after
        else:
            self._moves[here] = [(_sign(part), after)]

    def fits(self, subject: str) -> bool:
        """Whether the whole of it is what the pattern says."""
        state = self._start
        for sign in subject:
            state = state.after.get(sign) or self._follow(state, sign)
            if not state.places:
                return False
        return len(self._moves) - 1 in state.places

    def _follow(self, state: _State, sign: str) -> _State:
        if self._steps >= REMEMBERED:
            self._forget()
        self._steps += 1
        places = self._reached(
            target for place in state.places for test, target in self._moves[place] if test(sign)
        )
        state.after[sign] = after = self._states.setdefault(places, _State(places))
        return after

    def _reached(self, places: Iterable[int]) -> frozenset[int]:
        """These places, and those to which one may skip from them."""
        reached = set[int]()
        for place in places:
            here: int | None = place
            while here is not None and here not in reached:
                reached.add(here)
                here = self._skips.get(here)
        return frozenset(reached)

    def _forget(self) -> None:
        self._steps = 0
        self._start = _State(self._reached([0]))
        self._states = {self._start.places: self._start}


@lru_cache(maxsize=1024)
def _machine(glob: str) -> _Machine:
    try:
        return _Machine(_parts(glob))
    except re.error:  # a range that runs backwards: then it is what it looks like
        return _Machine(map(re.escape, _trimmed(glob)))


@lru_cache(maxsize=1024)
def _sign(expression: str) -> Callable[[str], object]:
    return re.compile(expression, re.IGNORECASE | re.DOTALL).fullmatch


def _trimmed(glob: str) -> str:
    """Without the slashes around it: `drafts/` is a name."""
    return glob.strip("/") if "/" in glob.strip("/") else glob.rstrip("/")


def _parts(glob: str) -> list[str]:
    if "/" not in glob:  # a name has no folders
        glob = re.sub(r"\*+", "*", glob)
    glob = _trimmed(glob)
    parts, place = [], 0
    while place < len(glob):
        if star := next((star for star in (_FOLDERS, _ANYTHING, _STAR) if glob.startswith(star, place)), ""):
            parts.append(star)
            place += len(star)
        elif (found := _CHOICE.match(glob, place)) is not None and found[2]:
            parts.append(f"[{'^/' if found[1] else ''}{_SPAN.sub(_escaped, found[2])}]")
            place = found.end()
        else:
            parts.append("[^/]" if glob[place] == "?" else re.escape(glob[place]))
            place += 1
    return parts


def _escaped(span: re.Match[str]) -> str:
    """Of what is between brackets: `a-z` with its ends escaped, or one sign."""
    return "-".join(map(re.escape, span[0][::2]))
