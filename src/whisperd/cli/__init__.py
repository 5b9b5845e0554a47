"""whisperctl, the command line client: parses arguments, asks the daemon, prints the answer.

Imports `client` and `rpc`, each command's module only when it is called, and nothing heavy; a command that
needs another room (`doctor`, `service_manager`, the settings) imports it when it runs.
"""
