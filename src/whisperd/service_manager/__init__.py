"""The service manager of the operating system: what it gives a daemon that it has started, what the daemon
tells it, and how whisperd becomes a service of it.

`activation`, `notify` and `journal` are systemd's protocols, as its manual describes them; they do nothing
where no manager started the daemon. `install` writes and removes what the managers read: units of systemd,
an agent of launchd, a task of Windows.
"""
