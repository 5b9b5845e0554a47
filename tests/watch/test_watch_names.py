"""Which files are recordings, and how their outputs are named."""

from __future__ import annotations

import os
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whisperd.outputs import FORMATS
from whisperd.watch.names import (
    DEFAULT_TEMPLATE,
    ERROR_FORMAT,
    Selection,
    check_template,
    is_partial,
    is_same_name,
    output_name,
    output_names,
)

NAMES = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=80)


@pytest.mark.parametrize(
    "name",
    [
        "a.wav.part",
        "a.mp3.crdownload",
        "a.tmp",
        ".a.wav",
        "~$a.wav",
        "a.wav~",
        "a.temp.mp4",
        "A.PART",
        "a.f137.mp4.part",
    ],
)
def test_names_of_partial_files(name: str) -> None:
    assert is_partial(name)
    assert not Selection(include=("*",)).wants(f"talks/{name}")


@pytest.mark.parametrize("name", ["party.wav", "a.partial.story.mp3", "temp.mp4", "tmp.wav", "1.5.wav"])
def test_names_that_only_look_partial(name: str) -> None:
    assert not is_partial(name)
    assert Selection().wants(name)


def test_only_audio_and_video_is_wanted_by_default() -> None:
    assert Selection().wants("a.mp3")
    assert not Selection().wants("a.txt")
    assert not Selection(include=("*",)).wants("a.srt")
    assert not Selection(include=("talks/*",)).wants("talks/a.en.txt")
    assert Selection(include=("*.dat",)).wants("a.dat")
    assert not Selection(include=("*.dat",)).wants("a.mp3")
    assert not Selection(exclude=("draft*",)).wants("draft 1.mp3")


def test_folders_that_are_not_scanned() -> None:
    selection = Selection(exclude=("drafts",), skipped=frozenset({"done"}))
    assert selection.reaches("talks/2026/a.wav")
    assert not selection.reaches("talks/drafts/new/a.wav")
    assert not selection.reaches("done/a.wav")
    assert not selection.reaches(".cache/a.wav")
    assert not selection.reaches("$RECYCLE.BIN/S-1-5-21/$RTALK.mp3")
    assert not selection.reaches("talks/@eaDir/a.mp4/SYNOPHOTO_FILM_M.mp4")
    assert not selection.reaches("a.mp3.download/a.mp3")
    assert selection.reaches("download/recycled/a.mp3")
    assert selection.reaches("talks.download/a.mp3")
    assert not Selection(recursive=False).reaches("talks/a.wav")
    assert Selection(recursive=False).reaches("a.wav")


def test_outputs_are_named_by_the_template() -> None:
    assert output_name(DEFAULT_TEMPLATE, "talk.mp3", "de", "srt") == "talk.de.srt"
    assert output_name("{name}.{ext}", "talk.mp3", "de", "text") == "talk.mp3.txt"
    assert output_name(DEFAULT_TEMPLATE, "talk.mp3", "und", ERROR_FORMAT) == "talk.mp3.error.txt"


@given(NAMES, st.sampled_from([*FORMATS, ERROR_FORMAT]), st.integers(min_value=48, max_value=255))
def test_output_names_fit_the_limit(source: str, format_name: str, max_bytes: int) -> None:
    name = output_name(DEFAULT_TEMPLATE, source * 3 + ".wav", "en", format_name, max_bytes)
    assert len(os.fsencode(name)) <= max_bytes
    assert "/" not in name


def test_shortened_names_stay_distinct() -> None:
    one, other = (output_name(DEFAULT_TEMPLATE, "x" * 250 + end, "en", "text") for end in ("1.wav", "2.wav"))
    assert one != other
    assert one.endswith(".en.txt")


@given(NAMES.filter(lambda name: name.strip(".")))  # a name of dots alone has no suffix
def test_alternative_output_names_are_distinct(source: str) -> None:
    names = [
        name
        for name, _ in zip(
            output_names(DEFAULT_TEMPLATE, f"{source}.wav", "en", "text"), range(9), strict=False
        )
    ]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    "template",
    [
        *("{stem", "{what}", "{}", "{stem[0]}", "out.txt", "a/{stem}.txt", "{stem}.wav", "{stem.x}", "{0}"),
        *("{stem:.3}.txt", "{stem:99999999999}.txt", "{stem!r}.txt", "{stem:{name}}.txt", "{stem!}", "}"),
    ],
)
def test_invalid_templates_are_refused(template: str) -> None:
    assert check_template(template, ("text",)) is not None


@given(
    st.lists(
        st.sampled_from(["{stem}", "{name}", "{lang}", "{ext}", "{", "}", ":", "!", "."])
        | st.text(max_size=4)
    ),
    NAMES,
)
def test_an_accepted_template_yields_distinct_names(parts: list[str], source: str) -> None:
    """Otherwise, the search for a free name would not end."""
    template = "".join(parts)
    if check_template(template, ("text",)) is None:
        names = output_names(template, f"{source}.wav", "en", "text")
        assert len({next(names) for _ in range(5)}) >= 3


def test_two_formats_need_two_names() -> None:
    assert check_template("{stem}.txt", ("text", "srt")) is not None
    assert check_template(DEFAULT_TEMPLATE, ("json", "verbose_json")) is not None
    assert check_template("{stem}.{format}.{ext}", ("json", "verbose_json")) is None
    assert check_template(DEFAULT_TEMPLATE, ("text", "srt", "vtt")) is None


def test_names_that_some_file_systems_treat_as_equal() -> None:
    assert is_same_name("Talk.wav", "talk.WAV")
    assert is_same_name("caf\u00e9.wav", "cafe\u0301.wav")
    assert not is_same_name("a.wav", "b.wav")


def test_there_is_always_another_output_name() -> None:
    names = output_names(DEFAULT_TEMPLATE, "memo.wav", "en", "text")
    assert next(islice(names, 2000, None)) == "memo (2000).en.txt"
