"""Turns the gathered facts into findings. Pure. Of several faults of a folder, reports only the worst."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from shlex import quote
from typing import Final

from whisperd.doctor.facts import (
    BundleFacts,
    Facts,
    Finding,
    FolderFacts,
    FolderRole,
    SocketFacts,
    Status,
)
from whisperd.quantities import size

__all__ = ["check", "check_daemon", "check_socket", "worst"]

NEARLY_FULL_BYTES: Final = 1_000_000_000
"""With less free space than this, a larger model or another bundle does not fit."""
FULL_BYTES: Final = 50_000_000
"""With less free space than this, the log, the database and uploads may fail."""

_TITLES: Final[dict[FolderRole, str]] = {
    "settings": "settings folder",
    "state": "state folder",
    "natives": "bundle folder",
    "models": "model folder",
}
_BY_SIZE: Final[tuple[FolderRole, ...]] = ("models", "natives", "state", "settings")
_VARIABLES: Final[dict[FolderRole, str]] = {
    "settings": "WHISPERD_CONFIG",
    "state": "WHISPERD_STATE_DIR",
    "natives": "WHISPERD_NATIVE_DIR",
    "models": "WHISPERD_MODELS_DIR",
}


def check(facts: Facts) -> list[Finding]:
    """Run every check except those of daemon and socket, in the order in which they are shown."""
    return [finding for judge in _CHECKS for finding in judge(facts)]


def worst(findings: list[Finding]) -> Status:
    """Return the most severe status among the findings."""
    statuses = {finding.status for finding in findings}
    return "broken" if "broken" in statuses else "warning" if "warning" in statuses else "ok"


# Checks that only a client can make


def check_daemon(ours: str, theirs: str | None, pid: int | None, problem: Finding | None) -> Finding:
    """Check that a daemon responds and has our version; `problem` says why none responds."""
    if problem is not None:
        return problem
    if theirs != ours:
        return _warning(
            "daemon",
            f"The daemon has version {theirs}, this program has version {ours}.",
            "Restart the daemon with this version: `whisperctl daemon restart`.",
        )
    return _ok("daemon", f"whisperd {theirs} responds, process {pid}")


def check_socket(facts: SocketFacts) -> Iterator[Finding]:
    """Check the socket, and who can access it."""
    name, folder = "socket", facts.path.rpartition("/")[0]
    if facts.kind == "other":
        yield _broken(
            name,
            f"{facts.path} is not a socket.",
            "Move that file away, or set WHISPERD_SOCKET to another path.",
        )
    elif not facts.owned:
        yield _broken(
            name,
            f"{facts.path} or its folder belongs to another user.",
            "Set WHISPERD_SOCKET to a path in a folder that you own.",
        )
    elif facts.folder_is_open:
        yield _broken(
            name,
            f"Other users can write to the folder {folder}.",
            f"Deny them access: `chmod 700 {quote(folder)}`.",
        )
    elif facts.kind == "socket" and not facts.listening:
        yield _warning(
            name,
            f"{facts.path} was left behind by a daemon that died.",
            "Run `whisperctl daemon start`, which replaces it.",
        )
    elif facts.kind == "none" and facts.locked:
        yield _broken(
            name,
            f"A daemon runs, but its socket {facts.path} was deleted.",
            "Stop it: `whisperctl daemon stop --force`; a new one starts when it is needed.",
        )
    elif facts.listening and facts.mode is not None and facts.mode & 0o077:
        yield _broken(
            name, f"Other users can use {facts.path}.", f"Deny them access: `chmod 600 {quote(facts.path)}`."
        )
    else:
        state = "private to you" if facts.listening else "not created yet"
        yield _ok(name, f"{facts.path}, {state}")


# All other checks


def _settings(facts: Facts) -> Iterator[Finding]:
    if facts.settings_problem is not None:
        yield _broken("settings", facts.settings_problem.message, facts.settings_problem.fix)
    else:
        what = "valid" if facts.settings_exist else "no such file: the defaults apply"
        yield _ok("settings", f"{facts.settings_path}, {what}")


def _folders(facts: Facts) -> Iterator[Finding]:
    for folder in facts.folders:
        if folder.role != "settings" or folder.error or not folder.is_folder:
            yield _folder(folder)


def _folder(folder: FolderFacts) -> Finding:
    name, path = _TITLES[folder.role], folder.path
    faults = (*_unusable(folder, name), *_open_to_others(folder, name))
    if faults:
        return faults[0]
    if not folder.writable:
        return _ok(name, f"{path}, read-only: its contents are used")
    return _ok(name, path if folder.exists else f"{path}, not created yet")


def _unusable(folder: FolderFacts, name: str) -> Iterator[Finding]:
    """Yield why a folder cannot be used, the worst fault first."""
    path, elsewhere = folder.path, f"or set {_VARIABLES[folder.role]} to another path"
    if folder.error is not None:
        yield _broken(
            name,
            f"{path} cannot be read: {folder.error}.",
            f"Check its permissions and disk, {elsewhere}.",
        )
    if not folder.is_folder:
        yield _broken(name, f"{path} is not a folder.", f"Move that file away, {elsewhere}.")
    if folder.foreign is not None:
        yield _broken(
            name,
            f"{folder.foreign} belongs to another user, perhaps since a command was run with `sudo`.",
            f'Take ownership: `sudo chown -R "$USER" {quote(path)}`.',
        )
    if not folder.writable and not folder.exists:
        yield _broken(name, f"{path} does not exist and cannot be created.", f"Create it, {elsewhere}.")
    if not folder.writable and folder.role == "state":
        yield _broken(name, f"{path} cannot be written to.", f"Check its permissions and disk, {elsewhere}.")
    if folder.role == "natives" and not folder.executable:
        yield _broken(
            name,
            f"Libraries in {path} cannot be loaded: its file system is mounted with noexec.",
            f"Mount it without noexec, {elsewhere}.",
        )


def _open_to_others(folder: FolderFacts, name: str) -> Iterator[Finding]:
    if folder.mode is None or not folder.owned:
        return
    is_secret = folder.role == "state"
    if folder.mode & (0o077 if is_secret else 0o022):
        yield _warning(
            name,
            f"Other users can {'access' if is_secret else 'write to'} {folder.path}.",
            f"Deny them that: `chmod {'700' if is_secret else 'go-w'} {quote(folder.path)}`.",
        )


def _disk(facts: Facts) -> Iterator[Finding]:
    reported: set[int | None] = set()
    # Each disk is reported once, for the folder that takes the most space on it.
    for folder in sorted(facts.folders, key=lambda folder: _BY_SIZE.index(folder.role)):
        if folder.free_bytes is None or not folder.writable or (folder.device in reported and folder.device):
            continue
        reported.add(folder.device)
        free = size(folder.free_bytes)
        fix = f"Free some space there, or set {_VARIABLES[folder.role]} to a folder on a larger disk."
        if folder.free_bytes < FULL_BYTES:
            yield _broken("disk", f"Only {free} are free on the disk of {folder.path}.", fix)
        elif folder.free_bytes < NEARLY_FULL_BYTES and folder.role in ("natives", "models"):
            yield _warning("disk", f"Only {free} are free on the disk of {folder.path}.", fix)
        else:
            yield _ok("disk", f"{free} free on the disk of {folder.path}")


def _database(facts: Facts) -> Iterator[Finding]:
    if facts.database_problem is not None:
        yield _broken("database", facts.database_problem.message, facts.database_problem.fix)
    elif facts.database_is_gone:
        yield _broken(
            "database",
            "It was deleted or replaced while the daemon was running, so the daemon can save nothing.",
            "Restore it if you can, then run `whisperctl daemon restart`.",
        )
    elif facts.set_aside:
        damaged = facts.set_aside[-1]
        yield _warning(
            "database",
            f"It was damaged and replaced by an empty one; the damaged file is {damaged}.",
            "Create the runtimes and profiles that are missing again, then delete that file.",
        )
    else:
        yield _ok("database", "intact" if facts.database_exists else "not created yet")


def _backends(facts: Facts) -> Iterator[Finding]:
    usable = [one.variant.name for one in facts.variants if one.problem is None]
    if not facts.variants:
        yield _broken(
            "backends",
            "No backend is installed.",
            "Install one into the environment of whisperd: `pip install whisperd-ctranslate2`.",
        )
    elif not usable:
        problem = facts.variants[-1].problem
        assert problem is not None
        yield _broken("backends", f"No variant can be used. {problem.message}", problem.fix)
    else:
        others = len(facts.variants) - len(usable)
        more = f"; {others} cannot be used here" if others else ""
        yield _ok("backends", f"{', '.join(usable)}{more}")
    for problem in facts.plugin_problems:
        yield _warning("plugin", problem.message, problem.fix)
    if not facts.has_pip:
        yield _broken(
            "pip",
            "The Python that runs whisperd has no pip, which is needed to install native bundles.",
            "Install it with that Python: `python -m ensurepip`.",
        )


def _bundles(facts: Facts) -> Iterator[Finding]:
    for bundle in facts.bundles:
        if bundle.version is not None or bundle.needed:
            yield _bundle(bundle, facts)
    is_writable = all(folder.writable for folder in facts.folders if folder.role == "natives")
    if facts.left_over_bytes and is_writable:  # a shared folder is for others to clean up
        yield _warning(
            "bundles",
            f"Bundles for other versions of whisperd or Python take up to {size(facts.left_over_bytes)}.",
            "If you no longer use those versions, delete them: `whisperctl natives prune`.",
        )


def _bundle(bundle: BundleFacts, facts: Facts) -> Finding:
    name = "bundle"
    if bundle.version is None:
        if facts.is_offline:
            return _broken(
                name,
                f"{bundle.name} is not installed, and downloads are forbidden.",
                "Unset WHISPERD_OFFLINE and run `whisperctl daemon restart`, or set WHISPERD_NATIVE_DIR to a "
                "folder that contains it.",
            )
        return _ok(name, f"{bundle.name}, not installed yet: installed on first use")
    if bundle.damaged:
        others = len(bundle.damaged) - 1
        more = f" and {others} more {'file' if others == 1 else 'files'}" if others else ""
        return _broken(
            name,
            f"{bundle.name} is damaged: {bundle.damaged[0]}{more}.",
            f"Repair it: `whisperctl natives install {bundle.name}`.",
        )
    return _ok(name, f"{bundle.name} {bundle.version}, intact")


def _models(facts: Facts) -> Iterator[Finding]:
    if problem := facts.models_problem:
        if not any(folder.role == "models" and folder.error for folder in facts.folders):  # already reported
            yield _broken("models", problem.message, problem.fix)
        return
    intact = [model.name for model in facts.models if not model.damaged]
    for model in facts.models:
        if model.damaged:
            files = ", ".join(model.damaged)
            yield _broken(
                "model",
                f"{model.name} is damaged: {files}.",
                f"Download the damaged files again: `whisperctl models pull {quote(model.name)}`.",
            )
    if intact:
        yield _ok("models", f"{', '.join(intact)}: intact")
    elif not facts.models and facts.is_offline:
        yield _warning(
            "models",
            "None is installed, and downloads are forbidden.",
            "Unset WHISPERD_OFFLINE and run `whisperctl daemon restart`, or import one: "
            "`whisperctl models import FOLDER NAME`.",
        )
    elif not facts.models:
        yield _ok("models", "none yet: downloaded on first use")


def _runtimes(facts: Facts) -> Iterator[Finding]:
    if facts.runtimes is None:
        return
    sound = True
    for runtime in facts.runtimes:
        if runtime.problem is not None:
            sound = False
            yield _warning(
                "runtime", f"{runtime.name} failed: {runtime.problem.message}", runtime.problem.fix
            )
        elif runtime.default and not runtime.enabled:
            sound = False
            yield _warning(
                "runtime",
                f"{runtime.name}, the default, is disabled.",
                f"Enable it: `whisperctl runtimes enable {quote(runtime.name)}`.",
            )
    if sound:
        default = next((runtime for runtime in facts.runtimes if runtime.default), None)
        yield _ok("runtimes", f"{len(facts.runtimes)}; {default.name} is the default" if default else "none")


def _hardware(facts: Facts) -> Iterator[Finding]:
    unknown: dict[str, list[str]] = {}
    for fact, why in facts.hardware.unknown.items():
        unknown.setdefault(why, []).append(_FACTS.get(fact, fact))
    for why, (*others, last) in unknown.items():
        what = f"{', '.join(others)} and {last}" if others else last
        yield _warning(
            "hardware",
            f"{what[:1].upper()}{what[1:]} could not be inspected: {why}",
            "Fix the cause, then run `whisperctl hardware` to detect this computer's hardware again.",
        )


def _driver(facts: Facts) -> Iterator[Finding]:
    gpus = facts.hardware.gpus
    if gpus.gpus:
        names = ", ".join(gpu.name for gpu in gpus.gpus)
        version = f", driver {gpus.driver}" if gpus.driver else ""
        problems = [one.problem for one in facts.variants if one.variant.device == "cuda"]
        problem = next(iter(problems), None)
        if problem is None or None in problems:
            yield _ok("GPU", f"{names}{version}")
        else:
            yield _warning("GPU", f"{names}: {problem.message}", problem.fix)
    elif gpus.problem is not None and gpus.problem.data.get("reason") not in ("no_driver", "no_gpu"):
        yield _warning("GPU", gpus.problem.message, gpus.problem.fix)
    else:
        yield _ok("GPU", "no NVIDIA GPU: the CPU is used")


def _libraries(facts: Facts) -> Iterator[Finding]:
    name = "libraries"
    # If these could not be inspected, the libraries are not reported as fine.
    clean = facts.hardware.unknown.keys().isdisjoint(("cuda_libraries", "blas"))
    for variable in ("LD_PRELOAD", "DYLD_INSERT_LIBRARIES"):
        if facts.environment.get(variable):
            clean = False
            yield _warning(
                name,
                f"{variable} loads {facts.environment[variable]} into every program.",
                f"If something fails, unset {variable}, run `whisperctl daemon restart` and try again.",
            )
    for folder, found in facts.clashing.items():
        clean = False
        yield _warning(
            name,
            f"LD_LIBRARY_PATH names {folder}, which contains {', '.join(found)}.",
            "Bundles bring their own and are isolated from that folder; if an engine fails all the same, "
            "remove it from LD_LIBRARY_PATH and run `whisperctl daemon restart`.",
        )
    cuda, blas = facts.hardware.cuda_libraries, facts.hardware.blas
    for note in (*(cuda.notes if cuda else ()), *(blas.notes if blas else ())):
        clean = False
        yield _warning(name, note, "Correct that variable or unset it, then run `whisperctl daemon restart`.")
    majors = Counter(
        library.name
        for library in {(one.name, one.major): one for one in (cuda.found if cuda else ())}.values()
        if library.major is not None
    )
    for library, count in majors.items():
        if count > 1:
            clean = False
            yield _warning(
                name,
                f"This computer has {count} versions of {library}.",
                "Bundles bring their own; if you use none, set CUDA_PATH to the right version.",
            )
    if clean:
        yield _ok(name, "no conflicts")


def _crashes(facts: Facts) -> Iterator[Finding]:
    if facts.log_problem is not None:
        yield _warning("crashes", facts.log_problem, "Check the permissions of the log and of its folder.")
        return
    if not facts.crashes:
        yield _ok("crashes", "none in the last 7 days")
    kinds = Counter((crash.part, crash.how) for crash in facts.crashes)
    last = {(crash.part, crash.how): crash.time for crash in facts.crashes}
    for (part, how), count in kinds.items():
        times = "once" if count == 1 else f"{count} times"
        yield _warning(
            "crashes",
            f"{_PARTS[part]} ended {times} in the last 7 days ({how}), last at {last[part, how]}."
            if part != "mistake"
            else f"Something failed {times} because of a bug in whisperd, last at {last[part, how]}.",
            "See `whisperctl daemon logs` for details; please report it with `whisperctl doctor --report`.",
        )


_FACTS: Final = {
    "system": "the system",
    "processor": "the processor",
    "memory": "the memory",
    "cuda_libraries": "CUDA libraries",
    "blas": "BLAS libraries",
    "tools": "compilers",
}
_PARTS: Final = {"daemon": "The daemon", "worker": "An engine", "decoder": "A decoder"}

_CHECKS: Final[tuple[Callable[[Facts], Iterator[Finding]], ...]] = (
    _settings,
    _folders,
    _disk,
    _database,
    _backends,
    _bundles,
    _models,
    _runtimes,
    _hardware,
    _driver,
    _libraries,
    _crashes,
)


def _ok(name: str, message: str) -> Finding:
    return Finding(name=name, status="ok", message=message)


def _warning(name: str, message: str, fix: str) -> Finding:
    return Finding(name=name, status="warning", message=message, fix=fix)


def _broken(name: str, message: str, fix: str) -> Finding:
    return Finding(name=name, status="broken", message=message, fix=fix)
