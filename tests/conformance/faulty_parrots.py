"""Parrots that each have a single fault, for the check that must find it."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
from parrot import (
    COMPUTE_TYPES,
    Parrot,
    altered,
    die,
    heard,
    known,
    refusal,
    with_words,
)

from whisperd.rpc.errors import WhisperdError
from whisperd.speech import Sample
from whisperd.worker.protocol import (
    UNWANTED,
    DecodeOptions,
    EngineWindow,
    IsWanted,
    LoadParams,
    WindowResult,
)


class CannotLoad(Parrot):
    @classmethod
    def refuse(cls, params: LoadParams) -> None:
        raise refusal("anything")


class DiesInLoading(Parrot):
    @classmethod
    def refuse(cls, params: LoadParams) -> None:
        die(signal.SIGABRT)


class NoVersion(Parrot):
    library = "parrot"


class UnknownLanguage(Parrot):
    def __init__(self, params: LoadParams) -> None:
        super().__init__(params)
        if not self.multilingual:
            self.info = msgspec.structs.replace(self.info, languages=("english",))

    def result(self, window: EngineWindow, language: str, options: DecodeOptions) -> WindowResult:
        result = super().result(window, language, options)
        return result if self.multilingual else msgspec.structs.replace(result, language="english")


class WrongWords(Parrot):
    def text(self, sample: Sample, options: DecodeOptions) -> str:
        return " ".join(reversed(super().text(sample, options).split()))


class ForgetsInBatches(Parrot):
    def transcribe(self, windows: Sequence[EngineWindow], options: DecodeOptions) -> list[WindowResult]:
        results = super().transcribe(windows, options)
        if len(windows) > 2:
            results[-1] = msgspec.structs.replace(results[-1], segments=())
        return results


class DropsTheWholeBatch(Parrot):
    def __init__(self, params: LoadParams) -> None:
        super().__init__(params)
        self.info = msgspec.structs.replace(self.info, cancels=True)

    def transcribe(
        self,
        windows: Sequence[EngineWindow],
        options: DecodeOptions,
        is_wanted: IsWanted = lambda _: True,
    ) -> list[WindowResult]:
        patience_s = 5.0 if len({window.group for window in windows}) > 1 else 0.0
        until_s = time.monotonic() + patience_s
        while all(map(is_wanted, windows)) and time.monotonic() < until_s:
            time.sleep(0.005)  # until it has noticed what is unwanted
        results = super().transcribe(windows, options)
        return results if all(map(is_wanted, windows)) else [UNWANTED] * len(windows)


class SortsByLength(Parrot):
    def transcribe(self, windows: Sequence[EngineWindow], options: DecodeOptions) -> list[WindowResult]:
        if options.language is not None:
            windows = sorted(windows, key=lambda window: window.duration_s)
        return super().transcribe(windows, options)


class TooSure(Parrot):
    def result(self, window: EngineWindow, language: str, options: DecodeOptions) -> WindowResult:
        return altered(super().result(window, language, options), no_speech_prob=2.0)


class NotANumber(Parrot):
    def result(self, window: EngineWindow, language: str, options: DecodeOptions) -> WindowResult:
        return altered(super().result(window, language, options), avg_logprob=float("nan"))


class EmptySegments(Parrot):
    def result(self, window: EngineWindow, language: str, options: DecodeOptions) -> WindowResult:
        result = super().result(window, language, options)
        if options.word_times:
            return result
        blank = altered(result, start=window.duration_s, end=window.duration_s, text=" ")
        return msgspec.structs.replace(result, segments=result.segments + blank.segments)


class BeyondItsEnd(Parrot):
    def result(self, window: EngineWindow, language: str, options: DecodeOptions) -> WindowResult:
        return altered(super().result(window, language, options), end=window.duration_s + 1)


class Backwards(Parrot):
    def result(self, window: EngineWindow, language: str, options: DecodeOptions) -> WindowResult:
        result = super().result(window, language, options)
        return result if options.word_times else altered(result, start=2.0, end=1.0)


class NeedsASample(Parrot):
    def result(self, window: EngineWindow, language: str, options: DecodeOptions) -> WindowResult:
        assert window.pcm, "what shall I say?"
        return super().result(window, language, options)


class DiesOfNothing(Parrot):
    def result(self, window: EngineWindow, language: str, options: DecodeOptions) -> WindowResult:
        if not window.pcm:
            die(signal.SIGSEGV)
        return super().result(window, language, options)


class Talkative(Parrot):
    def result(self, window: EngineWindow, language: str, options: DecodeOptions) -> WindowResult:
        result = super().result(window, language, options)
        if result.segments or window.duration_s != 5:
            return result
        nonsense = super().result(EngineWindow(pcm=known()[3].pcm), language, options)
        return altered(nonsense, end=window.duration_s)


class StopsListening(Parrot):
    def result(self, window: EngineWindow, language: str, options: DecodeOptions) -> WindowResult:
        return super().result(EngineWindow(pcm=window.pcm[: 20 * 32_000]), language, options)


class Counts(Parrot):
    count = 0

    def text(self, sample: Sample, options: DecodeOptions) -> str:
        self.count += 1
        return f"{super().text(sample, options)} {self.count}"


class OtherTemperature(Parrot):
    def result(self, window: EngineWindow, language: str, options: DecodeOptions) -> WindowResult:
        return altered(super().result(window, language, options), temperature=0.0)


class NeverGivesUp(Parrot):
    def result(self, window: EngineWindow, language: str, options: DecodeOptions) -> WindowResult:
        if window.duration_s == 3 and not heard(window.pcm):
            time.sleep(3600)
        return super().result(window, language, options)


class LostInBeams(Parrot):
    def text(self, sample: Sample, options: DecodeOptions) -> str:
        return "What?" if options.beam_size > 5 else super().text(sample, options)


class TooManyBeams(Parrot):
    def text(self, sample: Sample, options: DecodeOptions) -> str:
        assert options.beam_size <= 5 or options.beam_size > 16, "out of beams"
        return super().text(sample, options)


class SaysThePrompt(Parrot):
    def text(self, sample: Sample, options: DecodeOptions) -> str:
        return options.prompt or super().text(sample, options)


class DeafToHotwords(Parrot):
    def text(self, sample: Sample, options: DecodeOptions) -> str:
        return super().text(sample, msgspec.structs.replace(options, hotwords=None))


class ShortOfBreath(Parrot):
    def text(self, sample: Sample, options: DecodeOptions) -> str:
        assert len(options.hotwords or "") < 1000, "that is too long"
        return super().text(sample, options)


class HearsAnyLanguage(Parrot):
    def find_languages(self, windows: Sequence[EngineWindow], options: DecodeOptions) -> list[str]:
        return super().find_languages(windows, msgspec.structs.replace(options, languages=()))


class DiesOfNonsense(Parrot):
    def find_languages(self, windows: Sequence[EngineWindow], options: DecodeOptions) -> list[str]:
        if options.language == "xx":
            ctypes.string_at(0)
        return super().find_languages(windows, options)


class OneAtATime(Parrot):
    """Becomes slow after the request with an unknown language, which comes right before this check."""

    def __init__(self, params: LoadParams) -> None:
        super().__init__(params)
        self._is_slow = False
        self._free = threading.Semaphore()

    def transcribe(self, windows: Sequence[EngineWindow], options: DecodeOptions) -> list[WindowResult]:
        if options.word_times:  # another check covers word times
            return super().transcribe(windows, options)
        self._is_slow = self._is_slow or options.language == "xx"
        assert self._free.acquire(blocking=False), "one at a time!"
        time.sleep(1.0 if self._is_slow else 0)
        results = super().transcribe(windows, options)
        self._free.release()
        return results


class DiesInCompany(Parrot):
    """Dies in concurrent batches after the request with an unknown language, which comes right before."""

    def __init__(self, params: LoadParams) -> None:
        super().__init__(params)
        self._was_asked_nonsense = False
        self._count = 0
        self._lock = threading.Lock()

    def transcribe(self, windows: Sequence[EngineWindow], options: DecodeOptions) -> list[WindowResult]:
        self._was_asked_nonsense |= options.language == "xx"
        is_alone = options.word_times or options.task == "translate" or len(windows) > 1
        if not self._was_asked_nonsense or is_alone or options.language == "xx":
            return super().transcribe(windows, options)
        with self._lock:
            self._count += 1
        if self._count == 3:  # the first batch only checks that the engine still works
            die(signal.SIGSEGV)
        time.sleep(3600 if self._count == 2 else 0)
        return super().transcribe(windows, options)


class NoWords(Parrot):
    def result(self, window: EngineWindow, language: str, options: DecodeOptions) -> WindowResult:
        result = super().result(window, language, options)
        is_short = window.duration_s < 8 and not self.multilingual
        return altered(result, words=()) if is_short else result


class WordsBackwards(Parrot):
    def result(self, window: EngineWindow, language: str, options: DecodeOptions) -> WindowResult:
        result = super().result(window, language, options)
        if len(result.segments) != 1 or window.duration_s > 8 or self.multilingual:
            return result
        (one,) = result.segments
        backwards = (msgspec.structs.replace(word, start=word.end, end=word.start) for word in one.words)
        return altered(result, words=tuple(backwards))


class SpreadsWords(Parrot):
    """Merges all segments into one and spaces its words evenly."""

    def result(self, window: EngineWindow, language: str, options: DecodeOptions) -> WindowResult:
        result = super().result(window, language, options)
        if not options.word_times or len(result.segments) < 2:
            return result
        first, *_, last = result.segments
        text = "".join(one.text for one in result.segments)
        whole = with_words(msgspec.structs.replace(first, end=last.end, text=text))
        return msgspec.structs.replace(result, segments=(whole,))


class DeafToTheSecond(Parrot):
    """Misses the sentence after a pause when word times are requested."""

    def result(self, window: EngineWindow, language: str, options: DecodeOptions) -> WindowResult:
        result = super().result(window, language, options)
        return msgspec.structs.replace(result, segments=result.segments[: 1 if options.word_times else None])


class NoWordsForGermans(Parrot):
    def result(self, window: EngineWindow, language: str, options: DecodeOptions) -> WindowResult:
        result = super().result(window, language, options)
        return altered(result, words=()) if language == "de" else result


class RefusesLanguages(Parrot):
    @classmethod
    def refuse(cls, params: LoadParams) -> None:
        super().refuse(params)
        if json.loads(Path(params.model_path, "config.json").read_text())["multilingual"]:
            raise refusal("multilingual")


class NoEnglish(Parrot):
    languages = ("de", "fr")


class OnlyEnglish(Parrot):
    def find_languages(self, windows: Sequence[EngineWindow], options: DecodeOptions) -> list[str]:
        if options.task == "transcribe":
            options = msgspec.structs.replace(options, language=options.language and "en")
        return super().find_languages(windows, options)


class GuessesEnglish(Parrot):
    def find_languages(self, windows: Sequence[EngineWindow], options: DecodeOptions) -> list[str]:
        if options.language is None and not options.languages:
            options = msgspec.structs.replace(options, language="en")
        return super().find_languages(windows, options)


class NoVote(Parrot):
    def find_languages(self, windows: Sequence[EngineWindow], options: DecodeOptions) -> list[str]:
        alone = [msgspec.structs.replace(window, group=index) for index, window in enumerate(windows)]
        return super().find_languages(alone, options)


class NoTranslator(Parrot):
    def text(self, sample: Sample, options: DecodeOptions) -> str:
        return super().text(sample, msgspec.structs.replace(options, task="transcribe"))


class CallsItEnglish(Parrot):
    def result(self, window: EngineWindow, language: str, options: DecodeOptions) -> WindowResult:
        return super().result(window, "en" if options.task == "translate" else language, options)


class OneType(Parrot):
    @classmethod
    def refuse(cls, params: LoadParams) -> None:
        super().refuse(params)
        if params.compute_type == "float32":
            raise refusal("compute_type")


class RoundsAway(Parrot):
    def text(self, sample: Sample, options: DecodeOptions) -> str:
        return "What?" if self.params.compute_type == "float32" else super().text(sample, options)


class TakesAnyType(Parrot):
    @classmethod
    def refuse(cls, params: LoadParams) -> None:
        super().refuse(msgspec.structs.replace(params, compute_type="int8"))


class DiesOfAType(Parrot):
    @classmethod
    def refuse(cls, params: LoadParams) -> None:
        if params.compute_type not in COMPUTE_TYPES:
            die(signal.SIGABRT)
        super().refuse(params)


class TakesAnyDevice(Parrot):
    @classmethod
    def refuse(cls, params: LoadParams) -> None:
        super().refuse(msgspec.structs.replace(params, device="cpu"))


class NeedsNoModel(Parrot):
    @classmethod
    def refuse_model(cls, folder: Path) -> None:
        if folder.exists():
            super().refuse_model(folder)


class TakesHalf(Parrot):
    @classmethod
    def refuse_model(cls, folder: Path) -> None:
        if not folder.exists():
            super().refuse_model(folder)


class NoFix(Parrot):
    @classmethod
    def refuse(cls, params: LoadParams) -> None:
        if params.device != "cpu":
            raise WhisperdError("parrot.device", "No.", "")
        super().refuse(params)


def leave_a_process() -> None:
    """Start an untracked process; the fixture kills it."""
    left = subprocess.Popen(["sleep", "3600"], start_new_session=True)
    with Path(os.environ["PARROT_NOTES"]).open("a") as notes:
        notes.write(f"{left.pid}\n")


def is_mid_batch(windows: Sequence[EngineWindow]) -> bool:
    """Whether this is the batch during which a worker is ended."""
    return len(windows) == 4 and windows[-1].duration_s == 30


class LeavesAProcess(Parrot):
    has_left_one = False

    def transcribe(self, windows: Sequence[EngineWindow], options: DecodeOptions) -> list[WindowResult]:
        if not is_mid_batch(windows) and not self.has_left_one:
            leave_a_process()
            self.has_left_one = True
        return super().transcribe(windows, options)


class GoesOnElsewhere(Parrot):
    def transcribe(self, windows: Sequence[EngineWindow], options: DecodeOptions) -> list[WindowResult]:
        if is_mid_batch(windows):
            leave_a_process()
            time.sleep(3600)
        return super().transcribe(windows, options)


class LocksItsModel(Parrot):
    @classmethod
    def refuse(cls, params: LoadParams) -> None:
        super().refuse(params)
        lock = Path(params.model_path, "lock")
        if lock.exists():
            lock.unlink()
            raise refusal("locked")

    def transcribe(self, windows: Sequence[EngineWindow], options: DecodeOptions) -> list[WindowResult]:
        if is_mid_batch(windows):
            Path(self.params.model_path, "lock").touch()
            time.sleep(3600)
        return super().transcribe(windows, options)
