"""Family B: the adapter's file and its keys."""

from __future__ import annotations

from collections.abc import Sequence

from galvan.diagnosis.catalogue import Answer, Facts, absent, cause, evidence, present, unknown
from galvan.diagnosis.thresholds import FEW_BLOCKS
from galvan.measure.course import Course
from galvan.measure.facts import FileFacts
from galvan.measure.key_names import DOUBLED, NO_MODEL, SWALLOWED, WRAPPERS
from galvan.text import shown


def _example(names: Sequence[str]) -> str:
    return f" (first: {shown(names[0], 120)})" if names else ""


@cause(
    "B01",
    title="The names in the adapter's file do not fit the base",
    symptom="PEFT warns at most of missing keys, loads nothing, and the tuned model is exactly the base.",
    proof="The file's keys are the expected ones (targets x {A, B}), and after loading every tensor in memory equals the file's.",
    remedy="run `galvan check BASE ADAPTER --repair OUT`, which renames the keys where their change is known; else give the base "
    "that the adapter was trained on, or save it again with model.save_pretrained from the unwrapped PEFT model",
    settle="Load with load_adapter and look at both lists that it returns: unless both are empty, names do not fit.",
    sources=["vllm#34186", "vllm#48019", "vllm#34591", "LlamaFactory#10294", "diffusers PR #10187"],
    refuses=True,
)
def keys_do_not_fit(facts: Facts) -> Answer:
    settled = facts.not_an_adapter()
    if settled:
        return absent([settled])
    files, live = facts.files, facts.live
    refused = facts.integrity.refused_by_peft if facts.integrity else None
    unlike = live.tensors_unlike_file if live else None
    if files is None:
        return unknown(
            "the adapter's file; give its folder to `galvan check`.", evidence(facts.arms_equal()), evidence(facts.arms_differ())
        )
    better = _better_name(files)
    if better and not refused:
        return absent([better], [], "very likely")
    if live is not None and not live.tuned.layers:
        return absent(["The object that was loaded has no adapter layer at all, which is A05."], [], "very likely")
    because = evidence(
        f"{len(files.unexpected_keys)} of {files.n_keys} keys fit nothing in the base{_example(files.unexpected_keys)}."
        if files.unexpected_keys
        else None,
        f"{len(files.missing_keys)} of {files.n_expected_keys} expected keys are missing{_example(files.missing_keys)}."
        if files.missing_keys
        else None,
        f"{len(files.foreign_modules)} adapted modules do not exist in the base{_example(files.foreign_modules)}."
        if files.foreign_modules
        else None,
        shown(refused, 300) if refused else None,
        f"After loading, {len(unlike)} tensors in memory are not those of the file{_example(unlike)}." if unlike else None,
    )
    if because and files.fits_after_renaming:
        because.append(f"All of them fit after a change of names ({', '.join(files.renames)}), which --repair makes.")
    elif because and files.unexpected_keys and not files.renamable:
        because.append("No change of names that is known makes one of them fit, so that --repair cannot mend it.")
    if because:
        # Keys that are only missing may also be an empty or filtered save, which has codes of its own.
        only_missing = files.missing_keys and not files.unexpected_keys and not refused and not unlike
        return present(because, evidence(facts.arms_differ()), "very likely" if only_missing else "certain")
    against = evidence(
        f"All {files.n_keys} keys of the file are the {files.n_expected_keys} expected ones (by {files.keys_proved_by})."
        if files.keys_proved_by
        else None,
        "After loading, every tensor in memory equals the file's bit for bit." if unlike is not None else None,
    )
    if against:
        return absent(against)
    return unknown(
        f"which keys this base expects: {shown(files.reason or 'not looked at', 200)}.",
        evidence(facts.arms_equal()),
        evidence(facts.arms_differ()),
    )


def _better_name(files: FileFacts) -> str | None:
    """The sentence that a more special cause names this fault of the keys; None if none does."""
    if not files.n_keys:
        return "The file holds no tensor at all, which is B04 or B06."
    if files.other_tensors and not files.modules and files.missing_keys and not files.unexpected_keys:
        return "No tensor of a LoRA layer is in the file, which is B06."
    by = set(files.renames) if files.fits_after_renaming else set()
    if by & {*WRAPPERS, DOUBLED}:
        return "The names fit once the wrapper's part is taken out, which is B02."
    if SWALLOWED in by:
        return "The names fit once `lora_` is put back, which is B03."
    if NO_MODEL in by:
        return "The names fit once `model.` is put in, which is A11."
    if other_task(files):
        return f"The adapter was made for {shown(str(files.task_type), 40)}, which is A11."
    return None


def other_task(files: FileFacts) -> bool:
    """adapter_config.json names another task than a causal language model's."""
    return files.task_type not in (None, "CAUSAL_LM")


@cause(
    "B02",
    title="The names in the file carry a wrapper's prefix (torch.compile, FSDP, a trainer, PEFT twice)",
    symptom="Every key is ignored on loading and the tuned model is exactly the base; saving ended without a word.",
    proof="No key holds `_orig_mod.`, `_fsdp_wrapped_module.`, `inner.`, `module.` or base_model.model. twice.",
    remedy="run `galvan check BASE ADAPTER --repair OUT`, which takes the prefix out; next time save from the unwrapped model "
    "(model._orig_mod.save_pretrained)",
    settle="List the file's keys: one with the prefix proves it.",
    sources=["Soup#335", "peft#2957"],
    refuses=True,
)
def wrapper_in_names(facts: Facts) -> Answer:
    files = facts.files
    if files is None or files.kind != "lora":
        return _no_lora_file(facts)
    wrappers = [name for name in files.renames if name in (*WRAPPERS, DOUBLED)]
    if wrappers and files.unexpected_keys:
        because = f"{files.renamable} of {len(files.unexpected_keys)} keys that fit nothing fit once `{'`, `'.join(wrappers)}` is taken out{_example(files.unexpected_keys)}."
        return present([because], evidence(facts.arms_differ()), "certain" if files.fits_after_renaming else "very likely")
    if not files.unexpected_keys and (files.keys_proved_by or not files.n_keys):
        return absent([f"None of {files.n_keys} keys fits nothing in the base."])
    return (
        absent(["No known wrapper's prefix makes its keys fit."], [], "very likely")
        if files.keys_proved_by
        else unknown(_reason(files))
    )


def _reason(files: FileFacts) -> str:
    return f"which keys this base expects: {shown(files.reason or 'not looked at', 200)}."


def _no_lora_file(facts: Facts) -> Answer:
    """The answer of every cause about a LoRA's file where there is none to look at."""
    settled = facts.not_an_adapter()
    if settled:
        return absent([settled])
    what = "the adapter's file; give its folder to `galvan check`." if facts.files is None else _reason(facts.files)
    return unknown(what, evidence(facts.arms_equal()), evidence(facts.arms_differ()))


@cause(
    "B03",
    title="The adapter's name is part of `lora_`, so that saving or loading cut it out of the keys",
    symptom="PEFT warns of missing keys at most, and the tuned model is exactly the base.",
    proof="No adapter is named `lora`, `A` or another part of `lora_`, and every key holds .lora_A. or .lora_B. whole.",
    remedy="give the adapter another name (adapter_name='default'); `galvan check BASE ADAPTER --repair OUT` mends the keys of a saved one",
    settle="List the file's keys: q_proj_A.weight in place of q_proj.lora_A.weight proves it.",
    sources=["peft#2699"],
    refuses=True,
)
def name_inside_prefix(facts: Facts) -> Answer:
    files, state = facts.files, facts.adapter
    if files is not None and SWALLOWED in files.renames:
        return present([f"{files.renamable} keys fit once `lora_` is put back{_example(files.unexpected_keys)}."])
    names = [name for name in (state.available if state else ()) if name in "lora_"]
    if names and state is not None and any(name in state.dead for name in names):
        return present(
            [f"The adapter {_quoted(names)} is a part of `lora_`, and in memory its updates are zero."], [], "very likely"
        )
    if names:
        return unknown("whether its file was read whole.", [f"An adapter is named {_quoted(names)}, a part of `lora_`."])
    if files is not None and files.kind == "lora" and files.keys_proved_by:
        return absent(["Its keys hold `lora_` whole."])
    return absent([f"No adapter has such a name: {_quoted(state.available)}."]) if state else _no_lora_file(facts)


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(f"`{shown(name, 40)}`" for name in names) or "none"


@cause(
    "B04",
    title="The adapter's file is empty: it was saved from a model whose weights lay elsewhere (FSDP)",
    symptom="adapter_model.safetensors is as small as its header, and training looked fine.",
    proof="The file holds the expected number of tensors, and none of them is empty.",
    remedy="save under FSDP with a gathered state dict (accelerator.get_state_dict(model), or fsdp_state_dict_type FULL_STATE_DICT) on "
    "rank 0, or gather the shards that are there: `accelerate merge-weights SHARDS OUT`",
    settle="List the file's tensors: none proves that it is empty; shards (*.distcp) beside it say why.",
    sources=["Flow-Factory#156", "heretic PR #308"],
    refuses=True,
)
def empty_file(facts: Facts) -> Answer:
    files = facts.files
    if files is None or files.kind == "full":
        return _no_lora_file(facts)
    sharded = facts.recorded.sharded if facts.recorded else ()
    if files.n_keys:
        return absent([f"The file holds {files.n_keys} tensors."])
    empty = "adapter_model.safetensors holds no tensor."
    if sharded:
        return present([empty, f"Beside it lie what sharded training leaves: {_quoted(sharded)}."])
    if not files.has_metadata:
        return present(
            [empty, "Its header has no mark of save_pretrained, so that a bare state dict was written."], [], "very likely"
        )
    return unknown(
        "whether the weights lay on other ranks (this) or the state dict was filtered twice (B06); nothing of sharded training lies beside it.",
        [empty],
    )


@cause(
    "B05",
    title="The file's tensors have no elements: they were saved from ZeRO-3 partitions",
    symptom="An adapter of some kB whose shapes are [0]; training looked fine.",
    proof="No tensor in the file has a dimension of 0.",
    remedy="gather before saving: set stage3_gather_16bit_weights_on_model_save, or run zero_to_fp32.py of the checkpoint's folder",
    settle="Print the shapes in the file: [0] proves it.",
    sources=["trl#4416", "peft#2892", "peft#2500", "DeepSpeed#7900", "DeepSpeed#4295"],
    refuses=True,
)
def empty_tensors(facts: Facts) -> Answer:
    files = facts.files
    if files is None or files.kind != "lora":
        return _no_lora_file(facts)
    if files.empty_tensors:
        return present([f"{len(files.empty_tensors)} of {files.n_keys} tensors have no elements{_example(files.empty_tensors)}."])
    return absent([f"None of {files.n_keys} tensors is empty."])


@cause(
    "B06",
    title="The state dict was filtered twice, so that nothing of the adapter was saved",
    symptom="A file of some hundred bytes, or one that holds saved modules but no LoRA factor.",
    proof="The file holds the factors of every adapted module.",
    remedy="call model.save_pretrained(OUT) without state_dict=get_peft_model_state_dict(model), or remove the override of "
    "model.state_dict, and save again",
    settle="Save once more from the live model without passing a state dict: a file of full size proves it.",
    sources=["alpaca-lora#446", "alpaca-lora#334", "transformers#24551"],
    refuses=True,
)
def filtered_twice(facts: Facts) -> Answer:
    files = facts.files
    if files is None or files.kind != "lora":
        return _no_lora_file(facts)
    sharded = facts.recorded.sharded if facts.recorded else ()
    if files.modules:
        return absent([f"The file holds the factors of {len(files.modules)} modules."])
    if files.unexpected_keys and not files.other_tensors:
        return absent(["Its tensors have names that fit nothing, which is another fault."], [], "very likely")
    if files.n_keys and files.missing_keys:
        return present(
            [f"Of {files.n_keys} tensors in the file none belongs to a LoRA layer, and {len(files.missing_keys)} are missing."],
            [],
            "very likely",
        )
    if not files.n_keys and files.has_metadata and not sharded:
        return present(
            ["save_pretrained wrote the file, and it holds no tensor.", "Nothing of sharded training lies beside it."],
            [],
            "very likely",
        )
    return (
        absent(["The file is empty for another reason, which is B04."], [], "likely")
        if not files.n_keys
        else unknown(_reason(files))
    )


@cause(
    "B07",
    title="The adapter is fresh: every lora_B is zero, so it adds nothing",
    symptom="The tuned model is exactly the base; typically get_peft_model was called where PeftModel.from_pretrained was meant.",
    proof="Some lora_B is not zero, in the file and in memory, and memory equals the file.",
    remedy="load the trained adapter with PeftModel.from_pretrained(base, FOLDER) and never with get_peft_model; if its "
    "file holds zeros too, train again with `galvan run`",
    settle="Run `galvan check BASE ADAPTER`: zeros in the file mean that training never moved the adapter, zeros only in "
    "memory that it was not loaded.",
    sources=["PEFT troubleshooting guide, 'Incorrectly loaded model'"],
    refuses=True,
)
def fresh_adapter(facts: Facts) -> Answer:
    settled = facts.not_an_adapter()
    if settled:
        return absent([settled])
    files, state, function = facts.files, facts.adapter, facts.function
    modules = files.modules if files else ()
    dead = files.dead_modules if files else []
    trained_so = _zero_by_training(facts.course)
    if trained_so and len(dead) == len(modules):
        return absent([trained_so], [], "very likely")
    in_memory = bool(state and state.active and all(name in state.dead for name in state.active))
    dead_file = bool(modules) and len(dead) == len(modules)
    changes = None
    if function is not None and function.on_off_nats is not None and function.on_off_nats > function.noise_floor_nats:
        changes = f"Switching the adapter off changes a token by {function.on_off_nats:.3g} nats."
    because = evidence(
        f"In the file lora_B is zero in all {len(modules)} modules." if dead_file else None,
        f"In memory every update of the active adapter is zero, in {state.layers} layers." if in_memory and state else None,
        facts.arms_equal(),
    )
    if (dead_file or in_memory) and files is not None and files.other_tensors:
        return unknown(
            f"whether the {len(files.other_tensors)} other tensors that it saves are trained.",
            because,
            evidence(changes, facts.arms_differ()),
        )
    if in_memory and state is not None and any(name not in state.dead for name in state.available):
        return absent(
            ["Another adapter with updates that are not zero is loaded: the wrong one is active (A06)."], because, "very likely"
        )
    if dead_file or in_memory:
        return present(because, evidence(changes, facts.arms_differ()))
    against = evidence(
        f"In the file lora_B is not zero in {len(modules) - len(dead)} of {len(modules)} modules." if modules else None,
        "In memory the active adapter's updates are not zero." if state and state.active and state.scaling else None,
        changes,
        facts.arms_differ(),
    )
    return absent(against) if against else unknown("the adapter's values.", evidence(facts.arms_equal()))


def _zero_by_training(seen: Course | None) -> str | None:
    """Why an adapter that came out of this training is zero as a fresh one is; None where the log does not say."""
    if seen is None:
        return None
    if (seen.factors and seen.silent) or seen.largest_norm == 0:
        return "It came out of this training, whose log shows that factors got no gradient: D01's question."
    if seen.moved_nothing:
        return "It came out of this training, whose log shows that no parameter moved: zeros are what D03 leaves."
    return None


@cause(
    "B08",
    title="Training was resumed on a fresh adapter, and what had been learned was thrown away",
    symptom="The loss goes back to where it began when training is resumed.",
    proof="At the resume the loss goes on where it was, and the adapter's hash is that of the checkpoint.",
    remedy="resume with PeftModel.from_pretrained(base, CHECKPOINT, is_trainable=True) and never with get_peft_model, then train again; "
    "`galvan run RECIPE` goes on from its own checkpoint",
    settle="Compare the first loss after the resume with the last before it: a jump to the first loss of all proves it.",
    sources=["lerobot#3459", "transformers#24252", "transformers#24818"],
)
def resumed_from_nothing(facts: Facts) -> Answer:
    seen = facts.course
    if seen is None or seen.first_loss is None:
        return unknown("the course of the training loss; no log was given.")
    jump = seen.restart
    if jump is not None:
        return present(
            [
                f"At step {jump.step} the loss jumped from {jump.before:.3f} to {jump.after:.3f}, where it had begun ({jump.first:.3f})."
            ],
            [],
            "very likely",
        )
    return absent([f"Nowhere in {seen.steps} steps did the loss go back to where it began ({seen.first_loss:.3f})."])


@cause(
    "B09",
    title="The weights were loaded into a model without LoRA layers, and strict=False hid it",
    symptom="The tuned model is exactly the base; load_state_dict returned long lists that nobody read.",
    proof="The tuned object has adapter layers, and every tensor of the file is in memory.",
    remedy="put the layers in first (PeftModel.from_pretrained), and never call load_state_dict(..., strict=False) without reading its result",
    settle="Print what load_state_dict returns: unexpected lora keys prove it.",
    sources=["mlx-examples#337", "mlx_lm/tuner/utils.py"],
    refuses=True,
)
def loaded_without_layers(facts: Facts) -> Answer:
    live, files = facts.live, facts.files
    if files is not None and files.kind == "full":
        return absent(["The tuned model is a whole model, not an adapter."])
    if live is None:
        differ = facts.arms_differ()
        return absent([differ]) if differ else unknown("what the object that was scored holds.", evidence(facts.arms_equal()))
    nowhere = [name for name in live.unexpected_on_loading or () if "lora_" in name]
    if live.tuned.layers:
        return absent([f"The tuned object holds {live.tuned.layers} adapter layers."])
    if nowhere:
        return present(
            evidence(
                f"load_state_dict had no place for {len(nowhere)} tensors of the adapter{_example(nowhere)}.",
                "The tuned object holds no adapter layer.",
                facts.arms_equal(),
            )
        )
    if live.unexpected_on_loading is not None:
        return absent(["load_state_dict had a place for every tensor of an adapter."])
    held = (
        f"The adapter's file holds {len(live.tensors_unlike_file)} tensors, the tuned object none of them."
        if live.tensors_unlike_file
        else None
    )
    return unknown(
        "how the tuned object was made; it holds no adapter layer (A05). Give `galvan.audit` what load_state_dict returned (loaded=RESULT).",
        evidence(held, facts.arms_equal()),
    )


@cause(
    "B10",
    title="The vocabulary grew in training, and its new rows are not in the adapter or not in the base",
    symptom="Garbage at new tokens, or an error about sizes on loading.",
    proof="The adapter's tokenizer has no tokens that the base lacks, or their rows are saved and fit.",
    remedy="train again with modules_to_save=['embed_tokens', 'lm_head'] (or trainable_token_indices) so that the rows are saved; where they are, "
    "call base.resize_token_embeddings(ROWS) before loading",
    settle="Compare len(tokenizer) of the adapter's folder with the base's embedding rows and with the rows in the adapter's file.",
    sources=["peft#1300", "peft#2898", "peft#1457", "lm-evaluation-harness huggingface.py"],
    refuses=True,
)
def vocabulary_grew(facts: Facts) -> Answer:
    files = facts.files
    if files is None or files.kind == "full":
        return _no_lora_file(facts)
    known = files.vocabulary
    if known is None:
        return unknown("the base's embedding; none was found by its name.")
    if known.unlike_rows:
        return present([f"The adapter saves an embedding or head of {known.unlike_rows[0]} rows, the base has {known.base_rows}."])
    if known.new_tokens and not known.saved_rows and "trainable_token_indices" not in files.changes_base:
        new = ", ".join(f"`{shown(token, 30)}`" for token in known.new_tokens[:3])
        beyond = known.adapter_ids is not None and known.adapter_ids > known.base_rows
        return present(
            evidence(
                f"The adapter's tokenizer has {len(known.new_tokens)} tokens that the base's lacks ({new}), and no row for them is saved.",
                f"The base has {known.base_rows} rows for {known.adapter_ids} ids." if beyond else None,
            ),
            [],
            "certain" if beyond else "very likely",
        )
    return absent(
        evidence(
            f"The {len(known.saved_rows)} saved tables have the base's {known.base_rows} rows." if known.saved_rows else None,
            "No token of the adapter's tokenizer is new to the base's." if not known.new_tokens else None,
            "The new tokens' rows are saved." if known.new_tokens else None,
        )
    )


@cause(
    "B11",
    title="A tied head and embedding were saved as two, and loading overwrites one of them",
    symptom="The merged model repeats one token, while the unmerged one writes well.",
    proof="The saved model's config ties nothing, or head and embedding in its file are equal.",
    remedy="set tie_word_embeddings to false in the config before saving the merged model, or train with ensure_weight_tying=True",
    settle="Load the merged model and compare its logits with those of base and adapter unmerged.",
    sources=["transformers#45127"],
    refuses=True,
)
def tied_head_overwritten(facts: Facts) -> Answer:
    files = facts.files
    if files is None:
        return unknown("the files of the tuned model.") if not facts.not_an_adapter() else unknown("the files it was saved to.")
    if files.kind != "full":
        return absent(["The adapter is not merged: nothing was saved over the base's tables."])
    if files.head_overwritten:
        return present(["Its config ties head and embedding, and its file holds two that differ: one is lost on loading."])
    return absent(
        [
            "Head and embedding are not tied."
            if files.head_overwritten is None
            else "Its file holds one matrix for both, or two equal ones."
        ]
    )


@cause(
    "B12",
    title="The adapter's targets match few modules, or modules that do nothing",
    symptom="The loss stays flat though the adapter is whole; print_trainable_parameters shows next to nothing.",
    proof="The targets match modules in every block, and no target's own weight is zero throughout.",
    remedy="train again with training.lora.targets=all-linear (PEFT: target_modules='all-linear')",
    settle="Print the adapted modules by block: blocks without one, or weights that are all zero, prove it.",
    sources=["peft#3554", "unsloth-zoo#1150", "mlx-examples#940", "needle#53"],
)
def few_targets(facts: Facts) -> Answer:
    settled = facts.not_an_adapter()
    if settled:
        return absent([settled])
    files, live = facts.files, facts.live
    if live is not None and live.dead_targets:
        return present(
            [f"The own weight of {len(live.dead_targets)} adapted modules is zero throughout{_example(live.dead_targets)}."]
        )
    reach = files.coverage if files else None
    if reach is None or not reach.linear or files is None or not files.modules:
        return unknown("which modules of the base the targets match.")
    said = f"{reach.adapted} of {reach.linear} linear modules are adapted, in {reach.adapted_blocks} of {reach.blocks} blocks."
    few = bool(reach.blocks) and reach.adapted_blocks < FEW_BLOCKS * reach.blocks
    missed = f"No module has the name {_quoted(reach.unmatched)}." if reach.unmatched else None
    if few and not reach.deliberate and not files.unexpected_keys and not files.missing_keys:
        return present(evidence(said, missed), [], "very likely")
    return absent(
        [said],
        evidence(missed, "The config picks these layers itself." if few else None),
        "certain" if not missed else "very likely",
    )


@cause(
    "B13",
    title="A PEFT model was put into another PEFT model",
    symptom="Results are off by an adapter: a second one is in force, or the first one's update is missing.",
    proof="No PEFT model lies inside the tuned model, and no adapter layer around another.",
    remedy="wrap the plain base once; load further adapters with model.load_adapter(FOLDER, adapter_name=NAME)",
    settle="Count them: sum(isinstance(m, PeftModel) for m in model.modules()) above 1 proves it.",
    sources=["trl#926", "peft mapping_func.py: nested warning"],
    refuses=True,
)
def nested_adapters(facts: Facts) -> Answer:
    live = facts.live
    if live is not None and (live.tuned.nested or live.base.nested):
        return present([f"{max(live.tuned.nested, live.base.nested)} PEFT models or adapter layers lie inside another one."])
    if facts.files is not None and DOUBLED in facts.files.renames:
        return unknown(
            "the model that it was saved from.", ["Its keys hold base_model.model. twice, as a nested model saves them (B02)."]
        )
    if live is not None:
        return absent(["No PEFT model lies inside the tuned model."])
    differ = facts.arms_differ()
    return unknown("what the object that was scored holds.", [], evidence(differ))


@cause(
    "B14",
    title="The best checkpoint is not the one that was loaded",
    symptom="The metric that training reported cannot be had again.",
    proof="The adapter's file has the hash of the checkpoint that training called best.",
    remedy="give the folder of the best checkpoint as the adapter, or train with load_best_model_at_end=True",
    settle="Score both files: the reported metric belongs to one of them.",
    sources=["transformers PR #24103", "peft#394", "peft#2256"],
)
def not_the_best(facts: Facts) -> Answer:
    files, record, trained = facts.files, facts.recorded, facts.trained
    if files is not None and trained is not None and trained.adapter_sha256 == files.tuned_sha256:
        return absent(["It is the file that training saved and recorded, and no other was reported as better."])
    if record is None or record.best_step is None:
        return unknown("which checkpoint training called best; no trainer_state.json says so.")
    best, last = record.best_step, record.steps
    if record.same_as_best is False:
        return present([f"The adapter's file is not that of checkpoint-{best}, which the trainer called best."])
    if record.same_as_best:
        return absent([f"The adapter's file is that of checkpoint-{best}, which the trainer called best."])
    if record.checkpoint is not None and record.checkpoint != best:
        return present(
            [f"This is checkpoint-{record.checkpoint}, and the trainer called checkpoint-{best} best."], [], "very likely"
        )
    if best in (record.checkpoint, last):
        return absent([f"The trainer called step {best} best, and this is it."], [], "very likely")
    return unknown(f"whether checkpoint-{best} was loaded before saving.", [f"The trainer called step {best} of {last} best."])
