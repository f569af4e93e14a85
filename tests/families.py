"""One tiny model of each architecture that documents go through end to end, with weights that make every mistake show."""

from __future__ import annotations

import numpy as np
import torch
from transformers import (
    GemmaConfig,
    GemmaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from galvan.data.tokens import TokenRow
from models_for_tests import move, tiny_gpt2, tiny_llama, tiny_mistral, wrap

SMALL = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128,
}  # fmt: skip
LENGTHS = [3, 23, 1, 11, 40, 2]


def large(model):
    """Weights so large that position, mask and neighbour all matter: small random ones attend to everything alike."""
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.copy_(torch.randn_like(parameter) * 0.3)
    return model.eval()


def rope(kind, **more):
    """A Llama whose positions are scaled so that it could read eight times as far."""
    far = {"rope_type": kind, "rope_theta": 10000.0, "factor": 8.0, "original_max_position_embeddings": 16}
    return tiny_llama(rope_parameters=far | more)


FAMILIES = {
    "llama": lambda: tiny_llama(),
    "llama, head tied": lambda: tiny_llama(tie_word_embeddings=True),
    "llama, biases": lambda: tiny_llama(attention_bias=True, mlp_bias=True),
    "llama, scaled RoPE": lambda: rope("llama3", low_freq_factor=1.0, high_freq_factor=4.0),
    "llama, linear RoPE": lambda: rope("linear"),
    "llama, YaRN": lambda: rope("yarn"),
    "mistral": lambda: tiny_mistral(),
    "mistral, window of 5": lambda: tiny_mistral(sliding_window=5),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SMALL)),
    "qwen2, window in one layer": lambda: Qwen2ForCausalLM(
        Qwen2Config(**SMALL, use_sliding_window=True, sliding_window=5, max_window_layers=1)
    ),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SMALL, head_dim=8)),
    "gemma": lambda: GemmaForCausalLM(GemmaConfig(**SMALL, head_dim=8)),
    "gpt2": lambda: tiny_gpt2(),
}


def rows_for(model, lengths=LENGTHS):
    size = model.config.vocab_size
    rng = np.random.default_rng(7)
    ids = [rng.integers(0, size, n) for n in lengths]
    return [TokenRow(str(i), one, one) for i, one in enumerate(ids)]


def adapted(model):
    targets = ["c_attn"] if model.config.model_type == "gpt2" else ["q_proj", "v_proj", "down_proj"]
    return move(wrap(model, target_modules=targets)).eval()
