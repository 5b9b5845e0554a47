"""The versions of the program and of its wire, alone in a file so that every reader of them stays light."""

__version__ = "0.1.0"
PROTOCOL = 1
