"""Parsing the command line, and the errors for invalid input."""

from __future__ import annotations

import argparse
import io
import os
import re
import shlex
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whisperd.cli.main import COMMANDS, program
from whisperd.cli.parser import ELSEWHERE, OPTIONS_ELSEWHERE, Parser
from whisperd.rpc.errors import WhisperdError

HUGE = "9" * 5000
"""Python parses no integers of more than 4,300 digits."""


def parse(*words: str) -> argparse.Namespace:
    defaults = argparse.Namespace(
        socket=None, profile=None, json=False, no_start=False, quiet=False, verbose=False
    )
    return program().parse(words, defaults)


def refused(*words: str) -> WhisperdError:
    with pytest.raises(WhisperdError) as caught:
        parse(*words)
    return caught.value


@pytest.mark.parametrize(
    "words",
    [
        ("--json", "--socket", "s", "transcribe", "a.wav"),
        ("transcribe", "--json", "--socket", "s", "a.wav"),
        ("transcribe", "a.wav", "--json", "--socket=s"),
        ("--socket=s", "transcribe", "a.wav", "--json"),
    ],
)
def test_global_options_may_stand_anywhere(words: tuple[str, ...]) -> None:
    options = parse(*words)
    assert (options.json, options.socket, options.files, options.quiet) == (True, "s", ["a.wav"], False)


def test_global_options_may_stand_before_a_verb() -> None:
    assert parse("jobs", "--json", "list", "-q").json


@pytest.mark.parametrize(
    "words",
    [
        ("transcribe", "a.wav", "--runtime", ""),
        ("transcribe", "a.wav", "--model="),
        ("transcribe", "a.wav", "-o", ""),
        ("transcribe", "a.wav", "--output-dir", ""),
        ("dictate", "--model", ""),
        ("profiles", "create", "notes", "--model", ""),
        ("watch", "show", ""),
        ("watch", "remove", "inbox", ""),
        ("watch", "edit", "inbox", "--name", ""),
        ("natives", "upgrade", "media", "--version", ""),
        ("natives", "remove", "media", "--version", ""),
        ("calibrate", ""),
    ],
)
def test_an_empty_name_is_refused(words: tuple[str, ...]) -> None:
    error = refused(*words)
    assert (error.code, error.message.endswith("it is empty.")) == ("usage.invalid", True)


def test_files_and_options_may_be_mixed() -> None:
    options = parse("transcribe", "a.wav", "--model", "tiny", "b.wav", "-q", "c.wav")
    assert options.files == ["a.wav", "b.wav", "c.wav"]


def test_everything_after_two_dashes_is_a_file() -> None:
    options = parse("transcribe", "a.wav", "--", "-b.wav", "--json", "--")
    assert options.files == ["a.wav", "-b.wav", "--json", "--"]
    assert not options.json


@given(st.lists(st.text(st.characters(exclude_characters="\0"), min_size=1), min_size=1))
def test_any_name_can_be_given_after_two_dashes(names: list[str]) -> None:
    assert parse("transcribe", "--", *names).files == names


PAGE = (Path(__file__).parents[2] / "docs" / "commands.md").read_text("utf-8")
WRITTEN = sorted({*re.findall(r"(?<![\w-])--?[a-z][a-z-]*", PAGE), *re.findall(r"whisperctl (\w+)", PAGE)})
VERBS = sorted(set(re.findall(r"whisperctl \w+ ([a-z-]+)", PAGE)))
VALUES = (
    "-",
    "--",
    "=",
    "--model=",
    "-1",
    "1e999",
    "nan",
    "9" * 5000,
    "1h",
    "2026-02-30",
    "9999-12-31T23:59:59+00:00",
)


@given(
    st.lists(
        st.sampled_from(WRITTEN) | st.sampled_from(VERBS) | st.sampled_from(VALUES) | st.text(max_size=8),
        max_size=8,
    )
)
def test_any_input_is_parsed_or_refused_with_a_fix(words: list[str]) -> None:
    with redirect_stdout(io.StringIO()):
        try:
            parse(*words)
        except SystemExit as ended:  # printed the help or the version
            assert not ended.code
        except WhisperdError as error:
            assert error.code.startswith("usage.")
            assert error.fix


def test_the_value_of_an_option_is_not_taken_for_a_command() -> None:
    assert parse("--socket", "models", "transcribe", "a.wav").socket == "models"


def examples(parser: Parser) -> Iterator[list[str]]:
    """Yield the arguments of `whisperctl` in the help examples of a command and its subcommands."""
    for line in (parser.epilog or "").splitlines() if not parser.commands else ():
        if "whisperctl " in line:
            yield shlex.split(line.partition("whisperctl ")[2].partition(" > ")[0])
    for name in parser.commands:
        yield from examples(parser.command(name))


def test_every_example_is_valid() -> None:
    found = list(examples(program()))
    assert len(found) > 40
    for words in found:
        assert parse(*words).run


def test_a_missing_command_is_an_error_even_if_help_cannot_be_printed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.stderr", SimpleNamespace(write=lambda _text: os.write(-1, b"")))
    with pytest.raises(WhisperdError) as caught:
        parse()
    assert caught.value.code == "usage.invalid"


def test_a_missing_command_prints_the_help_but_not_with_json(capsys: pytest.CaptureFixture[str]) -> None:
    refused("jobs")
    assert "whisperctl jobs [OPTION]... COMMAND ..." in capsys.readouterr().err
    refused("jobs", "--json")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("words", "code", "said", "fix"),
    [
        ((), "usage.invalid", "needs a command", "--help"),
        (("jobs",), "usage.invalid", "`whisperctl jobs` needs a command", "`whisperctl jobs --help`"),
        (("transcrib", "a"), "usage.unknown_command", "`whisperctl transcrib`", "Did you mean transcribe?"),
        (("recommend",), "usage.unknown_command", "recommend", "Did you mean models recommend?"),
        (("retry",), "usage.unknown_command", "retry", "Did you mean jobs retry or watch retry?"),
        (("edit",), "usage.unknown_command", "edit", "watch edit, runtimes edit or profiles edit?"),
        (("jobs", "lst"), "usage.unknown_command", "`whisperctl jobs lst`", "Did you mean list?"),
        (("models", "rm", "x"), "usage.unknown_command", "rm", "Did you mean remove?"),
        (("runtimes", "rm", "x"), "usage.unknown_command", "rm", "Did you mean delete?"),
        (("runtimes", "remove", "x"), "usage.unknown_command", "remove", "Did you mean delete?"),
        (("models", "delete", "x"), "usage.unknown_command", "delete", "Did you mean remove?"),
        (("natives", "uninstall", "x"), "usage.unknown_command", "uninstall", "Did you mean remove?"),
        (("natives", "prepare", "x"), "usage.unknown_command", "prepare", "Did you mean install?"),
        (("runtimes", "ps"), "usage.unknown_command", "ps", "Did you mean list?"),
        (("jobs", "ls"), "usage.unknown_command", "ls", "Did you mean list?"),
        (("profiles", "add", "x"), "usage.unknown_command", "add", "Did you mean create?"),
        (("runtimes", "stop", "x"), "usage.unknown_command", "stop", "Did you mean unload?"),
        (("runtimes", "start", "x"), "usage.unknown_command", "start", "Did you mean load?"),
        (("jobs", "stop", "x"), "usage.unknown_command", "stop", "Did you mean cancel?"),
        (("ps",), "usage.unknown_command", "ps", "Did you mean runtimes list?"),
        (("pull", "base"), "usage.unknown_command", "pull", "Did you mean models pull?"),
        (("logs",), "usage.unknown_command", "logs", "Did you mean daemon logs?"),
        (("cancel", "x"), "usage.unknown_command", "cancel", "Did you mean jobs cancel or runtimes cancel?"),
        (("xyzzy",), "usage.unknown_command", "xyzzy", "`whisperctl --help` lists the commands."),
        (
            ("transcribe", "a", "--fromat", "json"),
            "usage.unknown_option",
            "--fromat",
            "Did you mean --format?",
        ),
        (("transcribe", "a", "--translate"), "usage.unknown_option", "--translate", "--task translate?"),
        (("transcribe", "a", "-m", "b"), "usage.unknown_option", "-m", "Did you mean --model?"),
        (("watch", "add", "a", "--output_format", "srt"), "usage.unknown_option", "_format", "--format?"),
        (("transcribe", "a", "--form=json"), "usage.unknown_option", "--form", "Did you mean --format?"),
        (("transcribe", "-talk.wav"), "usage.unknown_option", "-talk.wav", "put -- before"),
        (("--jsn", "jobs", "list"), "usage.unknown_option", "--jsn", "Did you mean --json?"),
        (("calibrate", "--shwo"), "usage.unknown_option", "--shwo", "Did you mean --show?"),
        (("calibrate", "--show", "--forget"), "usage.invalid", "--forget", "`whisperctl calibrate --help`"),
        (("transcribe",), "usage.invalid", "required: FILE", "`whisperctl transcribe --help`"),
        (("watch", "retry"), "usage.invalid", "required: FOLDER.", "`whisperctl watch retry --help`"),
        (("jobs", "show", "a", "b"), "usage.invalid", "'b'", "`whisperctl jobs show --help`"),
        (("transcribe", "a", "--format", "doc"), "usage.invalid", "'doc'", "Use any of text, json, "),
        (("jobs", "result", "a", "--format", "doc"), "usage.invalid", "'doc'", "Use one of text, json, "),
        (("transcribe", "a", "--format", "srt,txt"), "usage.invalid", "'txt'", "Did you mean text?"),
        (("watch", "add", "a", "--output", "srt,"), "usage.invalid", "''", "Use any of text, json, "),
        (
            ("transcribe", "a", "--format", "vtx"),
            "usage.invalid",
            "--format cannot",
            "Did you mean vtt? Use any",
        ),
        (("runtimes", "create", "a", "--device", "gpu"), "usage.invalid", "'gpu'", "Did you mean cuda?"),
        (("transcribe", "a", "--beam-size", "x"), "usage.invalid", "--beam-size", "--help"),
        (("transcribe", "a", "--beam-size", HUGE), "usage.invalid", "number from 1 to 16", "--help"),
        (("search", "a", "--limit", HUGE), "usage.invalid", "number from 1 to 1000", "--help"),
        (("watch", "log", "a", "-n", HUGE), "usage.invalid", "number from 1 to 5000", "--help"),
        (("daemon", "logs", "-n", HUGE), "usage.invalid", "at most 18 digits", "--help"),
        (("runtimes", "edit", "a", "--workers", HUGE), "usage.invalid", "at most 18 digits", "--help"),
        (("runtimes", "edit", "a", "--device-index", HUGE), "usage.invalid", "numbers such as 0,1", "--help"),
        (("transcribe", "a", "--temperature", HUGE), "usage.invalid", "from 0 to 1", "--help"),
        (("transcribe", "a", "--timeout", HUGE), "usage.invalid", "above 0", "--help"),
        (("jobs", "clear", "--older-than", f"{HUGE}d"), "usage.invalid", "an age such as", "--help"),
        (("transcribe", "a", "--temperature", "warm"), "usage.invalid", "'warm'", "--help"),
        (("transcribe", "a", "--timeout", "0"), "usage.invalid", "above 0", "--help"),
        (("transcribe", "a", "--timeout", "nan"), "usage.invalid", "above 0", "--help"),
        (("daemon", "start", "--", "--no-start"), "usage.invalid", "extra argument '--no-start'", "--help"),
    ],
)
def test_a_mistake_gets_a_fix(words: tuple[str, ...], code: str, said: str, fix: str) -> None:
    error = refused(*words)
    assert error.code == code
    assert said in error.message
    assert fix in error.fix
    assert error.message.endswith(".")


def every_parser(parser: Parser) -> list[Parser]:
    below = [one for name in parser.commands for one in every_parser(parser.command(name))]
    return [parser, *below]


def test_every_command_and_option_has_help() -> None:
    parsers = every_parser(program())
    assert len(parsers) > len(COMMANDS)
    for parser in parsers:
        assert parser.description
        for action in parser.arguments:
            assert action.help or not action.option_strings, f"{parser.prog} {action.option_strings}"


def shown_help(*words: str) -> str:
    output = io.StringIO()
    with redirect_stdout(output), pytest.raises(SystemExit) as ended:
        parse(*words)
    assert not ended.value.code
    return output.getvalue()


@pytest.mark.parametrize("words", [(), ("jobs",), ("jobs", "list"), ("transcribe",)])
def test_help_is_both_a_command_and_an_option(words: tuple[str, ...]) -> None:
    assert shown_help("help", *words) == shown_help(*words, "--help") == shown_help(*words, "-h")


def test_help_fits_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    own_words = shown_help("transcribe", "--help").partition("examples:")[0]
    assert max(map(len, own_words.splitlines())) <= 60


def every_command(parser: Parser) -> set[str]:
    return {*parser.commands} | {
        f"{name} {verb}" for name in parser.commands for verb in parser.command(name).commands
    }


def test_suggestions_for_other_programs_words_exist() -> None:
    known = every_command(program())
    verbs = {command.partition(" ")[2] for command in known}
    for word, ours in ELSEWHERE.items():
        assert word not in ours
        assert set(ours) <= known | verbs
    options = set(re.findall(r"--?[a-z-]+", shown_help("transcribe", "--help")))
    for word, ours in OPTIONS_ELSEWHERE.items():
        assert word not in options
        assert ours.partition(" ")[0] in options
