"""What the speed of a model depends on, to detect when a calibration is outdated. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping

import msgspec

__all__ = ["Circumstances"]


class Circumstances(msgspec.Struct, frozen=True, kw_only=True):
    """A computer and the software that runs models on it."""

    processor: str | None
    cores: int
    """The number of usable cores."""
    gpus: tuple[tuple[str, int], ...]
    """Name and memory in bytes of each."""
    driver: str | None
    """The version of the GPU driver."""
    beam_size: int
    """The default of jobs, used for the measurements."""
    versions: Mapping[str, str]
    """Of whisperd and of each backend's distribution, so that a release that changes an engine's speed
    invalidates calibrations automatically."""
    variants: Mapping[str, str | None]
    """The digest of the files of each; None if it has none."""

    @property
    def fingerprint(self) -> str:
        """A hash that differs as soon as anything has changed."""
        return hashlib.sha256(msgspec.json.encode(self, order="sorted")).hexdigest()[:16]

    def changes_since(self, before: Circumstances) -> Iterator[str]:
        """Yield what has changed, each as the end of a sentence for the user."""
        for name, old, new in (
            ("the CPU", before.processor, self.processor),
            ("the number of cores", before.cores, self.cores),
            ("the driver of the GPU", before.driver, self.driver),
            ("beam_size", before.beam_size, self.beam_size),
        ):
            if old != new:
                yield f"{name} is {new or 'unknown'} and was {old or 'unknown'}"
        if before.gpus != self.gpus:
            yield "the GPUs have changed"
        for name in sorted({*before.versions, *self.versions}):
            old, new = before.versions.get(name), self.versions.get(name)
            if old != new:
                yield f"{name} is {new or 'not installed'} and was {old or 'not installed'}"
        for name in sorted({*before.variants, *self.variants}):
            if name not in before.variants:
                yield f"{name} is new"
            elif name not in self.variants:
                yield f"{name} has been removed"
            elif before.variants[name] != self.variants[name]:
                yield f"the libraries of {name} have changed"
