"""The choice of an audio track, from the command line to the text, with the toy engine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from whisperd_testing import RunningDaemon, run_python

pytestmark = pytest.mark.real

MAKE_FILM = """
import sys
sys.path.insert(0, sys.argv[1])
import av, numpy as np

with av.open(sys.argv[2], "w") as container:
    streams = [container.add_stream("pcm_s16le", rate=16000, layout="stereo") for _ in range(2)]
    for stream, language in zip(streams, ("eng", "ger")):
        stream.metadata["language"] = language
    for stream, seconds in zip(streams, (2, 3)):
        sound = np.tile(np.array([8000, -4000], np.int16), (1, seconds * 16000))
        frame = av.AudioFrame.from_ndarray(sound, format="s16", layout="stereo")
        frame.sample_rate = 16000
        container.mux([*stream.encode(frame), *stream.encode(None)])
"""


@pytest.fixture(scope="module")
def film(media_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A film with two tracks: two seconds in English, three in German."""
    path = str(tmp_path_factory.mktemp("film") / "film.mkv")
    run_python(MAKE_FILM, str(media_bundle), path, env=os.environ)
    return path


def test_each_track_has_its_own_text(shared: RunningDaemon, film: str) -> None:
    for track, seconds in (("1", 2), ("2", 3)):
        asked = ("transcribe", film, "--no-vad", "--track", track)
        assert shared.ctl(*asked).out == f"transcribe {seconds}.00 s\n"
        assert shared.ctl(*asked, "--clip", "1-").out == f"transcribe {seconds - 1}.00 s\n"
        heard = shared.ctl(*asked, "--channels", "split").out.splitlines()
        assert heard == [f"Speaker {number}: transcribe {seconds}.00 s" for number in (1, 2)]


def test_a_missing_track_is_refused(shared: RunningDaemon, film: str) -> None:
    done = shared.ctl("transcribe", film, "--track", "3", "--json")
    error = done.json["error"]
    assert (done.status, error["code"]) == (2, "track.unknown")
    assert error["data"]["tracks"] == [
        {"language": "eng", "title": None},
        {"language": "ger", "title": None},
    ]
    assert "1 (eng), 2 (ger)" in error["message"]
    assert shared.ctl("transcribe", film, "--track", "0").status == 2


def test_a_profile_and_a_watch_name_a_track(shared: RunningDaemon, film: str, tmp_path: Path) -> None:
    shared.ctl("profiles", "create", "german", "--track", "2", "--no-vad")
    assert shared.ctl("--profile", "german", "transcribe", film).out == "transcribe 3.00 s\n"
    live = shared.ctl("--profile", "german", "dictate", "--stdin", "--json").json
    assert live["error"]["code"] == "live.invalid_option"
    folder = str(tmp_path)
    assert shared.ctl("watch", "add", folder, "--track", "2", "--json").json["options"] == {"track": 2}
    assert shared.ctl("watch", "edit", folder, "--unset", "track", "--json").json["options"] == {}
    shared.ctl("watch", "remove", folder)
    shared.ctl("profiles", "delete", "german")
