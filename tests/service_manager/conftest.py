"""Fixtures shared by the tests of the service."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from service_user import User


@pytest.fixture
def user(tmp_path: Path) -> Iterator[User]:
    with tempfile.TemporaryDirectory(prefix="whisperd-") as short:
        made = User(tmp_path, Path(short))
        yield made
        made.close()
