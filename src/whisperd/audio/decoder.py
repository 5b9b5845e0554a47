"""The decoder process: media in, windows of speech out.

    python -m whisperd.audio.decoder BUNDLE [MEMORY_LIMIT_BYTES]

It answers `ping` (at once, to show that it is alive), `warm_up` (runs the model once, so that it is ready)
and `decode` (`DecodeParams`; sends `DecoderEvent`s as notifications, and answers with `Decoded`). Live speech
uses `live.begin`, `live.feed` (`FeedParams`, answered with `Heard`) and `live.end`. The process has no state
beyond one decode or live session. It does have the rights of the user.
"""

from __future__ import annotations

import heapq
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from whisperd.audio.finder import SpeechFinder
from whisperd.audio.known_speech import KnownSpeech
from whisperd.audio.listener import Listener
from whisperd.audio.marks import Marker, last_mark
from whisperd.audio.messages import (
    EVENT_METHOD,
    SAMPLE_RATE,
    Decoded,
    DecodeParams,
    DecodeProgress,
    DecoderEvent,
    FeedParams,
    Heard,
    SpeechSample,
    WindowAudio,
)
from whisperd.audio.sampling import best_stretch, places
from whisperd.audio.speech import EverythingSpoken, Span
from whisperd.audio.windows import Window, WindowPlanner
from whisperd.isolation import enter_bundle
from whisperd.rpc.errors import WhisperdError
from whisperd.rpc.messages import decode_params
from whisperd.rpc.stdio import Stdio

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from whisperd.audio.clips import Clip
    from whisperd.audio.media import Media
    from whisperd.audio.vad import SileroModel
    from whisperd.worker.protocol import SpokenTime

PROGRESS_INTERVAL_S = 0.5


def main() -> None:
    """Take over the streams, limit the memory, import heavy modules, serve."""
    stdio = Stdio.take()
    bundle = Path(sys.argv[1])
    if len(sys.argv) > 2:
        _limit_memory(int(sys.argv[2]))
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy only copies samples here
    enter_bundle(bundle)
    from whisperd.audio import media  # noqa: F401 - imported so that the process is ready
    from whisperd.audio.vad import SileroModel

    service = _Service(SileroModel(bundle), lambda event: stdio.notify(EVENT_METHOD, event))
    stdio.serve(
        {
            "ping": service.ping,
            "warm_up": service.warm_up,
            "decode": service.decode,
            "live.begin": service.begin_live,
            "live.feed": service.feed_live,
            "live.end": service.end_live,
        }
    )


class _Service:
    """Answers the requests of the daemon, one at a time."""

    def __init__(self, model: SileroModel, send: Callable[[DecoderEvent], None]) -> None:
        self._model = model
        self._send = send
        self._listener: Listener | None = None

    def ping(self, _params: msgspec.Raw) -> None:
        """Answer."""

    def warm_up(self, _params: msgspec.Raw) -> None:
        """Run the model once, because the first run is slower than later ones."""
        import numpy as np

        from whisperd.audio.vad import VoiceActivity

        activity = VoiceActivity(self._model)
        list(activity.feed(np.zeros(SAMPLE_RATE, np.int16)))
        list(activity.finish())

    def decode(self, params: msgspec.Raw) -> Decoded:
        """Decode one file."""
        request = decode_params(params, DecodeParams)
        try:
            with _open(request) as media:
                self._send(media.opened)
                self._send_samples(media.opened.duration, request)
                return self._cut(media, request)
        except MemoryError as error:
            raise WhisperdError(
                "decoder.out_of_memory",
                f"Decoding {request.path} takes more memory than a decoder may use.",
                "Convert the file to WAV, FLAC or MP3 first.",
                {"path": request.path},
            ) from error

    def begin_live(self, _params: msgspec.Raw) -> None:
        """Begin a live session."""
        from whisperd.audio.vad import VoiceActivity

        # One frame per call, so that the end of an utterance is noticed as soon as possible.
        self._listener = Listener(VoiceActivity(self._model, frames_per_call=1))

    def feed_live(self, params: msgspec.Raw) -> Heard:
        """Process the audio since the last call."""
        import numpy as np

        request = decode_params(params, FeedParams)
        assert self._listener is not None
        return self._listener.feed(np.frombuffer(request.pcm, "<i2"), partials=request.partials)

    def end_live(self, _params: msgspec.Raw) -> Heard:
        """End the live session."""
        assert self._listener is not None
        listener, self._listener = self._listener, None
        return listener.finish()

    def _send_samples(self, duration_s: float | None, request: DecodeParams) -> None:
        """Send samples of speech from places spread over the file, as far as seeking reaches them."""
        import numpy as np

        from whisperd.audio.media import open_media
        from whisperd.audio.vad import VoiceActivity

        if not request.samples:
            return
        for place in places(duration_s, request.clips, request.samples, request.samples_from_s):
            try:
                with open_media(request.file, track=request.track) as media:
                    blocks = [block[0] for block in media.clip_blocks(place, only_by_seeking=True)]
            except WhisperdError:  # decoding the whole file will report any problem
                continue
            samples = np.concatenate(blocks)
            finder = SpeechFinder(VoiceActivity(self._model), part=0, channel=0, known=None)
            if stretch := best_stretch([*finder.feed(samples), *finder.finish()], len(samples)):
                pcm = samples[slice(*stretch)].astype("<i2", copy=False).tobytes()
                self._send(SpeechSample(pcm=pcm))

    def _cut(self, media: Media, request: DecodeParams) -> Decoded:
        from whisperd.audio.vad import VoiceActivity

        cutters: list[Cutter] = []
        done_until = round(request.done_until * SAMPLE_RATE)
        outbox = Outbox(self._send, is_split=request.channels == "split", done_until=done_until)
        marker = Marker()
        position, taken, speech = 0, 0, 0
        reported_s = time.monotonic()
        known = {(one.part, one.channel): KnownSpeech(one) for one in request.found}
        for part, clip in enumerate(request.clips or (None,)):
            position = first = round(clip.start * SAMPLE_RATE) if clip else 0
            finders = [
                SpeechFinder(VoiceActivity(self._model), part, channel, known.get((part, channel)))
                for channel in range(media.channels)
            ]
            cutters = [Cutter(finder, request, first) for finder in finders]
            for block in media.clip_blocks(clip) if clip else _blocks(media, request, marker):
                taken += block.shape[1]
                if taken > request.max_duration_s * SAMPLE_RATE:
                    raise _too_long(request)
                for channel, cutter in enumerate(cutters):
                    outbox.put(channel, cutter.feed(block[channel]))
                    if (found := finders[channel].found()) is not None:
                        self._send(msgspec.structs.replace(found, marks=marker.take()))
                outbox.send_before(min(cutter.frontier for cutter in cutters))
                position = cutters[0].position
                if time.monotonic() - reported_s >= PROGRESS_INTERVAL_S:
                    self._send(DecodeProgress())
                    reported_s = time.monotonic()
            for channel, cutter in enumerate(cutters):
                outbox.put(channel, cutter.finish())
            outbox.send_before(position)
            speech += sum(cutter.speech for cutter in cutters)
        return Decoded(
            duration=_length_s(media.opened.duration, request.clips, position),
            speech=speech / SAMPLE_RATE,
            windows=outbox.sent,
            skipped=media.skipped,
        )


class Cut(NamedTuple):
    """A window with its samples: one channel, on the file's timeline. See `Window`."""

    start: int
    end: int
    pcm: bytes
    spoken: tuple[SpokenTime, ...]
    shared: int


class Cutter:
    """Cuts one channel of a recording into windows, from a sample on. Holds only the audio still needed."""

    def __init__(self, finder: SpeechFinder, params: DecodeParams, first: int) -> None:
        self._finder = finder
        self._first = first
        self._everything = None if params.vad else EverythingSpoken()
        self._planner = WindowPlanner(params.max_window_s)
        self._pcm = bytearray()
        self._spoken: list[Span] = []  # those that future windows may contain
        self._pcm_start = 0  # where `_pcm` begins, counted from `first` like all positions here
        self._taken = 0
        self.speech = 0
        """Number of samples with speech."""

    @property
    def position(self) -> int:
        """The next sample of the file."""
        return self._first + self._taken

    @property
    def frontier(self) -> int:
        """Lower bound, in samples of the file, for the beginning of future windows."""
        return self._first + self._planner.keep_from

    def feed(self, samples: Any) -> list[Cut]:
        """Take a block of samples; returns the windows that are certain now."""
        self._pcm += samples.astype("<i2", copy=False).tobytes()
        self._taken += len(samples)
        found = self._take(self._finder.feed(samples))
        settled = self._finder.settled
        if self._everything is not None:
            found += self._plan(self._everything.advance(settled))
            settled = self._everything.settled
        found += self._cut(self._planner.advance(settled))
        self._forget()
        return found

    def finish(self) -> list[Cut]:
        """Return the remaining windows."""
        found = self._take(self._finder.finish())
        if self._everything is not None:
            found += self._plan(self._everything.finish(self._taken))
        return found + self._cut(self._planner.finish(self._taken))

    def _take(self, spans: Iterable[Span]) -> list[Cut]:
        found: list[Cut] = []
        for span in spans:
            self.speech += span.end - span.start
            self._spoken.append(span)
            found += self._plan([span] if self._everything is None else self._everything.add(span))
        return found

    def _plan(self, spans: Iterable[Span]) -> list[Cut]:
        return [cut for span in spans for cut in self._cut(self._planner.add(span))]

    def _cut(self, windows: Iterable[Window]) -> list[Cut]:
        found: list[Cut] = []
        for window in windows:
            first = 2 * (window.start - self._pcm_start)
            pcm = bytes(self._pcm[first : first + 2 * (window.end - window.start)])
            spoken = tuple(_spoken_times(self._spoken, window))
            start, end = self._first + window.start, self._first + window.end
            found.append(Cut(start, end, pcm, spoken, window.shared))
        return found

    def _forget(self) -> None:
        spare = self._planner.keep_from - self._pcm_start
        if spare > SAMPLE_RATE:
            del self._pcm[: 2 * spare]
            self._pcm_start += spare
            self._spoken = [span for span in self._spoken if span.end > self._pcm_start]


class Outbox:
    """Sends the windows of all channels in the order of their beginnings."""

    def __init__(self, send: Callable[[DecoderEvent], None], *, is_split: bool, done_until: int) -> None:
        """Windows that begin before the sample `done_until` are sent without audio."""
        self._send = send
        self._is_split = is_split
        self._done_until = done_until
        self._held: list[tuple[int, int, Cut]] = []
        self.sent = 0
        """Number of windows sent."""

    def put(self, channel: int, cuts: Iterable[Cut]) -> None:
        """Add the next windows of a channel."""
        for cut in cuts:
            heapq.heappush(self._held, (cut.start, channel, cut))

    def send_before(self, frontier: int) -> None:
        """Send the windows that begin before this sample, which all channels have reached."""
        while self._held and self._held[0][0] < frontier:
            _, channel, cut = heapq.heappop(self._held)
            window = WindowAudio(
                index=self.sent,
                start=cut.start / SAMPLE_RATE,
                end=cut.end / SAMPLE_RATE,
                pcm=cut.pcm if cut.start >= self._done_until else b"",
                spoken=cut.spoken,
                shared=cut.shared / SAMPLE_RATE,
                channel=channel if self._is_split else None,
            )
            self._send(window)
            self.sent += 1


def _open(request: DecodeParams) -> AbstractContextManager[Media]:
    from whisperd.audio.media import open_media

    return open_media(request.file, split=request.channels == "split", track=request.track)


def _blocks(media: Media, request: DecodeParams, marker: Marker) -> Iterator[Any]:
    """Yield the blocks of a file, with silence in place of what is done and need not be decoded again."""
    from whisperd.audio.frames import silence

    mark = None
    if len(request.found) == media.channels:  # else speech detection must start at the beginning
        mark = last_mark(request.found, round(request.done_until * SAMPLE_RATE))
    if mark is not None:
        with _open(request) as again:
            if (rest := again.blocks_from(mark, marker)) is not None:
                yield from silence(media.channels, mark.position)
                yield from rest
                media.skipped += again.skipped
                return
    yield from media.blocks(marker)


def _length_s(stated_s: float | None, clips: Sequence[Clip], position: int) -> float:
    """Return the length of a recording decoded up to a sample: the stated one, which may be an estimate, only
    if its end was not reached."""
    end_s = clips[-1].end if clips else None
    if end_s is None or position < round(end_s * SAMPLE_RATE):
        return position / SAMPLE_RATE
    return max(stated_s or 0.0, position / SAMPLE_RATE)


def _spoken_times(spans: Iterable[Span], window: Window) -> Iterator[SpokenTime]:
    for span in spans:
        start, end = max(span.start, window.start), min(span.end, window.end)
        if start < end:
            yield (
                round((start - window.start) / SAMPLE_RATE, 3),
                round((end - window.start) / SAMPLE_RATE, 3),
            )


def _too_long(request: DecodeParams) -> WhisperdError:
    return WhisperdError(
        "audio.too_long",
        f"{request.path} is longer than {request.max_duration_s / 3600:.4g} hours.",
        "Split it, or raise decoder.max_duration_s in the settings.",
        {"path": request.path, "max_duration_s": request.max_duration_s},
    )


def _limit_memory(limit_bytes: int) -> None:
    """Ask the kernel to refuse memory beyond this limit; do nothing where such limits do not exist."""
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
