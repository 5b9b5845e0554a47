"""Put the results of `benchmarks/run.py` into docs/benchmarks.md, with their charts.

    python scripts/benchmarks_page.py                 # the newest result
    python scripts/benchmarks_page.py RESULT.json...  # several of one computer

If two results have the same measurement, the last one counts. Only the text between the two marks is
replaced. Charts go to docs/benchmarks/.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.charts import svg  # noqa: E402
from benchmarks.measure import Chart  # noqa: E402
from benchmarks.run import MINUTES  # noqa: E402

PAGE = ROOT / "docs" / "benchmarks.md"
RESULTS = ROOT / "benchmarks" / "results"
MEASURED = re.compile(r"(?<=<!-- measured -->\n).*?(?=<!-- end of measured -->)", re.DOTALL)


def main() -> int:
    """Update the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", nargs="*", type=Path, metavar="RESULT.json")
    options = parser.parse_args()
    paths = options.results or sorted(RESULTS.glob("*.json"))[-1:]
    if not paths:
        parser.error("there are no results yet: run `make bench`")
    results = [json.loads(path.read_text("utf-8")) for path in paths]
    page, count = MEASURED.subn(lambda _: measured(results), PAGE.read_text("utf-8"))
    if count != 1:
        parser.error(f"{PAGE} must contain the marks `measured` and `end of measured` once")
    PAGE.write_text(page, "utf-8")
    folder = PAGE.with_suffix("")
    folder.mkdir(exist_ok=True)
    for chart in (chart for result in results for one in result["outcomes"] for chart in charts(one)):
        (folder / f"{chart.name}.svg").write_text(svg(chart), "utf-8")
    return 0


def measured(results: Sequence[Mapping[str, Any]]) -> str:
    """Return the measured part of the page."""
    found = {one["name"]: one for result in results for one in result["outcomes"]}
    outcomes = [found[name] for name in MINUTES if name in found]
    lines = [_machine(results[-1]), ""]
    lines += ["```sh", *dict.fromkeys(_command(result) for result in results), "```", ""]
    for outcome in outcomes:
        lines += [*_section(outcome), ""]
    return "\n".join(["", *lines])


def charts(outcome: Mapping[str, Any]) -> list[Chart]:
    """Return the charts of a stored measurement."""
    return [
        Chart(one["name"], one["title"], one["unit"], tuple((label, value) for label, value in one["bars"]))
        for one in outcome["charts"]
    ]


def _machine(result: Mapping[str, Any]) -> str:
    machine = result["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return (
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory_bytes'] / 2**30:.0f} GiB, "
        f"{machine['system']}; Python {machine['python']}, {versions}."
    )


def _command(result: Mapping[str, Any]) -> str:
    # The folder is private, and different on every computer.
    arguments = " ".join(result["arguments"])
    return f"python benchmarks/run.py {re.sub(r'(?<=--audio) *=? *[^ ]+', ' FOLDER', arguments)}".rstrip()


def _section(outcome: Mapping[str, Any]) -> Iterator[str]:
    yield f"### {outcome['name']}"
    yield ""
    yield f"Goal: {outcome['goal']}. **{'Met' if outcome['met'] else 'Missed'}.**"
    yield ""
    columns = outcome["columns"] or [""] * len(outcome["rows"][0])
    for row in (columns, ["---", *["---:"] * (len(columns) - 1)], *outcome["rows"]):
        yield f"| {' | '.join(_cell(cell) for cell in row)} |"
    for chart in charts(outcome):
        yield ""
        yield f"![{chart.title}](benchmarks/{chart.name}.svg)"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


if __name__ == "__main__":
    sys.exit(main())
