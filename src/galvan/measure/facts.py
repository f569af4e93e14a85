"""What the integrity checks found, as plain records: written to `integrity.json` by the measuring half, read by the judging half.

No torch here. A figure that could not be had is None; a part that was not looked at is None and Integrity says why.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from galvan.errors import DataError

Flag = bool | Literal["irregular"]


@dataclasses.dataclass(frozen=True, slots=True)
class ModuleDelta:
    """One adapted module of an adapter's file. `update_norm` is the Frobenius norm of scaling * B A, float64.

    None where a factor is missing, empty or not finite.
    """

    module: str
    rank: int | None
    scaling: float | None
    max_abs_a: float | None
    max_abs_b: float | None
    update_norm: float | None

    @property
    def is_dead(self) -> bool:
        """True if one factor is zero throughout, so that their product is."""
        return self.max_abs_a == 0 or self.max_abs_b == 0


@dataclasses.dataclass(frozen=True, slots=True)
class FileFacts:
    """What the files alone tell. `kind` is what `tuned` is: a LoRA adapter, a whole model, or another kind of adapter.

    `keys_proved_by` says against what the adapter's keys were held: the base's safetensors headers, or PEFT on a model without
    weights; where neither could be done it is None, `reason` says why, and the three key lists are empty. `recorded_base`,
    `rank` and `alpha` are what adapter_config.json says, None where it does not.
    """

    kind: Literal["lora", "full", "other"]
    tuned_sha256: str
    same_as_base: bool
    same_tokenizer: bool | None = None
    reason: str | None = None
    peft_type: str | None = None
    rank: float | None = None
    alpha: float | None = None
    use_rslora: bool = False
    use_dora: bool = False
    target_modules: tuple[str, ...] = ()
    recorded_base: str | None = None
    recorded_base_matches: bool | None = None
    n_keys: int = 0
    n_expected_keys: int | None = None
    keys_proved_by: Literal["base headers", "PEFT"] | None = None
    missing_keys: tuple[str, ...] = ()
    unexpected_keys: tuple[str, ...] = ()
    foreign_modules: tuple[str, ...] = ()
    empty_tensors: tuple[str, ...] = ()
    not_finite: tuple[str, ...] = ()
    other_tensors: tuple[str, ...] = ()
    modules: tuple[ModuleDelta, ...] = ()

    @property
    def dead_modules(self) -> list[str]:
        return [m.module for m in self.modules if m.is_dead]

    @property
    def unscaled_modules(self) -> list[str]:
        """Modules whose effective scaling is zero, negative or not a number."""
        return [m.module for m in self.modules if m.scaling is None or not m.scaling > 0]


@dataclasses.dataclass(frozen=True, slots=True)
class AdapterState:
    """The adapter layers inside one live object; `layers` is 0 in an object that no adapter has touched.

    `dead` are the adapters whose every update is zero, `scaling` the smallest and largest scaling of each adapter, both for
    LoRA layers only. `trainable_parameters` counts those of the whole object.
    """

    layers: int
    trainable_parameters: int
    enabled: Flag | None = None
    active: tuple[str, ...] = ()
    available: tuple[str, ...] = ()
    merged: tuple[str, ...] = ()
    irregular: tuple[str, ...] = ()
    dead: tuple[str, ...] = ()
    scaling: Mapping[str, tuple[float, float]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True)
class LiveFacts:
    """The object graph. `base` is the object called base, as it was when its likelihoods of record were taken.

    `shared_tensors` of the tuned model's `n_tensors` lie in the memory of the base's. `different_tensors` is None where the two
    are not both plain models of one shape. `tensors_unlike_file` is None where no file was given.
    """

    base: AdapterState
    tuned: AdapterState
    same_object: bool
    tuned_wraps_base: bool
    n_tensors: int
    shared_tensors: int
    different_tensors: int | None = None
    tensors_unlike_file: tuple[str, ...] | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class SweepPoint:
    """Mean NLL over all check tokens with the adapter's scaling multiplied by `multiplier`."""

    multiplier: float
    nll_nats: float


@dataclasses.dataclass(frozen=True, slots=True)
class FunctionFacts:
    """Largest differences of one token's NLL, in nats, over all tokens of the check texts.

    `noise_floor_nats` is the larger of `repeat_nats` (one forward pass twice) and `batch_nats` (batched with padding against
    alone). `on_base` compares the tuned model as found with the object called base; `on_off` and `off_base` use the tuned
    model with every adapter layer switched off, None where that could not be done without changing it.
    """

    n_texts: int
    n_tokens: int
    repeat_nats: float
    batch_nats: float
    on_base_nats: float | None
    on_off_nats: float | None = None
    off_base_nats: float | None = None
    sweep: tuple[SweepPoint, ...] = ()

    @property
    def noise_floor_nats(self) -> float:
        return max(self.repeat_nats, self.batch_nats)


@dataclasses.dataclass(frozen=True, slots=True)
class Integrity:
    """All that the checks found, in their order. `reason` says why a part is None."""

    files: FileFacts | None = None
    live: LiveFacts | None = None
    function: FunctionFacts | None = None
    refused_by_peft: str | None = None
    reason: str | None = None


def integrity_from_json(value: Any) -> Integrity:
    """Read `integrity.json` back; keys of a later version are ignored. DataError if it is not an integrity record."""
    try:
        return TypeAdapter(Integrity).validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise DataError("run/damaged", f"integrity.json: `{place}`: {first['msg']}; run the check again.") from None


def broken(files: FileFacts) -> str | None:
    """Why nothing need be loaded to know that this adapter is unusable; None if the files do not show it."""
    if files.same_as_base:
        return "base and tuned are the same files"
    if files.kind != "lora":
        return None
    if files.missing_keys or files.unexpected_keys:
        return f"{len(files.missing_keys)} of its tensors are missing and {len(files.unexpected_keys)} fit nothing in the base"
    if files.empty_tensors or files.not_finite:
        return f"{len(files.empty_tensors)} of its tensors are empty and {len(files.not_finite)} hold values that are not finite"
    if files.modules and len(files.dead_modules) == len(files.modules) and not files.other_tensors:
        return "every update in it is zero"
    if files.unscaled_modules:
        return f"{len(files.unscaled_modules)} of its {len(files.modules)} modules are scaled by zero or by nothing"
    return None
