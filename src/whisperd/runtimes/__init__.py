"""Runtimes: models loaded in worker processes, leases on them, and unloading when idle.

`RuntimePool` is the one owner of what is loaded; everybody else asks it and gets a lease.
"""
