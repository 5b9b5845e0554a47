"""What a real decoder process makes of real files, good and bad."""

from __future__ import annotations

import array
import os
import socket
import wave
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest
from decoder_processes import open_pool

from whisperd.audio import (
    SAMPLE_RATE,
    Decoded,
    DecodeParams,
    DecodeProgress,
    DecoderPool,
    Found,
    Opened,
    WindowAudio,
)
from whisperd.audio.clips import Clip
from whisperd.audio.files import open_regular_file
from whisperd.audio.known_speech import merge_found
from whisperd.audio.marks import PROVEN, WARM_UP, unpack_marks
from whisperd.rpc.errors import WhisperdError
from whisperd_testing import run_python, unprivileged

pytestmark = [pytest.mark.anyio, pytest.mark.real]

CLIPS = (Clip(1.0, 50.0), Clip(60.0, None))


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def pool(media_bundle: Path, anyio_backend: str) -> AsyncIterator[DecoderPool]:
    async with open_pool(media_bundle) as pool:
        pool.keep_warm = True
        yield pool


def join(path: Path, recordings: Path, channels: int) -> Path:
    """Recordings one after the other, until they are two minutes long."""
    with wave.open(str(path), "wb") as file:
        file.setparams((channels, 2, 16_000, 0, "NONE", ""))
        while file.tell() < 120 * 16_000:
            for recording in sorted(recordings.glob("austen-*.wav")):
                with wave.open(str(recording), "rb") as part:
                    samples = array.array("h", part.readframes(part.getnframes()))
                file.writeframes(
                    array.array("h", [one for one in samples for _ in range(channels)]).tobytes()
                )
    return path


class Result(NamedTuple):
    opened: Opened
    windows: list[WindowAudio]
    found: list[Found]
    decoded: Decoded

    @property
    def spoken(self) -> list[tuple[float, float]]:
        return [(round(window.start, 1), round(window.end, 1)) for window in self.windows]


async def decode(pool: DecoderPool, path: Path | str, **options: object) -> Result:
    async with pool.decode(DecodeParams(path=str(path), **options)) as decoding:  # type: ignore[arg-type]
        events = [event async for event in decoding]
        assert decoding.result is not None
        opened = events.pop(0)
        assert isinstance(opened, Opened)
        windows = [event for event in events if isinstance(event, WindowAudio)]
        return Result(opened, windows, [e for e in events if isinstance(e, Found)], decoding.result)


async def refusal(pool: DecoderPool, path: Path | str, **options: object) -> WhisperdError:
    with pytest.raises(WhisperdError) as caught:
        await decode(pool, path, **options)
    assert caught.value.fix.endswith(".")
    assert str(path) in caught.value.message
    return caught.value


KENNEDY = (0.07, 10.7)
"""When the president speaks in the 11 seconds."""


@pytest.mark.parametrize(
    "name",
    [
        "speech.wav",
        "speech.mp3",
        "speech.m4a",
        "speech.flac",
        "speech.ogg",
        "speech.webm",
        "film.mp4",
        "film.mkv",
        "half_known.mka",
        "surround.wav",
        "cinema.m4a",  # eight channels
        "tracks.wav",  # ten
        "track.wav",  # one of six
        "rear.wav",
        "sphere.webm",
        "opposite.wav",
        "opposite_floats.wav",
        "opposite.m4a",
        "opposite_but_once.wav",
        "impossible.wav",
        "tagged.wav",  # with a title that is not UTF-8
    ],
)
async def test_every_kind_of_media_gives_the_same_speech(pool: DecoderPool, media: Path, name: str) -> None:
    result = await decode(pool, media / name)
    assert result.opened.duration == pytest.approx(11, abs=0.05)
    assert result.decoded.duration == pytest.approx(11, abs=0.02)
    (window,) = result.windows
    assert (window.start, window.end) == pytest.approx(KENNEDY, abs=0.07)
    assert len(window.pcm) == 2 * round((window.end - window.start) * 16_000)
    assert loudness(window.pcm) > 400


async def test_channels_that_become_opposite_are_heard(pool: DecoderPool, media: Path) -> None:
    """Behind an introduction in ordinary stereo, twice."""
    windows = (await decode(pool, media / "opposite_later.wav")).windows
    assert windows[-1].end == pytest.approx(27.7, abs=0.1)
    assert sum(window.end - window.start for window in windows) > 26
    assert all(loudness(window.pcm) > 2000 for window in windows)


async def test_another_codec_that_hides_in_a_wav_is_found(pool: DecoderPool, media: Path) -> None:
    result = await decode(pool, media / "disguised.wav")
    assert result.decoded.duration == pytest.approx(11, abs=0.05)
    (window,) = result.windows
    assert (window.start, window.end) == pytest.approx(KENNEDY, abs=0.07)


@pytest.mark.parametrize(("name", "heard"), [("cinema.m4a", [2]), ("tracks.wav", range(10))])
async def test_many_channels_are_heard_by_themselves(
    pool: DecoderPool, media: Path, name: str, heard: Sequence[int]
) -> None:
    windows = (await decode(pool, media / name, channels="split")).windows
    assert [window.channel for window in windows] == list(heard)
    for window in windows:
        assert (window.start, window.end) == pytest.approx(KENNEDY, abs=0.07)
        assert loudness(window.pcm) > 500


async def test_more_channels_than_can_be_heard_by_themselves_can_be_mixed(
    pool: DecoderPool, tmp_path: Path
) -> None:
    path = tmp_path / "choir.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((17, 2, 16_000, 0, "NONE", ""))
        file.writeframes(bytes(2 * 17 * 16_000))
    error = await refusal(pool, path, channels="split")
    assert (error.code, error.data["channels"]) == ("audio.too_many_channels", 17)
    assert "`--channels mix`" in error.fix
    assert (await decode(pool, path, channels="mix")).decoded.duration == pytest.approx(1, abs=0.02)


async def events(pool: DecoderPool, path: Path, **options: object) -> list[object]:
    """All that is told of a file, but how far it is."""
    async with pool.decode(DecodeParams(path=str(path), **options)) as decoding:  # type: ignore[arg-type]
        told = [event async for event in decoding if not isinstance(event, DecodeProgress)]
        return [*told, decoding.result]


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("mkv", {"samples": 2}),
        ("mkv", {"channels": "split", "clips": [{"start": 5.5, "end": 30.0}]}),
        ("mp4", {"vad": False, "clips": [{"start": 5.5, "end": 9.0}, {"start": 100.0}]}),
    ],
    ids=str,
)
async def test_a_track_is_heard_as_if_it_were_the_only_one(
    pool: DecoderPool, media: Path, kind: str, options: dict[str, object]
) -> None:
    alone = [
        await events(pool, media / f"{one}_in_languages.{kind}", **options) for one in ("original", "dubbed")
    ]
    film = media / f"film_in_languages.{kind}"
    assert [await events(pool, film, track=number, **options) for number in (1, 2)] == alone
    assert alone[0] != alone[1]


async def test_a_track_goes_on_where_it_was(pool: DecoderPool, media: Path) -> None:
    path = media / "film_in_languages.mkv"
    whole = await decode(pool, path, track=2)
    assert merge_found(whole.found)[0].marks
    done = whole.windows[-1].start
    again = await decode(pool, path, track=2, found=merge_found(whole.found), done_until=done)
    assert again.windows[-1] == whole.windows[-1]
    assert not again.windows[0].pcm


@pytest.mark.parametrize(
    ("name", "count", "said"),
    [
        ("film_in_languages.mkv", 2, "2 audio tracks: 1 (eng), 2 (ger, For children)."),
        ("film_in_languages.mp4", 2, "2 audio tracks: 1 (eng), 2 (ger, For children)."),
        ("speech.m4a", 1, "one audio track: 1."),
    ],
)
async def test_a_track_that_is_not_there_is_answered_with_those_that_are(
    pool: DecoderPool, media: Path, name: str, count: int, said: str
) -> None:
    error = await refusal(pool, media / name, track=3)
    assert (error.code, error.data["count"]) == ("track.unknown", count)
    assert error.message.endswith(said)
    assert ("Choose one" in error.fix) == (count > 1)


async def test_a_track_that_cannot_be_decoded_is_not_replaced_by_another(
    pool: DecoderPool, media: Path
) -> None:
    error = await refusal(pool, media / "half_known.mka", track=1)
    assert (error.code, error.message[:7]) == ("audio.unsupported", "Track 1")
    assert (await decode(pool, media / "half_known.mka", track=2)).windows


def test_parts_of_a_file_that_cannot_be_sought_in_are_refused(media_bundle: Path, media: Path) -> None:
    code = """
import errno, sys
sys.path.insert(0, sys.argv[1])
from whisperd.audio.clips import Clip
from whisperd.audio.media import open_media
from whisperd.rpc.errors import WhisperdError

class OneWay:
    def __init__(self, container):
        self._container = container

    def __getattr__(self, name):
        return getattr(self._container, name)

    def seek(self, *_, **__):
        raise OSError(errno.ESPIPE, "Illegal seek")

with open_media(sys.argv[2]) as opened:
    opened._container = OneWay(opened._container)
    try:
        list(opened.clip_blocks(Clip(8.0, None)))
    except WhisperdError as error:
        print(error.code, error.data["path"] == sys.argv[2], bool(error.fix))
    print(sum(block.shape[1] for block in opened.blocks()) // 16_000)
"""
    said = run_python(code, str(media_bundle), str(media / "speech.mp3"), env=os.environ)
    assert said.split() == ["audio.not_seekable", "True", "True", "11"]


def test_a_track_that_begins_later_does_not_spoil_the_end(media_bundle: Path, media: Path) -> None:
    """PyAV has room only for the tracks it knows, and reads beyond it when it flushes all of them."""
    code = """
import sys
sys.path.insert(0, sys.argv[1])
from whisperd.audio.media import open_media

class Growing:
    def __init__(self, container):
        self._container = container

    def demux(self, stream):
        yield from self._container.demux(stream)
        raise IndexError("list index out of range")

with open_media(sys.argv[2]) as opened:
    opened._container = Growing(opened._container)
    print(sum(block.shape[1] for block in opened.blocks()) // 16_000)
"""
    assert run_python(code, str(media_bundle), str(media / "speech.mp3"), env=os.environ).split() == ["11"]


def test_a_disk_that_fails_is_not_taken_for_a_damaged_file(media_bundle: Path, media: Path) -> None:
    """Wherever that happens."""
    code = """
import errno, io, pathlib, sys
sys.path.insert(0, sys.argv[1])
from whisperd.audio import media
from whisperd.rpc.errors import WhisperdError

class FailingDisk(io.FileIO):
    left = 0

    def read(self, count=-1):
        self.left -= 1
        if self.left < 0:
            raise OSError(errno.EIO, "Input/output error")
        return super().read(count)

media.open_regular_file = FailingDisk
for FailingDisk.left in range(6):
    try:
        with media.open_media(sys.argv[2]) as opened:
            list(opened.blocks())
        print("well")
    except WhisperdError as error:
        print(error.code, error.fix)
"""
    said = run_python(code, str(media_bundle), str(media / "speech.wav"), env=os.environ)
    fix = "Check that the disk or network folder responds, then try again."
    assert set(said.splitlines()) == {f"audio.not_readable {fix}"}


def test_what_cannot_be_resampled_costs_nothing_that_comes_behind_it(media_bundle: Path) -> None:
    code = """
import sys
sys.path.insert(0, sys.argv[1])
import av, numpy as np
from whisperd.audio.frames import Resampler

resampler, heard = Resampler("mono", 0), 0
for rate in (16_000, 2**31 - 1, 16_000):
    frame = av.AudioFrame.from_ndarray(np.full((1, 1600), 100, np.int16), format="s16", layout="mono")
    frame.sample_rate = rate
    try:
        heard += sum(block.shape[1] for block in resampler.resample(frame))
    except av.FFmpegError:
        print("refused", end=" ")
print(heard + sum(block.shape[1] for block in resampler.flush()))
"""
    assert run_python(code, str(media_bundle), env=os.environ).split() == ["refused", "3200"]


def test_floats_above_full_scale_are_sound_and_absurd_ones_are_not(media_bundle: Path) -> None:
    code = """
import sys
sys.path.insert(0, sys.argv[1])
import av, numpy as np
from whisperd.audio.frames import remove_impossible_values

values = np.array([[0.5, -30.0, 900.0, 1e6, -np.inf, np.nan]], np.float32)
frame = av.AudioFrame.from_ndarray(values, format="flt", layout="mono")
remove_impossible_values(frame)
print(*frame.to_ndarray()[0])
"""
    said = run_python(code, str(media_bundle), env=os.environ)
    assert [float(one) for one in said.split()] == [0.5, -30.0, 900.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    "name",
    [
        *("speech.wav", "speech.mp3", "speech.m4a", "speech.flac", "speech.ogg", "speech.webm"),
        *("film.mp4", "film.mkv", "late.mkv", "once.ts", "joined.ts", "joined.ogg"),
    ],
)
async def test_a_part_holds_what_the_whole_holds_there(pool: DecoderPool, media: Path, name: str) -> None:
    whole = await decode(pool, media / name, vad=False)
    clips = [{"start": 2.0, "end": 3.25}, {"start": 7.5}]
    parts = await decode(pool, media / name, vad=False, clips=clips)
    assert [window.index for window in parts.windows] == list(range(len(parts.windows)))
    samples = b"".join(window.pcm for window in whole.windows)
    heard = 0
    for window in parts.windows:
        assert 2.0 <= window.start <= window.end <= 3.25 or 7.5 <= window.start <= window.end
        expected = samples[2 * round(window.start * 16_000) : 2 * round(window.end * 16_000)]
        heard += len(window.pcm)
        # Times in the file may be rounded to milliseconds, so that samples need not be the same ones.
        assert outline(window.pcm[: len(expected)]) == pytest.approx(outline(expected), rel=0.2, abs=300)
    assert heard / 2 / 16_000 == pytest.approx(1.25 + whole.decoded.duration - 7.5, abs=0.05)


def test_parts_of_a_stream_that_may_repeat_its_times_are_decoded_in_one_pass(
    media_bundle: Path, media: Path
) -> None:
    """Else a thousand clips of hours of audio would take hours."""
    code = """
import sys
sys.path.insert(0, sys.argv[1])
from whisperd.audio import media
from whisperd.audio.clips import Clip
from whisperd.rpc.errors import WhisperdError

frames, decoded = media.Media._frames, []
def note(self):
    for frame in frames(self):
        decoded.append(frame.samples / frame.sample_rate)
        yield frame
media.Media._frames = note
with media.open_media(sys.argv[2]) as opened:
    for clip in (Clip(1.0, 1.01), Clip(1.02, 3.0), Clip(6.5, 7.0), Clip(9.0, 99.0)):
        print(sum(block.shape[1] for block in opened.clip_blocks(clip)) / 16000)
    print(sum(decoded))
    try:
        list(opened.clip_blocks(Clip(100.0)))
    except WhisperdError as error:
        print(error.code)
"""
    said = run_python(code, str(media_bundle), str(media / "joined.ogg"), env=os.environ).split()
    assert [float(one) for one in said[:5]] == pytest.approx([0.01, 1.98, 0.5, 1.0, 10.0], abs=0.05)
    assert said[5] == "clips.beyond_end"


def test_a_part_of_one_ogg_recording_is_found_by_seeking(media_bundle: Path, media: Path) -> None:
    code = """
import sys
sys.path.insert(0, sys.argv[1])
from whisperd.audio.clips import Clip
from whisperd.audio.media import open_media

with open_media(sys.argv[2]) as opened:
    print(sum(block.shape[1] for block in opened.clip_blocks(Clip(50.0, 51.0))))
    print(len(list(opened.clip_blocks(Clip(50.0, 51.0)))))
with open_media(sys.argv[2]) as opened:
    print(len(list(opened.blocks())))
"""
    said = run_python(code, str(media_bundle), str(media / "minute.ogg"), env=os.environ)
    samples, blocks, all_blocks = map(int, said.split())
    assert samples == 16_000
    assert blocks < all_blocks / 5


def test_where_one_cannot_seek_it_is_told_that_what_lies_before_a_part_is_decoded(
    media_bundle: Path, media: Path
) -> None:
    """Else somebody who waits would take the decoder for stuck."""
    code = """
import sys
sys.path.insert(0, sys.argv[1])
from whisperd.audio import media
from whisperd.audio.clips import Clip

media.Media._seek = lambda self, _: (self._frames(), 0.0)
with media.open_media(sys.argv[2]) as opened:
    lengths = [block.shape[1] for block in opened.clip_blocks(Clip(8.0))]
print(lengths.count(0), sum(lengths))
"""
    said = run_python(code, str(media_bundle), str(media / "speech.mp3"), env=os.environ)
    empty, heard = map(int, said.split())
    assert empty > 7
    assert heard / SAMPLE_RATE == pytest.approx(3, abs=0.05)


async def test_windows_of_a_part_have_the_times_of_the_file(pool: DecoderPool, media: Path) -> None:
    (window,) = (await decode(pool, media / "speech.flac", clips=[{"start": 8.0}])).windows
    assert (window.start, window.end) == pytest.approx((8.0, KENNEDY[1]), abs=0.3)


async def test_the_length_is_that_of_the_audio_if_its_end_is_reached(pool: DecoderPool, media: Path) -> None:
    whole = await decode(pool, media / "speech.aac")
    stated, real = whole.opened.duration, whole.decoded.duration
    assert stated is not None and stated < real - 0.5
    for start, end, length in (
        (5.0, None, real),
        (5.0, 50.0, real),
        (10.0, real - 0.1, real),
        (1.0, 2.00001, stated),
    ):
        parts = await decode(pool, media / "speech.aac", clips=[{"start": start, "end": end}])
        assert parts.decoded.duration == pytest.approx(length, abs=0.15)


async def test_a_part_may_reach_beyond_the_end_but_not_begin_there(pool: DecoderPool, media: Path) -> None:
    parts = await decode(pool, media / "speech.mp3", vad=False, clips=[{"start": 10.0, "end": 99.0}])
    assert parts.windows[-1].end == pytest.approx(11, abs=0.02)
    error = await refusal(pool, media / "speech.mp3", clips=[{"start": 1.0, "end": 2.0}, {"start": 60.5}])
    assert error.code == "clips.beyond_end"
    assert "1:00.5" in error.message


@pytest.mark.parametrize(
    ("name", "code"), [("garbled.m4a", "audio.corrupt"), ("no_samples.wav", "audio.empty")]
)
async def test_where_nothing_can_be_decoded_no_part_is_said_to_lie_beyond_the_end(
    pool: DecoderPool, media: Path, name: str, code: str
) -> None:
    assert (await refusal(pool, media / name, clips=[{"start": 1.0}])).code == code


def outline(pcm: bytes, step_s: float = 0.1) -> list[float]:
    step = 2 * round(step_s * 16_000)
    return [loudness(pcm[at : at + step]) for at in range(0, len(pcm) - step, step)]


def loudness(pcm: bytes) -> float:
    samples = memoryview(pcm).cast("h")
    return sum(abs(sample) for sample in samples) / len(samples)


async def test_no_library_reports_home(
    media_bundle: Path, recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    for name in ("HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME"):
        monkeypatch.setenv(name, str(home))

    async with open_pool(media_bundle) as pool:
        await decode(pool, recordings / "jfk.flac")
    assert list(home.rglob("*")) == []


@pytest.mark.parametrize(("name", "duration_s"), [("no_speech.wav", 8.212), ("noise.wav", 33.12)])
async def test_no_speech_gives_no_windows(
    pool: DecoderPool, recordings: Path, name: str, duration_s: float
) -> None:
    result = await decode(pool, recordings / name)
    assert result.windows == []
    assert result.decoded is not None
    assert (result.decoded.windows, result.decoded.speech) == (0, 0.0)
    assert result.decoded.duration == pytest.approx(duration_s, abs=0.01)


async def test_without_vad_everything_is_sent_once(pool: DecoderPool, media: Path, recordings: Path) -> None:
    for path, duration_s in ((recordings / "no_speech.wav", 8.212), (media / "instant.wav", 0.05)):
        (window,) = (await decode(pool, path, vad=False)).windows
        assert (window.start, window.end) == (0.0, duration_s)
    windows = (await decode(pool, media / "twice.ts", vad=False, max_window_s=6.0)).windows
    assert len(windows) >= 4
    assert all(len(window.pcm) <= 6 * 32_000 for window in windows)
    assert [window.start for window in windows] == [0.0, *(window.end for window in windows[:-1])]
    assert windows[-1].end == pytest.approx(22.06, abs=0.01)


@pytest.mark.parametrize("options", [{}, {"vad": False}, {"channels": "split"}, {"clips": CLIPS}], ids=str)
async def test_what_was_found_before_is_not_listened_to_again(
    pool: DecoderPool, tmp_path: Path, recordings: Path, options: dict[str, object]
) -> None:
    path = join(tmp_path / "long.wav", recordings, channels=2 if "channels" in options else 1)
    whole = await decode(pool, path, **options)
    assert whole.found and len(whole.windows) > 2
    for count in {1, len(whole.found)}:
        again = await decode(pool, path, found=merge_found(whole.found[:count]), **options)
        assert again.windows == whole.windows
        assert again.decoded == whole.decoded


@pytest.mark.parametrize(
    "name",
    [
        *("minute.wav", "minute.flac", "minute.mp3", "minute.m4a", "minute.mkv", "minute.ogg"),
        "minute.wav split",
    ],
)
async def test_what_is_done_is_not_decoded_again_and_the_rest_is_the_same(
    pool: DecoderPool, media: Path, name: str
) -> None:
    path = media / name.removesuffix(" split")
    options = {"channels": "split"} if name.endswith(" split") else {}
    whole = await decode(pool, path, **options)
    assert bool(merge_found(whole.found)[0].marks) == (not name.endswith((".m4a", ".ogg")))
    middle = len(whole.windows) // 2
    for told, done in ((whole.found, whole.windows[-1]), (whole.found[:1], whole.windows[middle])):
        again = await decode(pool, path, found=merge_found(told), done_until=done.start, **options)
        assert again.windows == [
            msgspec.structs.replace(one, pcm=one.pcm if one.start >= done.start else b"")
            for one in whole.windows
        ]
        assert again.decoded == whole.decoded


async def test_the_place_is_sought_and_the_sound_there_is_held_against_the_proof(
    pool: DecoderPool, media: Path, tmp_path: Path
) -> None:
    whole = await decode(pool, media / "minute.wav")
    found, done_until = merge_found(whole.found), whole.windows[-1].start
    *_, mark = (
        one for one in unpack_marks(found[0].marks) if one.position + PROVEN <= done_until * SAMPLE_RATE
    )

    async def windows_without(first: int) -> list[WindowAudio]:
        """Of a file whose sound is missing for a second from a sample on, which no decoder was told."""
        data = bytearray((media / "minute.wav").read_bytes())
        at = 44 + 2 * round(first * 44_100 / SAMPLE_RATE)
        data[at : at + 88_200] = bytes(88_200)
        (tmp_path / "other.wav").write_bytes(data)
        again = await decode(pool, tmp_path / "other.wav", found=found, done_until=done_until)
        return again.windows

    # What lies before the mark is not even read; in the end the sound is what it is, of course.
    assert (await windows_without(mark.position - 2 * SAMPLE_RATE))[-1].pcm == whole.windows[-1].pcm
    assert (await windows_without(round(done_until * SAMPLE_RATE)))[-1].pcm != whole.windows[-1].pcm
    # Where the proof fails it is read from the beginning, and that gives the same here.
    assert (await windows_without(mark.position + WARM_UP))[-1].pcm == whole.windows[-1].pcm


async def test_windows_are_as_long_as_was_asked(pool: DecoderPool, media: Path) -> None:
    windows = (await decode(pool, media / "speech.flac", max_window_s=5.0)).windows
    assert len(windows) > 1
    assert all(window.end - window.start <= 5.0 for window in windows)
    assert [window.index for window in windows] == list(range(len(windows)))


async def test_times_are_those_of_the_film(pool: DecoderPool, media: Path) -> None:
    late = await decode(pool, media / "late.mkv")
    assert late.decoded.duration == pytest.approx(14, abs=0.02)
    assert late.spoken == [(3.1, 13.7)]


async def test_a_hole_in_the_audio_stays_a_hole(pool: DecoderPool, media: Path) -> None:
    hole = await decode(pool, media / "hole.mkv")
    assert hole.decoded.duration == pytest.approx(13, abs=0.02)
    assert hole.spoken[-1][1] == pytest.approx(12.7)


@pytest.mark.parametrize(("name", "duration_s"), [("lying_clock.mkv", 11.0), ("twice.ts", 22.06)])
async def test_unbelievable_clocks_make_no_silence(
    pool: DecoderPool, media: Path, name: str, duration_s: float
) -> None:
    result = await decode(pool, media / name)
    assert result.decoded.duration == pytest.approx(duration_s, abs=0.05)
    assert result.opened.duration is None or result.opened.duration < 12


@pytest.mark.parametrize("name", ["truncated.mp3", "truncated.wav"])
async def test_of_half_a_file_half_is_heard(pool: DecoderPool, media: Path, name: str) -> None:
    result = await decode(pool, media / name)
    assert result.decoded.duration == pytest.approx(5.5, abs=0.05)
    (window,) = result.windows
    assert (window.start, window.end) == pytest.approx((0.1, 4.55), abs=0.07)


async def test_a_scratch_is_passed_over_and_counted(pool: DecoderPool, media: Path) -> None:
    result = await decode(pool, media / "scratched.mp3")
    assert result.decoded.skipped > 0
    assert 10 < result.decoded.duration < 11


async def test_a_header_that_was_never_completed_is_not_believed(pool: DecoderPool, media: Path) -> None:
    result = await decode(pool, media / "outdated.wav")
    assert result.decoded.duration == pytest.approx(11, abs=0.02)


async def test_a_header_that_boasts_is_not_believed(pool: DecoderPool, media: Path) -> None:
    result = await decode(pool, media / "boastful.wav")
    assert result.decoded.duration == 1.0


async def test_a_twentieth_of_a_second_is_heard_out(pool: DecoderPool, media: Path) -> None:
    result = await decode(pool, media / "instant.wav")
    assert result.decoded.duration == 0.05
    assert len(result.windows) <= 1


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("missing.wav", "audio.not_found"),
        ("speech.wav/missing.wav", "audio.not_found"),
        ("", "audio.is_directory"),
        ("empty.wav", "audio.empty"),
        ("no_samples.wav", "audio.empty"),
        ("text.wav", "audio.unsupported"),
        ("text.mp3", "audio.unsupported"),
        ("truncated.m4a", "audio.unsupported"),
        ("beheaded.wav", "audio.unsupported"),
        ("hollow.mp3", "audio.unsupported"),
        ("without_channels.mka", "audio.unsupported"),
        ("silent_film.mp4", "audio.no_audio_stream"),
        ("garbled.m4a", "audio.corrupt"),
        ("frantic.wav", "audio.corrupt"),  # at 2,147,483,647 Hz
    ],
)
async def test_what_cannot_be_heard_is_refused_with_a_reason(
    pool: DecoderPool, media: Path, name: str, code: str
) -> None:
    assert (await refusal(pool, media / name)).code == code


async def test_an_mp4_that_was_cut_off_is_called_that(pool: DecoderPool, media: Path) -> None:
    assert "whose index is missing" in (await refusal(pool, media / "truncated.m4a")).message


@pytest.mark.skipif(os.name == "nt", reason="permissions are another matter there")
def test_a_file_that_may_not_be_read_is_refused(tmp_path: Path) -> None:
    forbidden = tmp_path / "forbidden.wav"
    forbidden.write_bytes(b"RIFF")
    forbidden.chmod(0)
    with unprivileged(), pytest.raises(WhisperdError) as raised, open_regular_file(str(forbidden)):
        pass
    assert raised.value.code == "audio.not_readable"
    assert "permissions" in raised.value.fix


@pytest.mark.skipif(os.name == "nt", reason="links are for administrators there")
async def test_a_path_that_leads_nowhere_is_refused(pool: DecoderPool, tmp_path: Path) -> None:
    loop = tmp_path / "loop.wav"
    loop.symlink_to(loop)
    error = await refusal(pool, loop)
    assert error.code == "audio.not_readable"
    assert "name" in error.fix


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such files")
async def test_devices_and_pipes_are_refused_at_once(pool: DecoderPool, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.wav")
    assert (await refusal(pool, tmp_path / "pipe.wav")).code == "audio.not_a_file"
    assert (await refusal(pool, "/dev/zero")).code == "audio.not_a_file"


async def test_no_address_is_ever_opened(pool: DecoderPool, media: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}/speech.wav"
        for path in (address, f"concat:{media / 'speech.mp3'}", f"file:{media / 'speech.mp3'}"):
            assert (await refusal(pool, path)).code == "audio.not_found"
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()


@pytest.mark.parametrize(
    "content",
    [
        "ffconcat version 1.0\nfile speech.mp3\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:11\n#EXTINF:11,\nspeech.mp3\n#EXT-X-ENDLIST\n",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=-\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 45678 RTP/AVP 0\n",
    ],
    ids=["concat", "hls", "sdp"],
)
async def test_a_file_that_names_others_opens_none(
    media_bundle: Path, media: Path, content: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # From this folder, and under this name, ffmpeg by itself would open what is named.
    monkeypatch.chdir(media)
    playlist = media / "playlist.m3u8"
    playlist.write_text(content)
    async with open_pool(media_bundle) as pool:
        assert (await refusal(pool, playlist)).code == "audio.unsupported"


async def test_more_than_the_limit_is_too_long(pool: DecoderPool, media: Path) -> None:
    assert (await refusal(pool, media / "speech.mp3", max_duration_s=5.0)).code == "audio.too_long"


@pytest.mark.parametrize("options", [{"max_window_s": 0.0}, {"max_window_s": 31.0}, {"max_duration_s": -1.0}])
async def test_senseless_limits_are_refused(
    pool: DecoderPool, media: Path, options: dict[str, float]
) -> None:
    with pytest.raises(WhisperdError) as caught:
        await decode(pool, media / "speech.mp3", **options)
    assert caught.value.code == "rpc.invalid_params"
