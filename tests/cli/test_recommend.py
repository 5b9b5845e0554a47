"""`whisperctl models recommend`."""

from __future__ import annotations

from whisperd_testing import RunningDaemon

KEYS = {"name", "memory", "size", "fits", "recommended", "reason"}


def test_one_model_is_recommended(shared: RunningDaemon) -> None:
    models = shared.ctl("models", "recommend", "--json").json
    assert all(set(model) == KEYS for model in models)
    assert len([model for model in models if model["recommended"]]) == 1
    available = shared.ctl("models", "available", "--json").json
    assert [model["name"] for model in models] == [model["name"] for model in available]


def test_the_client_asks_for_the_same(shared: RunningDaemon) -> None:
    with shared.connect() as client:
        assert client.models.recommend() == shared.ctl("models", "recommend", "--json").json


def test_the_table_fits_a_terminal_and_marks_the_recommended_one(shared: RunningDaemon) -> None:
    done = shared.ctl("models", "recommend")
    assert (done.status, done.err) == (0, "")
    header, *rows = done.out.splitlines()
    assert header.split() == ["NAME", "SIZE", "MEMORY", "FITS", "WHY"]
    assert max(len(line) for line in (header, *rows)) <= 80
    recommended = [
        one["name"] for one in shared.ctl("models", "recommend", "--json").json if one["recommended"]
    ]
    assert [row.split()[1] for row in rows if row.startswith("*")] == recommended
