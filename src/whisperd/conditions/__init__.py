"""What befalls the computer while the daemon runs: memory is short, it runs on battery, it is suspended.

`pressure`, `power` and `suspension` say what recorded files and clocks mean, as values; each has a thin edge
that reads them. What is done about it is the daemon's to say (`daemon.conditions`).
"""
