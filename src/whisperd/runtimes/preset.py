"""The preset of a runtime and the valid values of its fields. Pure: reads no files and no hardware.

`new_preset` and `changed_preset` check every field separately and against the others; `check_against`
checks a preset against this computer's capabilities. All of them raise `runtime.invalid`, which names the
field in its data and the values that would work in its fix.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, get_args

import msgspec
from msgspec import UNSET, UnsetType

from whisperd.clock import now_rfc3339
from whisperd.quantities import parsed_duration
from whisperd.rpc.errors import WhisperdError
from whisperd.runtimes import errors
from whisperd.settings import MAX_KEEP_ALIVE_S, RuntimeSettings
from whisperd.worker.protocol import MAX_REPLICAS, ComputeType

__all__ = [
    "RELOADING",
    "USUAL_BATCH_SIZE",
    "Capabilities",
    "Device",
    "RuntimeChanges",
    "RuntimePreset",
    "changed_preset",
    "check_against",
    "check_name",
    "needs_reload",
    "new_preset",
    "parse_keep_alive",
]

Device = Literal["auto", "cuda", "cpu"]

RELOADING: Final = frozenset(
    {
        "model",
        "backend",
        "device",
        "device_index",
        "compute_type",
        "cpu_threads",
        "workers",
        "batched",
        "batch_size",
    }
)
"""The fields whose change requires the model to be reloaded."""

MAX_MODEL_CHARACTERS: Final = 4096
LIMITS: Final = {"cpu_threads": (0, 1024), "workers": (0, MAX_REPLICAS), "batch_size": (1, 256)}
"""The minimum and maximum of a field."""

USUAL_BATCH_SIZE: Final = 4

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._ -]{0,63}")
_BACKEND = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


class RuntimePreset(msgspec.Struct, frozen=True, kw_only=True):
    """A saved runtime: a model and how to run it."""

    id: str
    """Never changes and is never reused."""
    name: str
    model: str
    """The canonical name in the model store."""
    backend: str = "auto"
    device: Device = "auto"
    device_index: tuple[int, ...] = ()
    """GPU numbers; with several, one replica runs on each. Empty: chosen automatically. Implies a GPU."""
    compute_type: ComputeType = "auto"
    cpu_threads: int = 0
    """Threads of each replica; 0: chosen automatically."""
    workers: int = 0
    """Replicas, i.e. batches computed concurrently; 0: chosen automatically, usually one per core or GPU."""
    batched: bool = True
    batch_size: int = USUAL_BATCH_SIZE
    """Windows computed together, if `batched`. `USUAL_BATCH_SIZE` leaves the choice to calibration."""
    keep_alive: float = 900.0
    """Seconds that it stays loaded while unused; 0: unload at once, -1: never unload."""
    enabled: bool = True
    protected: bool = False
    """Whether it cannot be deleted."""
    created: str
    """RFC 3339, like `changed`."""
    changed: str
    version: int = 1
    """Incremented with every change."""

    @property
    def wanted_device(self) -> Device:
        """The required device; `auto` if any will do."""
        return "cuda" if self.device_index else self.device


class RuntimeChanges(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The fields of a runtime that a user sets, with valid types but unchecked values."""

    name: str | UnsetType = UNSET
    model: str | UnsetType = UNSET
    backend: str | UnsetType = UNSET
    device: str | UnsetType = UNSET
    device_index: tuple[int, ...] | UnsetType = UNSET
    compute_type: str | UnsetType = UNSET
    cpu_threads: int | UnsetType = UNSET
    workers: int | UnsetType = UNSET
    batched: bool | UnsetType = UNSET
    batch_size: int | UnsetType = UNSET
    keep_alive: float | str | UnsetType = UNSET
    protected: bool | UnsetType = UNSET


@dataclass(frozen=True)
class Capabilities:
    """This computer's capabilities that matter for presets."""

    backends: Mapping[str, Mapping[str, tuple[str, ...]]]
    """The compute types by backend and device (`cpu`, `cuda`), the best first."""
    gpu_count: int = 0
    """The number of usable GPUs, which are numbered from 0."""
    gpu_problem: WhisperdError | None = field(default=None, compare=False)
    """Why no GPU is usable, if there is more to say than that there is none."""
    cpu_count: int = 1


def new_preset(
    changes: RuntimeChanges,
    settings: RuntimeSettings,
    *,
    now: str | None = None,
    id_: str | None = None,
    check: bool = True,
) -> RuntimePreset:
    """Return a new preset, with the settings' values for missing fields. `now` is RFC 3339.

    Name and model are required. `check=False` is for presets that are not saved, whose names need not be
    valid. Raises `WhisperdError` (`runtime.invalid`).
    """
    named = _set_values(changes)
    chosen = {
        "compute_type": settings.compute_type,
        "cpu_threads": settings.cpu_threads,
        "workers": 0 if named.get("device_index") else settings.workers,
        "batch_size": settings.batch_size,
        "keep_alive": settings.keep_alive_s,
        **named,
    }
    for needed in ("name", "model"):
        if needed not in chosen:
            raise _invalid(needed, f"A runtime needs a {needed}.", f"Specify its {needed}.")
    now = now or now_rfc3339()
    values = _checked(chosen) if check else chosen
    preset = RuntimePreset(id=id_ or secrets.token_hex(4), created=now, changed=now, **values)
    if check:
        _check_together(preset)
    return preset


def changed_preset(
    preset: RuntimePreset, changes: RuntimeChanges, *, now: str | None = None
) -> RuntimePreset:
    """Return the preset with the changes and the next version, or the same object if nothing differs.

    Raises `WhisperdError` (`runtime.invalid`).
    """
    changed = msgspec.structs.replace(preset, **_checked(_set_values(changes)))
    if changed == preset:
        return preset
    _check_together(changed)
    return msgspec.structs.replace(changed, changed=now or now_rfc3339(), version=preset.version + 1)


def needs_reload(before: RuntimePreset, after: RuntimePreset) -> bool:
    """Whether a runtime loaded with the preset `before` must be reloaded for `after`."""
    return any(getattr(before, name) != getattr(after, name) for name in RELOADING)


def check_name(name: str, noun: errors.Noun) -> str:
    """Return the name unchanged. Raises `runtime.invalid` or `profile.invalid`."""
    if _NAME.fullmatch(name) and name == name.strip():
        return name
    raise WhisperdError(
        f"{noun}.invalid",
        f"A {noun} cannot be named {name!r}.",
        "Use up to 64 letters (a to z, A to Z), digits, spaces, dots, hyphens and underscores. Begin with a "
        "letter or digit, and do not end with a space.",
        {"field": "name"},
    )


def parse_keep_alive(value: float | str) -> float:
    """Return the seconds for a number or a text such as `90`, `15m`, `1h30m`, `0`, `-1` or `never` (-1).

    Raises `WhisperdError` (`runtime.invalid`).
    """
    seconds = _seconds(value) if isinstance(value, str) else float(value)
    if seconds is not None and (seconds == -1 or 0 <= seconds <= MAX_KEEP_ALIVE_S):
        return seconds
    raise _invalid(
        "keep_alive",
        f"{value!r:.100} is not a valid keep-alive time.",
        "Give seconds or a duration such as 90s, 15m or 1h30m (units s, m, h, d, w, each at most once; at "
        "most 365 days), 0 to unload at once, or -1 or never to keep it loaded.",
    )


def _seconds(text: str) -> float | None:
    text = "".join(text.split()).lower()
    if text in ("never", "-1"):
        return -1.0
    return parsed_duration(text if text.strip("0123456789.") else f"{text}s")


# Single fields


def _set_values(changes: RuntimeChanges) -> dict[str, Any]:
    return {name: value for name, value in msgspec.structs.asdict(changes).items() if value is not UNSET}


def _checked(values: dict[str, Any]) -> dict[str, Any]:
    """Return the field values after checking each of them separately."""
    checked = dict(values)
    for name, value in values.items():
        match name:
            case "name":
                check_name(value, "runtime")
            case "model":
                _check_model(value)
            case "backend":
                _check_backend(value)
            case "device":
                _check_choice(name, value, get_args(Device))
            case "compute_type":
                _check_choice(name, value, get_args(ComputeType))
            case "device_index":
                _check_device_index(value)
            case "keep_alive":
                checked[name] = parse_keep_alive(value)
            case _ if name in LIMITS:
                _check_limits(name, value)
    return checked


def _check_model(model: str) -> None:
    if not model.strip() or len(model) > MAX_MODEL_CHARACTERS or "\0" in model or not _is_text(model):
        fix = (
            "Use a name from `whisperctl models available`, a hub repository (owner/name) or a model folder."
        )
        raise _invalid("model", f"{model!r:.100} is not a valid model name.", fix)


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:  # a file name that is not valid text
        return False
    return True


def _check_backend(backend: str) -> None:
    if not _BACKEND.fullmatch(backend):
        fix = "Use auto, or the name of a backend such as ctranslate2."
        raise _invalid("backend", f"{backend!r:.100} is not a valid backend name.", fix)


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise _invalid(
            name, f"There is no {_label(name)} {value!r:.100}.", f"Use {_or_list(choices)}.", possible=choices
        )


def _check_device_index(indexes: tuple[int, ...]) -> None:
    if len(set(indexes)) != len(indexes):
        raise _invalid("device_index", "The device index lists a GPU twice.", "List each GPU once.")
    if any(index < 0 for index in indexes):
        fix = "Number GPUs from 0, or use none to choose one automatically."
        raise _invalid("device_index", "A device index cannot be negative.", fix)


def _check_limits(name: str, value: int) -> None:
    least, most = LIMITS[name]
    if not least <= value <= most:
        chosen = "; 0 chooses it automatically" if least == 0 else ""
        fix = f"Use a number from {least} to {most}{chosen}."
        raise _invalid(name, f"The {_label(name)} cannot be {value}.", fix, least=least, most=most)


# Fields against each other


def _check_together(preset: RuntimePreset) -> None:
    if preset.device_index and preset.device == "cpu":
        raise _invalid(
            "device_index",
            "The device index selects GPUs, but the device is cpu.",
            "Set the device index to none, or the device to cuda.",
        )
    replicas = len(preset.device_index)
    if replicas > 1 and preset.workers not in (0, replicas):
        raise _invalid(
            "workers",
            f"Each of the {replicas} GPUs has one worker, but the number of workers is {preset.workers}.",
            f"Set the workers to 0 or {replicas}, or select only one GPU.",
            possible=(0, replicas),
        )


# A preset against this computer


def check_against(preset: RuntimePreset, computer: Capabilities) -> None:
    """Raise the error that keeps this computer from running such a runtime, if any.

    It is `runtime.invalid`, `backend.none` or, if a GPU is needed and none is usable, the `gpu_problem`.
    """
    backends = _check_has_backend(preset, computer)
    devices = _check_has_device(preset, backends, computer)
    _check_has_gpus(preset, computer)
    _check_can_compute(preset, backends, devices)
    if preset.cpu_threads > computer.cpu_count:
        raise _invalid(
            "cpu_threads",
            f"A worker cannot have {preset.cpu_threads} threads: this computer has {computer.cpu_count} CPU "
            "cores.",
            f"Use at most {computer.cpu_count}, or 0 to choose the number automatically.",
            most=computer.cpu_count,
        )


Backends = Mapping[str, Mapping[str, tuple[str, ...]]]


def _check_has_backend(preset: RuntimePreset, computer: Capabilities) -> Backends:
    """Return the backends that may be chosen."""
    if not computer.backends:
        raise errors.no_backend()
    if preset.backend == "auto":
        return computer.backends
    if preset.backend in computer.backends:
        return {preset.backend: computer.backends[preset.backend]}
    choices = ("auto", *sorted(computer.backends))
    raise _invalid(
        "backend", f"There is no backend {preset.backend!r}.", f"Use {_or_list(choices)}.", possible=choices
    )


def _check_has_device(preset: RuntimePreset, backends: Backends, computer: Capabilities) -> tuple[str, ...]:
    """Return the devices that may be chosen."""
    offered = {device for devices in backends.values() for device in devices}
    if computer.gpu_count == 0:
        offered.discard("cuda")
    if not offered:
        raise (
            computer.gpu_problem.copy()
            if computer.gpu_problem
            else _invalid(
                "backend",
                "This computer has no usable GPU, and "
                f"{'no backend can' if preset.backend == 'auto' else f'the backend {preset.backend} cannot'}"
                " run without one.",
                "Use another backend; `whisperctl hardware` shows what each one needs.",
            )
        )
    wanted = preset.wanted_device
    if wanted == "auto":
        return tuple(sorted(offered))
    if wanted in offered:
        return (wanted,)
    if wanted == "cuda" and computer.gpu_problem is not None:
        raise computer.gpu_problem.copy()
    if wanted == "cuda" and computer.gpu_count == 0:
        reason = "This computer has no usable GPU."
    elif preset.backend == "auto":
        reason = f"No installed backend can use the device {wanted}."
    else:
        reason = f"The backend {preset.backend} cannot use the device {wanted}."
    choices = ("auto", *sorted(offered))
    if preset.device_index:
        fix = f"Set the device index to none and the device to {_or_list(choices)}."
        raise _invalid("device_index", reason, fix, possible=())
    raise _invalid("device", reason, f"Use {_or_list(choices)}.", possible=choices)


def _check_has_gpus(preset: RuntimePreset, computer: Capabilities) -> None:
    missing = [index for index in preset.device_index if index >= computer.gpu_count]
    if missing:
        there = tuple(range(computer.gpu_count))
        raise _invalid(
            "device_index",
            f"This computer has no GPU {_or_list(missing)}.",
            f"Use {_or_list(there)}, or none to choose one automatically.",
            possible=there,
        )


def _check_can_compute(preset: RuntimePreset, backends: Backends, devices: tuple[str, ...]) -> None:
    possible = {
        device: tuple(dict.fromkeys(kind for offers in backends.values() for kind in offers.get(device, ())))
        for device in devices
    }
    if preset.compute_type == "auto" or any(preset.compute_type in kinds for kinds in possible.values()):
        return
    where = "; ".join(f"on {device} {_or_list(kinds)}" for device, kinds in possible.items() if kinds)
    backend = "" if preset.backend == "auto" else f" with the backend {preset.backend}"
    raise _invalid(
        "compute_type",
        f"This computer cannot compute in {preset.compute_type} on {_or_list(devices)}{backend}.",
        f"Use auto{f', or {where}' if where else ''}.",
        possible=possible,
    )


def _label(name: str) -> str:
    return {"cpu_threads": "number of CPU threads", "workers": "number of workers"}.get(
        name, name.replace("_", " ")
    )


def _or_list(choices: Iterable[object]) -> str:
    *most, last = map(str, choices)
    return f"{', '.join(most)} or {last}" if most else last


def _invalid(name: str, message: str, fix: str, **data: Any) -> WhisperdError:
    return WhisperdError("runtime.invalid", message, fix, {"field": name, **data})
