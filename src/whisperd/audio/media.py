"""Reads media with PyAV. Runs in the decoder process only.

A file's type is determined by its content, never by its name, and no other file is ever opened: PyAV is given
an open file, only formats that contain audio themselves are allowed (a playlist does not), and every further
open is refused.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import FileIO
from itertools import chain
from typing import Any, NoReturn

import av
from av.stream import Discard

from whisperd.audio.clips import Clip, beyond_end
from whisperd.audio.files import not_readable, open_regular_file
from whisperd.audio.frames import Packer, Polarity, Resampler, remove_impossible_values, without_first
from whisperd.audio.kinds import (
    BEGINNING_BYTES,
    ENDING_BYTES,
    is_mp4,
    is_outdated_wav,
    is_single_ogg,
    is_wav,
    kind_of,
)
from whisperd.audio.marks import REPEATING_CONTAINERS, Mark, Marker, Proof, can_be_marked
from whisperd.audio.messages import SAMPLE_RATE, Opened
from whisperd.audio.timeline import Timeline
from whisperd.rpc.errors import WhisperdError

__all__ = ["Media", "open_media"]

# Containers that hold audio themselves, by ffmpeg's names. Formats that only refer to other files (playlists,
# manifests, image sequences, scripts) are left out, and with them everything that could reach a network.
CONTAINERS = """
    aa aac aax ac3 ac4 act adx aea aiff amr amrnb amrwb ape asf asf_o au avi bonk caf dhav dsf dss dts dtshd
    dv eac3 flac flv gsm gxf ircam kux live_flv loas matroska,webm mlp mov,mp4,m4a,3gp,3g2,mj2 mp3 mpc mpc8
    mpeg mpegts mxf nistsphere nsv nut ogg oma osq pva qcp qoa rm rpl shn sox tak truehd tta voc vqf w64 wav
    wsd wtv wv xwma
"""
OPEN_OPTIONS = {
    "format_whitelist": ",".join(CONTAINERS.split()),
    "protocol_whitelist": "none",
}
WAV_OPTIONS = {
    "max_size": "8192",  # bytes per packet; the default makes many tiny ones, each of which costs time
    # Packets searched for another codec, which some WAV files hide; by default all of a short file.
    "max_probe_packets": "4",
}
# Tags need not be valid text; before PyAV 19 that was an error unless configured otherwise.
TAG_OPTIONS = {"metadata_errors": "replace"} if int(av.__version__.partition(".")[0]) < 19 else {}
# No codec needs less; a file smaller than its duration implies misstates it.
MIN_BYTES_PER_SECOND = 25
# This many consecutive errors without a packet in between: the damage has no end.
MAX_READ_ERRORS = 100
# How long before a part decoding begins, so that the codec has warmed up when the part begins. If a seek went
# past the part, the next value is tried.
SEEK_EARLY_S = (1.0, 15.0)
# Longest distance from where a seek ends to the wanted place. Beyond it the file is read from its beginning,
# because then progress is reported meanwhile.
MAX_WAY_S = 30.0
# Each channel transcribed separately has its own speech detector.
MAX_CHANNELS = 16
# A file may have a thousand tracks, with tags of any length.
MAX_TRACKS_LISTED = 20
MAX_TAG = 60


@contextmanager
def open_media(path: str, *, split: bool = False, track: int | None = None) -> Iterator[Media]:
    """Open a file and find its audio. `split` keeps its channels separate; otherwise they are mixed.

    `track` selects one of several, counted from 1; None selects the best. Raises `WhisperdError`:
    `track.unknown`, `audio.unsupported`, `audio.no_audio_stream`, `audio.too_many_channels`, and the errors
    of `open_regular_file`.
    """
    with open_regular_file(path) as file:
        beginning, ending = _beginning_and_ending(file)
        options = {**OPEN_OPTIONS, **(WAV_OPTIONS if is_wav(beginning) else {})}
        if is_outdated_wav(beginning, os.fstat(file.fileno()).st_size):
            options["ignore_length"] = "1"
        try:
            container = av.open(file, io_open=_refuse_to_open, container_options=options, **TAG_OPTIONS)
        except (av.FFmpegError, OSError, ValueError) as error:
            if isinstance(error, OSError) and not isinstance(error, (av.FFmpegError, _Refused)):
                raise not_readable(path, error) from error
            raise _unsupported(path, beginning) from error
        with container:
            is_single = is_single_ogg(beginning, ending)
            may_repeat_times = container.format.name in REPEATING_CONTAINERS and not is_single
            yield Media(path, container, split=split, track=track, may_repeat_times=may_repeat_times)


def _beginning_and_ending(file: FileIO) -> tuple[bytes, bytes]:
    try:
        file.seek(0)
        beginning = file.read(BEGINNING_BYTES)
        file.seek(max(0, os.fstat(file.fileno()).st_size - ENDING_BYTES))
        ending = file.read(ENDING_BYTES)
        file.seek(0)
    except (OSError, ValueError):
        return b"", b""
    return beginning, ending


def _unsupported(path: str, beginning: bytes) -> WhisperdError:
    if kind := kind_of(beginning):
        message, fix = f"{path} is {kind}, not audio or video.", "Choose an audio or video file."
    elif is_mp4(beginning):
        message = (
            f"{path} is an MP4 file whose index is missing or damaged. The index is written last: the"
            " recording or the download may have been cut off."
        )
        fix = "Download it again, or repair it with a tool for truncated MP4 files."
    else:
        message = f"{path} is not readable audio or video, or it is damaged."
        fix = "Check that a media player can play it; if so, convert it to WAV, FLAC or MP3."
    return WhisperdError("audio.unsupported", message, fix, {"path": path})


class Media:
    """An open file: its properties, and its audio as blocks of samples."""

    def __init__(
        self, path: str, container: Any, *, split: bool, track: int | None, may_repeat_times: bool
    ) -> None:
        self._path = path
        self._container = container
        self._stream = stream = _chosen_stream(path, container, track)
        for other in container.streams:
            if other is not stream:
                other.discard = Discard.all  # video frames are not even read
        codec = stream.codec_context
        self.opened = Opened(duration=_duration_s(container, stream))
        self._may_repeat_times = may_repeat_times
        # Since a seek may lead elsewhere then, all parts are decoded in one pass: where it is, what is left
        # of its last block, and the following ones.
        self._pass: tuple[int, tuple[Any, ...], Iterator[Any]] | None = None
        self._can_be_marked = can_be_marked(container.format.name, codec.name)
        self._layout: str = codec.layout.name if split else "mono"
        self.channels: int = codec.layout.nb_channels if split else 1
        """Number of channels of the blocks."""
        if self.channels > MAX_CHANNELS:
            raise _too_many_channels(path, self.channels)
        start_time = container.start_time
        # Audio before time zero only serves to warm up the codec.
        self._origin_s = max(0.0, start_time / av.time_base) if start_time is not None else 0.0
        self._packer = Packer()
        self.skipped = 0
        """Packets that could not be read or decoded so far."""

    def blocks(self, marker: Marker | None = None) -> Iterator[Any]:
        """Yield 16-bit samples at 16 kHz as numpy arrays `(channels, samples)`, without gaps in time.

        `marker` is offered places from which `blocks_from` may begin. Raises `WhisperdError` (`audio.empty`,
        `audio.corrupt`, `audio.not_readable`).
        """
        if marker is not None:
            marker.forget()
        is_empty = True
        for block in self._resample(self._frames(), self._timeline(), marker=marker):
            is_empty = False
            yield block
        if is_empty:
            raise self._nothing_decoded()

    def blocks_from(self, mark: Mark, marker: Marker) -> Iterator[Any] | None:
        """Return the same blocks from a mark on; None if that is impossible or the sound behind it differs.

        After None, this object is no longer usable: open the file again. Raises `audio.not_readable`.
        """
        timeline, proof = self._timeline(), Proof(mark.position)
        timeline.restore((mark.shift_s, mark.silence_s))
        blocks = self._resample(self._frames_from(mark), timeline, mark.position, marker)
        heard: list[Any] = []
        position, digest = mark.position, None
        try:
            while digest is None:
                heard.append(next(blocks))
                digest = proof.feed(heard[-1], position)
                position += heard[-1].shape[1]
        # not seekable, or unexpected content there
        except (av.FFmpegError, OSError, ValueError, StopIteration):
            return None
        return chain(heard, blocks) if digest and digest == mark.digest else None

    def clip_blocks(self, clip: Clip, *, only_by_seeking: bool = False) -> Iterator[Any]:
        """Yield the same blocks for one part, up to its end or that of the file.

        Decodes only that part if the file is seekable and cannot repeat its times; otherwise also what lies
        before it, for which blocks are empty, and the next part must come later. `only_by_seeking` refuses to
        decode everything before it. Also raises `clips.beyond_end` and `audio.not_seekable`.
        """
        start = round(clip.start * SAMPLE_RATE)
        end = None if clip.end is None else round(clip.end * SAMPLE_RATE)
        is_one_pass, is_first = self._may_repeat_times and not only_by_seeking, self._pass is None
        left: tuple[Any, ...] = ()
        if not is_one_pass:
            frames, first_s = self._seek(clip.start)
            if only_by_seeking and clip.start - first_s > max(SEEK_EARLY_S):
                raise self._not_seekable()
            position, blocks = round(first_s * SAMPLE_RATE), self._resample(frames, self._timeline(first_s))
        elif self._pass is None:
            position, blocks = 0, self._resample(self._frames(), self._timeline())
        else:
            position, left, blocks = self._pass
        began, is_empty = position, True
        for block in chain(left, blocks):
            piece = block[:, max(start - position, 0) : None if end is None else max(end - position, 0)]
            position += block.shape[1]
            is_empty &= not piece.shape[1]
            yield piece  # even an empty one, which shows the caller that decoding continues
            if end is not None and position >= end:
                left, position = (block[:, block.shape[1] - (position - end) :],), end
                break
        else:
            left = ()
        if is_one_pass:
            self._pass = position, left, blocks
        if position == began and is_first:
            raise self._nothing_decoded()
        if is_empty:
            raise beyond_end(clip, self.opened.duration, self._path)

    def _timeline(self, first_s: float = 0.0) -> Timeline:
        """Return the timeline of audio that begins this far behind the beginning of the file."""
        return Timeline(self._origin_s + first_s, (self.opened.duration or 0.0) - first_s)

    def _seek(self, start_s: float) -> tuple[Iterator[Any], float]:
        """Seek to a place before a time; returns frames from there, and the first one's time in the file."""
        for early_s in SEEK_EARLY_S:
            if start_s <= early_s:
                break
            try:
                self._container.seek(int((self._origin_s + start_s - early_s) * av.time_base))
            except (av.FFmpegError, OSError):
                break
            frames = self._frames()
            first = next(frames, None)
            if first is not None and first.time is not None:
                first_s = first.time - self._origin_s
                if 0 <= first_s <= start_s:
                    return chain([first], frames), first_s
        try:
            self._container.seek(int(self._origin_s * av.time_base))
        except (av.FFmpegError, OSError) as error:
            raise self._not_seekable() from error
        return self._frames(), 0.0

    def _frames_from(self, mark: Mark) -> Iterator[Any]:
        """Yield frames from a mark on; none if its frame is not found, or not soon."""
        self._container.seek(mark.timestamp, stream=self._stream)
        frames = self._frames()
        if (first := self._frame_at(mark.timestamp, frames)) is None:
            return
        left_out = mark.left_out
        for frame in chain([first], frames):
            if left_out < frame.samples:
                yield without_first(frame, left_out) if left_out else frame
            left_out = max(0, left_out - frame.samples)

    def _frame_at(self, timestamp: int, frames: Iterator[Any]) -> Any | None:
        """Return the frame that begins at this time, if it comes soon; earlier ones are skipped."""
        for frame in frames:
            if frame.pts is None:
                continue
            if frame.pts >= timestamp:
                return frame if frame.pts == timestamp else None
            if (timestamp - frame.pts) * self._stream.time_base > MAX_WAY_S:
                return None
        return None

    def _resample(
        self, frames: Iterator[Any], timeline: Timeline, position: int = 0, marker: Marker | None = None
    ) -> Iterator[Any]:
        """Yield the blocks of frames, the first of which begins at this sample."""
        for block in self._resample_frames(frames, timeline, Resampler(self._layout, position), marker):
            if marker is not None:
                marker.feed(block, position)
            position += block.shape[1]
            yield block

    def _resample_frames(
        self, frames: Iterator[Any], timeline: Timeline, resampler: Resampler, marker: Marker | None
    ) -> Iterator[Any]:
        polarity = Polarity() if self._layout == "mono" else None
        for frame in frames:
            yield from resampler.insert_silence(timeline.silence_before(frame.time, resampler.position))
            # Behind damage, the frames after a seek may differ.
            can_mark = self._can_be_marked and self.skipped == 0
            if marker is not None and can_mark and marker.wants(resampler.position):
                self._mark(frame, timeline, resampler, marker)
            remove_impossible_values(frame)
            if polarity is not None:
                polarity.fix(frame)
            try:
                yield from resampler.resample(frame)
            except av.FFmpegError:  # a sudden change to channels that cannot be converted
                self.skipped += 1
        yield from resampler.flush()

    def _mark(self, frame: Any, timeline: Timeline, resampler: Resampler, marker: Marker) -> None:
        """Mark the next place at which another resampler can begin."""
        place = resampler.next_start(frame)
        if place is not None and frame.pts is not None:
            marker.begin(Mark(frame.pts, *place, *timeline.memory))

    def _frames(self) -> Iterator[Any]:
        for packet in self._packets():
            try:
                yield from map(self._packer.pack, packet.decode())
            except av.FFmpegError:
                self.skipped += 1

    def _packets(self) -> Iterator[Any]:
        """Yield packets to the end, skipping damage; the last one is empty and flushes the codec."""
        errors = 0
        while errors < MAX_READ_ERRORS:
            try:
                for packet in self._container.demux(self._stream):
                    errors = 0
                    yield packet
                return
            except IndexError:
                return  # PyAV may also flush tracks that began later than ours, and does not know them
            except av.FFmpegError:
                errors += 1
                self.skipped += 1
            except OSError as error:
                raise not_readable(self._path, error) from error

    def _not_seekable(self) -> WhisperdError:
        return WhisperdError(
            "audio.not_seekable",
            f"Parts of {self._path} cannot be decoded separately: the file does not support seeking.",
            "Convert it to WAV, FLAC or MP3, or transcribe all of it.",
            {"path": self._path},
        )

    def _nothing_decoded(self) -> WhisperdError:
        if self.skipped == 0:
            return WhisperdError(
                "audio.empty",
                f"{self._path} contains no audio: it is 0 seconds long.",
                "Record or download the file again.",
                {"path": self._path},
            )
        return WhisperdError(
            "audio.corrupt",
            f"{self._path} has an audio stream, but none of it can be decoded.",
            "Check that a media player can play it; download or export the file again.",
            {"path": self._path, "skipped": self.skipped},
        )


def _chosen_stream(path: str, container: Any, track: int | None) -> Any:
    tracks = container.streams.audio
    if not tracks:
        raise WhisperdError(
            "audio.no_audio_stream", f"{path} contains no audio.", "Choose a file with sound.", {"path": path}
        )
    if track is not None and track > len(tracks):
        raise _unknown_track(path, track, tracks)
    # Next to a track that cannot be decoded, such as spatial audio, there may be an ordinary one.
    candidates = (container.streams.best("audio"), *tracks) if track is None else (tracks[track - 1],)
    for stream in candidates:
        codec = stream.codec_context if stream is not None else None
        if codec is not None and codec.channels and codec.sample_rate:
            return stream
    what = "The audio" if track is None else f"Track {track}"
    raise WhisperdError(
        "audio.unsupported",
        f"{what} of {path} is encrypted, or encoded in a format that cannot be decoded.",
        "Convert it to WAV, FLAC or MP3 with the program that created it.",
        {"path": path},
    )


def _unknown_track(path: str, track: int, tracks: Sequence[Any]) -> WhisperdError:
    described = [
        {"language": _tag(one, "language"), "title": _tag(one, "title") or _tag(one, "name")}
        for one in tracks[:MAX_TRACKS_LISTED]
    ]
    listed = ", ".join(
        f"{number} ({', '.join(filter(None, one.values()))})" if any(one.values()) else f"{number}"
        for number, one in enumerate(described, 1)
    )
    count = "one audio track" if len(tracks) == 1 else f"{len(tracks)} audio tracks"
    return WhisperdError(
        "track.unknown",
        f"{path} has no track {track}, but {count}: {listed}{', …' if len(tracks) > len(described) else ''}.",
        "Leave out `--track` to use it."
        if len(tracks) == 1
        else "Choose one of them with `--track`, or leave out `--track` to use the best one.",
        {"path": path, "track": track, "count": len(tracks), "tracks": described},
    )


def _tag(stream: Any, name: str) -> str | None:
    value = str(stream.metadata.get(name, ""))[:MAX_TAG]
    return value if value not in ("", "und") else None  # ISO 639's code for "undetermined"


def _too_many_channels(path: str, channels: int) -> WhisperdError:
    return WhisperdError(
        "audio.too_many_channels",
        f"{path} has {channels} channels; at most {MAX_CHANNELS} can be transcribed separately.",
        "Mix them with `--channels mix`.",
        {"path": path, "channels": channels},
    )


def _duration_s(container: Any, stream: Any) -> float | None:
    if container.duration is not None:
        duration_s = float(container.duration / av.time_base)
    elif stream.duration is not None:
        duration_s = float(stream.duration * stream.time_base)
    else:
        return None
    return duration_s if 0 < duration_s <= container.size / MIN_BYTES_PER_SECOND else None


class _Refused(PermissionError):
    """A media file tried to open another file."""


def _refuse_to_open(url: str, *_: object) -> NoReturn:
    raise _Refused(url)
