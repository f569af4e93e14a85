"""In which dtype a training holds what, and why: one sentence, said before it starts.

A step of a thousandth of a weight's size or less is rounded away where the weight has the 8 bits of bfloat16. What trains is therefore held in
float32, with its gradient and its moments, whatever the frozen weights and the matrix products are in.
"""

from __future__ import annotations

import dataclasses

from galvan.recipe import Training

_HALF = ("bfloat16", "float16")
_MOMENTS = {"adamw8bit": "8 bits", "paged_adamw8bit": "8 bits, in pages that may leave the GPU"}


@dataclasses.dataclass(frozen=True, slots=True)
class Precision:
    """`weights`: the dtype the base is loaded in for training; `compute`: that of matrix products."""

    weights: str
    compute: str
    sentence: str


def of(settings: Training, quantization: str, dtype: str) -> Precision:
    """What a training with these settings holds, where the base is to be judged in `dtype`."""
    moments = _MOMENTS.get(settings.optimizer, "float32")
    if settings.method == "full":
        master = "float32" if dtype in _HALF else dtype
        why = f", products in {dtype}: in {dtype} most steps would be rounded away; saved in {dtype}" if master != dtype else ""
        return Precision(master, dtype, f"Held: all weights and gradients in {master}, optimizer state in {moments}{why}.")
    base = f"base weights, frozen, in {dtype}"
    if quantization == "nf4":
        base = f"base weights, frozen, in 4 bits (nf4, its scales quantised once more), computed with in {dtype}"
    kept = "float32" if dtype in _HALF else dtype
    why = f", for in {dtype} most of their steps would be rounded away" if kept != dtype else ""
    beside = (
        f"; modules saved whole and biases stay in {dtype}, like what goes through them"
        if kept != dtype and _beside(settings)
        else ""
    )
    return Precision(
        dtype, dtype, f"Held: {base}; the adapter and its gradients in {kept}, optimizer state in {moments}{why}{beside}."
    )


def _beside(settings: Training) -> bool:
    return bool(settings.lora.save_modules) or settings.lora.bias != "none"
