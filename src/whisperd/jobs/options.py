"""The options of a job: one frozen struct, checked once, passed whole; and checks against a model."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from whisperd.audio import Clip, parse_clips
from whisperd.decodable import decodable
from whisperd.jobs.languages import LANGUAGES, language_code
from whisperd.jobs.scheduler import Priority
from whisperd.models import shipped_catalogue
from whisperd.rpc.errors import WhisperdError
from whisperd.validation import explain
from whisperd.worker.protocol import DecodeOptions, EngineInfo

__all__ = [
    "JobOptions",
    "check_against_engine",
    "check_against_model",
    "coded_language",
    "job_options",
]

DEFAULT_TEMPERATURES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


class JobOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of one transcription; see `whisperctl transcribe --help`."""

    runtime: Annotated[str, Meta(min_length=1, max_length=64)] | None = None
    model: Annotated[str, Meta(min_length=1, max_length=4096)] | None = None
    language: Annotated[str, Meta(max_length=100)] | None = None
    """None: detected once for the whole recording. `auto`: detected for each window, since it may change.
    Several codes, separated by commas: one of these."""
    task: Literal["transcribe", "translate"] = "transcribe"
    beam_size: Annotated[int, Meta(ge=1, le=16)] | None = None
    temperature: Annotated[tuple[Annotated[float, Meta(ge=0, le=1)], ...], Meta(max_length=10)] | None = None
    prompt: Annotated[str, Meta(max_length=4000)] | None = None
    hotwords: Annotated[str, Meta(max_length=4000)] | None = None
    vad: bool = True
    channels: Literal["mix", "split"] = "mix"
    track: Annotated[int, Meta(ge=1, le=1000)] | None = None
    """Number of the audio track, counted from 1; None: the best."""
    timestamps: Literal["segment", "word"] = "segment"
    clip: Annotated[str, Meta(max_length=20_000)] | None = None
    """Parts to transcribe, as `whisperd.audio.clips` parses them; None: everything."""
    priority: Priority = "normal"
    cache: bool = True
    """Whether a stored transcript of the same audio may be the answer."""

    @property
    def wants_words(self) -> bool:
        """Whether word timestamps were requested."""
        return self.timestamps == "word"

    @property
    def clips(self) -> tuple[Clip, ...]:
        """The parts to transcribe; empty: everything. Raises the errors of `parse_clips`."""
        return parse_clips(self.clip) if self.clip is not None else ()

    @property
    def is_language_free(self) -> bool:
        """Whether the language is detected for each window separately."""
        return "auto" in self._named_languages

    @property
    def languages(self) -> tuple[str, ...]:
        """The languages to choose from; empty: any."""
        return tuple(name for name in self._named_languages if name != "auto")

    @property
    def _named_languages(self) -> list[str]:
        return [] if self.language is None else self.language.split(",")

    def decode_options(self, default_beam_size: int) -> DecodeOptions:
        """Return the options for the engine."""
        languages = self.languages
        is_given = len(languages) == 1
        return DecodeOptions(
            task=self.task,
            language=languages[0] if is_given else None,
            languages=() if is_given else languages,
            beam_size=self.beam_size or default_beam_size,
            temperatures=self.temperature or DEFAULT_TEMPERATURES,
            prompt=self.prompt,
            hotwords=self.hotwords,
            word_times=self.wants_words,
        )


def job_options(values: Mapping[str, Any]) -> JobOptions:
    """Return the job options of a request's parameters. An option that is None has its default.

    Raises `language.unknown`, `clips.invalid`, or `rpc.invalid_params`, which names the field or suggests the
    option that was probably meant.
    """
    for name in values:
        if name not in JobOptions.__struct_fields__:
            raise _unknown_option(str(name))
    try:
        given = {name: value for name, value in values.items() if value is not None}
        return _checked(msgspec.convert(given, decodable(JobOptions), strict=True))
    except msgspec.ValidationError as error:
        raise WhisperdError(
            "rpc.invalid_params",
            f"A job option is invalid: {explain(error, JobOptions, 'they')}.",
            "See `whisperctl transcribe --help` for the values of each option.",
        ) from error


def _checked(options: JobOptions) -> JobOptions:
    """Check what the types cannot express; returns the options with languages (`German`) as codes."""
    _ = options.clips
    if options.language is None:
        return options
    named = [name.strip() for name in options.language.split(",")]
    others = [name for name in named if name.lower() != "auto"]
    # Sorted, so that the same languages are the same option.
    languages = sorted(set(map(coded_language, others)))
    is_free = others != named and len(languages) != 1
    return msgspec.structs.replace(options, language=",".join(["auto"] * is_free + languages))


def coded_language(named: str) -> str:
    """Return the code of a language. Raises `language.unknown`."""
    if (code := language_code(named)) is not None:
        return code
    near = difflib.get_close_matches(named.strip().lower(), [*LANGUAGES, *LANGUAGES.values()], 3)
    raise WhisperdError(
        "language.unknown",
        f"There is no language {named!r}.",
        f"Did you mean {' or '.join(near)}?"
        if near
        else "Use a code such as en, de or zh, or auto if the language may change within the recording.",
        {"language": named, "near": near},
    )


def check_against_model(options: JobOptions, languages: Sequence[str], model: str) -> None:
    """Check that a model supports the options, so that none is silently ignored.

    Raises `task.not_in_model` and `language.not_in_model`.
    """
    is_multilingual = len(languages) > 1
    if unknown := next((one for one in options.languages if one not in languages), None):
        raise _not_in_model("language", LANGUAGES[unknown].title(), model, is_multilingual)
    if options.task == "translate" and not (is_multilingual and _translates(model)):
        raise _not_in_model("task", "translation", model, is_multilingual)


def check_against_engine(options: JobOptions, info: EngineInfo, model: str) -> None:
    """Like `check_against_model`, once the model is loaded. Also raises `timestamps.not_in_model`."""
    check_against_model(options, info.languages, model)
    if options.wants_words and not info.word_times:
        raise WhisperdError(
            "timestamps.not_in_model",
            f"With {info.library}, the model {model} does not support word timestamps.",
            "Leave out `--timestamps word`, or use another runtime or model; OpenAI's models support them.",
        )


def _unknown_option(name: str) -> WhisperdError:
    known = JobOptions.__struct_fields__
    near = difflib.get_close_matches(name, known, 1)
    return WhisperdError(
        "rpc.invalid_params",
        f"There is no job option {name[:100]!r}.",
        f"Did you mean {near[0]}?" if near else f"The options are {', '.join(known)}.",
        {"option": name[:100], "near": near},
    )


def _translates(model: str) -> bool:
    known = shipped_catalogue().find(model)
    return known is None or known.translates


def _not_in_model(noun: str, what: str, model: str, is_multilingual: bool) -> WhisperdError:
    sibling = model.removesuffix(".en")
    multilingual = sibling if sibling != model and shipped_catalogue().find(sibling) else "base"
    return WhisperdError(
        f"{noun}.not_in_model",
        f"The model {model} does not support {what}.",
        "Use another model, such as large-v3."
        if is_multilingual
        else f"Use a multilingual model, such as {multilingual}.",
    )
