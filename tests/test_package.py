"""What `pip install whisperd` brings."""

from __future__ import annotations

import pytest
from benchmarks import size

pytestmark = pytest.mark.real


def test_it_is_light_and_brings_no_inference_library() -> None:
    outcome = size.measure()
    assert outcome.met, outcome.rows
    assert outcome.data["inference_libraries"] == []
