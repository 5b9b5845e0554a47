"""Run faster-whisper's batched pipeline, with a native bundle on the path, for comparison.

`batched_pipeline.py MODEL DEVICE COMPUTE_TYPE BATCH_SIZE AUDIO`; prints JSON with `seconds` and `text`.
"""

from __future__ import annotations

import json
import sys
import time

from faster_whisper import BatchedInferencePipeline, WhisperModel


def main() -> None:
    model, device, compute_type, batch_size, audio = sys.argv[1:]
    pipeline = BatchedInferencePipeline(WhisperModel(model, device=device, compute_type=compute_type))

    def transcribe() -> str:
        segments, _ = pipeline.transcribe(audio, language="en", batch_size=int(batch_size))
        return "".join(segment.text for segment in segments)

    transcribe()  # do not count one-time work
    began = time.perf_counter()
    text = transcribe()
    print(json.dumps({"seconds": time.perf_counter() - began, "text": text}))


if __name__ == "__main__":
    main()
