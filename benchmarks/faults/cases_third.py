"""The decisive faults in ways that no rule was written or mended for: counted on the held-out part only."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from benchmarks.faults import ground
from benchmarks.faults.cases import HELD_OUT, fault
from benchmarks.faults.cases_answers import pair
from benchmarks.faults.cases_code import kept_in_bfloat16
from benchmarks.faults.cases_files import merged_in
from benchmarks.faults.commands import audited
from benchmarks.faults.place import (
    Place,
    Said,
    edit_config,
    edit_tensors,
    in_force,
    rename_keys,
    same_tensors,
    train_with_peft,
    write_record,
    write_trainer_state,
)  # fmt: skip

TWO = (HELD_OUT[0], HELD_OUT[2])

# ---- A: the wrong thing was evaluated ----


@fault("A01", settings=TWO)
def mixed_model_in_place(place: Place) -> Said:
    """PeftMixedModel was put around the base in place, and the old name is taken for the base."""
    from peft import PeftMixedModel

    base = place.model()
    return place.audit(base, PeftMixedModel.from_pretrained(base, str(place.healthy / "adapter")))


@fault("A01", "A03", settings=TWO)
def class_method_of_the_wrapper(place: Place) -> Said:
    """The 'base' is tuned.model, one attribute further in than the wrapper."""
    _, tuned = pair(place)
    return place.audit(tuned.base_model.model, tuned)


@fault(
    "A02", "A10", settings=TWO
)  # what was overwritten is the base: its weights are not those of its files, nor those under the adapter
def merged_state_loaded_into_the_base(place: Place) -> Said:
    """The state dict of the merged model was loaded into the object that is then scored as the base."""
    from peft import PeftModel

    base, tuned = pair(place)
    merged = PeftModel.from_pretrained(place.model(), place.healthy / "adapter").merge_and_unload()
    base.load_state_dict(merged.state_dict())
    return place.audit(base, tuned)


@fault("A04", settings=HELD_OUT[1:2])  # a base with biases in q, k and v: only such can be moved this way
def biases_left_on(place: Place) -> Said:
    """bias="all" trained the base's own biases, and the model with the adapter switched off is taken for the base."""
    from peft import PeftModel

    adapter = train_with_peft(place, place.folder / "adapter", bias="all")
    off, on = (PeftModel.from_pretrained(place.model(), adapter).eval() for _ in range(2))
    off.base_model.disable_adapter_layers()
    fresh, left = (
        {n.replace("base_layer.", ""): p for n, p in m.named_parameters() if n.endswith(".bias")}
        for m in (place.model(), off.get_base_model())
    )
    in_force(bool(fresh) and not same_tensors(fresh, left), "no bias of the base was moved")
    return audited(place, off.get_base_model(), on)


@fault("A05", settings=TWO)
def unloaded_before_scoring(place: Place) -> Said:
    """unload() gave the plain base back, and that is the object that is scored as the tuned model."""
    _, tuned = pair(place)
    return audited(place, place.model(), tuned.unload(), adapter=place.healthy / "adapter")


@fault("A06", settings=TWO)
def layers_disagree(place: Place) -> Said:
    """A loop over some modules made another adapter the active one there."""
    from peft import LoraConfig

    _, tuned = pair(place)
    tuned.add_adapter("fresh", LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    for name, module in tuned.named_modules():
        if ".layers.1." in name and hasattr(module, "set_adapter"):
            module.set_adapter(["fresh"])
    return place.audit(place.model(), tuned)


@fault("A06", settings=TWO)
def switched_off_and_never_on(place: Place) -> Said:
    """disable_adapter() was entered, and an error kept the cell from leaving it."""
    _, tuned = pair(place)
    left_open = tuned.disable_adapter()  # held, or Python would close it
    left_open.__enter__()
    in_force(tuned.get_model_status().enabled is False, "the adapter is switched on")
    return audited(place, place.model(), tuned, adapter=place.healthy / "adapter")


@fault("A09", settings=TWO)
def base_saved_in_shards(place: Place) -> Said:
    """The tuned folder is the base, saved again in several files: other hashes, the same weights."""
    folder = place.folder / "copy"
    place.model().save_pretrained(folder, max_shard_size="100KB")
    place.tokenizer().save_pretrained(folder)
    return place.evaluate(folder)


@fault("A09", settings=TWO)
def two_loads_of_one_file(place: Place) -> Said:
    """Both names hold the merged model, each from a load of its own."""
    _, tuned = pair(place)
    merged = tuned.merge_and_unload()
    return place.audit(copy.deepcopy(merged), merged)


@fault("A10", "B01", settings=(HELD_OUT[0],))
def base_of_another_size(place: Place) -> Said:
    """The base has the same module names, and other shapes."""
    return place.evaluate(place.adapter(), ground.base_folder(place.out, "llama"))


@fault("A10", settings=TWO)
def adapter_over_another_base(place: Place) -> Said:
    """Two live objects: below the adapter lies a base of other weights than the one called base."""
    from peft import PeftModel

    other = place.model(ground.base_folder(place.out, place.setting.base, seed=1))
    return audited(place, place.model(), PeftModel.from_pretrained(other, place.healthy / "adapter"))


@fault("A12", settings=TWO)
def one_arm_in_eight_bits(place: Place) -> Said:
    """The tuned arm's base was rounded to 256 levels a row, as 8-bit loading does."""
    from peft import PeftModel

    model = place.model()
    for name, weight in model.named_parameters():
        if name.endswith("_proj.weight"):
            step = weight.data.abs().amax(1, keepdim=True) / 127
            weight.data = (weight.data / step).round() * step
    return place.audit(place.model(), PeftModel.from_pretrained(model, place.healthy / "adapter"))


@fault("A12", settings=TWO)
def one_arm_in_half_precision(place: Place) -> Said:
    """The base was loaded in float16, the tuned model in float32."""
    import torch

    base, tuned = pair(place)
    return place.audit(base.to(torch.float16), tuned)


# ---- B: the file and its keys ----


@fault("B01", settings=TWO)
def keys_in_lower_case(place: Place) -> Said:
    """The factors are called lora_a and lora_b."""
    return place.evaluate(rename_keys(place.adapter(), lambda n: n.replace("lora_A", "lora_a").replace("lora_B", "lora_b")))


@fault("B01", settings=TWO)
def keys_of_diffusers(place: Place) -> Said:
    """The factors are called lora.down and lora.up."""
    return place.evaluate(rename_keys(place.adapter(), lambda n: n.replace("lora_A", "lora.down").replace("lora_B", "lora.up")))


@fault("B01", settings=TWO)
def layers_counted_from_one(place: Place) -> Said:
    """A converter counted the layers from one."""
    import re

    return place.evaluate(rename_keys(place.adapter(), lambda n: re.sub(r"layers\.(\d+)", lambda m: f"layers.{int(m[1]) + 1}", n)))


@fault("B01", "B02", settings=TWO)
def keys_of_a_larger_whole(place: Place) -> Said:
    """The language model was a part of a larger one when it was saved: `language_model.` stands in every key."""
    return place.evaluate(
        rename_keys(place.adapter(), lambda n: n.replace("base_model.model.", "base_model.model.language_model."))
    )


@fault("B02", "B01", settings=TWO)
def keys_of_checkpointed_layers(place: Place) -> Said:
    """Torch's wrapper for activation checkpointing stands around every layer."""
    return place.evaluate(
        rename_keys(place.adapter(), lambda n: n.replace(".self_attn.", "._checkpoint_wrapped_module.self_attn."))
    )


@fault("B02", "B01", settings=TWO)
def two_wrappers_at_once(place: Place) -> Said:
    """Compiled inside DistributedDataParallel: `module._orig_mod.` stands in front of every key."""
    return place.evaluate(rename_keys(place.adapter(), lambda n: f"module._orig_mod.{n}"))


@fault("B02", "B01", settings=TWO)
def some_layers_compiled(place: Place) -> Said:
    """Only the attention blocks were compiled: half of the keys carry `_orig_mod.`."""
    return place.evaluate(rename_keys(place.adapter(), lambda n: n.replace("self_attn.", "self_attn._orig_mod.")))


@fault("B03", "B01", settings=TWO)
def half_of_lora_swallowed(place: Place) -> Said:
    """The adapter's name took `lora_` out of the keys of attention alone."""
    return place.evaluate(rename_keys(place.adapter(), lambda n: n.replace(".lora_", "_") if "self_attn" in n else n))


@fault("B04", "B06", settings=TWO)
def bare_empty_dict(place: Place) -> Said:
    """A state dict without a tensor was written by safetensors itself, without save_pretrained."""
    from safetensors.torch import save_file

    adapter = place.adapter()
    save_file({}, adapter / "adapter_model.safetensors")
    return place.evaluate(adapter)


@fault("B05", settings=TWO)
def rows_left_on_other_ranks(place: Place) -> Said:
    """Every tensor kept its width and lost its rows."""
    return place.evaluate(
        edit_tensors(place.adapter(), lambda tensors: {n: t.new_empty((0, *t.shape[1:])) for n, t in tensors.items()})
    )


@fault("B06", settings=HELD_OUT[:1])
def only_the_head_was_saved(place: Place) -> Said:
    """The filter kept the trained head, and no factor."""
    adapter = train_with_peft(place, place.folder / "adapter", modules_to_save=["lm_head"])
    return place.evaluate(edit_tensors(adapter, lambda tensors: {n: t for n, t in tensors.items() if "lora_" not in n}))


@fault("B07", "D03", "D01", settings=HELD_OUT[:1])
def fresh_dora_saved(place: Place) -> Said:
    """What was saved is a fresh DoRA adapter: its magnitudes are the base's norms, and every lora_B is zero."""
    from peft import LoraConfig, get_peft_model

    folder = place.folder / "adapter"
    config = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", use_dora=True, task_type="CAUSAL_LM")
    get_peft_model(place.model(), config).save_pretrained(folder)
    return place.evaluate(folder)


@fault("B07", "B01", "B09", settings=TWO)  # the adapter in memory is fresh, because the file's names found no place
def state_dict_of_the_file(place: Place) -> Said:
    """get_peft_model, then load_state_dict(FILE, strict=False): the file's names lack the adapter's, and none found its place."""
    from peft import LoraConfig, get_peft_model
    from safetensors.torch import load_file

    config = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    tuned, adapter = get_peft_model(place.model(), config), place.healthy / "adapter"
    lost = tuned.load_state_dict(load_file(adapter / "adapter_model.safetensors"), strict=False)
    return audited(place, place.model(), tuned, adapter=adapter, loaded=lost)


@fault("B10", settings=HELD_OUT[:1])
def embedding_grew_alone(place: Place) -> Said:
    """The embedding grew for eight tokens and was saved; the head was not."""
    from peft import LoraConfig, get_peft_model

    from benchmarks.faults.cases_merged import train

    folder = place.folder / "adapter"
    if not (folder / "adapter_config.json").is_file():
        model = place.model()
        model.resize_token_embeddings(model.config.vocab_size + 8)
        config = LoraConfig(r=4, lora_alpha=8, target_modules=["o_proj"], modules_to_save=["embed_tokens"], task_type="CAUSAL_LM")
        model = get_peft_model(model, config)
        train(place, model, epochs=1.0)
        model.save_pretrained(folder)
    return place.evaluate(folder)


@fault("B12", settings=HELD_OUT[:1])
def values_that_are_zero(place: Place) -> Said:
    """The adapted projections, v in every block, are zero throughout in this base."""
    model = place.model()
    for name, weight in model.named_parameters():
        if name.endswith("v_proj.weight"):
            weight.data.zero_()
    base = place.folder / "base"
    model.save_pretrained(base)
    place.tokenizer().save_pretrained(base)
    return place.evaluate(train_with_peft(place, place.folder / "adapter", base=base, target_modules=["v_proj"], epochs=1.0), base)


@fault("B13", settings=TWO)
def second_adapter_around_the_first(place: Place) -> Said:
    """get_peft_model on what PeftModel.from_pretrained returned, to train on."""
    from peft import LoraConfig, get_peft_model

    _, inner = pair(place)
    config = LoraConfig(r=8, lora_alpha=16, target_modules=["down_proj"], task_type="CAUSAL_LM")
    return audited(place, place.model(), get_peft_model(inner, config), adapter=place.healthy / "adapter")


@fault("B14", settings=TWO)
def an_earlier_checkpoint(place: Place) -> Said:
    """The last checkpoint is the best by the log, and an earlier one was loaded."""
    folder = _renamed(place.adapter(), "checkpoint-20")
    write_trainer_state(place, folder, best_model_checkpoint="run/checkpoint-60", best_global_step=60, best_metric=2.2)
    return place.evaluate(folder)


def _renamed(adapter: Path, name: str) -> Path:
    import shutil

    shutil.rmtree(adapter.with_name(name), ignore_errors=True)
    return adapter.rename(adapter.with_name(name))


# ---- C: scaling, merging, numerics ----


@fault("C01", settings=HELD_OUT[:1])
def rslora_key_dropped(place: Place) -> Said:
    """A converter wrote a config without use_rslora; the training was recorded."""
    adapter = edit_config(train_with_peft(place, place.folder / "adapter", use_rslora=True, r=16), use_rslora=...)
    write_record(place, adapter, use_rslora=True, rank=16)
    return place.evaluate(adapter)


@fault("C02", settings=TWO)
def alpha_negative(place: Place) -> Said:
    """lora_alpha is below zero: the update is taken away instead of added."""
    return place.evaluate(edit_config(place.adapter(), lora_alpha=-16))


@fault("C02", settings=TWO)
def alpha_zero_in_some_modules(place: Place) -> Said:
    """alpha_pattern sets the scale of two projections to zero."""
    return place.evaluate(edit_config(place.adapter(), alpha_pattern={"q_proj": 0, "down_proj": 0}))


@fault("C02", settings=TWO)
def rank_missing(place: Place) -> Said:
    """adapter_config.json does not say r."""
    return place.evaluate(edit_config(place.adapter(), r=...))


@fault("C03", settings=TWO)
def merged_in_float16(place: Place) -> Said:
    """A small update is merged into a base whose weights are float16, and most of it is rounded away."""
    return merged_in(place, "float16", 2e-4)


@fault("C04", "A02", settings=TWO)  # in memory: the base's weights hold the update, so that they are not its files' either
def merged_base_in_memory(place: Place) -> Said:
    """The base of both arms is the merged model, and the adapter is put on it again."""
    from peft import PeftModel

    merged = PeftModel.from_pretrained(place.model(), place.healthy / "adapter").merge_and_unload()
    tuned = PeftModel.from_pretrained(copy.deepcopy(merged), place.healthy / "adapter")
    return audited(place, merged, tuned, adapter=place.healthy / "adapter")


@fault("C05", settings=TWO)
def dropout_in_one_layer(place: Place) -> Said:
    """eval() was called, and one layer's dropout was switched on again by a loop over some modules."""
    import torch

    _, tuned = pair(place)
    layer = next(module for module in tuned.modules() if hasattr(module, "lora_dropout"))
    layer.lora_dropout = torch.nn.ModuleDict({name: torch.nn.Dropout(0.3) for name in layer.lora_dropout})
    layer.lora_dropout.train()
    return place.audit(place.model(), tuned)


@fault("C06", settings=HELD_OUT[:1])
def head_not_a_number(place: Place) -> Said:
    """The trained head that is saved beside the factors holds values that are not numbers."""
    adapter = train_with_peft(place, place.folder / "adapter", modules_to_save=["lm_head"])

    def spoil(tensors: dict[str, Any]) -> dict[str, Any]:
        next(t for n, t in tensors.items() if "lora_" not in n)[3].fill_(float("nan"))
        return tensors

    return place.evaluate(edit_tensors(adapter, spoil))


@fault("C06", settings=TWO)
def one_entry_infinite(place: Place) -> Said:
    """One entry of one lora_A is minus infinity."""

    def spoil(tensors: dict[str, Any]) -> dict[str, Any]:
        tensors[sorted(n for n in tensors if "lora_A" in n)[1]].view(-1)[7] = float("-inf")
        return tensors

    return place.evaluate(edit_tensors(place.adapter(), spoil))


@fault("C07", "D03", settings=HELD_OUT[:1])
def adapter_kept_in_bfloat16(place: Place) -> Said:
    """Every weight of a whole model is trained and kept in bfloat16, at a rate that is a tenth of half a unit in the last place."""
    return kept_in_bfloat16(place, {"training.learning_rate": 3e-6, "training.epochs": 1.0})


@fault("A11", settings=HELD_OUT[:1])
def made_to_label_tokens(place: Place) -> Said:
    """The adapter was made around a head that labels tokens."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForTokenClassification

    folder = place.folder / "adapter"
    base = AutoModelForTokenClassification.from_pretrained(place.base, num_labels=3)
    model = get_peft_model(base, LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"], task_type="TOKEN_CLS"))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(std=0.02)
    model.save_pretrained(folder)
    return place.evaluate(folder)


@fault("A13", settings=HELD_OUT[:1])
def name_with_a_typing_error(place: Place) -> Said:
    """The server falls back on its base where a model's name is unknown to it, and the client misspells the adapter's."""
    from benchmarks.faults.cases_answers import greedy

    base, tuned = pair(place)
    server, known = greedy(place), {"tuned": tuned}
    prompt = "The first thing that anybody noticed about it was"
    return audited(place, base, tuned, generate=lambda model, text: server(known.get("tunned", base), text), prompt=prompt)
