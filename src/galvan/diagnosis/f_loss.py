"""Family F: bookkeeping of the loss while training."""

from __future__ import annotations

from galvan.diagnosis.asking import base_nats, log, near, run
from galvan.diagnosis.catalogue import Answer, Facts, absent, cause, evidence, present, unknown
from galvan.diagnosis.thresholds import LOGGED_LOSS, LOSS_SHARE, ODD_LOSS, PASSES_SHARE, PASSES_TIMES

NO_LOG = "how the training loss was computed; there is no training log."


@cause(
    "F01",
    title="Accumulated batches are normalised one by one",
    symptom="With gradient accumulation short rows weigh more than long ones, and results differ from those of one large batch.",
    proof="The loss of uneven rows is the same in one pass and in several, so their gradient is too.",
    remedy="divide the sum of NLLs by the targets of the whole step (transformers from 4.46 passes num_items_in_batch; `galvan run` does "
    "so), or train without accumulation",
    settle="Compute the gradient of four uneven rows in one batch and in four: other numbers prove it.",
    sources=["transformers PR #34191", "torchtune PR #1875", "mlx-lm trainer.py", "LitGPT finetune", "axolotl#1100"],
)
def normalised_one_by_one(facts: Facts) -> Answer:
    here = run(facts)
    checks, accumulation = here.checks, here.setting("training.accumulation")
    one, several = (checks.loss_error, checks.passes_error) if checks else (None, None)
    if several is not None:
        clearly = several > PASSES_SHARE and one is not None and several > PASSES_TIMES * one
        if (several > LOSS_SHARE or clearly) and (one is None or one <= LOSS_SHARE):
            return present([f"Uneven rows in separate passes give a loss {several:.1%} away from that of all their targets."],
                           evidence(f"In one pass it is right to {one:.1g} of it." if one is not None else None))  # fmt: skip
        return absent([f"Uneven rows in separate passes give the loss of all their targets to {several:.1g} of it."])
    told = log(facts)
    if told is None:
        return unknown(NO_LOG)
    if not told.ours:
        return unknown(
            "over how many targets each step was divided; the log does not say which version and how many passes a step."
        )
    if accumulation == 1:
        return absent(
            ["No batch was accumulated (training.accumulation: 1), and passes are divided by the targets of the whole step."]
        )
    return absent(evidence("Every pass is divided by the targets of the whole step, whatever the passes are.", _targets(facts)))


def _targets(facts: Facts) -> str | None:
    """Targets that the log counts, beside those of the rows times the epochs."""
    here = run(facts)
    expected = _expected_targets(facts)
    trained = here.log.trained_tokens if here.log else None
    if trained is None or expected is None:
        return None
    return f"The log counts {trained:,} targets; the rows have {expected:,.0f} in as many epochs."


def _expected_targets(facts: Facts) -> float | None:
    """None where it is not exact: for a part of an epoch, or rows that are cut anew for each."""
    here = run(facts)
    supervised, epochs = (here.preflight or {}).get("supervised_tokens"), (here.preflight or {}).get("epochs")
    whole = isinstance(epochs, int | float) and float(epochs).is_integer() and not here.setting("data.recut")
    return supervised * epochs if whole and isinstance(supervised, int) and isinstance(epochs, int | float) else None


@cause(
    "F02",
    title="The loss is multiplied by the number of accumulated batches",
    symptom="The logged loss is 4, 8 or 16 times too high, and gradients with it.",
    proof="Before the first update the adapter adds nothing, so the first training loss is the base's own NLL; it is.",
    remedy="update transformers, or set average_tokens_across_devices and model_accepts_loss_kwargs to what the model takes; or train with "
    "`galvan run`",
    settle="Train one step with accumulation 1 and one with 4: a first loss four times higher proves it.",
    sources=["transformers#37197"],
)
def multiplied_by_accumulation(facts: Facts) -> Answer:
    told, known = log(facts), base_nats(facts)
    if told is None or told.first_loss is None:
        return unknown(NO_LOG)
    if known is None:
        return unknown("the base's NLL on such text, beside which the first logged loss would show it; nothing was scored.")
    factor = told.first_loss / known[0]
    text = (
        f"The first logged loss (step {told.first_step}) is {told.first_loss:.4f}; the base has {known[0]:.4f} nats a token on {known[1]}: "
        f"{factor:.2f} times that."
    )
    whole = round(factor)
    if whole >= 2 and near(factor, whole, LOGGED_LOSS) and not told.ours:
        return present([text], [], "likely")
    return absent([text]) if factor < 1 + ODD_LOSS else unknown("why the first loss is so high.", [text])


@cause(
    "F03",
    title="Targets are over-counted, the first position of every row among them",
    symptom="The logged loss is too low by rows / tokens, much for short rows.",
    proof="The number by which the loss is divided is the number of labels that are targets, first positions not among them.",
    remedy="count labels[:, 1:] that are not -100, or update transformers; `galvan run` counts so",
    settle="Count the targets of one batch by hand and multiply: loss x targets must be the sum of NLLs.",
    sources=["transformers PR #46204"],
)
def overcounted(facts: Facts) -> Answer:
    here = run(facts)
    checks, expected = here.checks, _expected_targets(facts)
    trained = here.log.trained_tokens if here.log else None
    said = _targets(facts)
    if trained is not None and expected is not None and here.log is not None:
        rows, epochs = (here.preflight or {}).get("rows", 0), (here.preflight or {}).get("epochs", 0)
        if trained == expected:
            return absent(evidence(said))
        if trained == expected + rows * epochs:
            return present(evidence(said, f"The difference is one for each of {rows:,} rows and {epochs:g} epochs."))
    if checks is not None and checks.loss_error is not None and checks.loss_error <= LOSS_SHARE:
        return absent(evidence(f"The loss is the mean NLL of its targets to {checks.loss_error:.1g} of it.", said))
    if log(facts) is None:
        return unknown(NO_LOG)
    return unknown("by how many targets the loss was divided; the log does not count them.", evidence(said))


@cause(
    "F04",
    title="The evaluation loss is multiplied by the number of processes",
    symptom="The logged evaluation loss is 2, 4 or 8 times too high.",
    proof="Computed again in one process, the evaluation loss is the logged one.",
    remedy="score again in one process with `galvan evaluate BASE ADAPTER --data FILE`, and update transformers",
    settle="Evaluate once with one process: a loss lower by the number of processes proves it.",
    sources=["transformers#35078"],
)
def multiplied_by_processes(facts: Facts) -> Answer:
    told, known = log(facts), base_nats(facts)
    if told is None or told.first_eval is None:
        return unknown("what evaluation loss was logged; there is no training log with one.")
    if known is None:
        return unknown("the loss computed again in one process; nothing was scored.")
    factor = told.first_eval / known[0]
    text = (
        f"The evaluation loss logged at step {told.first_eval_step} is {told.first_eval:.4f}; computed again in one process the base has "
        f"{known[0]:.4f} nats a token on {known[1]}: {factor:.2f} times that."
    )
    whole = round(factor)
    if whole >= 2 and near(factor, whole, LOGGED_LOSS) and not told.ours:
        doubled = multiplied_by_accumulation(facts).status == "present"
        return (
            present([text], [], "likely")
            if not doubled
            else unknown("whether all losses or those of evaluation alone are multiplied.", [text])
        )
    if factor < 1 + ODD_LOSS:
        return absent([text])
    return unknown("why the first evaluation loss is so high.", [text])
