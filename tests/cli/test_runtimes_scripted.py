"""`whisperctl runtimes` and `profiles`: the requests that they send, and the output for the answers."""

from __future__ import annotations

import io
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from scripted_daemon import LOADED, SHOWN, ScriptedDaemon, a_runtime
from whisperd.cli import main
from whisperd.cli.output import Repainted
from whisperd.rpc.errors import WhisperdError
from whisperd_testing import LIMIT_S

pytestmark = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="needs Unix sockets")

Map = dict[str, Any]
UNKNOWN = WhisperdError("runtime.unknown", "There is no runtime 'x'.", "There are fast and best.")


def raising(error: WhisperdError) -> Callable[[Map], Any]:
    def answer(_params: Map) -> Any:
        raise error

    return answer


@pytest.fixture
def daemon() -> Iterator[ScriptedDaemon]:
    """A daemon with scripted answers."""
    with tempfile.TemporaryDirectory(prefix="whisperd-") as folder:
        scripted = ScriptedDaemon(Path(folder) / "d.sock")
        yield scripted
        scripted.close()


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the terminal width, and ignore the profile of the user who runs the tests."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("WHISPERD_PROFILE", raising=False)


@pytest.fixture
def ctl(daemon: ScriptedDaemon, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Return a function that runs a command and returns its exit status, output and error output."""

    def run(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        status = main.run(["--socket", daemon.path, "--no-start", *words])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run


Ctl = Callable[..., tuple[int, str, str]]


def test_list(daemon: ScriptedDaemon, ctl: Ctl) -> None:
    runtimes = [a_runtime(default=True), a_runtime("best", model="m" * 100)]
    daemon.set(runtimes_list=runtimes)
    status, out, err = ctl("runtimes", "list")
    assert (status, err) == (0, "")
    assert [line.split()[0] for line in out.splitlines()] == ["NAME", "fast", "best"]
    assert max(map(len, out.splitlines())) <= 80
    assert json.loads(ctl("runtimes", "list", "--json")[1]) == runtimes


def test_create_sends_only_what_was_given(daemon: ScriptedDaemon, ctl: Ctl) -> None:
    daemon.set(runtimes_create=lambda params: a_runtime(params["name"], **SHOWN))
    assert ctl("runtimes", "create", "fast", "--model", "tiny.en") == (0, "fast is created\n", "")
    ctl(
        "runtimes", "create", "best", "--model", "./best", "--backend", "ctranslate2", "--device", "cuda",
        "--device-index", "0,1", "--compute-type", "int8", "--cpu-threads", "0", "--workers", "2",
        "--no-batched", "--batch-size", "8", "--keep-alive", "-1", "--protected",
    )  # fmt: skip
    assert daemon.requests == [
        ("runtimes.create", {"name": "fast", "model": "tiny.en"}),
        (
            "runtimes.create",
            {
                "name": "best", "model": str(Path("best").absolute()), "backend": "ctranslate2",
                "device": "cuda", "device_index": [0, 1], "compute_type": "int8", "cpu_threads": 0,
                "workers": 2, "batched": False, "batch_size": 8, "keep_alive": "-1", "protected": True,
            },
        ),
    ]  # fmt: skip


def test_create_as_default_and_load(daemon: ScriptedDaemon, ctl: Ctl) -> None:
    daemon.set(
        runtimes_create=a_runtime(**SHOWN),
        runtimes_default=a_runtime(default=True),
        runtimes_show=a_runtime(default=True, **SHOWN),
        runtimes_load=a_runtime(default=True, **LOADED),
    )
    words = ("runtimes", "create", "fast", "--model", "tiny.en", "--default", "--load")
    status, out, _ = ctl(*words)
    assert status == 0
    assert out.splitlines() == [
        "fast is created",
        "fast is the default, and is being loaded",
        "fast is loaded: cpu, int8, 2 workers with 1 thread each, 145 MB",
    ]
    assert daemon.asked("runtimes") == [
        ("runtimes.create", {"name": "fast", "model": "tiny.en"}),
        ("runtimes.default", {"name": "0a1b2c3d"}),
        ("runtimes.show", {"name": "0a1b2c3d"}),
        ("runtimes.load", {"name": "0a1b2c3d"}),
    ]
    assert json.loads(ctl(*words, "--json")[1])["status"] == "loaded"


def test_a_created_runtime_is_reported_even_if_it_cannot_load(daemon: ScriptedDaemon, ctl: Ctl) -> None:
    full = WhisperdError("memory.not_enough", "It does not fit.", "Use base.", {"largest": "base"})
    daemon.set(
        runtimes_create=a_runtime(**SHOWN), runtimes_show=a_runtime(**SHOWN), runtimes_load=raising(full)
    )
    status, out, err = ctl("runtimes", "create", "fast", "--model", "large-v3", "--load")
    assert (status, out) == (1, "fast is created\n")
    assert err == "whisperctl: It does not fit.\n  Use base.\n"


def test_edit(daemon: ScriptedDaemon, ctl: Ctl) -> None:
    daemon.set(runtimes_edit=lambda params: a_runtime(params["changes"].get("name", params["name"]), **SHOWN))
    assert ctl("runtimes", "edit", "fast", "--device-index", "none")[1] == "fast is changed\n"
    assert (
        ctl("runtimes", "edit", "fast", "--rename", "quick", "--if-version", "3")[1] == "fast is now quick\n"
    )
    assert ctl("runtimes", "edit", "fast", "--name", "swift", "--no-protected", "-q")[1] == ""
    assert [params for _, params in daemon.requests] == [
        {"name": "fast", "changes": {"device_index": []}},
        {"name": "fast", "changes": {"name": "quick"}, "version": 3},
        {"name": "fast", "changes": {"name": "swift", "protected": False}},
    ]
    status, _, err = ctl("runtimes", "edit", "fast")
    assert status == 2
    assert "No change was given." in err


@pytest.mark.parametrize(
    ("verb", "answer", "said"),
    [
        ("delete", {"id": "0a1b2c3d", "name": "fast"}, "fast is deleted"),
        ("prepare", a_runtime(**SHOWN), "fast has everything it needs"),
        ("cancel", a_runtime(status="cancelled"), "fast is cancelled"),
        ("unload", a_runtime(), "fast is unloaded"),
        ("enable", a_runtime(), "fast is enabled"),
        ("disable", a_runtime(enabled=False), "fast is disabled"),
    ],
)
def test_verbs_of_several_names(daemon: ScriptedDaemon, ctl: Ctl, verb: str, answer: Map, said: str) -> None:
    def answered(params: Map) -> Map:
        if params["name"] == "x":
            raise UNKNOWN
        return {**answer, "name": params["name"]}

    daemon.set(**{"runtimes_show": answered, f"runtimes_{verb}": answered})
    assert ctl("runtimes", verb, "fast") == (0, f"{said}\n", "")
    assert ctl("runtimes", verb, "fast", "-q") == (0, "", "")
    status, out, err = ctl("runtimes", verb, "x", "fast", "best")
    assert (status, out) == (1, f"{said}\n{said.replace('fast', 'best')}\n")
    assert err.splitlines()[0] == "whisperctl: x: There is no runtime 'x'."
    documents = json.loads(ctl("runtimes", verb, "x", "fast", "--json")[1])
    assert (documents[0]["error"]["code"], documents[1]["name"]) == ("runtime.unknown", "fast")
    assert ctl("runtimes", verb, "x")[0] == 4


@pytest.mark.parametrize(
    ("state", "missing", "said"),
    [
        (LOADED, None, ""),
        ({"status": "downloading"}, None, ", and is being loaded"),
        ({"status": "downloading"}, {"model": "base", "size": 148_000_000},
         ", and its model base, 148 MB, is being downloaded"),
        ({"status": "downloading"}, {"model": "a/b", "size": None},
         ", and its model a/b is being downloaded"),
    ],
)  # fmt: skip
def test_default(daemon: ScriptedDaemon, ctl: Ctl, state: Map, missing: Map | None, said: str) -> None:
    daemon.set(
        runtimes_show=a_runtime(to_download=missing, warnings=[]),
        runtimes_default=a_runtime(default=True, **state),
    )
    assert ctl("runtimes", "default", "fast") == (0, f"fast is the default{said}\n", "")


def test_a_default_that_cannot_load_is_reported(daemon: ScriptedDaemon, ctl: Ctl) -> None:
    warning = {
        "code": "model.too_large",
        "message": "No room.",
        "fix": "Take base.",
        "data": {"loadable": False},
    }
    daemon.set(
        runtimes_show=a_runtime(to_download={"model": "large-v3", "size": 3 * 10**9}, warnings=[warning]),
        runtimes_default=a_runtime(default=True, status="downloading"),
    )
    said = (0, "fast is the default\n", "whisperctl: No room.\n  Take base.\n")
    assert ctl("runtimes", "default", "fast") == said


@pytest.mark.parametrize(
    "words",
    [
        ("create",),
        ("create", "fast", "--model", "m", "--device", "tpu"),
        ("create", "fast", "--model", "m", "--device-index", "0,"),
        ("create", "fast", "--model", "m", "--device-index", "-1"),
        ("create", "fast", "--model", "m", "--workers", "two"),
        ("edit", "fast", "--compute-type", "int4"),
        ("edit", "fast", "--if-version", "x"),
        ("load",),
        ("default", "a", "b"),
    ],
)
def test_invalid_usage_sends_no_request(daemon: ScriptedDaemon, ctl: Ctl, words: tuple[str, ...]) -> None:
    assert ctl("runtimes", *words)[0] == 2
    assert daemon.requests == daemon.greetings == []


def test_a_refusal_exits_with_5(daemon: ScriptedDaemon, ctl: Ctl) -> None:
    refusal = WhisperdError("runtime.is_default", "The runtime fast is the default.", "Choose another one.")
    daemon.set(runtimes_delete=raising(refusal))
    status, out, err = ctl("runtimes", "delete", "fast")
    assert (status, out) == (5, "")
    assert err == "whisperctl: The runtime fast is the default.\n  Choose another one.\n"


def test_loading_shows_its_progress(daemon: ScriptedDaemon, ctl: Ctl) -> None:
    def load(_params: Map) -> Map:
        about = {"type": "runtime.status", "error": None}
        mine = {**about, "id": "0a1b2c3d", "name": "fast"}
        other = {**about, "id": "ffffffff", "name": "other", "progress": 77.0, "detail": None}
        daemon.publish(**mine, status="downloading", progress=10.0, detail="downloading tiny.en")
        daemon.publish(**other, status="downloading")
        daemon.publish(
            type="model.progress", name="tiny.en", file=None, done=30, total=100, rate=None, eta=None,
            detail="downloading",
        )  # fmt: skip
        daemon.publish(**mine, status="downloading", progress=40.0, detail="downloading tiny.en")
        daemon.publish(**mine, status="loading", progress=None, detail=None)
        daemon.publish(**mine, status="loaded", progress=None, detail=None)
        return a_runtime(**LOADED)

    daemon.set(runtimes_show=a_runtime(**SHOWN), runtimes_load=load)
    status, _, err = ctl("runtimes", "load", "fast", "--verbose")
    assert status == 0
    assert err.splitlines() == [
        "Downloading tiny.en  10 %",
        "Downloading tiny.en  30 % 30 B of 100 B",
        "Loading fast ...",
    ]


@pytest.mark.parametrize(
    ("runtime", "shown"),
    [(a_runtime(status="loading"), ["Loading fast ..."]), (a_runtime(**LOADED), []), (None, [])],
)
def test_a_load_in_progress_is_shown_at_once(
    daemon: ScriptedDaemon, ctl: Ctl, runtime: Map | None, shown: list[str]
) -> None:
    def subscribe(params: Map) -> Map:
        if "job" in params:
            daemon.publish(type="transcription.completed", id="one")
        return {"subscription": 1}

    def show(_params: Map) -> Map:
        if runtime is None:
            raise WhisperdError("runtime.unknown", "It is gone.", "Name another.")
        return runtime

    daemon.set(jobs_show={"runtime": "fast"}, jobs_wait={}, runtimes_show=show, events_subscribe=subscribe)
    status, _, err = ctl("jobs", "wait", "one", "--verbose")
    assert (status, err.splitlines()) == (0, shown)


def watched(daemon: ScriptedDaemon, *lists: list[Map]) -> None:
    """Announce each list of runtimes by an event, and disconnect after the last one."""
    left = [*lists]

    def answer(_params: Map) -> Any:
        if len(left) > 1:
            daemon.publish(type="runtime.status", id="0a1b2c3d")
        if not left:
            daemon.hang_up()
        return left.pop(0) if left else []

    daemon.set(runtimes_list=answer)


def test_watching_in_a_pipe(daemon: ScriptedDaemon, ctl: Ctl) -> None:
    best = a_runtime("best", id="1")
    watched(
        daemon,
        [a_runtime(), best],
        [a_runtime(status="loading"), best],
        [a_runtime(status="loading", memory=5), best],
        [a_runtime(**LOADED)],
    )
    status, out, err = ctl("runtimes", "list", "--watch")
    assert status == 3
    assert "closed the connection" in err
    rows = [line.split()[:2] for line in out.splitlines()]
    assert rows == [
        ["NAME", "STATUS"],
        ["fast", "unloaded"],
        ["best", "unloaded"],
        ["fast", "loading"],
        ["fast", "loaded"],
        ["best", "deleted"],
    ]


def test_watching_as_json(daemon: ScriptedDaemon, ctl: Ctl) -> None:
    watched(daemon, [a_runtime()], [a_runtime()], [a_runtime(status="loading")])
    status, out, _ = ctl("runtimes", "list", "--watch", "--json")
    assert status == 3
    *documents, error = out.splitlines()[:2], "".join(out.splitlines()[2:])
    assert [json.loads(line)["status"] for line in documents[0]] == ["unloaded", "loading"]
    assert json.loads(error)["error"]["code"] == "daemon.connection_lost"


@pytest.mark.skipif(os.name != "posix", reason="signals as on POSIX")
def test_watching_ends_with_ctrl_c(daemon: ScriptedDaemon) -> None:
    daemon.set(runtimes_list=[a_runtime()])
    command = [
        sys.executable,
        "-m",
        "whisperd.cli.main",
        "--socket",
        daemon.path,
        "runtimes",
        "list",
        "--watch",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline().startswith(b"NAME")
        process.send_signal(signal.SIGINT)
        assert process.wait(LIMIT_S) == 130
        assert process.stderr.read() == b""


class Terminal(io.StringIO):
    """A stream that reports being a terminal."""

    def isatty(self) -> bool:
        return True


def test_on_a_terminal_the_table_is_redrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TERM", raising=False)
    monkeypatch.setenv("WT_SESSION", "1")
    terminal = Terminal()
    assert Repainted.is_possible(terminal)
    screen = Repainted(terminal)
    screen.show(["a", "b", "c"])
    screen.show(["d" * 100])
    assert (
        terminal.getvalue()
        == f"a\x1b[K\nb\x1b[K\nc\x1b[K\n\x1b[J\x1b[3A{'d' * 38}...{'d' * 38}\x1b[K\n\x1b[J"
    )
    monkeypatch.setenv("TERM", "dumb")
    assert not Repainted.is_possible(terminal)
    assert not Repainted.is_possible(io.StringIO())


def test_a_table_longer_than_the_terminal_is_cut() -> None:
    terminal = Terminal()
    Repainted(terminal).show([str(number) for number in range(30)])
    lines = terminal.getvalue().split("\x1b[K\n")
    assert lines[:2] == ["0", "1"]
    assert lines[-3:] == ["21", "... and 8 more", "\x1b[J"]


# Profiles

PROFILE: Map = {
    "name": "talks", "runtime": "fast", "version": 7,
    "options": {"language": "de", "beam_size": 2, "temperature": [0.0, 0.2]},
    "created": "2026-01-02T03:04:05.000Z", "changed": "2026-01-02T03:04:05.000Z",
}  # fmt: skip


def test_profiles_are_listed_and_shown(daemon: ScriptedDaemon, ctl: Ctl) -> None:
    bare = {**PROFILE, "name": "bare", "runtime": None, "options": {}}
    daemon.set(profiles_list=[PROFILE, bare], profiles_show=PROFILE)
    assert ctl("profiles", "list")[1].splitlines() == [
        "NAME   RUNTIME  OPTIONS",
        "talks  fast     language de, beam_size 2, temperature 0,0.2",
        "bare   default  -",
    ]
    assert "options: language de, beam_size 2, temperature 0,0.2\n" in ctl("profiles", "show", "talks")[1]
    assert json.loads(ctl("profiles", "list", "--json")[1])[0] == PROFILE


def test_create_profile_sends_only_what_was_given(daemon: ScriptedDaemon, ctl: Ctl) -> None:
    daemon.set(profiles_create=lambda params: {**PROFILE, "name": params["name"]})
    assert ctl("profiles", "create", "bare") == (0, "bare is created\n", "")
    ctl("profiles", "create", "talks", "--runtime", "fast", "--language", "de", "--no-vad")
    assert [params for _, params in daemon.requests] == [
        {"name": "bare"},
        {"name": "talks", "runtime": "fast", "options": {"language": "de", "vad": False}},
    ]


@pytest.mark.parametrize("noun", ["profiles", "watch"])
def test_given_options_override_unset(daemon: ScriptedDaemon, ctl: Ctl, noun: str) -> None:
    before = {"id": "0", "name": "n", "path": "/n", "version": 1, "done": 0, "options": {"language": "de"}}
    daemon.set(**{f"{noun}_show": before, f"{noun}_edit": before})
    unset = ("--unset", "runtime", "--unset", "language")
    assert ctl(noun, "edit", "n", *unset, "--runtime", "fast", "--language", "fr")[0] == 0
    assert daemon.requests[-1][1]["changes"] == {"runtime": "fast", "options": {"language": "fr"}}


def test_editing_a_profile_keeps_its_other_options(daemon: ScriptedDaemon, ctl: Ctl) -> None:
    daemon.set(profiles_show=PROFILE, profiles_edit=PROFILE)
    assert ctl("profiles", "edit", "talks", "--task", "translate")[1] == "talks is changed\n"
    ctl("profiles", "edit", "talks", "--unset", "beam_size", "--unset", "runtime", "--unset", "temperature")
    ctl("profiles", "edit", "talks", "--runtime", "best", "--rename", "speeches")
    ctl("profiles", "edit", "talks", "--model", "base")
    edits = [params for method, params in daemon.requests if method == "profiles.edit"]
    assert [edit["changes"] for edit in edits] == [
        {"options": {**PROFILE["options"], "task": "translate"}},
        {"options": {"language": "de"}, "runtime": None},
        {"options": PROFILE["options"], "runtime": "best", "name": "speeches"},
        {"options": {**PROFILE["options"], "model": "base"}, "runtime": None},
    ]
    assert {edit["version"] for edit in edits} == {7}
    assert ctl("profiles", "edit", "talks")[0] == 2


def test_profiles_are_deleted(daemon: ScriptedDaemon, ctl: Ctl) -> None:
    daemon.set(profiles_delete=PROFILE)
    assert ctl("profiles", "delete", "talks") == (0, "talks is deleted\n", "")


# The greeting of every command


def test_the_greeting_names_the_profile(
    daemon: ScriptedDaemon, ctl: Ctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon.set(jobs_submit={"id": "j", "runtime": "fast"}, runtimes_list=[a_runtime()])
    submit = ("transcribe", __file__, "--detach")
    ctl(*submit)
    ctl(*submit, "--profile", "talks")
    monkeypatch.setenv("WHISPERD_PROFILE", "mine")
    ctl(*submit)
    ctl(*submit, "--profile", "")
    ctl("runtimes", "list")
    ctl("runtimes", "list", "--profile", "talks")
    named = [greeting.get("profile") for greeting in daemon.greetings]
    assert named == [None, "talks", "mine", None, None, "talks"]


def test_an_unknown_profile_exits_with_4(daemon: ScriptedDaemon, ctl: Ctl) -> None:
    daemon.set(session_hello=raising(WhisperdError("profile.unknown", "There is none.", "Make one.")))
    assert ctl("transcribe", __file__, "--profile", "x")[0] == 4


def test_a_daemon_of_another_protocol_exits_with_3(daemon: ScriptedDaemon, ctl: Ctl) -> None:
    daemon.set(session_hello=raising(WhisperdError("protocol.unsupported", "It differs.", "Upgrade.")))
    assert ctl("runtimes", "list") == (3, "", "whisperctl: It differs.\n  Upgrade.\n")


def test_a_daemon_of_another_version_is_reported(daemon: ScriptedDaemon, ctl: Ctl) -> None:
    daemon.set(
        session_hello={"server": "whisperd", "version": "0.0.1", "protocol": 1}, runtimes_list=[a_runtime()]
    )
    err = ctl("runtimes", "list")[2].splitlines()
    assert err[0].startswith("whisperctl: The daemon has version 0.0.1, but whisperctl has ")
    assert f"`whisperctl --socket {shlex.quote(str(daemon.path))} daemon restart`" in err[1]
    assert ctl("runtimes", "list", "--quiet")[2] == ctl("runtimes", "list", "--json")[2] == ""


def test_only_given_job_options_are_sent(daemon: ScriptedDaemon, ctl: Ctl) -> None:
    daemon.set(jobs_submit={"id": "j", "runtime": "fast"})
    ctl("transcribe", __file__, "--detach")
    ctl(
        "transcribe",
        __file__,
        "--detach",
        "--runtime",
        "fast",
        "--language",
        "auto",
        "--vad",
        "--priority",
        "bulk",
    )
    sent = [params["options"] for _, params in daemon.requests]
    assert sent == [{}, {"runtime": "fast", "language": "auto", "vad": True, "priority": "bulk"}]


def test_a_runtime_and_a_model_exclude_each_other(daemon: ScriptedDaemon, ctl: Ctl) -> None:
    status, _, err = ctl("transcribe", __file__, "--runtime", "fast", "--model", "base")
    assert status == 2
    assert "--runtime and --model cannot be combined" in err
