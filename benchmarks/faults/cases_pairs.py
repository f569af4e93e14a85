"""Two faults at once: naming either first is right, and recall counts both."""

from __future__ import annotations

from benchmarks.faults import ground
from benchmarks.faults.cases import SOME, fault
from benchmarks.faults.place import Place, Said, edit_config, edit_tensors, rename_keys


@fault("B02+C02")
def compiled_keys_and_no_alpha(place: Place) -> Said:
    """Keys with `_orig_mod.`, and lora_alpha 0."""
    adapter = rename_keys(place.adapter(), lambda name: name.replace("base_model.model.", "base_model.model._orig_mod."))
    return place.evaluate(edit_config(adapter, lora_alpha=0))


@fault("B07+C02")
def fresh_and_no_alpha(place: Place) -> Said:
    """Every lora_B is zero, and lora_alpha is missing."""
    adapter = edit_tensors(place.adapter(), lambda tensors: {n: t * (0 if "lora_B" in n else 1) for n, t in tensors.items()})
    return place.evaluate(edit_config(adapter, lora_alpha=...))


@fault("B07+A10")
def fresh_on_another_base(place: Place) -> Said:
    """Every lora_B is zero, and the base is another one."""
    adapter = edit_tensors(place.adapter(), lambda tensors: {n: t * (0 if "lora_B" in n else 1) for n, t in tensors.items()})
    return place.evaluate(adapter, ground.base_folder(place.out, place.setting.base, seed=1))


@fault("D05+E06", settings=SOME)
def little_and_cut(place: Place) -> Said:
    """A learning rate a thousandth of the right one, on truncated rows."""
    return place.run({"training.learning_rate": 1e-5, "training.document_tokens": 40})


@fault("D06+D07", settings=SOME)
def few_steps_all_warm_up(place: Place) -> Said:
    """A few steps, all of them warm-up."""
    return place.run({"training.epochs": 0.2, "training.warmup_ratio": 1.0, "training.learning_rate": 2e-4})


@fault("I01+E06", "I02", settings=SOME)
def memorised_and_cut(place: Place) -> Said:
    """Sixty epochs on few, truncated documents."""
    return place.run(
        {
            "data.maximum_documents": 60,
            "training.epochs": 60.0,
            "training.lora.rank": 32,
            "training.batch_size": 8,
            "training.document_tokens": 40,
        }
    )


@fault("D05+G10", settings=SOME)
def little_on_few_documents(place: Place) -> Said:
    """Hardly trained, and judged on four documents."""
    return place.run({"data.maximum_documents": 40, "data.split.test": 0.1, "training.learning_rate": 3e-5, "data.split.blocks": 2})
