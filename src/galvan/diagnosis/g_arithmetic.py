"""Family G: arithmetic and statistics of the evaluation.

What this program computes itself is excluded with the figures of this run; a perplexity from elsewhere (`reported.json`, or
`galvan.audit(reported=...)`) is held against the right formula and the wrong ones.
"""

from __future__ import annotations

import math

from galvan.diagnosis.asking import near, reading, reported_by, reported_is_right, run, test_gain
from galvan.diagnosis.catalogue import Answer, Facts, absent, cause, evidence, present, unknown
from galvan.diagnosis.e_data import beginning_missing, two_beginnings
from galvan.diagnosis.reported import ways
from galvan.diagnosis.thresholds import DESIGN_EFFECT, PADDING_NATS, SAME_WIDTH
from galvan.text import shown

NOT_SCORED = "how the perplexities were computed; nothing was scored here, and none was reported."
UNEXPLAINED = "how the reported perplexities were computed; no way that is known gives them on these documents."


def _own(facts: Facts, code: str) -> str | None:
    """How far a wrong formula would have been off for the base. A share, no perplexity: a refused comparison shows none."""
    scored = run(facts).scored
    if scored is None or "base" not in scored.arms:
        return None
    sums = scored.arms["base"]
    wrong = [way for way in ways(sums) if way.code == code]
    off = 100 * (wrong[0].perplexity / sums.perplexity() - 1) if wrong else 0.0
    first = f"; {wrong[0].formula} would be off by {off:+.4f} %" if wrong else ""
    return f"The base's perplexity is exp(sum of NLL / number of targets){first}."


def _arithmetic(facts: Facts, code: str, *more: str | None) -> Answer:
    """Present by the reported figures, absent by our own, unknown where figures from elsewhere stay unexplained."""
    told, seen = reported_by(facts, code), reading(facts)
    if told:
        return told
    own = evidence(reported_is_right(facts), _own(facts, code), *more)
    if seen.right is False and not seen.codes:
        return unknown(UNEXPLAINED, [], own)
    if run(facts).scored is None:
        return unknown(NOT_SCORED, [], evidence(*more))
    return absent(own)


@cause(
    "G01",
    title="Perplexities of texts were averaged",
    symptom="One odd text dominates the figure.",
    proof="Perplexity is exp(sum of NLL / number of targets) over all texts.",
    remedy="add up the NLLs and the targets of all texts and divide once, as `galvan evaluate BASE ADAPTER --data FILE` does",
    settle="Leave out the text with the highest perplexity: if the figure changes by far more than its share of tokens, it is proved.",
    sources=["LLaMA-Factory cal_ppl.py", "Hugging Face evaluate, perplexity.py"],
)
def mean_of_perplexities(facts: Facts) -> Answer:
    return _arithmetic(facts, "G01")


@cause(
    "G02",
    title="Padding was scored",
    symptom="Perplexity depends on which texts share a batch.",
    proof="Likelihoods are the same alone and in a padded batch, and only targets of the text are counted.",
    remedy="set the labels of padding to -100, or score with `galvan evaluate BASE ADAPTER --data FILE`",
    settle="Score with batch size 1 and with 8: other perplexities prove it.",
    sources=["axolotl callbacks/perplexity.py"],
)
def padding_scored(facts: Facts) -> Answer:
    function = facts.function
    same = None
    if function is not None and function.batch_nats <= PADDING_NATS:
        same = f"Alone and in a padded batch a token's NLL is the same to {function.batch_nats:.1g} nats."
    return _arithmetic(facts, "G02", same)


@cause(
    "G03",
    title="Texts were left out of the evaluation",
    symptom="The number of texts differs from that in the file, or between runs; the figure jumps about.",
    proof="Every text of the file was scored once, the same ones in both arms.",
    remedy="score every text, the last batch too, with `galvan evaluate BASE ADAPTER --data FILE`",
    settle="Count the texts that entered the figure: fewer than in the file proves it.",
    sources=["mlx-lm iterate_batches"],
)
def texts_left_out(facts: Facts) -> Answer:
    scored = run(facts).scored
    if scored is not None:
        missing = [f"{len(names)} of {scored.in_file} texts were not scored under `{arm}` (first: {shown(names[0], 80)})."
                   for arm, names in scored.lacking.items() if names]  # fmt: skip
        if missing:
            return present(missing)
    told = run(facts).reported
    claimed = told.n_documents if told else None
    if scored is not None and claimed is not None and claimed < scored.in_file:
        return present([f"The reported figures rest on {claimed} texts; the file has {scored.in_file}."])
    counted = f"All {scored.in_file} texts of the file were scored once in each arm." if scored is not None else None
    return _arithmetic(facts, "G03", counted)


@cause(
    "G04",
    title="Means of batches were averaged",
    symptom="Perplexity changes with the batch size.",
    proof="NLLs and targets are added up over all texts before they are divided.",
    remedy="add up sums and targets over batches and divide once, as `galvan evaluate BASE ADAPTER --data FILE` does",
    settle="Score with batch size 1 and with 8: other perplexities prove it or G02.",
    sources=["transformers#24839", "transformers#39241", "transformers#41898", "llm-foundry#541", "LitGPT validate()"],
)
def mean_of_batches(facts: Facts) -> Answer:
    return _arithmetic(facts, "G04")


@cause(
    "G05",
    title="The two arms were cut into windows differently",
    symptom="Perplexities of two tools, or of two arms, cannot be compared.",
    proof="Both arms were scored at the same positions of the same texts, with one context and one rule for the first token.",
    remedy="score both arms in one run with `galvan evaluate BASE ADAPTER --data FILE`, and write down context and stride",
    settle="Count the scored tokens of each text in both arms: other counts prove it.",
    sources=["transformers#18887", "transformers PR #40524", "llama.cpp PR #2714", "lm-eval#369"],
)
def other_windows(facts: Facts) -> Answer:
    scored, here = run(facts).scored, run(facts)
    one = facts.outcome.one_tokenizer if facts.outcome else None
    if scored is None or len(scored.arms) < 2:
        return unknown("at which positions each arm was scored; nothing was scored here.")
    if scored.unlike_tokens and one is not False:
        first = scored.unlike_tokens[0]
        return present(
            [f"{len(scored.unlike_tokens)} texts have another number of scored tokens in the two arms (first: {shown(first, 80)})."]
        )
    context = here.provenance.get("context_tokens")
    rule = f" Longer texts than {context:,} tokens go through the same windows in both." if isinstance(context, int) else ""
    counted = f"Both arms have the same number of scored tokens in each of {scored.in_file} texts.{rule}"
    if reading(facts).right is False and not reading(facts).codes:
        return unknown(UNEXPLAINED, [], [counted])
    return absent([counted])


@cause(
    "G06",
    title="Perplexities of different tokenizers were compared",
    symptom="A ranking without a meaning: perplexity a token depends on how text is cut.",
    proof="One tokenizer serves both arms, or only bits per byte are compared.",
    remedy="compare bits per byte, as `galvan evaluate BASE ADAPTER --data FILE` does by itself where tokenizers differ",
    settle="Encode one text with both tokenizers: other numbers of tokens prove it.",
    sources=["llama.cpp#7111", "llama.cpp PR #6936"],
)
def across_tokenizers(facts: Facts) -> Answer:
    here = run(facts)
    hashes = [here.provenance.get(key) for key in ("tokenizer_sha256", "tuned_tokenizer_sha256")]
    one = facts.outcome.one_tokenizer if facts.outcome and facts.outcome.one_tokenizer is not None else None
    if one is None and all(isinstance(x, str) for x in hashes):
        one = hashes[0] == hashes[1]
    if one is None and facts.files is not None:
        one = facts.files.same_tokenizer if facts.files.kind == "full" else True  # an adapter is scored with the base's own
    if one is None:
        return unknown("whether both arms use one tokenizer.")
    if one:
        return absent(["One tokenizer serves both arms."])
    figures = here.reported.figures if here.reported else {}
    if len(figures) == 2:
        return present(
            [f"The tokenizers differ, and perplexities a token were reported: {figures['base']:g} and {figures['tuned']:g}."]
        )
    return absent(["The tokenizers differ, so bits per byte alone are compared here, and no perplexity a token."])


@cause(
    "G07",
    title="Each text's mean loss was weighted by one token too many",
    symptom="A small bias towards short texts: loss * input_ids.size(1), though a text of N tokens has N - 1 targets.",
    proof="Each text weighs as many targets as it has: N - 1, or N with a beginning-of-text token in front.",
    remedy="multiply the mean loss by the number of targets (labels[:, 1:] that are not -100) and divide by their sum, or use "
    "`galvan evaluate BASE ADAPTER --data FILE`",
    settle="Compute both: exp(sum of NLL / targets) and the same with N; if the figure is the second, it is proved.",
    sources=["alpaca_lora_4bit#140"],
)
def off_by_one(facts: Facts) -> Answer:
    scored = run(facts).scored
    rule = run(facts).provenance.get("first_token_rule")
    counted = None
    if scored is not None and "base" in scored.arms:
        n = scored.arms["base"].n_tokens
        counted = f"{int(n.sum()):,} targets were counted in {len(n)} texts" + (
            f" ({shown(rule)})." if isinstance(rule, str) else "."
        )
    return _arithmetic(facts, "G07", counted)


@cause(
    "G08",
    title="Two figures were compared without an interval, or with an unpaired one",
    symptom="A difference that chance can make is taken for an effect, or a real one is overlooked.",
    proof="The arms are paired text by text, and the difference has an interval.",
    remedy="run `galvan evaluate BASE ADAPTER --data FILE`, or galvan.paired_gain on the sums of each text",
    settle="Compute the paired interval: if it holds zero, the difference shows nothing.",
    sources=["lm-eval#3831", "lm-eval PR #3868"],
    judges=True,
)
def no_interval(facts: Facts) -> Answer:
    test, scored, told = test_gain(facts), run(facts).scored, run(facts).reported
    if test is None or test.ci95 is None:
        return unknown(
            "the paired interval of the difference.",
            evidence(
                "A figure without an interval was reported." if told and told.ci95 is None and len(told.figures) == 2 else None
            ),
        )
    interval = (
        f"Paired, the gain is {test.nats_per_token:+.4f} nats a token, 95 % interval {test.ci95.low:+.4f} to {test.ci95.high:+.4f}"
    )
    unpaired = scored.unpaired_se_nats if scored else None
    paired = f"{interval} over {test.n_clusters} units."
    factor = f"Unpaired, its standard error would be {unpaired / test.se:.1f} times as large." if unpaired and test.se else None
    if told is not None and len(told.figures) == 2:
        claimed = math.log(told.figures["base"] / told.figures["tuned"])
        if told.ci95 is None and test.ci95.low <= 0 <= test.ci95.high and claimed != 0:
            return present(
                [f"A gain of {claimed:+.4f} nats a token was reported without an interval.", paired],
                evidence(factor),
                "very likely",
            )
        width = (told.ci95[1] - told.ci95[0]) / 2 if told.ci95 else None
        if width and unpaired and test.se and near(width / 1.96, unpaired, SAME_WIDTH) and unpaired > DESIGN_EFFECT * test.se:
            return present([f"The reported interval is as wide as an unpaired one, +-{width:.4f} nats.", paired], [], "very likely")
    return absent(evidence(paired, factor))


@cause(
    "G09",
    title="Tokens were treated as independent",
    symptom="The interval is far too narrow, and chance looks like an effect.",
    proof="The interval counts texts, blocks or sources, not tokens.",
    remedy="take the interval over texts, as galvan.paired_gain and `galvan evaluate BASE ADAPTER --data FILE` do",
    settle="Compute the interval over texts: if it is wider by half or more, the one over tokens was too narrow.",
    sources=["mlx_lm/perplexity.py", "llama.cpp PR #6936"],
    judges=True,
)
def tokens_independent(facts: Facts) -> Answer:
    test, scored, told = test_gain(facts), run(facts).scored, run(facts).reported
    naive = scored.token_se_nats if scored else None
    if test is None or test.se is None:
        return unknown("the interval over texts.")
    effect = (test.se / naive) ** 2 if naive else None
    said = f"The interval counts {test.n_clusters} units ({test.unit}), weighing like {test.n_effective:.1f}" + (
        f"; its variance is {effect:.2g} times that over {test.n_tokens:,.0f} tokens taken as independent (design effect)."
        if effect
        else "."
    )
    if told is not None and told.ci95 is not None and naive is not None:
        width = (told.ci95[1] - told.ci95[0]) / 2
        if near(width / 1.96, naive, SAME_WIDTH) and effect is not None and effect > DESIGN_EFFECT:
            return present([f"The reported interval, +-{width:.4f} nats, is the one over tokens taken as independent.", said])
    return absent([said])


@cause(
    "G10",
    title="The evaluation is too small to show the effect",
    symptom="No difference is seen, though there may be one.",
    proof="The documents would have shown a change as large as the margin with a chance of 80 %, or they did show one.",
    remedy="judge on more held-out documents (`galvan evaluate BASE ADAPTER --data MORE-HELD-OUT-TEXT`); `galvan plan` says how many",
    settle="Judge on as many documents as the margin needs: if the interval then leaves zero, it was this; if it lies within the "
    "margin, the two are equivalent.",
    sources=["the notebook that galvan began with (25 documents)", "unsloth MIN_EVAL_ROWS"],
    judges=True,
)
def too_small(facts: Facts) -> Answer:
    test = test_gain(facts)
    if test is None:
        return unknown("the paired gain and its spread; nothing was compared.")
    from galvan.statistics.power import shown_count
    from galvan.statistics.verdict import FEWEST_UNITS

    margin = 100 * math.expm1(test.margin)
    wanted = test.documents_needed_for_margin
    said = evidence(
        f"The verdict on {test.n_documents} documents is {test.verdict}: {test.reason}",
        test.sensitivity,
        f"A change as large as the margin ({margin:.1f} %) needs {shown_count(wanted.documents80)} documents for a chance of 80 %."
        if wanted
        else None,
    )
    if test.verdict != "inconclusive":
        return absent(said)
    if test.n_documents < FEWEST_UNITS or test.mde80_percent is None or abs(test.mde80_percent) > margin:
        return present(said)
    return unknown("why the verdict is inconclusive, though a change as large as the margin would usually be seen.", said)


@cause(
    "G11",
    title="The last batch was counted wrongly, or texts were counted twice",
    symptom="The figure depends on the number of texts modulo the batch size or the number of processes.",
    proof="Every text of the file stands once in the scores.",
    remedy="score in one process, every text once, with `galvan evaluate BASE ADAPTER --data FILE`",
    settle="Score a file whose number of texts the batch size divides: if the figures agree there alone, it is proved.",
    sources=["transformers#16716"],
)
def counted_twice(facts: Facts) -> Answer:
    scored, told = run(facts).scored, run(facts).reported
    if scored is not None and scored.twice:
        return present([f"{len(scored.twice)} texts stand twice in the scores (first: {shown(scored.twice[0], 80)})."])
    if scored is not None and told is not None and told.n_documents is not None and told.n_documents > scored.in_file:
        return present([f"The reported figures rest on {told.n_documents} texts; the file has {scored.in_file}."])
    return _arithmetic(facts, "G11", f"None of {scored.in_file} texts stands twice in the scores." if scored is not None else None)


@cause(
    "G12",
    title="Perplexity rose although the texts became better",
    symptom="Held-out perplexity is worse, yet generated texts are nearer to the author.",
    proof="Perplexity did not rise, or style did not come nearer.",
    remedy="judge in-domain text, neutral text and style apart (`galvan run RECIPE` does), and do not reject a model for likelihood alone",
    settle="Let readers, or the style measures of `galvan run`, compare the texts: if they are not nearer either, it is no false alarm.",
    sources=["llama.cpp PR #6936"],
    judges=True,
)
def better_though_worse(facts: Facts) -> Answer:
    test, style = test_gain(facts), facts.outcome.style if facts.outcome else None
    if test is None:
        return unknown("whether held-out perplexity rose; nothing was compared.")
    rose = f"Held-out perplexity changed by {test.perplexity_change_percent:+.2f} %: {test.verdict}."
    if test.verdict != "worse":
        return absent([rose])
    closer = (style or {}).get("closer")
    if closer == "yes":
        return present([rose, "The generated texts came closer to the author's style."], [], "very likely")
    if closer == "no":
        return absent(["The generated texts did not come closer to the author's style."], [rose])
    return unknown("whether the generated texts came closer to the author; style was not measured.", [rose])


@cause(
    "G13",
    title="The base was put at a disadvantage",
    symptom="The gain is overstated, because the base was given a bad prompt or two beginnings.",
    proof="Both arms are given the same ids by one rule, and an adapter of random numbers does not improve on the base.",
    remedy="give both arms the same ids: score them in one run with `galvan evaluate BASE ADAPTER --data FILE`",
    settle="Let an adapter of random numbers take the tuned model's place: if it improves on the base as well, it is proved.",
    sources=["retaining-by-doing#5"],
)
def base_handicapped(facts: Facts) -> Answer:
    controls = facts.outcome.controls if facts.outcome else {}
    control, scored = controls.get("random_b"), run(facts).scored
    one_sided = _base_only(facts)
    if one_sided:
        return present(one_sided, [], "very likely")
    if control is not None and control.status == "failed" and "improves" in control.reason:
        return present([control.reason])
    same = None
    if scored is not None and len(scored.arms) == 2 and not scored.unlike_tokens:
        same = f"Both arms were given the same tokens in each of {scored.in_file} texts."
    if control is not None and control.status == "ok":
        return absent(evidence(control.reason, same))
    if same and reading(facts).right is not False:
        return absent([same], [], "very likely")
    return unknown("whether both arms were given the same ids, and whether random numbers improve on the base.", [], evidence(same))


def _base_only(facts: Facts) -> list[str]:
    """Reported figures of which the base's alone comes from a wrong beginning."""
    told, scored = run(facts).reported, run(facts).scored
    if told is None or scored is None or len(told.figures) < 2 or "tuned" not in scored.arms:
        return []
    sentences = [s for ask in (two_beginnings, beginning_missing) if (a := ask(facts)).status == "present" for s in a.because]
    return sentences if sentences and all("reported base" in s for s in sentences) else []
