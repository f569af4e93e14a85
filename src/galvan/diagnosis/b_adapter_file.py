"""Family B: the adapter's file and its keys."""

from __future__ import annotations

from collections.abc import Sequence

from galvan.diagnosis.catalogue import Answer, Facts, absent, cause, evidence, present, unknown
from galvan.text import shown


def _example(names: Sequence[str]) -> str:
    return f" (first: {shown(names[0], 120)})" if names else ""


@cause(
    "B01",
    title="The names in the adapter's file do not fit the base",
    symptom="PEFT warns at most of missing keys, loads nothing, and the tuned model is exactly the base.",
    proof="The file's keys are the expected ones (targets x {A, B}), and after loading every tensor in memory equals the file's.",
    remedy="save the adapter again with model.save_pretrained from the unwrapped PEFT model, or rename its keys to "
    "base_model.model.MODULE.lora_A.weight, and run `galvan check BASE ADAPTER`",
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
