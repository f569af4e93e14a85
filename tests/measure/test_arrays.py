"""Reading a safetensors file without torch: the numbers that safetensors itself reads, and no heavy import."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from galvan.measure.arrays import read_arrays
from models_for_tests import save_adapter, save_base, tiny_llama

DTYPES = (
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.int64,
    torch.int32,
    torch.int8,
    torch.uint8,
    torch.bool,
)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_is_read_as_safetensors_reads_it(tmp_path: Path, dtype: torch.dtype) -> None:
    path, values = tmp_path / "x.safetensors", torch.tensor([[0.0, 1.0, 1.0], [0.0, 1.0, 0.0]])
    if dtype.is_floating_point:
        values = values * 0.7 - 0.3
    save_file({"b": values.to(dtype), "a": torch.zeros(0, 4, dtype=dtype), "c": values[0, 0].clone().to(dtype)}, path)
    found, expected = dict(read_arrays(path)), load_file(path)
    assert list(found) == ["a", "b", "c"]
    for name, array in found.items():
        assert array.shape == tuple(expected[name].shape)
        np.testing.assert_array_equal(array.astype(np.float64), expected[name].to(torch.float64).numpy())


def test_what_is_not_finite_stays_so_in_bfloat16(tmp_path: Path) -> None:
    save_file(
        {"x": torch.tensor([float("inf"), float("-inf"), float("nan"), 1e-40], dtype=torch.bfloat16)}, tmp_path / "x.safetensors"
    )
    ((_, array),) = read_arrays(tmp_path / "x.safetensors")
    assert np.isposinf(array[0]) and np.isneginf(array[1]) and np.isnan(array[2]) and 0 < array[3] < 1e-38


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_check_of_files_brings_neither_torch_nor_scipy(tmp_path: Path, dtype: torch.dtype) -> None:
    base, adapter = save_base(tmp_path / "base", tiny_llama(0)), save_adapter(tmp_path / "adapter", tiny_llama(0))
    path = adapter / "adapter_model.safetensors"
    save_file({name: tensor.to(dtype) for name, tensor in load_file(path).items()}, path, metadata={"format": "pt"})
    code = (
        "import sys; from galvan import pipeline; found = pipeline.check(sys.argv[1], sys.argv[2], load=False, offline=True)\n"
        "print(found.alive, [m for m in ('torch', 'transformers', 'peft', 'scipy', 'ftfy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, base, adapter], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "None []"
