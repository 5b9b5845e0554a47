"""Recording from the microphone with a program that is already installed."""

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
"""The arguments that make each program write 16-bit samples at 16 kHz to its standard output."""
_ORDER = {
    # Only newer versions of pw-record can write to a pipe; the others also record through PipeWire.
    "linux": ("parec", "arecord", "pw-record", "rec"),
    "darwin": ("rec", "ffmpeg"),
    "win32": ("sox",),  # ffmpeg would need the name of the microphone
}


def recorder_command(which: Callable[[str], str | None], platform: str = sys.platform) -> list[str]:
    """Return the command that records the microphone: the first installed program, with its arguments.

    `which` finds a program, as `shutil.which` does. Raises `microphone.no_program`.
    """
    names = _ORDER.get(platform, _ORDER["linux"])
    for name in names:
        if path := which(name):
            return [path, *_COMMANDS[name]]
    raise WhisperdError(
        "microphone.no_program",
        f"No program that records the microphone is installed: {', '.join(names)}.",
        "Install one of them, or pipe in audio: `… | whisperctl dictate --stdin`.",
        {"programs": list(names)},
    )
