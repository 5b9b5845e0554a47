"""The version of the program, alone in a file so that every reader of it stays light."""

__version__ = "0.1.0"
