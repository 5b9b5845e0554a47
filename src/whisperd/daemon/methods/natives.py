"""`natives.*`: the native bundles of the decoder and of every variant."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

import anyio.to_thread

from whisperd.daemon.bundles import native_bundles
from whisperd.daemon.service import Call
from whisperd.daemon.trials import try_bundle
from whisperd.installed_plugins import find_variant
from whisperd.natives import Bundle, InstalledBundle
from whisperd.rpc.errors import WhisperdError
from whisperd.rpc.messages import Name, Named, NoParams
from whisperd.runtimes.computer import Computer

_HINDRANCES = ("platform", "frameworks", "compiler", "blas", "tools")


class VersionParams(Named, frozen=True):
    """Which bundle, and optionally which version of it."""

    version: Name | None = None


async def list_(call: Call, params: NoParams) -> list[dict[str, Any]]:
    """Return every bundle, whether this computer can use it, and which versions are installed."""
    installed = await call.service.natives.list()
    judged = {one.variant.name: one.problem for one in await call.service.computer.judged_variants()}
    return await anyio.to_thread.run_sync(
        lambda: [_describe(call, bundle, installed, judged.get(bundle.name)) for bundle in native_bundles()]
    )


async def install(call: Call, params: Named) -> dict[str, Any]:
    """Install a bundle, or repair a damaged one; publish progress on the topic `natives`."""
    bundle = _bundle(params.name)
    await _check_is_possible(call, params.name)
    installed = await call.service.natives.install(bundle, call.service.on_native_progress, repair=True)
    return _installed(installed)


async def verify(call: Call, params: Named) -> dict[str, Any]:
    """Compare every file of an installed bundle with its hash; publish progress on the topic `natives`."""
    installed = await _find(call, params.name)
    on_progress = call.service.on_native_progress
    damage = await call.service.natives.verify(installed, on_progress=on_progress)
    if damage:
        await _find(call, params.name)  # it may have been deleted meanwhile
    return {**_installed(installed), "ok": not damage, "damage": damage}


async def upgrade(call: Call, params: VersionParams) -> dict[str, Any]:
    """Install the newest or the given version of a bundle, try it, and use it from now on.

    Loaded runtimes keep their version.
    """

    async def trial(installed: InstalledBundle) -> str:
        return await try_bundle(call.service, installed)

    service = call.service
    bundle = _bundle(params.name)
    await _check_is_possible(call, params.name)
    done = await service.natives.upgrade(bundle, trial, service.on_native_progress, params.version)
    return {
        **_installed(done.installed),
        "changed": done.before is not None,
        "before": done.before,
        "tried": done.tried,
    }


async def rollback(call: Call, params: Named) -> dict[str, Any]:
    """Return to the version of a bundle that was used before the last upgrade."""
    service = call.service
    before = await anyio.to_thread.run_sync(service.natives.find, _bundle(params.name))
    installed = await service.natives.rollback(_bundle(params.name), service.on_native_progress)
    return {**_installed(installed), "before": before.version if before else None}


async def remove(call: Call, params: VersionParams) -> dict[str, Any]:
    """Delete every installed version of a bundle, or the given one."""
    _bundle(params.name)
    found = [one for one in await call.service.natives.list() if one.name == params.name]
    versions = [one for one in found if params.version in (None, one.version)]
    if not versions:
        raise _not_installed(params.name, params.version, found)
    for installed in versions:
        await call.service.natives.remove(installed)
    return {"name": params.name, "removed": [one.version for one in versions]}


async def prune(call: Call, params: NoParams) -> list[dict[str, Any]]:
    """Delete bundles left over from other versions of whisperd, Python and bundles."""
    bundles = await anyio.to_thread.run_sync(native_bundles)
    return [_installed(one) for one in await call.service.natives.prune(bundles)]


async def path(call: Call, params: Named) -> dict[str, Any]:
    """Return the path of an installed bundle."""
    return {"path": str((await _find(call, params.name)).path)}


def _bundle(name: str) -> Bundle:
    known = {bundle.name: bundle for bundle in native_bundles()}
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, 1)
    raise WhisperdError(
        "native.unknown",
        f"There is no native bundle {name!r}.",
        f"Did you mean {near[0]}?" if near else f"Use one of {', '.join(known)}.",
    )


async def _check_is_possible(call: Call, name: str) -> None:
    """Raise `variant.not_usable` if a bundle does not exist for this computer, or cannot be built on it.

    A bundle that needs a GPU or CPU feature that is missing is allowed: it may be for another computer.
    """
    computer = call.service.computer
    if await _hindrance(computer, name) is not None:
        await computer.look_again()  # what was missing may have been installed since
        if problem := await _hindrance(computer, name):
            raise problem.copy()


async def _hindrance(computer: Computer, name: str) -> WhisperdError | None:
    problems = {one.variant.name: one.problem for one in await computer.judged_variants()}
    problem = problems.get(name)
    return problem if problem and problem.data.get("missing") in _HINDRANCES else None


async def _find(call: Call, name: str) -> InstalledBundle:
    installed = await anyio.to_thread.run_sync(call.service.natives.find, _bundle(name))
    if installed is None:
        raise _not_installed(name)
    return installed


def _describe(
    call: Call, bundle: Bundle, installed: list[InstalledBundle], problem: WhisperdError | None
) -> dict[str, Any]:
    """Describe a bundle; `problem` is why this computer cannot use it. Blocks."""
    found = find_variant(bundle.name)
    natives = call.service.natives
    current, previous, download_bytes = None, None, None
    try:
        download_bytes = natives.current(bundle).select().download_bytes
        current = natives.find(bundle)
        previous = natives.previous(bundle)
    except WhisperdError as error:
        problem = problem or error
    return {
        "name": bundle.name,
        "backend": found[0].name if found else None,
        "usable": problem is None,
        "reason": problem.message if problem else None,
        "fix": problem.fix if problem else None,
        "installed": [one.version for one in installed if one.name == bundle.name],
        "current": current.version if current else None,
        "previous": previous.select().version if previous else None,
        "priority": found[1].priority if found else None,
        "built_here": bundle.build is not None,
        "download_size": download_bytes,
        "size": current.size_bytes if current else None,
    }


def _installed(installed: InstalledBundle) -> dict[str, Any]:
    return {
        "name": installed.name,
        "version": installed.version,
        "path": str(installed.path),
        "size": installed.size_bytes,
        "distributions": installed.distributions,
    }


def _not_installed(
    name: str, version: str | None = None, installed: Sequence[InstalledBundle] = ()
) -> WhisperdError:
    others = ", ".join(one.version for one in installed)
    what = f"Version {version} of the bundle {name}" if version else f"The bundle {name}"
    return WhisperdError(
        "native.not_installed",
        f"{what} is not installed.",
        f"Choose an installed version: {others}." if others else f"Run `whisperctl natives install {name}`.",
    )
