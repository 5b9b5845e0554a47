"""What a backend is, and how the daemon finds it. This file is the whole plugin interface.

A backend is a distribution with an entry point in the group `whisperd`. The module it names
implements `whisperd_backend` and announces the variants that it offers. Its engine module is
imported in a worker process only, with the variant's native bundle on the path; what the worker
asks of it stands in `whisperd.worker.protocol`. docs/plugins.md walks through writing one.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, BinaryIO

from whisperd.rpc.errors import WhisperdError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = [
    "Backend",
    "ModelFacts",
    "ModelFormat",
    "Needs",
    "Variant",
    "backends",
    "find_variant",
    "hookimpl",
    "problems",
    "variants",
    "versions",
]

log = logging.getLogger(__name__)

PROJECT = "whisperd"


def hookimpl(function: Any = None, **options: Any) -> Any:
    """Mark a function of a plugin as a hook.

    It leaves the mark of `pluggy.HookimplMarker`, and takes its options. A worker imports its plugin as well,
    and pluggy with all that it needs would be a tenth of a second for nothing.
    """
    if function is None:
        return functools.partial(hookimpl, **options)
    setattr(function, f"{PROJECT}_impl", options)
    return function


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a variant needs of a computer beside what its lock asks for. All of it has to be there."""

    platforms: Sequence[str] = ()
    """Such as `linux-x86_64` or `macos-arm64`; empty: any."""
    cpu_features: Sequence[str] = ()
    """Names of `whisperd.hardware.CPU_FEATURES`, asked of processors of that family only: `avx2` is not
    asked of an ARM processor."""
    cuda: tuple[int, int] | None = None
    """A GPU, and a driver that can do this CUDA."""
    frameworks: Sequence[str] = ()
    """Of macOS: `CoreML`, `Metal`."""
    blas: bool = False
    """OpenBLAS or MKL with its headers, to build against."""
    compiler: bool = False
    """A compiler of C++, to build with."""


@dataclass(frozen=True)
class Variant:
    """One build of a backend for one kind of hardware."""

    name: str
    """`{backend}-{hardware}`, such as `ctranslate2-cpu`; also the name of its native bundle."""
    lock: str | None
    """The text of its lock file: what to install, by hash (format: `whisperd.natives.lock`). None
    for a backend that needs no native library, such as one that asks another server."""
    device: str
    """Whose memory holds the model, and so who is asked whether there is room: `cpu`, or `cuda` for a GPU
    with memory of its own. A build for a GPU that shares the computer's memory, as Apple's do, is `cpu`."""
    priority: int
    """Where nothing was measured yet, the usable variant with the highest priority is taken."""
    compute_types: Sequence[str]
    """Precisions it can compute in, the best choice for this hardware first."""
    needs: Needs = Needs()
    """What a computer must have for it."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables for the worker, such as `CT2_FORCE_CPU_ISA`."""
    converts: Sequence[str] | None = None
    """Of its compute types those for which a model is converted to the backend's `ModelFormat`. None: all."""
    build: Mapping[str, str] | None = None
    """Of a variant that is built on this computer from the sources in its lock: variables for the build,
    such as `GGML_BLAS`. None where wheels are installed as they are."""

    def takes_converted(self, compute_type: str) -> bool:
        """Whether a model is converted for it to compute in that precision."""
        return self.converts is None or compute_type in self.converts


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """What a model file in a backend's own format says of itself."""

    format: str
    """The name of its `ModelFormat`."""
    precision: str
    """How its weights are stored, as the engine's users call it: `q5_0`. `Backend.need_bytes` is asked with
    it in place of a compute type."""
    compute_type: str
    """What the engine computes in with them; `worker.protocol.ComputeType` has the names."""
    parameters: int
    language_count: int
    """How many languages it knows, in the order of Whisper's: 1 is English alone."""


@dataclass(frozen=True, kw_only=True)
class ModelFormat:
    """A format of model files that is made here from a model in CTranslate2's format. Where `read` is given,
    people may name files of their own as well."""

    name: str
    """Such as `ggml`."""
    convert: str
    """`module:function` that a child process calls with the bundle on its path:
    `(source: Path, target: Path, precision: str, on_bytes: Callable[[int], None])`. It writes the one file
    `target` from the model in the folder `source`, in the precision of the weights that a compute type of the
    variant asks for (of `int8_float32` that is `int8`), and says each time how many bytes more of the source
    were read."""
    replaces: str | None = None
    """The file of a model's folder that this one stands for, such as `model.bin`: the engine is given a
    folder with the others and this one. Where it cannot be made, or is empty, the model is taken as it is.
    None: the engine is given the file alone, and nothing else will do."""
    version: int = 1
    """Grows when the function writes something else than before, so that old files are made again."""
    magic: bytes = b""
    """What each file of the format begins with."""
    read: Callable[[BinaryIO, int], ModelFacts] | None = None
    """Reads a file of so many bytes, which may be anything, in the daemon: with no native library, and
    nothing believed that it says. Raises ValueError with the reason, as the end of a sentence, for what the
    engine cannot load."""


@dataclass(frozen=True)
class Backend:
    """A plugin that can run Whisper."""

    name: str
    """Such as `ctranslate2`; also the name of the entry point."""
    engine: str
    """`module:function` that a worker calls to load a model: `whisperd.worker.protocol.LoadEngine`."""
    variants: Sequence[Variant]
    need_bytes: Callable[..., int] | None = None
    """Estimates the memory that a model takes, as `whisperd.models.memory.need_bytes` does for CTranslate2:
    `(parameters, compute_type, *, batch_size, replicas, device)` in bytes. None: that very estimate."""
    model_format: ModelFormat | None = None
    """None: the engine is given the folder of a model in CTranslate2's format, as the model store has it."""


@dataclass(frozen=True)
class _Found:
    backends: tuple[Backend, ...]
    problems: tuple[WhisperdError, ...]
    versions: Mapping[str, str]
    """Of the distribution of each backend."""


def backends() -> tuple[Backend, ...]:
    """Every backend that is installed, by name. A plugin that cannot be used is among `problems` instead."""
    return _find().backends


def problems() -> tuple[WhisperdError, ...]:
    """Why plugins were passed over: `plugin.broken`, `plugin.invalid`, `plugin.name_taken`.

    `data` of each has `plugin` (its entry point), `distribution` (None where that is not known) and `module`.
    """
    return tuple(problem.copy() for problem in _find().problems)


def variants() -> list[tuple[Backend, Variant]]:
    """Every variant of every backend, the highest priority first."""
    pairs = [(backend, variant) for backend in backends() for variant in backend.variants]
    return sorted(pairs, key=lambda pair: -pair[1].priority)


def find_variant(name: str) -> tuple[Backend, Variant] | None:
    """The variant of that name."""
    return next((pair for pair in variants() if pair[1].name == name), None)


def versions() -> dict[str, str]:
    """The version of the distribution that each backend comes from, by the backend's name."""
    return dict(_find().versions)


@functools.cache
def _find() -> _Found:
    found: list[Backend] = []
    versions: dict[str, str] = {}
    problems: list[WhisperdError] = []
    for entry_point in sorted(_entry_points(), key=lambda one: (one.name, _distribution(one) or "")):
        try:
            backend = _announced(entry_point)
            if backend is not None:
                _check_names_are_free(backend, found, entry_point)
                found.append(backend)
                versions[backend.name] = _version(entry_point)
        except WhisperdError as problem:
            log.warning("%s %s", problem.message, problem.fix, exc_info=problem.__cause__)
            problems.append(problem.copy())
    return _Found(tuple(sorted(found, key=lambda backend: backend.name)), tuple(problems), versions)


def _entry_points() -> list[EntryPoint]:
    from importlib.metadata import distributions, entry_points

    try:
        return list(entry_points(group=PROJECT))
    except Exception:  # one distribution, of whoever, whose list cannot be read
        found: dict[str, list[EntryPoint]] = {}
        for distribution in distributions():
            try:
                own = list(distribution.entry_points.select(group=PROJECT))
                found.setdefault(distribution.name, own)  # as anywhere on the path, the first counts
            except Exception:
                log.exception("a distribution whose entry points cannot be read is passed over")
        return [entry_point for own in found.values() for entry_point in own]


def _announced(entry_point: EntryPoint) -> Backend | None:
    """The backend of a plugin. Raises `plugin.broken` and `plugin.invalid`."""
    import pluggy

    from whisperd.announcement import faults, names_a_module

    class Hooks:
        """The hooks that a plugin implements."""

        @pluggy.HookspecMarker(PROJECT)
        def whisperd_backend(self) -> Backend | None:
            """Announce a backend."""

    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(Hooks)
    if not names_a_module(entry_point.value):
        raise _invalid(entry_point, f"its entry point names no module: {entry_point.value!r}")
    try:
        plugin = entry_point.load()
        manager.register(plugin)
        manager.check_pending()  # a hook that does not exist is a spelling mistake
        backend: Backend | None = next(iter(manager.hook.whisperd_backend()), None)
        fault = None if backend is None else next(faults(backend, entry_point.name), None)
    except (Exception, SystemExit) as error:
        raise _broken(entry_point, error) from error
    if not manager.get_hookcallers(plugin):
        fault = "it implements no hook; `@hookimpl` is missing before one"
    if fault is not None:
        raise _invalid(entry_point, fault)
    return backend


def _check_names_are_free(backend: Backend, found: Sequence[Backend], entry_point: EntryPoint) -> None:
    """Raises `plugin.name_taken`: of two that use one name, nobody could say which is meant."""
    wanted = {backend.name, *(variant.name for variant in backend.variants)}
    for other in found:
        taken = {other.name, *(variant.name for variant in other.variants)}
        if both := sorted(wanted & taken):
            raise _problem(
                "plugin.name_taken",
                f"The plugin {_called(entry_point)} is not used: another one announces {both[0]} too",
                entry_point,
            )


def _invalid(entry_point: EntryPoint, fault: str) -> WhisperdError:
    message = f"The plugin {_called(entry_point)} is not used: {fault}"
    return _problem("plugin.invalid", message, entry_point)


def _broken(entry_point: EntryPoint, error: BaseException) -> WhisperdError:
    said = f"{type(error).__name__}: {error}".partition("\n")[0][:200].rstrip(" .:")
    message = f"The plugin {_called(entry_point)} is not used: it fails with {said}"
    return _problem("plugin.broken", message, entry_point)


def _problem(code: str, message: str, entry_point: EntryPoint) -> WhisperdError:
    distribution = _distribution(entry_point)
    fix = "Update or remove the distribution that it comes from."
    if distribution is not None:
        fix = f"Update it, `pip install --upgrade {distribution}`, or `pip uninstall {distribution}`."
    data = {"plugin": entry_point.name, "distribution": distribution, "module": entry_point.value}
    return WhisperdError(code, f"{message}.", fix, data)


def _called(entry_point: EntryPoint) -> str:
    distribution = _distribution(entry_point)
    return f"{entry_point.name} of {distribution}" if distribution else entry_point.name


def _distribution(entry_point: EntryPoint) -> str | None:
    return entry_point.dist.name if entry_point.dist else None


def _version(entry_point: EntryPoint) -> str:
    return (entry_point.dist and entry_point.dist.version) or "unknown"
