"""Backends are found by entry point, whether they are ours or third-party."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from whisperd import installed_plugins
from whisperd.plugins import Backend, Variant
from whisperd_testing import run_python

BACKENDS = Path(__file__).parent / "backends"

LIST = """
import json, sys
from whisperd.installed_plugins import backends, find_variant, problems, variants, versions
print(json.dumps({
    "backends": [backend.name for backend in backends()],
    "variants": [variant.name for _, variant in variants()],
    "versions": versions(),
    "found": find_variant("toy-cpu") is not None,
    "problems": [problem.to_wire() for problem in problems()],
    "native": sorted({"ctranslate2", "numpy", "tokenizers", "faster_whisper"} & set(sys.modules)),
}))
"""


def listed(*paths: Path) -> dict[str, Any]:
    return dict(json.loads(run_python(LIST, env={}, paths=[str(path) for path in paths] or ["."])))


def third_party_backends(*paths: Path) -> list[str]:
    """Return the backends other than our own."""
    ours = listed()["backends"]
    return [name for name in listed(*paths)["backends"] if name not in ours]


def found_problems(*paths: Path) -> dict[str, dict[str, Any]]:
    """Return why plugins are skipped, by the names of their distributions."""
    return {problem["data"]["distribution"]: problem for problem in listed(*paths)["problems"]}


def test_a_third_party_backend_is_found_like_our_own() -> None:
    found = listed(BACKENDS)
    assert {"ctranslate2", "toy"} <= set(found["backends"])
    assert found["variants"][0] == "toy-cpu", "the highest priority first"
    assert found["found"]
    assert found["versions"]["toy"] == "1.0"


def test_without_third_parties_only_our_own_are_found() -> None:
    found = listed()
    assert "ctranslate2" in found["backends"]
    assert found["problems"] == []
    assert not found["found"]


def test_finding_backends_imports_no_native_library() -> None:
    assert listed(BACKENDS)["native"] == []


PREAMBLE = """
from whisperd.plugins import Backend, Variant, hookimpl

def variant(name):
    return Variant(name=name, lock=None, device="cpu", priority=1, compute_types=("int8",))

"""


def make_plugin(folder: Path, source: str, name: str = "third", entry: str | None = None) -> Path:
    """Make a third-party distribution as an installer would; return its `.dist-info` folder."""
    info = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    module = f"{name.replace('-', '_')}_backend"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[whisperd]\n{entry or name} = {module}\n")
    (folder / f"{module}.py").write_text(PREAMBLE + source)
    return info


def announce(expression: str) -> str:
    """Return the source of a plugin that announces this backend."""
    return f"@hookimpl\ndef whisperd_backend():\n    return {expression}\n"


@pytest.mark.parametrize(
    "source",
    [
        "raise RuntimeError('written for another version')",
        "import no_such_module",
        "@hookimpl\ndef whisperd_backend():\n    raise OSError('its lock file is missing')",
        "@hookimpl\ndef whisperd_bakend():\n    return None",
    ],
)
def test_a_broken_plugin_does_not_affect_others(tmp_path: Path, source: str) -> None:
    make_plugin(tmp_path, source)
    assert third_party_backends(tmp_path, BACKENDS) == ["toy"]


def test_a_plugin_may_offer_nothing(tmp_path: Path) -> None:
    make_plugin(tmp_path, announce("None"))
    assert third_party_backends(tmp_path) == []
    assert found_problems(tmp_path) == {}


@pytest.mark.parametrize("mark", ["hookimpl(tryfirst=True)", "pluggy.HookimplMarker('whisperd')"])
def test_a_hook_may_use_pluggys_own_marker(tmp_path: Path, mark: str) -> None:
    source = announce("Backend(name='third', engine='third_backend:load', variants=(variant('third-cpu'),))")
    make_plugin(tmp_path, "import pluggy\n" + source.replace("hookimpl", mark))
    assert third_party_backends(tmp_path) == ["third"]


def test_each_skipped_plugin_is_explained(tmp_path: Path) -> None:
    sources = {
        "import-fails": ("import no_such_module", "plugin.broken", "ModuleNotFoundError: No module named"),
        "ends": ("raise SystemExit(3)", "plugin.broken", "SystemExit: 3"),
        "fails": (announce("1 / 0"), "plugin.broken", "ZeroDivisionError"),
        "refuses": (
            "from whisperd import WhisperdError\nraise WhisperdError('third.bad', 'No key.', '')",
            "plugin.broken",
            "WhisperdError: No key",
        ),
        "misspelt": (
            "@hookimpl\ndef whisperd_bakend():\n    return None",
            "plugin.broken",
            "whisperd_bakend",
        ),
        "unmarked": ("def whisperd_backend():\n    return None", "plugin.invalid", "`@hookimpl` is missing"),
        "wrong": (announce("'nonsense'"), "plugin.invalid", "'nonsense'"),
    }
    for name, (source, _, _) in sources.items():
        make_plugin(tmp_path, source, name)
    problems = found_problems(tmp_path)
    assert {plugin: problem["code"] for plugin, problem in problems.items()} == {
        name: code for name, (_, code, _) in sources.items()
    }
    for name, (_, _, words) in sources.items():
        problem = problems[name]
        assert words in problem["message"]
        assert problem["message"].startswith(f"The plugin {name} of {name} is not used: ")
        assert f"`pip uninstall {name}`" in problem["fix"]


def test_a_long_error_of_a_plugin_is_shortened(tmp_path: Path) -> None:
    make_plugin(tmp_path, "raise RuntimeError('x' * 100_000 + '\\nand more')", "chatty")
    assert len(found_problems(tmp_path)["chatty"]["message"]) < 400


@pytest.mark.parametrize(
    "lines", ["this is no line of it\n", "third = not a module\n", "third =\n", "third = :load\n"]
)
def test_unreadable_entry_points_do_not_affect_others(tmp_path: Path, lines: str) -> None:
    (make_plugin(tmp_path, "", "third") / "entry_points.txt").write_text(f"[whisperd]\n{lines}")
    assert third_party_backends(tmp_path, BACKENDS) == ["toy"], "one distribution must not affect the others"


def test_of_two_plugins_with_one_name_only_one_is_used(tmp_path: Path) -> None:
    source = announce("Backend(name='same', engine='e:f', variants=(variant('same-cpu'),))")
    make_plugin(tmp_path, source, "distribution-b", entry="same")
    make_plugin(tmp_path, source, "distribution-a", entry="same")
    other = announce("Backend(name='other', engine='e:f', variants=(variant('other-cpu'),))")
    make_plugin(tmp_path, other, "other")
    assert third_party_backends(tmp_path) == ["other", "same"]
    (problem,) = found_problems(tmp_path).values()
    assert problem["code"] == "plugin.name_taken"
    assert problem["data"]["distribution"] == "distribution-b", "regardless of the order of discovery"
    assert "announces same too" in problem["message"]


def test_a_plugin_whose_variant_name_is_taken_is_skipped(tmp_path: Path) -> None:
    make_plugin(tmp_path, announce("Backend(name='a', engine='e:f', variants=(variant('a-b-cpu'),))"), "a")
    make_plugin(
        tmp_path, announce("Backend(name='a-b', engine='e:f', variants=(variant('a-b-cpu'),))"), "a-b"
    )
    (problem,) = found_problems(tmp_path).values()
    assert (problem["code"], problem["data"]["plugin"]) == ("plugin.name_taken", "a-b")
    assert third_party_backends(tmp_path) == ["a"]


def test_a_valid_plugin_causes_no_problem() -> None:
    assert found_problems(BACKENDS) == {}


def test_variants_are_sorted_by_priority(monkeypatch: pytest.MonkeyPatch) -> None:
    def variant(name: str, priority: int) -> Variant:
        return Variant(name=name, lock=None, device="cpu", priority=priority, compute_types=("int8",))

    one = Backend(name="one", engine="one:load", variants=(variant("one-cpu", 1), variant("one-cuda", 9)))
    two = Backend(name="two", engine="two:load", variants=(variant("two-cpu", 5),))
    monkeypatch.setattr(installed_plugins, "backends", lambda: (one, two))
    assert [(backend.name, each.name) for backend, each in installed_plugins.variants()] == [
        ("one", "one-cuda"),
        ("two", "two-cpu"),
        ("one", "one-cpu"),
    ]
    assert installed_plugins.find_variant("two-cpu") == (two, two.variants[0])
    assert installed_plugins.find_variant("three-cpu") is None
