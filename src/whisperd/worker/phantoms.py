"""Removes phantoms (hallucinations): text that Whisper produces where nobody speaks. Pure.

Because it was trained on subtitles, Whisper produces "Thanks for watching" or subtitle credits for silence,
noise or the mere beginning of a word. People say some of these phrases, too: such a text is a phantom only if
nothing else indicates that somebody spoke, or said this. Whisper may also repeat its hotwords or its prompt.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from whisperd.worker.coverage import overlap_s, spoken_letters
from whisperd.worker.protocol import EngineSegment, EngineWindow, SpokenTime, WindowResult
from whisperd.worker.rules import is_guess, is_repetitive

__all__ = ["is_expected", "is_phantom", "is_phantom_phrase", "without_phantoms"]

NO_SPEECH_PROBABILITY = 0.6
"""Above this, the model itself reports that nobody spoke."""
NO_SPEECH_CONFIRMED = 0.5
"""The same if the detector reports no speech either."""
FASTEST_LETTERS_PER_S = 25.0
"""Nobody speaks faster: text that would have taken less time was not said."""
NEAR_S = 0.2
"""The tolerance for the times of a segment."""
SHORT_S = 0.8
"""Live speech that is shorter than this, including the quiet around it, may be the beginning of a word.
Saying a phrase takes longer, or is clear enough."""
UNSURE_LOGPROB = -0.6
"""A phrase made up from the beginning of a word is less likely than this, and so is an expected text made up
from noise; spoken text is likelier. Measured (docs/benchmarks.md)."""

_PHRASES = frozenset(
    """
    thank you so much for watching
    thank you|thank you very much|thank you so much|thanks|thank you for watching|thanks for watching|bye
    thank you for watching and see you next time|please subscribe|please subscribe to my channel|you|bye bye
    dont forget to like and subscribe|like and subscribe|see you next time|see you in the next video|im sorry
    vielen dank|vielen dank fürs zuschauen|danke fürs zuschauen|bis zum nächsten mal|tschüss
    merci|merci davoir regardé cette vidéo|merci davoir regardé|abonnezvous|à bientôt
    gracias|gracias por ver el video|gracias por ver|suscríbete|hasta la próxima|muchas gracias
    grazie|grazie per la visione|grazie a tutti|obrigado|obrigada|obrigado por assistir|tchau
    dziękuję|dziękuję za uwagę|dziękuję za oglądanie|bedankt voor het kijken|tack för att ni har tittat
    спасибо за просмотр|спасибо|продолжение следует|до свидания|дякую за перегляд
    izlediğiniz için teşekkür ederim|izlediğiniz için teşekkürler|teşekkürler
    ご視聴ありがとうございました|ありがとうございました|チャンネル登録お願いします|おやすみなさい
    谢谢观看|謝謝觀看|谢谢大家|謝謝大家|请订阅|谢谢|謝謝
    시청해주셔서 감사합니다|감사합니다|구독과 좋아요 부탁드립니다
    شكرا للمشاهدة|شكرا لكم|شكرا
    """.strip()
    .replace("\n", "|")
    .replace("    ", "")
    .split("|")
)
_BEGINNINGS = tuple(
    """
    subtitles by|subtitled by|captions by|transcribed by|transcription by|translated by|subs by|amaraorg
    subtitles created by|untertitel von|untertitel im auftrag|untertitelung|untertitel der amaraorg
    soustitres par|soustitres réalisés|soustitrage|soustitres fait
    subtítulos por|subtítulos realizados|sottotitoli|legendas pela|legendado por
    napisy stworzone|napisy wykonał
    ondertiteld door|ondertiteling|undertexter|undertekster af|tekstet av|субтитры|редактор субтитров|субтитри
    字幕by|字幕由|字幕志愿者|字幕製作|請不吝點贊|请不吝点赞|자막 제공|자막 by|ترجمة نانسي
    """.strip()
    .replace("\n", "|")
    .replace("    ", "")
    .split("|")
)


def without_phantoms(result: WindowResult, window: EngineWindow, expected: str = "") -> WindowResult:
    """Return the result without text made up from silence, noise or the beginning of a word.

    `expected` is the text given to the model as context: hotwords and prompt.
    """
    kept = tuple(one for one in result.segments if not is_phantom(one, window.spoken, expected))
    if window.spoken is None and window.duration_s < SHORT_S:
        kept = _without_made_up(kept, window.duration_s)
    return result if len(kept) == len(result.segments) else msgspec.structs.replace(result, segments=kept)


def is_phantom(segment: EngineSegment, spoken: Sequence[SpokenTime] | None, expected: str = "") -> bool:
    """Whether a segment was made up from silence or noise. `spoken` is None if unknown.

    Where the detector found no speech (such audio is computed only if everything is to be transcribed), a
    text is a phantom if the model is unsure, too: it reports no speech, guesses or repeats itself. So is a
    text without letters, such as a music note. Unsure text that was expected counts like a phantom phrase.
    """
    spoken_s = None
    if spoken is not None:
        spoken_s = overlap_s(spoken, segment.start - NEAR_S, segment.end + NEAR_S)
    if spoken_s == 0 and (
        segment.no_speech_prob > NO_SPEECH_CONFIRMED
        or is_guess(segment.avg_logprob)
        or is_repetitive(segment.compression_ratio)
        or not spoken_letters(segment.text)
    ):
        return True
    is_echo = segment.avg_logprob < UNSURE_LOGPROB and is_expected(segment.text, expected)
    if not (is_echo or is_phantom_phrase(segment.text)):
        return False
    if segment.no_speech_prob > NO_SPEECH_PROBABILITY:
        return True
    return spoken_s is not None and spoken_s < spoken_letters(segment.text) / FASTEST_LETTERS_PER_S


def is_expected(text: str, expected: str) -> bool:
    """Whether a text consists only of expected words, however often repeated."""
    said = _words(text).split()
    return bool(said) and set(said) <= set(_words(expected).split())


def is_phantom_phrase(text: str) -> bool:
    """Whether all of a text is a phrase that models often make up."""
    said = _words(text)
    return said in _PHRASES or said.startswith(_BEGINNINGS)


def _without_made_up(segments: tuple[EngineSegment, ...], duration_s: float) -> tuple[EngineSegment, ...]:
    """Return what can have been said in a short window: no more than fits into it, and no unsure phrases."""
    if sum(spoken_letters(one.text) for one in segments) > FASTEST_LETTERS_PER_S * duration_s:
        return ()
    return tuple(
        one for one in segments if one.avg_logprob >= UNSURE_LOGPROB or not is_phantom_phrase(one.text)
    )


def _words(text: str) -> str:
    """Return the words of a text, case-folded and without punctuation."""
    return " ".join("".join(one for one in text.casefold() if one.isalnum() or one.isspace()).split())
