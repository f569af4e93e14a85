"""How long `galvan check --files-only` takes for the adapter of a 7B model, whose base is there in headers alone (a sparse file).

    python -m benchmarks.check [--rank 8]

The adapter holds random numbers: rank 8, 32 layers, all linear modules (q, k, v, o, gate, up, down), float32. Every round is a new process,
imports included; the least of three is printed.
"""

from __future__ import annotations

import argparse
import json
import resource
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HIDDEN, INNER, LAYERS, VOCABULARY, HEADS = 4096, 11008, 32, 32000, 32
SHAPES = {
    **{f"self_attn.{name}_proj": (HIDDEN, HIDDEN) for name in "qkvo"},
    "mlp.gate_proj": (INNER, HIDDEN), "mlp.up_proj": (INNER, HIDDEN), "mlp.down_proj": (HIDDEN, INNER),
}  # fmt: skip


def write_base(folder: Path) -> None:
    """Config, and a safetensors file with the true header over a hole in the file: nothing is stored, and its size is right."""
    shapes = {
        "model.embed_tokens.weight": (VOCABULARY, HIDDEN),
        "lm_head.weight": (VOCABULARY, HIDDEN),
        "model.norm.weight": (HIDDEN,),
    }
    for layer in range(LAYERS):
        shapes |= {f"model.layers.{layer}.{name}.weight": shape for name, shape in SHAPES.items()}
        shapes |= {f"model.layers.{layer}.{norm}.weight": (HIDDEN,) for norm in ("input_layernorm", "post_attention_layernorm")}
    header, end = {}, 0
    for name, shape in shapes.items():
        size = 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": (end, end + size)}
        end += size
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        stream.truncate(8 + len(text) + end)
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN, "intermediate_size": INNER}
    config |= {"num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "num_key_value_heads": HEADS, "vocab_size": VOCABULARY}
    (folder / "config.json").write_text(json.dumps(config))


def write_adapter(folder: Path, rank: int) -> int:
    """Returns its number of parameters."""
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    tensors = {}
    for layer in range(LAYERS):
        for name, (n_out, n_in) in SHAPES.items():
            key = f"base_model.model.model.layers.{layer}.{name}"
            tensors[f"{key}.lora_A.weight"] = torch.randn(rank, n_in) / n_in**0.5
            tensors[f"{key}.lora_B.weight"] = torch.randn(n_out, rank) * 0.01
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    targets = sorted({name.rsplit(".", 1)[-1] for name in SHAPES})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": 2 * rank,
        "target_modules": targets,
        "bias": "none",
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return sum(t.numel() for t in tensors.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rank", type=int, default=8)
    rank = parser.parse_args().rank
    with tempfile.TemporaryDirectory() as scratch:
        base, adapter = Path(scratch, "base"), Path(scratch, "adapter")
        base.mkdir(), adapter.mkdir()
        write_base(base)
        parameters = write_adapter(adapter, rank)
        seconds: list[float] = []
        processor: list[float] = []
        for _ in range(3):
            start, used = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run(
                [sys.executable, "-m", "galvan", "check", base, adapter, "--files-only"], check=True, capture_output=True
            )
            now = resource.getrusage(resource.RUSAGE_CHILDREN)
            seconds.append(time.perf_counter() - start)
            processor.append(now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime)
    print(
        f"galvan check --files-only, 7B base, rank {rank}, {parameters:,} parameters: {min(seconds):.2f} s, {min(processor):.2f} s of processor time"
    )


if __name__ == "__main__":
    main()
