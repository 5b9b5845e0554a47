"""When a task stops receiving the events of a dictation, its subscription ends at once."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, cast

import pytest

from whisperd.client import AsyncClient, AsyncDictation

Map = dict[str, Any]


class Followed:
    """A client that counts the followers of a job."""

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
async def test_closing_the_events_ends_following() -> None:
    client = Followed()
    events = aiter(AsyncDictation(cast("AsyncClient", client), "job"))
    assert (await anext(events))["type"] == "transcription.partial"
    assert client.followers == 1
    await events.aclose()
    assert client.followers == 0
