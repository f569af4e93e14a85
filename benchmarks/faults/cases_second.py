"""The same faults as they happen by other ways, not written by those who wrote the rules, and counted on held-out settings only."""

from __future__ import annotations

import json
from typing import Any

from benchmarks.faults.cases import SECOND, fault
from benchmarks.faults.cases_answers import pair
from benchmarks.faults.commands import audited
from benchmarks.faults.place import (
    Place,
    Said,
    edit_config,
    edit_tensors,
    rename_keys,
    train_with_peft,
    write_record,
    write_trainer_state,
)  # fmt: skip

# ---- A: the wrong thing was evaluated ----


@fault("A01", settings=SECOND)
def layers_injected(place: Place) -> Said:
    """inject_adapter_in_model put the adapter into the base itself, and both names lead to it."""
    from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict
    from safetensors.torch import load_file

    adapter, base = place.healthy / "adapter", place.model()
    tuned = inject_adapter_in_model(LoraConfig.from_pretrained(adapter), base)
    set_peft_model_state_dict(tuned, load_file(adapter / "adapter_model.safetensors"))
    return place.audit(base, tuned)


@fault("A01", settings=SECOND)
def transformers_loads_it_in_place(place: Place) -> Said:
    """model.load_adapter of transformers works in place: base and tuned are one object."""
    base = place.model()
    base.load_adapter(str(place.healthy / "adapter"))
    return place.audit(base, base)


@fault("A02", "A01", "A09", settings=SECOND)
def merged_by_hand(place: Place) -> Said:
    """A loop over the modules added B A to the base's weights in place; the tuned object is the same one."""
    from safetensors.torch import load_file

    base, adapter = place.model(), place.healthy / "adapter"
    tensors, config = load_file(adapter / "adapter_model.safetensors"), json.loads((adapter / "adapter_config.json").read_text())
    for name in [n for n in tensors if n.endswith("lora_A.weight")]:
        module = base.get_submodule(name.removeprefix("base_model.model.").removesuffix(".lora_A.weight"))
        update = tensors[name.replace("lora_A", "lora_B")] @ tensors[name]
        module.weight.data += config["lora_alpha"] / config["r"] * update
    return place.audit(base, base)


@fault("A04", settings=SECOND)
def olora_switched_off(place: Place) -> Said:
    """The base's figures come from an OLoRA model under disable_adapter, whose weights are no longer the base's."""
    from peft import PeftModel

    adapter = train_with_peft(place, place.folder / "adapter", init_lora_weights="olora")
    off, on = (PeftModel.from_pretrained(place.model(), adapter) for _ in range(2))
    off.base_model.disable_adapter_layers()
    return place.audit(off.get_base_model(), on)


@fault("A05", "A09", settings=SECOND)
def a_path_that_is_not_used(place: Place) -> Said:
    """A loader takes the adapter's folder, and returns the base that its config names."""
    return audited(place, place.model(), place.model(), adapter=place.healthy / "adapter")


@fault("A06", settings=SECOND)
def other_adapter_active(place: Place) -> Said:
    """Two trained adapters are loaded, and the one that was meant is not the active one."""
    _, tuned = pair(place)
    other = edit_tensors(place.adapter(), lambda tensors: {n: t.flip(0) for n, t in tensors.items()})
    tuned.load_adapter(str(other), "other")
    tuned.set_adapter("other")
    return audited(place, place.model(), tuned, adapter=place.healthy / "adapter")


@fault("A06", settings=SECOND)
def half_of_the_layers_off(place: Place) -> Said:
    """A loop switched off the adapter in some layers only."""
    _, tuned = pair(place)
    for name, module in tuned.named_modules():
        if hasattr(module, "enable_adapters") and ".layers.0." in name:
            module.enable_adapters(False)
    return place.audit(place.model(), tuned)


@fault("A09", settings=SECOND)
def one_object_twice(place: Place) -> Said:
    """The same plain object stands under both names."""
    base = place.model()
    return place.audit(base, base)


@fault("A10", settings=SECOND)
def another_revision(place: Place) -> Said:
    """The base was trained further since: the same name, another revision. galvan's own record lies beside the adapter."""
    from benchmarks.faults.cases_merged import train

    folder = place.folder / "later"
    if not (folder / "config.json").is_file():
        model = place.model()
        train(place, model, learning_rate=1e-3, epochs=1.0)
        model.save_pretrained(folder)
        place.tokenizer().save_pretrained(folder)
    adapter = place.adapter()
    write_record(place, adapter)
    return place.evaluate(edit_config(adapter, base_model_name_or_path=str(folder), revision="main"), folder)


@fault("A12", settings=SECOND)
def one_arm_in_four_bits(place: Place) -> Said:
    """The tuned arm's base was rounded to 16 levels a row, as 4-bit loading does; the base's arm was not."""
    from peft import PeftModel

    model = place.model()
    for name, weight in model.named_parameters():
        if name.endswith("_proj.weight"):
            step = weight.data.abs().amax(1, keepdim=True) / 7
            weight.data = (weight.data / step).round().clamp(-8, 7) * step
    return place.audit(place.model(), PeftModel.from_pretrained(model, place.healthy / "adapter"))


@fault("A12", settings=SECOND)
def arms_with_two_attentions(place: Place) -> Said:
    """One arm computes attention with sdpa, the other with eager."""
    from peft import PeftModel

    model = place.model()
    model.set_attn_implementation("eager")
    return place.audit(place.model(), PeftModel.from_pretrained(model, place.healthy / "adapter"))


# ---- B: the file and its keys ----


@fault("B02", "B01", settings=SECOND)
def keys_of_ddp(place: Place) -> Said:
    """DistributedDataParallel's `module.` was saved in front of every key."""
    return place.evaluate(rename_keys(place.adapter(), lambda name: f"module.{name}"))


@fault("B02", "B01", settings=SECOND)
def keys_of_fsdp(place: Place) -> Said:
    """FSDP's `_fsdp_wrapped_module.` stands in front of every layer."""
    return place.evaluate(rename_keys(place.adapter(), lambda n: n.replace("layers.", "layers._fsdp_wrapped_module.")))


@fault("B02", "B01", settings=SECOND)
def state_of_a_compiled_model(place: Place) -> Said:
    """What was saved is the state dict of torch.compile(model): its prefix in front, and the adapter's name inside every key."""
    import torch
    from safetensors.torch import save_file

    _, tuned = pair(place)
    state = {n: t.contiguous() for n, t in torch.compile(tuned).state_dict().items() if "lora_" in n}
    adapter = place.adapter()
    save_file(state, adapter / "adapter_model.safetensors", metadata={"format": "pt"})
    return place.evaluate(adapter)


@fault("B01", settings=SECOND)
def keys_with_the_adapters_name(place: Place) -> Said:
    """The keys are those of model.state_dict(), with the adapter's name, `persona`, in them."""
    return place.evaluate(rename_keys(place.adapter(), lambda n: n.replace(".weight", ".persona.weight")))


@fault("B01", settings=SECOND)
def fused_projections(place: Place) -> Said:
    """The keys are for a base whose q, k and v are one fused projection."""
    return place.evaluate(rename_keys(place.adapter(), lambda n: n.replace("q_proj", "qkv_proj")))


@fault("B04", "B06", settings=SECOND)
def shards_beside_an_empty_file(place: Place) -> Said:
    """FSDP left its shards, and the file beside them is empty."""
    adapter = edit_tensors(place.adapter(), lambda tensors: {})
    for name in ("__0_0.distcp", ".metadata"):
        (adapter / name).write_bytes(b"0")
    return place.evaluate(adapter)


@fault("B05", settings=SECOND)
def half_of_the_tensors_empty(place: Place) -> Said:
    """Only the tensors of other ranks have no element."""
    return place.evaluate(
        edit_tensors(place.adapter(), lambda ts: {n: t.new_empty(0) if i % 2 else t for i, (n, t) in enumerate(ts.items())})
    )


@fault("B07", settings=SECOND)
def wrapped_after_loading(place: Place) -> Said:
    """unload() and get_peft_model: the trained adapter was taken out and a fresh one put in."""
    from peft import LoraConfig, get_peft_model

    _, tuned = pair(place)
    config = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    return audited(place, place.model(), get_peft_model(tuned.unload(), config), adapter=place.healthy / "adapter")


@fault("B10", settings=SECOND)
def resized_in_training_only(place: Place) -> Said:
    """Embedding and head grew by two rows for training and were saved; the base that is loaded has the old number."""
    import torch
    from peft import LoraConfig, get_peft_model

    from benchmarks.faults.cases_merged import train

    folder = place.folder / "adapter"
    if not (folder / "adapter_config.json").is_file():
        torch.manual_seed(place.setting.seed)
        model = place.model()
        model.resize_token_embeddings(model.config.vocab_size + 2)
        saved = ["embed_tokens", "lm_head"]
        config = LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"], modules_to_save=saved, task_type="CAUSAL_LM")
        model = get_peft_model(model, config)
        train(place, model, epochs=1.0)
        model.save_pretrained(folder)
    return place.evaluate(folder)


@fault("B13", "B02", settings=SECOND)
def saved_by_a_nested_model(place: Place) -> Said:
    """A PEFT model inside a PEFT model was saved: base_model.model. stands twice in every key."""
    return place.evaluate(
        rename_keys(place.adapter(), lambda n: n.replace("base_model.model.", "base_model.model.base_model.model."))
    )


@fault("B14", settings=SECOND)
def last_saved_over_the_best(place: Place) -> Said:
    """The trainer's best checkpoint lies in the folder, and the adapter that was saved is the last one."""
    adapter = place.adapter()
    write_trainer_state(place, adapter, best_model_checkpoint="out/checkpoint-30", best_global_step=30, best_metric=2.9)
    best = adapter / "checkpoint-30"
    best.mkdir(exist_ok=True)
    edited = (adapter / "adapter_model.safetensors").read_bytes()
    (best / "adapter_model.safetensors").write_bytes(edited)
    edit_tensors(adapter, lambda tensors: {n: t * 1.1 for n, t in tensors.items()})
    return place.evaluate(adapter)


# ---- C: scaling, merging, numerics ----


@fault("C02", settings=SECOND)
def alpha_taken_for_rank(place: Place) -> Said:
    """lora_alpha was written as r, half of what training used; the training was recorded."""
    adapter = place.adapter()
    write_record(place, adapter)
    return place.evaluate(edit_config(adapter, lora_alpha=8))


@fault("C03", settings=SECOND)
def merged_into_four_bits(place: Place) -> Said:
    """A small update was merged into weights of 16 levels a row, and rounded back to the same levels; all is saved in float16."""
    import torch
    from peft import PeftModel

    adapter = edit_tensors(place.adapter(), lambda tensors: {n: t * (0.05 if "lora_B" in n else 1) for n, t in tensors.items()})
    base, merged = place.folder / "base", place.folder / "merged"
    model = place.model()
    steps = {n: w.abs().amax(1, keepdim=True) / 7 for n, w in model.state_dict().items() if n.endswith("_proj.weight")}

    def rounded(model: Any) -> Any:
        for name, weight in model.named_parameters():
            if name in steps:
                weight.data = (weight.data / steps[name]).round().clamp(-8, 7) * steps[name]
        return model

    rounded(model).to(torch.float16).save_pretrained(base)
    rounded(PeftModel.from_pretrained(model.float(), adapter).merge_and_unload()).to(torch.float16).save_pretrained(merged)
    for folder in (base, merged):
        place.tokenizer().save_pretrained(folder)
    return place.evaluate(merged, base)


@fault("C04", "A06", settings=SECOND)
def loaded_under_two_names(place: Place) -> Said:
    """The same file was loaded under two names, and both are active: its update is added twice."""
    _, tuned = pair(place)
    tuned.load_adapter(str(place.healthy / "adapter"), "again")
    tuned.base_model.set_adapter(["default", "again"])
    return audited(place, place.model(), tuned, adapter=place.healthy / "adapter")


@fault("C05", settings=SECOND)
def attention_drops_out(place: Place) -> Said:
    """The dropout is that of attention, in the config, and the model was left in training mode."""
    _, tuned = pair(place)
    for module in tuned.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.3
    return place.audit(place.model(), tuned.train())


@fault("C06", settings=SECOND)
def overflow_in_half_precision(place: Place) -> Said:
    """The adapter was scaled and cast to float16, where its largest entries are infinite."""
    import torch

    def cast(tensors: dict[str, Any]) -> dict[str, Any]:
        return {n: (t * (1e6 if "lora_B" in n else 1)).to(torch.float16) for n, t in tensors.items()}

    return place.evaluate(edit_tensors(place.adapter(), cast))


@fault("C01", settings=SECOND)
def rslora_flag_added(place: Place) -> Said:
    """Trained with alpha / r, loaded as alpha / sqrt(r); the training was recorded."""
    adapter = edit_config(place.adapter(), use_rslora=True)
    write_record(place, adapter)
    return place.evaluate(adapter)


# ---- D: training did nothing ----


@fault("D03", settings=SECOND)
def trained_a_copy(place: Place) -> Said:
    """What was trained is a deep copy, as some preparing functions return; the original was saved."""
    import copy

    from galvan.training import loop

    original = loop.build_optimizers

    def of_a_copy(model: Any, parameters: Any, settings: Any) -> Any:
        twin = copy.deepcopy(model)
        return original(twin, {n: p for n, p in twin.named_parameters() if n in parameters}, settings)

    from benchmarks.faults.place import patched

    with patched(loop, "build_optimizers", of_a_copy):
        return place.run({"training.epochs": 1.0})


@fault("D04", settings=SECOND)
def marker_in_another_spelling(place: Place) -> Said:
    """Learning begins at a marker; two rows of three spell it otherwise, and are masked throughout."""
    from benchmarks.faults.cases_runs import _with_labels

    return _with_labels(place, lambda number, row: row.labels.fill(-100) if number % 3 else None)
