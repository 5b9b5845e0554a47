"""Recommend models for a computer. Pure: the computer's memory and measured speeds are passed in."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Final, Protocol

import msgspec

from whisperd.models.catalogue import CatalogueModel
from whisperd.quantities import size
from whisperd.rpc.errors import WhisperdError

__all__ = [
    "Recommendation",
    "SizedModel",
    "SpeedOf",
    "recommend",
    "speeds_from",
    "suitable_model",
    "too_large",
]

COMFORTABLE_SPEED: Final = 10.0
"""Times real time: ten seconds of speech take one second. Anything slower is too slow for dictation."""
LADDER: Final = ("tiny", "base", "small", "large-v3-turbo")
"""The models to recommend, the least accurate first. `large-v3-turbo` beats `medium` in every respect, and
the gain of `large-v3` over it is hardly ever worth the time."""
UNMEASURED: Final = "base"
"""The largest model to recommend on a CPU whose speed is unknown."""

_TURBO_GPU_BYTES: Final = 6 * 10**9
_SMALL_GPU_BYTES: Final = 2_500_000_000
_BASE_BYTES: Final = 2 * 2**30
_USABLE: Final = 0.8
"""The share of all memory that a model may use; the rest is for the system and other programs."""
_KEPT_LOADED: Final = 0.3
"""The share of all memory that a model may use while it stays loaded."""
_BATCH_SIZE: Final = 4

SpeedOf = Callable[[CatalogueModel], float | None]
"""Returns how many seconds of speech a model transcribes per second on this computer; None if unknown."""


class SizedModel(Protocol):
    """What determines whether a model fits, such as one of the catalogue."""

    @property
    def name(self) -> str:
        """For display."""

    @property
    def english_only(self) -> bool:
        """Whether it knows only English."""

    def memory_bytes(self, compute_type: str, *, batch_size: int, device: str) -> int:
        """Like `whisperd.models.memory.need_bytes`."""


class Recommendation(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a model suits this computer."""

    name: str
    memory: int
    """Bytes that it needs, estimated: of the GPU's memory if there is one, else of the computer's."""
    size: int | None
    """Bytes on disk, or to download; None if unknown."""
    fits: bool
    recommended: bool
    """True for one model, or for none if no recommendable model fits."""
    speed: float | None
    """Expected seconds of speech per second on this computer; None if nothing was measured."""
    measured: bool
    """Whether this model was measured; else its speed is extrapolated from another one by their sizes."""
    reason: str
    """A few words for display."""
    summary: str
    """One line for display: all of the above."""


def speeds_from(measured: Mapping[str, float], models: Iterable[CatalogueModel]) -> SpeedOf:
    """Extrapolate the speed of every model from measured ones: time grows in proportion to the parameters."""
    known = [(model.parameters_millions, measured[model.name]) for model in models if model.name in measured]

    def speed_of(model: CatalogueModel) -> float | None:
        if model.name in measured or not known:
            return measured.get(model.name)
        wanted = model.parameters_millions
        parameters, speed = min(known, key=lambda one: abs(math.log(one[0] / wanted)))
        return speed * parameters / wanted

    return speed_of


def suitable_model(
    memory_total: int,
    gpu_total: int,
    *,
    models: Iterable[CatalogueModel],
    speed_of: SpeedOf,
    language: str | None = None,
) -> str:
    """Return the model to start with. Memory in bytes: `gpu_total` is that of the largest GPU that a backend
    here can use, 0 if there is none. `models` are those of the catalogue.
    """
    known = {model.name: model for model in models}
    able = [known[name] for name in LADDER if _knows(known[name], language)]
    most = _most_by_memory(memory_total, gpu_total, able, speed_of)
    steps = [model for model in able if LADDER.index(model.name) <= LADDER.index(most)]
    best = next((model.name for model in reversed(steps) if _is_fast(speed_of(model))), able[0].name)
    # English-only models are slightly better at English, in the sizes that have one.
    english = f"{best}.en"
    return english if language == "en" and english in known else best


def recommend(
    models: Iterable[CatalogueModel],
    memory_total: int,
    gpu_total: int,
    *,
    language: str | None = None,
    measured: Mapping[str, float] | None = None,
) -> tuple[Recommendation, ...]:
    """Return a recommendation for each model that knows a language, the best choice first.

    Memory as in `suitable_model`; `measured` has speeds by model. Models that fit come before those that do
    not, and models that are fast enough, the most accurate first, before slower ones.
    """
    models = tuple(models)
    able = [model for model in models if _knows(model, language)]
    measured = measured or {}
    speed_of = speeds_from(measured, models)
    best = suitable_model(memory_total, gpu_total, language=language, models=models, speed_of=speed_of)
    best_parameters = next(model.parameters_millions for model in models if model.name == best)
    on_gpu = gpu_total >= _SMALL_GPU_BYTES

    def rank(model: CatalogueModel) -> tuple[object, ...]:
        speed, parameters = speed_of(model), model.parameters_millions
        is_fast = parameters <= best_parameters if speed is None else _is_fast(speed)
        is_english = model.english_only and language != "en"
        fits = _fits(model, memory_total, gpu_total)
        is_first = model.name == best and fits
        return not is_first, not fits, not is_fast, -parameters if is_fast else parameters, is_english

    def judge(model: CatalogueModel) -> Recommendation:
        speed, fits = speed_of(model), _fits(model, memory_total, gpu_total)
        memory = _need(model, on_gpu)
        reason = _reason(model, fits, model.name == best, model.parameters_millions - best_parameters, on_gpu)
        return Recommendation(
            name=model.name,
            memory=memory,
            size=model.size_bytes,
            fits=fits,
            recommended=model.name == best and fits,
            speed=None if speed is None else round(speed, 1),
            measured=model.name in measured,
            reason=reason,
            summary=_summary(model.name, memory, speed if fits else None, reason),
        )

    return tuple(judge(model) for model in sorted(able, key=rank))


def _reason(model: CatalogueModel, fits: bool, is_best: bool, more_parameters: float, on_gpu: bool) -> str:
    """Return a few words; `more_parameters` is relative to the best model."""
    if not fits:
        return "needs more memory than there is"
    if is_best:
        reason = "best balance on this GPU" if on_gpu else "best balance on this CPU"
    elif more_parameters > 0:
        reason = "slower, more accurate"
    elif more_parameters < 0:
        reason = "faster, less accurate"
    else:
        reason = "equally fast"
    return f"{reason}; English only" if model.english_only else reason


def too_large(
    model: SizedModel,
    memory_total: int,
    gpu_total: int,
    models: Iterable[CatalogueModel],
    *,
    compute_type: str = "auto",
) -> WhisperdError | None:
    """Return `model.too_large` if a model needs more memory than this computer, or its largest GPU, has.

    This is a warning before a download or after an import; it forbids nothing. The criterion is the least
    that the model needs, with one worker that computes one window at a time: on the CPU if there is no GPU
    (`gpu_total` is 0).
    """
    total = gpu_total or memory_total

    def need(other: SizedModel) -> int:
        device, kind = ("cuda", "float16") if gpu_total else ("cpu", "int8")
        kind = kind if compute_type == "auto" else compute_type
        return other.memory_bytes(kind, batch_size=1, device=device)

    if need(model) <= total * _USABLE:
        return None
    smaller = [
        other
        for other in models
        if need(other) <= total * _USABLE and (model.english_only or not other.english_only)
    ]
    largest = max(smaller, key=lambda other: other.parameters_millions, default=None)
    whose = "of GPU memory, and the GPU has" if gpu_total else "of memory, and this computer has"
    return WhisperdError(
        "model.too_large",
        f"The model {model.name} needs about {size(need(model))} {whose} {size(total)}.",
        f"Use {largest.name}, the largest that fits; `whisperctl models recommend` shows all that do."
        if largest
        else "Use a computer with more memory.",
        {"needed": need(model), "total": total, "largest": largest.name if largest else None},
    )


def _most_by_memory(
    memory_total: int, gpu_total: int, able: Iterable[CatalogueModel], speed_of: SpeedOf
) -> str:
    """Return the largest model on the ladder that fits; `able` are the ladder's models, smallest first."""
    # A GPU has speed to spare: its memory is the limit, and the desktop may use some of it, too.
    if gpu_total >= _TURBO_GPU_BYTES:
        return "large-v3-turbo"
    if gpu_total >= _SMALL_GPU_BYTES:
        return "small"
    # On a CPU speed is the limit, not memory: `small` would fit almost anywhere, and takes three times
    # as long as `base` for each second of speech.
    measured = [
        model.name
        for model in able
        if speed_of(model) is not None and _need(model, False) <= memory_total * _KEPT_LOADED
    ]
    if measured:
        return measured[-1]
    return UNMEASURED if memory_total >= _BASE_BYTES else LADDER[0]


def _knows(model: CatalogueModel, language: str | None) -> bool:
    return language is None or language in model.languages


def _is_fast(speed: float | None) -> bool:
    return speed is None or speed >= COMFORTABLE_SPEED


def _need(model: CatalogueModel, on_gpu: bool) -> int:
    device, compute_type = ("cuda", "float16") if on_gpu else ("cpu", "int8")
    return model.memory_bytes(compute_type, batch_size=_BATCH_SIZE, device=device)


def _fits(model: CatalogueModel, memory_total: int, gpu_total: int) -> bool:
    if gpu_total >= _SMALL_GPU_BYTES:
        return _need(model, True) <= gpu_total * _USABLE
    return _need(model, False) <= memory_total * _USABLE


def _summary(name: str, memory: int, speed: float | None, reason: str) -> str:
    hour = f"an hour of speech in about {_time(3600 / speed)}, " if speed else ""
    return f"{name}: {hour}{size(memory)} of memory; {reason}"


def _time(seconds: float) -> str:
    """Format a duration for display: `45 s`, `4 min`, `2.5 h`."""
    if seconds < 59.5:
        return f"{max(1, round(seconds))} s"
    minutes = seconds / 60
    if minutes < 9.5:
        return f"{minutes:.1f}".removesuffix(".0") + " min"
    return f"{round(minutes)} min" if minutes < 90 else f"{minutes / 60:.1f}".removesuffix(".0") + " h"
