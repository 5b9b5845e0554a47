"""The conformance suite finds faults: a backend with one fault fails exactly the check for it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import faulty_parrots
import parrot
import psutil
import pytest

from whisperd.installed_plugins import find_variant
from whisperd.models import ModelStore
from whisperd.natives import NativeStore
from whisperd.plugins import Backend, Needs
from whisperd.testing.conformance import CHECKS, Outcome, Suite
from whisperd.testing.conformance.checks import Check, judge
from whisperd.worker.process import Patience

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(os.name != "posix", reason="signals")]

HERE = Path(__file__).parent
MID_BATCH_S = "whisperd.testing.conformance.loading.MID_BATCH_S"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., object]]:
    """Return a function that runs the suite on a backend with parrot models and returns outcomes by check."""
    notes = tmp_path / "left"
    monkeypatch.setenv("PYTHONPATH", str(HERE))
    monkeypatch.setenv("PARROT_NOTES", str(notes))
    # Surviving processes stay and killed ones end at once, so a short timeout suffices.
    monkeypatch.setattr("whisperd.testing.conformance.loading.END_TIMEOUT_S", 2.0)
    monkeypatch.setattr(MID_BATCH_S, 0.05)

    async def run_suite(backend: Backend = parrot.BACKEND, **options: object) -> dict[str, Outcome]:
        suite = Suite(
            backend,
            backend.variants[0],
            NativeStore(tmp_path / "native", offline=True),
            ModelStore(tmp_path / "models", sources=(), offline=True),
            model=str(parrot.parrot_model(tmp_path / "english", multilingual=False)),
            multilingual=str(parrot.parrot_model(tmp_path / "multilingual", multilingual=True)),
            **options,  # type: ignore[arg-type]
        )
        return {outcome.name: outcome for outcome in await suite.run()}

    yield run_suite
    for pid in notes.read_text().split() if notes.exists() else ():
        with suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)


def failed(outcomes: dict[str, Outcome]) -> list[str]:
    return [name for name, outcome in outcomes.items() if outcome.status == "failed"]


async def test_a_correct_backend_passes_every_check(run: Callable[..., object]) -> None:
    outcomes = await run()
    assert {name: one.reason for name, one in outcomes.items() if one.status != "ok"} == {
        "locks": "no variant has a native bundle"
    }
    assert [(one.name, one.what) for one in outcomes.values()] == list(CHECKS)


FAULTY_ENGINES = {
    "loading": ["CannotLoad", "DiesInLoading"],
    "info": ["NoVersion", "UnknownLanguage"],
    "english": ["WrongWords"],
    "batches": ["ForgetsInBatches"],
    "order": ["SortsByLength"],
    "fields": ["TooSure", "NotANumber", "EmptySegments"],
    "times": ["BeyondItsEnd", "Backwards"],
    "short-windows": ["NeedsASample", "DiesOfNothing"],
    "silence-and-noise": ["Talkative"],
    "long-windows": ["StopsListening"],
    "repeatable": ["Counts"],
    "unwanted": ["DropsTheWholeBatch"],
    "temperatures": ["OtherTemperature", "NeverGivesUp"],
    "beams": ["LostInBeams", "TooManyBeams"],
    "prompts": ["SaysThePrompt"],
    "prompts-heard": ["DeafToHotwords"],
    "long-prompts": ["ShortOfBreath"],
    "what-cannot-be-done": ["DiesOfNonsense"],
    "at-once": ["OneAtATime", "DiesInCompany"],
    "word-times": ["NoWords", "WordsBackwards"],
    "word-places": ["SpreadsWords", "DeafToTheSecond"],
    "loading-multilingual": ["RefusesLanguages"],
    "multilingual-info": ["NoEnglish"],
    "language-given": ["OnlyEnglish"],
    "language-found": ["GuessesEnglish"],
    "language-among": ["HearsAnyLanguage"],
    "language-vote": ["NoVote"],
    "translation": ["NoTranslator", "CallsItEnglish"],
    "foreign-words": ["NoWordsForGermans"],
    "compute-types": ["OneType", "RoundsAway"],
    "unknown-compute-type": ["TakesAnyType", "DiesOfAType"],
    "unknown-device": ["TakesAnyDevice", "NoFix"],
    "missing-model": ["NeedsNoModel"],
    "damaged-model": ["TakesHalf"],
    "end": ["LeavesAProcess"],
    "cancelling": ["GoesOnElsewhere"],
    "killed": ["LocksItsModel"],
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("check", "kind"), [(check, kind) for check, kinds in FAULTY_ENGINES.items() for kind in kinds]
)
async def test_a_faulty_engine_fails_exactly_one_check(
    run: Callable[..., object], check: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if check in ("cancelling", "killed"):  # the batch must have started, even on a busy computer
        monkeypatch.setattr(MID_BATCH_S, 3.0)
    options = {"patience": Patience(batch_s=3, batch_per_audio_s=0)} if kind == "NeverGivesUp" else {}
    outcomes = await run(parrot.backend(environment={"PARROT": kind}), **options)
    assert failed(outcomes) == [check], {name: outcomes[name].reason for name in failed(outcomes)}
    assert outcomes[check].reason


async def test_a_process_that_ends_while_it_is_measured_fails_the_check() -> None:
    def look(pid: int) -> None:
        raise psutil.NoSuchProcess(pid)

    assert (await judge(Check("memory", "", look), 1)).status == "failed"


def shrinking(parameters: float, *_: object, **__: object) -> int:
    return int(1e12 / parameters)


def far_too_little(parameters: float, _: str, *, batch_size: int, replicas: int, device: str) -> int:
    return int(parameters / 1e6) * batch_size * replicas + 1


LOCK = find_variant("ctranslate2-cpu")[1].lock  # type: ignore[index]
UNSUPPORTED_LOCK = """
format = 1
main = "parrot"

[[distributions]]
name = "parrot"
version = "1.0"
wheels = [["cp39-cp39-win32", 1, 1, "{sha256}"]]
""".format(sha256="0" * 64)

FAULTY_DECLARATIONS: dict[str, list[Backend]] = {
    "announcement": [
        parrot.backend(compute_types=("int3",)),
        replace(parrot.BACKEND, engine="parrot"),
    ],
    "priorities": [replace(parrot.BACKEND, variants=(parrot.variant(), parrot.variant(name="parrot-2")))],
    "locks": [parrot.backend(lock="format = 99"), parrot.backend(lock=UNSUPPORTED_LOCK)],
    "needs": [
        parrot.backend(needs=Needs(platforms=("linux",))),
        parrot.backend(needs=Needs(cpu_features=("avx9",))),
        parrot.backend(needs=Needs(frameworks=("Carbon",))),
        parrot.backend(needs=Needs(cuda=(12, 0))),
    ],
    "memory-estimate": [
        replace(parrot.BACKEND, need_bytes=shrinking),
        replace(parrot.BACKEND, need_bytes=lambda *_, **__: 1),
        replace(parrot.BACKEND, need_bytes=lambda *_, **__: None),
        replace(parrot.BACKEND, need_bytes=lambda: 1),
    ],
    "preparing": [parrot.backend(lock=LOCK)],
    "memory": [replace(parrot.BACKEND, need_bytes=far_too_little)],
}


@pytest.mark.parametrize(
    ("check", "backend"),
    [(check, backend) for check, some in FAULTY_DECLARATIONS.items() for backend in some],
)
async def test_a_faulty_declaration_fails_exactly_one_check(
    run: Callable[..., object], check: str, backend: Backend
) -> None:
    outcomes = await run(backend)
    assert failed(outcomes) == [check], {name: outcomes[name].reason for name in failed(outcomes)}
    assert outcomes[check].reason


def test_every_check_has_a_faulty_backend() -> None:
    assert {name for name, _ in CHECKS} == {*FAULTY_ENGINES, *FAULTY_DECLARATIONS}
    kinds = {kind for some in FAULTY_ENGINES.values() for kind in some}
    made = {
        name
        for name, one in vars(faulty_parrots).items()
        if isinstance(one, type) and issubclass(one, parrot.Parrot)
    }
    assert made == {*kinds, "Parrot"}, "every parrot is used"
