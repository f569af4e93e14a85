"""Byte-level tokenizers with chat templates like those of ChatML, Llama 3 and Mistral models, small enough to work by hand."""

from __future__ import annotations

from transformers import PreTrainedTokenizerFast

from models_for_tests import byte_tokenizer

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CHATML_MARKED = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}{% generation %}{{ m.content + '<|im_end|>' }}"
    "{% endgeneration %}{{ '\n' }}{% else %}{{ m.content + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# Writes an empty thought before the last answer only, so that a shorter conversation is not the beginning of a longer one.
THINKING = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if loop.last and m.role == 'assistant' %}{{ '(think)' }}{% endif %}"
    "{{ m.content + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA = (
    "{{ bos_token }}{% for m in messages %}{{ '<|head|>' + m.role + '<|/head|>\n\n' + m.content | trim + '<|eot|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|head|>assistant<|/head|>\n\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}"
    "{% endif %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + '[/INST]' }}{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"
)
_SPECIAL = {CHATML: ["<|im_start|>", "<|im_end|>"], LLAMA: ["<|head|>", "<|/head|>", "<|eot|>"], MISTRAL: ["[INST]", "[/INST]"]}


def chat_tokenizer(template: str | None, pad_is_eos: bool = False) -> PreTrainedTokenizerFast:
    """As in the wild: ChatML ends turns and texts with the same token; Llama's template writes a BOS that the tokenizer adds too."""
    tokenizer = byte_tokenizer(bos=template in (None, LLAMA, MISTRAL))
    if template is not None:
        tokenizer.add_special_tokens({"additional_special_tokens": _SPECIAL.get(template, _SPECIAL[CHATML])})
        tokenizer.chat_template = template
    if template in (CHATML, CHATML_MARKED, THINKING):
        tokenizer.eos_token = "<|im_end|>"
    if template == LLAMA:
        tokenizer.eos_token = "<|eot|>"
    if pad_is_eos:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer
