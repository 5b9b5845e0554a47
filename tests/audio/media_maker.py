"""Makes the media files of the decoder tests: python media_maker.py BUNDLE SPEECH FOLDER.

A program of its own, because PyAV and numpy are on no test's path: they come out of the bundle.
SPEECH is a recording; every file made holds it, unless its name says otherwise.
"""

from __future__ import annotations

import struct
import sys
from fractions import Fraction
from pathlib import Path

RATE = 48_000


def main() -> None:
    bundle, speech, folder = sys.argv[1:]
    sys.path.insert(0, bundle)
    out = Path(folder)
    samples = read(speech)
    for name, codec in (
        ("speech.mp3", "libmp3lame"),
        ("speech.m4a", "aac"),
        ("speech.flac", "flac"),
        ("speech.ogg", "libopus"),
        ("speech.webm", "libopus"),
        ("speech.wav", "pcm_s16le"),
        ("speech.aac", "aac"),  # its length can only be estimated
    ):
        write(out / name, codec, samples)
    write(out / "film.mp4", "aac", samples, video=True)
    write(out / "film.mkv", "aac", samples, video=True)
    write(out / "cinema.m4a", "aac", samples, layout="7.1")
    write_half_known(out / "half_known.mka", samples)
    write(out / "silent_film.mp4", None, samples, video=True)
    write(out / "late.mkv", "flac", samples, video=True, first_s=3.0)
    write(out / "hole.mkv", "flac", samples, jumps={4.0: 2.0})
    write(out / "lying_clock.mkv", "flac", samples, jumps={float(second): 9000.0 for second in range(1, 8)})
    write(out / "once.ts", "aac", samples, first_s=500.0)
    once = (out / "once.ts").read_bytes()
    (out / "twice.ts").write_bytes(once + once)  # the clock runs back in the middle
    write_joined(out, samples)
    write_surround(out / "surround.wav", samples)
    write_tracks(out / "tracks.wav", samples)
    write_track(out / "track.wav", samples)
    write_rear(out / "rear.wav", samples)
    write_sphere(out / "sphere.webm", samples)
    write_opposite(out, samples)
    write_impossible(out / "impossible.wav", samples)
    write_disguised(out / "disguised.wav", samples)
    write_long(out / "long.wav", samples)
    write_minutes(out, samples)
    write_languages(out, samples)
    write_seeds(out / "seeds", samples[:RATE])
    damage(out)


def read(speech):
    """The recording as float samples, one channel, 48 kHz."""
    import av
    import numpy as np

    resampler = av.AudioResampler(format="fltp", layout="mono", rate=RATE)
    with av.open(speech) as container:
        frames = [piece for frame in container.decode(audio=0) for piece in resampler.resample(frame)]
    frames += resampler.resample(None)
    return np.concatenate([frame.to_ndarray()[0] for frame in frames])


def write(path, codec, samples, *, video=False, first_s=0.0, jumps=None, rate=RATE, layout="mono"):
    """Encode; `jumps` says at which second of the audio its clock leaps, and how far."""
    import av
    import numpy as np

    with av.open(str(path), "w") as container:
        sound = None
        if codec:
            sound = container.add_stream(codec, rate=rate, layout=layout)
        picture = container.add_stream("mpeg4", rate=10) if video else None
        if picture is not None:
            picture.width = picture.height = 64
            picture.pix_fmt = "yuv420p"
            for index in range(int(10 * len(samples) / RATE)):
                frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), index % 255, np.uint8))
                frame.pts, frame.time_base = index, Fraction(1, 10)
                container.mux(picture.encode(frame))
            container.mux(picture.encode(None))
        if sound is not None:
            encode(container, sound, samples, first_s, jumps or {})


def encode(container, stream, samples, first_s, jumps):
    import av
    import numpy as np

    clock = round(first_s * stream.codec_context.sample_rate)
    pending = sorted(jumps.items())
    rate = stream.codec_context.sample_rate
    codec = stream.codec_context
    resampler = av.AudioResampler(format=codec.format, layout=codec.layout, rate=rate)
    for start in range(0, len(samples), 4800):
        if pending and start >= pending[0][0] * rate:
            clock += round(pending.pop(0)[1] * rate)
        piece = np.ascontiguousarray(np.atleast_2d(samples[start : start + 4800].T), np.float32)
        frame = av.AudioFrame.from_ndarray(
            piece, format="fltp", layout="stereo" if len(piece) == 2 else "mono"
        )
        frame.sample_rate, frame.pts, frame.time_base = rate, clock + start, Fraction(1, rate)
        for ready in resampler.resample(frame):
            container.mux(stream.encode(ready))
    container.mux(stream.encode(None))


def write_half_known(path, samples):
    """Two tracks, the first of which is of a codec that nobody knows."""
    import av

    with av.open(str(path), "w", format="matroska") as container:
        for stream in [container.add_stream("aac", rate=RATE, layout="mono") for _ in range(2)]:
            encode(container, stream, samples, 0.0, {})
    path.write_bytes(path.read_bytes().replace(b"A_AAC", b"A_XXX", 1))
    bare = path.with_name("without_channels.mka")
    write(bare, "pcm_s16le", samples)
    bare.write_bytes(bare.read_bytes().replace(b"\x9f\x81\x01", b"\x9f\x81\x00"))


def write_joined(folder, samples):
    """Two recordings of five seconds each, one behind the other, with the same times."""
    for kind, codec in (("ts", "aac"), ("ogg", "libopus")):
        path = folder / f"joined.{kind}"
        content = b""
        for half in (samples[: 5 * RATE], samples[::-1][: 5 * RATE]):
            write(path, codec, half)
            content += path.read_bytes()
        path.write_bytes(content)


def write_languages(folder, samples):
    """A film of two minutes with two tracks, and each of these by itself."""
    import av
    import numpy as np

    original = np.tile(samples, 11)
    dubbed = np.stack([np.roll(original, 3 * RATE), np.roll(original, 7 * RATE)], axis=1)
    tracks = (("original", original, "mono", "eng", ""), ("dubbed", dubbed, "stereo", "ger", "For children"))
    for name, wanted in (("film", tracks), ("original", tracks[:1]), ("dubbed", tracks[1:])):
        for kind, codec in (("mkv", "pcm_s16le"), ("mp4", "aac")):
            path = str(folder / f"{name}_in_languages.{kind}")
            with av.open(path, "w", container_options={"max_interleave_delta": "0"}) as container:
                streams = [container.add_stream(codec, rate=RATE, layout=one[2]) for one in wanted]
                for stream, (*_, language, title) in zip(streams, wanted, strict=True):
                    stream.metadata.update({"language": language, "title": title})
                for stream, (_, sound, *_) in zip(streams, wanted, strict=True):
                    encode(container, stream, sound, 0.0, {})


def write_surround(path, samples):
    """96 kHz, 8 channels, 24 bits, the voice on the centre channel alone."""
    import numpy as np

    channels = np.zeros((2 * len(samples), 8))
    channels[:, 2] = np.repeat(samples, 2)
    values = (np.clip(channels, -1, 1) * (2**23 - 1)).astype("<i4")
    path.write_bytes(wav(values.view(np.uint8).reshape(-1, 4)[:, :3].tobytes(), 1, 8, 96_000, 24))


def write_tracks(path, samples):
    """Ten channels, the voice on each of them, and not a word of where they are heard."""
    import numpy as np

    values = (np.clip(samples, -1, 1) * 32767).astype("<i2").repeat(10)
    path.write_bytes(wav(values.tobytes(), 1, 10, RATE, 16))


def write_track(path, samples):
    """Six channels as recorders with many tracks write them, the voice on the fourth alone."""
    import numpy as np

    values = np.zeros((len(samples), 6), "<i2")
    values[:, 3] = np.clip(samples, -1, 1) * 32767
    path.write_bytes(wav(values.tobytes(), 1, 6, RATE, 16))


def write_rear(path, samples):
    """Two channels that are said to be heard from the sides, with no channel in front."""
    import numpy as np

    values = (np.clip(samples, -1, 1) * 32767).astype("<i2").repeat(2)
    content = wav(values.tobytes(), 0xFFFE, 2, RATE, 16)
    extension = struct.pack("<HHI", 22, 16, 0x600) + bytes.fromhex("0100000000001000800000aa00389b71")
    size = struct.pack("<I", 16 + len(extension))
    path.write_bytes(content[:16] + size + content[20:36] + extension + content[36:])


def write_sphere(path, samples):
    """Ambisonic sound of four channels, as cameras for all directions record it."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libopus", rate=RATE, layout="quad", options={"mapping_family": "255"})
        encode(container, stream, samples, 0.0, {})
    content = bytearray(path.read_bytes())
    content[content.index(b"OpusHead") + 18] = 2  # the mapping family; else its header is the same
    path.write_bytes(content)


def write_opposite(folder, samples):
    """Two channels that are each other's negative, as integers, as floats, and but for a moment of noise."""
    import numpy as np

    channels = np.clip(np.stack([samples, -samples], axis=1), -1, 1)
    whole, floats = (channels * 32767).astype("<i2"), channels.astype("<f4")
    (folder / "opposite.wav").write_bytes(wav(whole.tobytes(), 1, 2, RATE, 16))
    (folder / "opposite_floats.wav").write_bytes(wav(floats.tobytes(), 3, 2, RATE, 32))
    write(folder / "opposite.m4a", "aac", floats, layout="stereo")
    moment = slice(RATE // 2, RATE)
    intro = np.repeat(whole[: 3 * RATE, :1], 2, axis=1)
    content = np.concatenate([intro, whole, intro, whole]).tobytes()
    (folder / "opposite_later.wav").write_bytes(wav(content, 1, 2, RATE, 16))
    whole[moment] = np.random.default_rng(0).normal(0, 200, whole[moment].shape)
    (folder / "opposite_but_once.wav").write_bytes(wav(whole.tobytes(), 1, 2, RATE, 16))


def write_impossible(path, samples):
    """32-bit floats; every hundredth one is not a number, infinite or enormous."""
    import numpy as np

    values = samples.astype("<f4")
    values[::300], values[100::300], values[200::300] = np.nan, np.inf, -1e30
    path.write_bytes(wav(values.tobytes(), 3, 1, RATE, 32))


def write_disguised(path, samples):
    """AC-3 in a WAV that says it were samples."""
    plain = path.with_name("plain.ac3")
    write(plain, "ac3", samples)
    path.write_bytes(wav(plain.read_bytes(), 1, 2, RATE, 16))


def write_long(path, samples):
    """Twenty minutes of speech at 8 kHz."""
    import numpy as np

    once = (np.clip(samples[::6], -1, 1) * 32767).astype("<i2").tobytes()
    path.write_bytes(wav(once * (20 * 60 // 11), 1, 1, 8000, 16))


def write_minutes(folder, samples):
    """A minute in formats that are sought in differently, most at a rate that 16 kHz does not divide."""
    import numpy as np

    minute = np.tile(samples, 5)  # read at 44.1 kHz, it is 60 s
    for name, codec, rate in (
        ("minute.wav", "pcm_s16le", 44_100),
        ("minute.flac", "flac", 44_100),
        ("minute.mp3", "libmp3lame", 44_100),
        ("minute.mkv", "libopus", 48_000),
        ("minute.ogg", "libopus", 48_000),
        ("minute.m4a", "aac", 44_100),  # its decoder may draw noise at random
    ):
        write(folder / name, codec, minute, rate=rate)


def write_seeds(folder, samples):
    """Short ones of every kind that can be made, to be spoilt."""
    folder.mkdir()
    for name, codec in (
        ("speech.mp3", "libmp3lame"),
        ("speech.mp2", "mp2"),
        ("speech.m4a", "aac"),
        ("lossless.m4a", "alac"),
        ("speech.aac", "aac"),
        ("speech.flac", "flac"),
        ("opus.ogg", "libopus"),
        ("speech.webm", "libopus"),
        ("speech.wav", "pcm_s16le"),
        ("packed.wav", "adpcm_ms"),
        ("speech.w64", "pcm_s24le"),
        ("speech.aiff", "pcm_s16be"),
        ("speech.au", "pcm_mulaw"),
        ("speech.caf", "alac"),
        ("speech.asf", "libmp3lame"),
        ("speech.ac3", "ac3"),
        ("speech.wv", "wavpack"),
        ("speech.tta", "tta"),
        ("speech.ts", "aac"),
        ("speech.flv", "aac"),
    ):
        write(folder / name, codec, samples)
    for kind, codec in (("mp4", "aac"), ("mkv", "flac"), ("avi", "libmp3lame"), ("mpg", "mp2")):
        write(folder / f"film.{kind}", codec, samples, video=True)


def damage(folder):
    """What becomes of good files on bad days."""
    mp3, m4a = (folder / "speech.mp3").read_bytes(), (folder / "speech.m4a").read_bytes()
    (folder / "truncated.mp3").write_bytes(mp3[: len(mp3) // 2])
    (folder / "truncated.m4a").write_bytes(m4a[: len(m4a) // 2])
    middle = len(mp3) // 2
    (folder / "scratched.mp3").write_bytes(mp3[:middle] + b"\x55" * 4000 + mp3[middle + 4000 :])
    wave = (folder / "speech.wav").read_bytes()
    (folder / "truncated.wav").write_bytes(wave[: len(wave) // 2])
    tag = b"INFOINAM\x06\x00\x00\x00caf\xe9s\x00"
    (folder / "tagged.wav").write_bytes(wave[:12] + b"LIST" + struct.pack("<I", len(tag)) + tag + wave[12:])
    pcm = wave[-96_000:]
    (folder / "boastful.wav").write_bytes(wav(pcm, 1, 1, RATE, 16, claimed_bytes=2**32 - 1))
    (folder / "outdated.wav").write_bytes(wav(wave[44:], 1, 1, RATE, 16, claimed_bytes=2 * RATE))
    (folder / "beheaded.wav").write_bytes(wave[:44] + b"fmt " * 1000)
    (folder / "hollow.mp3").write_bytes(mp3[:200])
    start, end = m4a.index(b"mdat") + 4, m4a.index(b"moov") - 4
    (folder / "garbled.m4a").write_bytes(m4a[:start] + b"\xa5" * (end - start) + m4a[end:])
    (folder / "instant.wav").write_bytes(wav(pcm[:4800], 1, 1, RATE, 16))  # 0.05 s
    (folder / "no_samples.wav").write_bytes(wav(b"", 1, 1, RATE, 16))
    (folder / "frantic.wav").write_bytes(wav(pcm, 1, 1, 2**31 - 1, 16))
    (folder / "text.wav").write_text("Four score and seven years ago our fathers brought forth ...\n" * 40)
    (folder / "text.mp3").write_text("Four score and seven years ago our fathers brought forth ...\n" * 40)
    (folder / "empty.wav").write_bytes(b"")


def wav(data, tag, channels, rate, bits, claimed_bytes=None):
    size = len(data) if claimed_bytes is None else claimed_bytes
    block = channels * bits // 8
    header = struct.pack("<HHIIHH", tag, channels, rate, rate * block, block, bits)
    return (
        b"RIFF"
        + struct.pack("<I", min(size + 36, 2**32 - 1))
        + b"WAVEfmt "
        + struct.pack("<I", len(header))
        + header
        + b"data"
        + struct.pack("<I", size)
        + data
    )


if __name__ == "__main__":
    main()
