"""Models from the hub, fetched by the real `huggingface_hub` from a server that speaks the hub's protocol."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import anyio
import psutil
import pytest
from hub_server import Answer, Hub, git_sha1
from toy_models import REPO, catalogue_of, content, tiny_files, toy_entry

from toy_runtime import until
from whisperd.models import ModelStore
from whisperd.models.hub_errors import explain
from whisperd.models.messages import FetchRequest
from whisperd.models.names import key_of
from whisperd.models.sources import HubSettings, HubSource
from whisperd.progress import Progress
from whisperd.rpc.errors import WhisperdError
from whisperd_testing import LIMIT_S

pytestmark = [pytest.mark.anyio, pytest.mark.slow]  # each download is a process that imports the library

MakeStore = Callable[..., ModelStore]


async def failure(store: ModelStore, name: str = REPO) -> WhisperdError:
    with pytest.raises(WhisperdError) as caught:
        await store.pull(name)
    assert caught.value.message and caught.value.fix
    return caught.value


def children() -> list[psutil.Process]:
    return [each for each in psutil.Process().children(recursive=True) if is_alive(each)]


async def until_downloaded(root: Path, size_bytes: int) -> None:
    """Wait until an unfinished file of exactly this size lies in the store."""

    def sizes_bytes() -> Iterator[int]:
        for path in root.glob("partial/*/*.partial"):
            with suppress(FileNotFoundError):  # it has just been finished
                yield path.stat().st_size

    await until(lambda: size_bytes in sizes_bytes())


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:  # it has just ended
        return False


async def test_a_repository_is_pulled_and_pinned(
    hub: Hub, make_store: MakeStore, files: dict[str, bytes]
) -> None:
    commit = hub.add(
        REPO, {**files, "README.md": b"# Model", "evil.py": b"import os", "model.safetensors": b"x"}
    )
    told: list[Progress] = []
    installed = await make_store().pull(REPO, told.append)
    assert content(installed.path) == files  # neither code nor files that engines do not need
    assert (installed.name, installed.repo, installed.revision) == (REPO, REPO, commit)
    assert (installed.source, installed.installed, installed.verified) == ("the hub", True, True)
    total = sum(map(len, files.values()))
    downloading = [each for each in told if each.detail == "downloading"]
    assert (downloading[-1].done, downloading[-1].total) == (total, total)
    assert {"downloading", "verifying"} == {each.detail for each in told}
    assert all(path.startswith(("/api/", "/storage/")) or commit in path for _, path, _ in hub.requests)
    assert children() == []


async def test_a_second_pull_sends_no_requests(
    hub: Hub, make_store: MakeStore, files: dict[str, bytes]
) -> None:
    hub.add(REPO, files)
    first = await make_store().pull(REPO)
    asked = len(hub.requests)
    assert await make_store().pull(REPO) == first
    assert len(hub.requests) == asked


async def test_the_token_is_sent_to_the_hub_and_not_to_its_storage(
    hub: Hub, make_store: MakeStore, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(REPO, files)
    hub.gated.add(REPO)
    error = await failure(make_store())
    assert error.code == "hub.unauthorised" and "HF_TOKEN" in error.fix
    monkeypatch.setenv("HF_TOKEN", hub.token)
    await make_store().pull(REPO)
    assert {sent for _, path, sent in hub.requests if path.startswith("/storage/")} == {None}


async def test_an_expired_token_is_reported(
    hub: Hub, make_store: MakeStore, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub refuses it even for public models."""
    hub.add(REPO, files)
    hub.answers.append(
        Answer("/api/", 401, {"X-Error-Message": "Invalid credentials in Authorization header"})
    )
    monkeypatch.setenv("HF_TOKEN", "expired")
    error = await failure(make_store())
    assert error.code == "hub.unauthorised"
    assert "token" in error.message and "public models need none" in error.fix


@pytest.mark.parametrize("revision", ["v1.0", "refs/pr/1"])
async def test_a_revision_can_be_named(hub: Hub, make_store: MakeStore, revision: str) -> None:
    hub.refs[revision] = hub.add(REPO, tiny_files(1))
    hub.add(REPO, tiny_files(2))
    installed = await make_store().pull(f"{REPO}@{revision}")
    assert content(installed.path) == tiny_files(1)
    assert installed.name == f"{REPO}@{revision}"


async def test_a_repository_that_moved_is_followed(
    hub: Hub, make_store: MakeStore, files: dict[str, bytes]
) -> None:
    hub.add("Newer/name", files)
    hub.moved[REPO] = "Newer/name"
    assert content((await make_store().pull(REPO)).path) == files


async def test_missing_hashes_in_a_listing_are_requested(
    hub: Hub, make_store: MakeStore, files: dict[str, bytes]
) -> None:
    hub.add(REPO, files)
    hub.plain_listing = True
    installed = await make_store().pull(REPO)
    assert content(installed.path) == files
    assert {path.rpartition("/")[2] for method, path, _ in hub.requests if method == "HEAD"} == set(files)


async def test_a_mirror_without_hashes_is_refused(
    hub: Hub, make_store: MakeStore, files: dict[str, bytes]
) -> None:
    hub.add(REPO, files)
    hub.plain_listing = True
    hub.answers.append(Answer("/resolve/", 200, {"ETag": '"some-thing"', "X-Repo-Commit": "x"}))
    assert (await failure(make_store())).code == "hub.no_hash"


async def test_a_cut_download_is_resumed(hub: Hub, make_store: MakeStore, files: dict[str, bytes]) -> None:
    hub.add(REPO, files)
    hub.cut_after, hub.cuts = 1_000_000, 2
    installed = await make_store().pull(REPO)
    assert content(installed.path) == files
    assert hub.cuts == 0
    assert hub.served["model.bin"] == len(files["model.bin"])


async def test_a_complete_partial_file_of_unknown_size_is_accepted(
    hub: Hub, make_store: MakeStore, files: dict[str, bytes]
) -> None:
    """A mirror that states no sizes, and a pull that ended after the first file."""
    hub.add(REPO, files)
    hub.plain_listing = hub.sizeless = True
    folder = make_store().root / "partial" / key_of(REPO)
    folder.mkdir(parents=True)
    (folder / f"{git_sha1(files['config.json'])}.partial").write_bytes(files["config.json"])
    installed = await make_store().pull(REPO)
    assert content(installed.path) == files


async def test_a_silent_connection_is_replaced(
    hub: Hub, make_store: MakeStore, files: dict[str, bytes]
) -> None:
    hub.add(REPO, files)
    hub.stall_after = 2_000_000
    # The last connection requests fewer bytes than the server sends before it stalls.
    installed = await make_store(read_timeout_s=2).pull(REPO)
    assert content(installed.path) == files
    assert hub.begun["model.bin"][-1] > 0, "received bytes are not sent again"


async def test_a_stalled_download_is_given_up(hub: Hub, tmp_path: Path, files: dict[str, bytes]) -> None:
    hub.add(REPO, files)
    hub.stall_after = 1_000_000
    source = HubSource(HubSettings(connect_timeout_s=LIMIT_S, stall_timeout_s=0.5))
    error = await failure(ModelStore(tmp_path / "models", sources=[source]))
    assert error.code == "download.stuck" and "resumes" in error.fix
    assert children() == []
    # On a busy computer, less may have been stored than was sent.
    sha256 = hashlib.sha256(files["model.bin"]).hexdigest()
    kept = [path.stat().st_size for path in (tmp_path / "models").glob(f"partial/*/{sha256}.partial")]
    hub.gate.set()
    installed = await ModelStore(tmp_path / "models", sources=[HubSource()]).pull(REPO)
    assert content(installed.path) == files
    assert hub.begun["model.bin"][-1] == sum(kept)


async def test_cancelling_kills_the_child_and_keeps_the_partial_download(
    hub: Hub, make_store: MakeStore, files: dict[str, bytes]
) -> None:
    hub.add(REPO, files)
    hub.stall_after = 1_000_000
    store = make_store(read_timeout_s=600)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(store.pull, REPO)
        await until_downloaded(store.root, 1_000_000)
        assert len(children()) == 1
        tasks.cancel_scope.cancel()
    assert children() == []
    assert await store.find(REPO) is None
    hub.gate.set()
    installed = await store.pull(REPO)
    assert content(installed.path) == files
    assert hub.served["model.bin"] == len(files["model.bin"])


async def test_a_mirror_that_sends_more_than_it_states_is_refused(
    hub: Hub, make_store: MakeStore, files: dict[str, bytes], tmp_path: Path
) -> None:
    hub.add(REPO, files)
    hub.answers.append(Answer("/storage/", 200, {}, files["model.bin"] + bytes(20_000_000)))
    error = await failure(make_store())
    assert error.code == "model.hash_mismatch"
    assert "more bytes of model.bin" in str(error.data["tried"])
    left = [path.stat().st_size for path in (tmp_path / "models").rglob("*.partial") if path.is_file()]
    assert max(left, default=0) <= len(files["model.bin"])


async def test_a_download_that_cannot_start_reports_why(
    hub: Hub,
    make_store: MakeStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    hub.add(REPO, tiny_files())
    (tmp_path / "huggingface_hub.py").write_text("raise ImportError('libexample is missing')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    error = await failure(make_store())
    assert error.code == "hub.failed"
    assert "libexample is missing" in str(error.data["tried"])
    assert "libexample is missing" in caplog.text


PULL = """
import anyio, sys
from pathlib import Path
from whisperd.models import ModelStore
from whisperd.models.sources import HubSource
anyio.run(ModelStore(Path(sys.argv[1]), sources=[HubSource()]).pull, sys.argv[2])
"""


@pytest.mark.skipif(os.name != "posix", reason="signals")
async def test_a_download_is_resumed_after_everything_was_killed(
    hub: Hub, tmp_path: Path, make_store: MakeStore, files: dict[str, bytes]
) -> None:
    hub.add(REPO, files)
    hub.stall_after = 1_000_000
    with subprocess.Popen([sys.executable, "-c", PULL, str(tmp_path / "models"), REPO]) as process:
        await until_downloaded(tmp_path / "models", 1_000_000)
        downloader = psutil.Process(process.pid).children()[0]
        process.send_signal(signal.SIGKILL)
    await anyio.to_thread.run_sync(lambda: psutil.wait_procs([downloader], timeout=LIMIT_S))
    assert not downloader.is_running()  # it did not outlive its parent
    hub.gate.set()
    installed = await make_store().pull(REPO)
    assert content(installed.path) == files
    assert hub.served["model.bin"] == len(files["model.bin"])


async def test_two_processes_download_once(hub: Hub, tmp_path: Path, files: dict[str, bytes]) -> None:
    hub.add(REPO, files)
    command = [sys.executable, "-c", PULL, str(tmp_path / "models"), REPO]
    async with anyio.create_task_group() as tasks:
        for _ in range(2):
            tasks.start_soon(anyio.run_process, command)
    assert hub.served == {name: len(data) for name, data in files.items()}


@pytest.mark.parametrize("name", ["model.bin", "config.json"])  # one has a SHA-256 hash, one a git hash
async def test_a_wrong_byte_from_the_hub_is_never_installed(
    hub: Hub, make_store: MakeStore, files: dict[str, bytes], tmp_path: Path, name: str
) -> None:
    hub.add(REPO, files)
    hub.flip = name
    error = await failure(make_store())
    assert error.code == "model.hash_mismatch" and name in error.message
    assert await make_store().find(REPO) is None
    right = {hashlib.sha256(data).hexdigest() for data in files.values()}
    assert {path.name for path in (tmp_path / "models" / "blobs").iterdir()} < right
    hub.flip = None
    assert content((await make_store().pull(REPO)).path) == files


async def test_wrong_bytes_of_an_earlier_download_are_fetched_again(
    hub: Hub, make_store: MakeStore, files: dict[str, bytes], tmp_path: Path
) -> None:
    hub.add(REPO, files)
    partial = tmp_path / "models" / "partial" / REPO.replace("/", "--")
    partial.mkdir(parents=True)
    sha256 = hashlib.sha256(files["model.bin"]).hexdigest()
    (partial / f"{sha256}.partial").write_bytes(b"wrong" * 100_000)
    assert content((await make_store().pull(REPO)).path) == files


async def test_a_pinned_commit_is_kept_when_upstream_changes(
    hub: Hub, make_store: MakeStore, files: dict[str, bytes]
) -> None:
    commit = hub.add(REPO, files)
    installed = await make_store().pull(REPO)
    hub.add(REPO, tiny_files(7))
    (Path(installed.path) / "tokenizer.json").resolve().write_bytes(b"damage")
    repaired = await make_store().pull(REPO)
    assert content(repaired.path) == files and repaired.revision == commit


async def test_other_bytes_under_a_pinned_commit_are_refused(
    hub: Hub, make_store: MakeStore, files: dict[str, bytes]
) -> None:
    commit = hub.add(REPO, files)
    installed = await make_store().pull(REPO)
    hub.repos[REPO][commit] = tiny_files(7)
    (Path(installed.path) / "model.bin").resolve().unlink()
    error = await failure(make_store())
    assert error.code == "model.hash_mismatch" and "remove" in error.fix
    await make_store().remove(REPO)
    assert content((await make_store().pull(REPO)).path) == tiny_files(7)


async def test_the_catalogues_hashes_take_precedence(
    hub: Hub, make_store: MakeStore, files: dict[str, bytes]
) -> None:
    hub.add(REPO, tiny_files(3))
    error = await failure(make_store(catalogue=catalogue_of(toy_entry(files))), "toy")
    assert error.code == "model.hash_mismatch"


async def test_a_repository_in_the_catalogue_goes_by_its_catalogue_name(
    hub: Hub, make_store: MakeStore, files: dict[str, bytes]
) -> None:
    hub.add(REPO, files)
    store = make_store(catalogue=catalogue_of(toy_entry(files, aliases=("plaything",))))
    assert (await store.pull(REPO)).name == "toy"
    assert await store.find("plaything") == await store.find("Toy") == await store.find("toy")


FAILURES = [
    (Answer("/api/", 401), "hub.unauthorised"),
    (Answer("/api/", 403), "hub.unauthorised"),
    (Answer("/api/", 404, {"X-Error-Code": "RepoNotFound"}), "hub.not_found"),
    (Answer("/api/", 404), "hub.not_found"),
    (Answer("/api/", 429, {"Retry-After": "77"}), "hub.rate_limited"),
    (Answer("/api/", 500), "hub.unavailable"),
    (Answer("/api/", 503), "hub.unavailable"),
    (Answer("/api/", 511), "network.captive_portal"),
    (Answer("/api/", 418), "hub.failed"),
    (Answer("/api/", 200, {"Content-Type": "text/html"}, b"<html>Log in</html>"), "network.captive_portal"),
    (Answer("/api/", 200, {}, b'{"id": "x"}'), "network.captive_portal"),
    (Answer("/resolve/", 403), "hub.unauthorised"),
    (Answer("/resolve/", 404, {"X-Error-Code": "EntryNotFound"}), "hub.not_found"),
    (Answer("/storage/", 429, {"Retry-After": "300"}), "hub.rate_limited"),
    (Answer("/storage/", 500), "hub.unavailable"),
    (
        Answer("/resolve/", 200, {"Content-Type": "text/html"}, b"<html>Log in</html>"),
        "network.captive_portal",
    ),
]


@pytest.mark.parametrize(
    ("answer", "code"),
    FAILURES,
    ids=lambda value: f"{value.path}{value.status}" if isinstance(value, Answer) else None,
)
async def test_each_failure_has_its_error_code(
    hub: Hub, make_store: MakeStore, files: dict[str, bytes], answer: Answer, code: str
) -> None:
    hub.add(REPO, files)
    hub.answers.append(Answer(answer.path, answer.status, answer.headers, answer.body))
    error = await failure(make_store())
    assert error.code == code
    assert error.data["tried"] == [
        {"source": "the hub", "code": code, "message": error.data["tried"][0]["message"]}
    ]


@pytest.mark.parametrize("hash", ["../../../elsewhere", "x" * 64, 7])
async def test_a_hash_from_the_hub_is_never_used_as_a_path(
    hub: Hub, make_store: MakeStore, tmp_path: Path, hash: object
) -> None:
    """Partial downloads are named by their hashes."""
    large = {"sha256": hash, "size": 7, "pointerSize": 134}
    siblings = [{"rfilename": "model.bin", "size": 7, "blobId": "0" * 40, "lfs": large}]
    listing = json.dumps({"id": "Some/model", "sha": "c" * 40, "siblings": siblings}).encode()
    hub.answers.append(Answer("/api/", 200, {"Content-Type": "application/json"}, listing))
    error = await failure(make_store(), "Some/model")
    assert error.code == "network.captive_portal"
    assert not list(tmp_path.rglob("*.partial"))


async def test_the_hubs_retry_delay_is_reported(hub: Hub, make_store: MakeStore) -> None:
    hub.answers.append(Answer("/api/", 429, {"Retry-After": "77"}))
    assert "77 seconds" in (await failure(make_store())).fix


async def test_an_unknown_revision_is_reported(
    hub: Hub, make_store: MakeStore, files: dict[str, bytes]
) -> None:
    hub.add(REPO, files)
    error = await failure(make_store(), f"{REPO}@nothing")
    assert error.code == "hub.not_found" and "nothing" in error.message


async def test_transient_download_failures_are_retried(
    hub: Hub, make_store: MakeStore, files: dict[str, bytes]
) -> None:
    hub.add(REPO, files)
    hub.answers.append(Answer("/storage/", 503, times=2))
    assert content((await make_store().pull(REPO)).path) == files


async def test_a_repository_in_another_format_is_refused(hub: Hub, make_store: MakeStore) -> None:
    hub.add(REPO, {"config.json": b"{}", "model.safetensors": b"x", "tokenizer.json": b"{}"})
    error = await failure(make_store())
    assert error.code == "model.unsupported_format" and "model.bin" in error.message
    assert "ct2-transformers-converter" in error.fix


async def test_a_repository_without_a_tokenizer_is_to_be_completed(
    hub: Hub, make_store: MakeStore, files: dict[str, bytes]
) -> None:
    """The converter adds none unless it is told to."""
    hub.add(REPO, {name: data for name, data in files.items() if name != "tokenizer.json"})
    error = await failure(make_store())
    assert error.code == "model.unsupported_format" and "tokenizer.json" in error.message
    assert "models import" in error.fix


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:9", "mirror.invalid", ""])
async def test_an_unreachable_hub_is_reported(
    hub: Hub, make_store: MakeStore, monkeypatch: pytest.MonkeyPatch, endpoint: str
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    error = await failure(make_store())
    assert error.code == "network.unreachable" and "HF_ENDPOINT" in error.fix


async def test_unreadable_certificates_are_reported(
    hub: Hub, make_store: MakeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for text in (None, "no certificate"):
        if text is not None:
            (tmp_path / "certificates").write_text(text)
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "certificates"))
        error = await failure(make_store())
        assert error.code == "network.untrusted" and str(tmp_path / "certificates") in error.message


async def test_a_refused_certificate_is_not_an_unreachable_hub() -> None:
    error = ConnectionError(
        "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: self-signed certificate"
    )
    failed = explain(error, FetchRequest(repo=REPO))
    assert failed.code == "network.untrusted"
    assert "self-signed" in failed.message and "SSL_CERT_FILE" in failed.fix


@pytest.mark.parametrize("scheme", ["socks", "socks5"])
async def test_a_proxy_that_cannot_be_used_is_reported(
    hub: Hub, make_store: MakeStore, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    """GNOME sets ALL_PROXY to such an address, in addition to HTTPS_PROXY."""
    monkeypatch.setenv("ALL_PROXY", f"{scheme}://127.0.0.1:9")
    error = await failure(make_store())
    assert error.code == "network.unreachable"
    assert "proxy" in error.message and "ALL_PROXY" in error.fix


async def test_a_hub_that_never_answers_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{port}")
    async with listener:
        source = HubSource(HubSettings(connect_timeout_s=0.3))
        error = await failure(ModelStore(tmp_path / "models", sources=[source]))
    assert error.code == "network.unreachable"


async def test_hf_hub_offline_is_honoured(
    hub: Hub, make_store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    error = await failure(make_store())
    assert error.code == "model.offline" and "HF_HUB_OFFLINE" in error.fix
    assert hub.requests == []
