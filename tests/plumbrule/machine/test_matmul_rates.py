"""Matrix-product rates: measured once, kept by what they depend on, and never in the way."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from plumbrule.machine import cpus, matmul, matmul_rates

CPU = torch.device("cpu")


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """The precisions that were measured, in a cache folder of the test's own."""
    calls: list[str] = []

    def count(device: torch.device, dtype: torch.dtype) -> float:
        calls.append(str(dtype).removeprefix("torch."))
        return 2.0

    monkeypatch.setattr(matmul_rates, "measured_gflops", count)
    monkeypatch.setattr(matmul_rates, "_measured", {})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return calls


def test_both_rates() -> None:
    for dtype in matmul_rates.DTYPES.values():
        assert matmul.measured_gflops(CPU, dtype) > 1e-3


@pytest.mark.parametrize(("seconds", "size"), [(1.0, 128), (1e-3, 1024)])
def test_a_slow_device_multiplies_small_matrices(
    monkeypatch: pytest.MonkeyPatch, seconds: float, size: int
) -> None:
    """So emulated bfloat16, at a hundredth of float32's rate, takes no longer to measure."""
    monkeypatch.setattr(matmul, "_product", lambda *_: lambda: None)
    monkeypatch.setattr(matmul, "_seconds", lambda product: seconds)
    found = matmul.measured_gflops(CPU, torch.bfloat16)
    assert found == pytest.approx(2.0 * size**3 / seconds / 1e9)


def test_a_kept_rate_out_of_range_is_measured_again(
    measured: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    matmul_rates.matmul_gflops(CPU)
    folder = matmul_rates.cache_folder()
    assert folder is not None
    path = folder / matmul_rates.FILE
    kept = json.loads(path.read_text())
    path.write_text(json.dumps({key: dict.fromkeys(matmul_rates.DTYPES, 10**400) for key in kept}))
    monkeypatch.setattr(matmul_rates, "_measured", {})  # another command
    assert matmul_rates.matmul_gflops(CPU) == {"float32": 2.0, "bfloat16": 2.0}
    assert len(measured) == 4


def test_once_per_machine(measured: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    rates = {"float32": 2.0, "bfloat16": 2.0}
    assert matmul_rates.matmul_gflops(CPU) == rates
    monkeypatch.setattr(matmul_rates, "_measured", {})  # another command
    assert matmul_rates.matmul_gflops(CPU) == rates
    assert measured == ["float32", "bfloat16"]
    monkeypatch.setattr(cpus, "processor", lambda: "another")
    matmul_rates.matmul_gflops(CPU)
    assert len(measured) == 4
    folder = matmul_rates.cache_folder()
    assert folder is not None
    assert len(json.loads((folder / "matmul_rates.json").read_text())) == 2


@pytest.mark.parametrize(
    "text", ["", "not JSON", "[1]", '{"KEY": 3}', '{"KEY": {"float32": 0, "bfloat16": 1}}']
)
def test_a_damaged_file_is_measured_over(measured: list[str], text: str) -> None:
    folder = matmul_rates.cache_folder()
    assert folder is not None
    folder.mkdir(parents=True)
    path = folder / "matmul_rates.json"
    path.write_text(text.replace("KEY", matmul_rates._key(CPU)), encoding="utf-8")
    assert matmul_rates.matmul_gflops(CPU)["float32"] == 2.0


def test_a_home_that_cannot_be_written_or_found(
    measured: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A file stands where the folder would be: not even root can write there."""
    (tmp_path / "cache").write_text("")
    assert matmul_rates.matmul_gflops(CPU)["float32"] == 2.0
    assert matmul_rates.matmul_gflops(CPU)["float32"] == 2.0
    assert len(measured) == 2  # once per command
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("HOME", raising=False)

    def unknown() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", staticmethod(unknown))
    monkeypatch.setattr(matmul_rates, "_measured", {})
    assert matmul_rates.cache_folder() is None
    assert matmul_rates.matmul_gflops(CPU)["float32"] == 2.0
