"""What a handler is given: the daemon and the connection that asks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from whisperd.daemon.connection import Connection
    from whisperd.daemon.service import Service

__all__ = ["Call"]


@dataclass(frozen=True)
class Call:
    """A request that is being answered."""

    service: Service
    connection: Connection
