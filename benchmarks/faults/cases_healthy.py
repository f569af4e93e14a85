"""Runs in which nothing is wrong, odd as some are: naming any cause here is a false alarm."""

from __future__ import annotations

from typing import Any

from benchmarks.faults.cases import EVERYWHERE, HELD_OUT, SOME, SPARK, healthy
from benchmarks.faults.place import Place, Said, edit_config, train_with_peft

MORE = (*SOME, *HELD_OUT[1:])
CHANGES: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("The healthy recipe.", {}),
    "high-dropout": ("Dropout 0.5 in training.", {"training.lora.dropout": 0.5}),
    "small-gain": ("A real gain that is small.", {"training.learning_rate": 2e-3, "training.epochs": 2.0}),
    "linear": ("A learning rate that falls in a line.", {"training.schedule": "linear"}),
    "constant": ("A learning rate that does not fall.", {"training.schedule": "constant", "training.learning_rate": 5e-3}),
    "one-epoch": ("One epoch.", {"training.epochs": 1.0, "training.learning_rate": 0.02 / 3}),
    "rank-1": ("Rank 1.", {"training.lora.rank": 1, "training.lora.alpha": 2.0}),
    "attention-only": ("Only q and v are adapted.", {"training.lora.targets": ["q_proj", "v_proj"], "training.learning_rate": 0.02}),
    "full": ("Every weight is trained.", {"training.method": "full", "training.learning_rate": 2e-3}),
    "packed": ("Documents are packed.", {"training.packing": True}),
    "accumulated": ("Two passes a step.", {"training.accumulation": 2, "training.learning_rate": 0.02 / 3}),
    "decay": ("Weight decay.", {"training.weight_decay": 0.1}),
}  # fmt: skip


def _changed(changes: dict[str, Any]) -> Any:
    return lambda place: place.run(changes)


for _name, (_line, _changes) in CHANGES.items():
    _inject = _changed(_changes)
    _inject.__name__, _inject.__doc__ = f"healthy-{_name}", _line
    healthy(EVERYWHERE)(_inject)


@healthy((*EVERYWHERE, *SPARK))
def healthy_evaluated(place: Place) -> Said:
    """The adapter of a healthy run, taken elsewhere and evaluated."""
    return place.evaluate(place.adapter())


@healthy(MORE)
def healthy_dora(place: Place) -> Said:
    """DoRA, trained and saved by PEFT."""
    return place.evaluate(train_with_peft(place, place.folder / "adapter", use_dora=True))


@healthy(MORE)
def healthy_pissa(place: Place) -> Said:
    """PiSSA, which starts from the base's own singular vectors and changes its weights when it is loaded."""
    return place.evaluate(train_with_peft(place, place.folder / "adapter", init_lora_weights="pissa"))


@healthy(MORE)
def healthy_rslora(place: Place) -> Said:
    """rsLoRA."""
    return place.evaluate(train_with_peft(place, place.folder / "adapter", use_rslora=True, lora_alpha=8))


@healthy(MORE)
def healthy_head_saved(place: Place) -> Said:
    """The head is trained whole beside the adapter (modules_to_save)."""
    return place.evaluate(train_with_peft(place, place.folder / "adapter", modules_to_save=["lm_head"]))


@healthy(MORE)
def healthy_biases(place: Place) -> Said:
    """LoRA with biases of its own in lora_B."""
    return place.evaluate(train_with_peft(place, place.folder / "adapter", lora_bias=True))


@healthy(MORE)
def healthy_from_elsewhere(place: Place) -> Said:
    """A plain adapter whose config names a base by a Hub id."""
    adapter = train_with_peft(place, place.folder / "adapter")
    return place.evaluate(edit_config(adapter, base_model_name_or_path="someone/their-base"))


@healthy((*EVERYWHERE, *SPARK))
def healthy_live(place: Place) -> Said:
    """Two live objects, loaded one after the other."""
    from peft import PeftModel

    return place.audit(place.model(), PeftModel.from_pretrained(place.model(), place.healthy / "adapter"))


@healthy(SPARK)
def healthy_spark(place: Place) -> Said:
    """The bundled base learns some of the bundled letters, in one epoch."""
    return place.run()
