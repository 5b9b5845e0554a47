"""Upgrades: newer versions are installed alongside the old, tried before they are used, and rolled back."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from index_server import IndexServer
from store_checks import ignore, left_in_staging
from wheel_maker import lock_wheels, make_wheel

from whisperd.natives import Bundle, InstalledBundle, NativeStore
from whisperd.natives.choice import Choice, Chosen, read_choice
from whisperd.natives.search import is_newer
from whisperd.progress import Progress
from whisperd.rpc.errors import WhisperdError

pytestmark = pytest.mark.anyio

UPGRADER = Path(__file__).with_name("upgrader.py")
RANGES = {"engine": ">=2,<3", "engine-parts": ">=1"}


@pytest.fixture
def bundle(wheels: Path) -> Bundle:
    """The bundle `engine-cpu` as shipped: version 2.1, with 2.x allowed."""
    return lock_wheels("engine-cpu", *sorted(wheels.glob("*.whl")), ranges=RANGES)


@pytest.fixture
def newer(wheels: Path) -> Path:
    """Version 2.2, which the index serves as well."""
    return make_wheel(wheels, "engine", "2.2", files={"core.py": b"ANSWER = 43\n"})


async def works(_: InstalledBundle) -> str:
    return "it works"


async def fails(_: InstalledBundle) -> str:
    raise WhisperdError("native.wrong", "It says nonsense.", "Use another version of it.")


async def refused(store: NativeStore, bundle: Bundle, version: str | None = None) -> WhisperdError:
    """Return the error of a failed upgrade, and check that it changed nothing."""
    before, versions = store.find(bundle), await store.list()
    with pytest.raises(WhisperdError) as caught:
        await store.upgrade(bundle, works, ignore, version)
    assert caught.value.fix
    assert (store.find(bundle), await store.list()) == (before, versions)
    return caught.value


@pytest.mark.slow
class TestUpgrade:
    async def test_the_newest_version_is_installed_alongside_and_then_used(
        self, store: NativeStore, bundle: Bundle, root: Path, newer: Path, index: IndexServer
    ) -> None:
        old = await store.install(bundle, ignore)
        tried: list[InstalledBundle] = []

        async def trial(installed: InstalledBundle) -> str:
            assert store.find(bundle) == old  # the new version is not in use yet
            tried.append(installed)
            return "it works"

        done = await store.upgrade(bundle, trial, ignore)
        assert tried == [done.installed]
        assert (done.before, done.tried) == ("2.1", "it works")
        assert store.find(bundle) == done.installed == await store.install(bundle, ignore)
        assert done.installed.distributions == {"engine": "2.2", "engine-parts": "1.0"}
        assert (done.installed.path / "engine/core.py").read_bytes() == b"ANSWER = 43\n"
        assert await store.verify(done.installed) == ()
        assert await store.list() == [old, done.installed]
        assert left_in_staging(root) == []

    async def test_upgrade_needs_no_installed_version(
        self, store: NativeStore, bundle: Bundle, newer: Path, index: IndexServer
    ) -> None:
        done = await store.upgrade(bundle, works, ignore)
        assert await store.list() == [done.installed]
        assert done.installed.version == "2.2"

    async def test_versions_outside_the_range_are_ignored(
        self, store: NativeStore, bundle: Bundle, wheels: Path, newer: Path, index: IndexServer
    ) -> None:
        make_wheel(wheels, "engine", "3.0")
        make_wheel(wheels, "engine-parts", "1.1")
        done = await store.upgrade(bundle, works, ignore)
        assert done.installed.distributions == {"engine": "2.2", "engine-parts": "1.1"}

    async def test_without_a_newer_version_nothing_changes(
        self, store: NativeStore, bundle: Bundle, root: Path, index: IndexServer
    ) -> None:
        installed = await store.install(bundle, ignore)
        done = await store.upgrade(bundle, fails, ignore)
        assert (done.installed, done.before, done.tried) == (installed, None, None)
        assert not (root / ".current").exists()
        assert left_in_staging(root) == []

    async def test_unsuitable_pip_settings_are_overridden(
        self,
        store: NativeStore,
        bundle: Bundle,
        newer: Path,
        index: IndexServer,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
    ) -> None:
        lines = ["require-hashes = yes", "prefix = nowhere", "build-constraint = nowhere"]
        (tmp_path / "pip.conf").write_text("\n".join(["[install]", *lines, "[download]", *lines]))
        monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
        assert (await store.upgrade(bundle, works, ignore)).installed.version == "2.2"

    async def test_progress_names_the_steps(
        self, store: NativeStore, bundle: Bundle, newer: Path, index: IndexServer
    ) -> None:
        told: list[Progress] = []
        await store.upgrade(bundle, works, told.append)
        assert {progress.name for progress in told} == {"engine-cpu"}
        details = list(dict.fromkeys(progress.detail for progress in told))
        assert details[0] == "looking for newer versions"
        assert details[-2:] == ["verifying", "trying"]
        assert {"downloading", "installing"} < set(details)

    async def test_a_specific_version_can_be_requested(
        self, store: NativeStore, bundle: Bundle, wheels: Path, newer: Path, index: IndexServer
    ) -> None:
        make_wheel(wheels, "engine", "2.0")
        done = await store.upgrade(bundle, works, ignore, "2.0")
        assert done.installed.version == "2.0"
        assert (await store.upgrade(bundle, works, ignore, "2.0")).before is None

    async def test_the_shipped_version_can_be_requested(
        self, store: NativeStore, bundle: Bundle, root: Path, newer: Path, index: IndexServer
    ) -> None:
        shipped = await store.install(bundle, ignore)
        await store.upgrade(bundle, works, ignore)
        assert (await store.upgrade(bundle, works, ignore, "2.1")).installed == shipped
        assert store.find(bundle) == shipped

    async def test_only_the_previous_version_is_kept(
        self, store: NativeStore, bundle: Bundle, wheels: Path, newer: Path, index: IndexServer
    ) -> None:
        await store.install(bundle, ignore)
        await store.upgrade(bundle, works, ignore)
        make_wheel(wheels, "engine", "2.3")
        await store.upgrade(bundle, works, ignore)
        assert [one.version for one in await store.list()] == ["2.2", "2.3"]

    async def test_concurrent_upgrades_upgrade_once(
        self, store: NativeStore, bundle: Bundle, newer: Path, index: IndexServer
    ) -> None:
        ended: list[str | None] = []

        async def upgrade() -> None:
            ended.append((await store.upgrade(bundle, works, ignore)).before)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(upgrade)
            tasks.start_soon(upgrade)
        assert sorted(ended, key=str) == ["2.1", None]

    async def test_each_shipped_lock_has_its_own_choice(
        self, store: NativeStore, bundle: Bundle, wheels: Path, newer: Path, index: IndexServer
    ) -> None:
        await store.upgrade(bundle, works, ignore)
        other = lock_wheels("engine-cpu", wheels / "engine-2.1-py3-none-any.whl", ranges=RANGES)
        assert store.find(other) is None
        installed = await store.install(other, ignore)
        assert installed.distributions == {"engine": "2.1"}

    async def test_an_unreadable_choice_is_ignored(
        self, store: NativeStore, bundle: Bundle, root: Path, newer: Path, index: IndexServer
    ) -> None:
        shipped = await store.install(bundle, ignore)
        await store.upgrade(bundle, works, ignore)
        (choice,) = (root / ".current").iterdir()
        choice.write_text("{")
        assert store.find(bundle) == shipped

    async def test_the_chosen_version_is_repaired_by_its_own_hashes(
        self, store: NativeStore, bundle: Bundle, newer: Path, index: IndexServer
    ) -> None:
        done = await store.upgrade(bundle, works, ignore)
        (done.installed.path / "engine/core.py").write_text("ANSWER = 44\n")
        assert await store.install(bundle, ignore, repair=True) == done.installed
        assert await store.verify(done.installed) == ()


@pytest.mark.slow
class TestFailuresAndRollback:
    async def test_a_version_that_fails_its_trial_is_not_used(
        self, store: NativeStore, bundle: Bundle, root: Path, newer: Path, index: IndexServer
    ) -> None:
        old = await store.install(bundle, ignore)
        with pytest.raises(WhisperdError) as caught:
            await store.upgrade(bundle, fails, ignore)
        assert caught.value.code == "native.upgrade_failed"
        assert "It says nonsense." in caught.value.message
        assert "2.1 stays in use" in caught.value.message
        assert caught.value.data["cause"]["code"] == "native.wrong"
        assert store.find(bundle) == old
        assert await store.list() == [old]
        assert left_in_staging(root) == []

    async def test_cancelling_during_the_trial_changes_nothing(
        self, store: NativeStore, bundle: Bundle, root: Path, newer: Path, index: IndexServer
    ) -> None:
        old = await store.install(bundle, ignore)

        async def waits(_: InstalledBundle) -> str:
            scope.cancel()
            await anyio.sleep_forever()
            raise AssertionError

        with anyio.CancelScope() as scope:
            await store.upgrade(bundle, waits, ignore)
        assert store.find(bundle) == old
        assert await store.list() == [old]
        assert left_in_staging(root) == []

    async def test_cancelling_during_the_download_changes_nothing(
        self, store: NativeStore, bundle: Bundle, root: Path, newer: Path, index: IndexServer
    ) -> None:
        old = await store.install(bundle, ignore)
        index.half_way.clear()
        index.holds = newer.name
        index.gate.clear()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(store.upgrade, bundle, works, ignore)
            await anyio.to_thread.run_sync(index.half_way.wait)
            tasks.cancel_scope.cancel()
        assert await store.list() == [old]
        assert left_in_staging(root) == []

    @pytest.mark.slow
    @pytest.mark.skipif(os.name != "posix", reason="needs Unix signals")
    async def test_after_a_kill_at_any_step_the_old_version_is_used_and_the_upgrade_can_be_repeated(
        self, store: NativeStore, bundle: Bundle, root: Path, newer: Path, index: IndexServer, tmp_path: Path
    ) -> None:
        old = await store.install(bundle, ignore)
        lock = tmp_path / "engine.lock"
        lock.write_text(bundle.lock)
        for detail in ("looking for newer versions", "downloading", "installing", "verifying", "trying"):
            command = [sys.executable, str(UPGRADER), str(root), str(lock), detail]
            done = subprocess.run(command, capture_output=True, check=False)
            assert done.returncode == -signal.SIGKILL, (detail, done.stderr)
            assert store.find(bundle) == old
            for installed in await store.list():
                assert await store.verify(installed) == ()
        upgraded = await store.upgrade(bundle, works, ignore)
        assert store.find(bundle) == upgraded.installed
        assert [one.version for one in await store.list()] == ["2.1", "2.2"]
        other = lock_wheels("other", newer)
        await store.install(other, ignore)
        assert left_in_staging(root) == []

    async def test_rollback_goes_back_and_forth(
        self, store: NativeStore, bundle: Bundle, newer: Path, index: IndexServer
    ) -> None:
        old = await store.install(bundle, ignore)
        new = (await store.upgrade(bundle, works, ignore)).installed
        index.downloads.clear()
        assert await store.rollback(bundle, ignore) == old == store.find(bundle)
        assert await store.rollback(bundle, ignore) == new == store.find(bundle)
        assert index.downloads == []

    async def test_rollback_without_an_upgrade(self, store: NativeStore, bundle: Bundle) -> None:
        with pytest.raises(WhisperdError) as caught:
            await store.rollback(bundle, ignore)
        assert caught.value.code == "native.no_previous"

    async def test_rollback_reinstalls_a_removed_version(
        self, store: NativeStore, bundle: Bundle, newer: Path, index: IndexServer
    ) -> None:
        old = await store.install(bundle, ignore)
        await store.upgrade(bundle, works, ignore)
        await store.remove(old)
        assert await store.rollback(bundle, ignore) == old
        assert await store.verify(old) == ()

    async def test_removing_the_current_version_falls_back_to_the_previous(
        self, store: NativeStore, bundle: Bundle, root: Path, newer: Path, index: IndexServer
    ) -> None:
        old = await store.install(bundle, ignore)
        done = await store.upgrade(bundle, works, ignore)
        (choice,) = (root / ".current").iterdir()
        # The choice of a bundle whose name starts with ours; its versions may have the same names.
        others = choice.with_name(choice.name.replace("engine-cpu", "engine-cpu-generic"))
        others.write_bytes(choice.read_bytes())
        await store.remove(done.installed)
        assert store.find(bundle) == old
        assert list((root / ".current").iterdir()) == [others]
        assert others.read_bytes()


@pytest.mark.slow
class TestRefused:
    async def test_a_version_out_of_range(
        self, store: NativeStore, bundle: Bundle, index: IndexServer
    ) -> None:
        for version in ("3.0", "1.9", "newest"):
            error = await refused(store, bundle, version)
            assert error.code == "native.out_of_range"
            assert ">=2,<3" in error.message

    async def test_a_version_that_the_index_does_not_have(
        self, store: NativeStore, bundle: Bundle, index: IndexServer
    ) -> None:
        error = await refused(store, bundle, "2.7")
        assert error.code == "native.not_found"
        assert "engine==2.7" in error.message

    async def test_a_lock_without_ranges(
        self, store: NativeStore, bundle: Bundle, wheels: Path, index: IndexServer
    ) -> None:
        fixed = lock_wheels("engine-cpu", *sorted(wheels.glob("*.whl")))
        assert (await refused(store, fixed)).code == "native.not_upgradable"

    async def test_offline(self, root: Path, bundle: Bundle, newer: Path, index: IndexServer) -> None:
        assert (await refused(NativeStore(root, offline=True), bundle)).code == "native.offline"

    async def test_an_index_that_serves_another_file_than_it_states(
        self, store: NativeStore, bundle: Bundle, root: Path, newer: Path, index: IndexServer
    ) -> None:
        await store.install(bundle, ignore)
        index.behaviour = "wrong"
        assert (await refused(store, bundle)).code == "native.hash_mismatch"
        assert left_in_staging(root) == []

    async def test_a_disk_without_room_for_the_new_version(
        self, store: NativeStore, root: Path, bundle: Bundle, newer: Path, index: IndexServer
    ) -> None:
        await store.install(bundle, ignore)
        full = NativeStore(root, free_bytes=lambda _: 1_000)
        assert (await refused(full, bundle)).code == "disk.full"
        assert left_in_staging(root) == []


versions = st.sampled_from(["1.0", "1.2", "1.10"])
held = st.fixed_dictionaries({"engine": versions, "parts": versions})


@given(held, held)
def test_newer_means_a_newer_part_and_no_older_one(found: dict[str, str], current: dict[str, str]) -> None:
    if is_newer(found, current, exactly=False):
        assert not is_newer(current, found, exactly=False)
        assert is_newer(found, current, exactly=True)
    assert is_newer(found, current, exactly=True) == (found != current)


def test_a_mirror_that_lacks_versions_causes_no_downgrade() -> None:
    assert not is_newer({"engine": "2.0", "parts": "9"}, {"engine": "2.1", "parts": "1"}, exactly=False)
    assert is_newer({"engine": "2.10", "parts": "1"}, {"engine": "2.9", "parts": "1"}, exactly=False)


folders = st.sampled_from("abc")
chosen = st.none() | st.builds(Chosen, folder=folders, lock=st.just(""))
choices = st.builds(Choice, current=chosen, previous=chosen)


@pytest.mark.parametrize("content", [None, "{", "[" * 5000, '{"current": 1}'])
def test_only_a_choice_that_cannot_be_read_is_logged(
    tmp_path: Path, content: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "engine"
    if content is not None:
        path.write_text(content)
    assert read_choice(path) is None
    assert bool(caplog.records) == (content is not None)


@given(choices, folders)
def test_a_removed_version_is_no_longer_chosen(choice: Choice, folder: str) -> None:
    left = choice.without(folder)
    assert not left.mentions(folder)
    assert choice.mentions(folder) or left == choice
    if choice.current is not None and choice.current.folder != folder:
        assert left.current == choice.current
    assert left == left.without(folder)


class TestPruning:
    @pytest.mark.slow
    async def test_unused_versions_are_removed(
        self, store: NativeStore, bundle: Bundle, wheels: Path, root: Path, newer: Path, index: IndexServer
    ) -> None:
        gone = await store.install(lock_wheels("gone-cpu", *sorted(wheels.glob("engine_parts-*"))), ignore)
        shipped_before = lock_wheels("engine-cpu", wheels / "engine-2.1-py3-none-any.whl", ranges=RANGES)
        old = await store.install(shipped_before, ignore)
        first = await store.install(bundle, ignore)
        second = (await store.upgrade(bundle, works, ignore)).installed
        assert await store.prune([bundle]) == [old, gone]
        assert await store.list() == [first, second]
        assert not old.path.exists() and not gone.path.exists()
        assert left_in_staging(root) == []
        assert await store.prune([bundle]) == []
        assert await store.rollback(bundle, ignore) == first

    @pytest.mark.slow
    async def test_a_version_on_trial_is_not_removed(
        self, store: NativeStore, bundle: Bundle, root: Path, newer: Path, index: IndexServer
    ) -> None:
        seen, pruned = anyio.Event(), list[list[InstalledBundle]]()

        class Other(NativeStore):
            """A store that stands for another process."""

            def _is_left_over(self, installed: InstalledBundle, bundle: Bundle | None) -> bool:
                answer = super()._is_left_over(installed, bundle)
                seen.set()
                return answer

        async def prune() -> None:
            pruned.append(await Other(root).prune([bundle]))

        async with anyio.create_task_group() as tasks:

            async def trial(_: InstalledBundle) -> str:
                tasks.start_soon(prune)
                await seen.wait()
                return "it works"

            done = await store.upgrade(bundle, trial, ignore)
        assert pruned == [[]]
        assert store.find(bundle) == done.installed

    async def test_bundles_for_other_platforms_are_kept(
        self, store: NativeStore, bundle: Bundle, wheels: Path, index: IndexServer
    ) -> None:
        installed = await store.install(bundle, ignore)
        elsewhere = dataclasses.replace(bundle, lock=bundle.lock.replace("py3-none-any", "py3-none-win32"))
        with pytest.raises(WhisperdError):
            elsewhere.select()
        assert await store.prune([elsewhere]) == []
        assert await store.list() == [installed]
