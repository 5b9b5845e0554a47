"""The decisions of the ledger, kinds of failures, and quiet hours."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whisperd.watch.failures import kind_of_failure, retry_delay_s
from whisperd.watch.ledger import FileRow, Identity, Seen, recognise, wants_work
from whisperd.watch.quiet import parse_quiet_hours, quiet_for_s

SAME = Identity("8:1", 1000, 5)


def row(path: str = "a.wav", identity: Identity = SAME, **fields: object) -> FileRow:
    values: dict = {"id": 1, "watch": "w", "hash": "h", "status": "done", **fields}
    return FileRow(path=path, identity=identity, **values)


def test_an_unchanged_file_is_recognised() -> None:
    assert recognise(Seen("a.wav", SAME), row(), [], lambda _: True).verdict == "same"


@pytest.mark.parametrize(
    "identity", [Identity("8:2", 1000, 5), Identity("8:1", 999, 5), Identity("8:1", 1000, 6)]
)
def test_a_file_with_a_different_identity_is_unknown(identity: Identity) -> None:
    assert recognise(Seen("a.wav", identity), row(), [], lambda _: True).verdict == "unknown"


def test_a_file_on_a_disk_with_another_device_number_is_recognised() -> None:
    seen = Seen("a.wav", Identity("9:1", 1000, 5))
    assert recognise(seen, row(), [], lambda _: True).verdict == "same"


def test_a_renamed_file_is_recognised() -> None:
    assert recognise(Seen("b.wav", SAME), None, [row()], lambda _: False) == ("moved", row())


def test_a_renamed_and_edited_file_is_unknown() -> None:
    seen = Seen("b.wav", Identity("8:1", 1000, 6))
    assert recognise(seen, None, [row()], lambda _: False).verdict == "unknown"


def test_a_hard_link_is_treated_as_a_copy() -> None:
    assert recognise(Seen("b.wav", SAME, links=2), None, [row()], lambda _: True).verdict == "unknown"


def test_another_path_to_a_file_is_an_alias() -> None:
    assert recognise(Seen("link/a.wav", SAME), None, [row()], lambda _: True).verdict == "alias"


def test_on_case_insensitive_disks_a_change_of_case_is_a_rename() -> None:
    assert recognise(Seen("A.wav", SAME), None, [row()], lambda _: True).verdict == "moved"


def test_which_unchanged_files_need_work() -> None:
    now, next_second = "2026-01-01T00:00:00.000Z", "2026-01-01T00:00:01.000Z"
    next_hour = "2026-01-01T01:00:00.000Z"
    assert not wants_work(row(status="done"), now, next_hour)
    assert not wants_work(row(status="working"), now, next_hour)
    assert wants_work(row(status="lost"), now, next_hour)
    later = row(status="retrying", retry_at=next_second)
    assert not wants_work(later, now, next_hour)
    assert wants_work(later, next_second, next_hour)


def test_setting_the_clock_back_does_not_postpone_retries_for_years() -> None:
    put_off = row(status="retrying", retry_at="2031-01-01T00:00:00.000Z")
    assert wants_work(put_off, "2026-01-01T00:00:00.000Z", "2026-01-01T01:00:00.000Z")


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("audio.corrupt", "file"),
        ("audio.no_audio_stream", "file"),
        ("output.exists", "file"),
        ("job.cancelled", "file"),
        ("audio.not_readable", "transient"),
        ("output.not_writable", "transient"),
        ("output.folder_not_writable", "environment"),
        ("decoder.crashed", "transient"),
        ("decoder.not_started", "environment"),
        ("worker.not_started", "environment"),
        ("worker.died", "transient"),
        ("toy.error", "transient"),
        ("internal.error", "transient"),
        ("disk.full", "environment"),
        ("runtime.disabled", "environment"),
        ("model.load_failed", "environment"),
        ("daemon.stopping", "environment"),
        ("store.unreadable", "environment"),
    ],
)
def test_kinds_of_failures(code: str, kind: str) -> None:
    assert kind_of_failure(code) == kind


@given(st.floats(0.01, 10_000))
def test_retry_delays_grow_up_to_an_hour(first_s: float) -> None:
    delays = [retry_delay_s(attempt, first_s) for attempt in range(1, 60)]
    assert delays[0] == first_s
    assert all(one <= other for one, other in pairwise(delays))
    assert max(delays) <= max(3600, first_s)


def test_quiet_hours() -> None:
    night = parse_quiet_hours("22:00-07:00")
    assert quiet_for_s(night, 23 * 3600) == 8 * 3600
    assert quiet_for_s(night, 6.5 * 3600) == 1800
    assert quiet_for_s(night, 7 * 3600) == 0
    assert quiet_for_s(night, 12 * 3600) == 0
    assert quiet_for_s(parse_quiet_hours("12:00-13:00, 12:30-14:00"), 12.5 * 3600) == 1.5 * 3600
    assert quiet_for_s(parse_quiet_hours("00:00-24:00"), 5) == 86_395
    assert quiet_for_s(parse_quiet_hours("9:05-9:50"), 9 * 3600 + 600) == 2400


@pytest.mark.parametrize(
    "text", ["", "22-7", "24:00-07:00", "22:60-23:00", "22:00-07:60", "22:00-24:01", "22:00", "x"]
)
def test_invalid_quiet_hours_are_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_quiet_hours(text)


@given(st.integers(0, 1439), st.integers(0, 1439), st.floats(0, 86_399))
def test_quiet_hours_end_on_time(begin: int, end: int, now_s: float) -> None:
    span = f"{begin // 60}:{begin % 60:02}-{end // 60}:{end % 60:02}"
    rest_s = quiet_for_s(parse_quiet_hours(span), now_s)
    if rest_s:
        assert (now_s + rest_s - end * 60) % 86_400 == pytest.approx(0, abs=1e-3) or (
            now_s + rest_s - end * 60
        ) % 86_400 == pytest.approx(86_400, abs=1e-3)
