"""Tries a newly installed bundle before it is used, on the speech that is shipped with whisperd."""

from __future__ import annotations

import math
import tempfile
import wave
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio
import anyio.to_thread

from whisperd.audio import SAMPLE_RATE, DecodeParams, open_decoder_pool
from whisperd.models import InstalledModel
from whisperd.models.files import backends_for
from whisperd.natives import InstalledBundle
from whisperd.plugins import Backend, Variant
from whisperd.rpc.errors import WhisperdError
from whisperd.runtimes import RuntimePreset, open_prepared
from whisperd.runtimes.file_models import variants_for
from whisperd.runtimes.prepare import load_params, prepare_model
from whisperd.speech import Sample, samples, word_errors, words
from whisperd.worker.process import WorkerDied, open_worker
from whisperd.worker.protocol import BatchParams, DecodeOptions, EngineWindow, LoadParams

if TYPE_CHECKING:
    from whisperd.daemon.service import Service

__all__ = ["try_bundle"]

LENIENT: Final = 0.5
"""This fraction of words may be wrong: a small model gets some wrong, a broken library nearly all."""
_BROKEN: Final = ("native.broken", "library.", "cuda.")
"""Prefixes of the codes of errors that a library causes, not the model."""


async def try_bundle(service: Service, installed: InstalledBundle) -> str:
    """Use a bundle for its purpose, in separate processes, and return in a few words what was done.

    Raises `WhisperdError` if that fails.
    """
    judged = await service.computer.judged_variants()
    found = next((one for one in judged if one.variant.name == installed.name), None)
    sample = (await anyio.to_thread.run_sync(samples))[0]
    if found is None:
        return await _decode(installed, sample)
    backend, variant = found.backend, found.variant
    model = await _smallest_model(service, backend)
    if model is None:
        return await _import(installed, backend, variant)
    return await _transcribe(service, installed, backend, variant, model, sample)


async def _decode(installed: InstalledBundle, sample: Sample) -> str:
    """Decode a file of speech, and check that speech is found in it."""

    async def find_bundle() -> Path:
        return installed.path

    with tempfile.TemporaryDirectory(prefix="whisperd-") as folder:
        path = Path(folder, "sample.wav")
        await anyio.to_thread.run_sync(_write_wave, path, sample)
        async with (
            open_decoder_pool(find_bundle) as decoders,
            decoders.decode(DecodeParams(path=str(path))) as decoding,
        ):
            async for _ in decoding:
                pass
            result = decoding.result
    if result is None or result.speech < LENIENT * sample.duration_s:
        raise _wrong("the decoder found no speech in a recording of speech")
    return f"it decoded {sample.duration_s:.0f} s of speech"


async def _import(installed: InstalledBundle, backend: Backend, variant: Variant) -> str:
    """Have a worker load a model that does not exist: its error shows whether its libraries were loaded."""
    params = LoadParams(
        model_path=str(installed.path / "no-model"),
        bundle_name=installed.name,
        device=variant.device,
        compute_type=variant.compute_types[0],
    )
    try:
        async with open_worker(installed.path, backend.engine, params, environment=variant.environment):
            pass
    except WorkerDied as error:
        raise _died(error) from error
    except WhisperdError as error:
        if error.code.startswith(_BROKEN):
            raise
    return "its libraries were loaded; no model is installed to try it with"


async def _transcribe(
    service: Service,
    installed: InstalledBundle,
    backend: Backend,
    variant: Variant,
    model: InstalledModel,
    sample: Sample,
) -> str:
    """Have a worker transcribe speech with a model, and compare the words."""
    preset = RuntimePreset(id="", name=model.name, model=model.name, workers=1, created="", changed="")
    ((backend, variant),) = variants_for(preset, model.facts, [(backend, variant)])
    models = service.models.for_trials()
    prepared = await prepare_model(
        preset, backend, variant, installed.path, model, models, service.on_model_progress
    )
    batch = BatchParams(
        windows=(EngineWindow(pcm=sample.pcm),),
        options=DecodeOptions(language=sample.language, beam_size=1),
    )
    try:
        async with open_prepared(prepared, load_params(preset, prepared)) as worker:
            (result,) = await worker.transcribe(batch)
    except WorkerDied as error:
        raise _died(error) from error
    text = " ".join(segment.text for segment in result.segments)
    if word_errors(sample.text, text) > LENIENT * len(words(sample.text)):
        raise _wrong(f"the model {model.name} transcribed a recording of speech wrongly with this bundle")
    return f"it transcribed {sample.duration_s:.0f} s of speech with {model.name}"


async def _smallest_model(service: Service, backend: Backend) -> InstalledModel | None:
    """Return the smallest model that a backend can load and that knows the language of the speech, in the
    store or used in place. Only few backends can load a file in its own format.
    """
    names: list[str] = []
    with suppress(WhisperdError):  # a problem with the models' folder does not concern the bundle
        names += [summary.name for summary in await service.models.list()]
    names += [runtime.preset.model for runtime in service.runtimes.all()]
    found = [await _find(service, name) for name in dict.fromkeys(names)]
    own = [one for one in found if one and (one.facts is None or backend in backends_for(one.facts))]
    able = [one for one in own if one.languages is None or "en" in one.languages]
    return min(able, key=lambda one: math.inf if one.size is None else one.size, default=None)


async def _find(service: Service, name: str) -> InstalledModel | None:
    try:
        return await service.models.find(name)
    except WhisperdError:  # a runtime names a folder or file of the user that was deleted
        return None


def _write_wave(path: Path, sample: Sample) -> None:
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, SAMPLE_RATE, 0, "NONE", ""))
        file.writeframes(sample.pcm)


def _died(death: WorkerDied) -> WhisperdError:
    return death.fault or _wrong(f"the process that used it ended ({death.how})", death.last_words)


def _wrong(what: str, said: str = "") -> WhisperdError:
    return WhisperdError(
        "native.wrong",
        f"{what[0].upper()}{what[1:]}.",
        "Use another version of the bundle.",
        {"said": said},
    )
