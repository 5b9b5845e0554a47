"""`whisperctl watch`: manage folders whose new files are transcribed automatically."""

from __future__ import annotations

import argparse
import os
import re
import shlex
from typing import Any

from whisperd.cli.command import confirm, connect_as, for_each
from whisperd.cli.files import EXTENSIONS
from whisperd.cli.job_options import (
    add_job_options,
    add_unset,
    merge_options,
    options_in_words,
    stored_options,
)
from whisperd.cli.output import counted, facts, local_time, print_json, print_notice, print_table, printable
from whisperd.cli.parser import Parser, comma_separated, non_empty, usage_error, whole_number

FIELDS = (
    "recursive", "include", "exclude", "runtime", "outputs", "output_dir", "overwrite", "after", "move_to",
    "command", "notify", "quiet_hours",
)  # fmt: skip
"""Fields with an option of the same name. `name` is not one: its option is stored as `template`."""
UNSET: dict[str, list[str] | None] = {
    "runtime": None,
    "profile": None,
    "output_dir": None,
    "quiet_hours": None,
    "include": [],
    "exclude": [],
    "command": [],
}
"""What `--unset` can reset besides job options, with the value that does so."""
_ID = re.compile("[0-9a-f]{8}")
OF_TEXTS = {"runtime", "profile", "options", "outputs", "output_dir", "name"}
"""Fields that decide what the written texts say or where they are."""
EXAMPLES = """examples:
  whisperctl watch add ~/Recordings
  whisperctl watch add ~/Videos --output text --output srt --output-dir ~/Texts --language de
  whisperctl watch add ~/Inbox --after move --move-to ~/Done --command 'notify-send -- {stem}'
  whisperctl watch add ~/Podcasts --include '*.mp3' --exclude drafts --quiet-hours 22:00-07:00"""
EDIT_EXAMPLES = """examples:
  whisperctl watch edit ~/Recordings --language de --output srt
  whisperctl watch edit ~/Recordings --unset language"""


def add(parser: Parser) -> None:
    """Add the verbs."""
    parser.add_verb("add", add_, "watch a folder", _add_creation)
    parser.add_verb("list", list_, "list the watch folders")
    parser.add_verb("show", show, "show the details of a watch folder", _add_name)
    parser.add_verb("edit", edit, "change the given options of a watch folder", _add_edition)
    parser.add_verb("remove", remove, "stop watching folders; written files stay", _add_names)
    parser.add_verb("pause", pause, "start no more files; those in progress are finished", _add_names)
    parser.add_verb("resume", resume, "resume paused folders", _add_names)
    parser.add_verb("scan", scan, "check everything in a folder now", _add_name)
    parser.add_verb("log", log, "print a folder's events, newest last", _add_log)
    parser.add_verb("retry", retry, "retry failed files, or transcribe files again", _add_files)


def _add_name(parser: Parser) -> None:
    parser.add_argument("name", type=non_empty, metavar="FOLDER", help="watch folder, by path or id")


def _add_names(parser: Parser) -> None:
    parser.add_argument(
        "names", nargs="+", type=non_empty, metavar="FOLDER", help="watch folders, by path or id"
    )


def _add_log(parser: Parser) -> None:
    _add_name(parser)
    parser.add_argument(
        "-n",
        "--lines",
        type=whole_number(1, 5000),
        default=50,
        metavar="N",
        help="print the last N lines (default: 50)",
    )


def _add_files(parser: Parser) -> None:
    _add_name(parser)
    parser.add_argument(
        "files",
        nargs="*",
        default=[],  # else argparse reports it as required, too, if FOLDER is missing
        metavar="FILE",
        help="only these, failed or not (default: all that failed)",
    )
    parser.add_argument("--all", action="store_true", help="all files in the folder, done or not")


def _add_creation(parser: Parser) -> None:
    parser.add_argument("folder", type=non_empty, metavar="FOLDER", help="folder to watch")
    _add_fields(parser)
    parser.epilog = EXAMPLES


def _add_edition(parser: Parser) -> None:
    _add_name(parser)
    _add_fields(parser)
    add_unset(parser, *UNSET, examples="quiet_hours or language")
    parser.epilog = EDIT_EXAMPLES


def _add_fields(parser: Parser) -> None:
    yes_or_no = argparse.BooleanOptionalAction
    parser.add_argument("--recursive", action=yes_or_no, help="include subfolders (default: yes)")
    parser.add_argument(
        "--include",
        action="append",
        type=non_empty,
        metavar="GLOB",
        help="only matching files (default: all audio and video)",
    )
    parser.add_argument(
        "--exclude", action="append", type=non_empty, metavar="GLOB", help="skip matching files and folders"
    )
    parser.add_argument(
        "--output",
        "--format",
        dest="outputs",
        action="extend",
        type=comma_separated,
        choices=tuple(EXTENSIONS),
        metavar="FORMAT",
        help=f"output formats: {', '.join(EXTENSIONS)}; with commas, or repeated (default: text)",
    )
    parser.add_argument(
        "--output-dir", type=non_empty, metavar="DIR", help="write here (default: next to the recording)"
    )
    parser.add_argument(
        "--name",
        dest="template",
        type=non_empty,
        metavar="NAME",
        help="output file names (default: {stem}.{lang}.{ext})",
    )
    parser.add_argument(
        "--overwrite", action=yes_or_no, help="replace files not written by whisperd (default: no)"
    )
    parser.add_argument(
        "--after",
        choices=("stay", "move", "delete"),
        help="what to do with finished recordings (default: stay)",
    )
    parser.add_argument(
        "--move-to", type=non_empty, metavar="DIR", help="folder to move them to, with --after move"
    )
    parser.add_argument(
        "--command",
        type=_words,
        metavar="COMMAND",
        help="run after each, without a shell; {path}, {name}, {stem}, {folder} and {output} are replaced",
    )
    parser.add_argument("--notify", action=yes_or_no, help="show a desktop notification (default: no)")
    parser.add_argument(
        "--quiet-hours", metavar="SPAN", help="start no files in this period, such as 22:00-07:00"
    )
    add_job_options(parser, is_stored=True, priority="bulk")


def add_(options: argparse.Namespace) -> None:
    fields = _given(options)
    if job_options := stored_options(options):
        fields["options"] = job_options
    if options.profile:
        fields["profile"] = options.profile
    with connect_as(options) as client:
        watch = client.watch.add(options.folder, **fields)
    confirm(options, watch, f"{watch['path']} is watched")


def list_(options: argparse.Namespace) -> None:
    with connect_as(options) as client:
        watches = client.watch.list()
    if options.json:
        print_json(watches)
        return
    print_table(
        ("ID", "STATUS", "PENDING", "DONE", "FAILED", "FOLDER"),
        [
            (one["id"], one["status"], one["pending"], one["done"], one["failed"], one["path"])
            for one in watches
        ],
    )


def show(options: argparse.Namespace) -> None:
    with connect_as(options) as client:
        watch = client.watch.show(_name(options.name))
    if options.json:
        print_json(watch)
        return
    print("\n".join(facts(_facts(watch))))


def edit(options: argparse.Namespace) -> None:
    changes = _given(options)
    if not (changes or stored_options(options) or options.unset or options.profile):
        raise usage_error("No change was given", "`whisperctl watch edit --help` lists the options")
    with connect_as(options) as client:
        watch = client.watch.show(_name(options.name))
        if options.model:  # it replaces a runtime
            changes["runtime"] = None
        if options.profile:
            changes["profile"] = options.profile
        changes = {name: UNSET[name] for name in options.unset if name in UNSET} | changes
        if (merged := merge_options(watch["options"], options)) != watch["options"]:
            changes["options"] = merged
        # With the version that was read, so that options set by another client meanwhile are not undone.
        version = watch["version"] if "options" in changes else None
        watch = client.watch.edit(watch["id"], version=version, **changes)
    confirm(options, watch, f"the watch folder {watch['path']} is changed")
    if watch["done"] and not OF_TEXTS.isdisjoint(changes) and not (options.quiet or options.json):
        print_notice("Texts that are already written stay unchanged.")
        command = f"whisperctl watch retry {printable(shlex.quote(watch['path']))} --all"
        print_notice(f"  Run `{command}` to transcribe them again.")


def remove(options: argparse.Namespace) -> int:
    return _for_each(options, "remove", "is no longer watched")


def pause(options: argparse.Namespace) -> int:
    return _for_each(options, "pause", "is paused")


def resume(options: argparse.Namespace) -> int:
    return _for_each(options, "resume", "is watched again")


def scan(options: argparse.Namespace) -> None:
    with connect_as(options) as client:
        watch = client.watch.scan(_name(options.name))
    confirm(options, watch, *_hindrance(watch), f"files: {_counts(watch)}")


def log(options: argparse.Namespace) -> None:
    with connect_as(options) as client:
        lines = client.watch.log(_name(options.name), options.lines)
    if options.json:
        print_json(lines)
        return
    for line in lines:
        path = f"{line['path']}: " if line["path"] else ""
        print(printable(f"{local_time(line['time'])}  {line['event']:10}  {path}{line['message']}"))


def retry(options: argparse.Namespace) -> None:
    if options.all and options.files:
        raise usage_error("--all cannot be combined with files", "Omit one of them")
    files = [os.path.abspath(one) if os.path.lexists(one) else one for one in options.files]
    with connect_as(options) as client:
        answer = client.watch.retry(_name(options.name), files or None, all=options.all)
    confirm(options, answer, f"retrying {counted(answer['retried'], 'file')}")


def _for_each(options: argparse.Namespace, verb: str, done: str) -> int:
    return for_each(
        options,
        lambda client, name: getattr(client.watch, verb)(_name(name)),
        lambda watch: f"{watch['path']} {done}",
    )


def _name(name: str) -> str:
    """Return the absolute path of a folder, which may no longer exist; an id is returned unchanged."""
    return name if _ID.fullmatch(name) and not os.path.isdir(name) else os.path.abspath(name)


def _given(options: argparse.Namespace) -> dict[str, Any]:
    """Return the fields that were given, without job options."""
    fields = {name: getattr(options, name) for name in FIELDS} | {"name": options.template}
    return {name: value for name, value in fields.items() if value is not None}


def _words(command: str) -> list[str]:
    """Split a command into words, for argparse's `type`."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise usage_error(f"The command cannot be parsed: {error}", "Check its quotes") from error
    if "" in words:
        raise usage_error("A word of the command is empty", "Omit it, or check its quotes")
    return words


def _hindrance(watch: dict[str, Any]) -> list[str]:
    """Return what keeps the folder's files from being transcribed, if anything, and what to do about it."""
    error = watch["error"] or {"message": None, "fix": None}
    return list(dict.fromkeys(filter(None, (watch["reason"], error["message"], error["fix"]))))


def _counts(watch: dict[str, Any]) -> str:
    return f"{watch['pending']} pending, {watch['done']} done, {watch['failed']} failed"


def _facts(watch: dict[str, Any]) -> list[tuple[str, object]]:
    unnamed = "from the profile" if watch["profile"] else "the default"
    if "model" in watch["options"]:
        unnamed = "by model"
    after = f"move to {watch['move_to']}" if watch["after"] == "move" else watch["after"]
    return [
        ("id", watch["id"]),
        ("folder", watch["path"]),
        ("status", [watch["status"], *_hindrance(watch)]),
        ("files", _counts(watch)),
        ("changes", "polled: its file system does not report them" if watch["polled"] else "noticed at once"),
        ("recursive", watch["recursive"]),
        ("include", " ".join(watch["include"]) or "audio and video"),
        ("exclude", " ".join(watch["exclude"]) or "-"),
        ("runtime", watch["runtime"] or unnamed),
        ("profile", watch["profile"] or "-"),
        ("options", options_in_words(watch["options"])),
        ("outputs", ", ".join(watch["outputs"])),
        ("written to", watch["output_dir"] or "next to the recording"),
        ("named", watch["name"] + (", replacing existing files" if watch["overwrite"] else "")),
        ("recordings", after),
        ("command", shlex.join(watch["command"]) or "-"),
        ("notify", watch["notify"]),
        ("quiet hours", watch["quiet_hours"] or "-"),
    ]
