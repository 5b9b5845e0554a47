"""Glob patterns as users type them. Pure.

A path is matched name by name, against all possible positions in the pattern at once. So a path costs at most
its names times the parts of the pattern, without backtracking.
"""

from __future__ import annotations

import fnmatch
import os
import re
from functools import lru_cache

__all__ = ["matches"]


def matches(path: str, glob: str) -> bool:
    """Whether a path matches a pattern. One without `/`, except at its end, matches the file name alone.

    Within a name, `*` matches anything, `?` one character, `[a-z]` one of these; `**` in place of a name
    matches any number of folders. Matching ignores case.
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
    """Compile each name of a pattern; None stands for any number of folders."""
    names = glob.strip("/").split("/")
    if names[-1] == "**":
        names.append("*")
    return [None if name == "**" else re.compile(fnmatch.translate(name), re.IGNORECASE) for name in names]
