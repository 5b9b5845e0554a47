"""whisperctl, the thin client for people: parses a command line, asks the daemon, prints the answer.

Imports `client` and `rpc`, each command's module when it is called, and nothing heavy at all; what a command
needs of another room (`doctor`, `service_manager`, the settings) it imports itself when it runs.
"""
