"""Conditions of the computer while the daemon runs: memory pressure, battery power and suspension.

`pressure`, `power` and `suspension` interpret recorded files and clocks as values; each has a thin layer that
reads them. How to react is decided in `daemon.conditions`.
"""
