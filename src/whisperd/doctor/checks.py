"""What is wrong, by what was seen. Pure: facts in, findings out, the worst of each kind first told."""

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
"""Of free space: a larger model, or another bundle, does not fit."""
FULL_BYTES: Final = 50_000_000
"""The log, the data base and uploads need some."""

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
    """Every check but those of the socket, in the order of the page."""
    return [finding for judge in _CHECKS for finding in judge(facts)]


def worst(findings: list[Finding]) -> Status:
    """How it is in all."""
    statuses = {finding.status for finding in findings}
    return "broken" if "broken" in statuses else "warning" if "warning" in statuses else "ok"


# What only a client can see


def check_daemon(ours: str, theirs: str | None, pid: int | None, problem: Finding | None) -> Finding:
    """Whether a daemon answers, and whether it is of our version; `problem` is why none does."""
    if problem is not None:
        return problem
    if theirs != ours:
        return _warning(
            "daemon",
            f"The daemon is of version {theirs}, and this program of {ours}.",
            "Make it this one: `whisperctl daemon restart`.",
        )
    return _ok("daemon", f"whisperd {theirs} answers, process {pid}")


def check_socket(facts: SocketFacts) -> Iterator[Finding]:
    """The socket, and who may get at it."""
    name, folder = "socket", facts.path.rpartition("/")[0]
    if facts.kind == "other":
        yield _broken(
            name,
            f"{facts.path} is no socket.",
            "Move that file away, or set WHISPERD_SOCKET to another path.",
        )
    elif not facts.owned:
        yield _broken(
            name,
            f"{facts.path} or its folder belongs to another user.",
            "Set WHISPERD_SOCKET to a path in a folder of your own.",
        )
    elif facts.folder_is_open:
        yield _broken(
            name,
            f"Others can change what is in the folder {folder}.",
            f"Close it to them: `chmod 700 {quote(folder)}`.",
        )
    elif facts.kind == "socket" and not facts.listening:
        yield _warning(
            name,
            f"{facts.path} was left behind by a daemon that is dead.",
            "`whisperctl daemon start` replaces it.",
        )
    elif facts.kind == "none" and facts.locked:
        yield _broken(
            name,
            f"A daemon runs, but its socket {facts.path} is gone.",
            "End it: `whisperctl daemon stop --force`; another one is started when it is needed.",
        )
    elif facts.listening and facts.mode is not None and facts.mode & 0o077:
        yield _broken(
            name, f"Others can use {facts.path}.", f"Close it to them: `chmod 600 {quote(facts.path)}`."
        )
    else:
        yield _ok(name, f"{facts.path}, for you alone" if facts.listening else f"{facts.path}, not there yet")


# All others


def _settings(facts: Facts) -> Iterator[Finding]:
    if facts.settings_problem is not None:
        yield _broken("settings", facts.settings_problem.message, facts.settings_problem.fix)
    else:
        what = "valid" if facts.settings_exist else "none: the defaults hold"
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
        return _ok(name, f"{path}, read only: what is there is used")
    return _ok(name, path if folder.exists else f"{path}, not there yet")


def _unusable(folder: FolderFacts, name: str) -> Iterator[Finding]:
    """Why a folder is of no use, the worst first."""
    path, elsewhere = folder.path, f"or set {_VARIABLES[folder.role]} to another place"
    if folder.error is not None:
        yield _broken(
            name,
            f"{path} cannot be looked at: {folder.error}.",
            f"Check its permissions and disk, {elsewhere}.",
        )
    if not folder.is_folder:
        yield _broken(name, f"{path} is no folder.", f"Move that file away, {elsewhere}.")
    if folder.foreign is not None:
        yield _broken(
            name,
            f"{folder.foreign} belongs to another user, as after a command with `sudo`.",
            f'Make it yours: `sudo chown -R "$USER" {quote(path)}`.',
        )
    if not folder.writable and not folder.exists:
        yield _broken(name, f"{path} is not there, and cannot be made.", f"Make it, {elsewhere}.")
    if not folder.writable and folder.role == "state":
        yield _broken(name, f"{path} cannot be written to.", f"Check its permissions and disk, {elsewhere}.")
    if folder.role == "natives" and not folder.executable:
        yield _broken(
            name,
            f"Libraries in {path} cannot be run: its disk forbids that (noexec).",
            f"Mount it without noexec, {elsewhere}.",
        )


def _open_to_others(folder: FolderFacts, name: str) -> Iterator[Finding]:
    if folder.mode is None or not folder.owned:
        return
    is_secret = folder.role == "state"
    if folder.mode & (0o077 if is_secret else 0o022):
        yield _warning(
            name,
            f"Others can {'read' if is_secret else 'change'} what is in {folder.path}.",
            f"Close it to them: `chmod {'700' if is_secret else 'go-w'} {quote(folder.path)}`.",
        )


def _disk(facts: Facts) -> Iterator[Finding]:
    told: set[int | None] = set()
    # One disk is told of once, by what takes the most room on it.
    for folder in sorted(facts.folders, key=lambda folder: _BY_SIZE.index(folder.role)):
        if folder.free_bytes is None or not folder.writable or (folder.device in told and folder.device):
            continue
        told.add(folder.device)
        free, where = size(folder.free_bytes), f"where {folder.path} is"
        fix = f"Make room there, or set {_VARIABLES[folder.role]} to a folder on a larger disk."
        if folder.free_bytes < FULL_BYTES:
            yield _broken("disk", f"Only {free} are free on the disk {where}.", fix)
        elif folder.free_bytes < NEARLY_FULL_BYTES and folder.role in ("natives", "models"):
            yield _warning("disk", f"Only {free} are free on the disk {where}.", fix)
        else:
            yield _ok("disk", f"{free} free {where}")


def _database(facts: Facts) -> Iterator[Finding]:
    if facts.database_problem is not None:
        yield _broken("data base", facts.database_problem.message, facts.database_problem.fix)
    elif facts.database_is_gone:
        yield _broken(
            "data base",
            "It was removed or replaced while the daemon was running, which can keep nothing without it.",
            "Put it back, if you can; then run `whisperctl daemon restart`.",
        )
    elif facts.set_aside:
        kept = facts.set_aside[-1]
        yield _warning(
            "data base",
            f"It was found damaged and begun anew; the old one is {kept}.",
            "Save your runtimes and profiles again where they are missing, then delete that file.",
        )
    else:
        yield _ok("data base", "sound" if facts.database_exists else "not there yet")


def _backends(facts: Facts) -> Iterator[Finding]:
    usable = [one.variant.name for one in facts.variants if one.problem is None]
    if not facts.variants:
        yield _broken(
            "backends",
            "No backend is installed.",
            "Install one: `pip install whisperd-ctranslate2` into the environment of whisperd.",
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
            "The Python of whisperd has no pip, which installs native bundles.",
            "Install it there: `python -m ensurepip`.",
        )


def _bundles(facts: Facts) -> Iterator[Finding]:
    for bundle in facts.bundles:
        if bundle.version is not None or bundle.needed:
            yield _bundle(bundle, facts)


def _bundle(bundle: BundleFacts, facts: Facts) -> Finding:
    name = "bundle"
    if bundle.version is None:
        if facts.is_offline:
            return _broken(
                name,
                f"{bundle.name} is not installed, and downloads are forbidden.",
                "Unset WHISPERD_OFFLINE and run `whisperctl daemon restart`, or set WHISPERD_NATIVE_DIR to a "
                "folder that has it.",
            )
        return _ok(name, f"{bundle.name}, not installed yet: it is when it is first used")
    if bundle.damaged:
        more = f" and {len(bundle.damaged) - 1} more files" if bundle.damaged[1:] else ""
        return _broken(
            name,
            f"{bundle.name} is damaged: {bundle.damaged[0]}{more}.",
            f"Mend it: `whisperctl natives install {bundle.name}`.",
        )
    return _ok(name, f"{bundle.name} {bundle.version}, whole")


def _models(facts: Facts) -> Iterator[Finding]:
    if problem := facts.models_problem:
        if not any(folder.role == "models" and folder.error for folder in facts.folders):  # that tells it
            yield _broken("models", problem.message, problem.fix)
        return
    whole = [model.name for model in facts.models if not model.damaged]
    for model in facts.models:
        if model.damaged:
            files = ", ".join(model.damaged)
            yield _broken(
                "model",
                f"{model.name} is damaged: {files}.",
                f"Fetch what is damaged again: `whisperctl models pull {quote(model.name)}`.",
            )
    if whole:
        yield _ok("models", f"{', '.join(whole)}: whole")
    elif not facts.models and facts.is_offline:
        yield _warning(
            "models",
            "None is installed, and downloads are forbidden.",
            "Unset WHISPERD_OFFLINE and run `whisperctl daemon restart`, or bring one: "
            "`whisperctl models import FOLDER NAME`.",
        )
    elif not facts.models:
        yield _ok("models", "none yet: one is downloaded when it is first used")


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
                f"The default, {runtime.name}, is disabled.",
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
            f"{what[:1].upper()}{what[1:]} could not be looked at: {why}",
            "Once that is over or mended, `whisperctl hardware` looks at this computer anew.",
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
        yield _ok("GPU", "no NVIDIA GPU: the processor computes")


def _libraries(facts: Facts) -> Iterator[Finding]:
    name = "libraries"
    clean = facts.hardware.unknown.keys().isdisjoint(("cuda_libraries", "blas"))  # else nobody knows
    for variable in ("LD_PRELOAD", "DYLD_INSERT_LIBRARIES"):
        if facts.environment.get(variable):
            clean = False
            yield _warning(
                name,
                f"{variable} loads {facts.environment[variable]} into every program.",
                f"Unset {variable}, run `whisperctl daemon restart`, and see whether that changes anything.",
            )
    for folder, found in facts.clashing.items():
        clean = False
        yield _warning(
            name,
            f"LD_LIBRARY_PATH names {folder}, which has {', '.join(found)}.",
            "Bundles bring their own, and are kept from it; if an engine fails all the same, take it out of "
            "LD_LIBRARY_PATH and run `whisperctl daemon restart`.",
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
                f"There are {count} versions of {library} on this computer.",
                "Bundles bring their own; where they are not used, name the right one with CUDA_PATH.",
            )
    if clean:
        yield _ok(name, "nothing that could get in the way")


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
            else f"Something failed {times} by a mistake of whisperd's, last at {last[part, how]}.",
            "`whisperctl daemon logs` says more; please report it with `whisperctl doctor --report`.",
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
