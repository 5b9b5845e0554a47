"""Progress of a runtime until it is ready: its downloads, then its loading."""

from __future__ import annotations

from typing import TYPE_CHECKING

from whisperd.cli.command import show_download
from whisperd.rpc.errors import WhisperdError

if TYPE_CHECKING:
    from typing import Any

    from whisperd.cli.output import Progress
    from whisperd.client import Client

    Map = dict[str, Any]

__all__ = ["PREPARATION_TOPICS", "Preparation", "runtime_of"]

PREPARATION_TOPICS = ("natives", "models", "runtimes")


class Preparation:
    """Shows the progress of one runtime and ignores the others."""

    def __init__(self, runtime: Map) -> None:
        self._id = runtime["id"]
        self._model = runtime["model"]
        self._has_details = False

    def show(self, progress: Progress, event: Map) -> None:
        """Show an event, if it concerns this runtime.

        Native libraries concern all runtimes. Once bytes and seconds are known, they replace the percentage.
        """
        match event:
            case {"type": "runtime.status", "id": self._id, "status": status}:
                self._show_status(progress, status, event)
            case {"type": "native.progress"} | {"type": "model.progress", "name": self._model}:
                self._has_details = True
                show_download(progress, event)

    def _show_status(self, progress: Progress, status: str, event: Map) -> None:
        match status:
            case "downloading":
                if not self._has_details:
                    what = event["detail"] or f"preparing {event['name']}"
                    progress.show(what[:1].upper() + what[1:], event["progress"])
            case "loading":
                progress.show(f"Loading {event['name']}", event["progress"])
            case _:
                progress.clear()


def runtime_of(client: Client, job: str) -> Map:
    """Return the runtime of a job, or just its name if the runtime no longer exists."""
    name = client.jobs.show(job)["runtime"]
    try:
        return client.runtimes.show(name)
    except WhisperdError as error:
        if error.code != "runtime.unknown":
            raise
        return {"id": name, "model": name}
