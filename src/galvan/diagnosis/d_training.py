"""Family D: training did nothing, or too little."""

from __future__ import annotations

from galvan.diagnosis.catalogue import Answer, Facts, absent, cause, evidence, present, unknown


@cause(
    "D02",
    title="Training ran on a frozen adapter",
    symptom="The optimizer has nothing to train, the evaluation loss is flat, and the saved adapter is the one that was loaded.",
    proof="Parameters were trainable at the first step, and the optimizer held as many.",
    remedy="load the adapter with is_trainable=True (PeftModel.from_pretrained(base, FOLDER, is_trainable=True)) and train "
    "again, or use `galvan run RECIPE`, which refuses to start so",
    settle="Before training, print model.print_trainable_parameters(): 0 proves it.",
    sources=["trl#6700", "peft#282", "axolotl PR #159"],
)
def frozen_adapter(facts: Facts) -> Answer:
    training = facts.training
    if training is None or training.trainable_parameters is None:
        against = "The adapter's updates are not zero, so something trained it once."
        modules = facts.files.modules if facts.files else ()
        return unknown(
            "how many parameters were trainable; no record of the training was given.",
            [],
            evidence(against if any(not m.is_dead for m in modules) else None),
        )
    if training.trainable_parameters == 0:
        return present(["When training began, 0 parameters were trainable."])
    if training.optimizer_parameters is not None and training.optimizer_parameters == 0:
        return present([f"{training.trainable_parameters:,} parameters were trainable, but the optimizer held none of them."])
    return absent(
        evidence(
            f"When training began, {training.trainable_parameters:,} parameters were trainable.",
            f"The optimizer held {training.optimizer_parameters:,}." if training.optimizer_parameters is not None else None,
        )
    )
