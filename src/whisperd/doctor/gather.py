"""Gathers facts about whisperd on this computer. Changes nothing; reports what it cannot inspect."""

from __future__ import annotations

import datetime
import importlib.util
import os
import stat
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Final

import msgspec
from anyio import to_thread

from whisperd import disk, paths
from whisperd._version import __version__
from whisperd.audio import media_lock
from whisperd.doctor.crashes import crashes_in
from whisperd.doctor.facts import (
    BundleFacts,
    Crash,
    Facts,
    FolderFacts,
    FolderRole,
    ModelFacts,
    RuntimeFacts,
)
from whisperd.installed_plugins import problems
from whisperd.models import ModelStore
from whisperd.natives import Bundle, InstalledBundle, NativeStore
from whisperd.rpc.errors import WhisperdError
from whisperd.runtimes import Computer, JudgedVariant
from whisperd.settings import is_offline, load_settings
from whisperd.store import problem_with

__all__ = ["gather", "gather_here"]

VARIABLES: Final = (
    "CUDA_PATH",
    "CUDA_VISIBLE_DEVICES",
    "DYLD_INSERT_LIBRARIES",
    "DYLD_LIBRARY_PATH",
    "LD_LIBRARY_PATH",
    "LD_PRELOAD",
    "MKLROOT",
    "OPENBLAS_PATH",
    "PYTHONHOME",
    "PYTHONPATH",
)
CLASHING: Final = (
    "libavcodec", "libavformat", "libcublas", "libcudart", "libcudnn", "libctranslate2", "libggml", "libgomp",
    "libmkl", "libonnxruntime", "libopenblas", "libstdc++", "libwhisper",
)  # fmt: skip
"""Libraries that bundles contain or are linked with."""
MANY_FILES: Final = 2_000
"""At most so many files of a folder are checked for their owner."""


async def gather_here() -> Facts:
    """Gather the facts in a client, when no daemon runs."""
    natives = NativeStore(paths.native_dir(), offline=is_offline())
    models = ModelStore(paths.models_dir(), offline=is_offline())
    return await gather(natives, models, Computer(), paths.config_file())


async def gather(
    natives: NativeStore,
    models: ModelStore,
    computer: Computer,
    config_file: Path,
    runtimes: Sequence[RuntimeFacts] | None = None,
    *,
    is_config_named: bool = False,
    database_is_gone: bool = False,
) -> Facts:
    """Gather all facts except the socket. Only a daemon passes the optional arguments."""
    hardware = await computer.look_again()
    judged = await computer.judged_variants()
    bundles = await _bundles(natives, judged)
    known = [Bundle("media", media_lock()), *filter(None, (Bundle.of(one.variant) for one in judged))]
    left_over = await natives.left_over(known)
    model_facts: tuple[ModelFacts, ...] = ()
    models_problem = None
    try:
        model_facts = await _models(models)
    except WhisperdError as error:
        models_problem = error
    facts = await to_thread.run_sync(_facts, config_file, is_config_named)
    return msgspec.structs.replace(
        facts,
        hardware=hardware,
        variants=tuple(judged),
        bundles=bundles,
        left_over_bytes=sum(one.size_bytes for one in left_over),
        models=model_facts,
        models_problem=models_problem,
        runtimes=None if runtimes is None else tuple(runtimes),
        database_is_gone=database_is_gone,
    )


def _facts(config_file: Path, is_config_named: bool) -> Facts:
    """Gather the facts that need blocking I/O; run in a thread."""
    settings_problem: WhisperdError | None = None
    try:
        load_settings(config_file, has_to_be_there=is_config_named)
    except WhisperdError as error:
        settings_problem = error
    database = paths.database_file()
    siblings = disk.contents(database.parent)
    crashes: tuple[Crash, ...] = ()
    log_problem = None
    try:
        crashes = crashes_in(_log_lines(paths.log_file()), datetime.datetime.now())
    except OSError as error:
        log_problem = f"The log {paths.log_file()} cannot be read: {error.strerror or error}."
    return Facts(
        version=__version__,
        python=".".join(map(str, sys.version_info[:3])),
        settings_path=str(config_file),
        settings_exist=os.path.lexists(config_file),
        settings_problem=settings_problem,
        folders=(
            _folder("settings", config_file.parent),
            _folder("state", paths.state_dir()),
            _folder("natives", paths.native_dir()),
            _folder("models", paths.models_dir()),
        ),
        database_exists=database in siblings,
        database_problem=problem_with(database),
        set_aside=tuple(
            str(path)
            for path in sorted(siblings)
            if path.name.startswith(f"{database.name}.damaged-") and not path.name.endswith(("-wal", "-shm"))
        ),
        has_pip=importlib.util.find_spec("pip") is not None,
        is_offline=is_offline(),
        plugin_problems=problems(),
        environment={name: os.environ[name] for name in VARIABLES if os.environ.get(name)},
        clashing=_clashing(os.environ),
        crashes=crashes,
        log_problem=log_problem,
    )


async def _bundles(natives: NativeStore, judged: Sequence[JudgedVariant]) -> tuple[BundleFacts, ...]:
    """Return each bundle that this computer can use; of its files, only those touched since installation are
    read.
    """
    found = []
    usable = [one.variant for one in judged if one.problem is None]
    media = Bundle("media", media_lock())
    of_variants = list(filter(None, map(Bundle.of, usable)))
    has_bundle = bool(usable) and usable[0].lock is not None
    needed = await to_thread.run_sync(_needed, natives, of_variants) if has_bundle else None
    for bundle in (media, *of_variants):
        try:
            installed: InstalledBundle | None = await to_thread.run_sync(natives.find, bundle)
        except WhisperdError:  # it does not support this system, which the variant's finding reports
            continue
        damage = await natives.verify(installed, quickly=True) if installed else ()
        found.append(
            BundleFacts(
                name=bundle.name,
                version=installed.version if installed else None,
                needed=bundle in (media, needed),
                damaged=tuple(each.path for each in damage),
            )
        )
    return tuple(found)


def _needed(natives: NativeStore, bundles: Sequence[Bundle]) -> Bundle | None:
    """Return the bundle of these, the best of which comes first, that would be used: one that need not be
    built if possible, and while downloads are forbidden an installed one.
    """
    ranked = sorted(bundles, key=natives.has_to_be_built)
    if is_offline():
        ranked.sort(key=lambda bundle: natives.find(bundle) is None)
    return ranked[0] if ranked else None


async def _models(models: ModelStore) -> tuple[ModelFacts, ...]:
    """Return each installed model; only files touched since they were verified are read.

    Raises `WhisperdError` if the models cannot be listed.
    """
    found = []
    for model in await models.list():
        damaged: tuple[str, ...] = ()
        try:
            if await models.find(model.name) is None:
                await models.verify(model.name)
        except OSError:
            damaged = ("unreadable",)
        except WhisperdError as error:
            if error.code in ("model.not_installed", "model.unknown"):
                continue  # it was deleted meanwhile
            damaged = tuple(error.data.get("files", ("unreadable",)))
        found.append(ModelFacts(name=model.name, damaged=damaged))
    return tuple(found)


def _folder(role: FolderRole, path: Path) -> FolderFacts:
    try:
        there = path.stat()
        if stat.S_ISDIR(there.st_mode):
            os.scandir(path).close()  # fails if it belongs to another user, as after `sudo`
    except FileNotFoundError:
        if link := next(
            (one for one in (path, *path.parents) if one.is_symlink() and not one.exists()), None
        ):
            error = f"{link} is a dangling link"
            return FolderFacts(role=role, path=str(path), error=error)
        above = next((folder for folder in path.parents if folder.exists()), path)
        return FolderFacts(
            role=role,
            path=str(path),
            exists=False,
            writable=above.is_dir() and os.access(above, os.W_OK | os.X_OK),
            free_bytes=_free_bytes(above),
            device=above.stat().st_dev,
            executable=_is_executable(above),
        )
    except OSError as error:
        is_below_a_file = isinstance(error, NotADirectoryError)
        reason = None if is_below_a_file else error.strerror or str(error)
        return FolderFacts(role=role, path=str(path), is_folder=not is_below_a_file, error=reason)
    if not stat.S_ISDIR(there.st_mode):
        return FolderFacts(role=role, path=str(path), is_folder=False)
    is_posix = os.name == "posix"
    return FolderFacts(
        role=role,
        path=str(path),
        writable=_can_write(path),
        mode=stat.S_IMODE(there.st_mode) if is_posix else None,
        owned=not is_posix or there.st_uid == os.geteuid(),
        foreign=_foreign(path) if is_posix and there.st_uid == os.geteuid() else None,
        free_bytes=_free_bytes(path),
        device=there.st_dev,
        executable=_is_executable(path),
    )


def _can_write(folder: Path) -> bool:
    """Whether a file can be created. This is tried, since permissions do not show a read-only disk."""
    if not os.access(folder, os.W_OK | os.X_OK):
        return False
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError as error:
        return disk.refusal(error) == "full"  # reported by the disk's finding


def _foreign(folder: Path) -> str | None:
    """Return a file of another user in the folder or in one directly below it."""
    me = os.geteuid()
    nearest = disk.contents(folder)
    below = (path for one in nearest for path in disk.contents(one))
    for path in islice(chain(nearest, below), MANY_FILES):
        try:
            if path.lstat().st_uid != me:
                return str(path)
        except OSError:
            continue  # it was just deleted
    return None


def _free_bytes(folder: Path) -> int | None:
    try:
        return disk.free_bytes(folder)
    except OSError:
        return None


def _is_executable(folder: Path) -> bool:
    """Whether libraries on the folder's disk can be executed."""
    flag = getattr(os, "ST_NOEXEC", 0)
    try:
        return not (flag and os.statvfs(folder).f_flag & flag)
    except (OSError, AttributeError):
        return True


def _clashing(environment: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    found = {}
    for folder in filter(None, environment.get("LD_LIBRARY_PATH", "").split(":")):
        try:
            names = sorted(path.name for path in Path(folder).iterdir())
        except OSError:
            continue
        if clashing := [name for name in names if name.startswith(CLASHING) and ".so" in name]:
            found[folder] = tuple(clashing[:5])
    return found


def _log_lines(log_file: Path) -> Iterable[str]:
    """Yield the lines of the rotated logs and the current one, the oldest first."""
    rotated = [file for file in log_file.parent.glob(f"{log_file.name}.*") if file.suffix[1:].isdecimal()]
    for file in [*sorted(rotated, key=lambda file: -int(file.suffix[1:])), log_file]:
        if file.exists():
            with file.open(encoding="utf-8", errors="replace") as lines:
                yield from lines
