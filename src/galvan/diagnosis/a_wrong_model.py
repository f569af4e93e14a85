"""Family A: the wrong thing was evaluated."""

from __future__ import annotations

from galvan.diagnosis.catalogue import Answer, Facts, absent, cause, evidence, present, unknown
from galvan.measure.facts import AdapterState, FunctionFacts
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
    if function is None or function.off_base_nats is None or function.off_base_nats <= function.noise_floor_nats:
        return None
    return (
        f"With the adapter switched off a token's likelihood is {function.off_base_nats:.3g} nats away from what the 'base' gives."
    )


def _off_agrees(function: FunctionFacts | None) -> str | None:
    if function is None or function.off_base_nats is None or function.off_base_nats > function.noise_floor_nats:
        return None
    return f"With the adapter switched off the tuned model gives the base's likelihoods to {function.off_base_nats:.1g} nats."


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
    if others:
        return unknown(
            f"whether {_names(state.active)} is the adapter that was meant; {_names(others)} is loaded too.",
            [],
            evidence(healthy, changes),
        )
    if function is not None and function.on_off_nats == 0 and not state.dead:
        return unknown("why switching the adapter off changes nothing.", evidence(_on_off_equal(function)), [healthy])
    return absent(evidence(healthy, changes, facts.arms_differ()))


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
    "A09",
    title="Base and tuned are the same checkpoint",
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
    recorded = facts.training.adapter_sha256 if facts.training else None
    if files is not None and files.same_as_base:
        return present(evidence(f"The weights of both arms have the SHA-256 {files.tuned_sha256[:16]}.", facts.arms_equal()))
    if files is not None and recorded is not None and recorded != files.tuned_sha256:
        return present([f"The adapter's SHA-256 is {files.tuned_sha256[:16]}, but training saved one with {shown(recorded, 16)}."])
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
