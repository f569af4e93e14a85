"""Faults in an adapter's files and in what it is put on: families A, B and C, judged by `galvan.evaluate`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from benchmarks.faults import ground
from benchmarks.faults.cases import EVERYWHERE, SPARK, fault
from benchmarks.faults.place import (
    Place,
    Said,
    edit_config,
    edit_tensors,
    in_force,
    rename_keys,
    train_with_peft,
    write_record,
    write_trainer_state,
)
from galvan.models import locate


@fault("A09", settings=(*EVERYWHERE, *SPARK))
def tuned_is_the_base(place: Place) -> Said:
    """The folder given as the tuned model is a copy of the base."""
    return place.evaluate(Path(shutil.copytree(locate(str(place.base)).path, place.folder / "copy", dirs_exist_ok=True)))


@fault("A10")
def other_base(place: Place) -> Said:
    """The adapter is put on a base of the same shape and other weights; galvan's own record of the training lies beside it."""
    adapter = place.adapter()
    write_record(place, adapter)
    return place.evaluate(adapter, ground.base_folder(place.out, place.setting.base, seed=1))


@fault("A10", unrecorded=True)
def other_base_with_a_log(place: Place) -> Said:
    """The same from elsewhere: a trainer's log lies beside the adapter, and its config names a base by a Hub id."""
    adapter = edit_config(place.adapter(), base_model_name_or_path="someone/their-base")
    write_trainer_state(place, adapter)
    return place.evaluate(adapter, ground.base_folder(place.out, place.setting.base, seed=1))


@fault("B01", settings=(*EVERYWHERE, *SPARK))
def keys_without_prefix(place: Place) -> Said:
    """The keys lack `base_model.model.`."""
    return place.evaluate(rename_keys(place.adapter(), lambda name: name.removeprefix("base_model.model.")))


@fault("B01", "B02")
def keys_with_inner(place: Place) -> Said:
    """The keys carry the prefix of a wrapper, `.inner.`."""
    return place.evaluate(rename_keys(place.adapter(), lambda name: name.replace("model.layers", "inner.model.layers")))


@fault("B01")
def keys_of_another_model(place: Place) -> Said:
    """The keys name attention as another architecture does."""
    return place.evaluate(rename_keys(place.adapter(), lambda name: name.replace("self_attn", "attention")))


@fault("B02", settings=(*EVERYWHERE, *SPARK))
def compiled_keys(place: Place) -> Said:
    """torch.compile's `_orig_mod.` was saved in the keys."""
    return place.evaluate(
        rename_keys(place.adapter(), lambda name: name.replace("base_model.model.", "base_model.model._orig_mod."))
    )


@fault("B03", "B01")
def adapter_named_lora(place: Place) -> Said:
    """The adapter was called `lora`, and PEFT before 0.18 took that name out of `.lora_A` too when it saved."""
    return place.evaluate(rename_keys(place.adapter(), lambda name: name.replace(".lora_", "_")))


@fault("B04", "B06")
def empty_file(place: Place) -> Said:
    """The file holds a header and no tensor, as FSDP saves it."""
    return place.evaluate(edit_tensors(place.adapter(), lambda tensors: {}))


@fault("B05")
def zero_size_tensors(place: Place) -> Said:
    """Every tensor has no element, as ZeRO-3 saves it."""
    return place.evaluate(edit_tensors(place.adapter(), lambda tensors: {name: t.new_empty(0) for name, t in tensors.items()}))


@fault("B06", "B04")
def filtered_twice(place: Place) -> Said:
    """The filter of old versions of PEFT, which keeps keys with the adapter's name, was applied to its own result, which has none."""
    return place.evaluate(edit_tensors(place.adapter(), lambda tensors: {n: t for n, t in tensors.items() if ".default." in n}))


@fault("B07", "D03", "D01", settings=(*EVERYWHERE, *SPARK))
def fresh_adapter_saved(place: Place) -> Said:
    """What was saved is what get_peft_model made: every lora_B is zero."""
    return place.evaluate(
        edit_tensors(place.adapter(), lambda tensors: {n: t * (0 if "lora_B" in n else 1) for n, t in tensors.items()})
    )


@fault("B10", "E12")
def tokens_added(place: Place) -> Said:
    """Tokens were added for training; neither the embedding nor the head was saved."""
    tokenizer, adapter = place.tokenizer(), place.adapter()
    tokenizer.add_tokens(["<persona>", "<scene>"])
    tokenizer.save_pretrained(adapter)
    return place.evaluate(adapter)


@fault("B12")
def dead_target(place: Place) -> Said:
    """The adapted projections are zero throughout in this base, so that no gradient comes through them."""
    model = place.model()
    for name, weight in model.named_parameters():
        if name.endswith("k_proj.weight"):
            weight.data.zero_()
    base = place.folder / "base"
    model.save_pretrained(base)
    place.tokenizer().save_pretrained(base)
    return place.evaluate(train_with_peft(place, place.folder / "adapter", base=base, target_modules=["k_proj"], epochs=1.0), base)


@fault("B14")
def not_the_best_checkpoint(place: Place) -> Said:
    """The trainer's log names another checkpoint as the best, and the last one was loaded."""
    adapter = place.adapter()
    folder = adapter.with_name("checkpoint-90")
    shutil.rmtree(folder, ignore_errors=True)
    adapter.rename(folder)
    write_trainer_state(place, folder, best_model_checkpoint="out/checkpoint-40", best_metric=3.1)
    return place.evaluate(folder)


@fault("C01")
def rslora_flag_lost(place: Place) -> Said:
    """Trained with alpha / sqrt(r), saved as alpha / r; the training was recorded."""
    adapter = edit_config(train_with_peft(place, place.folder / "adapter", use_rslora=True, r=16), use_rslora=False)
    write_record(place, adapter, use_rslora=True, rank=16)
    return place.evaluate(adapter)


@fault("C01", unrecorded=True)
def rslora_flag_lost_unrecorded(place: Place) -> Said:
    """The same, and nothing tells how it was trained."""
    return place.evaluate(edit_config(train_with_peft(place, place.folder / "adapter", use_rslora=True, r=16), use_rslora=False))


@fault("C01", "C02", unrecorded=True)
def rslora_flag_made_up(place: Place) -> Said:
    """Trained with alpha / r, loaded as alpha / sqrt(r), four times too strong, and nothing tells how it was trained."""
    return place.evaluate(edit_config(train_with_peft(place, place.folder / "adapter", r=16), use_rslora=True))


@fault("C02", settings=(*EVERYWHERE, *SPARK))
def alpha_zero(place: Place) -> Said:
    """adapter_config.json says lora_alpha 0."""
    return place.evaluate(edit_config(place.adapter(), lora_alpha=0))


@fault("C02")
def alpha_missing(place: Place) -> Said:
    """adapter_config.json does not say lora_alpha."""
    return place.evaluate(edit_config(place.adapter(), lora_alpha=...))


@fault("C03")
def merged_in_bfloat16(place: Place) -> Said:
    """A small update is merged into a base whose weights are bfloat16, and most of it is rounded away."""
    return merged_in(place, "bfloat16", 1e-3)


def merged_in(place: Place, dtype: str, share: float) -> Said:
    """At most that share of the update, merged into the base in `dtype`, is judged against that base; halved until less than half of it
    survives, for what a grid rounds away depends on how large a base's weights are."""
    import torch
    from peft import PeftModel

    base, merged = place.folder / "base", place.folder / "merged"
    own = _projections(place.model())
    trained = PeftModel.from_pretrained(place.model(), place.healthy / "adapter").merge_and_unload()
    update = {n: w - own[n] for n, w in _projections(trained).items()}
    for part in (share / 2**n for n in range(6)):
        model = place.model().to(getattr(torch, dtype))
        model.save_pretrained(base)
        before = _projections(model)
        whole = PeftModel.from_pretrained(model, _weakened(place, part)).merge_and_unload()
        after = _projections(whole)
        kept = sum(float(((after[n] - before[n]) * d).sum()) for n, d in update.items())
        kept /= part * sum(float((d * d).sum()) for d in update.values())
        if kept < 0.5:
            break
    in_force(0 < kept < 0.5, f"the merge kept {kept:.0%} of the update")
    whole.save_pretrained(merged)
    for folder in (base, merged):
        place.tokenizer().save_pretrained(folder)
    return place.evaluate(merged, base)


def _projections(model: Any) -> dict[str, Any]:
    """Copies in float32 of the weights that the adapter is merged into."""
    return {n: w.detach().float().clone() for n, w in model.named_parameters() if n.endswith("_proj.weight")}


def _weakened(place: Place, share: float) -> Path:
    """The healthy adapter with that share of its update."""
    return edit_tensors(place.adapter(), lambda tensors: {n: t * (share if "lora_B" in n else 1) for n, t in tensors.items()})


@fault("C04", "A10")
def applied_twice(place: Place) -> Said:
    """The adapter was merged into the base, and is put on it once more."""
    from peft import PeftModel

    adapter = place.adapter()
    PeftModel.from_pretrained(place.model(), adapter).merge_and_unload().save_pretrained(place.folder / "merged")
    place.tokenizer().save_pretrained(place.folder / "merged")
    return place.evaluate(adapter, place.folder / "merged")


@fault("C06", settings=(*EVERYWHERE, *SPARK))
def not_a_number(place: Place) -> Said:
    """One weight is not a number, as after an overflow in half precision."""

    def spoil(tensors: dict) -> dict:
        next(iter(tensors.values())).view(-1)[0] = float("nan")
        return tensors

    return place.evaluate(edit_tensors(place.adapter(), spoil))


@fault("C06")
def infinite(place: Place) -> Said:
    """One lora_B is infinite throughout."""

    def spoil(tensors: dict) -> dict:
        last = sorted(name for name in tensors if "lora_B" in name)[-1]
        tensors[last].fill_(float("inf"))
        return tensors

    return place.evaluate(edit_tensors(place.adapter(), spoil))


@fault("D01")
def most_layers_zero(place: Place) -> Said:
    """Gradients reached the last layer alone: lora_B is zero in every other."""

    def spoil(tensors: dict) -> dict:
        last = max(int(name.split("layers.")[1].split(".")[0]) for name in tensors)
        return {n: t * (0 if "lora_B" in n and f"layers.{last}." not in n else 1) for n, t in tensors.items()}

    return place.evaluate(edit_tensors(place.adapter(), spoil))


@fault("E12")
def other_tokenizer_beside_it(place: Place) -> Said:
    """The tokenizer that was saved beside the adapter cuts text otherwise than the base's."""
    adapter = place.adapter()
    place.tokenizer().save_pretrained(adapter)
    path = adapter / "tokenizer.json"
    tree = json.loads(path.read_text(encoding="utf-8"))
    tree["model"]["merges"] = tree["model"]["merges"][: len(tree["model"]["merges"]) // 2]
    path.write_text(json.dumps(tree), encoding="utf-8")
    return place.evaluate(adapter)
