"""What every test shares."""

from __future__ import annotations

import os
import signal
import wave
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import hypothesis
import pytest
from hypothesis.database import DirectoryBasedExampleDatabase

from whisperd.audio import media_lock
from whisperd.natives import Bundle, NativeStore
from whisperd_testing import RunningDaemon, toy_model

# No example is too slow, and each run tries the same ones: a busy computer changes nothing.
hypothesis.settings.register_profile(
    "whisperd",
    deadline=None,
    derandomize=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
# `make check`: a quarter of them.
hypothesis.settings.register_profile("quick", hypothesis.settings.get_profile("whisperd"), max_examples=25)
# `make fuzz`: many more, others each time. What fails is kept, tried first the next time, and printed so that
# it can be written down as an `@example`.
hypothesis.settings.register_profile(
    "fuzz",
    deadline=None,
    max_examples=int(os.environ.get("WHISPERD_FUZZ_EXAMPLES", "2000")),
    print_blob=True,
    database=DirectoryBasedExampleDatabase(Path(__file__).parents[1] / ".cache" / "fuzz"),
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("whisperd")


def pytest_configure() -> None:
    """A shell makes what it starts in the background deaf to Ctrl-C; our children would inherit that."""
    if os.name == "posix":
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)  # before `-m` looks at the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test with a daemon of its own is slow: they are few, and take as long as all others together."""
    for item in items:
        if "make_daemon" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def make_daemon(tmp_path: Path) -> Iterator[Callable[..., RunningDaemon]]:
    """Makes daemons, each in a folder of its own; they are not started yet, and ended after the test."""
    made: list[RunningDaemon] = []

    def make(**options: Any) -> RunningDaemon:
        folder = tmp_path / f"daemon{len(made)}"
        folder.mkdir()
        made.append(RunningDaemon(folder, **options))
        return made[-1]

    yield make
    for daemon in made:
        daemon.close()


@pytest.fixture
def daemon(make_daemon: Callable[..., RunningDaemon]) -> RunningDaemon:
    """A running daemon with the toy backend and no model downloaded."""
    return make_daemon().start()


@pytest.fixture
def toy(tmp_path: Path) -> Callable[..., str]:
    """Makes toy models; returns the name to ask for, which is the folder's path."""

    def make(name: str = "toy", **behaviour: Any) -> str:
        return str(toy_model(tmp_path / "models" / name, **behaviour))

    return make


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    """One daemon with the toy backend for all tests of a module; the toy model is its default.

    It keeps no transcripts: what a test has transcribed before is transcribed all the same.
    """
    folder = tmp_path_factory.mktemp("daemon")
    daemon = RunningDaemon(folder)
    daemon.settings("[jobs]\nkeep_transcripts = false\n")
    daemon.start()
    daemon.make_default(toy_model(folder / "toy"))
    yield daemon
    daemon.close()


@pytest.fixture(scope="session")
def ten_minutes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A long recording of nothing: with `vad=False`, some thirty windows of it."""
    path = tmp_path_factory.mktemp("audio") / "ten_minutes.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(bytes(2 * 16_000 * 600))
    return path


@pytest.fixture
def held(toy: Callable[..., str]) -> Iterator[Path]:
    """A toy model that computes nothing before its file `hold` is deleted."""
    folder = Path(toy("held"))
    (folder / "hold").touch()
    yield folder
    (folder / "hold").unlink(missing_ok=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """A whole-program test that fails shows its daemon's log."""
    report = yield
    if report.failed:
        for value in getattr(item, "funcargs", {}).values():
            if isinstance(value, RunningDaemon):
                report.sections.append(("the daemon's log", value.log()[-8000:]))
    return report


@pytest.fixture(scope="session")
def media_bundle() -> Path:
    """The real bundle, installed into the test cache on first use."""
    cache = Path(os.environ.get("WHISPERD_TEST_CACHE") or Path(__file__).parents[1] / ".cache" / "test")
    store, bundle = NativeStore(cache / "native"), Bundle("media", media_lock())
    return anyio.run(store.install, bundle, lambda _: None).path
