"""Concurrent, cancelled and killed installations: a bundle is complete or absent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import anyio
import pytest
from index_server import IndexServer
from store_checks import ignore, left_in_staging
from wheel_maker import lock_wheels

from whisperd.natives import Bundle, InstalledBundle, NativeStore
from whisperd.progress import Progress

pytestmark = pytest.mark.anyio

INSTALLER = Path(__file__).with_name("installer.py")


class TestConcurrent:
    async def test_two_concurrent_tasks_install_once(
        self, store: NativeStore, bundle: Bundle, index: IndexServer
    ) -> None:
        index.gate.clear()
        found: list[InstalledBundle] = []
        waiting = anyio.Event()

        def note(progress: Progress) -> None:
            if progress.detail == "waiting":
                waiting.set()

        async def install() -> None:
            found.append(await store.install(bundle, note))

        async with anyio.create_task_group() as group:
            group.start_soon(install)
            group.start_soon(install)
            await waiting.wait()
            index.gate.set()
        assert found[0] == found[1]
        assert len(index.downloads) == 2  # wheels, each once

    async def test_two_concurrent_processes_install_once(
        self, store: NativeStore, bundle: Bundle, root: Path, index: IndexServer, tmp_path: Path
    ) -> None:
        lock = tmp_path / "engine.lock"
        lock.write_text(bundle.lock)
        command = [sys.executable, str(INSTALLER), str(root), str(lock)]
        index.gate.clear()
        with subprocess.Popen(command, stdout=subprocess.PIPE) as one:
            await anyio.to_thread.run_sync(index.half_way.wait)
            with subprocess.Popen(command, stdout=subprocess.PIPE) as two:
                assert two.stdout
                first_words = await anyio.to_thread.run_sync(two.stdout.readline)
                assert first_words.split()[:2] == [b"waiting", b"0"]
                index.gate.set()
                _, rest = one.communicate(), two.communicate()
        assert (one.returncode, two.returncode) == (0, 0)
        assert rest[0] is not None
        assert len(index.downloads) == 2
        assert store.find(bundle) is not None

    async def test_a_waiting_installation_can_be_cancelled(
        self, store: NativeStore, bundle: Bundle, index: IndexServer
    ) -> None:
        index.gate.clear()
        async with anyio.create_task_group() as group:
            group.start_soon(store.install, bundle, ignore)
            await anyio.to_thread.run_sync(index.half_way.wait)
            with anyio.CancelScope() as scope:
                await store.install(bundle, lambda _: scope.cancel())
            assert scope.cancelled_caught
            index.gate.set()
        assert store.find(bundle) is not None


@pytest.mark.slow
class TestInterrupted:
    async def test_cancelling_ends_pip_and_leaves_nothing(
        self, store: NativeStore, bundle: Bundle, root: Path, index: IndexServer
    ) -> None:
        index.gate.clear()
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:
                group.start_soon(store.install, bundle, ignore)
                await anyio.to_thread.run_sync(index.half_way.wait)
                scope.cancel()
        assert await store.list() == []
        assert left_in_staging(root) == []
        index.gate.set()
        assert await store.install(bundle, ignore)

    async def test_cancelling_at_any_moment_leaves_all_or_nothing(
        self, store: NativeStore, bundle: Bundle, root: Path, index: IndexServer
    ) -> None:
        for moment in range(100):
            seen = 0
            with anyio.CancelScope() as scope:

                def cancel_at_the_moment(progress: Progress, scope: anyio.CancelScope = scope) -> None:
                    nonlocal seen
                    seen += 1
                    if seen == moment + 1:  # noqa: B023 - called within this turn of the loop only
                        scope.cancel()

                await store.install(bundle, cancel_at_the_moment)
            assert left_in_staging(root) == []
            if seen <= moment:
                break
            assert store.find(bundle) is None
        else:
            pytest.fail("the installation never finished")
        assert moment >= 4
        assert store.find(bundle) is not None

    @pytest.mark.skipif(os.name != "posix", reason="needs Unix signals")
    async def test_killing_at_any_moment_leaves_nothing_that_passes_for_a_bundle(
        self, store: NativeStore, bundle: Bundle, root: Path, index: IndexServer, tmp_path: Path
    ) -> None:
        lock = tmp_path / "engine.lock"
        lock.write_text(bundle.lock)
        for moment in range(1, 100):
            command = [sys.executable, str(INSTALLER), str(root), str(lock), str(moment)]
            done = subprocess.run(command, capture_output=True, check=False)
            if done.returncode != -signal.SIGKILL:
                break
            assert await store.list() == []
            assert left_in_staging(root)
        assert done.returncode == 0, done.stderr
        assert moment >= 4
        installed = store.find(bundle)
        assert installed is not None
        assert await store.verify(installed) == ()
        assert left_in_staging(root) == []

    async def test_leftovers_of_other_bundles_are_deleted_when_no_process_uses_them(
        self, store: NativeStore, bundle: Bundle, wheels: Path, root: Path, index: IndexServer
    ) -> None:
        other = lock_wheels("other", wheels / "engine_parts-1.0-py3-none-any.whl")
        index.holds = "engine-2.1"
        index.gate.clear()
        async with anyio.create_task_group() as group:
            group.start_soon(store.install, bundle, ignore)
            await anyio.to_thread.run_sync(index.half_way.wait)
            (at_work,) = left_in_staging(root)
            for clear in (partial(store.install, other, ignore), store.clear_leftovers):
                (root / ".staging" / "gone-1.0-cp311-00000000.12345678").mkdir()
                await clear()
                assert left_in_staging(root) == [at_work]
            index.gate.set()
        assert store.find(bundle)
