"""Adapters as mlx-lm saves them, put into PEFT's format.

mlx-lm adds `scale * (x @ lora_a) @ lora_b` with lora_a [in, r] and lora_b [r, out] (mlx_lm/tuner/lora.py); PEFT adds
`alpha / r * B A x` with A [r, in] and B [out, r]. So both factors are transposed, and alpha is scale * r.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from galvan.errors import ModelError
from galvan.measure.arrays import Array, read_arrays
from galvan.measure.key_names import PREFIX
from galvan.models import MLX_WEIGHTS, Located, read_config, safetensors_header
from galvan.text import shown

_FACTOR = re.compile(r"^(?P<module>.+)\.lora_(?P<factor>[ab])$")


def is_mlx(adapter: Located) -> bool:
    """True if mlx-lm's file lies in the folder, and PEFT's does not."""
    return (adapter.path / MLX_WEIGHTS).is_file() and not list(adapter.path.glob("adapter_model*"))


def converted(adapter: Located) -> tuple[dict[str, Any], dict[str, Array]]:
    """adapter_config.json and the tensors, as PEFT wants them; ModelError where it is no plain LoRA or its scale is not recorded."""
    config = read_config(adapter.path / "adapter_config.json")
    path = adapter.path / MLX_WEIGHTS
    safetensors_header(path)
    arrays = dict(read_arrays(path))
    factors = {name: match for name in arrays if (match := _FACTOR.match(name))}
    kind = config.get("fine_tune_type", "lora")
    if kind != "lora" or not factors or len(factors) < len(arrays) or any(arrays[name].ndim != 2 for name in factors):
        raise ModelError(
            "adapter/mlx-kind",
            f"{shown(adapter.name)} is an mlx-lm adapter of kind {shown(str(kind), 40)} with {len(arrays) - len(factors)} tensors that are no LoRA factors; "
            "only plain LoRA can be converted: merge it with `mlx_lm.fuse --de-quantize` and give the whole model.",
        )
    parameters = config.get("lora_parameters")
    scale = parameters.get("scale") if isinstance(parameters, Mapping) else None
    if not isinstance(scale, int | float) or isinstance(scale, bool) or not scale > 0:
        raise ModelError(
            "adapter/mlx-scale",
            f"{shown(adapter.name)}: adapter_config.json has no lora_parameters.scale, by which mlx-lm multiplies its updates; add the one that training used.",
        )
    ranks = {name: arrays[name].shape[1] for name, match in factors.items() if match["factor"] == "a"}
    if {arrays[name].shape[0] for name, match in factors.items() if match["factor"] == "b"} != set(ranks.values()) or len(
        set(ranks.values())
    ) != 1:
        raise ModelError(
            "adapter/mlx-kind", f"{shown(adapter.name)}: its factors are of several ranks, which mlx-lm does not write."
        )
    rank = next(iter(ranks.values()))
    tensors = {
        f"{PREFIX}{match['module']}.lora_{match['factor'].upper()}.weight": np.ascontiguousarray(arrays[name].T)
        for name, match in factors.items()
    }
    model = config.get("model")
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": model if isinstance(model, str) else None,
        "r": rank,
        "lora_alpha": scale * rank,
        "target_modules": sorted({match["module"] for match in factors.values()}),
        "bias": "none",
        "inference_mode": True,
    }, tensors
