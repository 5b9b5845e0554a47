"""The options of a transcription on the command line. They have no defaults here: the daemon has them."""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING

from whisperd.cli.output import in_words
from whisperd.cli.parser import Parser, non_empty, usage_error, whole_number
from whisperd.client import model_name

if TYPE_CHECKING:
    from typing import Any

__all__ = [
    "add_job_options",
    "add_unset",
    "given_options",
    "merge_options",
    "options_in_words",
    "stored_options",
]

MAX_BEAMS = 16
MAX_TRACK = 1000
JOB_OPTIONS = (
    "language",
    "task",
    "timestamps",
    "priority",
    "prompt",
    "hotwords",
    "beam_size",
    "temperature",
    "vad",
    "channels",
    "track",
    "cache",
)
"""Their names on the wire."""


def add_job_options(
    parser: Parser, *, live: bool = False, is_stored: bool = False, priority: str = "normal"
) -> None:
    """Add the options. `live` omits those for recordings; `is_stored` is for a profile or watch folder.

    `priority` is the default.
    """
    once = "model name, folder or file; if no runtime has it, it is loaded for this job only"
    stored = "any runtime with this model, instead of --runtime"
    parser.add_argument(
        "--runtime", type=non_empty, metavar="NAME", help="name or id of a runtime (default: the default one)"
    )
    parser.add_argument("--model", type=non_empty, metavar="NAME", help=stored if is_stored else once)
    parser.add_argument(
        "--language",
        metavar="CODE[,CODE...]",
        help="spoken language, or candidates; auto: it may change (default: detected once)",
    )
    parser.add_argument(
        "--task", choices=("transcribe", "translate"), help="translate: into English (default: transcribe)"
    )
    parser.add_argument(
        "--timestamps", choices=("segment", "word"), help="word: also time each word (default: segment)"
    )
    if not live:
        parser.add_argument(
            "--priority",
            choices=("interactive", "normal", "bulk"),
            help=f"scheduling priority (default: {priority})",
        )
    parser.add_argument("--prompt", metavar="TEXT", help="text to treat as preceding the recording")
    parser.add_argument("--hotwords", metavar="TEXT", help="names and terms to expect")
    parser.add_argument(
        "--beam-size",
        type=whole_number(1, MAX_BEAMS),
        metavar="N",
        help="alternatives to consider, 1 to 16 (default: 5)",
    )
    parser.add_argument(
        "--temperature",
        type=_temperatures,
        metavar="T[,T...]",
        help="sampling temperatures from 0 to 1, tried in turn",
    )
    if live:
        return
    parser.add_argument(
        "--vad", action=argparse.BooleanOptionalAction, help="skip parts without speech (default: yes)"
    )
    parser.add_argument(
        "--channels",
        choices=("mix", "split"),
        help="split: transcribe each channel as one speaker (default: mix)",
    )
    parser.add_argument(
        "--track",
        type=whole_number(1, MAX_TRACK),
        metavar="N",
        help="audio track, such as one of a film's languages; 1 is the first (default: the best)",
    )
    parser.add_argument(
        "--cache",
        action=argparse.BooleanOptionalAction,
        help="reuse the stored transcript of the same audio, if there is one (default: yes)",
    )


def add_unset(parser: Parser, *names: str, examples: str) -> None:
    """Add `--unset`, which resets stored options, and the other fields in `names`, to their defaults."""
    parser.add_argument(
        "--unset",
        action="append",
        default=[],
        choices=(*names, "model", *JOB_OPTIONS),
        metavar="OPTION",
        help=f"reset this option to its default, such as {examples}",
    )


def given_options(options: argparse.Namespace) -> dict[str, Any]:
    """Return the given options without runtime and model. Raises `usage.invalid` if both are given."""
    if options.runtime and options.model:
        raise usage_error("--runtime and --model cannot be combined", "Omit one of them")
    values = {name: getattr(options, name, None) for name in JOB_OPTIONS}
    return {name: value for name, value in values.items() if value is not None}


def stored_options(options: argparse.Namespace) -> Any:
    """Return the given options to store, the model included. Raises `usage.invalid`."""
    model = {"model": model_name(options.model)} if options.model else {}
    return {**model, **given_options(options)}


def merge_options(before: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Return the previous options without the unset ones, plus those given. A runtime replaces a model."""
    dropped = {*options.unset, *(["model"] if options.runtime else [])}
    remaining = {name: value for name, value in before.items() if name not in dropped}
    return {**remaining, **stored_options(options)}


def options_in_words(job_options: dict[str, Any]) -> str:
    """Return options with their values: `language de, beam_size 2`."""
    return ", ".join(f"{name} {_value(value)}" for name, value in job_options.items()) or "-"


def _value(value: Any) -> str:
    match value:
        case list():
            return ",".join(f"{one:g}" for one in value)
        case _:
            return in_words(value)


def _temperatures(text: str) -> list[float]:
    try:
        temperatures = [float(part) for part in text.split(",")]
    except ValueError:
        temperatures = [math.nan]
    if not all(0 <= temperature <= 1 for temperature in temperatures):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers from 0 to 1, such as 0,0.2,0.4")
    return temperatures
