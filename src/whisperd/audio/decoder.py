"""The decoder process: media in, windows of speech out.

    python -m whisperd.audio.decoder BUNDLE [MEMORY_LIMIT_BYTES]

It answers `ping` (at once, so it is alive), `warm_up` (run the model once, so that it is ready) and
`decode` (`DecodeParams`; sends notifications that are `DecoderEvent`s, answers with `Decoded`). It
holds no secrets and no state, so that hostile media that gets the better of it has gained nothing.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from whisperd.audio.messages import (
    EVENT_METHOD,
    SAMPLE_RATE,
    Decoded,
    DecodeParams,
    DecodeProgress,
    DecoderEvent,
    WindowAudio,
)
from whisperd.audio.speech import EverythingSpoken, Span, SpeechDetector
from whisperd.audio.windows import PlanOptions, Window, WindowPlanner
from whisperd.rpc.errors import WhisperdError
from whisperd.rpc.messages import decode_params
from whisperd.rpc.stdio import Stdio

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from whisperd.audio.vad import SileroModel, VoiceActivity

PROGRESS_INTERVAL_S = 0.5


def main() -> None:
    """Take the streams, limit the memory, import what is heavy, serve."""
    stdio = Stdio.take()
    bundle = Path(sys.argv[1])
    if len(sys.argv) > 2:
        _limit_memory(int(sys.argv[2]))
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy only moves samples about here
    sys.path.insert(0, str(bundle))
    from whisperd.audio import media  # noqa: F401 - imported so that the process stands ready
    from whisperd.audio.vad import SileroModel

    decoder = Decoder(SileroModel(bundle), lambda event: stdio.notify(EVENT_METHOD, event))
    stdio.serve({"ping": decoder.ping, "warm_up": decoder.warm_up, "decode": decoder.decode})


class Decoder:
    """Answers the requests of the daemon, one at a time."""

    def __init__(self, model: SileroModel, send: Callable[[DecoderEvent], None]) -> None:
        self._model = model
        self._send = send

    def ping(self, _params: msgspec.Raw) -> None:
        """Answer."""

    def warm_up(self, _params: msgspec.Raw) -> None:
        """Run the model once: the first run is slower than the others."""
        import numpy as np

        from whisperd.audio.vad import VoiceActivity

        activity = VoiceActivity(self._model)
        list(activity.feed(np.zeros(SAMPLE_RATE, np.int16)))
        list(activity.finish())

    def decode(self, params: msgspec.Raw) -> Decoded:
        """Decode one file."""
        from whisperd.audio.media import open_media
        from whisperd.audio.vad import VoiceActivity

        request = decode_params(params, DecodeParams)
        try:
            with open_media(request.file) as media:
                self._send(media.opened)
                cutter = Cutter(VoiceActivity(self._model), request, self._send)
                reported_s = time.monotonic()
                for block in media.blocks():
                    cutter.feed(block)
                    if time.monotonic() - reported_s >= PROGRESS_INTERVAL_S:
                        self._send(DecodeProgress(position=cutter.position / SAMPLE_RATE))
                        reported_s = time.monotonic()
                return cutter.finish(media.skipped)
        except MemoryError as error:
            raise WhisperdError(
                "decoder.out_of_memory",
                f"Decoding {request.path} takes more memory than a decoder may have.",
                "Convert the file to WAV, FLAC or MP3 first.",
                {"path": request.path},
            ) from error


class Cutter:
    """Follows one recording: samples in, window events out. Holds only what windows may still need."""

    def __init__(
        self, activity: VoiceActivity, params: DecodeParams, send: Callable[[DecoderEvent], None]
    ) -> None:
        self._activity = activity
        self._params = params
        self._send = send
        self._detector = SpeechDetector()
        self._everything = None if params.vad else EverythingSpoken()
        self._planner = WindowPlanner(PlanOptions(max_window_s=params.max_window_s))
        self._pcm = bytearray()
        self._pcm_start = 0  # the sample at which `_pcm` begins
        self.position = 0
        """Samples taken so far."""
        self._speech = 0
        self._windows = 0

    def feed(self, samples: Any) -> None:
        """Take a block of samples. Raises `WhisperdError` (`audio.too_long`)."""
        self._pcm += samples.astype("<i2", copy=False).tobytes()
        self.position += len(samples)
        if self.position > self._params.max_duration_s * SAMPLE_RATE:
            raise WhisperdError(
                "audio.too_long",
                f"{self._params.path} is longer than {self._params.max_duration_s / 3600:.4g} hours.",
                "Cut it into parts, or raise the limit in the settings.",
                {"path": self._params.path, "max_duration_s": self._params.max_duration_s},
            )
        for probability, level in self._activity.feed(samples):
            self._take(self._detector.feed(probability, level))
        settled = self._detector.settled
        if self._everything is not None:
            self._plan(self._everything.advance(settled))
            settled = self._everything.settled
        self._emit(self._planner.advance(settled))
        self._forget()

    def finish(self, skipped: int) -> Decoded:
        """Send the windows that are left."""
        for probability, level in self._activity.finish():
            self._take(self._detector.feed(probability, level))
        self._take(self._detector.finish(self.position))
        if self._everything is not None:
            self._plan(self._everything.finish(self.position))
        self._emit(self._planner.finish(self.position))
        return Decoded(
            duration=self.position / SAMPLE_RATE,
            speech=self._speech / SAMPLE_RATE,
            windows=self._windows,
            skipped=skipped,
        )

    def _take(self, spans: Iterable[Span]) -> None:
        for span in spans:
            self._speech += span.end - span.start
            self._plan([span] if self._everything is None else self._everything.add(span))

    def _plan(self, spans: Iterable[Span]) -> None:
        for span in spans:
            self._emit(self._planner.add(span))

    def _emit(self, windows: Iterable[Window]) -> None:
        for window in windows:
            first = 2 * (window.start - self._pcm_start)
            pcm = bytes(self._pcm[first : first + 2 * (window.end - window.start)])
            start_s, end_s = window.start / SAMPLE_RATE, window.end / SAMPLE_RATE
            self._send(WindowAudio(index=self._windows, start=start_s, end=end_s, pcm=pcm))
            self._windows += 1

    def _forget(self) -> None:
        spare = self._planner.keep_from - self._pcm_start
        if spare > SAMPLE_RATE:
            del self._pcm[: 2 * spare]
            self._pcm_start += spare


def _limit_memory(limit_bytes: int) -> None:
    """Ask the kernel to refuse more memory than this; where there is no such limit, nothing happens."""
    try:
        import resource
    except ImportError:  # Windows
        return
    try:
        resource.setrlimit(resource.RLIMIT_DATA, (limit_bytes, limit_bytes))
    except (OSError, ValueError):  # a lower limit is set already
        return


if __name__ == "__main__":
    main()
