"""`transcripts.*`: the stored transcripts."""

from __future__ import annotations

from typing import Annotated

import msgspec

from whisperd.daemon.service import Call
from whisperd.jobs.search import parse_query
from whisperd.jobs.transcripts import FoundTranscript
from whisperd.rpc.messages import Params


class SearchParams(Params, frozen=True):
    """The search query, as explained in `whisperd.jobs.search`."""

    query: Annotated[str, msgspec.Meta(max_length=1000)]
    limit: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 50
    """The maximum number of places to return."""


async def search(call: Call, params: SearchParams) -> list[FoundTranscript]:
    """Return the recordings that match, the best first, each with the matching places."""
    return await call.service.job_keeper.transcripts.search(parse_query(params.query), params.limit)
