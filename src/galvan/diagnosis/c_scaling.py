"""Family C: scaling, merging, numerics."""

from __future__ import annotations

from collections.abc import Mapping

from galvan.diagnosis.a_wrong_model import merged_already
from galvan.diagnosis.catalogue import Answer, Facts, absent, cause, evidence, present, unknown
from galvan.diagnosis.thresholds import CHANGED_ENTRIES, CLEARLY_LOWER, MERGE_KEPT, RSLORA_SHARE
from galvan.measure.facts import FunctionFacts, Share
from galvan.text import shown


@cause(
    "C01",
    title="The rsLoRA flag is not the one of training, so that the scale is wrong by sqrt(r)",
    symptom="The adapter does too little, or far too much.",
    proof="use_rslora and r are those recorded in training, and the NLL over multipliers of the scale is lowest near 1.",
    remedy="set use_rslora in adapter_config.json to the value of training, by hand or with `galvan check BASE ADAPTER --repair OUT`",
    settle="Score with the scale multiplied by sqrt(r) and by 1/sqrt(r): if one of them is far better, it is proved.",
    sources=["TensorRT-LLM#1668", "peft#2733", "peft PR #3449", "aprender PR #2189"],
    refuses=True,
)
def rslora_flag(facts: Facts) -> Answer:
    settled = facts.not_an_adapter()
    if settled:
        return absent([settled])
    files, trained = facts.files, facts.trained
    recorded = trained.use_rslora if trained else None
    best = _best_multiplier(facts.function)
    if files is None or files.kind != "lora":
        return unknown("the adapter's config.", evidence(best))
    if recorded is not None and recorded != files.use_rslora:
        return present(evidence(f"Training had use_rslora {recorded}, the file says {files.use_rslora}.", best))
    if recorded is not None:
        return absent(evidence(f"use_rslora is {files.use_rslora}, as in training.", best))
    if files.rank == 1:
        return absent(["The rank is 1, where both scales are the same."])
    out = _out_by_root(facts.function, files.rank, files.use_rslora)
    if out:
        return present([f"use_rslora is {files.use_rslora} in the file. {out}"], ["An adapter that was trained too little or too hard may look the same."], "likely")  # fmt: skip
    return unknown("whether training used rsLoRA; nothing recorded it.", evidence(best))


def _out_by_root(function: FunctionFacts | None, rank: float | None, rslora: bool) -> str | None:
    """Where nothing recorded the flag: the NLL over multipliers is lowest at the scale of the other flag, by far.

    Without the flag: at sqrt(r), lower on both sides' neighbours, most of what the adapter gives being gained there only. With it: at
    1/sqrt(r) the adapter helps, and as it is it harms.
    """
    if function is None or not rank or rank <= 1:
        return None
    nll = {round(point.multiplier, 6): point.nll_nats for point in function.sweep}
    root = rank**0.5
    base, now, other, beyond = (nll.get(round(m, 6)) for m in (0.0, 1.0, 1 / root if rslora else root, 2 * root))
    if base is None or now is None or other is None or beyond is None or now - other < CLEARLY_LOWER:
        return None
    if other > min(nll.values()) or not (
        other < base < now if rslora else beyond > other and base - other > RSLORA_SHARE * (base - now)
    ):
        return None
    return (
        f"On the check texts the NLL is {now:.4f} nats a token (without the adapter {base:.4f}), and {other:.4f} with the scale "
        f"{'divided' if rslora else 'multiplied'} by sqrt({rank:g}), where it is lowest."
    )


def _best_multiplier(function: FunctionFacts | None) -> str | None:
    if function is None or not function.sweep:
        return None
    best = min(function.sweep, key=lambda point: point.nll_nats)
    return (
        f"On the check texts the NLL is lowest with the scale multiplied by {best.multiplier:g} ({best.nll_nats:.4f} nats a token)."
    )


@cause(
    "C02",
    title="The adapter's scale is zero, missing, or not the one it was trained with",
    symptom="No effect at all (scale zero), or one that is too strong or too weak.",
    proof="alpha and r stand in adapter_config.json, alpha / r is greater than zero in every module, and alpha is the one "
    "recorded in training.",
    remedy='write the r and lora_alpha of training, which its script or log has, into adapter_config.json (for example "r": 8, "lora_alpha": 16) and run '
    "`galvan check BASE ADAPTER`",
    settle="Score with the scale multiplied by 0, 0.5, 1, 1.5 and 2: the right scale has its lowest NLL near 1.",
    sources=["mlx-vlm#845", "mlx-vlm PR #986", "mlx-examples PR #623"],
    refuses=True,
)
def scale_missing(facts: Facts) -> Answer:
    settled = facts.not_an_adapter()
    if settled:
        return absent([settled])
    files, state = facts.files, facts.adapter
    lora_file = files if files is not None and files.kind == "lora" else None
    trained = facts.trained.alpha if facts.trained else None
    zero = sorted(name for name, (low, _) in state.scaling.items() if not low > 0) if state else []
    wrong = lora_file is not None and lora_file.alpha is not None and trained is not None and trained != lora_file.alpha
    because = evidence(
        "No lora_alpha stands in adapter_config.json." if lora_file and lora_file.alpha is None else None,
        "No rank r stands in adapter_config.json." if lora_file and lora_file.rank is None else None,
        f"The scale is not greater than zero in {len(lora_file.unscaled_modules)} of {len(lora_file.modules)} modules "
        f"(lora_alpha {lora_file.alpha}, r {lora_file.rank})."
        if lora_file and lora_file.unscaled_modules
        else None,
        f"In memory the scale of {', '.join(shown(name, 40) for name in zero)} is not greater than zero." if zero else None,
        f"Training used lora_alpha {trained}, the file says {lora_file.alpha}." if wrong and lora_file else None,
    )
    if because:
        return present(because, evidence(facts.arms_differ()))
    scales = [m.scaling for m in lora_file.modules if m.scaling is not None] if lora_file else []
    against = evidence(
        f"The scale of the {len(scales)} modules in the file is {min(scales):g} to {max(scales):g}." if scales else None,
        f"In memory the scale is {'; '.join(f'{low:g} to {high:g}' for low, high in state.scaling.values())}."
        if state and state.scaling
        else None,
        f"lora_alpha {trained} is the one recorded in training." if trained is not None and lora_file else None,
    )
    return (
        absent(against)
        if against
        else unknown("the adapter's scaling.", evidence(facts.arms_equal()), evidence(facts.arms_differ()))
    )


@cause(
    "C03",
    title="Merging rounded the adapter away: the weights' grid is coarser than the update",
    symptom="The merged model is nearer to the base than base and adapter unmerged.",
    proof="Of the update d a merge has kept dot(Q(W + d) - Q(W), d) / dot(d, d) near 1.",
    remedy="merge in float32 and save so, or serve base and adapter unmerged; never merge into 4-bit weights",
    settle="Score merged and unmerged on the same text: another NLL proves it.",
    sources=["peft#2321", "peft#1043", "peft#1388", "peft#2105", "qlora#28", "peft tuners/lora/bnb.py"],
)
def rounded_away(facts: Facts) -> Answer:
    live, files = facts.live, facts.files
    kept = live.in_merge if live else None
    if kept is not None and live is not None and live.tuned.uses_dora and len(live.tuned.merged) > 1:
        return absent(["Several DoRA adapters are merged, which is C08."], [], "very likely")
    if kept is not None:
        return _kept(kept)
    if files is not None and files.kind == "full" and facts.trained is not None:
        return absent(["It came out of this training, and nothing was merged."], [], "very likely")
    if files is not None and files.kind == "full":
        if live is None or live.changed_entries is None:
            return unknown("which weights differ from the base's.")
        coarse = bool(set(files.dtypes) & {"BF16", "F16", "U8", "I8"}) or bool(live.under_adapter and live.under_adapter.coarser)
        if coarse and 0 < live.changed_entries < CHANGED_ENTRIES:
            return present(
                [
                    f"Only {live.changed_entries:.1%} of the entries of its changed matrices differ from the base's, in {', '.join(files.dtypes)}."
                ],
                [],
                "likely",
            )
        return absent(
            [f"{live.changed_entries:.1%} of the entries of its changed matrices differ from the base's."], [], "very likely"
        )
    settled = facts.not_an_adapter()
    if live is not None and not live.tuned.merged:
        return absent(
            evidence(settled or "No adapter is merged: its update is computed beside the weights.", _forecast(live.after_merge))
        )
    if live is not None:
        return unknown("the base's own weights, which the merge has overwritten; give a base of its own.")
    return (
        absent([settled])
        if settled
        else absent(["The adapter's file is not merged."], [], "very likely")
        if files
        else unknown("whether an adapter was merged.")
    )


def _kept(kept: Share) -> Answer:
    said = f"Of the update the merged weights have kept {kept.mean:.0%} (over {kept.n} modules)."
    return present([said]) if abs(kept.mean - 1) > 1 - MERGE_KEPT else absent([said])


def _forecast(after: Mapping[str, Share]) -> str | None:
    said = "; ".join(f"into {grid} {share.mean:.0%}" for grid, share in after.items())
    return f"Of the update a merge would keep: {said}." if said else None


@cause(
    "C04",
    title="The update is applied twice: the base given already has this adapter merged into it, or it is active under two names",
    symptom="Overshoot or gibberish; half the scale works better.",
    proof="The base has the hash that training recorded, and its weights hold none of the adapter's update.",
    remedy="give the original base, not the merged model, with this adapter; or score the merged model without it: `galvan evaluate BASE MERGED --data FILE`; "
    "of two names for one adapter leave one active: model.set_adapter(NAME)",
    settle="Score with the scale multiplied by 0 and by -1: the original base's NLL at -1 proves it.",
    sources=["trl#926"],
    refuses=True,
)
def applied_twice(facts: Facts) -> Answer:
    settled = facts.not_an_adapter()
    if settled:
        return absent([settled])
    live, trained = facts.live, facts.trained
    if facts.adapter is not None and facts.adapter.twins:
        names = " and ".join(f"`{shown(name, 40)}`" for name in facts.adapter.twins)
        return present(
            [f"The adapters {names} are active together and hold one and the same update, which is added once for each."]
        )
    here = facts.integrity.base_sha256 if facts.integrity else None
    recorded = trained.base_sha256 if trained else None
    if recorded is not None and recorded == here:
        return absent([f"The base's SHA-256 is {recorded[:16]}, which training recorded."])
    share = live.in_base if live else None
    said = (
        f"Of the update the base's weights hold {share.mean:.2f} already, give or take {share.sd:.2f} (over {share.n} modules)."
        if share
        else None
    )
    if merged_already(share) and not (live and live.tuned_wraps_base and live.tuned.merged):
        return present(
            evidence(said, f"The base is not the one that training recorded ({recorded[:16]})." if recorded else None),
            [],
            "very likely",
        )
    if share is None or share.sd / share.n**0.5 > 0.2:
        return unknown("whether the base holds the update already; nothing recorded the base's hash.", [], evidence(said))
    return absent(evidence(said), [], "very likely")


@cause(
    "C05",
    title="Dropout was on while scoring",
    symptom="Two runs on the same text give different figures.",
    proof="No module was in training mode with a dropout above 0, and one forward pass repeated gives the same likelihoods.",
    remedy="call model.eval() on both models before scoring, as `galvan evaluate` does",
    settle="Score one text twice: two figures prove it.",
    sources=["peft#3753", "peft#2438", "transformers#34469"],
)
def dropout_on(facts: Facts) -> Answer:
    live, function = facts.live, facts.function
    if live is None:
        return unknown("the mode of the models when they were scored.")
    names = {"base": live.base.active_dropout, "tuned": live.tuned.active_dropout}
    on = [
        f"{count} modules of the {name} model would drop something out, as it was found." for name, count in names.items() if count
    ]
    if on:
        return present(on)
    repeat = f"One pass repeated differs by {function.repeat_nats:.1g} nats." if function else None
    return absent(evidence("No module with dropout is in training mode.", repeat))


@cause(
    "C06",
    title="Numbers overflowed: weights, losses or gradients are not finite",
    symptom="A loss of nan, or of exactly 0.0 where a logger filters nan; the model changed nothing or writes one token.",
    proof="Every tensor of the file, every loss and every gradient norm is finite.",
    remedy="train in bfloat16 or float32 instead of float16, lower training.learning_rate, and train again; nothing can be had from this file",
    settle="Look at the first step whose loss or gradient norm is not finite.",
    sources=["sd-scripts#1464", "ms-swift#1099", "transformers#25021", "unsloth rl.py: logging_nan_inf_filter"],
    refuses=True,
)
def not_finite(facts: Facts) -> Answer:
    files, function, seen = facts.files, facts.function, facts.course
    infinite = function is not None and not function.finite
    because = evidence(
        f"{len(files.not_finite)} of {files.n_keys} tensors of the file are not finite (first: {shown(files.not_finite[0], 120)})."
        if files and files.not_finite
        else None,
        "The tuned model's likelihoods are not finite." if infinite else None,
        f"At step {seen.not_finite[0]} the loss or gradient norm was not finite, in {len(seen.not_finite)} logged steps."
        if seen and seen.not_finite
        else None,
    )
    if because:
        return present(because)
    against = evidence(
        f"Every tensor of the file is finite ({files.n_keys})." if files and files.modules else None,
        f"The likelihoods of {function.n_tokens} check tokens are finite." if function else None,
        f"Every logged loss and gradient norm is finite, over {seen.steps} steps." if seen else None,
    )
    return absent(against) if against else unknown("the values of the adapter and the log of its training.")


@cause(
    "C07",
    title="Weights kept in bfloat16: steps smaller than half a unit in the last place vanish",
    symptom="Gradients and learning rate look fine, and the weights do not move.",
    proof="Nearly every entry with a gradient changes at every step, or the trained weights are kept in float32.",
    remedy="keep the trained weights in float32 (model.dtype=float32; PEFT does so for LoRA unless autocast_adapter_dtype=False)",
    settle="Count the entries that one step changes: a small share proves it.",
    sources=["ml-by-hand PR #85", "pytorch/ao#1124", "torchtune#2254"],
)
def steps_round_away(facts: Facts) -> Answer:
    files, seen, live = facts.files, facts.course, facts.live
    coarse = files is not None and bool(files.dtypes) and set(files.dtypes) <= {"BF16", "F16"}
    if seen is not None and seen.changed_share is not None and seen.parameters > seen.still:
        said = f"A step changed {seen.changed_share:.1%} of the entries of the parameters with a gradient."
        return present([said], [], "very likely") if seen.changed_share < CHANGED_ENTRIES and coarse else absent([said])
    if seen is not None and seen.parameters and seen.parameters == seen.still and coarse:
        return present(
            [
                f"None of {seen.parameters} parameters with a gradient moved in the first steps, and the weights are in {', '.join(files.dtypes) if files else ''}."
            ],
            [],
            "likely",
        )
    if live is not None and live.changed_entries is not None and files is not None and files.kind == "full" and coarse:
        said = f"{live.changed_entries:.1%} of the entries of the changed matrices differ from the base's."
        if live.changed_entries < CHANGED_ENTRIES:
            return unknown("whether steps of training rounded away, or a merge (C03); no log of training was given.", [said])
        return absent([said])
    if files is not None and files.dtypes and not coarse:
        return absent([f"The trained weights are kept in {', '.join(files.dtypes)}."], [], "very likely")
    return unknown(
        "what each step of training changed.",
        evidence(f"The weights are in {', '.join(files.dtypes)}." if coarse and files else None),
    )


@cause(
    "C08",
    title="Merging several DoRA adapters does not give what they give unmerged",
    symptom="The merged model is a few percent away from the unmerged one.",
    proof="At most one DoRA adapter is active, or none is merged.",
    remedy="merge one DoRA adapter at a time into a copy of the base, or serve them unmerged",
    settle="Score merged and unmerged on the same text: another NLL proves it.",
    sources=["peft#3608"],
)
def dora_merge(facts: Facts) -> Answer:
    files, state, live = facts.files, facts.adapter, facts.live
    if files is not None and files.kind == "lora" and not files.use_dora:
        return absent(["The adapter is not DoRA."])
    if live is None:
        return (
            absent([facts.not_an_adapter() or ""]) if facts.not_an_adapter() else unknown("whether several adapters were merged.")
        )
    if state is None or not state.merged:
        return absent(["No adapter is merged."])
    if not state.uses_dora:
        return absent(["The merged adapters are not DoRA."])
    if len(state.merged) < 2:
        return absent(["Only one adapter is merged."])
    kept = live.in_merge
    if kept is not None:
        return _kept(kept)
    return present([f"{len(state.merged)} DoRA adapters are merged into the same weights."], [], "very likely")
