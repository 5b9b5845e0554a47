"""The worker process: `python -m whisperd.worker.main MODULE:FUNCTION [BUNDLE]`.

Puts the native bundle first on its path, isolated from all other libraries, then serves three requests:
`load`, once; `transcribe`, on as many concurrent threads as the engine has replicas; and `cancel`, which
names windows of a batch whose results are no longer wanted.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Set
from functools import partial
from pathlib import Path
from typing import cast

import msgspec

from whisperd.allocator import glibc
from whisperd.isolation import enter_bundle
from whisperd.rpc.errors import WhisperdError
from whisperd.rpc.messages import decode_params
from whisperd.rpc.stdio import Stdio
from whisperd.worker.answers import Transcribe, checked
from whisperd.worker.coverage import transcribe_whole
from whisperd.worker.faults import explain, words_of
from whisperd.worker.freed_memory import FreedMemory
from whisperd.worker.phantoms import without_phantoms
from whisperd.worker.protocol import (
    MAX_REPLICAS,
    BatchParams,
    CancellableEngine,
    CancelParams,
    Engine,
    EngineInfo,
    EngineWindow,
    LoadEngine,
    LoadParams,
    WindowResult,
)
from whisperd.worker.unwanted import UnwantedGroups

__all__ = ["main"]


class _Service:
    """The engine of this process, once it is loaded."""

    def __init__(self, engine_name: str) -> None:
        self._engine_name = engine_name
        self._engine: Engine | None = None
        self._params: LoadParams
        self._unwanted = UnwantedGroups()
        self._freed_memory = FreedMemory(glibc())

    def load(self, raw: msgspec.Raw) -> EngineInfo:
        self._params = params = decode_params(raw, LoadParams)
        module, _, function = self._engine_name.partition(":")
        try:
            load: LoadEngine = getattr(importlib.import_module(module), function)
        except Exception as error:  # importing a library may raise anything
            raise explain(words_of(error), params) or _not_imported(module, error, params) from error
        try:
            self._engine = load(params)
        except WhisperdError:
            raise
        except Exception as error:
            raise explain(words_of(error), params) or WhisperdError(
                "model.load_failed",
                f"The model in {params.model_path} cannot be loaded: {error}.",
                _model_fix(params),
            ) from error
        if self._engine.info.keeps_memory:
            self._freed_memory.keep()
        return self._engine.info

    def transcribe(self, raw: msgspec.Raw) -> list[WindowResult]:
        batch = decode_params(raw, BatchParams)
        unwanted = self._unwanted.begin(batch.id)
        try:
            with self._freed_memory.computing():
                results = self._transcribe(batch, unwanted)
            expected = f"{batch.options.hotwords or ''} {batch.options.prompt or ''}"
            return [
                without_phantoms(result, window, expected)
                for result, window in zip(results, batch.windows, strict=True)
            ]
        except WhisperdError:
            raise
        except Exception as error:
            if fault := explain(words_of(error), self._params):
                raise fault from error
            raise
        finally:
            self._unwanted.end(batch.id)

    def cancel(self, raw: msgspec.Raw) -> None:
        params = decode_params(raw, CancelParams)
        self._unwanted.add(params.id, params.groups)

    def _transcribe(self, batch: BatchParams, unwanted: Set[int]) -> list[WindowResult]:
        assert self._engine is not None, "transcribe before load"

        def is_wanted(window: EngineWindow) -> bool:
            return window.group not in unwanted

        transcribe: Transcribe = self._engine.transcribe
        if self._engine.info.cancels:
            transcribe = partial(cast(CancellableEngine, self._engine).transcribe, is_wanted=is_wanted)
        return transcribe_whole(checked(transcribe), batch.windows, batch.options, is_wanted)


def _not_imported(module: str, error: Exception, params: LoadParams) -> WhisperdError:
    if isinstance(error, ImportError) and (error.name or "").partition(".")[0] == "whisperd":
        message = f"The engine {module} is for another version of whisperd: {error}."
        fix = "Update whisperd and its plugins, then run `whisperctl daemon restart`."
    else:
        message = f"The native library of {module} cannot be loaded: {error}."
        fix = _library_fix(params)
    return WhisperdError("native.broken", message, fix)


def _library_fix(params: LoadParams) -> str:
    if params.bundle_name is None:
        return "Reinstall its plugin; `whisperctl daemon logs` shows the library's messages."
    return (
        f"Run `whisperctl natives verify {params.bundle_name}` and, if it is damaged, "
        f"`whisperctl natives install {params.bundle_name}`."
    )


def _model_fix(params: LoadParams) -> str:
    if params.model_name is None or Path(params.model_name).is_absolute():  # a folder or file of the user
        where = params.model_name or params.model_path
        return f"Check that {where} is complete, or download or copy the model again."
    return (
        f"Run `whisperctl models verify {params.model_name}` and, if it is damaged, "
        f"`whisperctl models pull {params.model_name}`."
    )


def main() -> None:
    """Serve until the daemon closes standard input."""
    stdio = Stdio.take()
    engine_name, *bundles = sys.argv[1:]
    for bundle in bundles:
        enter_bundle(Path(bundle), engine_name.partition(":")[0].partition(".")[0])
    service = _Service(engine_name)
    handlers = {"load": service.load, "transcribe": service.transcribe, "cancel": service.cancel}
    stdio.serve(handlers, concurrency=MAX_REPLICAS + 1)


if __name__ == "__main__":
    main()
