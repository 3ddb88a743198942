"""How much memory a device has, known without torch."""

from __future__ import annotations

import pytest

from plumbrule.machine import accelerators
from plumbrule.machine.accelerators import device_bytes

SIZES = [80, 24, 40]


def test_the_cpu_has_the_memory_of_the_machine() -> None:
    found = device_bytes("cpu")
    assert found is not None
    assert found > 2**28


def test_without_a_driver_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerators, "NVML", "libnowhere.so.1")
    assert device_bytes("cuda") is None
    assert device_bytes("cuda:1") is None


@pytest.mark.parametrize(
    ("device", "visible", "expected"),
    [
        ("cuda", None, 24),  # the smallest of all
        ("cuda:0", None, 80),
        ("cuda:2", None, 40),
        ("cuda", "0", 80),
        ("cuda:1", "2,0", 80),  # numbers count visible devices
        ("cuda", "", None),
    ],
)
def test_visible_devices_count(
    monkeypatch: pytest.MonkeyPatch, device: str, visible: str | None, expected: int | None
) -> None:
    monkeypatch.setattr(accelerators, "_sizes_by_nvml", lambda: list(SIZES))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert device_bytes(device) == expected
