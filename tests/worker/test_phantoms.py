"""Texts that Whisper invents where there is no speech, including echoes of what was expected."""

from __future__ import annotations

import msgspec
import pytest

from whisperd.worker.phantoms import is_expected, is_phantom, is_phantom_phrase, without_phantoms
from whisperd.worker.protocol import SAMPLE_RATE, EngineSegment, EngineWindow, WindowResult


def segment(text: str, no_speech_prob: float = 0.1, start: float = 0.0, end: float = 5.0) -> EngineSegment:
    return EngineSegment(
        start=start,
        end=end,
        text=text,
        tokens=(1,),
        temperature=0.0,
        avg_logprob=-0.2,
        compression_ratio=0.9,
        no_speech_prob=no_speech_prob,
    )


@pytest.mark.parametrize(
    "text",
    [
        " Thank you.",
        " Thanks for watching!",
        "Subtitles by the Amara.org community",
        " Untertitel im Auftrag des ZDF für funk, 2017",
        "Sous-titres réalisés par la communauté d'Amara.org",
        " Don't forget to like and subscribe!",
        "ご視聴ありがとうございました。",
        "Продолжение следует...",
    ],
)
def test_subtitle_phrases_are_recognised(text: str) -> None:
    assert is_phantom_phrase(text)


@pytest.mark.parametrize("text", ["", " Thank you for the cake.", " The subtitles by him.", " You said so."])
def test_similar_texts_are_not_taken_for_subtitle_phrases(text: str) -> None:
    assert not is_phantom_phrase(text)


def test_a_phrase_in_speech_is_kept() -> None:
    assert not is_phantom(segment(" Thanks for watching!"), [(1.0, 2.4)])
    assert not is_phantom(segment(" Thank you."), [(1.0, 1.5)])


def test_a_phrase_longer_than_the_speech_is_a_phantom() -> None:
    assert is_phantom(segment(" Thanks for watching!"), [(1.0, 1.3)])
    assert is_phantom(segment(" Thank you."), [])


def test_an_unlikely_text_without_speech_is_a_phantom() -> None:
    guess = msgspec.structs.replace(segment(" Whee!"), avg_logprob=-1.6)
    assert is_phantom(guess, [(9.0, 10.0)])
    assert not is_phantom(guess, [(2.0, 2.3)])
    assert not is_phantom(guess, None)
    assert not is_phantom(segment(" Whee!"), [])


def test_without_speech_by_detector_and_model_any_text_is_a_phantom() -> None:
    assert is_phantom(segment(" Woohoo!", no_speech_prob=0.55), [(9.0, 10.0)])
    assert not is_phantom(segment(" Woohoo!", no_speech_prob=0.55), [(2.0, 2.3)])
    assert not is_phantom(segment(" Woohoo!", no_speech_prob=0.55), None)


def test_a_text_without_letters_and_speech_is_a_phantom() -> None:
    assert is_phantom(segment(" ♪♪ ♪♪"), [(9.0, 10.0)])
    assert not is_phantom(segment(" ♪♪ ♪♪"), [(2.0, 2.3)])
    assert not is_phantom(segment(" ♪♪ ♪♪"), None)
    assert not is_phantom(segment(" 42"), [])


def test_the_models_no_speech_probability_suffices() -> None:
    assert is_phantom(segment(" Thank you.", no_speech_prob=0.8), [(0.0, 5.0)])
    assert is_phantom(segment(" Thank you.", no_speech_prob=0.8), None)
    assert not is_phantom(segment(" Thank you."), None)


def test_only_phantoms_are_removed_from_a_window() -> None:
    said = segment(" It rained.", end=2.0), segment(" Thank you.", start=9.0, end=10.0)
    result = WindowResult(language="en", language_probability=1.0, segments=said)
    window = EngineWindow(pcm=b"", spoken=((0.0, 2.0),))
    assert without_phantoms(result, window).segments == said[:1]
    assert without_phantoms(result, EngineWindow(pcm=bytes(20 * SAMPLE_RATE))) is result


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" Kubernetes", "kubernetes"),
        (" Kubernetes, Kubernetes, Kubernetes.", "Kubernetes"),
        (" Grafana.", "Kubernetes, Grafana"),
        (" Grafana, Grafana, Grafana, Kubernetes.", "Kubernetes, Grafana"),
        (" It was a day like any other in that town.", "It was a day like any other in that town."),
        ("上海", "上海"),
    ],
)
def test_expected_text_without_speech_is_a_phantom(text: str, expected: str) -> None:
    unsure = msgspec.structs.replace(segment(text), avg_logprob=-0.75)
    assert is_phantom(unsure, [], f"{expected} a prompt")
    assert is_phantom(unsure, [(1.0, 1.05)], expected), "noise that resembles speech"
    assert not is_phantom(unsure, [(1.0, 4.0)], expected), "the speech lasts long enough for the text"
    assert not is_phantom(segment(text), [], expected), "a likely text: the detector missed the speech"
    assert not is_phantom(unsure, None, expected)
    assert not is_phantom(unsure, [])


@pytest.mark.parametrize(
    ("text", "expected"),
    [(" Kubernetes is up.", "Kubernetes"), (" Net", "Kubernetes"), (" Fish.", "."), ("", "Kubernetes")],
)
def test_more_than_the_expected_text_is_no_echo(text: str, expected: str) -> None:
    assert not is_expected(text, expected)


def remaining_text(text: str, seconds: float, avg_logprob: float) -> str:
    """Return what remains of a live text, whose speech times are unknown."""
    said = msgspec.structs.replace(segment(text, end=seconds), avg_logprob=avg_logprob)
    result = WindowResult(language="en", language_probability=1.0, segments=(said,))
    kept = without_phantoms(result, EngineWindow(pcm=bytes(2 * round(seconds * SAMPLE_RATE)))).segments
    return "".join(one.text for one in kept)


@pytest.mark.parametrize(
    ("text", "seconds", "avg_logprob"),
    [(" Thank you.", 0.3, -0.85), (" Thank you.", 0.6, -0.9), (" She'll be right back.", 0.36, -0.3)],
)
def test_a_sentence_in_the_time_of_a_syllable_is_removed(
    text: str, seconds: float, avg_logprob: float
) -> None:
    assert remaining_text(text, seconds, avg_logprob) == ""


@pytest.mark.parametrize(
    ("text", "seconds", "avg_logprob"),
    [(" Thank you.", 0.6, -0.3), (" Thank you.", 0.9, -0.9), (" No.", 0.4, -1.2), (" Stop!", 0.45, -0.9)],
)
def test_a_short_word_is_kept(text: str, seconds: float, avg_logprob: float) -> None:
    assert remaining_text(text, seconds, avg_logprob) == text
