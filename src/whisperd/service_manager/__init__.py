"""The service manager of the operating system: what it passes to the daemon, what the daemon reports to it,
and how whisperd is installed as a service.

`activation`, `notify` and `journal` implement systemd's documented protocols; they do nothing if no manager
started the daemon. `install` writes and removes the files that managers read: systemd units, a launchd agent
and a Windows task.
"""
