"""Whole trainings for the held-out part: decisive faults that act while training runs, in new ways, and more healthy runs."""

from __future__ import annotations

from typing import Any

from benchmarks.faults.cases import HELD_OUT, fault, healthy
from benchmarks.faults.cases_answers import pair
from benchmarks.faults.cases_chats import rows_of
from benchmarks.faults.cases_runs import _untrained
from benchmarks.faults.cases_trainers import with_trainer
from benchmarks.faults.commands import audited
from benchmarks.faults.place import (
    Place,
    Said,
    edit_tensors,
    in_force,
    patched,
    read_adapter,
    same_tensors,
    train_with_peft,
    untrained,
)  # fmt: skip

ONE = HELD_OUT[:1]


@fault("D01", settings=ONE)
def hidden_states_detached(place: Place) -> Said:
    """A wrapper detaches what comes out of the second block, so that nothing below it gets a gradient."""
    from galvan import models

    original = models.add_lora

    def detached(*arguments: Any) -> Any:
        model = original(*arguments)
        layer = model.get_base_model().model.layers[1]
        forward = layer.forward

        def cut(*given: Any, **named: Any) -> Any:
            out = forward(*given, **named)
            return (out[0].detach(), *out[1:]) if isinstance(out, tuple) else out.detach()

        layer.forward = cut
        return model

    with patched(models, "add_lora", detached):
        return _untrained(place, 0.3, {"training.epochs": 2.0})


@fault("D01", settings=ONE)
def lower_layers_without_gradient(place: Place) -> Said:
    """Another trainer ran the first two blocks under no_grad to save memory."""
    import torch
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(place.model(), config)
    for layer in model.get_base_model().model.layers[:2]:
        forward = layer.forward

        def without(*given: Any, forward: Any = forward, **named: Any) -> Any:
            with torch.no_grad():
                return forward(*given, **named)

        layer.forward = without
    adapter = with_trainer(place, "adapter", model=model)
    in_force(untrained(adapter) >= 0.3, "the blocks without gradient were trained all the same")
    return place.evaluate(adapter)


@fault("D02", "D01", "B07", settings=ONE)  # from outside: not one gradient in the log, and zeros in the file
def disabled_while_training(place: Place) -> Said:
    """disable_adapter_layers() was called before training; the inputs require gradients, so that nothing complains."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(place.model(), config)
    model.enable_input_require_grads()
    model.base_model.disable_adapter_layers()
    adapter = with_trainer(place, "adapter", model=model, num_train_epochs=1)
    in_force(untrained(adapter) == 1, "factors were trained all the same")
    return place.evaluate(adapter)


@fault("D02", settings=ONE)
def trained_adapter_not_trainable(place: Place) -> Said:
    """A second round on a trained adapter whose parameters a helper had frozen; it is saved as it was."""
    from peft import PeftModel

    first = with_trainer(place, "first")
    model = PeftModel.from_pretrained(place.model(), first, is_trainable=True)
    model.enable_input_require_grads()
    model.requires_grad_(False)
    second = with_trainer(place, "adapter", model=model, num_train_epochs=2, learning_rate=2e-3)
    in_force(same_tensors(read_adapter(first), read_adapter(second)), "the frozen adapter was trained all the same")
    return place.evaluate(second)


@fault("D03", "D02", settings=ONE)
def optimizer_of_the_base(place: Place) -> Said:
    """The optimizer was given the base's own weights, which are frozen."""
    from galvan.training import loop

    original = loop.build_optimizers

    def frozen(model: Any, parameters: Any, settings: Any) -> Any:
        base = {n: p for n, p in model.named_parameters() if n not in parameters and p.ndim == 2}
        return original(model, base, settings)

    with patched(loop, "build_optimizers", frozen):
        return _untrained(place, 1.0, {"training.epochs": 1.0})


@fault("D03", settings=ONE)
def optimizer_holds_one_block(place: Place) -> Said:
    """The list of parameters was filtered by a name that one block alone has."""
    from galvan.training import loop

    original = loop.build_optimizers

    def some(model: Any, parameters: Any, settings: Any) -> Any:
        return original(model, {n: p for n, p in parameters.items() if ".layers.0." in n}, settings)

    with patched(loop, "build_optimizers", some):
        return _untrained(place, 0.5, {"training.epochs": 1.0})


@fault("D04", "data/no-targets", "tokens/no-targets", "training/no-targets", settings=ONE)
def completions_empty(place: Place) -> Said:
    """Of four completions three are empty."""
    made: list[int] = []

    def row(prompt: str, completion: str) -> dict[str, Any]:
        made.append(0)
        return {"prompt": prompt, "completion": completion if len(made) % 4 == 0 else ""}

    return place.run({"data.source": rows_of(place, row)})


# ---- healthy ----


@healthy(HELD_OUT)
def healthy_stopped_early(place: Place) -> Said:
    """Training may stop where held-out loss turns."""
    return place.run({"training.early_stop": True})


@healthy(HELD_OUT)
def healthy_rank_32(place: Place) -> Said:
    """Rank 32 on small weights."""
    return place.run({"training.lora.rank": 32, "training.lora.alpha": 32.0, "training.learning_rate": 3e-3})


@healthy(HELD_OUT)
def healthy_ranks_by_module(place: Place) -> Said:
    """Other ranks in some modules (rank_pattern)."""
    return place.evaluate(train_with_peft(place, place.folder / "adapter", rank_pattern={"q_proj": 4, "down_proj": 2}))


@healthy(HELD_OUT)
def healthy_layers_picked(place: Place) -> Said:
    """The config itself picks one block (layers_to_transform)."""
    picked: dict[str, Any] = {"target_modules": ["q_proj", "v_proj", "up_proj"], "layers_to_transform": [1]}
    return place.evaluate(train_with_peft(place, place.folder / "adapter", learning_rate=0.02, **picked))


@healthy(HELD_OUT)
def healthy_olora(place: Place) -> Said:
    """OLoRA, which starts from the base's own QR factors and changes its weights when it is loaded."""
    return place.evaluate(train_with_peft(place, place.folder / "adapter", init_lora_weights="olora", learning_rate=3e-3))


@healthy(HELD_OUT)
def healthy_in_training_mode(place: Place) -> Said:
    """The tuned model is in training mode, and holds no dropout above zero."""
    _, tuned = pair(place)
    return place.audit(place.model(), tuned.train())


@healthy(HELD_OUT)
def healthy_in_half_precision(place: Place) -> Said:
    """Both arms in float16, the adapter in the same."""
    import torch

    base, tuned = pair(place)
    return audited(place, base.to(torch.float16), tuned.to(torch.float16))


@healthy(HELD_OUT)
def healthy_merged_copy(place: Place) -> Said:
    """The tuned model is merged, in a base of its own."""
    _, tuned = pair(place)
    return place.audit(place.model(), tuned.merge_and_unload())


@healthy(HELD_OUT)
def healthy_saved_in_bfloat16(place: Place) -> Said:
    """The adapter's file is in bfloat16."""
    import torch

    return place.evaluate(edit_tensors(place.adapter(), lambda tensors: {n: t.to(torch.bfloat16) for n, t in tensors.items()}))
