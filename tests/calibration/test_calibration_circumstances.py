"""When a calibration no longer applies, and how this is reported."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from whisperd.calibration import Circumstances

HERE = Circumstances(
    processor="Fast 9000",
    cores=2,
    gpus=(("Big GPU", 24_000_000_000),),
    driver="550.1",
    beam_size=5,
    versions={"whisperd": "1.0", "ctranslate2": "1.0"},
    variants={"ctranslate2-cpu": "abc", "ctranslate2-cuda11": None},
)


def test_unchanged_circumstances_still_apply() -> None:
    kept = msgspec.json.decode(msgspec.json.encode(HERE), type=Circumstances)
    assert kept.fingerprint == HERE.fingerprint
    assert not list(kept.changes_since(HERE))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"processor": "Slow 1"}, "the CPU is Slow 1 and was Fast 9000"),
        ({"processor": None}, "the CPU is unknown and was Fast 9000"),
        ({"cores": 8}, "the number of cores is 8 and was 2"),
        ({"gpus": ()}, "the GPUs have changed"),
        ({"driver": "560.2"}, "the driver of the GPU is 560.2 and was 550.1"),
        ({"beam_size": 1}, "beam_size is 1 and was 5"),
        ({"versions": {**HERE.versions, "whisperd": "1.1"}}, "whisperd is 1.1 and was 1.0"),
        ({"versions": {"whisperd": "1.0"}}, "ctranslate2 is not installed and was 1.0"),
        ({"versions": {**HERE.versions, "third": "0.1"}}, "third is 0.1 and was not installed"),
        (
            {"variants": {**HERE.variants, "ctranslate2-cpu": "def"}},
            "the libraries of ctranslate2-cpu have changed",
        ),
        ({"variants": {"ctranslate2-cpu": "abc"}}, "ctranslate2-cuda11 has been removed"),
        ({"variants": {**HERE.variants, "third-cpu": None}}, "third-cpu is new"),
    ],
)
def test_each_change_is_described(changed: dict[str, Any], said: str) -> None:
    now = msgspec.structs.replace(HERE, **changed)
    assert now.fingerprint != HERE.fingerprint
    assert list(now.changes_since(HERE)) == [said]


def test_all_changes_are_described() -> None:
    now = msgspec.structs.replace(HERE, cores=4, beam_size=1)
    assert list(now.changes_since(HERE)) == ["the number of cores is 4 and was 2", "beam_size is 1 and was 5"]
