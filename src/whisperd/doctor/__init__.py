"""The doctor: finds what is wrong with whisperd on this computer, and how to fix it.

`gather` collects facts and changes nothing. `check` turns facts into findings, and `report` renders them
without private data; both are pure. If a daemon runs, the daemon gathers (`doctor.check`), because its
environment and folders are those that count; otherwise the client does. `reach` checks what only a client
can see: the socket, and whether anything listens on it.
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
