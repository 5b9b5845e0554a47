"""A task that listens to a dictation and stops: what it had asked for ends at once."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, cast

import pytest

from whisperd.client import AsyncClient, AsyncDictation

Map = dict[str, Any]


class Followed:
    """A client that notes whether somebody still follows a job."""

    def __init__(self) -> None:
        self.followers = 0

    async def follow(self, job: str) -> AsyncGenerator[Map, None]:
        self.followers += 1
        try:
            while True:
                yield {"type": "transcription.partial", "id": job}
        finally:
            self.followers -= 1


@pytest.mark.anyio
async def test_who_stops_listening_follows_no_more() -> None:
    client = Followed()
    events = aiter(AsyncDictation(cast("AsyncClient", client), "job"))
    assert (await anext(events))["type"] == "transcription.partial"
    assert client.followers == 1
    await events.aclose()
    assert client.followers == 0
