"""Failing disks, damaged caches and read-only folders never leave a half-installed bundle."""

from __future__ import annotations

import dataclasses
import errno
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from index_server import IndexServer
from store_checks import ignore, left_in_staging
from wheel_maker import lock_wheels, make_wheel

from whisperd.natives import Bundle, InstalledBundle, NativeStore, manifest, sharing
from whisperd.natives import install as install_module
from whisperd.natives import store as store_module
from whisperd.rpc.errors import WhisperdError
from whisperd_testing import unprivileged, until

pytestmark = pytest.mark.anyio


async def works(_: InstalledBundle) -> str:
    return "it works"


@pytest.mark.slow
class TestPipsCache:
    @pytest.fixture
    def cache(self, index: IndexServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A cache in which pip stores downloads from the index."""
        index.may_cache = True
        monkeypatch.delenv("PIP_NO_CACHE_DIR")
        monkeypatch.setenv("PIP_CACHE_DIR", str(tmp_path / "cache"))
        monkeypatch.setenv("PIP_TRUSTED_HOST", f"127.0.0.1:{index.server_port}")
        return tmp_path / "cache"

    async def test_a_damaged_wheel_in_the_cache_is_fetched_again(
        self, root: Path, bundle: Bundle, index: IndexServer, cache: Path, tmp_path: Path
    ) -> None:
        await NativeStore(tmp_path / "first").install(bundle, ignore)
        bodies = [path for path in cache.rglob("*") if path.is_file() and path.stat().st_size > 500_000]
        assert bodies
        for body in bodies:
            data = bytearray(body.read_bytes())
            data[-1000] ^= 1
            body.write_bytes(data)
        index.downloads.clear()
        installed = await NativeStore(root).install(bundle, ignore)
        assert await NativeStore(root).verify(installed) == ()
        assert "engine-2.1-py3-none-any.whl" in index.downloads

    async def test_an_index_that_serves_another_file_is_not_retried_forever(
        self, store: NativeStore, bundle: Bundle, index: IndexServer, cache: Path
    ) -> None:
        index.behaviour = "wrong"
        with pytest.raises(WhisperdError) as caught:
            await store.install(bundle, ignore)
        assert caught.value.code == "native.hash_mismatch"
        assert len(index.downloads) <= 2
        assert await store.list() == []


@pytest.mark.slow
class TestDamagedBundle:
    """A bundle is checked before each use, and visible damage is repaired."""

    @pytest.fixture
    async def installed(self, store: NativeStore, bundle: Bundle, index: IndexServer) -> InstalledBundle:
        return await store.install(bundle, ignore)

    @pytest.fixture(params=["changed", "changed in secret", "cut", "missing", "no manifest"])
    def damage(self, request: pytest.FixtureRequest, installed: InstalledBundle) -> str:
        library = installed.path / "engine/lib/native.bin"
        data = bytearray(library.read_bytes())
        if request.param == "changed":
            data[12345] ^= 1
            write_later(library, data)
        elif request.param == "changed in secret":
            data[12345] ^= 1
            change_keeping_times(library, data)
        elif request.param == "cut":
            library.write_bytes(data[:-1])
            os.utime(library, (1, 1))
        elif request.param == "missing":
            library.unlink()
        else:
            (installed.path / ".whisperd.sha256").unlink()
        return str(request.param)

    async def test_damage_is_repaired(
        self, store: NativeStore, bundle: Bundle, installed: InstalledBundle, damage: str, root: Path
    ) -> None:
        assert await store.install(bundle, ignore) == installed
        assert await store.verify(installed) == ()
        assert left_in_staging(root) == []

    async def test_a_damaged_bundle_is_not_used_offline(
        self, root: Path, bundle: Bundle, installed: InstalledBundle, damage: str
    ) -> None:
        with pytest.raises(WhisperdError) as caught:
            await NativeStore(root, offline=True).install(bundle, ignore)
        assert caught.value.code == "native.offline"
        assert "damaged" in caught.value.message
        assert str(installed.path) in caught.value.fix

    async def test_an_intact_bundle_is_used_even_after_a_copy(
        self, store: NativeStore, bundle: Bundle, installed: InstalledBundle, index: IndexServer
    ) -> None:
        for path in installed.path.rglob("*"):
            os.utime(path)  # files modified later are read again
        index.downloads.clear()
        assert await store.install(bundle, ignore) == installed
        assert index.downloads == []

    async def test_a_touched_file_is_read_once(
        self,
        root: Path,
        bundle: Bundle,
        installed: InstalledBundle,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        library = installed.path / "engine/lib/native.bin"
        change_keeping_times(library, library.read_bytes())
        read: list[Path] = []

        def note(path: Path, sha256: Callable[[Path], str] = manifest.sha256) -> str:
            read.append(path)
            return sha256(path)

        monkeypatch.setattr(manifest, "sha256", note)
        for store in (NativeStore(root), NativeStore(root)):
            until(lambda: time.time_ns() > library.stat().st_ctime_ns + 10**8, "the clock of the files")
            assert await store.install(bundle, ignore) == installed
        assert read == [library]


class TestDamagedManifest:
    """Anything that a bad disk or a power failure may leave counts as damage."""

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        folder = tmp_path / "bundle"
        folder.mkdir()
        (folder / "engine.py").write_bytes(b"ANSWER = 42\n")
        assert manifest.write_manifest(folder) == ()
        (folder / manifest.DESCRIPTION).touch()
        return folder

    def damage(self, folder: Path) -> set[tuple[manifest.Damage, ...]]:
        """Return the results of the full and the quick comparison."""
        return {manifest.compare(folder), manifest.compare_quickly(folder, 0, {})}

    @pytest.mark.parametrize("text", [b"\xff\xfe\n", b"0123  engine.py\0\0\0\n"], ids=["no text", "zeros"])
    def test_an_unreadable_manifest_is_damage(self, folder: Path, text: bytes) -> None:
        (folder / manifest.MANIFEST).write_bytes(text)
        assert self.damage(folder) == {(manifest.Damage(manifest.MANIFEST, "missing"),)}

    def test_a_damaged_manifest_does_not_block_other_installations(
        self, folder: Path, tmp_path: Path
    ) -> None:
        other = tmp_path / "other"
        other.mkdir()
        (other / "native.bin").write_bytes(bytes(sharing.WORTH_IT_BYTES))
        assert manifest.write_manifest(other) == ()
        checksum = manifest.sha256(other / "native.bin")
        (folder / manifest.MANIFEST).write_bytes(f"{checksum}  native\0bin\n".encode())
        sharing.share_files(other, [folder])
        assert (other / "native.bin").stat().st_nlink == 1

    @pytest.mark.skipif(os.name == "nt", reason="links need a privilege")
    def test_an_unreadable_file_is_damage(self, folder: Path) -> None:
        (folder / "engine.py").unlink()
        (folder / "engine.py").symlink_to("nowhere")
        (folder / "extra.py").symlink_to("nowhere")
        changed, extra = manifest.Damage("engine.py", "changed"), manifest.Damage("extra.py", "extra")
        assert self.damage(folder) == {(changed, extra)}


def change_keeping_times(path: Path, data: bytes) -> None:
    """Write a file and restore its size and times; only the system's change time is later."""
    if os.name == "nt":
        pytest.skip("on Windows every timestamp can be set")
    before = path.stat()
    write_later(path, data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_mtime_ns == before.st_mtime_ns


def write_later(path: Path, data: bytes) -> None:
    """Write a file of a bundle once the coarse file clock shows a time later than the sealing."""
    sealed_ns = (path.parents[2] / ".whisperd.json").stat().st_mtime_ns
    until(lambda: _written(path, data).st_mtime_ns > sealed_ns, "the clock of the files")


def _written(path: Path, data: bytes) -> os.stat_result:
    path.write_bytes(data)
    return path.stat()


@pytest.mark.slow
class TestSharedFiles:
    """Bundles that are made of the same wheels share their disk space."""

    @pytest.fixture
    async def both(
        self, store: NativeStore, bundle: Bundle, index: IndexServer
    ) -> tuple[InstalledBundle, InstalledBundle]:
        if os.name == "nt":
            pytest.skip("files are not shared on Windows")
        twin = dataclasses.replace(bundle, name="engine-generic")
        return await store.install(bundle, ignore), await store.install(twin, ignore)

    def library(self, installed: InstalledBundle) -> Path:
        return installed.path / "engine/lib/native.bin"

    async def test_large_files_are_stored_once(
        self, store: NativeStore, both: tuple[InstalledBundle, InstalledBundle]
    ) -> None:
        one, other = both
        assert self.library(one).samefile(self.library(other))
        assert not (one.path / "engine/core.py").samefile(other.path / "engine/core.py")
        for installed in both:
            assert await store.verify(installed) == await store.verify(installed, quickly=True) == ()

    async def test_removing_one_bundle_keeps_the_other(
        self, store: NativeStore, both: tuple[InstalledBundle, InstalledBundle], root: Path
    ) -> None:
        one, other = both
        await store.remove(one)
        assert await store.list() == [other]
        assert await store.verify(other) == ()
        assert left_in_staging(root) == []

    async def test_damage_in_a_shared_file_is_repaired_in_each_bundle(
        self, store: NativeStore, bundle: Bundle, both: tuple[InstalledBundle, InstalledBundle]
    ) -> None:
        one, other = both
        data = bytearray(self.library(one).read_bytes())
        data[12345] ^= 1
        change_keeping_times(self.library(one), data)
        assert await store.install(bundle, ignore) == one
        assert await store.verify(one) == ()
        assert [damage.problem for damage in await store.verify(other)] == ["changed"]
        assert await store.install(dataclasses.replace(bundle, name=other.name), ignore) == other
        assert await store.verify(other) == ()
        assert self.library(one).samefile(self.library(other))

    async def test_a_disk_without_links_is_supported(
        self, store: NativeStore, bundle: Bundle, index: IndexServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(os, "link", fail_with(errno.EPERM))
        for name in (bundle.name, "engine-generic"):
            installed = await store.install(dataclasses.replace(bundle, name=name), ignore)
            assert await store.verify(installed) == ()


def fail_with(code: int) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> Any:
        raise OSError(code, os.strerror(code))

    return fail


STEPS = [
    (install_module, "write_manifest"),
    (install_module, "write_description"),
    (store_module, "_move_into_place"),
]


@pytest.mark.parametrize(
    ("code", "expected"), [(errno.ENOSPC, "disk.full"), (errno.EROFS, "native.not_writable")]
)
class TestFailingDisk:
    @pytest.mark.parametrize(("module", "function"), STEPS, ids=[name for _, name in STEPS])
    async def test_during_an_installation(
        self,
        store: NativeStore,
        bundle: Bundle,
        root: Path,
        index: IndexServer,
        monkeypatch: pytest.MonkeyPatch,
        module: object,
        function: str,
        code: int,
        expected: str,
    ) -> None:
        with monkeypatch.context() as patch, pytest.raises(WhisperdError) as caught:
            patch.setattr(module, function, fail_with(code))
            await store.install(bundle, ignore)
        assert caught.value.code == expected
        assert caught.value.fix
        assert store.find(bundle) is None
        assert await store.list() == []
        assert left_in_staging(root) == []

    async def test_when_an_upgrade_makes_the_new_version_current(
        self,
        store: NativeStore,
        wheels: Path,
        root: Path,
        index: IndexServer,
        monkeypatch: pytest.MonkeyPatch,
        code: int,
        expected: str,
    ) -> None:
        bundle = lock_wheels("engine-cpu", wheels / "engine-2.1-py3-none-any.whl", ranges={"engine": ">=2"})
        make_wheel(wheels, "engine", "2.2")
        old = await store.install(bundle, ignore)
        with monkeypatch.context() as patch, pytest.raises(WhisperdError) as caught:
            patch.setattr(store_module, "write_choice", fail_with(code))
            await store.upgrade(bundle, works, ignore)
        assert caught.value.code == expected
        assert store.find(bundle) == old
        assert await store.list() == [old]
        assert left_in_staging(root) == []


@pytest.fixture
def small_disk() -> Iterator[Callable[[int], Path]]:
    """Mount file systems of a given size in bytes, if permitted."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("only root may mount a file system")
    with tempfile.TemporaryDirectory() as folder:
        mounted: list[Path] = []

        def mount(size_bytes: int) -> Path:
            path = Path(folder, str(len(mounted)))
            path.mkdir()
            command = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes},mode=700", "none", str(path)]
            if subprocess.run(command, capture_output=True, check=False).returncode:
                pytest.skip("this container may not mount a file system")
            mounted.append(path)
            return path

        try:
            yield mount
        finally:
            for path in mounted:
                subprocess.run(["umount", str(path)], check=True)


class TestSmallDisk:
    @pytest.mark.slow
    async def test_a_disk_that_fills_up_at_any_step_leaves_nothing(
        self, bundle: Bundle, index: IndexServer, small_disk: Callable[[int], Path]
    ) -> None:
        """pip needs 600 kB for the wheel and as much for its contents: each size stops it at another step."""
        for size_bytes in (8_192, 300_000, 700_000, 1_100_000, 1_300_000):
            root = small_disk(size_bytes)
            store = NativeStore(root, free_bytes=lambda _: 2**40)
            try:
                installed = await store.install(bundle, ignore)
            except WhisperdError as error:
                assert error.code == "disk.full", (size_bytes, error)
                assert await store.list() == []
            else:
                assert size_bytes > 1_000_000
                assert await store.verify(installed) == ()
            assert left_in_staging(root) == []


class TestSharedFolder:
    """Another user's folder, which this process may only read."""

    @pytest.fixture
    def other(self, wheels: Path) -> Bundle:
        """A bundle that is not installed in the shared folder."""
        wheel = wheels / "engine_parts-1.0-py3-none-any.whl"
        return lock_wheels("other", wheel, ranges={"engine-parts": ">=1"})

    @pytest.fixture
    async def shared(self, bundle: Bundle, index: IndexServer) -> Any:
        if os.name != "posix":
            pytest.skip("needs Unix file modes")
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            root = folder / "native"
            await NativeStore(root).install(bundle, ignore)
            for path in (folder, root, *root.rglob("*")):
                path.chmod(0o555 if path.is_dir() else 0o444)
            with unprivileged():
                yield root
            for path in (folder, root, *root.rglob("*")):
                path.chmod(0o755)

    def everything(self, root: Path) -> set[Path]:
        return set(root.rglob("*"))

    async def test_an_installed_bundle_is_used_and_nothing_is_written(
        self, shared: Path, bundle: Bundle
    ) -> None:
        before = self.everything(shared)
        store = NativeStore(shared)
        installed = await store.install(bundle, ignore)
        assert store.find(bundle) == installed
        assert await store.install(bundle, ignore, repair=True) == installed
        assert await store.list() == [installed]
        assert await store.verify(installed) == ()
        assert self.everything(shared) == before

    async def test_a_missing_bundle_is_an_error_with_a_fix(self, other: Bundle, shared: Path) -> None:
        before = self.everything(shared)
        store = NativeStore(shared)
        for attempt in (store.install(other, ignore), store.upgrade(other, works, ignore)):
            with pytest.raises(WhisperdError) as caught:
                await attempt
            assert caught.value.code == "native.not_writable"
            assert str(shared) in caught.value.message
            assert "WHISPERD_NATIVE_DIR" in caught.value.fix
        assert self.everything(shared) == before

    async def test_a_bundle_cannot_be_removed(self, shared: Path, bundle: Bundle) -> None:
        store = NativeStore(shared)
        installed = store.find(bundle)
        assert installed is not None
        with pytest.raises(WhisperdError) as caught:
            await store.remove(installed)
        assert caught.value.code == "native.not_writable"
        assert store.find(bundle) == installed
