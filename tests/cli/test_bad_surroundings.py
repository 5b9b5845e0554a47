"""An adverse environment: full disks, no network, read-only folders, damaged models."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from whisperd_testing import RunningDaemon, start_with_small_files, start_without_privileges, until

pytestmark = pytest.mark.skipif(os.name != "posix", reason="limits, mounts and permissions as on POSIX")

MakeDaemon = Callable[..., RunningDaemon]
TEXT = "transcribe 2.00 s\n"
MEBIBYTE = 2**20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 MiB."""
    folder = tmp_path / "small_disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m,mode=0700", "tmpfs", str(folder)]
    mounted = subprocess.run(mount, check=False, capture_output=True) if sys.platform == "linux" else None
    if mounted is None or mounted.returncode:
        pytest.skip("only root may mount a small disk")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def closed_port() -> Iterator[str]:
    """The address of a server that does not run, on a port reserved for the test."""
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{deaf.getsockname()[1]}"


def big_model(toy: Callable[..., str]) -> str:
    folder = toy("big")
    os.truncate(Path(folder) / "model.bin", 80 * MEBIBYTE)
    return folder


@pytest.mark.real
def test_a_disk_too_full_for_an_upload(make_daemon: MakeDaemon, toy: Callable[..., str], tone: str) -> None:
    daemon, model = make_daemon(), toy()
    start_with_small_files(daemon)
    done = daemon.ctl("transcribe", "-", "--json", input=bytes(3 * MEBIBYTE))
    assert (done.status, done.json["error"]["code"]) == (1, "disk.full")
    assert "Errno" not in done.json["error"]["message"]
    uploads = daemon.folder / "state" / "uploads"
    until(lambda: not [path for path in uploads.rglob("*") if path.is_file()])
    small = daemon.ctl("transcribe", "-", "--no-vad", "--model", model, input=Path(tone).read_bytes())
    assert small.out == TEXT


def test_a_disk_too_full_for_a_model(
    make_daemon: MakeDaemon, toy: Callable[..., str], small_disk: Path
) -> None:
    daemon = make_daemon(env={"WHISPERD_MODELS_DIR": str(small_disk)}).start()
    done = daemon.ctl("models", "import", big_model(toy), "big", "--json")
    assert (done.status, done.json["error"]["code"]) == (1, "disk.full")
    assert "models remove" in done.json["error"]["fix"]
    assert daemon.ctl("models", "list", "--json").json == []
    assert daemon.ctl("models", "import", toy("little"), "little").status == 0


def test_a_disk_that_fills_up_while_a_model_is_stored(
    make_daemon: MakeDaemon, toy: Callable[..., str]
) -> None:
    daemon = make_daemon()
    daemon.env["WHISPERD_MODELS_DIR"] = str(daemon.folder / "models")
    start_with_small_files(daemon)
    done = daemon.ctl("models", "import", big_model(toy), "big", "--json")
    assert done.status == 1
    assert done.json["error"]["code"] in ("disk.full", "model.storage_failed")
    assert daemon.ctl("models", "list", "--json").json == []
    assert daemon.ctl("models", "import", toy("little"), "little").status == 0


@pytest.mark.real
def test_no_network(
    make_daemon: MakeDaemon, toy: Callable[..., str], tone: str, tmp_path: Path, closed_port: str
) -> None:
    nothing = {
        "PIP_INDEX_URL": f"{closed_port}/simple",
        "PIP_RETRIES": "1",
        "PIP_CONFIG_FILE": os.devnull,
        "HF_ENDPOINT": closed_port,
        "HF_HOME": str(tmp_path / "hub"),
        "HF_HUB_OFFLINE": "0",
        "WHISPERD_MODELS_DIR": str(tmp_path / "store"),
        "WHISPERD_NATIVE_DIR": str(tmp_path / "native"),
    }
    daemon = make_daemon(env=nothing).start()
    for command in (
        ("models", "pull", "tiny.en"),
        ("natives", "install", "ctranslate2-cpu"),
        ("transcribe", "--model", toy(), tone),
        ("transcribe", "--model", "tiny.en", tone),
    ):
        done = daemon.ctl(*command, "--json")
        assert (done.status, done.json["error"]["code"]) == (1, "network.unreachable"), command
        assert "network" in done.json["error"]["fix"]
    assert daemon.ctl("daemon", "status").status == 0


def test_downloads_in_offline_mode_are_refused(
    make_daemon: MakeDaemon, toy: Callable[..., str], tone: str, tmp_path: Path
) -> None:
    places = {
        "WHISPERD_OFFLINE": "1",
        "WHISPERD_MODELS_DIR": str(tmp_path / "store"),
        "WHISPERD_NATIVE_DIR": str(tmp_path / "native"),
        "HF_HOME": str(tmp_path / "hub"),
    }
    daemon = make_daemon(env=places).start()
    for command, code in (
        (("models", "pull", "tiny.en"), "model.offline"),
        (("transcribe", "--model", "tiny.en", tone), "model.offline"),
        (("natives", "install", "media"), "native.offline"),
        (("transcribe", "--model", toy(), tone), "native.offline"),
    ):
        done = daemon.ctl(*command, "--json")
        assert (done.status, done.json["error"]["code"]) == (5, code), command
        assert done.json["error"]["fix"]


@pytest.mark.real
def test_a_model_in_a_read_only_folder(make_daemon: MakeDaemon, toy: Callable[..., str], tone: str) -> None:
    daemon = make_daemon()
    models = daemon.folder / "models"
    daemon.env["WHISPERD_MODELS_DIR"] = str(models)
    start_without_privileges(daemon)
    daemon.ctl("models", "import", toy(), "mine")
    daemon.ctl("daemon", "stop")
    folders = [models, *(path for path in models.rglob("*") if path.is_dir() and not path.is_symlink())]
    (models / "installed" / "mine" / "batches.jsonl").touch()  # the toy engine writes its records there
    (models / "installed" / "mine" / "loads.jsonl").touch()
    try:
        for folder in folders:
            folder.chmod(0o500)
        start_without_privileges(daemon)
        done = daemon.ctl("transcribe", "--no-vad", "--model", "mine", tone)
        assert (done.status, done.out, done.err) == (0, TEXT, "")
        done = daemon.ctl("models", "import", toy(), "another", "--json")
        assert (done.status, done.json["error"]["code"]) == (1, "model.read_only")
        done = daemon.ctl("models", "remove", "mine", "--json")
        assert done.status in (1, 5)
        assert daemon.ctl("models", "verify", "mine").status == 0
    finally:
        for folder in folders:
            folder.chmod(0o700)


@pytest.mark.real
def test_a_damaged_model_is_never_loaded(
    make_daemon: MakeDaemon, toy: Callable[..., str], tone: str, tmp_path: Path
) -> None:
    places = {"WHISPERD_OFFLINE": "1", "WHISPERD_MODELS_DIR": str(tmp_path / "store")}
    daemon = make_daemon(env=places).start()
    daemon.ctl("models", "import", toy(), "mine")
    weights = Path(daemon.ctl("models", "path", "mine").out.strip(), "model.bin").resolve()
    weights.chmod(0o600)
    weights.write_bytes(bytes([weights.read_bytes()[0] ^ 1]) + weights.read_bytes()[1:])
    done = daemon.ctl("transcribe", "--no-vad", "--model", "mine", "--json", tone)
    assert done.status != 0
    assert done.json["error"]["code"].startswith("model.")
    assert not list((tmp_path / "store").rglob("loads.jsonl"))
    verified = daemon.ctl("models", "verify", "mine")
    assert verified.status == 1
    assert "damaged: model.bin" in verified.out
    assert "`whisperctl models pull mine`" in verified.out
