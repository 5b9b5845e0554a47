"""The microphone, through a program that this computer has already."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from whisperd.rpc.errors import WhisperdError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["recorder_command"]

_RATE = "16000"
_SOX_OUTPUT = ["-t", "raw", "-e", "signed-integer", "-b", "16", "-L", "-r", _RATE, "-c", "1", "-"]
_COMMANDS = {
    "parec": ["--rate", _RATE, "--channels", "1", "--format", "s16le", "--raw", "--latency-msec", "50"],
    "arecord": ["-q", "-t", "raw", "-f", "S16_LE", "-r", _RATE, "-c", "1", "-"],
    "pw-record": ["--raw", "--rate", _RATE, "--channels", "1", "--format", "s16", "--latency", "50ms", "-"],
    "rec": ["-q", *_SOX_OUTPUT],
    "sox": ["-q", "-t", "waveaudio", "default", *_SOX_OUTPUT],
    "ffmpeg": [
        *("-nostdin", "-loglevel", "error", "-f", "avfoundation", "-i", ":default"),
        *("-f", "s16le", "-ac", "1", "-ar", _RATE, "-"),
    ],
}
"""What each is told, so that it writes 16-bit samples at 16 kHz to its standard output."""
_ORDER = {
    # Of pw-record, only newer versions write anything but files; the others record through PipeWire as well.
    "linux": ("parec", "arecord", "pw-record", "rec"),
    "darwin": ("rec", "ffmpeg"),
    "win32": ("sox",),  # ffmpeg would have to be told the name of the microphone
}


def recorder_command(which: Callable[[str], str | None], platform: str = sys.platform) -> list[str]:
    """How the microphone is recorded: the first program that there is, with its arguments.

    `which` says where a program is, as `shutil.which` does. Raises `microphone.no_program`.
    """
    names = _ORDER.get(platform, _ORDER["linux"])
    for name in names:
        if path := which(name):
            return [path, *_COMMANDS[name]]
    raise WhisperdError(
        "microphone.no_program",
        f"None of the programs that record the microphone is here: {', '.join(names)}.",
        "Install one of them, or send audio of your own: `… | whisperctl dictate --stdin`.",
        {"programs": list(names)},
    )
