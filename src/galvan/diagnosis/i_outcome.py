"""Family I: the outcome itself."""

from __future__ import annotations

from galvan.diagnosis.asking import kept_step, learned_elsewhere, practically_equal, test_gain
from galvan.diagnosis.c_scaling import rslora_flag
from galvan.diagnosis.catalogue import Answer, Facts, absent, cause, evidence, present, unknown
from galvan.diagnosis.outcome import Outcome
from galvan.diagnosis.thresholds import FEWEST_SEEDS
from galvan.text import shown

NOTHING = Outcome()


@cause(
    "I01",
    title="It was over-fitted: the training text was learned by heart",
    symptom="Training loss falls in stairs, held-out loss rises, and generated text repeats the training text word for word.",
    proof="Held-out loss was lowest at the end of training, and generated texts copy no more than the base's and held-out texts do.",
    remedy="stop where held-out loss was lowest (`galvan run RECIPE --set training.epochs=1`), or bring more text",
    settle="Compare held-out loss at every evaluation: if it turns while training loss goes on falling, it is proved.",
    sources=["FastChat#356", "stanford_alpaca#236", "LlamaFactory#7485", "axolotl#735", "gpt-2-colab#9", "souprise#11"],
    judges=True,
)
def over_fitted(facts: Facts) -> Answer:
    outcome = facts.outcome or NOTHING
    curve, test, apart = outcome.curve, outcome.test, outcome.probe_minus_test
    copying = (outcome.originality or {}).get("excess_copying")
    turned = curve is not None and curve.kind == "over-fitted"
    gap = None
    if apart is not None and apart.ci95 is not None and test is not None:
        gap = f"Training text gained {apart.value:+.4f} nats a token more than held-out text ({apart.ci95.low:+.4f} to {apart.ci95.high:+.4f})."
    wide = apart is not None and apart.ci95 is not None and test is not None and apart.ci95.low > test.margin
    said = "Generated texts copy {} of the training text than the base's and held-out texts do."
    copied = None if copying is None else said.format("more" if copying else "no more")
    last = None
    if curve is not None and curve.best_step is not None and curve.best_step == curve.last_step:
        last = f"Held-out loss was lowest at the last evaluation, step {curve.best_step}."
    kept = kept_step(facts)
    if turned and curve is not None and kept is not None and kept == curve.best_step and not copying:
        return absent(
            [f"The weights that are kept are those of step {kept}, where held-out loss was lowest."], [curve.reason], "very likely"
        )
    if turned and curve is not None:
        return present(evidence(curve.reason, gap if wide else None, copied if copying else None), evidence(None if copying else copied),
                       "certain" if wide or copying else "very likely")  # fmt: skip
    if copying:
        return present(evidence(copied, gap if wide else None), evidence(last), "very likely")
    if wide and test is not None and test.verdict == "worse" and not practically_equal(test):
        return present(evidence(gap, f"Held-out text became less likely: {test.reason}"), evidence(last, copied), "very likely")
    if curve is None and copying is None and (test is None or apart is None):
        return unknown("the learning curve, the gain on training text, and how much generated texts copy.")
    if last or (test is not None and test.verdict == "improved") or copying is False:
        improved = f"Held-out text became likelier: {test.reason}" if test is not None and test.verdict == "improved" else None
        return absent(evidence(last, improved, copied), evidence(gap if wide else None), "certain" if last else "very likely")
    return unknown(
        "whether held-out loss turned; the curve does not decide it.",
        evidence(gap if wide else None),
        evidence(None if wide else gap),
    )


@cause(
    "I02",
    title="The model forgot what the base could do",
    symptom="General text became less likely, and answers outside the new domain repeat or break.",
    proof="On the frozen neutral text the tuned model's likelihoods are the base's, within the margin for forgetting.",
    remedy="lower the learning rate or train fewer epochs (`galvan run RECIPE --set training.epochs=1`), or mix neutral text in",
    settle="Score neutral text under both arms: if it became less likely by more than the margin, it is proved.",
    sources=["refact#311", "DeepSeek-Coder#134", "Qwen3-VL#600", "litgpt#1517", "PEFT method_comparison"],
    judges=True,
)
def forgot(facts: Facts) -> Answer:
    block = (facts.outcome or NOTHING).retention or {}
    said, change, kl = block.get("forgot"), block.get("neutral_perplexity_change_percent"), block.get("kl_nats")
    figures = evidence(
        f"On neutral text perplexity changed by {change:+.2f} %." if isinstance(change, int | float) else None,
        f"There the two models are {kl:.4f} nats a token apart (KL)." if isinstance(kl, int | float) else None,
    )
    if said is True:
        because = figures or ["On neutral text the tuned model became worse by more than the margin for forgetting."]
        if elsewhere := learned_elsewhere(facts):
            return present(
                because, [f"{elsewhere} An adapter on another base than its own (A10) ruins neutral text as well."], "likely"
            )
        if rslora_flag(facts).certainty == "likely":
            return present(because, ["A wrong scale (C01) makes neutral text less likely as well."], "likely")
        return present(because)
    if said is False:
        return absent(figures or ["On neutral text the tuned model is the base's equal, within the margin for forgetting."])
    reason = block.get("reason")
    return unknown(
        f"how the tuned model does on neutral text: {shown(str(reason), 200) if reason else 'it was not measured.'}", figures
    )


@cause(
    "I03",
    title="The result depends on the training seed",
    symptom="Trained again, the same recipe gives another result.",
    proof="Over at least three training seeds the recipe's gain has the sign of this adapter's, and its interval the same verdict.",
    remedy="train with several seeds (`galvan run RECIPE --seeds 5`), and report the recipe's interval and the worst seed",
    settle="Train with three more seeds: if their verdicts differ, it is proved.",
    sources=["LLaVA#961", "LLaVA#864", "LoftQ#24", "DoRA#2"],
    judges=True,
)
def seed_variance(facts: Facts) -> Answer:
    known, test = (facts.outcome or NOTHING).recipe, test_gain(facts)
    gain = known.gain if known else None
    if gain is None or gain.n_seeds < FEWEST_SEEDS:
        seeds = gain.n_seeds if gain else 1
        return unknown(
            f"how other training seeds do; {seeds} of at least {FEWEST_SEEDS} {'was' if seeds == 1 else 'were'} trained."
        )
    each = [adapter.nats_per_token for adapter in gain.adapters]
    verdicts = sorted({adapter.verdict for adapter in gain.adapters})
    spread = (
        f"Over {gain.n_seeds} training seeds the gain is {min(each):+.4f} to {max(each):+.4f} nats a token"
        + (f" (standard deviation {gain.sd_seeds:.4f})" if gain.sd_seeds is not None else "")
        + f"; verdicts: {', '.join(verdicts)}. The recipe: {gain.verdict}."
    )
    if {"improved", "worse"} <= set(verdicts):
        return present([spread])
    if test is not None and test.verdict in ("improved", "worse") and gain.verdict != test.verdict:
        return present([spread, f"This adapter alone is {test.verdict}."], [], "very likely")
    if len(verdicts) > 1:
        return unknown("whether seeds or documents make the difference between the verdicts.", [spread])
    return absent([spread])
