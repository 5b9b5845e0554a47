"""`whisperctl models recommend` and `show`, and the warnings before a model too large is downloaded."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from test_terminal import Terminal

from whisperd.rpc.errors import WhisperdError
from whisperd_testing import TESTS, RunningDaemon

KEYS = {"name", "memory", "size", "fits", "recommended", "speed", "measured", "reason", "summary"}


def test_exactly_one_model_is_recommended(shared: RunningDaemon) -> None:
    models = shared.ctl("models", "recommend", "--json").json
    assert all(set(model) == KEYS for model in models)
    assert [model["recommended"] for model in models] == [True, *[False] * (len(models) - 1)]
    available = shared.ctl("models", "available", "--json").json
    assert sorted(model["name"] for model in models) == sorted(model["name"] for model in available)


def test_the_client_returns_the_same_answers(shared: RunningDaemon) -> None:
    with shared.connect() as client:
        assert client.models.recommend() == shared.ctl("models", "recommend", "--json").json
        german = shared.ctl("models", "recommend", "--language", "German", "--json").json
        assert client.models.recommend("de") == german
        shown = shared.ctl("models", "show", "tiny", "--json").json
        assert client.models.show("tiny") == shown


def test_recommendations_for_a_language(shared: RunningDaemon) -> None:
    english = [one["name"] for one in shared.ctl("models", "recommend", "--language", "en", "--json").json]
    german = [one["name"] for one in shared.ctl("models", "recommend", "--language", "de", "--json").json]
    assert english[0].endswith(".en") or english[0] == "large-v3-turbo"
    assert german and not [name for name in german if name.endswith(".en")]
    done = shared.ctl("models", "recommend", "--language", "klingon")
    assert (done.status, done.out) == (2, "") and "There is no language 'klingon'" in done.err


def test_the_table_fits_a_terminal_and_marks_the_recommendation(shared: RunningDaemon) -> None:
    done = shared.ctl("models", "recommend")
    assert (done.status, done.err) == (0, "")
    header, *rows = done.out[: done.out.index("\n\n")].splitlines()
    assert header.split() == ["NAME", "SIZE", "MEMORY", "SPEED", "FITS", "WHY"]
    assert max(len(line) for line in done.out.splitlines()) <= 100
    first = shared.ctl("models", "recommend", "--json").json[0]
    assert [row.split()[1] for row in rows if row.startswith("*")] == [first["name"]]
    assert first["summary"] in done.out
    assert "whisperctl calibrate" in done.out


def test_show_describes_a_model(shared: RunningDaemon) -> None:
    done = shared.ctl("models", "show", "large-v3")
    assert (done.status, done.err) == (0, "")
    assert "large-v3" in done.out and "3.09 GB" in done.out
    assert shared.ctl("models", "show", "no such model").status == 4


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    """A daemon on a computer with little memory and no network."""
    with small_daemon(tmp_path_factory.mktemp("small"), MEMORY="1_600_000_000") as daemon:
        yield daemon


@contextmanager
def small_daemon(folder: Path, **env: str) -> Iterator[RunningDaemon]:
    env |= {"WHISPERD_MODELS_DIR": str(folder / "models"), "WHISPERD_OFFLINE": "1"}
    daemon = RunningDaemon(folder, env=env, program=("small_daemon",))
    daemon.env["PYTHONPATH"] += f"{os.pathsep}{TESTS}"
    try:
        yield daemon.start()
    finally:
        daemon.close()


class TestWarnings:
    def test_a_script_is_warned_and_continues(self, small: RunningDaemon) -> None:
        done = small.ctl("models", "pull", "large-v3")
        assert "large-v3 needs about 5.08 GB of memory, and this computer has 1.60 GB." in done.err
        assert "Use small, the largest that fits" in done.err
        assert "[y/N]" not in done.err
        assert "downloads are forbidden" in done.err  # so it continued

    def test_no_warning_if_the_model_fits_or_with_quiet(self, small: RunningDaemon) -> None:
        assert "needs about" not in small.ctl("models", "pull", "tiny").err
        assert "needs about" not in small.ctl("models", "pull", "large-v3", "--quiet").err

    def test_the_json_answer_contains_the_warning(self, small: RunningDaemon) -> None:
        created = small.ctl("runtimes", "create", "told", "--model", "large-v3", "--json")
        (warning,) = created.json["warnings"]
        assert created.status == 0 and created.err == ""
        assert set(warning) == {"code", "message", "fix", "data"}
        assert warning["data"]["download"] > 3 * 10**9
        with small.connect() as client:
            assert client.runtimes.show("told")["warnings"] == [warning]
            assert client.models.show("large-v3")["warnings"] == [warning]
            tiny = client.runtimes.edit("told", model="tiny")
            assert tiny["warnings"] == []
            assert tiny["to_download"] == {"model": "tiny", "size": client.models.show("tiny")["size"]}

    def test_importing_a_large_model_warns(self, tmp_path: Path, toy: Callable[..., str]) -> None:
        with small_daemon(tmp_path, MEMORY="150_000_000") as tiny:
            said = tiny.ctl("models", "import", toy(), "mine")
            assert said.status == 0 and said.out.startswith("mine is installed")
            assert "The model mine needs about 130 MB of memory, and this computer has 150 MB." in said.err
            told = tiny.ctl("models", "import", toy(), "yours", "--json")
            assert told.err == "" and [one["code"] for one in told.json["warnings"]] == ["model.too_large"]

    def test_creating_a_runtime_warns_and_downloads_nothing(self, small: RunningDaemon) -> None:
        done = small.ctl("runtimes", "create", "best", "--model", "large-v3")
        assert (done.status, done.out) == (0, "best is created\n")
        assert "large-v3 needs about" in done.err
        tried = small.ctl("runtimes", "prepare", "best")
        assert "large-v3 needs about" in tried.err and "downloads are forbidden" in tried.err

    def test_creating_a_runtime_reports_a_missing_model(self, small: RunningDaemon) -> None:
        done = small.ctl("runtimes", "create", "my notes", "--model", "tiny")
        assert (done.status, done.out) == (0, "my notes is created\n")
        assert done.err.splitlines() == [
            "Its model tiny, 78 MB, is not installed: the first job will download it.",
            "  Run `whisperctl runtimes prepare 'my notes'` to do so now.",
        ]
        assert "tiny (not installed)" in small.ctl("runtimes", "show", "my notes").out
        done = small.ctl("runtimes", "edit", "my notes", "--model", "tiny.en")
        assert "tiny.en, 78 MB, is not installed" in done.err
        assert small.ctl("runtimes", "edit", "my notes", "--workers", "1").err == ""

    def test_no_message_if_the_model_is_installed(
        self, shared: RunningDaemon, toy: Callable[..., str]
    ) -> None:
        done = shared.ctl("runtimes", "create", "here", "--model", toy())
        assert (done.status, done.err) == (0, "")

    def test_a_model_that_can_never_load_is_refused_before_its_download(self, small: RunningDaemon) -> None:
        small.ctl("runtimes", "create", "hopeless", "--model", "large-v3")
        loaded = small.ctl("runtimes", "load", "hopeless", "--json")
        assert (loaded.status, loaded.json["error"]["code"]) == (1, "memory.not_enough")
        with small.connect() as client, pytest.raises(WhisperdError) as caught:
            client.transcribe(__file__, model="large-v3")
        assert caught.value.code == "memory.not_enough"
        assert "large-v3 needs about 5.08 GB of memory" in caught.value.message
        assert "Use small" in caught.value.fix

    def test_a_runtime_without_a_model_gets_the_recommended_one(self, small: RunningDaemon) -> None:
        best = small.ctl("models", "recommend", "--json").json[0]["name"]
        done = small.ctl("runtimes", "create", "mine")
        assert (done.status, done.out) == (0, f"mine is created, with the model {best}\n")
        assert small.ctl("runtimes", "show", "mine", "--json").json["model"] == best


@pytest.mark.skipif("sys.platform == 'win32'", reason="terminals as on POSIX")
class TestAtATerminal:
    @pytest.mark.parametrize(("number", "answer"), [(0, "\n"), (1, "n\n"), (2, "what?\n"), (3, "\x04")])
    def test_nothing_is_downloaded_without_a_yes(
        self, small: RunningDaemon, number: int, answer: str
    ) -> None:
        for much, command in (
            ("3.09 GB", ["models", "pull", "large-v3"]),
            ("1.62 GB", ["runtimes", "create", f"asked {number}", "--model", "turbo", "--default"]),
            ("1.62 GB", ["transcribe", "--model", "turbo", __file__]),
        ):
            terminal = Terminal(small, 100, *command, with_stdin=True)
            terminal.read_until(f"Download {much} anyway? [y/N] ")
            terminal.type(answer)
            assert terminal.finish() == 1
            assert "Nothing was downloaded." in terminal.written
        (default,) = (one for one in small.ctl("runtimes", "list", "--json").json if one["default"])
        assert default["name"] != f"asked {number}"

    def test_no_question_about_a_model_that_cannot_load(self, small: RunningDaemon) -> None:
        for command in (
            ["runtimes", "create", "too large", "--model", "large-v3", "--default", "--load"],
            ["transcribe", "--model", "large-v3", __file__],
        ):
            terminal = Terminal(small, 100, *command, with_stdin=True)
            assert terminal.finish() == 1
            assert "[y/N]" not in terminal.written
            assert terminal.written.count("large-v3 needs about 5.08 GB") == 1

    def test_yes_starts_the_download(self, small: RunningDaemon) -> None:
        terminal = Terminal(small, 100, "models", "pull", "large-v3", with_stdin=True)
        terminal.read_until("[y/N] ")
        terminal.type("y\n")
        assert terminal.finish() == 5  # downloads are forbidden
        assert "Nothing was downloaded." not in terminal.written
