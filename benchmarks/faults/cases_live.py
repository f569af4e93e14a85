"""Faults in live objects, as a notebook makes them: `galvan.audit` sees the two objects that are about to be compared."""

from __future__ import annotations

from typing import Any

from benchmarks.faults.cases import EVERYWHERE, SPARK, fault
from benchmarks.faults.place import Place, Said, train_with_peft


def _wrapped(place: Place, base: Any) -> Any:
    from peft import PeftModel

    return PeftModel.from_pretrained(base, place.healthy / "adapter")


@fault("A01", settings=(*EVERYWHERE, *SPARK))
def base_by_its_old_name(place: Place) -> Said:
    """The base is evaluated after PeftModel.from_pretrained put the adapter into it."""
    base = place.model()
    return place.audit(base, _wrapped(place, base))


@fault("A02", "A01", "A09")
def merged_into_the_base(place: Place) -> Said:
    """merge_and_unload wrote the update into the object that is still called base."""
    base = place.model()
    return place.audit(base, _wrapped(place, base).merge_and_unload())


@fault("A02", "A01")
def merged_and_switched_on(place: Place) -> Said:
    """merge_adapter wrote the update into the base's weights, and both names lead to them."""
    base = place.model()
    tuned = _wrapped(place, base)
    tuned.merge_adapter()
    return place.audit(base, tuned)


@fault("A03", "A01")
def get_base_model_is_not_the_base(place: Place) -> Said:
    """get_base_model() is taken for the base, and holds the adapter."""
    tuned = _wrapped(place, place.model())
    return place.audit(tuned.get_base_model(), tuned)


@fault("A04", "A01", "A03")
def pissa_switched_off(place: Place) -> Said:
    """PiSSA changed the base's own weights, and the model with the adapter switched off is taken for the base."""
    from peft import PeftModel

    tuned = PeftModel.from_pretrained(place.model(), train_with_peft(place, place.folder / "adapter", init_lora_weights="pissa"))
    return place.audit(tuned.get_base_model(), tuned)


@fault("A05", "A09")
def adapter_not_loaded(place: Place) -> Said:
    """The wrapper dropped the adapter: the tuned object is a second base."""
    return place.audit(place.model(), place.model())


@fault("A06", settings=(*EVERYWHERE, *SPARK))
def adapter_disabled(place: Place) -> Said:
    """The adapter is loaded, and its layers are switched off."""
    tuned = _wrapped(place, place.model())
    tuned.base_model.disable_adapter_layers()
    return place.audit(place.model(), tuned)


@fault("A06")
def empty_adapter_active(place: Place) -> Said:
    """A second, fresh adapter is the active one."""
    from peft import LoraConfig

    tuned = _wrapped(place, place.model())
    tuned.add_adapter("second", LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    tuned.set_adapter("second")
    return place.audit(place.model(), tuned)


@fault("A12")
def arms_in_two_formats(place: Place) -> Said:
    """The base is in float32, and the tuned model's base was rounded to bfloat16."""
    import torch

    return place.audit(place.model(), _wrapped(place, place.model().to(torch.bfloat16)))


@fault("B07")
def get_peft_model_for_loading(place: Place) -> Said:
    """get_peft_model was called where the trained adapter was to be loaded."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    return place.audit(place.model(), get_peft_model(place.model(), config))


@fault("B13")
def peft_on_peft(place: Place) -> Said:
    """A PEFT model was wrapped by PEFT once more."""
    from peft import LoraConfig, get_peft_model

    inner = _wrapped(place, place.model())
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    return place.audit(place.model(), get_peft_model(inner, config))


@fault("C02")
def scaled_to_zero(place: Place) -> Said:
    """Every layer's scaling is zero."""
    tuned = _wrapped(place, place.model())
    for module in tuned.modules():
        if isinstance(getattr(module, "scaling", None), dict):
            module.scaling = dict.fromkeys(module.scaling, 0.0)
    return place.audit(place.model(), tuned)


@fault("C05")
def dropout_at_evaluation(place: Place) -> Said:
    """The tuned model was left in training mode, with dropout."""
    import torch

    tuned = _wrapped(place, place.model())
    for module in tuned.modules():
        if hasattr(module, "lora_dropout"):
            module.lora_dropout = torch.nn.ModuleDict({name: torch.nn.Dropout(0.5) for name in module.lora_dropout})
    return place.audit(place.model(), tuned.train())


@fault("A01+B07")
def fresh_adapter_in_the_base(place: Place) -> Said:
    """The base is wrapped in place, and by an adapter that is fresh."""
    from peft import LoraConfig, get_peft_model

    base = place.model()
    config = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    return place.audit(base, get_peft_model(base, config))


@fault("A01+A06")
def disabled_in_the_base(place: Place) -> Said:
    """The base is wrapped in place, and the adapter is switched off."""
    base = place.model()
    tuned = _wrapped(place, base)
    tuned.base_model.disable_adapter_layers()
    return place.audit(base, tuned)
