"""Family H: generation."""

from __future__ import annotations

import dataclasses
from typing import Any

from galvan.diagnosis.asking import run
from galvan.diagnosis.catalogue import Answer, Facts, absent, cause, evidence, present, unknown
from galvan.text import shown

NO_SAMPLES = "how texts were generated; there are no samples of this run."


def _share(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


@cause(
    "H01",
    title="Padding shifts the positions of short prompts in a batch",
    symptom="Short prompts give garbage when they are generated in a batch, and good text alone.",
    proof="Without chance, a batch of prompts of unlike length gives the same words as each prompt alone.",
    remedy="pad on the left, pass attention_mask and positions that begin at the first real token, or generate one prompt at a time; "
    "every run that writes texts checks it",
    settle="Generate greedily a short prompt alone and beside a long one: other words prove it.",
    sources=[
        "unsloth#3699",
        "unsloth PR #3795",
        "unsloth PR #4078",
        "transformers#22707",
        "transformers#18478",
        "transformers PR #48161",
    ],
)
def positions_shifted(facts: Facts) -> Answer:
    batches = run(facts).generation.get("batches")
    tried = [(str(arm), one) for arm, one in batches.items() if isinstance(one, dict)] if isinstance(batches, dict) else []
    said = [
        f"Without chance {one.get('identical')} of {one.get('prompts')} prompts of unlike length give {shown(arm, 40)} the same words in one batch "
        f"as alone; one token's likelihood differs by up to {_share(one.get('largest_difference_nats')) or 0:.2g} nats"
        + (
            f", and by {floor:.2g} where only the length of a row differs."
            if (floor := _share(one.get("noise_floor_nats"))) is not None
            else "."
        )
        for arm, one in tried
    ]
    if any(one.get("alone") is True for _, one in tried):
        return present(said, ["The texts of this run were therefore written one at a time."])
    if tried:
        return absent(said)
    function = facts.function
    right = (
        f"Padded on the right, likelihoods are the same to {function.batch_nats:.1g} nats; that says nothing about padding on the left."
        if function
        else None
    )
    return unknown("whether a batch of prompts gives the same words as each alone; that was not tried.", [], evidence(right))


@cause(
    "H02",
    title="Chance in sampling was read as an effect, or as the lack of one",
    symptom="Texts of base and tuned differ, and that is taken for the effect; yet the base differs from itself as much.",
    proof="Both arms draw with the same seeds and settings, or without chance (do_sample=False), and one prompt gives the same text twice.",
    remedy="generate with do_sample=False first, then with the same seed for each prompt in both arms (`galvan run` does); with "
    "transformers call set_seed before every generate",
    settle="Generate twice with one model and one prompt: other words the second time prove it.",
    sources=["PEFT docs, random deviations", "exllamav2#169", "peft#1389", "the notebook that galvan began with"],
)
def sampling_noise(facts: Facts) -> Answer:
    samples, repeats = run(facts).samples, run(facts).repeats
    if repeats is not None and repeats.differ:
        return present(
            evidence(
                f"One model gave other words to one prompt the second time ({repeats.calls} calls): sampling is not seeded.",
                "So the difference between the texts of base and tuned shows nothing." if repeats.base_vs_tuned_differ else None,
            )
        )
    if repeats is not None:
        return absent([f"One model gave the same words to one prompt each time ({repeats.calls} calls)."])
    if samples is None or not samples.paired:
        return unknown(NO_SAMPLES)
    greedy = f"Without chance {samples.greedy_differ} of {samples.greedy} pairs of texts differ." if samples.greedy else None
    if samples.unseeded:
        return present([f"{samples.unseeded} samples were drawn at random without a seed."], evidence(greedy))
    if samples.unlike_seeds:
        return present(
            [
                f"{samples.unlike_seeds} of {samples.paired} pairs of samples were drawn with another seed or other settings in the two arms."
            ],
            evidence(greedy),
        )
    return absent(
        evidence(f"All {samples.paired} pairs of samples were drawn with the same seed and settings in both arms.", greedy)
    )


@cause(
    "H03",
    title="The adapter is lost on the way to another program",
    symptom="After export or in a server the model behaves like the base.",
    proof="The exported model gives the tuned model's NLL on the same text, not the base's.",
    remedy="merge in float32, export the merged model, ask `galvan check BASE ADAPTER --exported FOLDER` whether the adapter is in it, and probe it with one text before use",
    settle="Score one text before and after export (`galvan check BASE ADAPTER --exported FOLDER`): if the exported model gives the base's NLL, it is proved.",
    sources=["ollama#4825", "LlamaFactory#8134", "exllamav2#169", "mlx-examples#832", "unsloth#2009", "unsloth#2142"],
)
def lost_on_export(facts: Facts) -> Answer:
    probe = facts.integrity.exported if facts.integrity else None
    export = run(facts).export if probe is None else dataclasses.asdict(probe)
    base, tuned, after = (_share(export.get(f"{name}_nats")) for name in ("base", "tuned", "exported"))
    if base is None or tuned is None or after is None:
        return unknown("the NLL of the exported model; nothing was exported here, or it was not probed.")
    text = f"On the probe the exported model has {after:.4f} nats a token, the tuned model {tuned:.4f}, the base {base:.4f}."
    if abs(tuned - base) <= 0:
        return unknown("whether the export holds the adapter; base and tuned agree on the probe.", [text])
    moved = (after - base) / (tuned - base)
    if abs(moved) < 0.5 and abs(after - base) < abs(after - tuned):
        return present([text], [], "certain" if abs(moved) < 0.1 else "likely")
    return absent([text])
