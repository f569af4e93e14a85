"""Tiny random models, a byte-level tokenizer and trained-like adapters, made in memory: no test downloads anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
)

TEXTS = (
    "The storm passed over the lake in the night.",
    "I wrote to her again; no answer came.",
    "Nobody spoke. The lamp burned low, and we waited.",
)
_SHAPE: dict[str, Any] = {
    "vocab_size": 300, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256, "bos_token_id": 256, "eos_token_id": 257, "pad_token_id": 258, "initializer_range": 0.2,
}  # fmt: skip


def byte_tokenizer(bos: bool = True) -> PreTrainedTokenizerFast:
    """One id a byte, BOS in front unless not `bos`; 256, 257 and 258 are BOS, EOS and padding."""
    alphabet = {symbol: i for i, symbol in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>", "</s>", "<pad>"])
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 256)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>")


def tiny_llama(seed: int = 0, **changes: Any) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(**{**_SHAPE, **changes})).eval()


def tiny_mistral(seed: int = 0, **changes: Any) -> MistralForCausalLM:
    torch.manual_seed(seed)
    return MistralForCausalLM(MistralConfig(**{**_SHAPE, **changes})).eval()


def tiny_gpt2(seed: int = 0) -> GPT2LMHeadModel:
    """Conv1D layers, and a head tied to the embedding."""
    torch.manual_seed(seed)
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=300, n_embd=32, n_layer=2, n_head=4, n_positions=256, bos_token_id=256, eos_token_id=257)
    ).eval()


def save_base(folder: Path, model: Any, bos: bool = True) -> Path:
    model.save_pretrained(folder)
    byte_tokenizer(bos).save_pretrained(folder)
    return folder


def letters(place: Path, number: int = 120) -> None:
    """`place`/letters.csv, short texts made by rule, and a base that knows nothing in `place`/tiny."""
    weather = ("the wind rose", "rain fell", "it was still", "snow lay", "a mist came", "the sun shone", "hail beat")
    texts = [f"Letter {n * 37 % 101}: on day {n} {weather[n % 7]}. I waited {n * n % 13} hours." for n in range(number)]
    (place / "letters.csv").write_text("text\n" + "".join(f'"{text}"\n' for text in texts))
    save_base(place / "tiny", tiny_mistral(initializer_range=0.02))


def move(model: PeftModel, seed: int = 1, size: float = 0.05) -> PeftModel:
    """Give every adapter the values of a trained one: random B (or A, in an embedding)."""
    generator = torch.Generator().manual_seed(seed)
    for layer in model.modules():
        if isinstance(layer, LoraLayer):
            for weight in [b.weight for b in layer.lora_B.values()] + list(layer.lora_embedding_A.values()):
                weight.data.normal_(0, size, generator=generator)
    return model


def wrap(base: Any, adapter_name: str = "default", **config: Any) -> PeftModel:
    """A fresh LoRA around `base`, in place; q and v, rank 4, alpha 8 unless told otherwise."""
    settings = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM", **config}
    torch.manual_seed(7)
    return get_peft_model(base, LoraConfig(**settings), adapter_name=adapter_name)


def save_adapter(folder: Path, base: Any, trained: bool = True, **config: Any) -> Path:
    """A LoRA made around `base` (which is spoilt by it), with a trained one's values if `trained`, and saved as PEFT does."""
    wrapped = wrap(base, **config)
    if trained:
        move(wrapped)
    wrapped.eval().save_pretrained(folder)
    return folder
