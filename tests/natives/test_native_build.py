"""Bundles built locally from source with pinned tools; the compiler is a Python script."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from index_server import IndexServer
from store_checks import ignore, left_in_staging
from wheel_maker import distribution_of, make_source, make_wheel

from whisperd.hardware import cores
from whisperd.natives import Bundle, NativeStore
from whisperd.natives.build import build_environment
from whisperd.natives.build_failures import why_build_failed
from whisperd.natives.lock import Lock, format_lock, parse_lock
from whisperd.natives.lock_entries import measure_source
from whisperd.progress import Progress
from whisperd.rpc.errors import WhisperdError
from whisperd_testing import until

pytestmark = pytest.mark.anyio

BACKEND = Path(__file__).with_name("build_backend.py").read_bytes()
INSTALLER = Path(__file__).with_name("installer.py")
WRITES_ENVIRONMENT = """
import json, os
print("[1/2] Compiling")
print("[2/2] Linking")
files["engine/__init__.py"] = "ENVIRONMENT = " + repr(dict(os.environ))
"""
FAILS = """
import os, sys
os.write(2, b"engine.cpp:3:10: fatal error: cblas.h: No such file or directory\\ncompilation terminated.\\n")
sys.exit(1)
"""
NEVER_ENDS = """
import os, subprocess, sys
compiler = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
open(os.environ["NOTE"], "w").write(str(compiler.pid))
print("[1/2] Compiling", flush=True)
compiler.wait()
"""


def make_bundle(wheels: Path, script: str, **build: str) -> Bundle:
    """Return a bundle of a wheel and a source that this script builds."""
    source = make_source(wheels, "engine", "2.1", backend="build_backend", script=script)
    tool = make_wheel(wheels, "build-backend", files=None, module=BACKEND)
    lock = Lock(
        format=1,
        main="engine",
        distributions=(distribution_of(wheels / "engine_parts-1.0-py3-none-any.whl"),),
        sources=(measure_source(source),),
        tools=(distribution_of(tool),),
        ranges={"engine": ">=2,<3", "engine-parts": ">=1"},
    )
    return Bundle("engine-cpu", format_lock(lock, "A bundle for tests."), build)


@pytest.fixture
def wheels(wheels: Path) -> Path:
    """Wheels on the index, which has the engine only as a source."""
    (wheels / "engine-2.1-py3-none-any.whl").unlink()
    return wheels


def built_with(path: Path) -> dict[str, str]:
    """Return the environment in which the source was built."""
    code = (
        "import json, sys; sys.path.insert(0, sys.argv[1])\n"
        "import engine; print(json.dumps(engine.ENVIRONMENT))"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code, str(path)], capture_output=True, check=True)
    return dict(json.loads(done.stdout))


class TestBuild:
    async def test_a_source_becomes_part_of_the_bundle(
        self,
        store: NativeStore,
        wheels: Path,
        root: Path,
        index: IndexServer,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
    ) -> None:
        (tmp_path / "pip.conf").write_text("[global]\nbuild-constraint = nowhere\n")
        monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
        bundle = make_bundle(wheels, WRITES_ENVIRONMENT)
        told: list[Progress] = []
        installed = await store.install(bundle, told.append)
        assert installed.version == "2.1"
        assert installed.distributions == {"engine": "2.1", "engine-parts": "1.0"}
        assert not (installed.path / "build_backend").exists()
        assert await store.verify(installed) == ()
        assert store.find(bundle) == installed
        assert left_in_staging(root) == []
        steps = [(each.file, each.done, each.total) for each in told if each.detail == "building"]
        assert steps == [(None, 0, None), ("step 1 of 2", 1, 2), ("step 2 of 2", 2, 2)]

    @pytest.mark.slow
    async def test_the_build_gets_its_variables_but_not_the_users_secrets(
        self, store: NativeStore, wheels: Path, index: IndexServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("SECRET_TOKEN", "hunter2")
        monkeypatch.setenv("CXX", "/opt/c++")
        monkeypatch.setenv("GGML_NATIVE", "ON")
        installed = await store.install(make_bundle(wheels, WRITES_ENVIRONMENT, GGML_BLAS="ON"), ignore)
        environment = built_with(installed.path)
        assert environment["GGML_BLAS"] == "ON"
        assert environment["CXX"] == "/opt/c++"
        assert not {"SECRET_TOKEN", "GGML_NATIVE", "PIP_INDEX_URL"} & environment.keys()

    async def test_other_build_variables_make_another_bundle(self, store: NativeStore, wheels: Path) -> None:
        folders = {
            make_bundle(wheels, WRITES_ENVIRONMENT, **build).select().folder
            for build in ({}, {"GGML_BLAS": "ON"}, {"GGML_BLAS": "OFF"})
        }
        assert len(folders) == 3

    async def test_a_failed_build_is_explained_and_its_log_kept(
        self, store: NativeStore, wheels: Path, root: Path, index: IndexServer
    ) -> None:
        bundle = make_bundle(wheels, FAILS)
        with pytest.raises(WhisperdError) as caught:
            await store.install(bundle, ignore)
        error = caught.value
        assert error.code == "native.build_failed"
        assert "OpenBLAS" in error.message
        assert "OPENBLAS_PATH" in error.fix
        log = Path(error.data["log"])
        assert "cblas.h: No such file" in log.read_text()
        assert log.parent.stat().st_mode & 0o077 == 0 or os.name != "posix"
        assert await store.list() == []
        assert left_in_staging(root) == []
        await store.install(make_bundle(wheels, WRITES_ENVIRONMENT), ignore)
        assert not log.exists()

    @pytest.mark.slow
    async def test_a_source_that_differs_from_the_lock_is_not_built(
        self, store: NativeStore, wheels: Path, index: IndexServer
    ) -> None:
        bundle = make_bundle(wheels, WRITES_ENVIRONMENT)
        make_source(wheels, "engine", "2.1", backend="build_backend", script=FAILS)
        with pytest.raises(WhisperdError) as caught:
            await store.install(bundle, ignore)
        assert caught.value.code == "native.hash_mismatch"
        assert await store.list() == []

    async def test_a_disk_without_room_for_the_build(self, wheels: Path, root: Path) -> None:
        bundle = make_bundle(wheels, WRITES_ENVIRONMENT)
        required_bytes = bundle.select().required_bytes
        assert required_bytes > sum(bundle.select().sizes_bytes.values())
        with pytest.raises(WhisperdError) as caught:
            await NativeStore(root, free_bytes=lambda _: required_bytes - 1).install(bundle, ignore)
        assert caught.value.code == "disk.full"

    @pytest.mark.slow
    @pytest.mark.skipif(os.name != "posix", reason="needs Unix signals")
    async def test_killing_the_installer_kills_the_compiler(
        self, store: NativeStore, wheels: Path, root: Path, index: IndexServer, tmp_path: Path
    ) -> None:
        note = tmp_path / "compiler.pid"
        bundle = make_bundle(wheels, NEVER_ENDS, NOTE=str(note))
        lock = tmp_path / "engine.lock"
        lock.write_text(bundle.lock)
        command = [sys.executable, str(INSTALLER), str(root), str(lock), "0", json.dumps(bundle.build)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as installer:
            assert installer.stdout is not None
            said = b""
            while b"step 1 of 2" not in said:
                said = installer.stdout.readline()
                assert said, "it ended"
            installer.send_signal(signal.SIGKILL)
            compiler = int(note.read_text())
        until(lambda: not psutil.pid_exists(compiler), "the compiler to end")
        assert await store.list() == []
        await store.install(make_bundle(wheels, WRITES_ENVIRONMENT), ignore)
        assert left_in_staging(root) == []

    @pytest.mark.slow
    async def test_an_upgrade_builds_the_newer_source(
        self, store: NativeStore, wheels: Path, root: Path, index: IndexServer
    ) -> None:
        bundle = make_bundle(wheels, WRITES_ENVIRONMENT, GGML_BLAS="ON")
        make_source(wheels, "engine", "2.2", backend="build_backend", script=WRITES_ENVIRONMENT)

        async def works(_: object) -> str:
            return "it works"

        done = await store.upgrade(bundle, works, ignore)
        assert done.installed.version == "2.2"
        assert built_with(done.installed.path)["GGML_BLAS"] == "ON"
        assert store.find(bundle) == done.installed
        assert left_in_staging(root) == []


class TestEnvironment:
    def test_the_given_blas_folder_is_searched_first(self) -> None:
        environment = build_environment(
            {
                "OPENBLAS_PATH": "/opt/blas",
                "CPATH": "/mine",
                "PATH": "/bin",
                "PIP_INDEX_URL": "https://me:pw@host",
            },
            {"GGML_BLAS": "ON"},
            platform="linux",
        )
        assert environment["CMAKE_PREFIX_PATH"] == "/opt/blas"
        assert environment["CPATH"] == os.pathsep.join(["/opt/blas/include", "/mine"])
        assert "/opt/blas/lib/pkgconfig" in environment["PKG_CONFIG_PATH"].split(os.pathsep)
        assert "-Wl,-rpath-link,/opt/blas/lib" in environment["LDFLAGS"].split()
        assert environment["GGML_BLAS"] == "ON"
        assert "PIP_INDEX_URL" not in environment

    def test_the_number_of_compilers_respects_the_containers_quota(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(cores, "cpu_quota", lambda _: 1.0)
        environment = build_environment({}, {}, platform="linux")
        assert environment["CMAKE_BUILD_PARALLEL_LEVEL"] == "1"

    def test_windows_compilers_get_the_variables_they_need(self) -> None:
        environment = {"ProgramFiles(x86)": "C:/x", "PIP_INDEX_URL": "secret", "CMAKE_ARGS": "-DX=1"}
        kept = build_environment(environment, {}, platform="win32")
        assert kept["ProgramFiles(x86)"] == "C:/x"
        assert not {"PIP_INDEX_URL", "CMAKE_ARGS"} & kept.keys()


@pytest.mark.parametrize(
    ("said", "reason", "fix"),
    [
        (
            "CMake Error: CMAKE_CXX_COMPILER not set, after EnableLanguage",
            "no C++ compiler",
            "apt install g++",
        ),
        ("  The CMAKE_CXX_COMPILER:\n\n    g++\n\n  is not found in the PATH.", "no C++ compiler", "g++"),
        (
            "CMake Error at CMakeLists.txt:1 (message):\n  BLAS not found, please refer to",
            "OpenBLAS",
            "libopenblas-dev",
        ),
        ("x.c:1:10: fatal error: Python.h: No such file or directory", "Python headers", "python3-dev"),
        ("g++: fatal error: Killed signal terminated program cc1plus", "out of memory", "memory"),
        ("a.cpp:9:1: error: expected unqualified-id", "expected unqualified-id", "another variant"),
        ("", "gave no reason", "another variant"),
    ],
)
def test_reasons_for_a_failed_build(said: str, reason: str, fix: str) -> None:
    found, what_to_do = why_build_failed(said.splitlines(), "linux")
    assert reason in found
    assert fix in what_to_do


def test_a_written_lock_with_sources_is_read_back(wheels: Path) -> None:
    bundle = make_bundle(wheels, WRITES_ENVIRONMENT)
    lock = parse_lock(bundle.lock)
    assert lock.sources[0].file == "engine-2.1.tar.gz"
    assert lock.tools[0].name == "build-backend"
    assert format_lock(lock, "A bundle for tests.") == bundle.lock
