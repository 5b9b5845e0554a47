"""`whisperctl models` and `whisperctl natives`."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ggml_models import ggml_model
from whisperd.audio import media_lock
from whisperd.natives.bundle import Bundle, write_description
from whisperd_testing import LIMIT_S, RunningDaemon


@pytest.fixture
def own(make_daemon: Callable[..., RunningDaemon], tmp_path: Path) -> RunningDaemon:
    """A daemon with its own, empty stores."""
    places = {"WHISPERD_MODELS_DIR": str(tmp_path / "store"), "WHISPERD_NATIVE_DIR": str(tmp_path / "native")}
    return make_daemon(env={**places, "WHISPERD_OFFLINE": "1"}).start()


def test_the_life_cycle_of_a_model(own: RunningDaemon, toy: Callable[..., str]) -> None:
    imported = own.ctl("models", "import", toy(), "mine")
    assert (imported.status, imported.err) == (0, "")
    assert imported.out.startswith("mine is installed (")
    rows = [line.split() for line in own.ctl("models", "list").out.splitlines()]
    assert rows[0] == ["NAME", "SIZE", "MEMORY", "LANGUAGES", "VERIFIED"]
    assert [row[0] for row in rows[1:]] == ["mine"]
    assert [model["name"] for model in own.ctl("models", "list", "--json").json] == ["mine"]
    folder = Path(own.ctl("models", "path", "mine").out.strip())
    assert (folder / "model.bin").is_file()
    assert own.ctl("models", "path", "mine", "--json").json == {"name": "mine", "path": str(folder)}
    assert own.ctl("models", "verify", "mine").out == "mine: intact\n"
    assert own.ctl("models", "verify", toy()).out.startswith(f"{toy()}: usable; a model used in place")
    assert own.ctl("models", "remove", "mine").out.startswith("mine is removed (")
    assert own.ctl("models", "list", "--json").json == []


def test_verification_shows_its_progress(own: RunningDaemon, toy: Callable[..., str]) -> None:
    assert "Verifying mine" in own.ctl("models", "import", toy(), "mine", "--verbose").err
    assert "Verifying mine 100 %" in own.ctl("models", "verify", "mine", "--verbose").err


def test_the_life_cycle_of_a_whisper_cpp_file(own: RunningDaemon, tmp_path: Path) -> None:
    file = tmp_path / "ggml-mine.bin"
    file.write_bytes(ggml_model())
    shown = own.ctl("models", "show", str(file)).out
    assert "Format      ggml, q4_0" in shown and "Languages   en" in shown
    assert own.ctl("models", "import", str(file)).out.startswith("ggml-mine is installed (")
    (listed,) = own.ctl("models", "list", "--json").json
    assert (listed["name"], listed["facts"]["precision"], listed["verified"]) == ("ggml-mine", "q4_0", True)
    assert Path(own.ctl("models", "path", "ggml-mine").out.strip()).read_bytes() == file.read_bytes()
    for model in (str(file), "ggml-mine"):
        refused = own.ctl("runtimes", "create", "x", "--model", model, "--backend", "ctranslate2", "--json")
        assert (refused.status, refused.json["error"]["code"]) == (2, "runtime.invalid")
        assert refused.json["error"]["fix"] == "Use auto or whispercpp."
    made = own.ctl("runtimes", "create", "mine", "--model", str(file), "--json").json
    assert (made["model"], made["backend"], made["compute_type"]) == (str(file), "auto", "auto")
    assert own.ctl("models", "remove", str(file), "--json").json["error"]["code"] == "model.in_place"
    assert own.ctl("models", "remove", "ggml-mine").out.startswith("ggml-mine is removed (")


def test_the_catalogue_is_listed(own: RunningDaemon) -> None:
    models = {model["name"]: model for model in own.ctl("models", "available", "--json").json}
    assert {"tiny.en", "base", "large-v3-turbo"} <= set(models)
    assert own.ctl("models", "available").out.splitlines()[0].split()[-1] == "INSTALLED"


def test_a_relative_folder_is_relative_to_the_client(own: RunningDaemon, toy: Callable[..., str]) -> None:
    folder = Path(toy("mine"))

    def models(*arguments: str) -> str:
        command = [sys.executable, "-m", "whisperd.cli.main", "models", *arguments]
        done = subprocess.run(
            command, cwd=folder.parent, env=own.env, capture_output=True, check=True, timeout=LIMIT_S
        )
        return done.stdout.decode().strip()

    assert models("path", "./mine") == str(folder)
    assert models("import", "mine", "copied").startswith("copied is installed")


def test_several_names_continue_after_a_failure(own: RunningDaemon, toy: Callable[..., str]) -> None:
    own.ctl("models", "import", toy(), "mine")
    done = own.ctl("models", "verify", "nonsense", "base", "mine")
    assert (done.status, done.out) == (1, "mine: intact\n")
    assert done.err.splitlines()[0] == "whisperctl: nonsense: There is no model named 'nonsense'."
    answers = own.ctl("models", "verify", "nonsense", "base", "mine", "--json").json
    assert [answer["name"] for answer in answers] == ["nonsense", "base", "mine"]
    assert [answer.get("error", {}).get("code") for answer in answers] == [
        "model.unknown",
        "model.not_installed",
        None,
    ]


@pytest.mark.parametrize("verb", ["verify", "remove", "path"])
def test_a_model_that_is_not_installed_is_not_found(own: RunningDaemon, verb: str) -> None:
    done = own.ctl("models", verb, "base")
    assert (done.status, done.out) == (4, "")
    assert "`whisperctl models pull base`" in done.err


def test_a_taken_name_is_refused(own: RunningDaemon, toy: Callable[..., str]) -> None:
    own.ctl("models", "import", toy(), "mine")
    done = own.ctl("models", "import", toy(), "mine", "--json")
    assert (done.status, done.json["error"]["code"]) == (5, "model.exists")
    assert "`whisperctl models import PATH NAME`" in done.json["error"]["fix"]


def test_another_bundle_of_the_same_version_is_shown(own: RunningDaemon, tmp_path: Path) -> None:
    """For example, the bundle of another Python."""
    selection = Bundle("media", media_lock()).select()
    for folder in (selection.folder, f"{selection.version}-cp399-01234567"):
        path = tmp_path / "native" / folder / "media"
        path.mkdir(parents=True)
        write_description(path, "media", selection, 0)
    (row,) = (line.split() for line in own.ctl("natives", "list").out.splitlines() if line[:6] == "media ")
    assert row[:4] == ["media", "installed", selection.version, selection.version]


def test_bundles_that_are_not_installed_are_listed(own: RunningDaemon) -> None:
    bundles = {bundle["name"]: bundle for bundle in own.ctl("natives", "list", "--json").json}
    assert {"media", "ctranslate2-cpu"} <= set(bundles)
    assert bundles["media"]["installed"] == []
    assert bundles["whispercpp-generic"]["built_here"] and not bundles["media"]["built_here"]
    shown = own.ctl("natives", "list").out
    assert "not installed" in shown
    (row,) = (line for line in shown.splitlines() if line.startswith("whispercpp-generic "))
    assert row.endswith(" MB to download, then minutes to build")
    for verb in ("verify", "remove", "path"):
        done = own.ctl("natives", verb, "media", "--json")
        assert (done.status, done.json["error"]["code"]) == (4, "native.not_installed")
        assert "`whisperctl natives install media`" in done.json["error"]["fix"]


@pytest.mark.skipif(sys.platform == "darwin", reason="Macs have Metal")
@pytest.mark.parametrize("verb", ["install", "upgrade"])
def test_a_bundle_for_another_platform_is_not_installed(own: RunningDaemon, verb: str) -> None:
    done = own.ctl("natives", verb, "whispercpp-metal", "--json")
    error = done.json["error"]
    assert (done.status, error["code"], error["data"]["missing"]) == (1, "variant.not_usable", "platform")


def test_an_unknown_bundle_gets_a_suggestion(own: RunningDaemon) -> None:
    done = own.ctl("natives", "install", "medai", "--json")
    assert (done.status, done.json["error"]["code"]) == (4, "native.unknown")
    assert done.json["error"]["fix"] == "Did you mean media?"


@pytest.mark.real
def test_an_installed_bundle_is_verified(shared: RunningDaemon) -> None:
    assert shared.ctl("natives", "install", "media", timeout=600).out.startswith("media ")
    folder = Path(shared.ctl("natives", "path", "media").out.strip())
    assert folder.is_dir()
    done = shared.ctl("natives", "verify", "media")
    assert (done.status, done.out) == (0, "media: intact\n")
    assert "Verifying media" in shared.ctl("natives", "verify", "media", "--verbose").err


def test_quiet_prints_nothing_on_success(own: RunningDaemon, toy: Callable[..., str]) -> None:
    for arguments in (("import", toy(), "mine"), ("verify", "mine"), ("remove", "mine")):
        done = own.ctl("models", *arguments, "--quiet")
        assert (done.status, done.out, done.err) == (0, "", "")
