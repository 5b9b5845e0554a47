"""Clients are light: users wait for every import."""

from __future__ import annotations

import pytest

from whisperd_testing import RunningDaemon, run_python

HEAVY = {
    "anyio", "asyncio", "av", "ctranslate2", "huggingface_hub", "msgspec", "numpy", "onnxruntime",
    "platformdirs", "pluggy", "psutil", "tokenizers",
}  # fmt: skip

SLOW = {
    "asyncio",
    "dataclasses",
    "inspect",
    "json",
    "logging",
    "pathlib",
    "shutil",
    "subprocess",
    "tempfile",
    "urllib",
}
"""Modules of the standard library that take milliseconds to import."""

LIST = "; import sys; print(*sys.modules)"


def imported(code: str, daemon: RunningDaemon) -> set[str]:
    """Return the packages that a piece of code imports; only the last line of its output counts."""
    lines = run_python(code + LIST, env=daemon.env).splitlines()
    return {name.partition(".")[0] for name in lines[-1].split()}


@pytest.mark.parametrize(
    "code",
    [
        "import whisperd",
        "import whisperd.client",
        "from whisperd import connect, WhisperdError",
        "import whisperd.cli.main",
    ],
)
def test_importing_the_client_is_light(shared: RunningDaemon, code: str) -> None:
    modules = imported(code, shared)
    assert "whisperd" in modules
    assert modules & HEAVY == set()


@pytest.mark.parametrize(
    "command",
    [
        ["daemon", "status"],
        ["daemon", "status", "--json"],
        ["daemon", "reload"],
        ["hardware"],
        ["jobs", "list"],
        ["models", "list"],
        ["natives", "list"],
        ["runtimes", "list"],
        ["runtimes", "show", "nobody"],
        ["profiles", "list"],
        ["transcribe", "/no/such/file"],
        ["transcribe", "--help"],
        ["--help"],
    ],
)
def test_a_command_is_light(shared: RunningDaemon, command: list[str]) -> None:
    code = (
        "import contextlib, io; from whisperd.cli.main import run\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()), "
        f"contextlib.suppress(SystemExit): run({command!r})\n"
        "pass"
    )
    assert imported(code, shared) & HEAVY == set()


def test_a_python_program_is_light(shared: RunningDaemon) -> None:
    code = "import whisperd; client = whisperd.connect(start=False); client.daemon.status(); client.close()"
    assert imported(code, shared) & HEAVY == set()


@pytest.mark.parametrize("command", [["daemon", "status"], ["runtimes", "list"]])
def test_status_commands_import_nothing_slow(shared: RunningDaemon, command: list[str]) -> None:
    code = f"import sys; before = set(sys.modules); from whisperd.cli.main import run; run({command!r})"
    seen = run_python(f"{code}; print(*(set(sys.modules) - before))", env=shared.env).splitlines()[-1].split()
    assert set(seen) & SLOW == set()
    assert "msgpack" in seen


def test_next_to_nothing_is_imported_before_ctrl_c_is_handled(shared: RunningDaemon) -> None:
    code = "import sys; before = set(sys.modules); import whisperd.cli.__main__"
    seen = run_python(f"{code}; print(*(set(sys.modules) - before))", env=shared.env).split()
    assert [name for name in seen if not name.startswith("whisperd")] in ([], ["__future__"])


def test_help_imports_no_command(shared: RunningDaemon) -> None:
    code = "from whisperd.cli.main import run; run(['--help']); import sys; print(*sys.modules)"
    seen = run_python(code, env=shared.env).splitlines()[-1].split()
    assert not [name for name in seen if name.startswith(("whisperd.cli.commands.", "whisperd.client"))]


def test_dir_lists_names_that_are_not_imported_yet(shared: RunningDaemon) -> None:
    code = "import whisperd; print(set(whisperd.__all__) <= set(dir(whisperd)))"
    assert run_python(code, env=shared.env) == "True\n"
