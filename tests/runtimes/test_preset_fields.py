"""The fields of a runtime: each is checked, and an error names the values that would work."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whisperd.rpc.errors import WhisperdError
from whisperd.runtimes.preset import (
    RELOADING,
    Capabilities,
    ComputeType,
    RuntimeChanges,
    RuntimePreset,
    changed_preset,
    check_against,
    check_name,
    needs_reload,
    new_preset,
    parse_keep_alive,
)
from whisperd.settings import RuntimeSettings

NOW = "2026-01-02T03:04:05.678Z"
LATER = "2026-01-02T03:04:06.789Z"


def make(**fields: Any) -> RuntimePreset:
    changes = RuntimeChanges(**{"name": "base", "model": "base", **fields})
    return new_preset(changes, RuntimeSettings(), now=NOW, id_="0a1b2c3d")


def refused(**fields: Any) -> WhisperdError:
    with pytest.raises(WhisperdError) as raised:
        make(**fields)
    assert raised.value.code == "runtime.invalid"
    return raised.value


# Making and changing


def test_omitted_fields_come_from_the_settings() -> None:
    settings = RuntimeSettings(keep_alive_s=5, compute_type="int8", workers=3, cpu_threads=2, batch_size=8)
    preset = new_preset(RuntimeChanges(name="base", model="tiny"), settings, now=NOW, id_="0a1b2c3d")
    assert preset == RuntimePreset(
        id="0a1b2c3d",
        name="base",
        model="tiny",
        compute_type="int8",
        cpu_threads=2,
        workers=3,
        batch_size=8,
        keep_alive=5.0,
        created=NOW,
        changed=NOW,
    )


def test_given_fields_are_used() -> None:
    fields = {
        "name": "two GPUs",
        "model": "large-v3",
        "backend": "ctranslate2",
        "device": "cuda",
        "device_index": (0, 1),
        "compute_type": "int8_float16",
        "cpu_threads": 2,
        "workers": 2,
        "batched": False,
        "batch_size": 16,
        "protected": True,
    }
    values = msgspec.structs.asdict(make(**fields, keep_alive="15m"))
    assert values == fields | {
        "id": "0a1b2c3d",
        "keep_alive": 900.0,
        "enabled": True,
        "created": NOW,
        "changed": NOW,
        "version": 1,
    }


def test_ids_are_unique() -> None:
    changes = RuntimeChanges(name="base", model="base")
    ids = {new_preset(changes, RuntimeSettings()).id for _ in range(20)}
    assert len(ids) == 20


@pytest.mark.parametrize("missing", ["name", "model"])
def test_name_and_model_are_required(missing: str) -> None:
    assert refused(**{missing: msgspec.UNSET}).data["field"] == missing


def test_an_unsaved_runtime_may_have_any_name() -> None:
    changes = RuntimeChanges(name="/models/base", model="/models/base")
    assert new_preset(changes, RuntimeSettings(), check=False).name == "/models/base"
    assert refused(name="/models/base").data["field"] == "name"


def test_an_edit_increments_the_version() -> None:
    before = make(keep_alive=5)
    after = changed_preset(before, RuntimeChanges(name="other", keep_alive="never"), now=LATER)
    expected = msgspec.structs.replace(before, name="other", keep_alive=-1.0, changed=LATER, version=2)
    assert after == expected


def test_an_edit_without_changes_returns_the_same_preset() -> None:
    preset = make()
    assert changed_preset(preset, RuntimeChanges(name="base", keep_alive="15m"), now=LATER) is preset


def test_an_edit_is_checked_together_with_the_other_fields() -> None:
    preset = make(device="cuda", device_index=(1,))
    with pytest.raises(WhisperdError) as raised:
        changed_preset(preset, RuntimeChanges(device="cpu"))
    assert raised.value.data["field"] == "device_index"
    changed = changed_preset(preset, RuntimeChanges(device="cpu", device_index=()))
    assert (changed.device, changed.device_index) == ("cpu", ())


OTHER: dict[str, Any] = {
    "name": "other",
    "model": "tiny",
    "backend": "ctranslate2",
    "device": "cuda",
    "device_index": (1,),
    "compute_type": "int8",
    "cpu_threads": 3,
    "workers": 4,
    "batched": False,
    "batch_size": 5,
    "keep_alive": 6.0,
    "protected": True,
}


@pytest.mark.parametrize("name", RuntimeChanges.__struct_fields__)
def test_which_fields_require_a_reload(name: str) -> None:
    before = make()
    after = changed_preset(before, RuntimeChanges(**{name: OTHER[name]}))
    assert getattr(after, name) == OTHER[name]
    assert needs_reload(before, after) == (name in RELOADING)


def test_every_field_but_the_programs_own_can_be_edited() -> None:
    own = {"id", "enabled", "created", "changed", "version"}
    assert set(RuntimeChanges.__struct_fields__) == set(RuntimePreset.__struct_fields__) - own
    assert set(RuntimeChanges.__struct_fields__) - RELOADING == {"name", "keep_alive", "protected"}


def test_edits_are_decoded_strictly() -> None:
    changes = msgspec.convert({"device_index": [0, 1], "keep_alive": "15m"}, RuntimeChanges)
    assert changes == RuntimeChanges(device_index=(0, 1), keep_alive="15m")
    with pytest.raises(msgspec.ValidationError, match="enabled"):
        msgspec.convert({"enabled": False}, RuntimeChanges)


# Each field


@pytest.mark.parametrize("name", ["a", "large-v3", "two GPUs", "x.y_z", "0", "a" * 64])
def test_valid_names(name: str) -> None:
    assert make(name=name).name == name


@pytest.mark.parametrize(
    "name", ["", " a", "a ", "-a", ".a", "a/b", "a\nb", "a\n", "ä", "a" * 65, "a\0", "a\ud800"]
)
def test_invalid_names_are_refused(name: str) -> None:
    error = refused(name=name)
    assert error.data["field"] == "name"
    assert "a to z" in error.fix
    with pytest.raises(WhisperdError) as raised:
        check_name(name, "profile")
    assert raised.value.code == "profile.invalid"


@pytest.mark.parametrize(
    ("field", "value", "works"),
    [
        ("model", "", "whisperctl models available"),
        ("model", " ", "whisperctl models available"),
        ("model", "a" * 5000, "whisperctl models available"),
        ("model", "a\0b", "whisperctl models available"),
        ("model", "a\udcffb", "whisperctl models available"),
        ("backend", "", "auto"),
        ("backend", "No Backend", "auto"),
        ("device", "gpu", "auto, cuda or cpu"),
        ("device", "", "auto, cuda or cpu"),
        ("compute_type", "int4", "int8, int8_float16"),
        ("device_index", (-1,), "from 0"),
        ("device_index", (1, 0, 1), "once"),
        ("cpu_threads", -1, "from 0 to 1024; 0 chooses it automatically"),
        ("cpu_threads", 1025, "from 0 to 1024"),
        ("workers", -1, "from 0 to 64"),
        ("workers", 65, "from 0 to 64"),
        ("batch_size", 0, "from 1 to 256"),
        ("batch_size", -4, "from 1 to 256"),
        ("batch_size", 257, "from 1 to 256"),
        ("batch_size", 10**30, "from 1 to 256"),
    ],
)
def test_invalid_values_are_refused(field: str, value: object, works: str) -> None:
    error = refused(**{field: value})
    assert error.data["field"] == field
    assert works in error.fix


@pytest.mark.parametrize(("cpu_threads", "workers", "batch_size"), [(0, 0, 1), (1024, 64, 256)])
def test_the_limits_are_inclusive(cpu_threads: int, workers: int, batch_size: int) -> None:
    assert make(cpu_threads=cpu_threads, workers=workers, batch_size=batch_size).workers == workers


def test_a_device_index_needs_a_gpu() -> None:
    assert "none" in refused(device="cpu", device_index=(0,)).fix
    for device in ("auto", "cuda"):
        assert make(device=device, device_index=(0,)).device_index == (0,)


def test_several_gpus_have_one_worker_each() -> None:
    error = refused(device_index=(0, 1), workers=3)
    assert error.data["field"] == "workers"
    assert "0 or 2" in error.fix
    for workers in (0, 2):
        assert make(device_index=(0, 1), workers=workers).workers == workers
    assert make(device_index=(0,), workers=3).workers == 3
    preset = new_preset(
        RuntimeChanges(name="base", model="base", device_index=(0, 1)), RuntimeSettings(workers=3)
    )
    assert preset.workers == 0, "workers in the settings are no reason to refuse it"


# Keep-alive


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("15m", 900),
        ("1h30m", 5400),
        ("90s", 90),
        ("90", 90),
        ("1.5", 1.5),
        ("1m0.5s", 60.5),
        ("2d", 172800),
        ("1.5h1w", 610200),
        ("365d", 365 * 86400),
        (" 1H 30M ", 5400),
        ("0", 0),
        ("0s", 0),
        ("-1", -1),
        ("never", -1),
        ("Never", -1),
        (0, 0),
        (-1, -1),
        (12.5, 12.5),
    ],
)
def test_keep_alive_formats(value: float | str, seconds: float) -> None:
    assert parse_keep_alive(value) == seconds


@pytest.mark.parametrize(
    "value",
    [
        *("", " ", "m", "15x", "-5m", "-2", "-0.5", "1e3", "nan", "inf", "1h-1m", "366d", "9" * 400),
        *("5m5m", "1m1h1m", "1h30"),
        "\N{ARABIC-INDIC DIGIT FIVE}m",
        *(-2, -0.5, float("nan"), float("inf"), float("-inf"), 366 * 86400.0),
    ],
)
def test_invalid_keep_alives_are_refused(value: float | str) -> None:
    error = refused(keep_alive=value)
    assert error.data["field"] == "keep_alive"
    assert "15m" in error.fix
    assert "never" in error.fix


@given(st.integers(0, 100), st.integers(0, 1000), st.integers(0, 1000), st.integers(0, 1000), st.booleans())
def test_durations_are_the_sum_of_their_parts(
    days: int, hours: int, minutes: int, seconds: int, spaced: bool
) -> None:
    text = (" " if spaced else "").join([f"{days}d", f"{hours}h", f"{minutes}m", f"{seconds}s"])
    assert parse_keep_alive(text) == ((days * 24 + hours) * 60 + minutes) * 60 + seconds


@given(st.floats(0, 365 * 86400.0) | st.just(-1.0))
def test_seconds_are_unchanged(seconds: float) -> None:
    assert parse_keep_alive(seconds) == seconds


@given(st.text() | st.floats())
def test_any_value_is_a_duration_or_refused(value: float | str) -> None:
    try:
        seconds = parse_keep_alive(value)
    except WhisperdError as error:
        assert error.code == "runtime.invalid"
    else:
        assert seconds == -1 or 0 <= seconds <= 365 * 86400


# Checks against the computer

CPU_TYPES = ("int8", "int8_float32", "float32")
GPU_TYPES = ("int8_float16", "float16", "float32")
NO_GPU = Capabilities(backends={"ctranslate2": {"cpu": CPU_TYPES}}, cpu_count=2)
TWO_GPUS = Capabilities(
    backends={"ctranslate2": {"cuda": GPU_TYPES, "cpu": CPU_TYPES}, "plain": {"cpu": ("float32",)}},
    gpu_count=2,
    cpu_count=8,
)
CPU_ONLY = replace(TWO_GPUS, backends={"plain": {"cpu": CPU_TYPES}})
OLD_DRIVER = Capabilities(
    backends={"ctranslate2": {"cuda": GPU_TYPES, "cpu": CPU_TYPES}},
    gpu_problem=WhisperdError("cuda.driver_too_old", "The driver is too old.", "Upgrade it."),
    cpu_count=2,
)


def refused_here(computer: Capabilities, **fields: Any) -> WhisperdError:
    with pytest.raises(WhisperdError) as raised:
        check_against(make(cpu_threads=fields.pop("cpu_threads", 0), **fields), computer)
    return raised.value


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"device": "cpu", "compute_type": "int8"},
        {"device": "cuda", "compute_type": "float16"},
        {"device": "cuda", "device_index": (1, 0)},
        {"device_index": (1,), "compute_type": "float16"},
        {"compute_type": "float16"},
        {"compute_type": "int8"},
        {"backend": "plain", "device": "cpu", "compute_type": "float32"},
        {"cpu_threads": 8},
    ],
)
def test_fields_that_the_computer_supports(fields: dict[str, Any]) -> None:
    check_against(make(**fields), TWO_GPUS)


@pytest.mark.parametrize(
    ("computer", "fields", "field", "works"),
    [
        (NO_GPU, {"backend": "other"}, "backend", "Use auto or ctranslate2."),
        (TWO_GPUS, {"backend": "other"}, "backend", "Use auto, ctranslate2 or plain."),
        (NO_GPU, {"device": "cuda"}, "device", "Use auto or cpu."),
        (NO_GPU, {"device_index": (0,)}, "device_index", "none and the device to auto or cpu"),
        (TWO_GPUS, {"backend": "plain", "device": "cuda"}, "device", "Use auto or cpu."),
        (TWO_GPUS, {"backend": "plain", "device_index": (0,)}, "device_index", "none"),
        (TWO_GPUS, {"device": "cuda", "device_index": (0, 2)}, "device_index", "Use 0 or 1"),
        (TWO_GPUS, {"device_index": (7,)}, "device_index", "Use 0 or 1"),
        (
            NO_GPU,
            {"compute_type": "float16"},
            "compute_type",
            "auto, or on cpu int8, int8_float32 or float32",
        ),
        (TWO_GPUS, {"device": "cpu", "compute_type": "float16"}, "compute_type", "on cpu int8, int8_float32"),
        (
            TWO_GPUS,
            {"device": "cuda", "compute_type": "int8"},
            "compute_type",
            "on cuda int8_float16, float16",
        ),
        (TWO_GPUS, {"device_index": (0,), "compute_type": "int8"}, "compute_type", "on cuda int8_float16"),
        (TWO_GPUS, {"backend": "plain", "compute_type": "int8"}, "compute_type", "on cpu float32."),
        (
            TWO_GPUS,
            {"compute_type": "bfloat16"},
            "compute_type",
            "on cpu int8, int8_float32 or float32; on cuda",
        ),
        (NO_GPU, {"cpu_threads": 3}, "cpu_threads", "at most 2, or 0"),
    ],
)
def test_an_unsupported_field_gets_supported_values(
    computer: Capabilities, fields: dict[str, Any], field: str, works: str
) -> None:
    error = refused_here(computer, **fields)
    assert error.code == "runtime.invalid"
    assert error.data["field"] == field
    assert works in error.fix
    assert msgspec.msgpack.encode(error.to_wire())


@pytest.mark.parametrize(
    ("computer", "fields", "message"),
    [
        (NO_GPU, {"device": "cuda"}, "This computer has no usable GPU."),
        (CPU_ONLY, {"device": "cuda"}, "No installed backend can use the device cuda."),
        (TWO_GPUS, {"backend": "plain", "device": "cuda"}, "The backend plain cannot use the device cuda."),
        (TWO_GPUS, {"device_index": (2, 0, 3)}, "This computer has no GPU 2 or 3."),
        (
            TWO_GPUS,
            {"backend": "plain", "compute_type": "int8"},
            "This computer cannot compute in int8 on cpu with the backend plain.",
        ),
        (TWO_GPUS, {"compute_type": "bfloat16"}, "This computer cannot compute in bfloat16 on cpu or cuda."),
        (
            Capabilities(backends={"gpu-only": {"cuda": GPU_TYPES}}),
            {},
            "This computer has no usable GPU, and no backend can run without one.",
        ),
        (
            Capabilities(backends={"gpu-only": {"cuda": GPU_TYPES}}),
            {"backend": "gpu-only"},
            "This computer has no usable GPU, and the backend gpu-only cannot run without one.",
        ),
    ],
)
def test_the_reason_why_a_field_is_unsupported(
    computer: Capabilities, fields: dict[str, Any], message: str
) -> None:
    assert refused_here(computer, **fields).message == message


@pytest.mark.parametrize("fields", [{}, {"backend": "gpu-only"}, {"compute_type": "int8"}])
def test_a_computer_without_usable_devices(fields: dict[str, Any]) -> None:
    gpu_only = Capabilities(backends={"gpu-only": {"cuda": GPU_TYPES}})
    error = refused_here(gpu_only, **fields)
    assert (error.code, error.data["field"]) == ("runtime.invalid", "backend")
    problem = WhisperdError("cuda.driver_too_old", "The driver is too old.", "Upgrade it.")
    assert refused_here(replace(gpu_only, gpu_problem=problem), **fields).code == problem.code
    assert refused_here(Capabilities(backends={}), **fields).code == "backend.none"


@pytest.mark.parametrize("fields", [{"device": "cuda"}, {"device_index": (0,)}])
def test_the_reason_for_an_unusable_gpu_is_given(fields: dict[str, Any]) -> None:
    error = refused_here(OLD_DRIVER, **fields)
    assert error.code == "cuda.driver_too_old"
    assert error is not OLD_DRIVER.gpu_problem, "a new error object each time, because each is raised"


def test_an_unusable_gpu_does_not_affect_processor_runtimes() -> None:
    check_against(make(device="auto"), OLD_DRIVER)
    check_against(make(device="cpu", compute_type="int8"), OLD_DRIVER)
    assert refused_here(OLD_DRIVER, compute_type="float16").data["field"] == "compute_type"


def test_every_compute_type_is_either_supported_or_refused() -> None:
    for compute_type in get_args(ComputeType):
        preset = make(device="cpu", compute_type=compute_type)
        if compute_type in ("auto", *CPU_TYPES):
            check_against(preset, NO_GPU)
        else:
            with pytest.raises(WhisperdError):
                check_against(preset, NO_GPU)
