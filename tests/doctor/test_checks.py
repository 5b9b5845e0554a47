"""The doctor's findings from given facts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from msgspec.structs import replace

from whisperd.doctor.checks import check, check_daemon, check_socket, worst
from whisperd.doctor.facts import (
    BundleFacts,
    Crash,
    Facts,
    Finding,
    FolderFacts,
    ModelFacts,
    RuntimeFacts,
    SocketFacts,
)
from whisperd.hardware import Gpu, Gpus, Hardware
from whisperd.hardware.facts import Libraries, Library
from whisperd.plugins import Backend, Variant
from whisperd.rpc.errors import WhisperdError
from whisperd.runtimes import JudgedVariant

GB = 10**9
PROBLEM = WhisperdError("x.y", "This is wrong.", "Do that.")
CARD = Gpu(0, "RTX", 8 * GB, 8 * GB, (8, 6))


def folder(role: str, **facts: Any) -> FolderFacts:
    usual = {"path": f"/w/{role}", "mode": 0o700, "free_bytes": 50 * GB, "device": 1}
    return FolderFacts(role=role, **{**usual, **facts})  # type: ignore[arg-type]


def variant(name: str, *, device: str = "cpu", problem: WhisperdError | None = None) -> JudgedVariant:
    announced = Variant(name=name, lock=None, device=device, priority=1, compute_types=("int8",))
    return JudgedVariant(Backend("toy", "toy:load", (announced,)), announced, problem)


WELL = Facts(
    version="1.0",
    python="3.13.0",
    settings_path="/w/config.toml",
    settings_exist=True,
    folders=tuple(folder(role) for role in ("settings", "state", "natives", "models")),
    database_exists=True,
    variants=(variant("ctranslate2-cpu"),),
    bundles=(
        BundleFacts(name="media", version="18", needed=True),
        BundleFacts(name="ctranslate2-cpu", version="4", needed=True),
    ),
    models=(ModelFacts(name="base"),),
    runtimes=(RuntimeFacts(name="base", model="base", default=True, enabled=True),),
)


def with_folder(role: str, **facts: Any) -> dict[str, Any]:
    return {"folders": tuple(folder(one.role, **facts) if one.role == role else one for one in WELL.folders)}


def with_gpus(**facts: Any) -> dict[str, Any]:
    return {"hardware": Hardware(gpus=Gpus(**facts))}


def unavailable(reason: str) -> WhisperdError:
    return WhisperdError("cuda.not_available", "It cannot be used.", "Do that.", {"reason": reason})


def libraries(*found: tuple[str, str], notes: tuple[str, ...] = ()) -> Libraries:
    return Libraries(
        found=tuple(
            Library(name=name, version=version, path=f"/usr/lib/{name}", source="the loader")
            for name, version in found
        ),
        notes=notes,
    )


def ill(facts: Facts) -> list[Finding]:
    return [finding for finding in check(facts) if finding.status != "ok"]


def test_a_healthy_installation_has_no_findings() -> None:
    findings = check(WELL)
    assert worst(findings) == "ok"
    assert [(finding.name, finding.message) for finding in findings] == [
        ("settings", "/w/config.toml, valid"),
        ("state folder", "/w/state"),
        ("bundle folder", "/w/natives"),
        ("model folder", "/w/models"),
        ("disk", "50.0 GB free on the disk of /w/models"),
        ("database", "intact"),
        ("backends", "ctranslate2-cpu"),
        ("bundle", "media 18, intact"),
        ("bundle", "ctranslate2-cpu 4, intact"),
        ("models", "base: intact"),
        ("runtimes", "1; base is the default"),
        ("GPU", "no NVIDIA GPU: the CPU is used"),
        ("libraries", "no conflicts"),
        ("crashes", "none in the last 7 days"),
    ]
    assert {finding.fix for finding in findings} == {None}


def test_bundles_of_other_versions_are_reported_to_whoever_can_delete_them() -> None:
    (found,) = ill(replace(WELL, left_over_bytes=430_000_000))
    assert (found.name, found.status) == ("bundles", "warning")
    assert "430 MB" in found.message and "whisperctl natives prune" in (found.fix or "")
    shared = with_folder("natives", writable=False)
    assert "bundles" not in [one.name for one in ill(replace(WELL, left_over_bytes=430_000_000, **shared))]


def test_a_new_user_has_nothing_to_fix() -> None:
    new = replace(
        WELL,
        settings_exist=False,
        database_exists=False,
        folders=tuple(replace(one, exists=False, mode=None) for one in WELL.folders),
        bundles=tuple(replace(one, version=None) for one in WELL.bundles),
        models=(),
        runtimes=None,
    )
    assert ill(new) == []
    assert [finding.message for finding in check(new)] == [
        "/w/config.toml, no such file: the defaults apply",
        "/w/state, not created yet",
        "/w/natives, not created yet",
        "/w/models, not created yet",
        "50.0 GB free on the disk of /w/models",
        "not created yet",
        "ctranslate2-cpu",
        "media, not installed yet: installed on first use",
        "ctranslate2-cpu, not installed yet: installed on first use",
        "none yet: downloaded on first use",
        "no NVIDIA GPU: the CPU is used",
        "no conflicts",
        "none in the last 7 days",
    ]


@pytest.mark.parametrize(
    ("changes", "name", "status", "said"),
    [
        ({"settings_problem": PROBLEM}, "settings", "broken", "This is wrong."),
        (with_folder("state", writable=False), "state folder", "broken", "WHISPERD_STATE_DIR"),
        (with_folder("state", error="Input/output error"), "state folder", "broken", "Input/output error"),
        (with_folder("state", is_folder=False), "state folder", "broken", "is not a folder"),
        (with_folder("settings", is_folder=False), "settings folder", "broken", "is not a folder"),
        (with_folder("models", exists=False, writable=False), "model folder", "broken", "cannot be created"),
        (with_folder("natives", foreign="/w/natives/.locks/x"), "bundle folder", "broken", "sudo chown -R"),
        (with_folder("natives", executable=False), "bundle folder", "broken", "noexec"),
        (
            with_folder("natives", mode=0o777),
            "bundle folder",
            "warning",
            "Other users can write to /w/natives. Deny them that: `chmod go-w /w/natives`.",
        ),
        (
            with_folder("state", mode=0o710),
            "state folder",
            "warning",
            "Other users can access /w/state. Deny them that: `chmod 700 /w/state`.",
        ),
        (with_folder("settings", error="Input/output error"), "settings folder", "broken", "cannot be read"),
        (with_folder("state", free_bytes=10**6, device=2), "disk", "broken", "1.0 MB"),
        (with_folder("models", free_bytes=GB // 2, device=2), "disk", "warning", "500 MB"),
        ({"database_problem": PROBLEM}, "database", "broken", "Do that."),
        ({"database_is_gone": True}, "database", "broken", "whisperctl daemon restart"),
        ({"set_aside": ("/w/state/whisperd.sqlite3.damaged-1",)}, "database", "warning", "damaged-1"),
        ({"variants": ()}, "backends", "broken", "pip install whisperd-ctranslate2"),
        (
            {"variants": (variant("x", problem=PROBLEM),)},
            "backends",
            "broken",
            "This is wrong.",
        ),
        ({"plugin_problems": (PROBLEM,)}, "plugin", "warning", "This is wrong."),
        ({"has_pip": False}, "pip", "broken", "ensurepip"),
        (
            {"bundles": (BundleFacts(name="media", version="18", needed=True, damaged=("av/a.so", "b")),)},
            "bundle",
            "broken",
            "av/a.so and 1 more file. Repair it: `whisperctl natives install media`.",
        ),
        (
            {"bundles": (BundleFacts(name="media", version="18", needed=True, damaged=("a", "b", "c")),)},
            "bundle",
            "broken",
            "media is damaged: a and 2 more files.",
        ),
        (
            {"bundles": (BundleFacts(name="media", version="18", needed=True, damaged=("av/a.so",)),)},
            "bundle",
            "broken",
            "media is damaged: av/a.so.",
        ),
        (
            {"bundles": (BundleFacts(name="media", version=None, needed=True),), "is_offline": True},
            "bundle",
            "broken",
            "WHISPERD_OFFLINE",
        ),
        (
            {"models": (ModelFacts(name="base", damaged=("model.bin",)),)},
            "model",
            "broken",
            "whisperctl models pull base",
        ),
        ({"models": (), "is_offline": True}, "models", "warning", "downloads are forbidden"),
        ({"models": (), "models_problem": PROBLEM}, "models", "broken", "Do that."),
        (
            {"runtimes": (RuntimeFacts(name="a", model="b", default=True, enabled=True, problem=PROBLEM),)},
            "runtime",
            "warning",
            "a failed: This is wrong.",
        ),
        (
            {"runtimes": (RuntimeFacts(name="a b", model="b", default=True, enabled=False),)},
            "runtime",
            "warning",
            "whisperctl runtimes enable 'a b'",
        ),
        (
            with_gpus(driver="550", problem=unavailable("version_mismatch")),
            "GPU",
            "warning",
            "cannot be used",
        ),
        (with_gpus(problem=unavailable("stuck")), "GPU", "warning", "Do that."),
        (
            {
                **with_gpus(gpus=(CARD,), driver="470"),
                "variants": (
                    variant("c-cuda", device="cuda", problem=PROBLEM),
                    variant("c-cpu"),
                ),
            },
            "GPU",
            "warning",
            "RTX: This is wrong.",
        ),
        (
            {"environment": {"LD_PRELOAD": "/x/liby.so"}},
            "libraries",
            "warning",
            "LD_PRELOAD loads /x/liby.so",
        ),
        ({"clashing": {"/opt/cuda": ("libcublas.so.11",)}}, "libraries", "warning", "libcublas.so.11"),
        (
            {"hardware": Hardware(cuda_libraries=libraries(notes=("CUDA_PATH names no folder.",)))},
            "libraries",
            "warning",
            "CUDA_PATH names no folder.",
        ),
        (
            {
                "hardware": Hardware(
                    cuda_libraries=libraries(("cublas", "11"), ("cublas", "12.4"), ("cudnn", "8"))
                )
            },
            "libraries",
            "warning",
            "2 versions of cublas",
        ),
        (
            {"hardware": Hardware(unknown={"cuda_libraries": "Looking at it crashed (signal SIGSEGV)."})},
            "hardware",
            "warning",
            "CUDA libraries could not be inspected: Looking at it crashed (signal SIGSEGV).",
        ),
        (
            {"crashes": (Crash(time="2026-01-02 03:04:05", part="worker", how="signal SIGSEGV"),) * 2},
            "crashes",
            "warning",
            "2 times in the last 7 days (signal SIGSEGV), last at 2026-01-02 03:04:05",
        ),
        (
            {"crashes": (Crash(time="2026-01-02 03:04:05", part="decoder", how="status 1"),)},
            "crashes",
            "warning",
            "A decoder ended once in the last 7 days (status 1), last at 2026-01-02 03:04:05.",
        ),
        (
            {"crashes": (Crash(time="2026-01-02 03:04:05", part="mistake", how="KeyError"),)},
            "crashes",
            "warning",
            "Something failed once because of a bug in whisperd, last at 2026-01-02 03:04:05.",
        ),
        ({"log_problem": "The log cannot be read."}, "crashes", "warning", "cannot be read"),
    ],
)
def test_each_problem_is_found(changes: Mapping[str, Any], name: str, status: str, said: str) -> None:
    findings = check(replace(WELL, **changes))
    (finding,) = (one for one in findings if one.status != "ok")
    assert (finding.name, finding.status) == (name, status)
    assert finding.fix and said in f"{finding.message} {finding.fix}"
    assert worst([*check(WELL), finding]) == status
    fine = {one.name for one in findings if one.status == "ok"} - {"disk"}  # there is more than one disk
    assert fine.isdisjoint((name, f"{name}s"))


@pytest.mark.parametrize(
    ("changes", "name", "message"),
    [
        (
            with_folder("models", writable=False),
            "model folder",
            "/w/models, read-only: its contents are used",
        ),
        (with_folder("models", writable=False), "disk", "50.0 GB free on the disk of /w/natives"),
        (with_folder("models", free_bytes=None), "disk", "50.0 GB free on the disk of /w/natives"),
        (
            {"variants": (variant("a"), variant("b", problem=PROBLEM), variant("c"))},
            "backends",
            "a, c; 1 cannot be used here",
        ),
        ({"bundles": (BundleFacts(name="media", version="18", needed=False),)}, "bundle", "media 18, intact"),
        (
            {"models": (ModelFacts(name="base"), ModelFacts(name="tiny", damaged=("model.bin",)))},
            "models",
            "base: intact",
        ),
        (
            {
                "runtimes": (
                    RuntimeFacts(name="notes", model="small", default=False, enabled=True),
                    RuntimeFacts(name="base", model="base", default=True, enabled=True),
                )
            },
            "runtimes",
            "2; base is the default",
        ),
        ({"runtimes": ()}, "runtimes", "none"),
        (with_gpus(gpus=(CARD,), driver="550"), "GPU", "RTX, driver 550"),
        (with_gpus(gpus=(CARD,)), "GPU", "RTX"),
    ],
)
def test_what_is_reported_as_fine(changes: Mapping[str, Any], name: str, message: str) -> None:
    (finding,) = (one for one in check(replace(WELL, **changes)) if (one.name, one.status) == (name, "ok"))
    assert finding.message == message


def test_bundles_that_nothing_needs_are_not_reported() -> None:
    unused = BundleFacts(name="ctranslate2-cuda12", version=None, needed=False)
    assert "bundle" not in [finding.name for finding in check(replace(WELL, bundles=(unused,)))]


def test_a_model_folder_that_cannot_be_read_is_reported_once() -> None:
    folders = with_folder("models", error="Input/output error")
    findings = check(replace(WELL, models=(), models_problem=PROBLEM, **folders))
    assert [one.name for one in findings if "model" in one.name] == ["model folder"]


@pytest.mark.parametrize("fact", ["cuda_libraries", "blas"])
def test_libraries_that_could_not_be_inspected_are_not_reported_as_fine(fact: str) -> None:
    findings = check(replace(WELL, hardware=Hardware(unknown={fact: "It hangs."})))
    assert "libraries" not in [finding.name for finding in findings]


def test_facts_missing_for_one_reason_are_reported_together() -> None:
    whys = {"system": "It is busy.", "processor": "It is busy.", "blas": "It hangs.", "tools": "It is busy."}
    assert [finding.message for finding in ill(replace(WELL, hardware=Hardware(unknown=whys)))] == [
        "The system, the processor and compilers could not be inspected: It is busy.",
        "BLAS libraries could not be inspected: It hangs.",
    ]


def test_a_full_disk_names_the_folder_that_needs_the_most_space() -> None:
    nearly_full = tuple(replace(one, free_bytes=GB // 2) for one in WELL.folders)
    (finding,) = ill(replace(WELL, folders=nearly_full))
    assert (finding.name, finding.status) == ("disk", "warning")
    assert "/w/models" in finding.message and "WHISPERD_MODELS_DIR" in str(finding.fix)


@pytest.mark.parametrize(
    "changes",
    [
        with_folder("natives", writable=False, owned=False, mode=0o755),
        with_folder("natives", writable=False, owned=False, mode=0o777),  # the responsibility of its owner
        with_folder("models", mode=0o755),
        with_gpus(gpus=(CARD,), driver="550"),
        with_gpus(problem=unavailable("no_driver")),
        with_gpus(problem=unavailable("no_gpu"), driver="550"),
        {"hardware": Hardware(cuda_libraries=libraries(("cublas", "12"), ("cublas", "12"), ("cudnn", "9")))},
        {"models": ()},
    ],
)
def test_harmless_facts_are_not_reported(changes: Mapping[str, Any]) -> None:
    assert ill(replace(WELL, **changes)) == []


LISTENING = SocketFacts(path="/run/w/d.sock", kind="socket", mode=0o600, listening=True, locked=True)


@pytest.mark.parametrize(
    ("changes", "status", "said"),
    [
        ({}, "ok", "private to you"),
        ({"kind": "none", "listening": False, "locked": False}, "ok", "not created yet"),
        ({"kind": "none", "listening": False}, "broken", "whisperctl daemon stop --force"),
        ({"kind": "other", "listening": False}, "broken", "is not a socket"),
        ({"listening": False, "locked": False}, "warning", "left behind"),
        ({"owned": False}, "broken", "another user"),
        ({"folder_is_open": True}, "broken", "chmod 700 /run/w"),
        ({"mode": 0o601}, "broken", "chmod 600 /run/w/d.sock"),
        ({"mode": None}, "ok", "private to you"),
    ],
)
def test_findings_about_the_socket(changes: Mapping[str, Any], status: str, said: str) -> None:
    (finding,) = check_socket(replace(LISTENING, **changes))
    assert (finding.name, finding.status) == ("socket", status)
    assert said in f"{finding.message} {finding.fix}" and bool(finding.fix) == (status != "ok")


def test_findings_about_the_daemon() -> None:
    assert check_daemon("1.0", "1.0", 7, None).status == "ok"
    old = check_daemon("1.1", "1.0", 7, None)
    fix = "Restart the daemon with this version: `whisperctl daemon restart`."
    assert (old.status, old.fix) == ("warning", fix)
    problem = Finding(name="daemon", status="broken", message="No.", fix="Do that.")
    assert check_daemon("1.1", None, None, problem) is problem
