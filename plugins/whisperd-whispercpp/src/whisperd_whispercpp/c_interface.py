"""whisper.cpp's C interface: its structures, its functions, and the library itself, opened and checked.

The structures mirror `whisper.h`. To verify that they still match, each default is compared with the value
from the bundle's Python module, which was compiled with that file.
"""

from __future__ import annotations

import ctypes
import sys
from ctypes import POINTER, c_bool, c_char_p, c_float, c_int, c_int32, c_int64, c_size_t, c_void_p
from pathlib import Path
from typing import Any

import _pywhispercpp

__all__ = [
    "ABORT_CALLBACK",
    "BEAM_SEARCH",
    "DEFAULTS",
    "GREEDY",
    "LIBRARY",
    "SAMPLES",
    "FullParams",
    "version",
]

GREEDY, BEAM_SEARCH = 0, 1
_WARNING, _CONTINUED = 3, 5


class _ContextParams(ctypes.Structure):
    _fields_ = (
        ("use_gpu", c_bool),
        ("flash_attn", c_bool),
        ("gpu_device", c_int),
        ("dtw_token_timestamps", c_bool),
        ("dtw_aheads_preset", c_int),
        ("dtw_n_top", c_int),
        ("dtw_aheads_count", c_size_t),
        ("dtw_aheads", c_void_p),
        ("dtw_mem_size", c_size_t),
    )


class FullParams(ctypes.Structure):
    """The parameters of a window's computation: `whisper_full_params`."""

    _fields_ = (
        ("strategy", c_int),
        ("n_threads", c_int),
        ("n_max_text_ctx", c_int),
        ("offset_ms", c_int),
        ("duration_ms", c_int),
        ("translate", c_bool),
        ("no_context", c_bool),
        ("no_timestamps", c_bool),
        ("single_segment", c_bool),
        ("print_special", c_bool),
        ("print_progress", c_bool),
        ("print_realtime", c_bool),
        ("print_timestamps", c_bool),
        ("token_timestamps", c_bool),
        ("thold_pt", c_float),
        ("thold_ptsum", c_float),
        ("max_len", c_int),
        ("split_on_word", c_bool),
        ("max_tokens", c_int),
        ("debug_mode", c_bool),
        ("audio_ctx", c_int),
        ("tdrz_enable", c_bool),
        ("suppress_regex", c_char_p),
        ("initial_prompt", c_char_p),
        ("carry_initial_prompt", c_bool),
        ("prompt_tokens", POINTER(c_int32)),
        ("prompt_n_tokens", c_int),
        ("language", c_char_p),
        ("detect_language", c_bool),
        ("suppress_blank", c_bool),
        ("suppress_nst", c_bool),
        ("temperature", c_float),
        ("max_initial_ts", c_float),
        ("length_penalty", c_float),
        ("temperature_inc", c_float),
        ("entropy_thold", c_float),
        ("logprob_thold", c_float),
        ("no_speech_thold", c_float),
        ("greedy_best_of", c_int),
        ("beam_search_beam_size", c_int),
        ("beam_search_patience", c_float),
        ("other_callbacks", c_void_p * 6),
        ("abort_callback", c_void_p),
        ("abort_callback_user_data", c_void_p),
        ("logits_filter_callback", c_void_p * 2),
        ("grammar_rules", c_void_p),
        ("n_grammar_rules", c_size_t),
        ("i_start_rule", c_size_t),
        ("grammar_penalty", c_float),
        ("vad", c_bool),
        ("vad_model_path", c_char_p),
        ("vad_threshold", c_float),
        ("vad_min_speech_duration_ms", c_int),
        ("vad_min_silence_duration_ms", c_int),
        ("vad_max_speech_duration_s", c_float),
        ("vad_speech_pad_ms", c_int),
        ("vad_samples_overlap", c_float),
    )


class _TokenData(ctypes.Structure):
    _fields_ = (
        ("id", c_int32),
        ("tid", c_int32),
        ("p", c_float),
        ("plog", c_float),
        ("pt", c_float),
        ("ptsum", c_float),
        ("t0", c_int64),
        ("t1", c_int64),
        ("t_dtw", c_int64),
        ("vlen", c_float),
    )


SAMPLES = POINTER(c_float)
_TOKENS = POINTER(c_int32)
_LOG_CALLBACK = ctypes.CFUNCTYPE(None, c_int, c_char_p, c_void_p)
ABORT_CALLBACK = ctypes.CFUNCTYPE(c_bool, c_void_p)
_FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "whisper_version": (c_char_p, ()),
    "whisper_log_set": (None, (_LOG_CALLBACK, c_void_p)),
    "whisper_context_default_params_by_ref": (POINTER(_ContextParams), ()),
    "whisper_full_default_params_by_ref": (POINTER(FullParams), (c_int,)),
    "whisper_init_from_file_with_params_no_state": (c_void_p, (c_char_p, _ContextParams)),
    "whisper_init_state": (c_void_p, (c_void_p,)),
    "whisper_free_state": (None, (c_void_p,)),
    "whisper_is_multilingual": (c_int, (c_void_p,)),
    "whisper_n_vocab": (c_int, (c_void_p,)),
    "whisper_lang_max_id": (c_int, ()),
    "whisper_lang_str": (c_char_p, (c_int,)),
    "whisper_token_to_str": (c_char_p, (c_void_p, c_int32)),
    "whisper_token_eot": (c_int32, (c_void_p,)),
    "whisper_token_sot": (c_int32, (c_void_p,)),
    "whisper_token_nosp": (c_int32, (c_void_p,)),
    "whisper_token_lang": (c_int32, (c_void_p, c_int)),
    "whisper_token_translate": (c_int32, (c_void_p,)),
    "whisper_tokenize": (c_int, (c_void_p, c_char_p, _TOKENS, c_int)),
    "whisper_model_n_mels": (c_int, (c_void_p,)),
    "whisper_set_mel_with_state": (c_int, (c_void_p, c_void_p, SAMPLES, c_int, c_int)),
    "whisper_full_with_state": (c_int, (c_void_p, c_void_p, FullParams, SAMPLES, c_int)),
    "whisper_lang_auto_detect_with_state": (c_int, (c_void_p, c_void_p, c_int, c_int, SAMPLES)),
    "whisper_decode_with_state": (c_int, (c_void_p, c_void_p, _TOKENS, c_int, c_int, c_int)),
    "whisper_get_logits_from_state": (SAMPLES, (c_void_p,)),
    "whisper_full_n_segments_from_state": (c_int, (c_void_p,)),
    "whisper_full_n_tokens_from_state": (c_int, (c_void_p, c_int)),
    "whisper_full_get_token_data_from_state": (_TokenData, (c_void_p, c_int, c_int)),
}


def _open_library() -> Any:
    module = Path(_pywhispercpp.__file__)
    if sys.platform == "win32":  # where a library exports only its own symbols, not those it links to
        (path,) = set(module.parent.rglob("whisper*.dll"))
    else:
        path = module
    library = ctypes.CDLL(str(path))
    for name, (result, arguments) in _FUNCTIONS.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


def _check_structures(library: Any) -> None:
    """Raise `ImportError` if the library's structures differ from those above: fields would be misread."""
    pairs = [
        (
            library.whisper_context_default_params_by_ref().contents,
            _pywhispercpp.whisper_context_default_params(),
        ),
        (
            library.whisper_full_default_params_by_ref(BEAM_SEARCH).contents,
            _pywhispercpp.whisper_full_default_params(
                _pywhispercpp.whisper_sampling_strategy.WHISPER_SAMPLING_BEAM_SEARCH
            ),
        ),
    ]
    for ours, theirs in pairs:
        for name, kind in ours._fields_:
            if kind not in (c_bool, c_int, c_float) or not hasattr(theirs, name):
                continue
            expected = getattr(theirs, name)
            if isinstance(expected, (bool, int, float)) and getattr(ours, name) != expected:
                raise ImportError(
                    f"whisper.cpp {version()} is not a version that this plugin supports ({name})"
                )
    # The last fields of the structure: if any field before them were missing, they would be misplaced.
    vad = _pywhispercpp.whisper_vad_default_params()
    full = pairs[1][0]
    if (full.vad_threshold, full.vad_samples_overlap) != (vad.threshold, vad.samples_overlap):
        raise ImportError(f"whisper.cpp {version()} is not a version that this plugin supports (vad)")


def _log(level: int, text: bytes, _: object) -> None:
    """Log warnings and errors only: messages at lower levels contain tokens of the text."""
    if level >= _WARNING and level != _CONTINUED:
        sys.stderr.write(text.decode(errors="replace"))


def version() -> str:
    """Return the version of whisper.cpp."""
    return str(LIBRARY.whisper_version().decode())


LIBRARY = _open_library()
_log_callback = _LOG_CALLBACK(_log)
LIBRARY.whisper_log_set(_log_callback, None)
_check_structures(LIBRARY)
DEFAULTS = {
    strategy: LIBRARY.whisper_full_default_params_by_ref(strategy).contents
    for strategy in (GREEDY, BEAM_SEARCH)
}
