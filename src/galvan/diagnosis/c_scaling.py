"""Family C: scaling, merging, numerics."""

from __future__ import annotations

from galvan.diagnosis.catalogue import Answer, Facts, absent, cause, evidence, present, unknown
from galvan.text import shown


@cause(
    "C02",
    title="The adapter's scale is zero, missing, or not the one it was trained with",
    symptom="No effect at all (scale zero), or one that is too strong or too weak.",
    proof="alpha and r stand in adapter_config.json, alpha / r is greater than zero in every module, and alpha is the one "
    "recorded in training.",
    remedy='write the r and lora_alpha of training into adapter_config.json (for example "r": 8, "lora_alpha": 16) and run '
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
    trained = facts.training.alpha if facts.training else None
    zero = sorted(name for name, (low, _) in state.scaling.items() if not low > 0) if state else []
    wrong = lora_file is not None and lora_file.alpha is not None and trained is not None and trained != lora_file.alpha
    because = evidence(
        "adapter_config.json records no lora_alpha." if lora_file and lora_file.alpha is None else None,
        "adapter_config.json records no rank r." if lora_file and lora_file.rank is None else None,
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
