"""`benchmarks/gpu.py` waits for a GPU: its whole story runs here with a tiny model on the CPU, so that it is ready when one is at hand."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="nf4 needs bitsandbytes")
def test_every_part_of_the_gpu_benchmark_runs_and_resumes_to_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import gpu

    gpu.main(["--tiny", "--out", str(tmp_path / "gpu.json")])
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert not {name: part for name, part in found.items() if isinstance(part, dict) and "failed" in part}
    assert len([name for name in found if name.startswith("training, ")]) == 8
    assert found["resume"]["identical"] and found["resume"]["resumed_at"] == 2
    assert all(part["own_forward"] is True for name, part in found.items() if name.startswith("training, "))
