"""An engine's answer is validated before it is used."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from whisperd.rpc.errors import WhisperdError
from whisperd.worker.answers import checked
from whisperd.worker.protocol import SAMPLE_RATE, DecodeOptions, EngineSegment, EngineWindow, WindowResult

SEGMENT = EngineSegment(
    start=0.0,
    end=1.0,
    text=" Hello.",
    tokens=(1,),
    temperature=0.0,
    avg_logprob=-0.1,
    compression_ratio=1.0,
    no_speech_prob=0.0,
)
RESULT = WindowResult(language="en", language_probability=1.0, segments=(SEGMENT,))
WINDOW = EngineWindow(pcm=bytes(2 * SAMPLE_RATE))


def test_valid_results_are_passed_on() -> None:
    answer = checked(lambda windows, _options: [RESULT] * len(windows))
    assert answer([WINDOW] * 2, DecodeOptions()) == [RESULT] * 2


@pytest.mark.parametrize(
    "answer",
    [
        None,
        [],
        [RESULT] * 2,
        [{"what": "is this?"}],
        [object()],
        [msgspec.Raw(b"\xa2\xff\xfe")],
        [msgspec.structs.replace(RESULT, segments=({"text": "Hello."},))],
        [msgspec.structs.replace(RESULT, segments=None)],
        [msgspec.structs.replace(RESULT, segments=(msgspec.structs.replace(SEGMENT, start="soon"),))],
    ],
    ids=[
        "nothing",
        "too few",
        "too many",
        "a map",
        "an object",
        "not UTF-8",
        "a map inside",
        "no segments",
        "a wrong field",
    ],
)
def test_an_invalid_answer_is_refused(answer: Any) -> None:
    with pytest.raises(WhisperdError) as raised:
        checked(lambda _windows, _options: answer)([WINDOW], DecodeOptions())
    assert raised.value.code == "worker.bad_answer"
