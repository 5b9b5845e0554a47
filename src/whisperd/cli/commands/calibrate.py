"""`whisperctl calibrate`: measure the fastest way to run a model on this computer."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from whisperd.cli.command import call_with_progress, confirm, connect_as, show_download
from whisperd.cli.output import counted, local_time, print_json, print_problem, print_table, printable
from whisperd.cli.parser import Parser, non_empty
from whisperd.quantities import speed

if TYPE_CHECKING:
    from typing import Any

    from whisperd.cli.output import Progress

    Map = dict[str, Any]

FULL_MARGIN_S = 30
EXAMPLES = """examples:
  whisperctl calibrate
  whisperctl calibrate small
  whisperctl calibrate --show"""
OUTCOMES = {"slower": "too slow", "stuck": "stuck", "failed": "failed", "no_memory": "no memory"}


def add(parser: Parser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "model",
        nargs="?",
        type=non_empty,
        metavar="MODEL",
        help="model (default: that of the default runtime)",
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--show", action="store_true", help="show the result, what was tried, and why")
    what.add_argument(
        "--forget", action="store_true", help="forget the result: engines are chosen by priority again"
    )
    parser.epilog = EXAMPLES
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    with connect_as(options) as client:
        if options.forget:
            forgotten = client.calibration.forget(options.model)
            done = "Forgot the calibration of" if forgotten["forgotten"] else "There is no calibration of"
            confirm(options, forgotten, f"{done} {forgotten['model']}.")
            return
        if options.show:
            found = client.calibration.show(options.model)
        else:
            named = {"model": options.model} if options.model else {}
            topics = ("calibration", "natives", "models")
            found = call_with_progress(
                options, client, topics, "calibration.run", show=show_progress, **named
            )
    if options.json:
        print_json(found)
    elif options.show:
        print_page(found)
    elif not options.quiet:
        print("\n".join(summary(found)))


def show_progress(progress: Progress, event: Map) -> None:
    """Show an event of a running calibration."""
    if event["type"] != "calibration.progress":
        show_download(progress, event)
        return
    if event["detail"] == "waiting":
        progress.show("Waiting for running jobs to end", None)
        return
    tried = f"{event['variant']}, {shape(event)}, batches of {event['batch_size']}"
    progress.show(
        f"Calibrating {printable(event['model'])}", 100 * event["done"] / event["total"], f"{tried}"
    )


def summary(found: Map) -> list[str]:
    """Return the result of a calibration as sentences."""
    chosen = found["chosen"]
    margin = "the full context" if is_full(chosen) else f"a margin of {chosen['context_margin']:g} s"
    lines = [
        f"{printable(found['model'])} runs fastest as {chosen['variant']} with {shape(chosen)}, batches of "
        f"{chosen['batch_size']} and {margin}: {chosen['speed']:.0f} times as fast as speech.",
        found["reason"],
    ]
    if not found["complete"]:
        lines.append("The time ran out before every setting that might be faster was tried.")
    if not found["current"]:
        why = "; ".join(map(printable, found["changed"])) or "this computer or whisperd has changed"
        lines.append(f"This result no longer applies: {why}.")
        lines.append(f"Run `whisperctl calibrate {printable(found['model'])}` to repeat it.")
    return lines


def print_page(found: Map) -> None:
    """Print the result, every trial, and the variants that were ruled out."""
    print("\n".join(summary(found)))
    print(f"Measured {local_time(found['time'])} in {found['elapsed']:.0f} s:\n")
    print_table(
        ("", "VARIANT", "WORKERS", "THREADS", "BATCH", "MARGIN", "SPEED", "WRONG WORDS"),
        [
            (
                "*" if trial["chosen"] else "",
                trial["variant"],
                trial["workers"],
                trial["cpu_threads"],
                trial["batch_size"],
                "full" if is_full(trial) else f"{trial['context_margin']:g} s",
                speed(trial["speed"]) if trial["speed"] else OUTCOMES[trial["outcome"]],
                f"{trial['errors']} of {trial['words']}" if trial["words"] else None,
            )
            for trial in found["trials"]
        ],
    )
    allowed = found["reference_errors"]
    print(f"\nAt most {allowed} wrong words are allowed: as many as the text with the full context has.")
    for one in found["struck_out"]:
        print(f"\n{one['variant']} was {'ruled out' if one['tried'] else 'not tried'}:")
        print_problem(one["error"], "  ")


def shape(setting: Map) -> str:
    """Return how the work is divided: `2 workers of 1 thread`."""
    return f"{counted(setting['workers'], 'worker')} of {counted(setting['cpu_threads'], 'thread')}"


def is_full(setting: Map) -> bool:
    """Whether every window gets the full context."""
    return bool(setting["context_margin"] >= FULL_MARGIN_S)
