"""The recipe of a transcript: everything that affects the text changes it, by construction."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import msgspec
import pytest

from whisperd.audio import media_lock
from whisperd.daemon.recipes import recipe_of
from whisperd.daemon.service import Service
from whisperd.jobs import reconcile, stitch
from whisperd.jobs.identity import content_key
from whisperd.jobs.job import Job, JobInput
from whisperd.jobs.options import JobOptions
from whisperd.jobs.recipe import IMMATERIAL, RULES, Recipe, options_that_matter, rules_digest
from whisperd.runtimes import Lease
from whisperd.worker.protocol import DecodeOptions

BEAM_SIZE = 5
OTHER_VALUES: dict[str, Any] = {
    "language": "de",
    "task": "translate",
    "beam_size": 1,
    "temperature": (0.0,),
    "prompt": "Dear all,",
    "hotwords": "whisperd",
    "vad": False,
    "channels": "split",
    "track": 2,
    "clip": "0-5",
    "runtime": "fast",
    "model": "small",
    "priority": "bulk",
    "cache": False,
}


def that_matter(options: JobOptions) -> dict[str, Any]:
    return options_that_matter(options, options.decode_options(BEAM_SIZE))


@pytest.mark.parametrize("name", OTHER_VALUES)
def test_every_material_option_changes_the_recipe(name: str) -> None:
    usual = JobOptions()
    other = msgspec.structs.replace(usual, **{name: OTHER_VALUES[name]})
    assert (that_matter(other) == that_matter(usual)) == (name in IMMATERIAL)


def test_a_future_option_changes_the_recipe() -> None:
    class LaterOptions(JobOptions, frozen=True, kw_only=True):
        timestamps: str = "segment"

    assert that_matter(LaterOptions(timestamps="word")) != that_matter(LaterOptions())

    class LaterDecodeOptions(DecodeOptions, frozen=True, kw_only=True):
        word_timestamps: bool = False

    first, second = LaterDecodeOptions(), LaterDecodeOptions(word_timestamps=True)
    assert options_that_matter(JobOptions(), first) != options_that_matter(JobOptions(), second)


def test_an_omitted_option_equals_its_default() -> None:
    assert that_matter(JobOptions()) == that_matter(JobOptions(beam_size=BEAM_SIZE))


def test_each_field_changes_the_digest() -> None:
    fields: dict[str, Any] = {
        "rules": "1",
        "engine": "base cpu int8",
        "decoder": "media 1",
        "max_window_s": 26.0,
        "options": that_matter(JobOptions()),
    }
    others = [
        {"rules": "2"},
        {"engine": "small cpu int8"},
        {"decoder": "media 2"},
        {"max_window_s": 20.0},
        {"options": that_matter(JobOptions(vad=False))},
    ]
    digests = [Recipe(**fields).digest, *(Recipe(**{**fields, **other}).digest for other in others)]
    assert len(set(digests)) == len(fields) + 1
    turned = Recipe(**{**fields, "options": dict(reversed(fields["options"].items()))})
    assert turned.digest == digests[0], "the order of options does not matter"
    assert content_key("a", "b") != content_key("b", "a")


def test_the_rules_digest_follows_the_code_of_the_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "some_engine"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "engine.py").write_text("LIMIT = 1")
    monkeypatch.syspath_prepend(tmp_path)
    digests = []
    for text in ("LIMIT = 1", "LIMIT = 2", "LIMIT = 1"):
        (package / "engine.py").write_text(text)
        digests.append(rules_digest("some_engine.engine:load"))
    assert digests[0] == digests[2] != digests[1]
    assert rules_digest("not_installed_anywhere.engine:load") != digests[0], (
        "without source files, the version counts instead"
    )


@pytest.mark.parametrize("module", [stitch, reconcile])
def test_the_rules_cover_all_modules_that_join_windows(module: ModuleType) -> None:
    used = {getattr(value, "__module__", "") for value in vars(module).values()}
    ours = {name for name in used if name.startswith("whisperd.jobs.")}
    assert ours and ours <= set(RULES)


@dataclasses.dataclass(frozen=True)
class Tuning:
    context_margin_s: float


class Stub:
    """Has the attributes given to it."""

    def __init__(self, **attributes: Any) -> None:
        self.__dict__.update(attributes)


async def recipe_with(
    *,
    margin_s: float | None = 2.0,
    environment: str = "",
    model: str = "m",
    is_usable: bool = True,
    loaded: Stub | None = None,
) -> str:
    """Return the recipe digest of a job on a runtime loaded like this, now or (unusable) before an edit."""

    async def identity(_: str) -> str:
        return model

    async def choose(_: object) -> Any:
        new = Stub(name="new", environment={}, lock=None, device="cpu", compute_types=("int8",))
        return Stub(name="new", engine="new:load"), new, None

    def current(bundle: Any) -> Any:
        return Stub(select=lambda: Stub(digest=f"{bundle.name} 1"))

    settings = Stub(decoder=Stub(max_window_s=26.0), runtime=Stub(beam_size=BEAM_SIZE))
    service = Stub(
        models=Stub(identity=identity),
        natives=Stub(current=current),
        settings=settings,
        runtimes=Stub(life=lambda _: Stub(is_usable=is_usable)),
        provisioner=Stub(choose=choose),
    )
    variant = Stub(
        name="toy-cpu", environment={"ISA": environment}, lock=None, device="cpu", compute_types=("int8",)
    )
    prepared = Stub(
        backend=Stub(engine="toy:load"),
        variant=variant,
        tuning=None if margin_s is None else Tuning(margin_s),
    )
    preset = Stub(model="toy", backend="auto", wanted_device="auto", compute_type="auto")
    lease = Stub(runtime=Stub(preset=preset, prepared=prepared, loaded=loaded))
    job = Job(id="a", path="/a", input=JobInput(path="/a"), options=JobOptions(), runtime="toy")
    return (await recipe_of(cast(Service, service), job, cast(Lease, lease))).digest


@pytest.mark.anyio
async def test_what_a_runtime_is_loaded_with_changes_the_recipe() -> None:
    usual = await recipe_with()
    assert usual == await recipe_with()
    assert usual != await recipe_with(margin_s=None), "calibration"
    assert usual != await recipe_with(margin_s=30.0)
    assert usual != await recipe_with(environment="AVX2")
    assert usual != await recipe_with(model="n")


@pytest.mark.anyio
async def test_the_recipe_uses_the_model_that_the_worker_has_loaded() -> None:
    loaded = Stub(pid=7)
    usual = await recipe_with(loaded=loaded)
    assert usual == await recipe_with(loaded=loaded, model="n"), (
        "the worker keeps the model that it has loaded"
    )
    loaded.pid = None
    assert usual != await recipe_with(loaded=loaded, model="n"), (
        "the worker has died, so the changed files count"
    )
    loaded.pid = 8
    assert usual != await recipe_with(loaded=loaded, model="n"), "a new worker has loaded the changed files"


def test_the_lock_of_the_decoder_is_read_once() -> None:
    """Each recipe contains its digest, and is made in the event loop, which must not wait for a disk."""
    assert media_lock() is media_lock()


@pytest.mark.anyio
async def test_the_recipe_of_an_edited_runtime_ignores_how_it_was_loaded() -> None:
    assert await recipe_with() != await recipe_with(is_usable=False)
    assert await recipe_with(is_usable=False) == await recipe_with(is_usable=False, environment="AVX2")
