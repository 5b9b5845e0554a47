"""Hypothesis profiles, hooks and fixtures for all tests."""

from __future__ import annotations

import itertools
import os
import signal
import wave
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import anyio
import hypothesis
import pytest
from hypothesis.database import DirectoryBasedExampleDatabase

from whisperd.audio import media_lock
from whisperd.natives import Bundle, NativeStore
from whisperd_testing import RunningDaemon, toy_model

# No deadline, and the same examples in each run: a busy computer must not change the outcome.
hypothesis.settings.register_profile(
    "whisperd",
    deadline=None,
    derandomize=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
# `make check`: a quarter of the examples.
hypothesis.settings.register_profile("quick", hypothesis.settings.get_profile("whisperd"), max_examples=25)
# `make fuzz`: many more, different each time. A failing example is stored, tried first the next time, and
# printed so that it can be added as an `@example`.
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
    """Prepare what all tests and their children inherit."""
    if os.name == "posix":  # a shell makes background jobs ignore Ctrl-C
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # The servers of the tests are on this computer, where no proxy leads.
    directly = [os.environ.get("no_proxy") or os.environ.get("NO_PROXY"), "127.0.0.1"]
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = ",".join(filter(None, directly))


@pytest.hookimpl(tryfirst=True)  # before `-m` looks at the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests with their own daemon as slow: they are few, yet take as long as all others together."""
    for item in items:
        if "make_daemon" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def make_daemon(tmp_path: Path) -> Iterator[Callable[..., RunningDaemon]]:
    """Return a function that makes unstarted daemons in separate folders; stop them after the test."""
    numbers = itertools.count()
    with ExitStack() as made:

        def make(**options: Any) -> RunningDaemon:
            folder = tmp_path / f"daemon{next(numbers)}"
            folder.mkdir()
            daemon = RunningDaemon(folder, **options)
            made.callback(daemon.close)
            return daemon

        yield make


@pytest.fixture
def daemon(make_daemon: Callable[..., RunningDaemon]) -> RunningDaemon:
    """A running daemon with the toy backend and no model downloaded."""
    return make_daemon().start()


@pytest.fixture
def toy(tmp_path: Path) -> Callable[..., str]:
    """Return a function that makes a toy model and returns its name, which is the folder's path."""

    def make(name: str = "toy", **behaviour: Any) -> str:
        return str(toy_model(tmp_path / "models" / name, **behaviour))

    return make


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    """Run one daemon for all tests of a module, with the toy backend and a toy model as its default.

    It stores no transcripts, so that a recording transcribed by an earlier test is transcribed again.
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
    """Write ten minutes of silence: some thirty windows with `vad=False`."""
    path = tmp_path_factory.mktemp("audio") / "ten_minutes.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(bytes(2 * 16_000 * 600))
    return path


@pytest.fixture
def held(toy: Callable[..., str]) -> Iterator[Path]:
    """Make a toy model that computes nothing until its file `hold` is deleted."""
    folder = Path(toy("held"))
    (folder / "hold").touch()
    yield folder
    (folder / "hold").unlink(missing_ok=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """Attach the daemon's log to the report of a failed whole-program test."""
    report = yield
    if report.failed:
        for value in getattr(item, "funcargs", {}).values():
            if isinstance(value, RunningDaemon):
                report.sections.append(("the daemon's log", value.log()[-8000:]))
    return report


@pytest.fixture(scope="session")
def media_bundle() -> Path:
    """Return the real media bundle, installed into the test cache on first use."""
    cache = Path(os.environ.get("WHISPERD_TEST_CACHE") or Path(__file__).parents[1] / ".cache" / "test")
    store, bundle = NativeStore(cache / "native"), Bundle("media", media_lock())
    return anyio.run(store.install, bundle, lambda _: None).path
