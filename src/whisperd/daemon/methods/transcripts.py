"""`transcripts.*`: the texts that are kept."""

from __future__ import annotations

from typing import Annotated

import msgspec

from whisperd.daemon.service import Call
from whisperd.jobs.search import parse_query
from whisperd.jobs.transcripts import FoundTranscript
from whisperd.rpc.messages import Params


class SearchParams(Params, frozen=True):
    """What to look for, as `whisperd.jobs.search` explains."""

    query: Annotated[str, msgspec.Meta(max_length=1000)]
    limit: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 50
    """Places at most."""


async def search(call: Call, params: SearchParams) -> list[FoundTranscript]:
    """The recordings in which something was said, the best first, each with the places."""
    return await call.service.job_keeper.transcripts.search(parse_query(params.query), params.limit)
