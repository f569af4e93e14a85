"""`galvan.audit` on live objects, as in a notebook: names the cause, changes nothing."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel, PromptTuningConfig, get_peft_model
from transformers import AutoModelForCausalLM

from galvan.errors import DataError
from galvan.notebook import Audit, audit
from models_for_tests import TEXTS, byte_tokenizer, move, save_adapter, save_base, tiny_llama, tiny_mistral, wrap

TOKENIZER = byte_tokenizer()


def look(base: Any, tuned: Any) -> Audit:
    return audit(base=base, tuned=tuned, tokenizer=TOKENIZER, texts=TEXTS)


def codes(found: Audit) -> list[str]:
    return [finding.code for finding in found.present]


def state(*models: torch.nn.Module) -> dict[str, Any]:
    """All that an audit must leave alone: bytes, modes, flags, switches, random states."""
    record: dict[str, Any] = {"random": (random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist())}
    for i, model in enumerate(models):
        tensors = sorted(model.state_dict(keep_vars=True).items())
        record[f"{i}"] = [
            [(n, hashlib.sha256(t.detach().numpy().tobytes()).hexdigest(), t.requires_grad, t.grad is None) for n, t in tensors],
            [(name, m.training) for name, m in model.named_modules()],
            [tuple(str(getattr(m, name, None)) for name in ("_disable_adapters", "_active_adapter", "merged_adapters"))
             for m in model.modules()],
            (getattr(model, "active_adapter", None), getattr(model, "_adapters_disabled", None)),
        ]  # fmt: skip
    return record


def test_the_origin_notebooks_way_is_named_a01_first(tmp_path: Path) -> None:
    save_base(tmp_path / "base", tiny_mistral(0))
    save_adapter(tmp_path / "adapter", tiny_mistral(0))
    base_model = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    finetuned_model = PeftModel.from_pretrained(base_model, tmp_path / "adapter")
    before = state(base_model, finetuned_model)
    found = look(base_model, finetuned_model)
    assert state(base_model, finetuned_model) == before
    assert codes(found) == ["A01"] and found.present[0].certainty == "certain" and found.alive is False
    assert "wrapper around the very object called base" in " ".join(found.present[0].because)
    assert "exactly the same likelihood" in " ".join(found.present[0].because)
    assert "Not alive: A01" in repr(found) and "score it before PeftModel.from_pretrained" in repr(found)


def test_a_pair_loaded_twice_is_alive_and_nothing_is_accused() -> None:
    for config in (
        {},
        {"target_modules": "all-linear"},
        {"use_rslora": True},
        {"use_dora": True},
        {"lora_dropout": 0.5},
        {"modules_to_save": ["lm_head"]},
    ):
        base, tuned = tiny_llama(0), move(wrap(tiny_llama(0), adapter_name="voice", **config)).eval()
        before = state(base, tuned)
        found = look(base, tuned)
        assert state(base, tuned) == before, config
        assert codes(found) == [] and found.alive is True and found.reason is None, config


def test_training_mode_is_put_back_module_by_module_and_its_dropout_named() -> None:
    base, tuned = tiny_llama(0).train(), move(wrap(tiny_llama(0), lora_dropout=0.5)).train()
    tuned.get_base_model().model.layers[0].eval()
    before = state(base, tuned)
    found = look(base, tuned)
    assert state(base, tuned) == before and codes(found) == ["C05"]


def test_a_disabled_adapter_is_a06() -> None:
    base, tuned = tiny_llama(0), move(wrap(tiny_llama(0)))
    tuned.disable_adapter_layers()
    before = state(tuned)
    found = look(base, tuned)
    assert state(tuned) == before and codes(found) == ["A06"] and found.alive is False


def test_a_second_empty_adapter_that_is_active_is_a06() -> None:
    base, tuned = tiny_llama(0), move(wrap(tiny_llama(0)))
    tuned.add_adapter("second", tuned.peft_config["default"])
    tuned.set_adapter("second")
    before = state(tuned)
    found = look(base, tuned)
    assert state(tuned) == before and codes(found) == ["A06"]
    tuned.set_adapter("default")
    assert codes(look(tiny_llama(0), tuned)) == []


def test_layers_that_disagree_are_a06() -> None:
    tuned = move(wrap(tiny_llama(0)))
    tuned.get_base_model().model.layers[0].self_attn.q_proj._disable_adapters = True
    found = look(tiny_llama(0), tuned)
    assert codes(found) == ["A06"] and "irregular" in found.present[0].because[0]


def test_a_fresh_adapter_is_b07_and_a_scale_of_zero_c02() -> None:
    assert codes(look(tiny_llama(0), wrap(tiny_llama(0)))) == ["B07"]
    tuned = move(wrap(tiny_llama(0), lora_alpha=0))
    assert codes(look(tiny_llama(0), tuned)) == ["C02"]


def test_one_object_twice_is_a01_with_an_adapter_and_a09_without() -> None:
    plain, tuned = tiny_llama(0), move(wrap(tiny_llama(0)))
    assert codes(look(plain, plain)) == ["A09"]
    assert codes(look(tuned, tuned)) == ["A01"]
    assert codes(look(tiny_llama(0), tiny_llama(0))) == ["A09"]


def test_a_whole_fine_tuned_model_is_alive() -> None:
    found = look(tiny_llama(0), tiny_llama(1))
    assert codes(found) == [] and found.alive is True


def test_merging_into_the_shared_tree_is_caught() -> None:
    base = tiny_llama(0)
    merged = move(wrap(base)).merge_and_unload()
    assert codes(look(base, merged)) == ["A09"]


def test_a_merged_adapter_is_never_unmerged() -> None:
    base, tuned = tiny_llama(0), move(wrap(tiny_llama(0)))
    tuned.merge_adapter()
    before = state(tuned)
    found = look(base, tuned)
    assert state(tuned) == before and codes(found) == [] and found.alive is True
    tuned.disable_adapter_layers()
    before = state(tuned)
    found = look(base, tuned)
    assert (
        state(tuned) == before and found.integrity.function is None and "merged and switched off" in (found.integrity.reason or "")
    )


def test_a_learned_prompt_is_not_accused() -> None:
    tuned = get_peft_model(tiny_llama(0), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3))
    found = look(tiny_llama(0), tuned)
    assert codes(found) == [] and found.alive is None and "prompt" in (found.reason or "")


def test_the_json_is_the_one_of_galvan_check() -> None:
    document = json.loads(look(tiny_llama(0), wrap(tiny_llama(0))).to_json())
    assert list(document) == ["schema_version", "alive", "reason", "findings", "integrity"]
    assert document["schema_version"] == 1 and document["alive"] is False and document["findings"][0]["code"] == "B07"


def test_the_page_is_escaped_and_so_is_the_terminal() -> None:
    tuned = move(wrap(tiny_llama(0), adapter_name="<script>\x1b[31m"))
    tuned.disable_adapter_layers()
    for name in ("<b>\x1b", "<i>"):
        tuned.add_adapter(name, tuned.peft_config["<script>\x1b[31m"])
    tuned.base_model.set_adapter("<i>")
    found = look(tiny_llama(0), tuned)
    page = found._repr_html_()
    assert "<script>" not in page and "<i>" not in page and "\x1b" not in page + repr(found)
    assert "&lt;script&gt;" in page


def test_texts_have_a_default_and_must_hold_a_token() -> None:
    assert audit(base=tiny_llama(0), tuned=tiny_llama(1), tokenizer=TOKENIZER).alive is True
    with pytest.raises(DataError, match="None of the texts"):
        audit(base=tiny_llama(0), tuned=tiny_llama(1), tokenizer=TOKENIZER, texts=[""])
