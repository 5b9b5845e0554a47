"""The settings file: every key is documented, and every mistake in it is explained."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whisperd.rpc.errors import WhisperdError
from whisperd.settings import (
    MAX_KEEP_ALIVE_S,
    DaemonSettings,
    LogSettings,
    ModelSettings,
    RuntimeSettings,
    Settings,
    is_offline,
    is_preloading,
    load_settings,
    settings_template,
)
from whisperd_testing import unprivileged


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "config.toml"


def test_a_missing_file_means_defaults(config: Path) -> None:
    assert load_settings(config) == Settings()


def test_an_empty_file_means_defaults(config: Path) -> None:
    config.touch()
    assert load_settings(config) == Settings()


def test_unset_keys_keep_their_defaults(config: Path) -> None:
    config.write_text("[runtime]\nkeep_alive_s = 5\nworkers = 3\n[models]\nfolders = ['/models', '/more']\n")
    settings = load_settings(config)
    assert settings.runtime == RuntimeSettings(keep_alive_s=5.0, workers=3)
    assert settings.models.folders == ("/models", "/more")
    assert settings.daemon == DaemonSettings()


def test_a_byte_order_mark_is_ignored(config: Path) -> None:
    config.write_bytes(b"\xef\xbb\xbf[daemon]\npreload = false\r\n")
    assert not load_settings(config).daemon.preload


# The template


def test_the_template_is_all_defaults(config: Path) -> None:
    config.write_text(settings_template())
    assert load_settings(config) == Settings()
    assert {line.split("=")[0] for line in settings_template().splitlines() if re.match(r"\w", line)} == set()


def test_the_template_without_its_comment_signs_is_all_defaults() -> None:
    uncommented = re.sub(r"^# (\w+ = )", r"\1", settings_template(), flags=re.MULTILINE)
    tables = tomllib.loads(uncommented)
    assert msgspec.convert(tables, Settings) == Settings()
    assert {name: set(table) for name, table in tables.items()} == {
        section.name: {field.name for field in msgspec.structs.fields(type(section.default))}
        for section in msgspec.structs.fields(Settings)
    }, "every key of every section is in it"


def test_every_key_has_a_comment() -> None:
    lines = settings_template().splitlines()
    for number, line in enumerate(lines):
        if re.match(r"# \w+ = ", line):
            assert re.match(r"# [A-Z].{10,}\.$", lines[number - 1]), f"{line} has no comment"


# Text that a file can contain: no lone surrogates.
texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)


@given(
    settings=st.builds(
        Settings,
        daemon=st.builds(
            DaemonSettings,
            grace_period_s=st.floats(0, 3600),
            preload=st.booleans(),
        ),
        runtime=st.builds(
            RuntimeSettings,
            keep_alive_s=st.floats(0, MAX_KEEP_ALIVE_S) | st.just(-1.0),
            batch_size=st.integers(1, 256),
        ),
        models=st.builds(ModelSettings, folders=st.lists(texts, max_size=3).map(tuple)),
        log=st.builds(LogSettings, level=st.sampled_from(["debug", "info", "warning", "error"])),
    )
)
def test_settings_survive_a_round_trip(settings: Settings) -> None:
    tables = tomllib.loads(settings_template(settings))
    assert msgspec.convert(tables, Settings) == settings


# Mistakes


@pytest.mark.parametrize(
    ("toml", "message", "fix"),
    [
        ("[runtime]\nworker = 3", "[runtime] has no key `worker`", "Did you mean `workers`?"),
        ("[deamon]\npreload = true", "no section [deamon]", "Did you mean [daemon]?"),
        ("[daemon]\nbeam_size = 3", "[daemon] has no key `beam_size`", "`beam_size` in [runtime]?"),
        ("beam_size = 3", "no section [beam_size]", "`beam_size` in [runtime]?"),
        ("[models]\nstall_timeout = 3", "no key `stall_timeout`", "Did you mean `stall_timeout_s`?"),
        ("[runtime]\nzzzz = 3", "[runtime] has no key `zzzz`", "daemon config"),
        ("[runtime]\n'a`b\n' = 3".replace("\n'", "'"), "", "TOML"),
        ('[runtime]\n"a`b\\nc" = 3', "[runtime] has no key `a`b\nc`", "daemon config"),
        ("[runtime]\nworkers = 'two'", "runtime.workers must be an integer, not a string", "daemon config"),
        ("[runtime]\nworkers = -1", "runtime.workers must be at least 0", "daemon config"),
        ("[runtime]\nkeep_alive_s = nan", "runtime.keep_alive_s must be at least -1", "daemon config"),
        ("[runtime]\nkeep_alive_s = 1e9", "runtime.keep_alive_s must be at most 31536000", "daemon config"),
        ("[runtime]\nkeep_alive_s = -0.5", "runtime: `keep_alive_s` must be -1", "daemon config"),
        (
            "[models]\nfolders = ['/a', 3]",
            "models.folders[1] must be a string",
            "daemon config",
        ),
        (
            "[log]\nlevel = 'loud'",
            "log.level must be debug, error, info or warning",
            "daemon config",
        ),
        ("daemon = 3", "daemon must be a map, not an integer", "daemon config"),
        ("[daemon\n", "line 1", "TOML"),
        ("a = " + "[" * 5000, "recursion", "TOML"),
        ("a = " + "9" * 5000, "digits", "TOML"),
    ],
)
def test_a_mistake_is_explained(config: Path, toml: str, message: str, fix: str) -> None:
    config.write_text(toml)
    with pytest.raises(WhisperdError) as raised:
        load_settings(config)
    assert raised.value.code == "config.invalid"
    assert str(config) in raised.value.message
    assert message in raised.value.message
    assert fix in raised.value.fix


def test_a_binary_file_is_refused(config: Path) -> None:
    config.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(WhisperdError) as raised:
        load_settings(config)
    assert raised.value.code == "config.unreadable"


def test_a_folder_in_place_of_the_file_is_refused(config: Path) -> None:
    config.mkdir()
    with pytest.raises(WhisperdError) as raised:
        load_settings(config)
    assert raised.value.code == "config.unreadable"


@pytest.mark.skipif(os.name != "posix", reason="permissions work differently there")
def test_a_file_without_read_permission_is_refused(config: Path) -> None:
    config.touch(mode=0)
    with unprivileged(), pytest.raises(WhisperdError) as raised:
        load_settings(config)
    assert raised.value.code == "config.unreadable"


@pytest.mark.parametrize(("value", "offline"), [(None, False), ("", False), ("0", False), ("1", True)])
def test_the_environment_sets_offline_mode(
    monkeypatch: pytest.MonkeyPatch, value: str | None, offline: bool
) -> None:
    monkeypatch.delenv("WHISPERD_OFFLINE", raising=False)
    if value is not None:
        monkeypatch.setenv("WHISPERD_OFFLINE", value)
    assert is_offline() == offline


@pytest.mark.parametrize("setting", [False, True])
@pytest.mark.parametrize(("value", "preloading"), [(None, None), ("", False), ("0", False), ("1", True)])
def test_the_environment_overrides_preloading_in_the_file(
    monkeypatch: pytest.MonkeyPatch, setting: bool, value: str | None, preloading: bool | None
) -> None:
    monkeypatch.delenv("WHISPERD_PRELOAD", raising=False)
    if value is not None:
        monkeypatch.setenv("WHISPERD_PRELOAD", value)
    expected = setting if preloading is None else preloading
    assert is_preloading(Settings(daemon=DaemonSettings(preload=setting))) == expected
