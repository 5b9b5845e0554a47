"""Watch folders: what falls into a folder is transcribed, once, and its text appears beside it.

`names`, `settling`, `ledger`, `failures` and `quiet` are pure. `scanner`, `notifier`, `writing` and `actions`
touch the disk, in threads. `folder` and `manager` bring them together. What a job is, they are told:
nothing here knows of runtimes.
"""
