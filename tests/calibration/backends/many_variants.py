"""A backend with as many variants as a test requests, each as fast, slow or broken as it asks.

The environment variable `VARIANTS` is a JSON object. Its keys are names of variants without `many-`, the
highest priority first; its values describe the behaviour:

  window_s          seconds that each window takes
  per_replica       this much slower with each replica after the first
  load_signal       loading ends the process with this signal
  signal            computing ends the process with this signal
  hangs             computing never ends
  text              the text it returns instead of what is said
  least_margin_s    with a smaller context margin it misses the last word
  hold              while this file exists, computing waits

It records its work in `batches.jsonl` in the model's folder. In a daemon's environment, `LATE_S` is how many
seconds a disturbance may cost before a trial is given up.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from whisperd.calibration import bench
from whisperd.calibration.workload import windows as shipped_windows
from whisperd.plugins import Backend, Variant, hookimpl
from whisperd.speech import samples
from whisperd.worker.protocol import (
    DecodeOptions,
    EngineInfo,
    EngineSegment,
    EngineWindow,
    LoadParams,
    WindowResult,
)

OWN = "MANY_VARIANTS_OWN"


@hookimpl
def whisperd_backend() -> Backend:
    asked_for = json.loads(os.environ["VARIANTS"])
    bench.LATE_S = float(os.environ.get("LATE_S", bench.LATE_S))  # type: ignore[misc]
    return Backend(
        name="many",
        engine="many_variants:load",
        need_bytes=lambda *_, **__: int(os.environ.get("NEED_BYTES", "1000")),
        variants=tuple(
            Variant(
                name=f"many-{name}",
                lock=None,
                device="cpu",
                priority=2000 - place,
                compute_types=("int8",),
                environment={OWN: json.dumps({"name": name, **behaviour})},
            )
            for place, (name, behaviour) in enumerate(asked_for.items())
        ),
    )


def load(params: LoadParams) -> ManyEngine:
    behaviour = json.loads(os.environ[OWN])
    die(behaviour.get("load_signal"))
    return ManyEngine(params, behaviour)


def die(name: str | None) -> None:
    if name is not None:
        os.kill(os.getpid(), signal.Signals[name])
        time.sleep(60)


class ManyEngine:
    def __init__(self, params: LoadParams, behaviour: dict) -> None:
        self._params = params
        self._behaviour = behaviour
        self.info = EngineInfo(
            multilingual=False, languages=("en",), compute_type="int8", library=behaviour["name"]
        )

    def transcribe(self, windows: Sequence[EngineWindow], options: DecodeOptions) -> list[WindowResult]:
        behaviour = self._behaviour
        with (Path(self._params.model_path) / "batches.jsonl").open("a") as notes:
            notes.write(json.dumps({"variant": f"many-{behaviour['name']}", "windows": len(windows)}) + "\n")
        die(behaviour.get("signal"))
        while behaviour.get("hangs") or ("hold" in behaviour and Path(behaviour["hold"]).exists()):
            time.sleep(0.005)
        slower = 1 + behaviour.get("per_replica", 0) * (self._params.replicas - 1)
        time.sleep(behaviour.get("window_s", 0.002) * len(windows) * slower)
        return [self._result(window) for window in windows]

    def _result(self, window: EngineWindow) -> WindowResult:
        shipped = (*samples(), *shipped_windows(samples()))
        said = next((sample.text for sample in shipped if sample.pcm == window.pcm), "something else")
        margin_s = self._params.context_margin_s
        if margin_s is not None and margin_s < self._behaviour.get("least_margin_s", 0):
            said = said.rpartition(" ")[0]
        segment = EngineSegment(
            start=0.0,
            end=window.duration_s,
            text=self._behaviour.get("text", said),
            tokens=(1,),
            temperature=0.0,
            avg_logprob=-0.1,
            compression_ratio=1.0,
            no_speech_prob=0.0,
        )
        return WindowResult(language="en", language_probability=1.0, segments=(segment,))
