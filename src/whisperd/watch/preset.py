"""The settings of a watch: a folder, and what to do with its files. Validated here; pure."""

from __future__ import annotations

import os
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from whisperd.outputs import FORMATS
from whisperd.rpc.errors import WhisperdError
from whisperd.watch.names import DEFAULT_TEMPLATE, check_template
from whisperd.watch.quiet import parse_quiet_hours

__all__ = ["WatchChanges", "WatchPreset", "changed", "invalid"]

Text = Annotated[str, Meta(min_length=1, max_length=4096)]
Globs = Annotated[tuple[Text, ...], Meta(max_length=100)]
After = Literal["stay", "move", "delete"]


class WatchPreset(msgspec.Struct, frozen=True, kw_only=True):
    """A watch as it is saved."""

    id: str
    path: str
    """Absolute."""
    recursive: bool = True
    include: tuple[str, ...] = ()
    """Patterns; if empty, all audio and video files match."""
    exclude: tuple[str, ...] = ()
    runtime: str | None = None
    """The id of a runtime; None for that of the profile, or else the default one."""
    profile: str | None = None
    options: dict[str, Any] = {}
    """Job options, as in a request."""
    outputs: tuple[str, ...] = ("text",)
    """Names of output formats."""
    output_dir: str | None = None
    """Absolute; None for the folder of the recording."""
    name: str = DEFAULT_TEMPLATE
    overwrite: bool = False
    after: After = "stay"
    move_to: str | None = None
    """Absolute."""
    command: tuple[str, ...] = ()
    notify: bool = False
    quiet_hours: str | None = None
    paused: bool = False
    created: str
    changed: str
    version: int = 1


class WatchChanges(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The settings of a watch that a user can change. `runtime` is a name or an id."""

    recursive: bool | UnsetType = UNSET
    include: Globs | UnsetType = UNSET
    exclude: Globs | UnsetType = UNSET
    runtime: Text | UnsetType | None = UNSET
    profile: Text | UnsetType | None = UNSET
    options: dict[str, Any] | UnsetType = UNSET
    outputs: Annotated[tuple[Text, ...], Meta(min_length=1, max_length=20)] | UnsetType = UNSET
    output_dir: Text | UnsetType | None = UNSET
    name: Text | UnsetType = UNSET
    overwrite: bool | UnsetType = UNSET
    after: After | UnsetType = UNSET
    move_to: Text | UnsetType | None = UNSET
    command: Annotated[tuple[Text, ...], Meta(max_length=100)] | UnsetType = UNSET
    notify: bool | UnsetType = UNSET
    quiet_hours: Text | UnsetType | None = UNSET


def changed(preset: WatchPreset, changes: WatchChanges) -> WatchPreset:
    """Return the watch with these changes. Raises `watch.invalid`, which names the field."""
    values = {field: value for field, value in msgspec.structs.asdict(changes).items() if value is not UNSET}
    if isinstance(values.get("outputs"), tuple):
        values["outputs"] = tuple(dict.fromkeys(values["outputs"]))
    after = msgspec.structs.replace(preset, **values)
    if after.after != "move" and "after" in values and "move_to" not in values:
        after = msgspec.structs.replace(after, move_to=None)
    _check(after)
    return after


def _check(preset: WatchPreset) -> None:
    for output in preset.outputs:
        if output not in FORMATS:
            raise invalid("outputs", f"There is no format {output!r}.", f"Use some of {', '.join(FORMATS)}.")
    if (problem := check_template(preset.name, preset.outputs)) is not None:
        raise invalid("name", problem, "Use a template such as {stem}.{lang}.{ext}.")
    for field in ("path", "output_dir", "move_to"):
        value = getattr(preset, field)
        if value is not None and "\0" in value:
            raise invalid(field, f"{value!r} contains a NUL character, which no path can.", "Remove it.")
        if value is not None and not os.path.isabs(value):
            raise invalid(field, f"{value!r} is not absolute.", "Give an absolute path.")
    if preset.after == "move" and preset.move_to is None:
        raise invalid(
            "move_to", "There is no folder to move the recordings to.", "Name it with `--move-to FOLDER`."
        )
    if preset.after != "move" and preset.move_to is not None:
        raise invalid(
            "move_to",
            "`move_to` names a folder, but `after` does not say that recordings are moved.",
            "Add `--after move`, or leave out `--move-to`.",
        )
    if preset.quiet_hours is not None:
        fix = "Write them as 22:00-07:00; 00:00-24:00 is the whole day."
        try:
            spans = parse_quiet_hours(preset.quiet_hours)
        except ValueError as error:
            raise invalid("quiet_hours", f"{error}.", fix) from error
        if any(begin == end for begin, end in spans):
            raise invalid("quiet_hours", "Quiet hours must not begin and end at the same time.", fix)
    _check_options(preset)


def _check_options(preset: WatchPreset) -> None:
    if "runtime" in preset.options:
        raise invalid(
            "options", "The runtime of a watch folder is not a job option.", "Set its `runtime` instead."
        )
    if preset.runtime is not None and preset.options.get("model") is not None:
        raise invalid(
            "runtime",
            "The watch folder names both a runtime and a model, but a runtime has its own model.",
            "Leave out one of them.",
        )


def invalid(field: str, message: str, fix: str) -> WhisperdError:
    """`watch.invalid`: a setting is not valid."""
    return WhisperdError("watch.invalid", message, fix, {"field": field})
