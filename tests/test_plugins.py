"""Backends are found by entry point, whoever made them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from whisperd import plugins
from whisperd.plugins import Backend, Variant
from whisperd_testing import run_python

BACKENDS = Path(__file__).parent / "backends"

LIST = """
import json, sys
from whisperd.plugins import backends, find_variant, variants
print(json.dumps({
    "backends": [backend.name for backend in backends()],
    "variants": [variant.name for _, variant in variants()],
    "found": find_variant("toy-cpu") is not None,
    "native": sorted({"ctranslate2", "numpy", "tokenizers", "faster_whisper"} & set(sys.modules)),
}))
"""


def listed(*paths: Path) -> dict[str, object]:
    return dict(json.loads(run_python(LIST, env={}, paths=[str(path) for path in paths] or ["."])))


def test_a_third_party_is_found_as_our_own_is() -> None:
    found = listed(BACKENDS)
    assert found["backends"] == ["ctranslate2", "toy"]
    assert found["variants"] == ["toy-cpu", "ctranslate2-cpu"], "the highest priority first"
    assert found["found"]


def test_our_own_alone() -> None:
    found = listed()
    assert found["backends"] == ["ctranslate2"]
    assert not found["found"]


def test_finding_backends_imports_no_native_library() -> None:
    assert listed(BACKENDS)["native"] == []


def make_plugin(folder: Path, source: str) -> None:
    """A third party's distribution, as an installer would leave it."""
    info = folder / "third_party-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: third-party\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[whisperd]\nthird = third_backend\n")
    (folder / "third_backend.py").write_text("from whisperd.plugins import hookimpl\n" + source)


@pytest.mark.parametrize(
    "source",
    [
        "raise RuntimeError('written for another version')",
        "import no_such_module",
        "@hookimpl\ndef whisperd_backend():\n    raise OSError('its lock file is missing')",
        "@hookimpl\ndef whisperd_bakend():\n    return None",
    ],
)
def test_a_broken_plugin_takes_nobody_down(tmp_path: Path, source: str) -> None:
    make_plugin(tmp_path, source)
    assert listed(tmp_path)["backends"] == ["ctranslate2"]


def test_a_plugin_may_decide_that_it_has_nothing_to_offer(tmp_path: Path) -> None:
    make_plugin(tmp_path, "@hookimpl\ndef whisperd_backend():\n    return None\n")
    assert listed(tmp_path)["backends"] == ["ctranslate2"]


def test_variants_are_sorted_by_priority(monkeypatch: pytest.MonkeyPatch) -> None:
    def variant(name: str, priority: int) -> Variant:
        return Variant(name=name, lock=None, device="cpu", priority=priority, compute_types=("int8",))

    one = Backend(name="one", engine="one:load", variants=(variant("one-cpu", 1), variant("one-cuda", 9)))
    two = Backend(name="two", engine="two:load", variants=(variant("two-cpu", 5),))
    monkeypatch.setattr(plugins, "backends", lambda: (one, two))
    assert [(backend.name, each.name) for backend, each in plugins.variants()] == [
        ("one", "one-cuda"),
        ("two", "two-cpu"),
        ("one", "one-cpu"),
    ]
    assert plugins.find_variant("two-cpu") == (two, two.variants[0])
    assert plugins.find_variant("three-cpu") is None
