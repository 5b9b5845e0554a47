"""The doctor: what is wrong with whisperd on this computer, and how to mend it.

`gather` looks, and changes nothing; `check` judges what was seen, and is pure, as is `report`, which says it
without private data. Where a daemon runs, it is the daemon that looks (`doctor.check`), for its
environment and its folders are those that count; else the client does. What only a client can see, the
socket and whether somebody answers on it, is in `reach`.
"""

from whisperd.doctor.checks import check_daemon, check_socket, worst
from whisperd.doctor.facts import Facts, Finding, Status
from whisperd.doctor.gather import gather, gather_here
from whisperd.doctor.reach import look_at_socket
from whisperd.doctor.report import Private, page, report

__all__ = [
    "Facts",
    "Finding",
    "Private",
    "Status",
    "check_daemon",
    "check_socket",
    "gather",
    "gather_here",
    "look_at_socket",
    "page",
    "report",
    "worst",
]
