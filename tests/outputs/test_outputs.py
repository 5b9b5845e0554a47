"""Output formats: their content is what programs rely on."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whisperd.jobs.segments import Segment, Transcript
from whisperd.outputs import FORMATS, render, verbose
from whisperd.rpc.errors import WhisperdError


def transcript(*texts: str) -> Transcript:
    segments = tuple(
        Segment(id=index, seek=100 * index, start=float(index), end=index + 0.5, text=text)
        for index, text in enumerate(texts)
    )
    return Transcript(
        task="transcribe",
        language="en",
        duration=len(texts) + 1.0,
        text=" ".join(text.strip() for text in texts),
        segments=segments,
        runtime="base",
        elapsed=0.5,
    )


def test_text_has_a_line_for_each_segment() -> None:
    assert render(transcript(" One.", " Two."), "text") == "One.\nTwo.\n"


def test_text_lines_contain_no_control_characters() -> None:
    assert render(transcript(" One\ntwo\x1b[31m.\u2028", " \x07"), "text") == "One two[31m.\n"


def test_text_of_silence_is_empty() -> None:
    assert render(transcript(), "text") == ""
    assert render(transcript(" ", ""), "text") == ""


def test_json_contains_only_the_text() -> None:
    assert json.loads(render(transcript(" One.", " Two."), "json")) == {"text": "One. Two."}


def test_verbose_json_has_the_shape_of_the_openai_api() -> None:
    document = json.loads(render(transcript(" One."), "verbose_json"))
    assert document == verbose(transcript(" One."))
    assert list(document) == ["task", "language", "duration", "text", "segments"]
    assert document["segments"] == [
        {
            "id": 0,
            "seek": 0,
            "start": 0.0,
            "end": 0.5,
            "text": " One.",
            "tokens": [],
            "temperature": 0.0,
            "avg_logprob": 0.0,
            "compression_ratio": 0.0,
            "no_speech_prob": 0.0,
        }
    ]


def test_an_unknown_format_is_refused_with_the_known_ones() -> None:
    with pytest.raises(WhisperdError) as caught:
        render(transcript(), "docx")
    assert caught.value.code == "format.unknown"
    assert all(name in caught.value.fix for name in FORMATS)


@given(st.lists(st.text(st.characters(codec="utf-8"))), st.sampled_from(sorted(FORMATS)))
def test_any_text_yields_valid_output(texts: list[str], format_name: str) -> None:
    content = render(transcript(*texts), format_name)
    assert content.encode().decode() == content
    assert content == "" or content.endswith("\n")
    if "json" in format_name:
        assert json.loads(content)["text"] == transcript(*texts).text
