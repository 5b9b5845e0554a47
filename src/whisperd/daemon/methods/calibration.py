"""`calibration.*`: measures the fastest way to run a model on this computer."""

from __future__ import annotations

from typing import Any

from whisperd.calibration import (
    Calibration,
    Circumstances,
    Setting,
    Trial,
    chosen_trial,
    reference_errors,
    striking_trial,
)
from whisperd.daemon.service import Call
from whisperd.progress import ignore_progress
from whisperd.rpc.errors import WhisperdError
from whisperd.rpc.messages import Name, Params


class CalibrationParams(Params, frozen=True):
    """Which model to calibrate; by default that of the default runtime."""

    model: Name | None = None


async def run(call: Call, params: CalibrationParams) -> dict[str, Any]:
    """Try the ways to run a model and choose the fastest; publish progress on the topic `calibration`."""
    service = call.service
    model = await _model(call, params)
    await service.models.pull(model, service.on_model_progress)
    # What would be used without calibration must be installed, to compare with it.
    preset = service.runtimes.editor.unsaved(model, await service.models.facts(model))
    await service.provisioner.prepare(preset, ignore_progress)
    found = await service.calibrator.run(model)
    await service.runtimes.reload_if_faster(model)
    return _described(found, await service.calibrator.circumstances())


async def show(call: Call, params: CalibrationParams) -> dict[str, Any]:
    """Return the calibration of a model, with all trials."""
    model = await _model(call, params)
    calibrator = call.service.calibrator
    found = await calibrator.show(model)
    if found is None:
        raise WhisperdError(
            "calibration.none",
            f"The model {model} has not been calibrated on this computer.",
            f"Run `whisperctl calibrate {model}`; it takes about a minute.",
            {"model": model},
        )
    return _described(found, await calibrator.circumstances())


async def forget(call: Call, params: CalibrationParams) -> dict[str, Any]:
    """Delete the calibration of a model: from now on, its variant is chosen by priority."""
    model = await _model(call, params)
    return {"model": model, "forgotten": await call.service.calibrator.forget(model)}


async def _model(call: Call, params: CalibrationParams) -> str:
    if params.model is None:
        return call.service.runtimes.default.preset.model
    return await call.service.known_model(params.model)


def _described(found: Calibration, now: Circumstances) -> dict[str, Any]:
    chosen = chosen_trial(found)
    return {
        "model": found.model,
        "time": found.time,
        "current": found.fingerprint == now.fingerprint,
        "changed": list(now.changes_since(found.circumstances)),
        "complete": found.is_complete,
        "elapsed": found.elapsed_s,
        "chosen": _described_setting(chosen.setting) | {"speed": chosen.speed} if chosen else None,
        "reason": _why(found, chosen) if chosen else None,
        "reference_errors": reference_errors(found.candidates, found.trials),
        "trials": [_described_trial(trial, is_chosen=trial is chosen) for trial in found.trials],
        "struck_out": _struck_out(found),
    }


def _described_setting(setting: Setting) -> dict[str, Any]:
    return {
        "variant": setting.variant,
        "compute_type": setting.compute_type,
        "workers": setting.replicas,
        "cpu_threads": setting.cpu_threads,
        "batch_size": setting.batch_size,
        "context_margin": setting.context_margin_s,
    }


def _described_trial(trial: Trial, *, is_chosen: bool) -> dict[str, Any]:
    return {
        **_described_setting(trial.setting),
        "outcome": trial.outcome,
        "speed": trial.speed,
        "errors": trial.errors,
        "words": trial.words,
        "load": trial.load_s,
        "elapsed": trial.cost_s,
        "chosen": is_chosen,
        "error": trial.problem,
    }


def _struck_out(found: Calibration) -> list[dict[str, Any]]:
    """Return the variants that were ruled out or not tried, each with its reason."""
    struck = []
    for candidate in found.candidates:
        if trial := striking_trial(candidate.variant, found.trials):
            error = trial.problem or _nonsense(trial)
            struck.append({"variant": candidate.variant, "tried": True, "error": error})
    passed_over = (
        {"variant": one.variant, "tried": False, "error": one.problem} for one in found.passed_over
    )
    return [*struck, *passed_over]


def _nonsense(trial: Trial) -> dict[str, Any]:
    return WhisperdError(
        "calibration.wrong_text",
        f"It got {trial.errors} of {trial.words} words of the shipped speech wrong.",
        f"Check its files with `whisperctl natives verify {trial.setting.variant}`.",
    ).to_wire()


def _why(found: Calibration, chosen: Trial) -> str:
    """Explain the choice to a user, in one sentence."""
    measured = [trial for trial in found.trials if trial.speed]
    variants = {trial.setting.variant for trial in measured}
    fastest = f"the fastest of {len(measured)} settings"
    if len(variants) > 1:
        fastest += f" of {len(variants)} variants"
    as_good = "whose text is as good as with the full context"
    first = found.candidates[0].start
    usual = next((trial for trial in measured if trial.setting == first), None)
    if usual is chosen:
        return f"The default setting was {fastest}."
    if usual is None or not usual.speed or not chosen.speed:
        return f"It was {fastest} {as_good}."
    if (usual.errors or 0) > (reference_errors(found.candidates, found.trials) or 0):
        return f"It was {fastest} {as_good}, unlike that of the default setting."
    gain = 100 * (chosen.speed / usual.speed - 1)
    return f"It was {fastest} {as_good}, and {gain:.0f} % faster than the default setting."
