"""`whisperctl hardware`: its output for many computers, and its request to the daemon."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from recorded_computers import NAMES, computer
from whisperd.cli.commands.hardware import LABEL_CELLS, page
from whisperd.daemon.methods.hardware import describe
from whisperd.hardware import Hardware
from whisperd.plugins import Backend, Needs, Variant
from whisperd.runtimes.computer import judge
from whisperd_testing import RunningDaemon

KEYS = {
    "system",
    "processor",
    "memory",
    "gpus",
    "cuda_libraries",
    "blas",
    "tools",
    "unknown",
    "variants",
    "plugin_problems",
}
VARIANTS = (
    Variant("toy-cuda12", None, "cuda", 60, ("float16",), Needs(cuda=(12, 0))),
    Variant("toy-blas", None, "cpu", 40, ("int8",), Needs(blas=True, compiler=True)),
    Variant("toy-generic", None, "cpu", 10, ("int8",)),
)
TOY = Backend("toy", "", VARIANTS)


def answer_about(hardware: Hardware) -> dict[str, Any]:
    """Return the daemon's answer as a client reads it."""
    answer = describe(hardware, judge([(TOY, variant) for variant in VARIANTS], hardware))
    return dict(msgspec.json.decode(msgspec.json.encode(answer)))


def lines(name: str) -> list[str]:
    return page(answer_about(computer(name)), 80)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("width", [80, 100])
def test_every_page_fits_the_width(name: str, width: int) -> None:
    answer = answer_about(computer(name))
    assert set(answer) == KEYS
    shown = page(answer, width)
    assert all(len(line) <= width or " " not in line[LABEL_CELLS:] for line in shown)
    assert [line.split(" ")[0] for line in shown if line[:1].isupper()] == [
        "System",
        "Processor",
        "Memory",
        "GPU",
        "CUDA",
        "BLAS",
        "Compilers",
    ]
    assert [line for line in shown if line.startswith("toy-generic")] == ["toy-generic: usable"]


def test_the_page_of_a_container_on_a_desktop() -> None:
    assert lines("docker_v1")[3:9] == [
        "Processor  Intel(R) Core(TM) i7-8700 CPU @ 3.20GHz",
        "           6 physical, 12 logical cores, 2 usable (the scheduler allows 4, a",
        "           control group allows the CPU time of 2)",
        "           SSE4.1, SSE4.2, AVX, F16C, FMA, AVX2",
        "           (from /proc/cpuinfo)",
        "Memory     4.29 GB, 3.49 GB of it free",
    ]


def test_an_unusable_variant_has_a_reason_and_a_fix() -> None:
    assert lines("raspberry_pi")[-9:] == [
        "toy-cuda12: not usable",
        "  No NVIDIA GPU can be used: no NVIDIA driver is installed.",
        "  Install the NVIDIA driver if this computer has an NVIDIA GPU, or use the CPU",
        "  with `--device cpu`.",
        "toy-blas: not usable",
        "  This computer cannot use toy-blas: the headers of OpenBLAS are missing.",
        "  Run `sudo apt install libopenblas-dev`, then check with `whisperctl hardware`",
        "  that it is found.",
        "toy-generic: usable",
    ]


def test_a_processor_of_an_unknown_model_is_labelled_so() -> None:
    answer = answer_about(computer("docker_v1"))
    answer["processor"] |= {"vendor": None, "model": None}
    assert "Processor  unknown model" in page(answer, 80)


def test_features_of_one_family_are_grouped() -> None:
    answer = answer_about(computer("docker_v1"))
    answer["processor"]["features"] = ["avx", "avx512f", "avx512_vnni", "amx_tile", "amx_int8", "dotprod"]
    assert "           AVX, AVX-512 (F, VNNI), AMX INT8, dot product" in page(answer, 80)


def test_a_skipped_plugin_is_reported(make_daemon: Callable[..., RunningDaemon], tmp_path: Path) -> None:
    info = tmp_path / "broken-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[whisperd]\nbroken = no_such_module\n")
    daemon = make_daemon(env={"PYTHONPATH": str(tmp_path)}).start()
    (problem,) = daemon.ctl("hardware", "--json").json["plugin_problems"]
    assert problem["code"] == "plugin.broken"
    for command in (("hardware",), ("natives", "list")):
        shown = " ".join(daemon.ctl(*command).out.split())
        assert problem["message"] in shown
        assert problem["fix"] in shown


def test_gpus_and_libraries_are_shown() -> None:
    shown = "\n".join(lines("nvidia_cuda12"))
    assert "GPU        0: NVIDIA GeForce RTX 3090, 25.8 GB, 25.3 GB of it free" in shown
    assert "NVIDIA driver 550.54.15, CUDA up to 12.4" in shown
    assert "cuBLAS 12.4.5.8: /usr/local/cuda/lib64/libcublas.so.12.4.5.8" in shown
    assert "toy-cuda12: usable" in shown


def test_unknown_facts_are_shown_with_their_reason() -> None:
    why = "The detection process crashed (signal SIGSEGV)."
    nothing = Hardware(unknown=dict.fromkeys(("system", "processor", "memory", "blas"), why))
    shown = page(answer_about(nothing), 80)
    assert "Processor  unknown: The detection process crashed (signal SIGSEGV)." in shown
    assert "CUDA       unknown:" in shown


def test_the_command_in_both_formats(shared: RunningDaemon) -> None:
    answer = shared.ctl("hardware", "--json").json
    assert set(answer) == KEYS
    assert answer["unknown"] == {}
    assert answer["processor"]["cores"]["usable"] >= 1
    done = shared.ctl("hardware")
    assert (done.status, done.err) == (0, "")
    assert max(map(len, done.out.splitlines())) <= 80
    assert "toy-cpu: usable\n" in done.out


def test_the_client_returns_the_same_answer(shared: RunningDaemon) -> None:
    with shared.connect() as client:
        asked = client.hardware.show()
    answer = shared.ctl("hardware", "--json").json
    for changing in ("memory", "gpus"):
        del asked[changing], answer[changing]
    assert asked == answer


def test_variants_and_bundles_are_judged_alike(shared: RunningDaemon) -> None:
    variants = {one["name"]: one for one in shared.ctl("hardware", "--json").json["variants"]}
    bundles = {one["name"]: one for one in shared.ctl("natives", "list", "--json").json}
    both = variants.keys() & bundles.keys()
    assert both
    for name in both:
        judgements = [(one["usable"], one["reason"], one["fix"]) for one in (variants[name], bundles[name])]
        assert judgements[0] == judgements[1]
