"""Finds crashes in the daemon's log. Pure: lines in, crashes out.

The patterns match log messages of several modules: keep them in step.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable
from typing import Final

from whisperd.doctor.facts import Crash, CrashedPart

__all__ = ["LOOKED_BACK", "crashes_in"]

LOOKED_BACK: Final = datetime.timedelta(days=7)

_LINE = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d),\d+ [A-Z]+ [\w.]+: (.*)")
_ENDS: Final[tuple[tuple[re.Pattern[str], CrashedPart], ...]] = (
    (re.compile(r"the worker of .* died \(([^()]*)\)"), "worker"),
    (re.compile(r"a decoder ended unexpectedly \(([^()]*)\)"), "decoder"),
    (re.compile(r"whisperd ends because of (an internal error)"), "daemon"),
    (re.compile(r".* failed (unexpectedly)"), "mistake"),
)
_FATAL = re.compile(r"Fatal Python error: (.+)")
_BEGUN = re.compile(r"whisperd \S+ listens on .*, process \d+")
_ENDED: Final = "whisperd has ended"
_NO_LAST_WORDS: Final = "no reason logged: it was killed, or the computer went down"


def crashes_in(lines: Iterable[str], now: datetime.datetime) -> tuple[Crash, ...]:
    """Return the crashes of the last days, the oldest first. `now` is local time, as in the log.

    Only one daemon at a time uses a state folder, and so a log: where a daemon starts and the one before it
    logged no end, that one crashed; Python's last words are then the end of its log.
    """
    found: list[Crash] = []
    is_running, is_of_child = False, False
    last_words = _NO_LAST_WORDS
    for line in lines:
        parts = _LINE.match(line)
        if parts is None:
            if (fatal := _FATAL.match(line)) and not is_of_child:
                last_words = fatal[1].strip()
            continue
        time, message = parts.groups()
        if _BEGUN.match(message):
            if is_running:
                found.append(Crash(time=time, part="daemon", how=last_words))
            is_running, last_words = True, _NO_LAST_WORDS
        elif message == _ENDED:
            is_running = False
        is_of_child = False
        for pattern, part in _ENDS:
            if end := pattern.match(message):
                found.append(Crash(time=time, part=part, how=end[1]))
                is_running = is_running and part != "daemon"
                is_of_child = True  # what follows are the last words of the worker or decoder
                break
    earliest = (now - LOOKED_BACK).strftime("%Y-%m-%d %H:%M:%S")
    return tuple(crash for crash in found if crash.time >= earliest)
