"""The capabilities of this computer for a preset, with made-up GPUs."""

from __future__ import annotations

import pytest

from whisperd.clock import now_rfc3339
from whisperd.hardware import Gpu, Gpus
from whisperd.plugins import Backend, Variant
from whisperd.rpc.errors import WhisperdError
from whisperd.runtimes.computer import Computer
from whisperd.runtimes.preset import RuntimePreset, check_against

pytestmark = pytest.mark.anyio

KINDS = ("float16", "int8_float16", "int8", "float32")
BACKEND = Backend(
    name="toy",
    engine="",
    variants=(Variant(name="toy-cuda", lock=None, device="cuda", priority=1, compute_types=KINDS),),
)
NEW, OLD = (8, 0), (5, 2)


@pytest.mark.parametrize(
    ("named", "compute_type", "is_possible"),
    [
        ((0,), "float16", True),
        ((1,), "float16", False),
        ((1,), "float32", True),
        ((0, 1), "float16", False),
        ((0, 1), "float32", True),
        ((), "float16", True),
    ],
)
async def test_every_gpu_of_a_preset_must_support_the_compute_type(
    named: tuple[int, ...], compute_type: str, is_possible: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def find_gpus() -> Gpus:
        return Gpus(tuple(Gpu(index, "toy", 8, 8, able) for index, able in enumerate((NEW, OLD))))

    monkeypatch.setattr("whisperd.runtimes.computer.backends", lambda: [BACKEND])
    now = now_rfc3339()
    preset = RuntimePreset(
        id="a", name="a", model="toy", device="cuda", device_index=named, compute_type=compute_type,  # type: ignore[arg-type]
        created=now, changed=now,
    )  # fmt: skip
    capabilities = await Computer(find_gpus).capabilities(preset)
    if is_possible:
        check_against(preset, capabilities)
        return
    with pytest.raises(WhisperdError) as raised:
        check_against(preset, capabilities)
    assert raised.value.data["field"] == "compute_type" and "float32" in raised.value.fix
