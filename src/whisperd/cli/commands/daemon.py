"""`whisperctl daemon`: the daemon itself."""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from whisperd.cli import service
from whisperd.cli.command import confirm, connect_as, print_unless_quiet
from whisperd.cli.output import (
    counted,
    duration,
    print_json,
    print_notice,
    print_problem,
    print_table,
    printable,
)
from whisperd.cli.parser import Parser, usage_error, whole_number
from whisperd.cli.service import add_install, add_uninstall
from whisperd.paths import make_private_folder, socket_path, whisperctl_for
from whisperd.quantities import size, speed
from whisperd.rpc.errors import WhisperdError

if TYPE_CHECKING:
    from pathlib import Path

    from whisperd.running import Running

STOP_POLL_S = 0.02
CLEAN_UP_TIMEOUT_S = 30.0
"""How long the daemon may take to end once its jobs are over: it gives up after half of that."""
LOG_EXAMPLES = """examples:
  whisperctl daemon logs -n 200
  whisperctl daemon logs --follow"""


def add(parser: Parser) -> None:
    """Add the verbs."""
    parser.add_verb("status", status, "show the daemon's status")
    parser.add_verb("metrics", metrics, "print metrics in the Prometheus text format")
    parser.add_verb("start", start, "start the daemon if it is not running")
    parser.add_verb("stop", stop, "stop the daemon; running jobs get the grace period", _add_force)
    parser.add_verb("restart", restart, "stop the daemon and start it again", _add_force)
    parser.add_verb("reload", reload, "make the daemon read its settings again")
    parser.add_verb("logs", logs, "print the daemon's log", _add_lines)
    parser.add_verb("config", config, "print the settings in force", _add_init)
    parser.add_verb("install", install, "install a service that runs whenever you are logged in", add_install)
    parser.add_verb("uninstall", service.uninstall, "remove the service", add_uninstall)


def _add_lines(parser: Parser) -> None:
    parser.add_argument(
        "-n",
        "--lines",
        type=whole_number(),
        default=50,
        metavar="N",
        help="print the last N lines (default: 50)",
    )
    parser.add_argument("-f", "--follow", action="store_true", help="keep printing new lines")
    parser.epilog = LOG_EXAMPLES


def _add_force(parser: Parser) -> None:
    parser.add_argument(
        "--force", action="store_true", help="kill its process at once, even if it does not respond"
    )


def _add_init(parser: Parser) -> None:
    parser.add_argument("--init", action="store_true", help="write a documented settings file")


def status(options: argparse.Namespace) -> None:
    with connect_as(options, start=False) as client:
        answer = client.daemon.status()
    if options.json:
        print_json(answer)
        return
    jobs = answer["jobs"]
    print(f"whisperd {answer['version']}, process {answer['pid']}, up {duration(answer['uptime'])}")
    print(f"socket   {answer['socket']}")
    if answer["service"]:
        print(f"service  of {answer['service']}")
    waiting = answer["windows_waiting"]
    waits = f"; {counted(waiting, 'window waits', 'windows wait')}" if waiting else ""
    print(f"jobs     {', '.join(f'{count} {name}' for name, count in jobs.items())}{waits}")
    if answer["speed"]:
        print(f"speed    {speed(answer['speed'])} real time over {duration(answer['audio_seconds'])}")
    today = answer["today"]
    print(f"today    {duration(today['audio_seconds'])} of audio in {counted(today['jobs'], 'job')}")
    print(f"memory   {', '.join(f'{name} {size(used)}' for name, used in answer['memory'].items())}")
    print(f"default  {answer['default_runtime']}")
    if answer["calibrating"]:
        print(f"busy     calibrating {printable(answer['calibrating'])}: measuring what is fastest here, in")
        print("         separate workers; jobs interrupt it at once")
    if options.verbose:
        print(f"environment  {' '.join(answer['environment'])}")
    if answer["bulk_held"]:
        print("power    on battery: bulk work waits for mains power")
    if answer["damaged_database"]:
        print(f"damaged  a new database was created; the old one is {answer['damaged_database']}")
    if answer["runtimes"]:
        print()
        print_table(
            ("RUNTIME", "STATUS", "VARIANT", "PRECISION", "MEMORY", "LEASES"),
            [
                (
                    one["name"],
                    one["status"],
                    one["variant"],
                    (one["loaded"] or one)["compute_type"],
                    size(one["memory"]),
                    one["leases"],
                )
                for one in answer["runtimes"]
            ],
        )
    for one in answer["runtimes"]:
        if one["error"]:
            print_problem(one["error"], f"{one['name']}: ")


def metrics(options: argparse.Namespace) -> None:
    with connect_as(options, start=False) as client:
        answer = client.daemon.metrics()
    if options.json:
        print_json(answer)
    else:
        sys.stdout.write(answer["content"])


def install(options: argparse.Namespace) -> None:
    service.install(options, _stop)


def start(options: argparse.Namespace) -> None:
    service.control(options, "start")
    with connect_as(options) as client:
        answer = client.daemon.status()
        if answer["stopping"]:  # one that exits after its last jobs is not the daemon that was asked for
            ending = client.daemon.stop()
            _wait_for_end(options, ending["pid"], ending["grace_period"])
    if answer["stopping"]:
        return start(options)
    confirm(options, answer, f"whisperd is running, process {answer['pid']}, on {answer['socket']}")


def stop(options: argparse.Namespace) -> None:
    answer = _stop(options, by_force=options.force)
    confirm(options, answer, "whisperd is not running" if answer["pid"] is None else "whisperd has stopped")


def restart(options: argparse.Namespace) -> None:
    _keep_settings(options)
    _stop(options, by_force=options.force)
    start(options)


def _keep_settings(options: argparse.Namespace) -> None:
    """Make the next daemon use the settings file of the running one, unless this shell names another.

    Without `--force`, check the settings first: no daemon is stopped for one that could not start.

    Raises `config.invalid`, `config.unreadable`.
    """
    from pathlib import Path

    from whisperd import paths
    from whisperd.settings import load_settings

    file, is_by_hand = paths.config_file(), service.installed(options) is None
    running = _running(options)
    if running and running.config and not (is_by_hand and os.environ.get("WHISPERD_CONFIG")):
        file = Path(running.config)
    if not options.force:
        load_settings(file)
    if is_by_hand and file != paths.config_file():
        os.environ["WHISPERD_CONFIG"] = str(file)
        if file.exists():
            print_unless_quiet(options, f"keeping the settings of {file}")
        else:
            print_unless_quiet(options, f"using default settings: {file} does not exist")


def _running(options: argparse.Namespace) -> Running | None:
    """Return the running daemon of the default state folder, if it listens on the requested socket."""
    from whisperd import paths
    from whisperd.running import find_running

    running = find_running(paths.state_dir())
    return running if running and running.socket == paths.socket_path(options.socket) else None


def reload(options: argparse.Namespace) -> None:
    with connect_as(options, start=False) as client:
        answer = client.daemon.reload()
    file = answer["config"]
    done = f"reloaded the settings from {file}"
    if not os.path.exists(file):
        done = f"using default settings: {file} does not exist"
    if waiting := answer["restart_needed"]:
        done += f"; {', '.join(waiting)} will take effect after `whisperctl daemon restart`"
    confirm(options, answer, done)


def logs(options: argparse.Namespace) -> None:
    from whisperd.cli.logs import follow, last_lines

    if options.json and options.follow:
        raise usage_error("--json and --follow cannot be combined", "Omit one of them")
    path = _log_file(options)
    if options.follow:
        follow(path, options.lines, sys.stdout)
    lines = last_lines(path, options.lines)
    if options.json:
        print_json({"path": str(path), "lines": lines})
    else:
        sys.stdout.write("".join(f"{line}\n" for line in lines))


def _log_file(options: argparse.Namespace) -> Path:
    """Return the log of the daemon on the requested socket, wherever its state is; else the default log."""
    from pathlib import Path

    from whisperd import paths
    from whisperd.running import read_running

    usual, socket = paths.log_file(), paths.socket_path(options.socket)
    running = read_running(paths.state_dir())
    if not (options.socket or os.environ.get("WHISPERD_SOCKET")) or (running and running.socket == socket):
        return usual
    if not service.is_stopped(options):  # connecting to its socket would start the daemon
        with suppress(WhisperdError), connect_as(options, start=False) as client:
            return Path(client.daemon.status()["log"])
    print_notice(f"whisperctl: No daemon responds on {printable(socket)}; printing {printable(str(usual))}.")
    return usual


def config(options: argparse.Namespace) -> None:
    from whisperd import paths
    from whisperd.settings import load_settings, settings_template

    path = paths.config_file()
    if options.init:
        _write_template(path, settings_template())
        confirm(options, {"path": str(path)}, f"wrote {path}")
        return
    try:
        with connect_as(options, start=False) as client:
            answer = client.daemon.config()  # the settings in force; the file may have changed since
    except WhisperdError as error:
        if error.code != "daemon.unreachable":
            raise
        answer = {"path": str(path), "content": settings_template(load_settings(path))}
    if options.json:
        print_json(answer)
    else:
        sys.stdout.write(answer["content"])


def _stop(options: argparse.Namespace, *, by_force: bool = False) -> dict[str, Any]:
    """Stop the daemon and wait until its process has ended. Answers with no `pid` if none was running."""
    answer: dict[str, Any] = {"pid": None, "grace_period": None, "active_jobs": 0, "detached_jobs": 0}
    if service.is_stopped(options):
        service.control(options, "stop")  # its socket first: connecting to it would start the daemon
    try:
        answer = _kill(options) if by_force else _stop_gracefully(options)
    except WhisperdError as error:
        if error.code != "daemon.unreachable":
            raise
    service.control(options, "stop")  # also closes the socket, to which another client could connect
    return answer


def _stop_gracefully(options: argparse.Namespace) -> dict[str, Any]:
    with connect_as(options, start=False, is_last_call=True) as client:
        answer = client.daemon.stop()
        _warn_of_jobs(options, answer)
        _wait_for_end(options, answer["pid"], answer["grace_period"])
    return answer


def _kill(options: argparse.Namespace) -> dict[str, Any]:
    """Kill the daemon's process. Its children end with it."""
    import psutil

    from whisperd import paths
    from whisperd.running import daemon_process, find_running

    running = find_running(paths.state_dir())
    socket = paths.socket_path(options.socket)
    if running is None:
        return _killed(None)
    if running.socket != socket:
        raise WhisperdError(
            "daemon.elsewhere",
            f"The daemon whose state is in {paths.state_dir()} listens on {running.socket}.",
            "Pass that socket with --socket, or set WHISPERD_STATE_DIR to the folder of the daemon you mean.",
        )
    if (process := daemon_process(running.pid)) is not None:
        with suppress(psutil.NoSuchProcess):
            process.kill()
        _wait_for_end(options, running.pid, 0.0)
    elif find_running(paths.state_dir()) == running:
        raise WhisperdError(
            "daemon.elsewhere",
            f"The daemon whose state is in {paths.state_dir()} runs on {running.host}, not here.",
            "Stop it there, or set WHISPERD_STATE_DIR to the folder of the daemon you mean.",
        )
    return _killed(running.pid)


def _killed(pid: int | None) -> dict[str, Any]:
    """Return an answer like that of `daemon.stop`, with the numbers of jobs unknown."""
    grace_s = None if pid is None else 0.0
    return {"pid": pid, "grace_period": grace_s, "active_jobs": None, "detached_jobs": None}


def _write_template(path: os.PathLike[str], content: str) -> None:
    try:
        make_private_folder(os.path.dirname(path))
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with open(descriptor, "w", encoding="utf-8") as file:
                file.write(content)
        except BaseException:
            os.unlink(path)  # so that half a file does not block the next attempt
            raise
    except FileExistsError:
        raise WhisperdError(
            "config.exists", f"{os.fspath(path)} already exists.", "Edit it, or move it away first."
        ) from None
    except OSError as error:
        raise WhisperdError(
            "config.not_writable",
            f"{os.fspath(path)} cannot be written: {error.strerror}.",
            "Check the folder's permissions and its disk, or set WHISPERD_CONFIG to another path.",
        ) from error


def _warn_of_jobs(options: argparse.Namespace, answer: dict[str, Any]) -> None:
    """Say before the daemon stops which jobs may be cancelled and which continue later."""
    if options.quiet or options.json:
        return
    detached = answer["detached_jobs"]
    if attached := answer["active_jobs"] - detached:
        jobs = counted(attached, "job is", "jobs are")
        print_notice(f"{jobs} running; any not done within {answer['grace_period']:.0f} s will be cancelled")
    if detached:
        print_notice(f"{counted(detached, 'detached job')} will continue in the next daemon")


def _wait_for_end(options: argparse.Namespace, pid: int, grace_s: float) -> None:
    """Wait until a process has ended. It is not our child, so it can only be polled."""
    import time

    deadline_s = time.monotonic() + grace_s + CLEAN_UP_TIMEOUT_S
    while _is_alive(pid):
        if time.monotonic() > deadline_s:
            raise WhisperdError(
                "daemon.does_not_end",
                f"The daemon, process {pid}, does not stop.",
                f"Run `{whisperctl_for(socket_path(options.socket))} daemon stop --force` to kill it.",
            )
        time.sleep(STOP_POLL_S)


def _is_alive(pid: int) -> bool:
    import psutil

    try:
        # A zombie has ended; its parent has not reaped it yet.
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
