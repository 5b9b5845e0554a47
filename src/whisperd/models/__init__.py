"""Fetch, verify and store models: a catalogue that pins them, a store that offers no damaged one.

The entry point is `ModelStore`. This room fetches, verifies and stores model files; it loads none of
them and runs no code from a model. All network access happens in a child process
(`whisperd.models.fetch` for the hub, pip for the package index), which can be killed at any moment.

`store` combines the parts. `names` resolves a name with the `catalogue`. `stored` finds a model by its name
in the `storage`, the folder on disk, with a `manifest` for each model and files verified by `hashing`.
`pulling` fetches a model from the `sources`, in one `flight` for all who wait for it. `converted` keeps
models in other formats. A user's own model is used `in_place`; `folders` and `files` check it. `memory`
(`sizes`) estimates what a model needs, and `recommend` ranks models by it. `children` runs the processes of
`fetch` (`hub_errors`) and `convert`, which answer with `messages`.
"""

from whisperd.models.catalogue import Catalogue, CatalogueModel, shipped_catalogue
from whisperd.models.files import backends_for, file_need_bytes
from whisperd.models.manifest import InstalledModel, ModelSummary
from whisperd.models.memory import loading_bytes, need_bytes
from whisperd.models.recommend import (
    Recommendation,
    SizedModel,
    recommend,
    speeds_from,
    suitable_model,
    too_large,
)
from whisperd.models.sizes import ModelSize
from whisperd.models.sources import Source, default_sources
from whisperd.models.store import ModelStore

__all__ = [
    "Catalogue",
    "CatalogueModel",
    "InstalledModel",
    "ModelSize",
    "ModelStore",
    "ModelSummary",
    "Recommendation",
    "SizedModel",
    "Source",
    "backends_for",
    "default_sources",
    "file_need_bytes",
    "loading_bytes",
    "need_bytes",
    "recommend",
    "shipped_catalogue",
    "speeds_from",
    "suitable_model",
    "too_large",
]
