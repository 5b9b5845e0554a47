"""Shell completion: commands, options, their values, and existing names."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from socket import socket as Socket
from tempfile import TemporaryDirectory

import pytest

from whisperd.cli import completion
from whisperd.cli.completion import Word, offer
from whisperd.cli.main import COMMANDS, program
from whisperd_testing import RunningDaemon

THERE_ARE = {
    "runtimes": ["usual", "fast"],
    "profiles": ["vim"],
    "models": ["base", "tiny.en"],
    "available": ["large-v3"],
    "natives": ["media"],
    "jobs": ["j1", "j2", "j3"],
    "watch": ["/in box"],
}


STATUSES = {"j1": "completed", "j2": "running", "j3": "failed"}


def names(noun: str) -> Iterable[Word]:
    return [Word(name, STATUSES.get(name, "")) for name in THERE_ARE[noun]]


def offered(*words: str) -> list[str] | str:
    """Return the completions of the last word, or the kind of path to complete."""
    found = offer(program(), words, names)
    return found.kind if found.kind != "words" else [one.text for one in found.words]


def test_every_command_and_verb_is_completed() -> None:
    assert offered() == offered("") == list(COMMANDS)
    assert offered("models", "re") == ["recommend", "remove"]
    assert offered("help", "da") == ["daemon"]
    assert offered("nonsense", "") == list(COMMANDS)
    for command in COMMANDS:
        parser = program().command(command)
        for words in [[command], *([command, verb] for verb in parser.commands)]:
            assert "--help" in offered(*words, "--"), words
            offered(*words, "")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("transcribe --form", ["--format"]),
        ("transcribe --format s", ["srt"]),
        ("transcribe --format=s", ["--format=srt"]),
        ("transcribe --format srt,v", ["srt,verbose_json", "srt,vtt"]),
        ("watch add a --output=text,s", ["--output=text,srt"]),
        ("transcribe a.wav --task tra", ["transcribe", "translate"]),
        ("--json transcribe --prio", ["--priority"]),
        ("transcribe -- --prio", "files"),
        ("transcribe --language ", []),
        ("transcribe --nonsense=", []),
        ("transcribe ", "files"),
        ("transcribe a.wav ", "files"),
        ("transcribe -o ", "files"),
        ("transcribe --output-dir ", "folders"),
        ("--socket ", "files"),
        ("daemon status ", []),
        ("search ", []),
        ("completion ", ["bash", "zsh", "fish"]),
        ("completion zsh ", []),
    ],
)
def test_options_and_their_values_are_completed(line: str, expected: list[str] | str) -> None:
    assert offered(*line.split(" ")) == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("runtimes load ", ["usual", "fast"]),
        ("runtimes load usual f", ["fast"]),
        ("runtimes create ", []),
        ("transcribe --runtime=u", ["--runtime=usual"]),
        ("transcribe --model ", ["base", "tiny.en"]),
        ("runtimes create new --model ", ["base", "tiny.en"]),
        ("--profile ", ["vim"]),
        ("profiles show ", ["vim"]),
        ("models remove t", ["tiny.en"]),
        ("models pull ", ["large-v3"]),
        ("models import ", "files"),
        ("models import folder ", []),
        ("natives verify ", ["media"]),
        ("jobs show ", ["j1", "j2", "j3"]),
        ("jobs result ", ["j1"]),
        ("jobs result j1 ", []),
        ("jobs cancel j2 ", ["j2"]),
        ("jobs retry ", ["j3"]),
        ("jobs clear ", ["j1", "j3"]),
        ("calibrate ", ["base", "tiny.en"]),
        ("watch pause ", ["/in box"]),
        ("watch pause ~/in", "folders"),
        ("watch retry ", ["/in box"]),
        ("watch retry folder ", "files"),
        ("watch add ", "folders"),
        ("watch add folder --move-to ", "folders"),
    ],
)
def test_existing_names_are_completed(line: str, expected: list[str] | str) -> None:
    assert offered(*line.split(" ")) == expected


def test_a_name_with_a_line_break_is_not_offered(shared: RunningDaemon, tmp_path: Path) -> None:
    folders = [str(tmp_path / name) for name in ("in box", "two\nlines")]
    for folder in folders:
        Path(folder).mkdir()
        assert shared.ctl("watch", "add", folder).status == 0
    answer = shared.ctl("__complete", "watch", "show", "")
    kind, *lines = answer.out.splitlines()
    assert (kind, [line.partition("\t")[0] for line in lines], answer.err) == ("words", [folders[0]], "")
    assert shared.ctl("watch", "remove", *folders).status == 0


def test_names_come_from_the_running_daemon(
    shared: RunningDaemon, make_daemon: Callable[..., RunningDaemon]
) -> None:
    assert shared.ctl("runtimes", "create", "fast", "--model", "tiny.en").status == 0
    assert "fast\ttiny.en" in shared.ctl("__complete", "runtimes", "load", "f").out.splitlines()
    for words in (("models", "pull"), ("models", "show"), ("natives", "path"), ("jobs", "show")):
        assert shared.ctl("__complete", *words, "").out.startswith("words\n"), words
    assert "tiny.en" in shared.ctl("__complete", "models", "pull", "").out
    assert "media" in shared.ctl("__complete", "natives", "path", "").out
    none_runs = make_daemon()
    for option in (["--socket", shared.socket], [f"--socket={shared.socket}"]):
        assert "fast" in none_runs.ctl("__complete", *option, "runtimes", "load", "f").out
    assert none_runs.ctl("__complete", "runtimes", "load", "").out == "words\n"
    assert none_runs.ctl("daemon", "status", "--no-start").status == 3, "completion must not start a daemon"


@pytest.mark.skipif(sys.platform == "win32", reason="needs a Unix socket")
def test_a_daemon_that_does_not_answer_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(completion, "PATIENCE_S", 0.2)
    with TemporaryDirectory() as folder, Socket(socket.AF_UNIX) as silent:
        silent.bind(f"{folder}/s")
        silent.listen()
        assert list(completion._known_names(f"{folder}/s", "runtimes")) == []


ASK = {
    "bash": """
        eval "$(whisperctl completion bash)"
        COMP_WORDS=(whisperctl {words}) COMP_CWORD={last}
        compopt() {{ echo "compopt $2"; }}
        _whisperctl
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """,
    "zsh": """
        compdef() {{ }}
        eval "$(whisperctl completion zsh)"
        _describe() {{ print -rl -- "${{(@)${{(@P)@[-1]}}%%:?*}}" }}
        _files() {{ print -r -- _files "$@" }}
        words=(whisperctl {words}) CURRENT={last}+1
        _whisperctl
    """,
    "fish": """
        whisperctl completion fish | source
        function __fish_complete_path; echo "path $argv"; end
        function __fish_complete_directories; echo "directories $argv[1]"; end
        complete -C 'whisperctl {words}' | string replace -r '\\t.*' ''
    """,
}
"""A script for each shell that completes the last of some words and prints the completions."""

FILES = {"bash": "compopt default", "zsh": "_files", "fish": "path clip"}
FOLDERS = {"bash": "compopt dirnames", "zsh": "_files -/", "fish": "directories clip"}


@pytest.mark.parametrize("shell", ASK)
@pytest.mark.skipif(sys.platform == "win32", reason="Windows lacks these shells")
def test_each_shell_shows_the_completions(shell: str, shared: RunningDaemon) -> None:
    path = shutil.which(shell)
    assert path, f"this test needs {shell}: `apt-get install zsh fish`, `brew install fish`"
    folder = Path(sys.executable).parent
    # bash warns of a locale that is not installed, as after `ssh` from another computer.
    environment = {name: value for name, value in shared.env.items() if not name.startswith("LC_")}
    environment["PATH"] = f"{folder}{os.pathsep}{os.environ['PATH']}"

    def shown(*words: str) -> list[str]:
        script = ASK[shell].format(words=" ".join(words), last=len(words))
        plain = {"bash": ["--norc"], "zsh": ["-f"], "fish": ["--no-config"]}[shell]
        done = subprocess.run(
            [path, *plain, "-c", script], env=environment, capture_output=True, text=True, check=False
        )
        assert not done.stderr
        return [line for line in done.stdout.splitlines() if line]

    assert shown("models", "re") == ["recommend", "remove"]
    assert shown("transcribe", "--format", "s") == ["srt"]
    assert shown("transcribe", "--format=s") == ["--format=srt"]
    assert shown("transcribe", "clip") == [FILES[shell]]
    assert shown("watch", "add", "clip") == [FOLDERS[shell]]
    if shell == "bash":
        assert shown("transcribe", "--format", "=", "s") == ["srt"], "bash splits words at ="
        assert shown("watch", "add", "--quiet-hours", "22", ":", "00-07", ":", "00", "clip") == [
            FOLDERS[shell]
        ]
        assert shown("models", "'\\re'") == ["recommend", "remove"]


def test_the_completion_script_as_json(shared: RunningDaemon) -> None:
    answer = shared.ctl("completion", "bash", "--json").json
    assert answer["script"] == shared.ctl("completion", "bash").out
