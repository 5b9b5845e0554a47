"""The versions of the program and of its wire protocol. Imports nothing, so that every reader stays light."""

__version__ = "0.1.0"
PROTOCOL = 1
