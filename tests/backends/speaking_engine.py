"""An engine whose text for every window is determined by its bundle, in the module `engine.core`.

`SAYS` there is `well` (the true text of whisperd's own recordings), `nonsense`, or `abort`, which ends the
process. `TOY_ENGINE=speaking_engine:load` uses it in place of the toy engine.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from engine import VERSION, core

from whisperd.speech import samples
from whisperd.worker.protocol import (
    DecodeOptions,
    EngineInfo,
    EngineSegment,
    EngineWindow,
    LoadParams,
    WindowResult,
)


class SpeakingEngine:
    def __init__(self) -> None:
        self._says = core.SAYS
        self.info = EngineInfo(
            multilingual=True, languages=("en",), compute_type="int8", library=f"engine {VERSION}"
        )

    def transcribe(self, windows: Sequence[EngineWindow], options: DecodeOptions) -> list[WindowResult]:
        if self._says == "abort":
            os.abort()
        return [_result(self._text(window), window.duration_s) for window in windows]

    def _text(self, window: EngineWindow) -> str:
        known = {sample.pcm: sample.text for sample in samples()}
        return known.get(window.pcm, self.info.library) if self._says == "well" else "blah blah"


def load(params: LoadParams) -> SpeakingEngine:
    return SpeakingEngine()


def _result(text: str, duration_s: float) -> WindowResult:
    segment = EngineSegment(
        start=0.0,
        end=duration_s,
        text=text,
        tokens=(),
        temperature=0.0,
        avg_logprob=0.0,
        compression_ratio=1.0,
        no_speech_prob=0.0,
    )
    return WindowResult(language="en", language_probability=1.0, segments=(segment,))
