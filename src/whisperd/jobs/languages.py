"""The languages that Whisper supports: ISO 639-1 codes (639-3 where there is none) and English names."""

from __future__ import annotations

from typing import Final

__all__ = ["LANGUAGES", "language_code"]

_TABLE = """
af afrikaans, am amharic, ar arabic, as assamese, az azerbaijani, ba bashkir, be belarusian, bg bulgarian,
bn bengali, bo tibetan, br breton, bs bosnian, ca catalan, cs czech, cy welsh, da danish, de german,
el greek, en english, es spanish, et estonian, eu basque, fa persian, fi finnish, fo faroese, fr french,
gl galician, gu gujarati, ha hausa, haw hawaiian, he hebrew, hi hindi, hr croatian, ht haitian creole,
hu hungarian, hy armenian, id indonesian, is icelandic, it italian, ja japanese, jw javanese, ka georgian,
kk kazakh, km khmer, kn kannada, ko korean, la latin, lb luxembourgish, ln lingala, lo lao, lt lithuanian,
lv latvian, mg malagasy, mi maori, mk macedonian, ml malayalam, mn mongolian, mr marathi, ms malay,
mt maltese, my burmese, ne nepali, nl dutch, nn nynorsk, no norwegian, oc occitan, pa punjabi, pl polish,
ps pashto, pt portuguese, ro romanian, ru russian, sa sanskrit, sd sindhi, si sinhala, sk slovak,
sl slovenian, sn shona, so somali, sq albanian, sr serbian, su sundanese, sv swedish, sw swahili, ta tamil,
te telugu, tg tajik, th thai, tk turkmen, tl tagalog, tr turkish, tt tatar, uk ukrainian, ur urdu,
uz uzbek, vi vietnamese, yi yiddish, yo yoruba, yue cantonese, zh chinese
"""

LANGUAGES: Final[dict[str, str]] = {
    code: name
    for entry in _TABLE.replace("\n", " ").split(",")
    for code, _, name in [entry.strip().partition(" ")]
}
"""Code to name."""
_OTHERS: Final = {"cmn": "zh", "fil": "tl", "iw": "he", "jv": "jw", "mandarin": "zh", "nb": "no"}
"""Other codes and names in use."""
_CODES: Final = {name: code for code, name in LANGUAGES.items()} | _OTHERS


def language_code(text: str) -> str | None:
    """Return the code of a language given as a code, a name or a locale (`pt-BR`, `de_DE`).

    Returns None if there is no such language.
    """
    wanted = text.strip().lower()
    if wanted in LANGUAGES:
        return wanted
    language = wanted.replace("_", "-").partition("-")[0]
    return _CODES.get(wanted) or (language if language in LANGUAGES else _OTHERS.get(language))
