"""What a client says of itself first, on every connection."""

from __future__ import annotations

import os
from typing import Any

from whisperd._version import PROTOCOL, __version__

__all__ = ["hello_params"]


def hello_params(profile: str | None) -> dict[str, Any]:
    """The parameters of `session.hello`.

    Without a profile it is that of the variable `WHISPERD_PROFILE`, if that is set; the empty name is none.
    """
    params: dict[str, Any] = {"client": "whisperd-python", "version": __version__, "protocol": PROTOCOL}
    named = os.environ.get("WHISPERD_PROFILE") if profile is None else profile
    return {**params, "profile": named} if named else params
