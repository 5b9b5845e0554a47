"""The program `whisperd`: runs the daemon in the foreground, from the command line to its end."""

from __future__ import annotations

import argparse
import gc
import json
import logging
import os
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final, NoReturn

import anyio
from anyio.abc import TaskStatus

from whisperd import paths
from whisperd._version import __version__
from whisperd.allocator import glibc, share_one_arena
from whisperd.child import take_output
from whisperd.daemon.calibrating import calibrate_automatically
from whisperd.daemon.conditions import relieve_memory, watch_power_and_sleep
from whisperd.daemon.listener import Listener, claim_socket
from whisperd.daemon.logfile import LogFile
from whisperd.daemon.preloading import preload
from whisperd.daemon.reporting import end_when_idle, feed_watchdog, report_status, status_line
from whisperd.daemon.server import serve
from whisperd.daemon.service import Service, open_service
from whisperd.daemon.signals import HANG_UP, ignore_hang_up, receive_signals
from whisperd.daemon.state import alert_once, claim_state
from whisperd.rpc.errors import WhisperdError
from whisperd.service_manager.activation import take_socket
from whisperd.service_manager.notify import Notifier
from whisperd.settings import Settings, is_calibrating, is_preloading, load_settings
from whisperd.tasks import keep_running, open_task_group

__all__ = ["main"]

log = logging.getLogger("whisperd")

EXIT_FORCED: Final = 1
EXIT_NOT_STARTED: Final = 3
EXIT_INTERRUPTED: Final = 130

END_TIMEOUT_S: Final = 15.0
"""Limit on the clean-up. A thread that waits for a disk that does not respond cannot be ended."""

SWITCH_INTERVAL_S: Final = 0.001
"""How long a thread that computes, such as one that renders subtitles or scans a folder, keeps the event loop
waiting at a time. A job waits dozens of times, and Python's default is five times as long."""
SPARE_FILES: Final = 256
"""File descriptors for everything but clients: workers, decoders, downloads, logs."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the daemon until it is told to stop."""
    options = _parse(arguments)
    share_one_arena(glibc())
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    announce = _Announcement(enabled=options.announce)
    notifier = Notifier()
    try:
        config_file = (Path(options.config) if options.config else paths.config_file()).absolute()
        settings = load_settings(config_file, has_to_be_there=bool(options.config))
        log_file = LogFile(
            paths.log_file(), settings.log, level=options.log_level, to_terminal=not options.announce
        )
        log_file.receive_crashes()
        _allow_files(settings.limits.max_connections)
        ignore_hang_up()
        anyio.run(_run, options, config_file, settings, log_file, announce, notifier)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    except Exception as error:
        if isinstance(error, WhisperdError) and not announce.is_over:
            announce.failed(error)
            notifier.status(error.message)
            sys.exit(EXIT_NOT_STARTED)
        log.exception("whisperd ends because of an internal error")
        raise


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="whisperd", description="The whisperd daemon, in the foreground.")
    parser.add_argument("--socket", metavar="PATH", help="listen on this socket")
    parser.add_argument("--config", metavar="FILE", help="read the settings from this file")
    parser.add_argument(
        "--log-level", choices=("debug", "info", "warning", "error"), help="lowest severity to log"
    )
    parser.add_argument("--version", action="version", version=f"whisperd {__version__}")
    # For the client that starts the daemon: one line of JSON when it is ready or has failed, then nothing.
    parser.add_argument("--announce", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def _allow_files(connections: int) -> None:
    """Raise the limit on open files: each client needs one, and the usual limit (256 on macOS) is low."""
    with suppress(ImportError, OSError, ValueError):  # on Windows, or if the system refuses
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = max(soft, connections + SPARE_FILES)
        if hard != resource.RLIM_INFINITY:  # as many as allowed are better than the default
            wanted = min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


async def _run(
    options: argparse.Namespace,
    config_file: Path,
    settings: Settings,
    log_file: LogFile,
    announce: _Announcement,
    notifier: Notifier,
) -> None:
    passed = take_socket()
    socket = str(passed.getsockname()) if passed else paths.socket_path(options.socket)
    is_given = options.config or os.environ.get("WHISPERD_CONFIG")
    async with (
        claim_socket(socket, passed, alert_once(paths.state_dir())) as listener,
        claim_state(paths.state_dir(), socket, str(config_file) if is_given else None),
        open_service(config_file, settings, socket) as service,
        open_task_group() as tasks,
    ):
        service.is_config_named = bool(options.config)
        service.on_reload = lambda settings: log_file.apply(settings.log)
        service.notifier = notifier
        log.info("whisperd %s listens on %s, process %d", __version__, socket, os.getpid())
        await tasks.start(_handle_signals, service, listener)
        tasks.start_soon(serve, listener, service)
        announce.ready(socket)
        notifier.ready(status_line(service))
        # Imported modules stay: searching them for garbage would stop the event loop now and then.
        gc.freeze()
        if is_preloading(settings):
            tasks.start_soon(preload, service)
        calibrate = partial(
            calibrate_automatically,
            service,
            lambda: is_calibrating(service.settings) and not service.is_on_battery,
        )
        tasks.start_soon(keep_running, calibrate)
        tasks.start_soon(feed_watchdog, notifier)
        for background in (report_status, end_when_idle, relieve_memory, watch_power_and_sleep):
            tasks.start_soon(keep_running, partial(background, service))
        await service.stop_requested.wait()
        await _end(service, listener)
        tasks.cancel_scope.cancel()


async def _end(service: Service, listener: Listener) -> None:
    grace_s = service.settings.daemon.grace_period_s
    service.notifier.stopping("stopping, once the running jobs are done", grace_s + END_TIMEOUT_S)
    service.watches.stop()
    if active := len(service.jobs.active()):
        log.info("stopping: %d jobs have %.0f s to finish", active, grace_s)
    if cancelled := await service.jobs.drain(grace_s):
        log.warning("stopping: %d jobs did not finish in time and were cancelled", cancelled)
    # From here on, a client that connects starts another daemon, which waits until this one has ended.
    await listener.close()
    _end_before_long()
    await service.finish_connections()


async def _handle_signals(service: Service, listener: Listener, *, task_status: TaskStatus[None]) -> None:
    with receive_signals() as received:
        task_status.started()
        async for number in received:
            if number == HANG_UP:
                _reload(service)
                if not listener.is_reachable():  # another daemon waits for our place (`alert_once`)
                    log.warning("the socket was deleted or replaced: stopping")
                    service.stop_requested.set()
            elif service.stop_requested.is_set():
                log.warning("received a second signal: ending at once")
                listener.unlink()
                _end_at_once()
            else:
                log.info("received %s", number.name)
                service.stop_requested.set()


def _reload(service: Service) -> None:
    try:
        service.reload()
    except WhisperdError as error:
        log.error("the settings are unchanged: %s", error.message)


def _end_before_long() -> None:
    """End the process after a time limit, from a separate thread, so that no clean-up can delay it."""

    def give_up() -> None:
        log.warning("clean-up takes longer than %.0f s: ending without it", END_TIMEOUT_S)
        _end_at_once()

    timer = threading.Timer(END_TIMEOUT_S, give_up)
    timer.daemon = True
    timer.start()


def _end_at_once() -> NoReturn:
    # Workers, decoders and downloads end with this process, since the kernel closes their pipes.
    log.info("whisperd has ended")
    logging.shutdown()
    os._exit(EXIT_FORCED)


class _Announcement:
    """Reports to the client that started the daemon whether it is ready or has failed.

    If no client started it, a failure goes to standard error; that it is ready is only in the log.
    """

    def __init__(self, *, enabled: bool) -> None:
        self._output = take_output() if enabled else None  # what plugins print must not get in between
        self.is_over = False
        """Whether the daemon has started: an exception that ends it from then on is a bug."""

    def ready(self, socket: str) -> None:
        """Report that clients can connect, and detach from the terminal."""
        self.is_over = True
        if self._output is not None:
            self._write(self._output, {"socket": socket})

    def failed(self, error: WhisperdError) -> None:
        """Report why the daemon does not start."""
        if self._output is not None:
            log.error("%s %s", error.message, error.fix)
            self._write(self._output, {"error": error.to_wire()})
        else:
            sys.stderr.write(f"whisperd: {error.message}\n  {error.fix}\n")

    @staticmethod
    def _write(output: int, message: object) -> None:
        with suppress(BrokenPipeError):  # the client was interrupted while it waited
            os.write(output, json.dumps(message).encode() + b"\n")
        os.close(output)
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        os.close(nowhere)


if __name__ == "__main__":
    main()
