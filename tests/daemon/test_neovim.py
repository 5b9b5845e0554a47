"""A real Neovim talks to the daemon over its own MessagePack-RPC, without any client library of ours."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from whisperd_testing import AUDIO, RunningDaemon

TIMEOUT_S = 120

LUA = """
local input = vim.fn.json_decode(vim.fn.readfile(vim.env.WHISPERD_TEST_INPUT))
local channel = vim.fn.sockconnect('pipe', vim.env.WHISPERD_SOCKET, {rpc = true})
local function request(method, ...) return vim.fn.rpcrequest(channel, method, ...) end
local function run()
%s
end
local ok, result = pcall(run)
vim.fn.writefile({vim.fn.json_encode({ok = ok, result = result})}, vim.env.WHISPERD_TEST_OUTPUT)
vim.cmd('qall!')
"""


@pytest.fixture(scope="module", autouse=True)
def neovim() -> str:
    """Return Neovim's path. The tests fail without it unless `WHISPERD_SKIP_NEOVIM` is set."""
    if os.environ.get("WHISPERD_SKIP_NEOVIM"):
        pytest.skip("WHISPERD_SKIP_NEOVIM is set")
    if found := shutil.which("nvim"):
        return found
    pytest.fail(
        "These tests need Neovim: `apt-get install neovim`, `brew install neovim`, "
        "`winget install Neovim.Neovim`; or set WHISPERD_SKIP_NEOVIM=1 to go without."
    )


def run_lua(neovim: str, daemon: RunningDaemon, body: str, **values: Any) -> Any:
    """Run a Lua function body inside Neovim, with `values` as `input`; return its result."""
    files = {name: daemon.folder / f"neovim.{name}" for name in ("lua", "input", "output")}
    files["lua"].write_text(LUA % body)
    files["input"].write_text(json.dumps(values))
    done = subprocess.run(
        [neovim, "--headless", "--clean", "-i", "NONE", "-c", f"luafile {files['lua']}"],
        env={
            **daemon.env,
            "WHISPERD_TEST_INPUT": str(files["input"]),
            "WHISPERD_TEST_OUTPUT": str(files["output"]),
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=TIMEOUT_S,
        check=True,
    )
    assert files["output"].exists(), done.stderr.decode()
    answer = json.loads(files["output"].read_text())
    assert answer["ok"], answer["result"]
    return answer["result"]


def test_status(neovim: str, daemon: RunningDaemon) -> None:
    without, with_empty = run_lua(
        neovim, daemon, "return {request('daemon.status'), request('daemon.status', {})}"
    )
    assert without["pid"] == with_empty["pid"] == daemon.pid
    assert without["socket"] == daemon.socket


def test_an_error_is_raised_in_neovim(neovim: str, daemon: RunningDaemon) -> None:
    ok, after = run_lua(
        neovim, daemon, "return {pcall(request, 'no.such.method'), request('daemon.status').pid}"
    )
    assert ok is False
    assert after == daemon.pid


def test_errors_are_sent_as_text_on_request(neovim: str, daemon: RunningDaemon) -> None:
    refused, said = run_lua(
        neovim,
        daemon,
        """
        local me = {client = 'nvim', version = '1', protocol = 1, errors = 'text'}
        local _, first = pcall(request, 'session.hello', vim.tbl_extend('force', me, {protocol = 99}))
        request('session.hello', me)
        local _, second = pcall(request, 'jobs.show', {id = 'nobody'})
        return {first, second}
        """,
    )
    assert "The client speaks protocol 99" in refused
    assert "There is no job 'nobody'. List the known jobs with" in said
    assert "(job.unknown)" in said


def test_events(neovim: str, daemon: RunningDaemon, endless: str, some_file: str) -> None:
    events = run_lua(
        neovim,
        daemon,
        """
        _G.events = {}
        request('events.subscribe', {
            topics = {'jobs'},
            call = {method = 'nvim_exec_lua', args = {'table.insert(_G.events, ...)'}},
        })
        local job = request('jobs.submit', {input = {path = input.path}, options = {model = input.model}})
        request('jobs.cancel', {id = job.id})
        vim.wait(60000, function() return #_G.events == 2 end)
        return _G.events
        """,
        path=some_file,
        model=endless,
    )
    assert [event["type"] for event in events] == ["job.queued", "transcription.cancelled"]
    assert [event["seq"] for event in events] == [1, 2]


@pytest.mark.real
def test_a_transcription(neovim: str, make_daemon: Callable[..., RunningDaemon]) -> None:
    daemon = make_daemon(toy=False).start()
    answer = run_lua(
        neovim,
        daemon,
        """
        _G.events = {}
        local options = {model = 'tiny.en', language = 'en'}
        local job = request('jobs.submit', {input = {path = input.path}, options = options})
        request('events.subscribe', {
            job = job.id,
            call = {method = 'nvim_exec_lua', args = {'table.insert(_G.events, ...)'}},
        })
        local result = request('jobs.wait', job)
        vim.wait(60000, function()
            return #_G.events > 0 and _G.events[#_G.events].type == 'transcription.completed'
        end)
        return {result = result, events = _G.events}
        """,
        path=str(Path(AUDIO / "jfk.flac").absolute()),
    )
    assert "ask not what your country can do for you" in answer["result"]["text"].lower()
    text = " ".join(event["text"] for event in answer["events"] if event["type"] == "transcription.segment")
    assert text == answer["result"]["text"] == answer["events"][-1]["text"]
