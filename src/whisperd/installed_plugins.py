"""The backends that are installed, and why a plugin is skipped."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from whisperd.announcement import faults, names_a_module
from whisperd.plugins import PROJECT, Backend, Variant
from whisperd.rpc.errors import WhisperdError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = ["backends", "find_variant", "problems", "variants", "versions"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Found:
    backends: tuple[Backend, ...]
    problems: tuple[WhisperdError, ...]
    versions: Mapping[str, str]
    """The version of each backend's distribution, by the backend's name."""


def backends() -> tuple[Backend, ...]:
    """Return every installed backend, sorted by name. `problems` lists the plugins that cannot be used."""
    return _find().backends


def problems() -> tuple[WhisperdError, ...]:
    """Return why plugins were skipped: `plugin.broken`, `plugin.invalid`, `plugin.name_taken`.

    `data` of each has `plugin` (its entry point), `distribution` (None if unknown) and `module`.
    """
    return tuple(problem.copy() for problem in _find().problems)


def variants() -> list[tuple[Backend, Variant]]:
    """Return every variant of every backend, the highest priority first."""
    pairs = [(backend, variant) for backend in backends() for variant in backend.variants]
    return sorted(pairs, key=lambda pair: -pair[1].priority)


def find_variant(name: str) -> tuple[Backend, Variant] | None:
    """Return the variant of that name and its backend."""
    return next((pair for pair in variants() if pair[1].name == name), None)


def versions() -> dict[str, str]:
    """Return the version of each backend's distribution, by the backend's name."""
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
    except Exception:  # one distribution has an unreadable list: read the others
        found: dict[str, list[EntryPoint]] = {}
        for distribution in distributions():
            try:
                own = list(distribution.entry_points.select(group=PROJECT))
                found.setdefault(distribution.name, own)  # the first on the path counts, as for imports
            except Exception:
                log.exception("skipping a distribution whose entry points cannot be read")
        return [entry_point for own in found.values() for entry_point in own]


def _announced(entry_point: EntryPoint) -> Backend | None:
    """Return the backend that a plugin announces. Raises `plugin.broken` and `plugin.invalid`."""
    import pluggy

    class Hooks:
        """The hooks that a plugin implements."""

        @pluggy.HookspecMarker(PROJECT)
        def whisperd_backend(self) -> Backend | None:
            """Announce a backend."""

    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(Hooks)
    if not names_a_module(entry_point.value):
        raise _invalid(entry_point, f"its entry point does not name a module: {entry_point.value!r}")
    try:
        plugin = entry_point.load()
        manager.register(plugin)
        manager.check_pending()  # an unknown hook is a misspelt one
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
    """Raise `plugin.name_taken` if another backend uses one of its names, which would then be ambiguous."""
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
    fix = "Update or uninstall the distribution that it comes from."
    if distribution is not None:
        fix = (
            f"Update it with `pip install --upgrade {distribution}`, or remove it with "
            f"`pip uninstall {distribution}`."
        )
    data = {"plugin": entry_point.name, "distribution": distribution, "module": entry_point.value}
    return WhisperdError(code, f"{message}.", fix, data)


def _called(entry_point: EntryPoint) -> str:
    distribution = _distribution(entry_point)
    return f"{entry_point.name} of {distribution}" if distribution else entry_point.name


def _distribution(entry_point: EntryPoint) -> str | None:
    return entry_point.dist.name if entry_point.dist else None


def _version(entry_point: EntryPoint) -> str:
    return (entry_point.dist and entry_point.dist.version) or "unknown"
