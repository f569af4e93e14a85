"""The facts that the integrity checks gather, held against what was put in."""

from __future__ import annotations

import hashlib
import json
import math
import pickle
import random
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from peft import IA3Config, PeftModel, PromptTuningConfig, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file, save_file
from transformers import Qwen2Config, Qwen2ForCausalLM

from galvan.errors import ComparisonRefused, DataError, ModelError
from galvan.measure import live
from galvan.measure.adapter_files import effective_scaling, file_facts, update_norm
from galvan.measure.facts import Integrity, integrity_from_json
from galvan.measure.integrity import check
from galvan.measure.live import adapters_off, alone_nll, encode, function_facts, keep_random_state
from galvan.models import Located, load_tokenizer
from galvan.recipe import Model
from galvan.rundir import to_json
from models_for_tests import TEXTS, byte_tokenizer, move, save_adapter, save_base, tiny_gpt2, tiny_llama, tiny_mistral, wrap

CPU = Model(device="cpu", dtype="float32")


def at(path: Path) -> Located:
    return Located(str(path), path)


def digest(*folders: Path) -> dict[str, str]:
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for f in folders for p in sorted(f.rglob("*")) if p.is_file()}


def random_states() -> tuple[Any, ...]:
    return random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Located:
    return at(save_base(tmp_path_factory.mktemp("models") / "base", tiny_llama(0)))


ALL_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
HEALTHY: dict[str, dict[str, Any]] = {
    "q and v": {},
    "all linear": {"target_modules": "all-linear"},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "patterns": {
        "target_modules": ALL_LINEAR,
        "rank_pattern": {"q_proj": 2},
        "alpha_pattern": {"q_proj": 6, r"layers\.1\.self_attn\.v_proj": 3},
    },
    "regular expression": {"target_modules": r".*layers\.1\..*(q|v)_proj"},
    "one layer": {"layers_to_transform": [1]},
    "head saved": {"modules_to_save": ["lm_head"]},
    "embedding": {"target_modules": ["q_proj", "embed_tokens"]},
    "head adapted": {"target_modules": ["q_proj", "lm_head"]},
    "bias": {"bias": "lora_only"},
}


@pytest.mark.parametrize("config", HEALTHY.values(), ids=HEALTHY.keys())
def test_a_healthy_adapter_has_every_expected_key_and_no_other(base: Located, tmp_path: Path, config: dict[str, Any]) -> None:
    facts = file_facts(base, at(save_adapter(tmp_path / "a", tiny_llama(0), **config)))
    assert facts.keys_proved_by is not None, facts.reason
    assert not facts.missing_keys and not facts.unexpected_keys and not facts.foreign_modules
    assert facts.peft_type == "LORA"
    # PEFT also saves a copy of an embedding or head that is adapted.
    copies = len({"embed_tokens", "lm_head"} & set(facts.target_modules))
    assert facts.n_keys == (facts.n_expected_keys or 0) + copies
    assert facts.other_tensors == (("base_model.model.lm_head.weight",) if "modules_to_save" in config else ())
    assert not facts.dead_modules and not facts.unscaled_modules and not facts.not_finite and not facts.empty_tensors


@pytest.mark.parametrize("config", HEALTHY.values(), ids=HEALTHY.keys())
def test_a_healthy_adapter_is_whole_in_memory_and_changes_tokens(base: Located, tmp_path: Path, config: dict[str, Any]) -> None:
    found = check(base, at(save_adapter(tmp_path / "a", tiny_llama(0), **config)), CPU)
    assert found.live is not None and found.function is not None, found
    assert found.live.tensors_unlike_file == () and not found.live.tuned.dead and found.live.tuned.active == ("default",)
    assert found.function.off_base_nats == 0 and found.function.on_off_nats is not None
    assert found.function.on_off_nats > 10 * found.function.noise_floor_nats
    assert (found.function.generated, found.function.generated_otherwise) == (live.GENERATED, 0)


def test_plain_keys_are_proved_without_peft(base: Located, tmp_path: Path) -> None:
    assert file_facts(base, at(save_adapter(tmp_path / "a", tiny_llama(0)))).keys_proved_by == "base headers"


def test_conv1d_layers_and_tied_heads_are_known(tmp_path: Path) -> None:
    gpt2 = at(save_base(tmp_path / "gpt2", tiny_gpt2()))
    for name, targets in {"conv": ["c_attn"], "head": ["c_attn", "lm_head"]}.items():
        facts = file_facts(gpt2, at(save_adapter(tmp_path / name, tiny_gpt2(), target_modules=targets)))
        assert facts.keys_proved_by and not facts.missing_keys and not facts.unexpected_keys, (name, facts.reason)


def rename(folder: Path, how: Any) -> Path:
    path = folder / "adapter_model.safetensors"
    tensors = {how(name): tensor.clone() for name, tensor in load_file(path).items()}
    save_file({name: tensor for name, tensor in tensors.items() if name}, path)
    return folder


RENAMES = {
    "prefix dropped": lambda k: k.removeprefix("base_model.model."),
    "one part dropped": lambda k: k.replace("base_model.model.model.", "base_model.model."),
    "compiled": lambda k: k.replace("base_model.model.", "base_model.model._orig_mod."),
    "inner": lambda k: k.replace("self_attn", "inner.self_attn"),
}


@pytest.mark.parametrize("how", RENAMES.values(), ids=RENAMES.keys())
def test_renamed_keys_are_both_missing_and_unexpected(base: Located, tmp_path: Path, how: Any) -> None:
    folder = rename(save_adapter(tmp_path / "a", tiny_llama(0)), how)
    before = random_states()
    facts = file_facts(base, at(folder))
    assert random_states() == before
    assert len(facts.missing_keys) == len(facts.unexpected_keys) == facts.n_keys == 8


def test_keys_that_kept_the_name_default_load_and_are_not_accused(base: Located, tmp_path: Path) -> None:
    found = check(
        base, at(rename(save_adapter(tmp_path / "a", tiny_llama(0)), lambda k: k.replace(".weight", ".default.weight"))), CPU
    )
    assert (
        found.files is not None
        and not found.files.unexpected_keys
        and len(found.files.modules) == 4
        and not found.files.other_tensors
    )
    assert (
        found.live is not None
        and found.live.tensors_unlike_file == ()
        and found.function is not None
        and found.function.on_off_nats
    )


def test_a_module_that_the_base_lacks_is_named(base: Located, tmp_path: Path) -> None:
    deeper = save_adapter(tmp_path / "a", tiny_llama(0, num_hidden_layers=3))
    facts = file_facts(base, at(deeper))
    assert facts.foreign_modules == ("model.layers.2.self_attn.q_proj", "model.layers.2.self_attn.v_proj")
    assert not facts.missing_keys and len(facts.unexpected_keys) == 4


def test_missing_keys_alone_are_found(base: Located, tmp_path: Path) -> None:
    facts = file_facts(base, at(rename(save_adapter(tmp_path / "a", tiny_llama(0)), lambda k: "" if "layers.0" in k else k)))
    assert len(facts.missing_keys) == 4 and not facts.unexpected_keys


def test_a_module_with_a_factor_that_is_missing_or_no_matrix_has_no_update(base: Located, tmp_path: Path) -> None:
    folder = save_adapter(tmp_path / "a", tiny_llama(0))
    tensors = load_file(folder / "adapter_model.safetensors")
    missing, flat = [name for name in sorted(tensors) if "lora_B" in name][:2]
    del tensors[missing]
    tensors[flat] = tensors[flat].flatten()
    save_file(tensors, folder / "adapter_model.safetensors")
    modules = file_facts(base, at(folder)).modules
    without = [module for module in modules if module.update_norm is None]
    assert len(modules) == 4 and len(without) == 2
    assert all(module.max_abs_b is None and module.max_abs_a for module in without)


def test_empty_and_infinite_tensors_are_named(base: Located, tmp_path: Path) -> None:
    folder = save_adapter(tmp_path / "a", tiny_llama(0))
    tensors = load_file(folder / "adapter_model.safetensors")
    first, second = sorted(tensors)[:2]
    tensors[first] = torch.zeros(0)
    tensors[second][0, 0] = math.inf
    save_file(tensors, folder / "adapter_model.safetensors")
    facts = file_facts(base, at(folder))
    assert facts.empty_tensors == (first,) and facts.not_finite == (second,)
    json.loads(to_json(facts))


def test_update_norm_is_that_of_the_product() -> None:
    a, b = torch.randn(4, 50), torch.randn(30, 4)
    assert update_norm(a, b) == pytest.approx(float(torch.linalg.norm(b @ a)), rel=1e-5)
    # Squares of these entries underflow in float32; the norm must not.
    assert update_norm(a * 1e-20, b * 1e-15) == pytest.approx(1e-35 * float(torch.linalg.norm(b @ a)), rel=1e-5)
    assert update_norm(a, b * 0) == 0.0
    assert update_norm([[3.0, 4.0], [3.0, 4.0]], [[1.0, -0.9]]) == pytest.approx(0.5)  # the two nearly cancel: 0.1 of [3, 4]


def test_norms_in_the_file_are_those_that_peft_would_merge(base: Located, tmp_path: Path) -> None:
    for name, config in {"rs": {"use_rslora": True}, "patterns": HEALTHY["patterns"]}.items():
        wrapped = move(wrap(tiny_llama(0), **config))
        wrapped.save_pretrained(tmp_path / name)
        layers = dict(wrapped.get_base_model().named_modules())
        for module in file_facts(base, at(tmp_path / name)).modules:
            delta = layers[module.module].get_delta_weight("default")
            assert module.update_norm == pytest.approx(float(delta.detach().norm()), rel=1e-4)
            assert module.scaling == pytest.approx(layers[module.module].scaling["default"])


def test_scaling_by_hand() -> None:
    # alpha 16 over r 4 is 4, over sqrt(4) is 8; a pattern wins over the default; without alpha there is none.
    assert effective_scaling("q_proj", {"r": 4, "lora_alpha": 16}) == 4
    assert effective_scaling("q_proj", {"r": 4, "lora_alpha": 16, "use_rslora": True}) == 8
    assert effective_scaling("m.q_proj", {"r": 4, "lora_alpha": 16, "alpha_pattern": {"q_proj": 2}}) == 0.5
    assert effective_scaling("q_proj", {"r": 4}) is None
    assert effective_scaling("q_proj", {"r": 0, "lora_alpha": 16}) is None


def test_the_whole_check_of_a_healthy_adapter(base: Located, tmp_path: Path) -> None:
    adapter = save_adapter(tmp_path / "a", tiny_llama(0))
    before, states = digest(base.path, adapter), random_states()
    found = check(base, at(adapter), CPU)
    assert digest(base.path, adapter) == before and random_states() == states
    assert found.live is not None and found.function is not None
    assert found.live.base.layers == 0 and found.live.tuned.layers == 4
    assert found.live.tensors_unlike_file == () and found.live.tuned.trainable_parameters == 0
    assert found.live.tuned.scaling == {"default": (2.0, 2.0)} and not found.live.tuned.dead
    assert found.function.off_base_nats == 0 and found.function.repeat_nats == 0
    assert found.function.on_off_nats is not None and found.function.on_off_nats > 100 * found.function.noise_floor_nats
    assert integrity_from_json(json.loads(to_json(found))) == found


def test_a_check_opens_no_connection_and_no_pickle_and_runs_no_code_beside_the_weights(
    base: Located, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hostile files are of names that loaders look for; the one that would run leaves a mark."""

    def forbidden(*arguments: object, **named: object) -> None:
        raise AssertionError(f"not to be called: {arguments}")

    adapter = save_adapter(tmp_path / "a", tiny_llama(0))
    mark = tmp_path / "ran"
    for name in ("modeling_llama.py", "custom.py", "__init__.py"):
        (adapter / name).write_text(f"open({str(mark)!r}, 'w')", encoding="utf-8")
    for name in ("adapter_model.bin", "training_args.bin", "optimizer.pt", "pytorch_model.bin"):
        (adapter / name).write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    for owner, name in (
        (socket.socket, "connect"),
        (socket, "getaddrinfo"),
        (torch, "load"),
        (pickle, "load"),
        (pickle, "Unpickler"),
    ):
        monkeypatch.setattr(owner, name, forbidden)
    found = check(base, at(adapter), CPU)
    assert found.function is not None and not mark.exists()
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(ModelError) as refused:
        check(base, at(adapter), CPU)
    assert refused.value.code == "model/pickle"


def test_bfloat16_has_a_noise_floor_and_the_file_is_still_held_bit_for_bit(base: Located, tmp_path: Path) -> None:
    folder = save_adapter(tmp_path / "a", tiny_llama(0))
    path = folder / "adapter_model.safetensors"
    save_file({name: tensor.bfloat16() for name, tensor in load_file(path).items()}, path)
    found = check(base, at(folder), Model(device="cpu", dtype="bfloat16"))
    assert found.live is not None and found.live.tensors_unlike_file == ()
    assert found.function is not None and found.function.off_base_nats == 0
    assert found.function.on_off_nats is not None and found.function.on_off_nats > found.function.noise_floor_nats


def test_an_adapter_inside_the_bases_own_folder_is_refused(tmp_path: Path) -> None:
    """transformers loads an adapter that lies beside a model's config without a word: the base would not be one."""
    folder = save_base(tmp_path / "both", tiny_llama(0))
    save_adapter(folder, tiny_llama(0), target_modules=["k_proj"])
    with pytest.raises(ComparisonRefused, match="comes with an adapter already in it") as refused:
        check(at(folder), at(save_adapter(tmp_path / "a", tiny_llama(0))), CPU)
    assert refused.value.code == "A01" and refused.value.exit_code == 4


def test_files_that_prove_a_fault_end_the_check(base: Located, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("galvan.measure.integrity.load_base", lambda *_: pytest.fail("the base was loaded"))
    dead = save_adapter(tmp_path / "dead", tiny_llama(0), trained=False)
    renamed = rename(save_adapter(tmp_path / "renamed", tiny_llama(0)), RENAMES["compiled"])
    for folder in (dead, renamed, base.path):
        found = check(base, at(folder), CPU)
        assert found.live is None and found.function is None and found.reason and found.reason.startswith("not loaded, because")


def test_a_whole_model_is_compared_by_its_files_and_weights(base: Located, tmp_path: Path) -> None:
    other = at(save_base(tmp_path / "full", tiny_llama(1)))
    found = check(base, other, CPU, TEXTS)
    assert found.files is not None and found.files.kind == "full" and not found.files.same_as_base and found.files.same_tokenizer
    assert found.live is not None and found.live.different_tensors == 21 - 5  # the five norms are ones in both
    assert found.function is not None and found.function.on_base_nats and found.function.on_off_nats is None


def test_another_kind_of_adapter_has_no_file_facts_but_is_measured(base: Located, tmp_path: Path) -> None:
    config = IA3Config(target_modules=["k_proj", "v_proj"], feedforward_modules=[], task_type="CAUSAL_LM")
    model = get_peft_model(tiny_llama(0), config)
    for name, p in model.named_parameters():
        if "ia3" in name:
            p.data.fill_(1.3)
    model.save_pretrained(tmp_path / "ia3")
    found = check(base, at(tmp_path / "ia3"), CPU)
    assert found.files is not None and found.files.kind == "other" and found.files.reason and not found.files.modules
    assert found.function is not None and found.function.on_off_nats


def test_a_learned_prompt_is_not_measured(base: Located, tmp_path: Path) -> None:
    get_peft_model(tiny_llama(0), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)).save_pretrained(tmp_path / "p")
    found = check(base, at(tmp_path / "p"), CPU)
    assert found.live is None and found.refused_by_peft is None and found.reason and "prompt" in found.reason


def test_an_adapter_of_another_shape_is_known_from_headers(base: Located, tmp_path: Path) -> None:
    found = check(base, at(save_adapter(tmp_path / "a", tiny_llama(0, hidden_size=64))), CPU)
    assert found.files is not None and len(found.files.ill_shaped) == 4 and not found.files.missing_keys and found.live is None


def test_files_only_loads_nothing(base: Located, tmp_path: Path) -> None:
    found = check(base, at(save_adapter(tmp_path / "a", tiny_llama(0))), CPU, load=False)
    assert found.live is None and found.reason == "only files were read, and nothing in them is wrong"


def lower_case(folder: Path) -> Path:
    """Give the model in `folder` a tokenizer of its own."""
    value = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps({**value, "normalizer": {"type": "Lowercase"}}))
    return folder


def test_the_loaded_check_looks_at_the_texts_it_is_given_and_at_the_adapter_in_all_strengths(base: Located, tmp_path: Path) -> None:
    adapter, own = at(save_adapter(tmp_path / "a", tiny_llama(0))), at(lower_case(save_base(tmp_path / "own", tiny_llama(1))))
    for tuned in (adapter, own):  # a whole model with another tokenizer is examined alone
        found = check(base, tuned, CPU, ["Of these letters."]).function
        assert found is not None and found.n_texts == 1
        assert [p.multiplier for p in found.sweep] == ([0.0, 0.5, 1.0, 1.5, 2.0, 4.0] if tuned is adapter else [])


def test_an_export_with_another_tokenizer_is_not_held_beside_the_base(base: Located, tmp_path: Path) -> None:
    adapter, export = at(save_adapter(tmp_path / "a", tiny_llama(0))), save_base(tmp_path / "export", tiny_llama(0))
    assert check(base, adapter, CPU, exported=at(export)).exported is not None
    with pytest.raises(ModelError, match="another tokenizer than the base"):
        check(base, adapter, CPU, exported=at(lower_case(export)))


def test_texts_without_tokens_are_refused(base: Located, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="None of the texts"):
        check(base, at(save_adapter(tmp_path / "a", tiny_llama(0))), CPU, [""])


def test_the_base_that_an_adapter_names_is_compared_with_the_one_given(tmp_path: Path, base: Located) -> None:
    folder = save_adapter(tmp_path / "a", tiny_llama(0))
    config = json.loads((folder / "adapter_config.json").read_text())
    given = Located("org/base", base.path, "0" * 40)
    for recorded, same in {"org/base": True, "org/other": False, str(base.path): True, "/elsewhere/base": None}.items():
        (folder / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": recorded}))
        assert file_facts(given, at(folder)).recorded_base_matches is same


def test_trainers_padding_does_not_make_another_tokenizer(tmp_path: Path, base: Located) -> None:
    folder = save_adapter(tmp_path / "a", tiny_llama(0))
    tokenizer = byte_tokenizer()
    tokenizer.save_pretrained(folder)
    value = json.loads((folder / "tokenizer.json").read_text())
    for change, same in (({"padding": {"direction": "Left"}}, True), ({"normalizer": {"type": "Lowercase"}}, False)):
        (folder / "tokenizer.json").write_text(json.dumps({**value, **change}))
        assert file_facts(base, at(folder)).same_tokenizer is same


def test_a_tokenizer_saved_anew_is_the_same_where_it_gives_the_same_ids(tmp_path: Path) -> None:
    """transformers gives a Qwen 2 the normaliser, splitting and end of text of its own class, and saving writes them into the file."""
    qwen = Qwen2ForCausalLM(
        Qwen2Config(vocab_size=260, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2)
    )
    base = at(save_base(tmp_path / "base", qwen))
    folder = save_adapter(tmp_path / "a", qwen)
    load_tokenizer(base).save_pretrained(folder)
    saved = json.loads((folder / "tokenizer.json").read_text())
    assert saved["normalizer"] != json.loads((base.path / "tokenizer.json").read_text())["normalizer"]
    found = file_facts(base, at(folder))
    assert found.same_tokenizer and found.vocabulary is not None and not found.vocabulary.new_tokens
    vocab = saved["model"]["vocab"]
    vocab["a"], vocab["b"] = vocab["b"], vocab["a"]
    (folder / "tokenizer.json").write_text(json.dumps(saved))
    assert file_facts(base, at(folder)).same_tokenizer is False


@pytest.mark.parametrize("make", [tiny_llama, tiny_mistral])
def test_multiplier_zero_is_exactly_the_base(make: Any) -> None:
    rows = encode(byte_tokenizer(), TEXTS)
    model = make(0)
    base_nll = alone_nll(model, rows)
    facts = function_facts(move(wrap(model)), base_nll, rows, sweep=True)
    assert [p.multiplier for p in facts.sweep] == [0.0, 0.5, 1.0, 1.5, 2.0, 4.0]  # of rank 4: sqrt(r) is 2
    assert facts.sweep[0].nll_nats == float(base_nll.double().mean())
    assert len({p.nll_nats for p in facts.sweep}) == 6


def test_where_ranks_differ_the_strengths_are_the_usual_ones() -> None:
    rows = encode(byte_tokenizer(), TEXTS[:1])
    facts = function_facts(move(wrap(tiny_llama(0), rank_pattern={"q_proj": 2})), None, rows, sweep=True)
    assert [p.multiplier for p in facts.sweep] == [0.0, 0.5, 1.0, 1.5, 2.0]


@pytest.mark.parametrize(("length", "tried"), [(20, {2, 6, 10}), (9, {2, 6, 4}), (5, {2, 5}), (2, {2})])
def test_rows_are_cut_short_at_two_at_six_and_at_their_half(monkeypatch: pytest.MonkeyPatch, length: int, tried: set[int]) -> None:
    seen: list[int] = []

    def likelihoods(model: Any, rows: Any) -> torch.Tensor:
        seen.append(rows[0].shape[1])
        return torch.arange(1.0, seen[-1]) * (1 + 0.01 * (seen[-1] < length))

    monkeypatch.setattr(live, "alone_nll", likelihoods)
    assert live.length_nats(torch.nn.Identity(), [torch.zeros(1, length)]) == pytest.approx(
        0.01 * (max(tried - {length}, default=1) - 1), rel=1e-4
    )
    assert seen[0] == length and set(seen[1:]) == tried


def test_adapters_within_adapters_are_counted_as_wrappers_and_as_layers() -> None:
    twice = wrap(wrap(tiny_llama(0)))
    assert live.adapter_state(twice).nested == 1
    layer = next(m for m in twice.modules() if isinstance(m, BaseTunerLayer))
    assert live._nested(twice, [layer, SimpleNamespace(base_layer=layer)]) == 2


def test_of_whole_models_alone_the_changed_entries_are_counted(base: Located, tmp_path: Path) -> None:
    whole = tiny_llama(0)
    with torch.no_grad():
        whole.model.layers[0].mlp.up_proj.weight[::2] += 1
    found = check(base, at(save_base(tmp_path / "whole", whole)), CPU).live
    assert found is not None and found.changed_entries == pytest.approx(0.5)
    found = check(base, at(save_adapter(tmp_path / "a", tiny_llama(0))), CPU).live
    assert found is not None and found.changed_entries is None


def test_switching_off_touches_no_flag_for_good() -> None:
    model = move(wrap(tiny_llama(0), modules_to_save=["lm_head"]))
    flags = [(n, p.requires_grad) for n, p in model.named_parameters()]
    fresh = alone_nll(tiny_llama(0), encode(byte_tokenizer(), TEXTS))
    with adapters_off(model):
        assert torch.equal(alone_nll(model.eval(), encode(byte_tokenizer(), TEXTS)), fresh)
    assert [(n, p.requires_grad) for n, p in model.named_parameters()] == flags
    assert not any(getattr(m, "_disable_adapters", False) for m in model.modules())


def test_random_state_is_kept_even_on_an_error() -> None:
    before = random_states()
    with pytest.raises(KeyError), keep_random_state():
        random.random(), np.random.random(), torch.rand(1)
        raise KeyError
    assert random_states() == before


def test_the_random_states_of_every_gpu_are_kept_and_where_there_is_none_no_gpu_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    states, put_back = ["first", "second"], list[list[str]]()
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", lambda: list(states))
    monkeypatch.setattr(torch.cuda, "set_rng_state_all", put_back.append)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with keep_random_state():
        states[:] = ["other", "others"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with keep_random_state():
        pass
    assert put_back == [["first", "second"]]


class Fixed(torch.nn.Module):
    """Gives the same logits for every position."""

    def __init__(self, logits: list[float]) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(logits))

    def forward(self, input_ids: torch.Tensor, use_cache: bool) -> SimpleNamespace:
        return SimpleNamespace(logits=self.weight.expand(*input_ids.shape, -1))


def test_a_token_is_behind_where_it_is_short_by_more_than_a_thousandth_of_the_largest_logit() -> None:
    """Largest 100: short by 0.09 is a tie, by 0.11 behind. Largest 0.5: the thousandth is of 1."""
    ids = torch.tensor([[9, 0, 1, 2]])
    assert [live.behind(Fixed([100.0, 99.91, 99.89]), ids[:, :n], 1) for n in (1, 2, 3, 4)] == [0, 0, 0, 1]
    assert live.behind(Fixed([0.5, 0.4992, 0.4988]), ids, 1) == 1


def test_an_adapter_with_a_name_of_its_own_is_held_against_its_file(base: Located, tmp_path: Path) -> None:
    folder = save_adapter(tmp_path / "a", tiny_llama(0))
    tuned = PeftModel.from_pretrained(tiny_llama(0), folder, adapter_name="voice")
    found = live.live_facts(tiny_llama(0), tuned, adapter_file=live.read_tensors([folder / "adapter_model.safetensors"]))
    assert found.tuned.active == ("voice",) and found.tensors_unlike_file == () and found.holds_file == ("voice",)


def test_a_damaged_record_is_a_data_error() -> None:
    with pytest.raises(DataError, match=r"integrity\.json"):
        integrity_from_json({"files": {"kind": "nonsense"}})
    assert integrity_from_json({"from_a_later_version": 1}) == Integrity()
