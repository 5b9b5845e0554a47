from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whisperd.pip import PipReader, explain

SIZES_BYTES = {"av": 1_000_000, "faster-whisper": 500, "numpy": 2000}

INSTALL = """\
Looking in indexes: https://index.example/simple
Collecting av==18.1.0 (from -r requirements.txt (line 1))
  Downloading av-18.1.0-cp311-abi3-manylinux_2_28_x86_64.whl (1.0 MB)
Progress 0 of 1000000
Progress 262144 of 1000000
Progress 1000000 of 1000000
Collecting faster-whisper==1.2.1 (from -r requirements.txt (line 2))
  Using cached faster_whisper-1.2.1-py3-none-any.whl (500 bytes)
Processing ./wheels/numpy-2.4.6-cp311-cp311-manylinux_2_28_x86_64.whl (from -r requirements.txt (line 3))
Installing collected packages: numpy, faster-whisper, av
Successfully installed av-18.1.0 faster-whisper-1.2.1 numpy-2.4.6
"""

CUT = """\
  Downloading av-18.1.0-cp311-abi3-manylinux_2_28_x86_64.whl (1.0 MB)
Progress 0 of 1000000
Progress 600000 of 1000000
  WARNING: Connection interrupted while downloading.
  WARNING: Attempting to resume incomplete download (600 kB/1.0 MB, attempt 1)
  Downloading av-18.1.0-cp311-abi3-manylinux_2_28_x86_64.whl (1.0 MB)
Progress 0 of 1000000
Progress 700000 of 1000000
"""


RECORDED = Path(__file__).parent / "data" / "pip"


def recorded(name: str) -> list[str]:
    """Return the recorded output of a failed pip 26, with host names replaced."""
    return (RECORDED / f"{name}.txt").read_text(encoding="utf-8").splitlines()


def follow(text: str) -> list[tuple[str | None, int, str]]:
    reader = PipReader(SIZES_BYTES)
    return [
        (reader.file, reader.done_bytes, reader.detail) for line in text.splitlines() if reader.feed(line)
    ]


def test_progress_covers_all_wheels() -> None:
    assert follow(INSTALL) == [
        ("av", 0, "downloading"),
        ("av", 262_144, "downloading"),
        ("av", 1_000_000, "downloading"),
        ("faster-whisper", 1_000_000, "downloading"),
        ("numpy", 1_000_500, "downloading"),
        (None, 1_002_500, "installing"),
    ]


def test_an_interrupted_download_reports_a_retry_and_keeps_its_progress() -> None:
    assert follow(CUT) == [
        ("av", 0, "downloading"),
        ("av", 600_000, "downloading"),
        ("av", 600_000, "retrying"),
        ("av", 600_000, "downloading"),
        ("av", 700_000, "downloading"),
    ]


def test_stored_lines_are_bounded_and_exclude_progress() -> None:
    reader = PipReader(SIZES_BYTES)
    for number in range(100_000):
        reader.feed(f"Progress {number} of 100000")
        reader.feed(f"line {number}")
    assert len(reader.lines) < 1000
    assert reader.lines[-1] == "line 99999"


lines = st.one_of(
    st.text(),
    st.builds("Progress {} of {}".format, st.integers(0, 10**10), st.integers(0, 10**10)),
    st.sampled_from([*INSTALL.splitlines(), *CUT.splitlines()]),
)


@given(st.lists(lines))
def test_progress_never_decreases_or_exceeds_the_total(said: list[str]) -> None:
    reader = PipReader(SIZES_BYTES)
    done_bytes = 0
    for line in said:
        before = (reader.file, reader.done_bytes, reader.detail)
        new = reader.feed(line)
        assert new or before == (reader.file, reader.done_bytes, reader.detail)
        assert done_bytes <= reader.done_bytes <= sum(SIZES_BYTES.values())
        done_bytes = reader.done_bytes


def test_a_wheels_metadata_does_not_count_as_the_wheel() -> None:
    reader = PipReader(SIZES_BYTES)
    reader.feed("  Downloading av-18.1.0-cp311-abi3-manylinux_2_28_x86_64.whl (1.0 MB)")
    reader.feed("Progress 1000000 of 1000000")
    assert not reader.feed("  Downloading https://host/numpy-2.4.6-py3-none-any.whl.metadata (60 kB)")
    assert not reader.feed("Progress 60000 of 60000")
    assert (reader.file, reader.done_bytes) == ("av", 1_000_000)


@pytest.mark.parametrize(
    ("recording", "cause", "requirement"),
    [
        ("hash_mismatch", "hash_mismatch", "av==18.1.0"),
        ("no_version", "absent", "av==18.1.0"),
        ("forbidden", "refused", "av==18.1.0"),
        ("unreachable", "unreachable", "av==18.1.0"),
        ("server_error", "unreachable", None),
        ("incomplete", "unreachable", None),
        ("untrusted", "untrusted", "av==18.1.0"),
        ("cut_off", "unreachable", "av==18.1.0"),
        ("no_tls", "unreachable", "av==18.1.0"),
        ("firewall", "unreachable", "av==18.1.0"),
        ("disk_full", "disk_full", None),
        ("file_too_large", "disk_full", None),
        ("read_only", "forbidden", None),
        ("denied_windows", "forbidden", None),
        ("no_pip", "no_pip", None),
        ("socks", "proxy", None),
        ("exception", "unknown", None),
        ("silence", "unknown", None),
    ],
)
def test_a_failure_has_a_cause(recording: str, cause: str, requirement: str | None) -> None:
    failure = explain(recorded(recording))
    assert (failure.cause, failure.requirement) == (cause, requirement)


def test_an_unknown_failure_keeps_the_output_of_pip() -> None:
    failure = explain(recorded("exception"))
    assert failure.said == recorded("exception")
    assert "division by zero" in failure.reason
    assert "without a message" in explain([]).reason
