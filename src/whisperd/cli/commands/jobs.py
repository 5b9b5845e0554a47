"""`whisperctl jobs`: list, follow, cancel and retry jobs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

from whisperd.cli.ages import age_s, since
from whisperd.cli.command import confirm, connect_as, for_each, progress_of, show_answers, user_agrees
from whisperd.cli.files import EXTENSIONS, OF_JSON
from whisperd.cli.follow import events_of, follow_job
from whisperd.cli.output import ago, counted, duration, facts, in_words, local_time, print_json, print_table
from whisperd.cli.parser import Parser, usage_error
from whisperd.quantities import speed
from whisperd.rpc.errors import WhisperdError

if TYPE_CHECKING:
    from datetime import datetime

    from whisperd.client import Client

LIST_EXAMPLES = """examples:
  whisperctl jobs list --status failed
  whisperctl jobs list --since 2h --json"""
RESULT_EXAMPLES = """examples:
  whisperctl jobs result 5c1f0a9be2
  whisperctl jobs result 5c1f0a9be2 --format srt > film.srt"""
CANCEL_EXAMPLES = """examples:
  whisperctl jobs cancel 5c1f0a9be2
  whisperctl jobs cancel --all --status queued"""
CLEAR_EXAMPLES = """examples:
  whisperctl jobs clear --older-than 30d
  whisperctl jobs clear 5c1f0a9be2 --purge
  whisperctl jobs clear --purge"""
STATUSES = ("queued", "running", "completed", "failed", "cancelled")


def add(parser: Parser) -> None:
    """Add the verbs."""
    parser.add_verb("list", list_, "list jobs, running and past", _add_list)
    parser.add_verb("show", show, "show the details of a job", _add_id)
    parser.add_verb("follow", follow, "print a job's text from its start, as it is recognised", _add_id)
    parser.add_verb("wait", wait, "wait until jobs end; fail if one of them failed", _add_ids)
    parser.add_verb("result", result, "print the text of a completed job", _add_format)
    parser.add_verb("cancel", cancel, "cancel jobs", _add_cancel)
    parser.add_verb("retry", retry, "resume failed or cancelled jobs from where they stopped", _add_ids)
    parser.add_verb("clear", clear, "forget finished jobs, but keep their transcripts", _add_clear)


def _add_id(parser: Parser) -> None:
    parser.add_argument("id", metavar="ID", help="job id, as `whisperctl jobs list` shows it")


def _add_ids(parser: Parser) -> None:
    parser.add_argument("ids", nargs="+", metavar="ID", help="job ids")


def _add_list(parser: Parser) -> None:
    _add_filters(parser)
    parser.epilog = LIST_EXAMPLES


def _add_filters(parser: Parser, statuses: Sequence[str] = STATUSES) -> None:
    parser.add_argument("--status", choices=statuses, help="only jobs with this status")
    parser.add_argument(
        "--since", type=since, metavar="WHEN", help="only jobs newer than this, such as 3d or 2026-03-01"
    )
    parser.add_argument("--runtime", metavar="NAME", help="only jobs on this runtime (name or id)")


def _add_cancel(parser: Parser) -> None:
    parser.add_argument("ids", nargs="*", metavar="ID", help="job ids")
    parser.add_argument(
        "--all", action="store_true", help="all queued and running jobs that match the filters"
    )
    _add_filters(parser, ("queued", "running"))
    parser.epilog = CANCEL_EXAMPLES


def _add_clear(parser: Parser) -> None:
    parser.add_argument(
        "ids",
        nargs="*",
        metavar="ID",
        help="only these jobs, all of them or none (default: all finished ones)",
    )
    parser.add_argument(
        "--older-than",
        type=age_s,
        metavar="AGE",
        help="only jobs that ended longer ago than this, such as 30d",
    )
    parser.add_argument(
        "--purge", action="store_true", help="also erase their transcripts; without an ID, all transcripts"
    )
    parser.epilog = CLEAR_EXAMPLES


def _add_format(parser: Parser) -> None:
    _add_id(parser)
    parser.add_argument("--format", choices=tuple(EXTENSIONS), help="output format (default: text)")
    parser.epilog = RESULT_EXAMPLES


def list_(options: argparse.Namespace) -> None:
    with connect_as(options) as client:
        jobs = client.jobs.list(options.status, since=options.since, runtime=options.runtime)
    if options.json:
        print_json(jobs)
        return
    from datetime import UTC, datetime

    now = datetime.now(UTC)
    print_table(
        ("ID", "STATUS", "CREATED", "DONE", "TOOK", "SPEED", "RUNTIME", "INPUT"),
        [row(job, now) for job in jobs],
    )


def row(job: dict[str, Any], now: datetime) -> tuple[str | None, ...]:
    """Return the cells of a job in the list."""
    return (
        job["id"],
        job["status"],
        ago(job["created"], now),
        _percent(job["progress"]),
        _took(job),
        speed(job["speed"]),
        job["runtime"],
        _input(job["input"]),
    )


def _percent(progress: float | None) -> str:
    return "-" if progress is None else f"{progress:.0f} %"


def _took(job: dict[str, Any]) -> str | None:
    """Return how long a finished job took from start to end."""
    from datetime import datetime

    if not (job["started"] and job["ended"]):
        return None
    taken = datetime.fromisoformat(job["ended"]) - datetime.fromisoformat(job["started"])
    return duration(max(0.0, taken.total_seconds()))  # the clock may have been set back meanwhile


def show(options: argparse.Namespace) -> None:
    with connect_as(options) as client:
        job = client.jobs.show(options.id)
    if options.json:
        print_json(job)
        return
    print("\n".join(facts([(key, _lines(key, value)) for key, value in job.items()])))


def follow(options: argparse.Namespace) -> None:
    with connect_as(options) as client:
        if options.json:
            print_json(client.jobs.wait(options.id))
        else:
            follow_job(client, options.id, progress_of(options), sys.stdout)


def wait(options: argparse.Namespace) -> int:
    progress = progress_of(options)

    def ask(client: Client, job: str) -> dict[str, Any]:
        if progress.is_shown:
            with closing(events_of(client, job, progress)) as events:
                for _ in events:
                    pass
        return client.jobs.wait(job)

    return for_each(options, ask, lambda _: None, names=options.ids, key="id")


def result(options: argparse.Namespace) -> None:
    if options.json and options.format not in (None, *OF_JSON):
        raise usage_error(f"--json cannot print the format {options.format}", "Omit --json")
    with connect_as(options) as client:
        answer = client.jobs.result(options.id, "verbose_json" if options.json else options.format or "text")
    sys.stdout.write(answer["content"])


def cancel(options: argparse.Namespace) -> int:
    filters = {"status": options.status, "since": options.since, "runtime": options.runtime}
    if options.all == bool(options.ids):
        message = "`whisperctl jobs cancel` takes either ids or --all"
        raise usage_error(message, "`whisperctl jobs list` shows the jobs")
    if options.ids and any(filters.values()):
        raise usage_error("--status, --since and --runtime need --all", "Omit the ids, or these options")
    if len(options.ids) == 1:
        return for_each(
            options, lambda client, job: client.jobs.cancel(job), _became, names=options.ids, key="id"
        )
    with connect_as(options) as client:
        jobs = client.jobs
        cancelled = jobs.cancel(all=True, **filters) if options.all else jobs.cancel(ids=options.ids)
    return show_answers(options, cancelled, _became)


def retry(options: argparse.Namespace) -> int:
    return for_each(options, lambda client, job: client.jobs.retry(job), _became, names=options.ids, key="id")


def _became(job: dict[str, Any]) -> str:
    return f"{job['id']} is {job['status']}"


def clear(options: argparse.Namespace) -> None:
    if options.purge and not options.ids:
        old = " older than that" if options.older_than else ""
        if not user_agrees(options, f"Erase all stored transcripts{old}?"):
            raise WhisperdError(
                "purge.declined", "Nothing was erased.", "Pass job ids, or limit it with --older-than."
            )
    with connect_as(options) as client:
        answer = client.jobs.clear(options.ids or None, older_than=options.older_than, purge=options.purge)
    done = f"{counted(answer['cleared'], 'job')} forgotten"
    if options.purge:
        done += f", {counted(answer['purged'], 'transcript')} erased"
    confirm(options, answer, done)


def _lines(key: str, value: Any) -> Any:
    """Return a field of a job in readable form; only `--json` has the data of an error."""
    if key in ("error", "warnings") and value:
        errors = [value] if key == "error" else value
        parts = [part for one in errors for part in (one["message"], one["fix"], f"({one['code']})")]
        return list(filter(None, parts))
    if key in ("created", "started", "ended") and value:
        return local_time(value)
    if key in ("progress", "speed"):
        return (_percent if key == "progress" else speed)(value)
    return _input(value) if key == "input" else _shown(value)


def _input(given: dict[str, Any]) -> str:
    return given.get("path") or ("live" if given.get("stream") else "standard input")


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_shown(one)}" for key, one in value.items() if one not in (None, {}))
    return in_words(None if value == [] else value)
