"""Tensors of a safetensors file as NumPy arrays, without torch, whose import takes longer than reading an adapter."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
_DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U8": "u1", "BOOL": "?",
}  # fmt: skip


def read_arrays(path: Path) -> Iterator[tuple[str, Array]]:
    """Each tensor by name, in order of name, mapped from the file; bfloat16, and floats of 8 bits, come as float32, which holds them exactly.

    The file must be whole, as `models.safetensors_header` finds it.
    """
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(length))
    header.pop("__metadata__", None)
    start = 8 + length
    data = np.memmap(path, np.uint8, "r")
    for name, entry in sorted(header.items()):
        begin, end = entry["data_offsets"]
        if entry["dtype"] not in _DTYPES:
            yield name, _through_torch(path, name)
            continue
        flat = data[start + begin : start + end].view(_DTYPES[entry["dtype"]])
        if entry["dtype"] == "BF16":
            flat = (flat.astype(np.uint32) << 16).view(np.float32)
        yield name, flat.reshape(entry["shape"])


def _through_torch(path: Path, name: str) -> Array:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as stream:
        array: Array = stream.get_tensor(name).float().numpy()
        return array
