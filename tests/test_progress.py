from __future__ import annotations

import pytest

from whisperd.progress import Meter, Progress


def test_rate_and_time_left_cover_the_last_seconds() -> None:
    reports: list[Progress] = []
    now_s = 0.0
    meter = Meter("toy", reports.append, total=3000, clock=lambda: now_s)
    for now_s, done in [(0.0, 0), (10.0, 1000), (12.0, 1400), (14.0, 1800)]:  # noqa: B007 - the clock reads it
        meter.report(done, "model.bin")
    assert (reports[0].rate, reports[0].eta) == (None, None)
    assert (reports[1].rate, reports[1].eta) == (100.0, 20.0)
    assert (reports[-1].rate, reports[-1].eta) == (200.0, 6.0)  # the slow start is forgotten


def test_a_download_that_stands_still_has_no_time_left() -> None:
    reports: list[Progress] = []
    now_s = 0.0
    meter = Meter("toy", reports.append, total=100, clock=lambda: now_s)
    for now_s in (0.0, 1.0):  # noqa: B007 - the clock reads it
        meter.report(50, "model.bin")
    assert (reports[-1].rate, reports[-1].eta) == (0.0, None)
    assert str(reports[-1]) == "downloading toy: 50 B of 100 B"


@pytest.mark.parametrize(
    ("progress", "line"),
    [
        (Progress(name="base"), "downloading base"),
        (Progress(name="base", done=60_000_000), "downloading base: 60 MB"),
        (
            Progress(name="base", done=60_000_000, total=145_000_000, rate=12_000_000.0, eta=7.1),
            "downloading base: 60 MB of 145 MB, 12 MB/s, 7 s left",
        ),
        (Progress(name="mkl", file="step 2", done=2, total=4, detail="building"), "building mkl: step 2"),
        (Progress(name="mkl", done=2, total=4, detail="building"), "building mkl"),
    ],
)
def test_progress_is_one_line(progress: Progress, line: str) -> None:
    assert str(progress) == line


def test_reports_are_rate_limited() -> None:
    reports: list[Progress] = []
    now_s = 0.0
    meter = Meter("toy", reports.append, total=100, clock=lambda: now_s)
    add = meter.adder("a")
    for _ in range(50):
        add(1)
        now_s += 0.001
    assert [progress.done for progress in reports] == [1]
    now_s += 0.1
    add(1)
    assert reports[-1].done == 51


def test_a_new_file_a_new_phase_and_the_end_are_reported_at_once() -> None:
    reports: list[Progress] = []
    meter = Meter("toy", reports.append, total=100, clock=lambda: 0.0)
    meter.report(1, "a")
    meter.report(2, "a")
    meter.report(3, "b")
    meter.report(3, "b", "retrying")
    meter.report(100, "b", "downloading")
    meter.report(100, detail="verifying")
    assert [(one.done, one.file, one.detail) for one in reports] == [
        (1, "a", "downloading"),
        (3, "b", "downloading"),
        (3, "b", "retrying"),
        (100, "b", "downloading"),
        (100, None, "verifying"),
    ]
