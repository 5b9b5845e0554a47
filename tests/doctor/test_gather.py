"""The facts that the doctor gathers: required bundles, folders, models, and logs."""

from __future__ import annotations

import datetime
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from whisperd.doctor.facts import ModelFacts
from whisperd.doctor.gather import gather
from whisperd.hardware import Hardware
from whisperd.models import ModelStore, errors
from whisperd.natives import NativeStore
from whisperd.natives.bundle import Bundle, write_description
from whisperd.plugins import Backend, Variant
from whisperd.runtimes.computer import Computer, JudgedVariant
from whisperd_testing import TESTS, unprivileged

sys.path.append(str(TESTS / "natives"))

from wheel_maker import lock_wheels, make_wheel

pytestmark = pytest.mark.anyio


class ComputerWithVariants(Computer):
    """A computer that can use these variants, the best first."""

    def __init__(self, variants: Sequence[Variant]) -> None:
        super().__init__()
        self._variants = variants

    async def look_again(self) -> Hardware:
        return Hardware()

    async def judged_variants(self, _: object = None) -> list[JudgedVariant]:
        backend = Backend(name="toy", engine="toy:load", variants=self._variants)
        return [JudgedVariant(backend, variant, None) for variant in self._variants]


@pytest.fixture
def variants(tmp_path: Path) -> list[Variant]:
    """One variant that must be built, and two that need not be."""
    (tmp_path / "wheels").mkdir()
    wheels = {name: make_wheel(tmp_path / "wheels", name, "1.0") for name in ("built", "large", "small")}
    return [
        Variant(
            name=f"toy-{name}",
            lock=lock_wheels(f"toy-{name}", wheel).lock,
            device="cpu",
            priority=1,
            compute_types=("int8",),
            build={} if name == "built" else None,
        )
        for name, wheel in wheels.items()
    ]


def install(root: Path, variant: Variant) -> None:
    """Make the variant's bundle look installed."""
    bundle = Bundle.of(variant)
    assert bundle is not None
    path = root / bundle.select().folder / bundle.name
    path.mkdir(parents=True)
    write_description(path, bundle.name, bundle.select(), 0)


async def needed(root: Path, variants: Sequence[Variant]) -> list[str]:
    facts = await gather(
        NativeStore(root),
        ModelStore(root / "models", sources=()),
        ComputerWithVariants(variants),
        root / "config.toml",
    )
    return [bundle.name for bundle in facts.bundles if bundle.needed]


async def test_bundles_that_prune_would_remove_are_counted(tmp_path: Path, variants: list[Variant]) -> None:
    store = NativeStore(tmp_path / "native")
    install(tmp_path / "native", variants[0])
    bundle = Bundle.of(variants[0])
    assert bundle is not None
    for name, size_bytes in (("toy-small", 3), ("gone", 4)):
        path = tmp_path / "native" / "0.1-cp39-0123abcd" / name
        path.mkdir(parents=True)
        write_description(path, name, bundle.select(), size_bytes)
    models = ModelStore(tmp_path / "models", sources=())
    facts = await gather(store, models, ComputerWithVariants(variants), tmp_path / "config.toml")
    assert facts.left_over_bytes == 7


async def test_a_bundle_that_must_be_built_is_not_required(tmp_path: Path, variants: list[Variant]) -> None:
    assert await needed(tmp_path / "native", variants) == ["media", "toy-large"]
    install(tmp_path / "native", variants[0])
    assert await needed(tmp_path / "native", variants) == ["media", "toy-built"]


async def test_in_offline_mode_an_installed_bundle_suffices(
    tmp_path: Path, variants: list[Variant], monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path / "native", variants[2])
    assert await needed(tmp_path / "native", variants) == ["media", "toy-large"]
    monkeypatch.setenv("WHISPERD_OFFLINE", "1")
    assert await needed(tmp_path / "native", variants) == ["media", "toy-small"]


async def test_a_backend_without_a_bundle_requires_none(tmp_path: Path, variants: list[Variant]) -> None:
    plain = Variant(name="toy-plain", lock=None, device="cpu", priority=9, compute_types=("int8",))
    assert await needed(tmp_path / "native", [plain, *variants]) == ["media"]


@pytest.mark.skipif(os.name != "posix", reason="links and permissions as on POSIX")
async def test_inaccessible_folders_are_reported(
    variants: list[Variant], monkeypatch: pytest.MonkeyPatch
) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        root.chmod(0o755)
        for variable, folder in (("STATE", "state"), ("NATIVE", "native"), ("MODELS", "models")):
            monkeypatch.setenv(f"WHISPERD_{variable}_DIR", str(root / folder))
            (root / folder).mkdir(mode=0)
        (root / "disk").symlink_to(root / "unplugged")
        # This reads the catalogue, which may be in a private folder of root.
        models = ModelStore(root / "models", sources=())
        with unprivileged():
            facts = await gather(
                NativeStore(root / "native"),
                models,
                ComputerWithVariants(variants),
                root / "disk" / "whisperd" / "config.toml",
            )
    assert {folder.role: folder.error for folder in facts.folders} == {
        "settings": f"{root / 'disk'} is a dangling link",
        **dict.fromkeys(("state", "natives", "models"), "Permission denied"),
    }
    assert facts.models_problem is not None and facts.models_problem.code == "model.read_only"


async def test_a_model_deleted_meanwhile_does_not_hide_others(
    tmp_path: Path, variants: list[Variant], monkeypatch: pytest.MonkeyPatch
) -> None:
    models = ModelStore(tmp_path / "models", sources=())

    async def list_models() -> list[SimpleNamespace]:
        return [SimpleNamespace(name="gone"), SimpleNamespace(name="damaged")]

    async def find(name: str) -> None:
        raise {"gone": errors.not_installed(name), "damaged": errors.damaged(name, ["model.bin"])}[name]

    monkeypatch.setattr(models, "list", list_models)
    monkeypatch.setattr(models, "find", find)
    facts = await gather(
        NativeStore(tmp_path / "native"), models, ComputerWithVariants(variants), tmp_path / "c.toml"
    )
    assert facts.models == (ModelFacts(name="damaged", damaged=("model.bin",)),)


async def test_logs_are_read_in_chronological_order(
    tmp_path: Path, variants: list[Variant], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WHISPERD_STATE_DIR", str(tmp_path))
    now = datetime.datetime.now().strftime("%Y-%m-%d %H:%M:%S,000 INFO whisperd: ")
    begun, ended = f"{now}whisperd 1.0 listens on a.sock, process 7\n", f"{now}whisperd has ended\n"
    for name, line in {"daemon.log.10": begun, "daemon.log.9": ended, "daemon.log": begun}.items():
        (tmp_path / name).write_text(line)
    store = ModelStore(tmp_path / "models", sources=())
    facts = await gather(
        NativeStore(tmp_path / "native"), store, ComputerWithVariants(variants), tmp_path / "c.toml"
    )
    assert facts.crashes == (), "no daemon was killed"
