"""whisperctl, the thin client for people: parses a command line, asks the daemon, prints the answer.

Imports `client` only, each command's module when it is called, and nothing heavy at all.
"""
