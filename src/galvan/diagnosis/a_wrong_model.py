"""Family A: the wrong thing was evaluated."""

from __future__ import annotations

from galvan.diagnosis.asking import learned_elsewhere, run
from galvan.diagnosis.catalogue import Answer, Facts, absent, cause, evidence, present, unknown
from galvan.diagnosis.thresholds import IN_BASE_SE, IN_BASE_SPREAD
from galvan.measure.facts import AdapterState, FunctionFacts, LiveFacts, Share
from galvan.measure.key_names import NO_MODEL
from galvan.text import shown


def _names(names: tuple[str, ...]) -> str:
    return ", ".join(shown(name, 40) for name in names) or "none"


@cause(
    "A01",
    title="The base was evaluated after the adapter had been put into it",
    symptom="Base and tuned perplexity are equal to the last digit, and texts of the 'base' are in the tuned style.",
    proof="No adapter layer is inside the object called base, and its likelihoods are those of a base loaded afresh.",
    remedy="load the base a second time and score it before PeftModel.from_pretrained is called, or let `galvan evaluate "
    "BASE ADAPTER --data FILE` do both",
    settle="Score the base in a new process that never loads the adapter: equal to the base's score of record, this is "
    "excluded; different, it is proved.",
    sources=["peft#940", "peft#515", "peft#795", "peft#1161", "peft PR #2313"],
    refuses=True,
)
def base_wrapped_in_place(facts: Facts) -> Answer:
    live, function = facts.live, facts.function
    if live is None:
        differ = facts.arms_differ()
        if differ:
            return absent([differ])
        return unknown("whether the object that was scored as the base held adapter layers.", evidence(facts.arms_equal()))
    if live.base.layers and live.base.enabled is False and not live.same_object:
        return absent(
            ["The adapter layers in the object called base are switched off; whether that is the base is A04's question."]
        )
    if live.base.layers:
        return present(
            evidence(
                f"The object called base holds {live.base.layers} adapter layers.",
                "Base and tuned are one and the same object." if live.same_object else None,
                "The tuned model is a wrapper around the very object called base."
                if live.tuned_wraps_base and not live.same_object
                else None,
                facts.arms_equal(),
                _off_differs(function),
            ),
            evidence(facts.arms_differ()),
        )
    return absent(
        evidence(
            "The object called base held no adapter layer when it was scored.",
            _off_agrees(function),
            facts.arms_differ(),
        ),
        evidence(facts.arms_equal()),
    )


def _off_differs(function: FunctionFacts | None) -> str | None:
    if function is None or function.off_base_nats is None or not function.off_is_another:
        return None
    return (
        f"With the adapter switched off a token's likelihood is {function.off_base_nats:.3g} nats away from what the 'base' gives."
    )


def _off_agrees(function: FunctionFacts | None) -> str | None:
    if function is None or function.off_base_nats is None or function.off_is_another:
        return None
    return f"With the adapter switched off the tuned model gives the base's likelihoods to {function.off_base_nats:.1g} nats."


@cause(
    "A02",
    title="The adapter was merged into the weights that the base uses too",
    symptom="Base and tuned are equal to the last digit, and disable_adapter() does not bring the base back.",
    proof="The base's weights are those of the files it was loaded from, and no adapter is merged into them.",
    remedy="load the base again from its files before scoring it, and merge only into a copy: "
    "PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(BASE), ADAPTER).merge_and_unload()",
    settle="Compare a few weights of the base with its safetensors file: any that differ prove it, none excludes it.",
    sources=["peft#1043", "peft#868"],
    refuses=True,
)
def merged_into_base(facts: Facts) -> Answer:
    live = facts.live
    if live is None:
        return _by_scores(facts, "whether the base's weights are still those of its files.")
    shared = live.same_object or live.tuned_wraps_base or bool(live.n_tensors and live.shared_tensors == live.n_tensors)
    changed = live.base_source is not None and live.base_source.different > 0
    because = evidence(
        f"{_names(live.base.merged)} is merged into the layers of the object called base." if live.base.merged else None,
        f"{_names(live.tuned.merged)} is merged, and the base uses the same weights."
        if live.tuned.merged and shared and not live.base.merged
        else None,
        "The PEFT wrapper has no adapter layer left, as after merge_and_unload(), and the base uses the same weights."
        if live.tuned.emptied and shared
        else None,
        f"{live.base_source.different} of {live.base_source.n} of the base's tensors are not those of its files, by {live.base_source.relative:.2g} of their size."
        if changed and live.base_source
        else None,
    )
    if because and (shared or live.base.merged):
        return present([*because, *evidence(facts.arms_equal())], evidence(facts.arms_differ()))
    if because:
        return present(because, evidence(facts.arms_differ()), "likely")
    fresh = live.base_source is not None and not live.base_source.different
    against = evidence(
        f"All {live.base_source.n} tensors of the base that were compared are those of its files."
        if fresh and live.base_source
        else None,
        "No adapter is merged in either object." if not live.tuned.emptied and (live.tuned.layers or not shared) else None,
    )
    return absent(against) if against else unknown("what the base's weights were before.", evidence(facts.arms_equal()))


def _by_scores(facts: Facts, missing: str) -> Answer:
    """Where no object was looked at: arms that differ exclude that they were one model."""
    differ = facts.arms_differ()
    return absent([differ]) if differ else unknown(missing, evidence(facts.arms_equal()))


@cause(
    "A03",
    title="get_base_model() was taken for a base without the adapter",
    symptom="As A01: base and tuned are equal to the last digit.",
    proof="The object called base is not the one inside the tuned wrapper, or holds no adapter layer.",
    remedy="score the base under `with model.disable_adapter():` or, better, from a second load; get_base_model() returns the "
    "model with the adapter's layers in it",
    settle="Count the layers: sum(isinstance(m, BaseTunerLayer) for m in base.modules()) above 0 proves that it is not pristine.",
    sources=["peft#430"],
    refuses=True,
)
def inner_model_taken_for_base(facts: Facts) -> Answer:
    live = facts.live
    if live is None:
        return _by_scores(facts, "which object was scored as the base.")
    if not live.base.layers:
        return absent(["The object called base held no adapter layer when it was scored."])
    if live.tuned_wraps_base and not live.same_object:
        return unknown(
            "how the name came to it: by get_base_model() (this) or by the name it had before it was wrapped (A01); it is one object.",
            ["The object called base is the model inside the tuned wrapper, with its adapter layers."],
        )
    return absent(["The object called base is not the model inside the tuned wrapper."])


@cause(
    "A04",
    title="The model with the adapter switched off is not the base",
    symptom="The 'base' shifts after training: biases, saved modules or a changed start (PiSSA, OLoRA, LoftQ) stay in force.",
    proof="With the adapter switched off every token has the likelihood that a base loaded afresh gives it.",
    remedy="score the base from a second load instead of disable_adapter(); `galvan evaluate BASE ADAPTER --data FILE` does",
    settle="Score the base once under disable_adapter() and once in a new process: another figure proves it.",
    sources=["peft PR #741", "peft#493", "peft#850", "peft#2184", "peft PR #1626", "transformers#34468"],
    refuses=True,
)
def switched_off_is_not_base(facts: Facts) -> Answer:
    live, function, files = facts.live, facts.function, facts.files
    settled = facts.not_an_adapter()
    if settled:
        return absent([settled])
    off = _off_differs(function)
    why = (
        f"The adapter was made with {', '.join(files.changes_base)}, which switching off does not undo."
        if files and files.changes_base
        else None
    )
    if live is None:
        return (
            _by_scores(facts, "whether the base was scored by switching the adapter off.")
            if not why
            else unknown("how the base was scored.", [why])
        )
    if live.base.layers and live.base.enabled is False:
        moved = live.base_source is not None and live.base_source.different > 0
        if off or moved or (live.under_adapter is not None and live.under_adapter.different):
            return present(
                evidence(
                    "The base was scored with its adapter switched off.",
                    off,
                    why,
                    "Its weights are not those of its files." if moved else None,
                )
            )
        if live.base_source is None:
            return unknown(
                "what the base's files hold; give a base that was loaded afresh.",
                ["The base was scored with its adapter switched off."],
            )
        return absent(["With the adapter switched off its weights are those of its files."])
    if (
        off
        and not live.base.layers
        and files is not None
        and not files.changes_base
        and not files.other_tensors
        and not files.use_dora
        and files.kind == "lora"
    ):
        return present([off], ["Nothing in adapter_config.json says why."], "likely")
    fresh = "The base was scored from an object without adapter layers." if not live.base.layers else None
    against = evidence(fresh, _off_agrees(function))
    return absent(against, evidence(off, why)) if against else unknown("whether the base was scored by switching the adapter off.")


@cause(
    "A05",
    title="The adapter was not loaded: the wrapper left it out without a word",
    symptom="The tuned model is exactly the base, and no message says that an adapter is missing.",
    proof="The object that generates and is scored holds adapter layers, as many as the file has modules.",
    remedy="load it with PeftModel.from_pretrained(base, ADAPTER) and hand that object, not a path, to the pipeline",
    settle="Count the adapter layers in the object that is scored: 0 proves it.",
    sources=["transformers#36473", "transformers PR #36480"],
    refuses=True,
)
def adapter_left_out(facts: Facts) -> Answer:
    files, live = facts.files, facts.live
    if files is not None and files.kind == "full":
        return absent(["The tuned model is a whole model, not an adapter."])
    if live is None:
        return _by_scores(facts, "what the object that was scored holds.")
    if live.tuned.layers:
        return absent([f"The tuned object holds {live.tuned.layers} adapter layers."], evidence(facts.arms_equal()))
    if live.unexpected_on_loading:
        return absent(["Its weights were given to a model without its layers, which is B09."], [], "very likely")
    if files is not None or live.tensors_unlike_file:
        return present(
            evidence("An adapter's file was given, and the object that was scored holds no adapter layer.", facts.arms_equal())
        )
    return unknown(
        "whether an adapter was meant to be in the tuned object, which holds no adapter layer.", evidence(facts.arms_equal())
    )


@cause(
    "A06",
    title="The adapter is loaded but disabled, or another adapter is the active one",
    symptom="The tuned model answers as the base does, or in the style of another adapter.",
    proof="Every adapter layer is enabled, all have the same active adapter, and switching it off changes the likelihoods.",
    remedy="call model.enable_adapter_layers() and model.set_adapter(NAME), then run `galvan check BASE ADAPTER` or "
    "galvan.audit again",
    settle="Print model.get_model_status(): enabled must be True and active_adapters the one that you trained; anything "
    "else proves it.",
    sources=["peft#1389", "adapter-hub/adapters#815", "UKPLab/AdaSent#2"],
    refuses=True,
)
def adapter_not_active(facts: Facts) -> Answer:
    settled = facts.not_an_adapter()
    if settled:
        return absent([settled])
    state, function = facts.adapter, facts.function
    changes = _on_off_changes(function)
    if state is None:
        differ = facts.arms_differ()
        return (
            absent([differ])
            if differ
            else unknown("the state of the adapter layers in the model that was scored.", evidence(facts.arms_equal()))
        )
    reasons = _inactive(state)
    if reasons:
        return present([*reasons, *evidence(_on_off_equal(function), facts.arms_equal())], evidence(changes))
    healthy = f"All {state.layers} adapter layers are enabled; active: {_names(state.active)}."
    others = tuple(name for name in state.available if name not in state.active and name not in state.dead)
    held = facts.live.holds_file if facts.live else ()
    if held and not set(held) & set(state.active):
        meant = f"The adapter's file is what {_names(held)} holds, and active is {_names(state.active)}."
        return present([meant], evidence(changes))
    if others and not held:
        return unknown(
            f"whether {_names(state.active)} is the adapter that was meant; {_names(others)} is loaded too.",
            [],
            evidence(healthy, changes),
        )
    if function is not None and function.on_off_nats == 0 and not state.dead:
        return unknown("why switching the adapter off changes nothing.", evidence(_on_off_equal(function)), [healthy])
    file = f"{_names(held)} holds what the adapter's file holds." if held and others else None
    return absent(evidence(healthy, file, changes, facts.arms_differ()))


def _inactive(state: AdapterState) -> list[str]:
    reasons = []
    if state.enabled is False:
        reasons.append(f"All {state.layers} adapter layers are disabled.")
    if state.irregular:
        reasons.append(f"The adapter layers disagree on {_names(state.irregular)} (PEFT calls the model irregular).")
    if not state.active and "active" not in state.irregular:
        reasons.append(f"No adapter is active; loaded: {_names(state.available)}.")
    unknown_names = tuple(name for name in state.active if name not in state.available)
    if unknown_names:
        reasons.append(f"The active adapter {_names(unknown_names)} is not loaded; loaded: {_names(state.available)}.")
    alive = tuple(name for name in state.available if name not in state.dead and name not in state.active)
    if alive and state.active and all(name in state.dead for name in state.active):
        reasons.append(f"The active adapter {_names(state.active)} is empty, while {_names(alive)} is loaded and not active.")
    return reasons


def _on_off_changes(function: FunctionFacts | None) -> str | None:
    if function is None or function.on_off_nats is None or function.on_off_nats <= function.noise_floor_nats:
        return None
    return f"Switching the adapter off changes a token by {function.on_off_nats:.3g} nats (noise {function.noise_floor_nats:.1g})."


def _on_off_equal(function: FunctionFacts | None) -> str | None:
    if function is None or function.on_off_nats != 0:
        return None
    return f"Switching the adapter off changes not one of {function.n_tokens} tokens."


@cause(
    "A07",
    title="A cached evaluation was used again for another model",
    symptom="Both arms have identical figures, and the second took no time.",
    proof="Stored scores carry hashes of base, adapter, tokenizer and data, and tokens scored again have the same likelihoods.",
    remedy="delete the cache and score again; in galvan: remove scores.parquet and stages/score.json of the run and run the same command",
    settle="Score two documents again without the cache: another figure proves it.",
    sources=["lm-evaluation-harness#2284"],
    refuses=True,
)
def cached_evaluation(facts: Facts) -> Answer:
    function, equal = facts.function, facts.scores is not None and facts.scores.max_abs_token_difference_nats == 0
    changes = (
        function is not None
        and function.on_base_nats is not None
        and function.on_base_nats > max(1e-4, 10 * function.noise_floor_nats)
    )
    if equal and changes and function is not None and function.on_base_nats is not None:
        return present(
            evidence(
                facts.arms_equal(),
                f"Scored again, a token differs by {function.on_base_nats:.3g} nats between the same two models.",
            )
        )
    differ = facts.arms_differ()
    if differ:
        return absent([differ])
    if facts.scores is None and function is not None:
        return absent([f"All {function.n_tokens} check tokens were computed just now, from the models themselves."])
    return unknown("where the scores came from; they were not computed again.", evidence(facts.arms_equal()))


@cause(
    "A08",
    title="Keys and values cached under one adapter were used under another",
    symptom="A server's answer is partly that of another adapter, or of the base.",
    proof="Likelihoods are computed without a cache, and a cold process gives the same.",
    remedy="restart the server, switch prefix caching off (vllm: --no-enable-prefix-caching) and score with `galvan score BASE ADAPTER --data FILE`",
    settle="Ask the same prompt in a cold process: another answer at temperature 0 proves it.",
    sources=["vllm#42125", "llama.cpp#26207"],
)
def cache_of_another_adapter(facts: Facts) -> Answer:
    function, asked = facts.function, run(facts).repeats
    answered = asked.base if asked else None
    if asked is not None and asked.tuned is not None and answered is not None and not asked.tuned.not_of_tuned:
        own = f"Asked first, the tuned model gave {asked.tuned.tokens} tokens, and its own logits put each of them first."
        other = f"Asked after it with the same prompt, the base gave {answered.tokens}; its own logits, without a cache, do not put {answered.not_of_base} of them first."
        if answered.not_of_base:
            as_tuned = "All of them are what the tuned model says, as from a server that always applies it."
            whole = not answered.not_of_tuned
            return present([own, other], evidence(as_tuned if whole else None), "likely" if whole else "very likely")
        return absent([own, other])
    if asked is not None:
        why = "chance chooses its words" if asked.differ else "they could not be held against the models' logits"
        return unknown(f"whether a cache serves both models in what generates the answers; {why}. Give a greedy one.")
    if function is None and facts.scores is None:
        return unknown("how the likelihoods were computed; a server keeps a cache of its own.")
    return absent(
        evidence(
            "The likelihoods were computed in this process, without a cache of keys and values.",
            _off_agrees(function),
            f"One pass repeated differs by {function.repeat_nats:.1g} nats."
            if function and function.repeat_nats <= function.noise_floor_nats
            else None,
        )
    )


@cause(
    "A09",
    title="Both arms hold one checkpoint, or the file is not the one that training saved",
    symptom="Both arms give identical numbers; a path points to the base, to an old save or to the other arm.",
    proof="The SHA-256 of what was loaded differs between the arms, and the adapter's is the one that training wrote down.",
    remedy="give the folder that training wrote last as the tuned model, and check with `galvan check BASE ADAPTER`",
    settle="Run `sha256sum` on the weights of both arms and on the file that training saved: equal arms, or another file "
    "than was saved, prove it.",
    sources=["peft#1259"],
    refuses=True,
)
def same_checkpoint(facts: Facts) -> Answer:
    files, live = facts.files, facts.live
    recorded = facts.trained.adapter_sha256 if facts.trained else None
    if files is not None and files.same_as_base:
        return present(evidence(f"The weights of both arms have the SHA-256 {files.tuned_sha256[:16]}.", facts.arms_equal()))
    if files is not None and recorded is not None and recorded != files.tuned_sha256:
        return present([f"The adapter's SHA-256 is {files.tuned_sha256[:16]}, but training saved one with {shown(recorded, 16)}."])
    if live is not None and not live.tuned.layers and (live.unexpected_on_loading or live.tensors_unlike_file):
        return absent(["An adapter was meant to be in the tuned object, and is not: A05 or B09."], [], "very likely")
    if live is not None and not live.base.layers and not live.tuned.layers:
        if live.same_object:
            return present(
                evidence("Base and tuned are one and the same object, and no adapter layer is in it.", facts.arms_equal())
            )
        if live.n_tensors and live.shared_tensors == live.n_tensors:
            return present(
                evidence(f"All {live.n_tensors} weights of the tuned model lie in the memory of the base's.", facts.arms_equal())
            )
        if live.different_tensors == 0:
            return present(evidence(f"All {live.n_tensors} weights of base and tuned are equal bit for bit.", facts.arms_equal()))
    against = evidence(
        f"The tuned weights have the SHA-256 {files.tuned_sha256[:16]}, and the base is other files." if files else None,
        "It is the file that training recorded." if files and recorded else None,
        f"{live.different_tensors} of {live.n_tensors} weights differ between base and tuned."
        if live and live.different_tensors
        else None,
        "The tuned object holds an adapter and the base does not." if live and live.tuned.layers and not live.base.layers else None,
        facts.arms_differ(),
    )
    return (
        absent(against)
        if against
        else unknown("which files or weights the two arms were loaded from.", evidence(facts.arms_equal()))
    )


@cause(
    "A10",
    title="The adapter was put on another base than it was trained on",
    symptom="Poor text or gibberish: the adapter harms. Often an instruct model in place of its base, or another revision.",
    proof="The base's weights have the SHA-256 that training recorded; matrices have the shapes that the adapter was made for.",
    remedy="give the base that adapter_config.json names under base_model_name_or_path, at the same revision, and run `galvan check BASE ADAPTER`",
    settle="Score rows of the training text with the base alone: the first training loss equals their mean NLL, or it was another base.",
    sources=["unsloth#877", "peft mapping_func.py: rename warning", "lorax PR #58"],
    refuses=True,
)
def another_base(facts: Facts) -> Answer:
    settled = facts.not_an_adapter()
    if settled:
        return absent([settled])
    files, live, integrity = facts.files, facts.live, facts.integrity
    trained = facts.trained.base_sha256 if facts.trained else None
    here = integrity.base_sha256 if integrity else None
    if files is not None and files.ill_shaped:
        return present(
            [f"{len(files.ill_shaped)} factors have shapes that do not fit the base (first: {shown(files.ill_shaped[0], 120)})."]
        )
    if trained is not None and here is not None and trained != here and not _holds_update(live):
        return present([f"The base's SHA-256 is {here[:16]}, but training recorded {trained[:16]}."])
    apart = live.under_adapter if live else None
    if (
        apart is not None
        and apart.different
        and not apart.coarser
        and not (live and live.tuned.merged)
        and not (files and files.changes_base)
    ):
        unlike = f"{apart.different} of {apart.n} matrices below the adapter are not the base's (difference {apart.relative:.2g} of their size)."
        return present([unlike], [], "certain" if apart.cosine < 0.9 else "likely")
    named = files.recorded_base if files else None
    if trained is not None and trained == here:
        return absent([f"The base's SHA-256 is {trained[:16]}, which training recorded."])
    if elsewhere := learned_elsewhere(facts):
        other = files is not None and files.recorded_base_matches is False and named
        return present(
            evidence(elsewhere, f"The adapter was made for {shown(named, 100)}." if other and named else None), [], "likely"
        )
    if files is not None and files.recorded_base_matches is False and named:
        return unknown(
            "whether the two names stand for the same weights.",
            [f"The adapter was made for {shown(named, 100)}, which is another name than that of the base."],
            evidence(facts.arms_differ()),
        )
    against = evidence(
        f"adapter_config.json names {shown(named, 100)}, which is this base."
        if files and files.recorded_base_matches and named
        else None,
        f"The {apart.n} matrices below the adapter that were compared are the base's." if apart and not apart.different else None,
        "The tuned model is a wrapper around the base itself." if files is None and live and live.tuned_wraps_base else None,
    )
    if against:
        return absent(against, [], "very likely")
    other = (
        f"The adapter was made for {shown(named, 100)}; that this is the base given here is not known by its name."
        if named
        else None
    )
    return unknown("the base that the adapter was trained on; nothing recorded its hash.", evidence(other))


def _holds_update(live: LiveFacts | None) -> bool:
    return live is not None and merged_already(live.in_base)


def merged_already(share: Share | None) -> bool:
    """True if the base's weights hold the adapter's update once already: the share is near 1 in every module (C04)."""
    if share is None or share.n < 2:
        return False
    error = share.sd / share.n**0.5
    return share.mean > IN_BASE_SE * error and abs(share.mean - 1) < max(0.3, 3 * error) and share.sd < IN_BASE_SPREAD


@cause(
    "A11",
    title="The adapter was made for another head or class than a causal language model",
    symptom="Embeddings or likelihoods are the base's: what was trained is a classifier's head, or layers under other names.",
    proof="The adapter's task is CAUSAL_LM and its keys name the modules of a causal language model.",
    remedy="train with AutoModelForCausalLM and task_type='CAUSAL_LM'; where only `model.` is missing from the names, "
    "`galvan check BASE ADAPTER --repair OUT` writes them anew",
    settle="Load the base with the class that training used and compare its module names with the adapter's keys.",
    sources=["peft#793"],
    refuses=True,
)
def another_class(facts: Facts) -> Answer:
    files = facts.files
    if files is None:
        return unknown("the adapter's files.") if not facts.not_an_adapter() else absent([facts.not_an_adapter() or ""])
    if files.kind == "full":
        return absent(["The tuned model was loaded as a causal language model."])
    if NO_MODEL in files.renames and files.fits_after_renaming:
        return present(
            [
                f"All {files.renamable} keys fit once `model.` is put in: the adapter was made around the model without its head (AutoModel)."
            ]
        )
    if files.task_type not in (None, "CAUSAL_LM"):
        return present([f"adapter_config.json says task_type {shown(files.task_type, 40)}."], [], "very likely")
    if files.keys_proved_by and not files.unexpected_keys:
        return absent(
            [f"All {files.n_keys} keys name modules of the causal language model; task_type is {files.task_type or 'not set'}."]
        )
    return absent(["task_type is CAUSAL_LM."], [], "very likely") if files.task_type else unknown("the class that training used.")


@cause(
    "A12",
    title="The two arms were loaded with different precision, quantisation or attention",
    symptom="A gain or loss that stays when the adapter is taken out.",
    proof="Both arms come from one load, or from loads with the same dtype, quantisation and attention, and hold the same weights.",
    remedy="load both arms with the same dtype, quantization_config and attn_implementation, or let `galvan evaluate BASE ADAPTER --data FILE` load one base for both",
    settle="Score the base alone in both ways: their difference is what the load does.",
    sources=["peft#1384", "peft#902", "peft#2105", "vllm#10798"],
    refuses=True,
)
def arms_loaded_differently(facts: Facts) -> Answer:
    live = facts.live
    if live is None or live.base_load is None or live.tuned_load is None:
        return unknown("how each arm was loaded.")
    a, b, apart = live.base_load, live.tuned_load, live.under_adapter
    because = evidence(
        f"The base is in {a.dtype}, the tuned model in {b.dtype}." if a.dtype != b.dtype else None,
        f"The base is quantised by {a.quantization or 'nothing'}, the tuned model by {b.quantization or 'nothing'}."
        if a.quantization != b.quantization
        else None,
        f"The weights of one arm are rounded to a coarse grid, and those of the other are not (difference {apart.relative:.2g} of their size)."
        if apart and apart.different and apart.coarser
        else None,
    )
    if because:
        return present(because)
    if a.attention != b.attention:
        return present([f"Attention is {a.attention} in the base and {b.attention} in the tuned model."], [], "likely")
    return absent([f"Both arms are in {a.dtype}, quantisation {a.quantization or 'none'}, attention {a.attention or 'unknown'}."])


@cause(
    "A13",
    title="The request to the server never named the adapter",
    symptom="The server answers as the base does; in its log the model's name is the base's.",
    proof="The answers at temperature 0 differ between the base's name and the adapter's.",
    remedy='name the adapter in the request ("model": ADAPTER-NAME for vllm and SGLang; an Ollama model of its own)',
    settle="Send one prompt at temperature 0 under both names: equal answers to several prompts prove it.",
    sources=["gemma4-ai.com: LoRA adapter ignored", "inspect_ai documentation"],
)
def adapter_not_requested(facts: Facts) -> Answer:
    asked = run(facts).repeats
    answered = asked.tuned if asked else None
    if answered is not None and answered.not_of_tuned and not answered.not_of_base:
        return present(
            [
                f"Asked for the tuned model, what generates gave {answered.tokens} tokens that the base's logits put first; the tuned model's do not put {answered.not_of_tuned} of them first."
            ],
            ["A cache that the base had filled would do so too (A08)."],
            "very likely",
        )
    if answered is not None and not answered.not_of_tuned and answered.not_of_base:
        return absent(
            [
                f"Asked for the tuned model, what generates gave {answered.tokens} tokens that the tuned model's own logits put first."
            ]
        )
    if asked is not None:
        return unknown("which model answered; give a greedy `generate`, and a prompt to which the two models answer otherwise.")
    if facts.function is not None or facts.scores is not None:
        return absent(["No server was asked: both arms were computed in this process."], evidence(facts.arms_equal()))
    return unknown("whether a server was asked, and under which name.")


@cause(
    "A14",
    title="Generation leaves the adapter out, though the loss uses it",
    symptom="Texts are the base's, while the likelihoods of the tuned model differ from it.",
    proof="Each greedy token of generate() is the one that the same model's own logits put first.",
    remedy="generate with use_cache=False, update PEFT, or merge a copy before generating",
    settle="Generate greedily and compare each token with the argmax of a plain forward pass: another token proves it.",
    sources=["peft#2123"],
    refuses=True,
)
def generation_without_adapter(facts: Facts) -> Answer:
    function = facts.function
    if function is None or not function.generated or function.generated_otherwise is None:
        return unknown("what the tuned model generates greedily.")
    tokens = (
        f"{function.generated_otherwise} of {function.generated} greedy tokens are not those that the model's own logits put first."
    )
    if function.generated_otherwise:
        return present([tokens], [], "very likely")
    return absent([f"All {function.generated} greedy tokens are those that the model's own logits put first."])
