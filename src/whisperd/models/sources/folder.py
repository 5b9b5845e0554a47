"""The folders named in the settings: a network share, a USB stick, another program's models."""

from __future__ import annotations

from pathlib import Path

from whisperd.models.catalogue import ModelFile
from whisperd.models.names import Reference
from whisperd.models.sources.base import (
    Found,
    FoundFile,
    NotHere,
    Workspace,
    missing_names,
    wanted_names,
)
from whisperd.threads import run_abandonable

__all__ = ["ExactFileSource", "ExactFolderSource", "FolderSource"]


class FolderSource:
    """Finds `{folder}/{model}` and `{folder}/{repository}`. Copies, as the folder may be unmounted later."""

    remote = False

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = f"the folder {folder}"

    async def fetch(self, model: Reference, workspace: Workspace) -> Found:
        """See `Source.fetch`."""
        try:
            found, size_bytes = await run_abandonable(self.folder / model.key, lambda: self._find(model))
        except TimeoutError as error:
            raise NotHere("does not respond") from error
        except OSError as error:
            raise NotHere(f"cannot be read ({error.strerror})") from error
        workspace.need_space(size_bytes)
        return found

    def _find(self, model: Reference) -> tuple[Found, int]:
        """Return the files and their total size in bytes."""
        reason = "does not have it"
        for candidate in self._candidates(model):
            files = _model_files(candidate, wanted_names(model))
            missing = missing_names({found.file.name for found in files}, model)
            if not missing:
                size_bytes = sum(found.path.stat().st_size for found in files)
                return Found(files, "copy", model.revision), size_bytes
            if files:
                reason = f"lacks {', '.join(missing)}"
        raise NotHere(reason)

    def _candidates(self, model: Reference) -> list[Path]:
        repository = [model.repo.replace("/", "--"), model.repo.rpartition("/")[2]] if model.repo else []
        return [self.folder / name for name in dict.fromkeys([model.name, model.key, *repository])]


class ExactFolderSource(FolderSource):
    """A folder with one model, to import."""

    def _candidates(self, model: Reference) -> list[Path]:  # noqa: ARG002
        return [self.folder]


class ExactFileSource:
    """A file that is a whole model, to import under the name `target`."""

    remote = False

    def __init__(self, file: Path, target: str) -> None:
        self.file = file
        self.target = target
        self.name = f"the file {file}"

    async def fetch(self, model: Reference, workspace: Workspace) -> Found:
        """See `Source.fetch`."""
        try:
            status = await run_abandonable(self.file, self.file.stat)
        except (TimeoutError, OSError) as error:
            raise NotHere("cannot be read") from error
        workspace.need_space(status.st_size)
        found = FoundFile(ModelFile(name=self.target), self.file)
        return Found((found,), "copy", model.revision)


def _model_files(folder: Path, names: tuple[str, ...]) -> tuple[FoundFile, ...]:
    paths = [folder / name for name in names if (folder / name).is_file()]
    for path in paths:
        with path.open("rb") as file:  # so that a read error shows here, as a fault of the folder
            file.read(1)
    return tuple(FoundFile(ModelFile(name=path.name), path) for path in paths)
