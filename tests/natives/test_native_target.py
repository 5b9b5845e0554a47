from __future__ import annotations

import sys

import pytest

from whisperd.natives.lock import Distribution, Lock, Wheel
from whisperd.natives.target import PLATFORMS, PYTHONS, Target, platforms_of, this_computer
from whisperd.rpc.errors import WhisperdError


def test_this_computer_accepts_a_wheel_for_its_platform_and_python() -> None:
    target = this_computer()
    assert target.python.startswith(f"cp{sys.version_info.major}{sys.version_info.minor}")
    assert target.system
    if target.platform in PLATFORMS:
        own = {str(tag) for tag in target.ranks if target.platform in platforms_of(tag.platform)}
        assert any(tag.startswith(f"{target.python}-{target.python}-") for tag in own)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's names are Linux's")
def test_a_32_bit_python_on_a_64_bit_kernel_is_another_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    monkeypatch.setattr(sys, "maxsize", 2**31 - 1)
    target = this_computer.__wrapped__()
    wheel = Wheel("cp311-cp311-manylinux_2_17_aarch64", 1, 1, "0" * 64)
    lock = Lock(format=1, main="av", distributions=(Distribution("av", "1", (wheel,)),))
    with pytest.raises(WhisperdError) as caught:
        lock.select(target)
    assert "there is no build of av for linux-armv7l" in caught.value.message
    assert "Update the operating system" not in caught.value.fix


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("python", PYTHONS)
def test_a_known_target_prefers_wheels_for_its_own_python(platform: str, python: str) -> None:
    target = Target.known(platform, python)
    order = [str(tag) for tag in target.ranks]
    assert order[0].startswith(f"{target.python}-{target.python}-")
    assert "py3-none-any" in order[1:]


@pytest.mark.parametrize(
    ("tag", "platforms"),
    [
        ("manylinux_2_28_x86_64", ["linux-x86_64"]),
        ("manylinux2014_aarch64", ["linux-aarch64"]),
        ("macosx_11_0_arm64", ["macos-arm64"]),
        ("macosx_10_9_universal2", ["macos-arm64", "macos-x86_64"]),
        ("win_amd64", ["windows-x86_64"]),
        ("win_arm64", []),
        ("musllinux_1_2_x86_64", []),
        ("any", list(PLATFORMS)),
    ],
)
def test_the_platforms_that_a_tag_serves(tag: str, platforms: list[str]) -> None:
    assert list(platforms_of(tag)) == platforms
