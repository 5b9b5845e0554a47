from __future__ import annotations

import errno
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
from index_server import IndexServer
from store_checks import ignore, left_in_staging
from wheel_maker import lock_wheels, make_wheel

from whisperd.natives import Bundle, Damage, InstalledBundle, NativeStore
from whisperd.natives import store as natives_store
from whisperd.pip import pip_environment
from whisperd.progress import Progress
from whisperd.rpc.errors import WhisperdError

pytestmark = pytest.mark.anyio


async def refusal(store: NativeStore, bundle: Bundle) -> WhisperdError:
    """Return the error of a failed installation, and check that it left nothing."""
    with pytest.raises(WhisperdError) as caught:
        await store.install(bundle, ignore)
    assert caught.value.fix
    assert store.find(bundle) is None
    assert await store.list() == []
    return caught.value


class TestInstall:
    async def test_an_installed_bundle_is_found_and_complete(
        self, store: NativeStore, bundle: Bundle, root: Path, index: IndexServer
    ) -> None:
        assert store.find(bundle) is None
        installed = await store.install(bundle, ignore)
        assert store.find(bundle) == installed
        assert await store.list() == [installed]
        assert installed.path == root / bundle.select().folder / "engine-cpu"
        assert (installed.name, installed.version) == ("engine-cpu", "2.1")
        assert installed.distributions == {"engine": "2.1", "engine-parts": "1.0"}
        assert await store.verify(installed) == ()
        assert left_in_staging(root) == []

    async def test_a_child_imports_compiled_modules_without_writing(
        self, store: NativeStore, bundle: Bundle, index: IndexServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
        installed = await store.install(bundle, ignore)
        for source in installed.path.rglob("*.py"):
            os.utime(source, (1, 1))  # as after a copy
        compiled = sorted(installed.path.rglob("*.pyc"))
        code = (
            "import sys; sys.path.insert(0, sys.argv[1])\n"
            "import engine.core as core; print(core.ANSWER, core.__spec__.cached)"
        )
        child = await anyio.run_process([sys.executable, "-P", "-c", code, str(installed.path)])
        answer, cached = child.stdout.decode().split(maxsplit=1)
        assert answer == "42"
        assert Path(cached.strip()) in compiled
        assert sorted(installed.path.rglob("*.pyc")) == compiled
        assert await store.verify(installed) == ()

    async def test_progress_grows_to_all_bytes_of_all_wheels(
        self, store: NativeStore, bundle: Bundle, index: IndexServer
    ) -> None:
        seen: list[Progress] = []
        await store.install(bundle, seen.append)
        total = bundle.select().download_bytes
        done = [progress.done for progress in seen]
        assert done == sorted(done)
        assert done[-1] == total
        assert {progress.total for progress in seen} == {total}
        assert {progress.name for progress in seen} == {"engine-cpu"}
        assert {progress.file for progress in seen} == {"engine", "engine-parts", None}
        phases = list(dict.fromkeys(progress.detail for progress in seen))
        assert phases == ["downloading", "installing", "verifying"]

    async def test_an_installed_bundle_is_not_installed_again(
        self, store: NativeStore, bundle: Bundle, index: IndexServer
    ) -> None:
        first = await store.install(bundle, ignore)
        index.downloads.clear()
        assert await store.install(bundle, ignore) == first
        assert index.downloads == []

    async def test_install_returns_even_if_another_process_removes_the_bundle_right_away(
        self, store: NativeStore, bundle: Bundle, index: IndexServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        @asynccontextmanager
        async def hold_lock(*given: Any) -> AsyncIterator[None]:
            async with hold(*given):
                yield
            for installed in await store.list():
                shutil.rmtree(installed.path)

        hold = natives_store.hold_lock
        monkeypatch.setattr(natives_store, "hold_lock", hold_lock)
        assert (await store.install(bundle, ignore)).version == "2.1"
        assert store.find(bundle) is None

    async def test_an_incomplete_folder_is_replaced(
        self, store: NativeStore, bundle: Bundle, root: Path, index: IndexServer
    ) -> None:
        ruin = root / bundle.select().folder / "engine-cpu"
        ruin.mkdir(parents=True)
        (ruin / "half.txt").write_text("half")
        assert store.find(bundle) is None
        installed = await store.install(bundle, ignore)
        assert not (installed.path / "half.txt").exists()

    @pytest.mark.parametrize(
        ("right", "wrong"), [('"version"', '"verzion"'), ('"digest": "', '"digest": "0'), ("{", "[")]
    )
    async def test_a_folder_with_a_wrong_description_is_no_bundle(
        self, store: NativeStore, bundle: Bundle, index: IndexServer, right: str, wrong: str
    ) -> None:
        installed = await store.install(bundle, ignore)
        description = installed.path / ".whisperd.json"
        description.write_text(description.read_text().replace(right, wrong, 1))
        assert store.find(bundle) is None
        assert await store.install(bundle, ignore) == installed

    async def test_versions_are_installed_side_by_side(
        self, store: NativeStore, bundle: Bundle, wheels: Path, index: IndexServer
    ) -> None:
        newer = lock_wheels("engine-cpu", make_wheel(wheels, "engine", "2.2"))
        old, new = await store.install(bundle, ignore), await store.install(newer, ignore)
        assert (store.find(bundle), store.find(newer)) == (old, new)
        assert [installed.version for installed in await store.list()] == ["2.1", "2.2"]

    @pytest.mark.skipif(os.name != "posix", reason="needs Unix file modes")
    async def test_only_the_bundle_itself_is_accessible_to_others(
        self, store: NativeStore, bundle: Bundle, root: Path, index: IndexServer
    ) -> None:
        installed = await store.install(bundle, ignore)
        closed = [root, root / ".staging", root / ".locks"]
        assert [stat.S_IMODE(path.stat().st_mode) for path in closed] == [0o700] * 3
        umask = os.umask(0)
        os.umask(umask)
        assert stat.S_IMODE(installed.path.stat().st_mode) == 0o777 & ~umask

    @pytest.mark.parametrize("configured", [False, True])
    async def test_pip_settings_that_change_the_target_are_overridden(
        self,
        store: NativeStore,
        bundle: Bundle,
        index: IndexServer,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
        configured: bool,
    ) -> None:
        switches = ("user", "require-virtualenv", "quiet", "dry-run")
        places = ("root", "prefix", "target", "constraint", "build-constraint", "requirement", "editable")
        settings = dict.fromkeys(switches, "1") | dict.fromkeys(places, str(tmp_path / "nowhere"))
        if configured:
            lines = "\n".join(f"{name} = {value}" for name, value in settings.items())
            (tmp_path / "pip.conf").write_text(f"[global]\nindex-url = {index.url}\n[install]\n{lines}\n")
            monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
            monkeypatch.delenv("PIP_INDEX_URL")
        else:
            for name, value in settings.items():
                monkeypatch.setenv(f"PIP_{name.upper().replace('-', '_')}", value)
        seen: list[Progress] = []
        await store.install(bundle, seen.append)
        assert "downloading" in {progress.detail for progress in seen}

    @pytest.mark.skipif(sys.platform != "linux", reason="only Linux can flush a single disk")
    async def test_only_its_own_disk_is_flushed(
        self, store: NativeStore, bundle: Bundle, index: IndexServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(os, "sync", lambda: pytest.fail("flushing all disks may hang"))
        await store.install(bundle, ignore)

    def test_pip_keeps_the_users_settings_and_works_within_the_stage(self) -> None:
        theirs = {"PIP_INDEX_URL": "https://mirror.example", "HTTPS_PROXY": "proxy.example", "TMPDIR": "/tmp"}
        given = pip_environment(theirs, Path("/stage/tmp"))
        assert {name: given[name] for name in ("PIP_INDEX_URL", "HTTPS_PROXY")}.items() <= theirs.items()
        assert {given[name] for name in ("TMPDIR", "TEMP", "TMP")} == {str(Path("/stage/tmp"))}


class TestRefusals:
    async def test_offline(self, root: Path, bundle: Bundle, index: IndexServer) -> None:
        error = await refusal(NativeStore(root, offline=True), bundle)
        assert error.code == "native.offline"
        assert index.downloads == []
        assert not root.exists()

    async def test_an_installed_bundle_is_used_offline(
        self, installed: InstalledBundle, root: Path, bundle: Bundle
    ) -> None:
        assert await NativeStore(root, offline=True).install(bundle, ignore) == installed

    async def test_a_full_disk(self, root: Path, bundle: Bundle, index: IndexServer) -> None:
        error = await refusal(NativeStore(root, free_bytes=lambda _: 1_000), bundle)
        assert error.code == "disk.full"
        selection = bundle.select()
        assert error.data["needed_bytes"] >= selection.required_bytes
        assert error.data["free_bytes"] == 1_000
        assert index.downloads == []
        assert left_in_staging(root) == []

    async def test_bytes_that_differ_from_the_lock(
        self, store: NativeStore, bundle: Bundle, index: IndexServer
    ) -> None:
        index.behaviour = "wrong"
        error = await refusal(store, bundle)
        assert error.code == "native.hash_mismatch"
        assert "engine==2.1" in error.message

    async def test_bytes_that_differ_from_the_lock_but_match_the_index(
        self, store: NativeStore, bundle: Bundle, wheels: Path, index: IndexServer
    ) -> None:
        make_wheel(wheels, "engine", "2.1", files={"core.py": b"ANSWER = 43\n"})
        assert (await refusal(store, bundle)).code == "native.hash_mismatch"

    async def test_a_version_that_the_index_does_not_have(
        self, store: NativeStore, bundle: Bundle, wheels: Path, index: IndexServer
    ) -> None:
        (wheels / "engine_parts-1.0-py3-none-any.whl").unlink()
        error = await refusal(store, bundle)
        assert error.code == "native.not_found"
        assert "engine-parts==1.0" in error.message

    async def test_an_index_that_answers_forbidden(
        self, store: NativeStore, bundle: Bundle, index: IndexServer
    ) -> None:
        index.behaviour = "forbid"
        assert (await refusal(store, bundle)).code == "native.not_found"

    async def test_a_connection_that_is_always_cut(
        self, store: NativeStore, bundle: Bundle, root: Path, index: IndexServer
    ) -> None:
        index.behaviour = "cut"
        assert (await refusal(store, bundle)).code == "network.unreachable"
        assert len(index.downloads) > 1
        assert left_in_staging(root) == []

    async def test_an_unreachable_index(
        self, store: NativeStore, bundle: Bundle, index: IndexServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PIP_RETRIES", "1")
        monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
        assert (await refusal(store, bundle)).code == "network.unreachable"

    async def test_a_wheel_whose_record_is_wrong(
        self, store: NativeStore, wheels: Path, root: Path, index: IndexServer
    ) -> None:
        wheel = make_wheel(wheels, "liar", wrong_record="liar/__init__.py")
        error = await refusal(store, lock_wheels("engine-cpu", wheel))
        assert error.code == "native.install_failed"
        assert "liar/__init__.py" in error.message
        assert left_in_staging(root) == []

    async def test_a_python_without_pip(
        self, store: NativeStore, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "pip.py").write_text("raise ImportError(\"No module named 'pip'\")\n")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
        assert (await refusal(store, bundle)).code == "native.no_pip"

    async def test_a_read_only_folder(self, bundle: Bundle, locked_folder: Path) -> None:
        error = await refusal(NativeStore(locked_folder), bundle)
        assert error.code == "native.not_writable"
        assert error.data["path"] == str(locked_folder)

    async def test_a_disk_that_fills_up_during_installation(
        self, store: NativeStore, bundle: Bundle, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "pip.py").write_text("raise OSError(28, 'No space left on device')\n")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
        assert (await refusal(store, bundle)).code == "disk.full"
        assert left_in_staging(root) == []


@pytest.fixture
def locked_folder() -> Iterator[Path]:
    """A folder that this process may read but not write, even as root."""
    if os.name != "posix":
        pytest.skip("needs Unix file modes")
    is_root = os.geteuid() == 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o555)
        if is_root:
            os.seteuid(65534)
        try:
            yield folder
        finally:
            if is_root:
                os.seteuid(0)
            folder.chmod(0o755)


class TestVerify:
    async def test_one_changed_byte(self, store: NativeStore, installed: InstalledBundle) -> None:
        library = installed.path / "engine/lib/native.bin"
        data = bytearray(library.read_bytes())
        data[12345] ^= 1
        library.write_bytes(data)
        assert await store.verify(installed) == (Damage("engine/lib/native.bin", "changed"),)

    async def test_a_changed_compiled_module(self, store: NativeStore, installed: InstalledBundle) -> None:
        (compiled,) = (installed.path / "engine/__pycache__").glob("core.*")
        compiled.write_bytes(compiled.read_bytes() + b"!")
        (damage,) = await store.verify(installed)
        assert damage.problem == "changed"

    async def test_a_missing_file(self, store: NativeStore, installed: InstalledBundle) -> None:
        (installed.path / "engine_parts/data.txt").unlink()
        assert await store.verify(installed) == (Damage("engine_parts/data.txt", "missing"),)

    async def test_an_extra_file(self, store: NativeStore, installed: InstalledBundle) -> None:
        (installed.path / "sitecustomize.py").write_text("print('hello')\n")
        assert await store.verify(installed) == (Damage("sitecustomize.py", "extra"),)

    async def test_a_missing_manifest(self, store: NativeStore, installed: InstalledBundle) -> None:
        (installed.path / ".whisperd.sha256").unlink()
        assert await store.verify(installed) == (Damage(".whisperd.sha256", "missing"),)

    async def test_modules_compiled_later_are_no_damage(
        self, store: NativeStore, installed: InstalledBundle
    ) -> None:
        (installed.path / "engine/__pycache__/core.cpython-399.opt-1.pyc").write_bytes(b"compiled")
        assert await store.verify(installed) == ()


class TestRepair:
    async def test_a_damaged_bundle_is_reinstalled_on_request(
        self, store: NativeStore, bundle: Bundle, root: Path, index: IndexServer
    ) -> None:
        installed = await store.install(bundle, ignore)
        (installed.path / "engine/core.py").write_bytes(b"ANSWER = 43\n")
        (installed.path / "sitecustomize.py").write_text("print('hello')\n")
        assert len(await store.verify(installed)) == 2
        assert await store.install(bundle, ignore, repair=True) == installed
        assert await store.verify(installed) == ()
        assert left_in_staging(root) == []

    async def test_an_intact_bundle_is_kept(
        self, store: NativeStore, installed: InstalledBundle, bundle: Bundle, index: IndexServer
    ) -> None:
        index.downloads.clear()
        told: list[Progress] = []
        assert await store.install(bundle, told.append, repair=True) == installed
        assert index.downloads == []
        assert {progress.detail for progress in told} == {"verifying"}
        assert told[0].total == installed.size_bytes and told[-1].done

    async def test_a_bundle_that_cannot_be_repaired_is_left_unchanged(
        self, store: NativeStore, installed: InstalledBundle, bundle: Bundle, root: Path, index: IndexServer
    ) -> None:
        (installed.path / "engine_parts/data.txt").unlink()
        with pytest.raises(WhisperdError) as caught:
            await NativeStore(root, offline=True).install(bundle, ignore, repair=True)
        assert caught.value.code == "native.offline"
        index.behaviour = "cut"
        with pytest.raises(WhisperdError) as caught:
            await store.install(bundle, ignore, repair=True)
        assert caught.value.code == "network.unreachable"
        assert store.find(bundle) == installed


class TestRemove:
    async def test_a_removed_bundle_can_be_installed_again(
        self, store: NativeStore, bundle: Bundle, root: Path, index: IndexServer
    ) -> None:
        installed = await store.install(bundle, ignore)
        await store.remove(installed)
        assert store.find(bundle) is None
        assert await store.list() == []
        assert not installed.path.parent.exists()
        assert left_in_staging(root) == []
        assert await store.install(bundle, ignore) == installed

    async def test_removing_a_removed_bundle_is_no_error(
        self, store: NativeStore, installed: InstalledBundle
    ) -> None:
        await store.remove(installed)
        await store.remove(installed)

    async def test_one_in_use_on_windows_is_kept(
        self, store: NativeStore, installed: InstalledBundle, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """There, a folder with open files cannot be renamed."""

        def refuse(path: Path, _target: Path) -> None:
            raise PermissionError(errno.EACCES, "The process cannot access the file", str(path))

        with monkeypatch.context() as windows:
            windows.setattr(Path, "replace", refuse)
            windows.setattr(natives_store, "os", SimpleNamespace(**{**vars(os), "name": "nt"}))
            with pytest.raises(WhisperdError) as caught:
                await store.remove(installed)
        assert caught.value.code == "native.in_use"
        assert "daemon stop" in caught.value.fix
        assert await store.verify(installed) == ()

    async def test_other_versions_are_kept(
        self, store: NativeStore, bundle: Bundle, wheels: Path, index: IndexServer
    ) -> None:
        newer = lock_wheels("engine-cpu", make_wheel(wheels, "engine", "2.2"))
        old, new = await store.install(bundle, ignore), await store.install(newer, ignore)
        await store.remove(old)
        assert await store.list() == [new]
