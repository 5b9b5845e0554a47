"""The results of `benchmarks/run.py`, as tables and charts."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from benchmarks.charts import shown, svg
from benchmarks.measure import Chart
from benchmarks.run import table

SCRIPTS = Path(__file__).parent.parent / "scripts"
SVG = "{http://www.w3.org/2000/svg}"

OUTCOME: dict[str, Any] = {
    "name": "throughput",
    "goal": "fast",
    "met": True,
    "columns": ["", "seconds"],
    "rows": [["whisperd", "2.0"], ["a|b", "8.1"]],
    "charts": [{"name": "throughput", "title": "Fast & right", "unit": "x", "bars": [["whisperd", 4.0]]}],
}
RESULT: dict[str, Any] = {
    "machine": {
        "processor": "A processor",
        "cores": 2,
        "memory_bytes": 8 * 2**30,
        "system": "Linux",
        "python": "3.11.1",
        "versions": {"ctranslate2": "4.8.5"},
    },
    "arguments": ["throughput", "--audio", "/a/private/folder", "--short"],
    "outcomes": [OUTCOME],
}


@pytest.fixture
def page() -> Iterator[Any]:
    sys.path.insert(0, str(SCRIPTS))
    try:
        import benchmarks_page

        yield benchmarks_page
    finally:
        sys.path.remove(str(SCRIPTS))


def test_bars_are_proportional_to_their_values() -> None:
    chart = Chart("name", "Faster <than>", "x", (("whisperd", 50.0), ("another & one", 12.5), ("none", 0.0)))
    document = ElementTree.fromstring(svg(chart))
    bars = document.findall(f"{SVG}rect")
    widths = [float(bar.attrib["width"]) for bar in bars]
    assert widths[1] == pytest.approx(widths[0] / 4, abs=0.1)
    assert widths[2] == 0
    assert [bar.attrib["class"] for bar in bars] == ["bar ours", "bar", "bar"]
    texts = [text.text for text in document.findall(f"{SVG}text")]
    assert texts == ["Faster <than>", "whisperd", "50 x", "another & one", "12.5 x", "none", "0 x"]
    assert float(document.attrib["width"]) >= widths[0] + float(bars[0].attrib["x"])


def test_numbers_are_rounded_to_significant_digits() -> None:
    assert [shown(value) for value in (1234.5, 99.96, 12.34, 0.123)] == ["1234", "100", "12.3", "0.123"]


def test_the_page_names_results_machine_and_command(page: Any) -> None:
    text = page.measured([RESULT])
    assert "A processor, 2 cores, 8 GiB, Linux; Python 3.11.1, ctranslate2 4.8.5." in text
    assert "python benchmarks/run.py throughput --audio FOLDER --short\n" in text
    assert "private" not in text
    assert "Goal: fast. **Met.**" in text
    assert "| whisperd | 2.0 |\n| a\\|b | 8.1 |\n" in text
    assert "![Fast & right](benchmarks/throughput.svg)" in text


def test_a_later_result_replaces_an_earlier_one(page: Any) -> None:
    later = {**RESULT, "outcomes": [{**OUTCOME, "met": False}]}
    text = page.measured([RESULT, later])
    assert "**Missed.**" in text and "**Met.**" not in text


def test_the_page_has_one_marked_section(page: Any) -> None:
    assert len(page.MEASURED.findall(page.PAGE.read_text("utf-8"))) == 1


def test_a_table_is_aligned() -> None:
    from benchmarks.measure import Outcome

    outcome = Outcome("one", "a goal", True, [("a", "1"), ("longer", "22")], columns=("", "seconds"))
    assert table(outcome) == ["        seconds", "a       1", "longer  22"]
