"""Renders metrics as text, in Prometheus' exposition format, version 0.0.4. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Literal

__all__ = ["CONTENT_TYPE", "Family", "Histogram", "Sample", "by_label", "render"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
NAMESPACE = "whisperd"
"""Prefix of each name in the text."""

Kind = Literal["counter", "gauge", "histogram"]


@dataclass(frozen=True)
class Sample:
    """One value. `suffix` is appended to the name of its family."""

    value: float
    labels: Mapping[str, str] = field(default_factory=dict)
    suffix: str = ""


@dataclass(frozen=True)
class Family:
    """A metric: its name, help text, and values."""

    name: str
    kind: Kind
    help: str
    samples: Sequence[Sample]


class Histogram:
    """Counts how many observations were at most as large as each bound."""

    def __init__(self, bounds: Sequence[float]) -> None:
        """`bounds` are ascending; larger values are counted as well."""
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        place = next((at for at, bound in enumerate(self._bounds) if value <= bound), len(self._bounds))
        self._counts[place] += 1
        self._sum += value

    def family(self, name: str, help: str) -> Family:
        """Return the histogram as a metric."""
        totals = list(accumulate(self._counts))
        buckets = [
            Sample(total, {"le": _number(bound)}, "_bucket")
            for bound, total in zip((*self._bounds, math.inf), totals, strict=True)
        ]
        samples = [*buckets, Sample(self._sum, suffix="_sum"), Sample(totals[-1], suffix="_count")]
        return Family(name, "histogram", help, samples)


def render(families: Iterable[Family]) -> str:
    """Return the metrics as text."""
    lines: list[str] = []
    for family in families:
        name = f"{NAMESPACE}_{family.name}"
        lines.append(f"# HELP {name} {_escaped(family.help)}")
        lines.append(f"# TYPE {name} {family.kind}")
        lines += [f"{name}{one.suffix}{_labels(one.labels)} {_number(one.value)}" for one in family.samples]
    return "\n".join([*lines, ""])


def by_label(label: str, values: Mapping[str, float]) -> list[Sample]:
    """Return one sample for each value of a label."""
    return [Sample(value, {label: key}) for key, value in values.items()]


def _labels(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_quoted(value)}"' for name, value in labels.items()) + "}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def _quoted(text: str) -> str:
    return _escaped(text).replace('"', '\\"')


def _number(value: float) -> str:
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    if math.isnan(value):
        return "NaN"
    return str(int(value)) if float(value).is_integer() and abs(value) < 2**53 else repr(float(value))
