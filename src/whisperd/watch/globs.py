"""Patterns of names, as people type them. Pure.

A pattern is held against a path name by name, at all the places of it at once at which one may be: so a path
costs its names times the parts of the pattern at most, and none is tried again.
"""

from __future__ import annotations

import fnmatch
import os
import re
from functools import lru_cache

__all__ = ["matches"]


def matches(path: str, glob: str) -> bool:
    """Whether a path matches a pattern; one without `/`, but at its end, is about the name alone.

    In a name, `*` stands for anything, `?` for one character, `[a-z]` for one of these; `**` in place of a
    name stands for any number of folders. Case makes no difference.
    """
    is_path, parts, places = "/" in glob.rstrip("/"), _parts(glob), {0}
    for name in path.replace(os.sep, "/").split("/") if is_path else [os.path.basename(path)]:
        for place, part in enumerate(parts):
            if part is None and place in places:
                places.add(place + 1)
        places = {
            place + (part is not None)
            for place, part in enumerate(parts)
            if place in places and (part is None or part.match(name))
        }
    return len(parts) in places


@lru_cache(maxsize=1024)
def _parts(glob: str) -> list[re.Pattern[str] | None]:
    """An expression for each name; None for any number of folders."""
    names = glob.strip("/").split("/")
    if names[-1] == "**":
        names.append("*")
    return [None if name == "**" else re.compile(fnmatch.translate(name), re.IGNORECASE) for name in names]
