"""Family D: training did nothing, or too little."""

from __future__ import annotations

from collections.abc import Sequence

from galvan.diagnosis.asking import kept_step, practically_equal
from galvan.diagnosis.catalogue import Answer, Facts, absent, cause, evidence, present, unknown
from galvan.diagnosis.run_facts import behind
from galvan.diagnosis.thresholds import (
    FEW_STEPS,
    GRADIENT_LEFT,
    HIGH_RATES,
    LEAST_MOVE,
    LOSS_JUMP,
    LOW_RATES,
    MASKED_ROWS,
    SHORT_MOVE,
    SHORT_RUN,
    SPIKE,
    USUAL_RATES,
    WARMUP_SHARE,
    WHOLE_WARMUP,
)  # fmt: skip
from galvan.measure.course import Course
from galvan.measure.facts import FileFacts
from galvan.text import shown

NO_LOG = "the course of training; no log of it was given."


def idle(facts: Facts) -> bool | None:
    """True if even training text was hardly learned, False if it or held-out text was; None where neither was shown."""
    outcome = facts.outcome
    if outcome is None:
        return None
    probe, test, kind = outcome.probe, outcome.test, outcome.curve.kind if outcome.curve else None
    if probe is not None and probe.ci95 is not None:
        if probe.ci95.low > probe.margin:
            return False
        if probe.ci95.high < 2 * probe.margin:
            return True
    if test is not None and test.verdict == "improved":
        return False
    return True if kind == "not learning" else None


def _idle_says(facts: Facts) -> str | None:
    outcome, found = facts.outcome, idle(facts)
    if outcome is None or found is None:
        return None
    if outcome.probe is not None:
        return f"On text it was trained on it gained {outcome.probe.nats_per_token:.4f} nats a token."
    return outcome.curve.reason if found and outcome.curve else "Held-out text became likelier." if not found else None


def _method(facts: Facts) -> str:
    known = facts.run.training if facts.run else None
    whole = (facts.files is not None and facts.files.kind == "full") or (known or {}).get("method") == "full"
    return "full" if whole else "lora"


def _travelled(files: FileFacts | None) -> float | None:
    """The largest entry of any lora_B: how far training moved it from zero; with Adam at most about the sum of the learning rates."""
    return max((m.max_abs_b for m in files.modules if m.max_abs_b), default=None) if files else None


def _relative(facts: Facts) -> str | None:
    """How large the updates came to be, by the adapter's file, else by the log of training."""
    files, seen = facts.files, facts.course
    ratios: Sequence[float] = [m.relative_norm for m in files.modules if m.relative_norm is not None] if files else []
    ratios = ratios or (seen.delta_ratios if seen else None) or []
    return f"Its updates are {min(ratios):.1g} to {max(ratios):.1g} of the weights they are added to." if ratios else None


def _rising(seen: Course) -> bool:
    """The learning rate was still rising when the run ended: what was asked for was never reached."""
    return seen.steps > 2 and (seen.warmup_share or 0) >= WHOLE_WARMUP


def _saved_module_trained(facts: Facts) -> str | None:
    """Every factor is zero, and yet switching the adapter off changes likelihoods: a module that is saved whole was trained."""
    files, function = facts.files, facts.function
    if files is None or not files.other_tensors or function is None or function.on_off_nats is None:
        return None
    if function.on_off_nats <= function.noise_floor_nats or len(files.dead_modules) < len(files.modules):
        return None
    return (
        f"Though every lora_B is zero, switching the adapter off changes a token by {function.on_off_nats:.3g} nats: "
        f"training reached the {len(files.other_tensors)} tensors that are saved whole, and no factor."
    )


def _by_idle(facts: Facts, because: list[str], against: list[str]) -> Answer:
    """What speaks for too little training, weighed by whether the model learned: very likely where it did not, absent where it did."""
    found, said = idle(facts), _idle_says(facts)
    if found is False:
        return absent(evidence(said), because, "very likely")
    return present([*because, *evidence(said)], against, "very likely" if found else "likely")


@cause(
    "D01",
    title="Most of the adapter got no gradient (gradient checkpointing over a frozen input)",
    symptom="lora_B is zero in most layers; the loss may still fall through the last ones.",
    proof="At the first step every lora_B has a gradient, and at the end none is zero.",
    remedy="call model.enable_input_require_grads() before training, or use gradient_checkpointing_kwargs={'use_reentrant': False}, and train again",
    settle="Print the gradient norm of every lora_B after the first backward pass: zeros prove it.",
    sources=["open-unlearning#178", "cloneofsimo/lora#26", "sd-scripts#91", "microsoft/LoRA#120", "transformers#42489"],
    refuses=True,
)
def no_gradient(facts: Facts) -> Answer:
    settled = facts.not_an_adapter()
    if settled:
        return absent([settled])
    seen, files = facts.course, facts.files
    modules = files.modules if files else ()
    dead = files.dead_modules if files else []
    zeros = f"In the file lora_B is zero in {len(dead)} of {len(modules)} modules (first: {shown(dead[0], 100)})." if dead else None
    if seen is not None and dead and _joined_rows(facts):
        return unknown(
            "whether the graph was cut; no factor at all got a gradient, and several rows a pass (D09) explain that.",
            evidence(zeros),
        )
    if seen is not None and seen.silent and (dead or not modules) and not (seen.adapted and not seen.unmoved):
        first = (
            f"At the first step {len(seen.silent)} of {seen.factors} factors got no gradient (first: {shown(seen.silent[0], 120)})."
        )
        later = (
            f"Nor did {len(seen.starved)} of {seen.adapted} modules at any later step that was watched." if seen.starved else None
        )
        return present(evidence(first, later, zeros))
    if seen is not None and seen.largest_norm == 0 and dead and len(dead) == len(modules):
        return present(evidence(_no_norm(seen), zeros), [], "very likely")
    if seen is not None and seen.factors and not seen.silent:
        return absent([f"At the first step all {seen.factors} factors had a gradient."])
    if dead and len(dead) < len(modules):
        return present(evidence(zeros), [], "very likely")
    if beside := _saved_module_trained(facts):
        return present(evidence(zeros, beside), [], "very likely")
    if dead:
        return unknown("whether training ever moved it; every lora_B is zero, as in a fresh adapter (B07).", evidence(zeros))
    if modules:
        return absent([f"In the file lora_B is zero in none of {len(modules)} modules."])
    return unknown("the gradients of training, or the adapter's values.")


def _no_norm(seen: Course) -> str:
    return f"The gradient norm was 0 at every logged step, over {seen.steps} steps."


def _stopped_early(facts: Facts) -> str | None:
    """Why galvan ended the training before its last step (training.early_stop)."""
    said = facts.run.training.get("stopped_early") if facts.run and facts.run.training else None
    return shown(said, 300) if isinstance(said, str) else None


def _kept_before_the_end(facts: Facts) -> str | None:
    """The sentence that the weights kept are those of an earlier step, which held-out text chose; None where they are the last."""
    step, steps = kept_step(facts), facts.trained.steps if facts.trained else None
    return (
        f"The weights that are kept are those of step {step} of {steps}, the best evaluation."
        if step and steps and step < steps
        else None
    )


def _joined_rows(facts: Facts) -> bool:
    """Not one gradient in the whole run, though the backward pass ran, and several rows a pass: a cut graph leaves some factor its gradient."""
    seen, size = facts.course, facts.run.setting("training.batch_size") if facts.run else None
    silent = seen is not None and 0 < seen.factors == len(seen.silent) and seen.largest_norm == 0
    return silent and isinstance(size, int) and size > 1


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
    training, seen = facts.trained, facts.course
    alive = [m for m in facts.files.modules if not m.is_dead] if facts.files else []
    told = training is not None and training.trainable_parameters is not None
    if not told and alive and seen is not None and seen.largest_norm == 0:
        earlier = f"Yet lora_B is not zero in {len(alive)} modules: it holds what an earlier training left, unchanged."
        return present([_no_norm(seen), earlier], [], "very likely")
    if training is None or training.trainable_parameters is None:
        against = "The adapter's updates are not zero, so something trained it once."
        return unknown(
            "how many parameters were trainable; no record of the training was given.",
            [],
            evidence(against if alive else None),
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


@cause(
    "D03",
    title="The optimizer held other parameters than the model's",
    symptom="Loss and gradient norms look like those of a healthy run, and the weights never move.",
    proof="The optimizer held every trainable parameter, and each one with a gradient moved in the first three steps.",
    remedy="build the optimizer after get_peft_model, to(device) and any change of the parameters, and train again",
    settle="Compare a weight before and after three steps: no change proves it.",
    sources=["PEFT troubleshooting guide, on optimizers and hooks"],
    refuses=True,
)
def stale_optimizer(facts: Facts) -> Answer:
    seen, training = facts.course, facts.trained
    held = training.optimizer_parameters if training else None
    trainable = training.trainable_parameters if training else None
    if seen is not None and seen.parameters and (seen.peak_rate is None or seen.peak_rate > 0):
        said = f"{seen.parameters - seen.still} of {seen.parameters} parameters with a gradient moved in the first steps."
        coarse = facts.files is not None and bool(facts.files.dtypes) and set(facts.files.dtypes) <= {"BF16", "F16"}
        dead = facts.files is not None and len(facts.files.dead_modules) == len(facts.files.modules) > 0
        if seen.moved_nothing and (dead or not coarse):  # a step is never too small for a factor that is zero
            return present(evidence(said, "In the file every lora_B is still zero, as it began." if dead else None))
        if held is not None and trainable is not None and 0 < held < trainable:
            return present([said, f"The optimizer held {held:,} of {trainable:,} trainable parameters."])
        if seen.stuck and not coarse and (seen.peak_rate or 0) > LOW_RATES["lora"]:
            end = f"At the last step that was watched, {len(seen.stuck)} of {seen.adapted} modules with a gradient were where they began."
            return present([said, end])
        if seen.still and not coarse:  # Adam moves whatever has a gradient
            return present([said, "The others never did, as where the optimizer does not hold them."])
        return absent([said])
    if held is not None and trainable is not None and trainable > 0:
        said = f"The optimizer held {held:,} of {trainable:,} trainable parameters."
        return present([said], [], "very likely") if 0 < held < trainable else absent([said], [], "likely")
    moved = any(not m.is_dead for m in facts.files.modules) if facts.files else False
    return unknown(
        "what the optimizer held, and whether the weights moved in the first steps.",
        [],
        evidence("The adapter's updates are not zero, so something trained it once." if moved else None),
    )


@cause(
    "D04",
    title="All or most labels were masked, so that there was next to nothing to learn",
    symptom="A loss of 0 or nan, or one that looks normal; the number of tokens rises all the same.",
    proof="After collation, rows hold tokens to learn, and no row is masked throughout.",
    remedy="look at the rows with `galvan prepare RECIPE --show 3` and mend the response marker, the template or the cut, then train again",
    settle="Count labels other than -100 in one batch as the model gets it.",
    sources=["unsloth#2900", "unsloth#1128", "unsloth#3198", "unsloth#2117", "trl#980", "trl PR #6025"],
)
def labels_masked(facts: Facts) -> Answer:
    tokens, seen = facts.run.tokens if facts.run else None, facts.course
    left_out = facts.run.left_out if facts.run else None
    if tokens is not None:
        said = f"{tokens.supervised_tokens:,} of {tokens.tokens:,} tokens in {tokens.rows} training rows are learned."
        masked = tokens.masked_rows
        rows = None if masked is None else f"{masked} of {tokens.rows} rows have no token to learn."
        if not tokens.supervised_tokens:
            return present(evidence(said, rows))
        if masked is not None and masked > MASKED_ROWS * tokens.rows:
            return present(evidence(said, rows))
        if tokens.shape != "plain text" and left_out is not None and left_out.empty > MASKED_ROWS * left_out.read:
            return present([f"{left_out.empty} of {left_out.read} rows have no token to learn and were left out.", said])
        return absent([said], evidence(rows if masked else None))
    if seen is not None and seen.zero and seen.not_finite:  # a Trainer logs 0 where it filters a loss that is not finite
        zeros = f"At {len(seen.zero)} logged steps the loss was exactly 0, and at {len(seen.not_finite)} the loss or gradient norm was not finite."
        return unknown("how many tokens of the training rows were learned; overflow (C06) gives such zeros as well.", [zeros])
    if seen is not None and seen.zero:
        return present(
            [f"At {len(seen.zero)} logged steps (first: {seen.zero[0]}) the loss was exactly 0."],
            [],
            "very likely" if len(seen.zero) > 1 else "likely",
        )
    why = "The logged loss is never exactly 0." if seen is not None and seen.first_loss is not None else None
    return unknown("how many tokens of the training rows were learned.", [], evidence(why))


@cause(
    "D05",
    title="The learning rate was too low",
    symptom="The adapter is alive, and its effect is tiny.",
    proof="The highest learning rate lies where this kind of training works, and the updates are of the usual size.",
    remedy="train again with a usual rate: `galvan run RECIPE --set training.learning_rate=3e-4` (LoRA: 1e-4 to 1e-3)",
    settle="Train a few steps at ten times the rate: if the loss falls faster, it was this.",
    sources=["mlx-lm default 1e-5", "ChatGLM-Efficient-Tuning#30", "axolotl documentation", "TRL documentation"],
)
def rate_too_low(facts: Facts) -> Answer:
    seen, method, travelled = facts.course, _method(facts), _travelled(facts.files)
    moved = None if travelled is None else f"The largest entry of any lora_B is {travelled:.2g}."
    if seen is not None and seen.peak_rate is not None:
        said = f"The highest learning rate was {seen.peak_rate:.2g}, the sum over all steps {seen.integrated_rate:.2g}."
        if seen.peak_rate <= LOW_RATES[method] and _rising(seen) and idle(facts) is not False:
            rising = "It was still rising at the last step: warm-up (D07) may be all that kept it low."
            return present(evidence(said, moved, _relative(facts)), [rising], "likely")
        if seen.peak_rate <= LOW_RATES[method]:
            return _by_idle(facts, evidence(said, moved, _relative(facts)), [])
        if seen.peak_rate < USUAL_RATES[method] and idle(facts):
            return present(evidence(said, moved, _idle_says(facts)), ["It is not far below a usual one."], "likely")
        return absent(evidence(said, moved))
    if travelled is None or method == "full":
        return unknown("the learning rate; no log of training was given.")
    if travelled < LEAST_MOVE:
        return _by_idle(facts, evidence(moved, "One step at a usual rate moves it further.", _relative(facts)), [])
    if travelled < SHORT_MOVE:
        return unknown("whether the rate was low or the steps few; the updates are small.", evidence(moved, _relative(facts)))
    return absent(evidence(moved, _relative(facts)), [], "very likely")


@cause(
    "D06",
    title="Training was too short",
    symptom="The adapter is alive, and its effect is small; the loss was still falling when training ended.",
    proof="There were enough steps, and the loss had stopped falling.",
    remedy="train longer: `galvan run RECIPE --set training.epochs=6`, and stop where held-out loss turns",
    settle="Train twice as long and watch held-out loss: if it goes on falling, it was this.",
    sources=["BELLE#165", "LlamaFactory#1781"],
)
def too_few_steps(facts: Facts) -> Answer:
    seen, training, travelled = facts.course, facts.trained, _travelled(facts.files)
    steps = seen.steps if seen else training.steps if training else None
    if steps is None:
        if travelled is not None and LEAST_MOVE <= travelled < SHORT_MOVE:
            return unknown("whether the steps were few or the rate low; the updates are small.", evidence(_relative(facts)))
        return unknown("the number of steps; no log of training was given.")
    earlier = int(behind(facts.run.training if facts.run else None, "steps"))
    kind = facts.outcome.curve.kind if facts.outcome and facts.outcome.curve else None
    falling = (
        seen is not None and seen.last_drop is not None and seen.last_drop_se is not None and seen.last_drop > 2 * seen.last_drop_se
    )
    if seen is not None and (seen.moved_nothing or seen.largest_norm == 0):
        return absent(["Nothing moved at all, so that more steps would not have helped."], [f"{steps} steps were made."])
    said = [
        f"{steps} steps were made{f', and {earlier} before them' if earlier else ''}.",
        *evidence("The loss was still falling at the end." if falling else None),
    ]
    early, steps = _stopped_early(facts), steps + earlier
    if early and steps >= FEW_STEPS:
        return absent([f"Training ended by itself: {early}"], said, "very likely")
    if steps < FEW_STEPS:
        short = travelled is not None and travelled < SHORT_MOVE and idle(facts) is False
        moved = f"The largest entry of any lora_B is {travelled:.2g}: some ten usual steps move it further." if short else None
        if moved:  # what little it learned does not excuse it
            return present([*said, moved], evidence(_idle_says(facts)), "likely")
        return _by_idle(facts, said, [])
    slow = seen is not None and seen.peak_rate is not None and seen.peak_rate < USUAL_RATES[_method(facts)]
    if (steps < SHORT_RUN and idle(facts) and not slow) or (kind == "under-trained" and idle(facts) is not False):
        return present([*said, *evidence(_idle_says(facts))], [], "likely")
    return absent(said, [], "very likely")


@cause(
    "D07",
    title="Warm-up ate the run",
    symptom="The adapter is alive, and its effect is small; the learning rate reached its peak shortly before the end.",
    proof="The learning rate reached its peak in the first part of the run.",
    remedy="shorten the warm-up: `galvan run RECIPE --set training.warmup_ratio=0.05` (elsewhere: warmup_steps far below the number of steps)",
    settle="Print the learning rate of every step.",
    sources=["LitGPT default lr_warmup_steps=100", "GPT2-Chinese#60"],
)
def warmup_ate_the_run(facts: Facts) -> Answer:
    seen = facts.course
    if seen is None or seen.warmup_share is None:
        return unknown("the learning rate of every step; no log of training was given.")
    said = f"The highest learning rate came after {seen.warmup_share:.0%} of {seen.steps} steps."
    if seen.warmup_share < WARMUP_SHARE or seen.steps <= 2:
        return absent([said])
    curve = facts.outcome.curve if facts.outcome else None
    done = curve is not None and curve.kind in (("over-fitted",) if _rising(seen) else ("saturated", "over-fitted"))
    if idle(facts) is False and not done:
        return present([said], evidence(_idle_says(facts)), "likely")
    return _by_idle(facts, [said], [])


@cause(
    "D08",
    title="Offloading or training on several GPUs left lora_B at zero",
    symptom="The loss was logged, the file is whole, and the tuned model is exactly the base.",
    proof="No lora_B in the file is zero, or training ran on one device.",
    remedy="train on one GPU, or without parameter offload (zero stage 2), and check with `galvan check BASE ADAPTER`",
    settle="Train ten steps on one device: a lora_B that moves there and not here proves it.",
    sources=["Chatglm_lora_multi-gpu#14", "alpaca-lora#357"],
)
def several_devices(facts: Facts) -> Answer:
    settled = facts.not_an_adapter()
    if settled:
        return absent([settled])
    files, record = facts.files, facts.recorded
    if files is not None and files.modules and not files.dead_modules:
        return absent([f"In the file lora_B is zero in none of {len(files.modules)} modules."])
    if record is not None and record.by == "galvan":
        return absent(["galvan trained it, on one device."])
    if files is not None and files.dead_modules and record is not None and record.sharded:
        zeros = f"In the file lora_B is zero in {len(files.dead_modules)} of {len(files.modules)} modules."
        return present(
            [zeros, f"Beside it lie what sharded training leaves: {', '.join(shown(n, 40) for n in record.sharded)}."], [], "likely"
        )
    return unknown("on how many devices it was trained, and with what offloaded.")


@cause(
    "D09",
    title="A fused kernel gives no gradient where a batch is padded",
    symptom="The loss is flat with several rows in a pass, and falls with one.",
    proof="With several rows in a pass the gradient is that of the rows one by one.",
    remedy="switch the fused kernel off (or train one row a pass: training.batch_size=1 with training.accumulation), and report it to its authors",
    settle="Compare the gradient norm of two rows in one pass with that of the rows apart.",
    sources=["sail-sg/oat#74"],
)
def no_gradient_in_batches(facts: Facts) -> Answer:
    seen = facts.course
    if seen is None or seen.first_norm is None:
        return unknown("the gradient norms of training.")
    size = facts.run.setting("training.batch_size") if facts.run else None
    if seen.largest_norm == 0:
        alone, said = size == 1, _no_norm(seen)
        if frozen_adapter(facts).status == "present":
            return unknown("whether a kernel lost the gradient; a frozen adapter (D02) explains it.", [said])
        return (
            absent(["Each pass held one row."], [said])
            if alone
            else present([said], [], "very likely" if _joined_rows(facts) else "likely")
        )
    if isinstance(size, int) and size > 1 and not seen.silent:
        return absent(
            [f"With {size} rows a batch the gradient norm was {seen.first_norm:.2g} at the first step, and in no factor 0."]
        )
    return absent([f"The gradient norm was {seen.first_norm:.2g} at the first step."], [], "very likely")


@cause(
    "D10",
    title="Gradients were not cleared between steps",
    symptom="Training is unstable; every step repeats those before it.",
    proof="Before a step's own gradient is computed there is none.",
    remedy="call optimizer.zero_grad() after every optimizer.step(), on the optimizer that holds the model's parameters, and train again",
    settle="Run two steps on one batch with a learning rate of 0: a doubled gradient norm proves it.",
    sources=["tt-blacksmith PR #711"],
)
def gradients_not_cleared(facts: Facts) -> Answer:
    seen = facts.course
    if seen is None or seen.gradient_left is None:
        return unknown("what gradients were there before each step; only galvan's own log says.")
    if seen.still:
        return absent([f"{seen.still} of {seen.parameters} parameters never moved: an optimizer does not clear what it does not hold (D03)."],
                      [], "very likely")  # fmt: skip
    if seen.gradient_left > GRADIENT_LEFT * (seen.first_norm or 0):
        return present([f"Before a step's own gradient there was one of norm {seen.gradient_left:.2g}."])
    return absent(["Before the first steps' own gradients there were none."])


@cause(
    "D11",
    title="There was nothing to learn: the base writes so already",
    symptom="Held-out text gains nothing, and training text next to nothing, though everything is alive.",
    proof="Held-out text became likelier, or a higher learning rate makes it so.",
    remedy="none is needed if the base is good enough; else bring text that differs more from what it knows: `galvan run RECIPE --set data.source=OTHER-TEXT`",
    settle="Train at three learning rates: if no rate gains on held-out text, it is this.",
    sources=["ChatGLM-Efficient-Tuning#30", "mlx-examples#244", "Deus PR #470"],
    judges=True,
)
def nothing_to_learn(facts: Facts) -> Answer:
    found, said, seen = idle(facts), _idle_says(facts), facts.course
    test = facts.outcome.test if facts.outcome else None
    equal = practically_equal(test)
    if found is False and not equal:
        return absent(evidence(said))
    probe = facts.outcome.probe if facts.outcome else None
    if probe is not None and probe.ci95 is not None and probe.ci95.high < -probe.margin:
        return absent(evidence(said, "It became less likely, so that something harms."), [], "very likely")
    if (found is None and not equal) or seen is None or seen.peak_rate is None:
        return unknown("whether training text became likelier at a usual learning rate.", evidence(said))
    other = evidence(
        f"The highest learning rate was only {seen.peak_rate:.2g}." if seen.peak_rate < USUAL_RATES[_method(facts)] else None,
        f"Only {seen.steps} steps were made." if seen.steps < SHORT_RUN else None,
        f"Warm-up took {seen.warmup_share:.0%} of them." if (seen.warmup_share or 0) >= WARMUP_SHARE else None,
        "Parts of the model got no gradient or did not move." if seen.silent or seen.still else None,
    )
    if other:
        return unknown("what a run at a usual rate and length would gain.", evidence(said), other)
    made = f"{seen.steps} steps were made at up to {seen.peak_rate:.2g}, and all parameters moved."
    if found is False and test is not None:
        return present([f"Held-out text gained nothing: {test.reason}", made], evidence(said), "likely")
    return present(evidence(said, made), [], "likely")


@cause(
    "D12",
    title="The learning rate was too high: the loss jumped or diverged",
    symptom="The loss jumps to several times its value; the text is gibberish.",
    proof="The loss never rose far above its first value, and no gradient norm is a spike.",
    remedy="train again at a third of the rate: `galvan run RECIPE --set training.learning_rate=1e-4`, with some warm-up",
    settle="Train at a third of the rate: the curve falls smoothly if this was it.",
    sources=["axolotl docs/training_stability.qmd, 'Loss Spikes'"],
)
def rate_too_high(facts: Facts) -> Answer:
    seen = facts.course
    if seen is None or seen.first_loss is None or seen.last_loss is None:
        return unknown(NO_LOG)
    rate = seen.peak_rate or 0.0
    kind = facts.outcome.curve.kind if facts.outcome and facts.outcome.curve else None
    jumped = seen.highest_loss is not None and seen.highest_loss > LOSS_JUMP * seen.first_loss
    spiked = bool(seen.median_norm) and (seen.largest_norm or 0) > SPIKE * (seen.median_norm or 0)
    because = evidence(
        f"The loss rose from {seen.first_loss:.3f} at first to {seen.highest_loss:.3f}." if jumped else None,
        f"At the end the loss was {seen.last_loss:.3f}, above the first." if seen.last_loss > 1.1 * seen.first_loss else None,
        f"Held-out loss was unstable: {facts.outcome.curve.reason}"
        if kind == "unstable" and facts.outcome and facts.outcome.curve
        else None,
    )
    norms = f"The largest gradient norm is {seen.largest_norm:.3g}, the median {seen.median_norm:.3g}." if spiked else None
    high = f"The highest learning rate was {rate:.2g}." if seen.peak_rate is not None else None
    kept = _kept_before_the_end(facts)
    if because and kept:
        return present(because, evidence(kept, norms), "likely")
    if because and (jumped or rate >= HIGH_RATES[_method(facts)] or spiked):
        return present([*because, *evidence(norms, high)], [], "very likely")
    if because:
        return present(because, evidence(high), "likely")
    return absent([f"The loss began at {seen.first_loss:.3f} and ended at {seen.last_loss:.3f}.", *evidence(high)], evidence(norms))
