"""The display of runtimes: tables that fit, and plain wording."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from scripted_daemon import LOADED, a_runtime
from whisperd.cli.output import ago, shortened, table
from whisperd.cli.runtime_view import details, runtime_table, span, what_runs
from whisperd.cli.runtime_watch import changes

NOW = datetime(2026, 1, 2, 12, 0, 0, tzinfo=UTC)

statuses = st.sampled_from(["unloaded", "downloading", "loading", "loaded", "failed", "cancelled"])
runtimes = st.builds(
    a_runtime,
    name=st.text("abcXYZ -._0123", min_size=1, max_size=64),
    model=st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=300),
    default=st.booleans(),
    enabled=st.booleans(),
    status=statuses,
    progress=st.none() | st.floats(0, 100),
    device=st.sampled_from(["auto", "cuda", "cpu"]),
    device_index=st.lists(st.integers(0, 99), max_size=32),
    memory=st.none() | st.integers(0, 10**12 - 1),
    last_used=st.none() | st.datetimes(datetime(2016, 1, 1), datetime(2027, 1, 1)).map(lambda t: f"{t}Z"),
    leases=st.integers(0, 9999),
)


def cells(text: str) -> int:
    """Return the width in terminal cells, computed independently of the program."""
    from unicodedata import category, east_asian_width

    return sum(
        0 if category(one) in ("Mn", "Me", "Cf") else 1 + (east_asian_width(one) in ("W", "F"))
        for one in text
    )


@given(st.lists(runtimes, min_size=1, max_size=5))
def test_the_table_always_fits_80_columns(several: list[dict[str, Any]]) -> None:
    lines = runtime_table(several, NOW, 80)
    assert len(lines) == len(several) + 1
    assert max(map(cells, lines)) <= 80
    for one, line in zip(several, lines[1:], strict=True):
        assert line.isprintable()
        assert line[0] == one["name"][0]


def test_the_table_of_runtimes() -> None:
    several = [
        a_runtime("fast", **LOADED, leases=2, default=True),
        a_runtime(
            "best", status="downloading", progress=41.7, model="large-v3", device="cuda", device_index=[0, 1]
        ),
        a_runtime("old", enabled=False, last_used="2026-01-02T11:56:59Z"),
        a_runtime("b" * 40, model=f"/home/me/{'x' * 60}/base", status="failed"),
    ]
    assert runtime_table(several, NOW, 80) == [
        "NAME         STATUS            MODEL         DEVICE    MEMORY  LAST USED  LEASES",
        "fast *       loaded            tiny.en       cpu       145 MB  now        2",
        "best         downloading 42 %  large-v3      cuda:0,1  -       never      0",
        "old          disabled          tiny.en       auto      -       3 min ago  0",
        "bbbb...bbbb  failed            /home...base  auto      -       never      0",
    ]


def test_a_wide_terminal_shows_everything() -> None:
    model = f"/home/me/{'x' * 60}/base"
    assert model in runtime_table([a_runtime(model=model)], NOW, 200)[1]


def test_the_details_of_a_runtime() -> None:
    error = {"code": "a.b", "message": "It\nbroke.", "fix": "Mend it.", "data": {}}
    history = [
        {
            "time": "2026-01-02T03:04:05.000Z",
            "status": "downloading",
            "detail": "downloading base",
            "error": None,
        },
        {"time": "2026-01-02T03:04:06.000Z", "status": "failed", "detail": None, "error": error},
    ]
    lines = details(
        a_runtime(**LOADED, keep_alive=-1.0, default=True, saved=False, error=error, history=history), NOW
    )
    facts = {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
    assert facts.items() >= {
        "status": "loaded", "default": "yes", "batching": "4 windows together", "keep alive": "forever",
        "loaded as": "cpu, int8, 2 workers with 1 thread each", "process": "4711", "memory": "145 MB",
        "error": r"It\nbroke.", "CPU threads": "auto", "waiting": "0 windows",
    }.items()  # fmt: skip
    assert "made temporarily" in facts["saved"]
    assert lines[-5].strip() == "Mend it."
    assert lines[-3].split() == ["TIME", "STATUS", "DETAIL"]
    assert lines[-2].endswith("downloading  downloading base")
    assert lines[-1].endswith(r"failed       It\nbroke.")


def test_absent_facts_are_omitted() -> None:
    text = "\n".join(details(a_runtime(batched=False), NOW))
    assert "batching:     off" in text
    for word in ("error", "process", "TIME", "saved", "variant", "loaded as"):
        assert word not in text


def test_the_measured_batch_size_is_shown_once_loaded() -> None:
    loaded = a_runtime(**{**LOADED, "loaded": {**LOADED["loaded"], "batch_size": 8}}, batch_size=4)
    assert "batching:     8 windows together" in "\n".join(details(loaded, NOW))


@given(runtimes)
def test_every_runtime_can_be_shown(runtime: dict[str, Any]) -> None:
    assert all(line.isprintable() for line in details(runtime, NOW))


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "not at all"), (-1, "forever"), (900, "15 min"), (5400, "1 h 30 min"), (90.5, "1 min 30.5 s")],
)
def test_spans(seconds: float, said: str) -> None:
    assert span(seconds) == said


@pytest.mark.parametrize(
    ("gone_s", "said"),
    [
        (-5, "now"), (0, "now"), (9.9, "now"), (10, "10 s ago"), (59, "59 s ago"), (60, "1 min ago"),
        (3599, "59 min ago"), (3600, "1 h ago"), (86_399, "23 h ago"), (86_400, "1 day ago"),
        (172_800, "2 days ago"),
    ],
)  # fmt: skip
def test_how_long_ago(gone_s: float, said: str) -> None:
    assert ago((NOW - timedelta(seconds=gone_s)).isoformat(), NOW) == said


def test_no_last_use_is_never() -> None:
    assert ago(None, NOW) == "never"


def test_the_description_of_a_loaded_runtime() -> None:
    assert what_runs(None) == "not loaded"
    gpus = {**LOADED["loaded"], "device": "cuda", "device_index": [0, 1], "workers": 1, "cpu_threads": 0}
    assert what_runs(gpus) == "cuda:0,1, int8, 1 worker"
    assert what_runs({**gpus, "cpu_threads": 4}) == "cuda:0,1, int8, 1 worker with 4 threads"


@example("." * 3 + "b" * 9, 8)
@given(st.text(st.characters(exclude_categories=("Cs",))), st.integers(0, 50))
def test_shortened_text_fits_and_keeps_its_ends(text: str, room: int) -> None:
    short = shortened(text, room)
    assert cells(short) <= room
    if cells(text) <= room:
        assert short == text
    elif room > 3:  # the text may contain dots itself
        cuts = [at for at in range(len(short)) if short.startswith("...", at)]
        assert any(text.startswith(short[:at]) and text.endswith(short[at + 3 :]) for at in cuts)


def test_wide_characters_take_two_cells() -> None:
    assert table(("A", "B"), [("日本", "x"), ("ab", "y")]) == ["A     B", "日本  x", "ab    y"]
    assert shortened("日本語の模型です", 9) == "日...す"


def test_only_flexible_columns_shrink() -> None:
    lines = table(("LONG", "SHORT"), [("a" * 50, "b" * 30)], room=50, flexible=("LONG",))
    assert lines[1] == f"{'a' * 8}...{'a' * 7}  {'b' * 30}"
    assert table(("LONG",), [("a" * 50,)], room=1, flexible=("LONG",))[1] == "aa...a"
    assert table(("LONG",), [("a" * 50,)], room=1)[1] == "a" * 50


def test_changes_are_reported_once() -> None:
    fast, best = a_runtime("fast", id="1"), a_runtime("best", id="2")
    used = {**fast, "memory": 5, "last_used": "2026-01-02T11:56:59Z"}
    loading = {**best, "status": "loading"}
    assert changes([], [fast, best]) == [fast, best]
    assert changes([fast, best], [used, best]) == []
    assert changes([used, best], [used, loading]) == [loading]
    assert changes([fast, loading], [loading]) == [{**fast, "deleted": True}]
    assert changes([loading], [loading]) == []
