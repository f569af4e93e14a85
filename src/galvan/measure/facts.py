"""What the integrity checks found, as plain records: written to `integrity.json` by the measuring half, read by the judging half.

No torch here. A figure that could not be had is None; a part that was not looked at is None and Integrity says why.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from galvan.errors import DataError
from galvan.measure.course import Course

Flag = bool | Literal["irregular"]
FLOORS = 10  # noise floors from which a difference of one token is not rounding; the floor itself is a maximum over few tokens


@dataclasses.dataclass(frozen=True, slots=True)
class ModuleDelta:
    """One adapted module of an adapter's file. `update_norm` is the Frobenius norm of scaling * B A, float64; `weight_norm` that of the
    base's weight, known once the base was loaded.

    None where a factor is missing, empty or not finite.
    """

    module: str
    rank: int | None
    scaling: float | None
    max_abs_a: float | None
    max_abs_b: float | None
    update_norm: float | None
    weight_norm: float | None = None

    @property
    def relative_norm(self) -> float | None:
        """Size of the update over that of the weight that it is added to; None where the weight was not looked at."""
        return self.update_norm / self.weight_norm if self.update_norm is not None and self.weight_norm else None

    @property
    def is_dead(self) -> bool:
        """True if one factor is zero throughout, so that their product is."""
        return self.max_abs_a == 0 or self.max_abs_b == 0


@dataclasses.dataclass(frozen=True, slots=True)
class Vocabulary:
    """Rows of the base's embedding, ids of the tokenizer beside the adapter, and rows of embeddings and heads that the adapter saves.

    `new_tokens` are in that tokenizer and not in the base's, padding left out, which no text holds.
    """

    base_rows: int
    adapter_ids: int | None = None
    saved_rows: tuple[int, ...] = ()
    new_tokens: tuple[str, ...] = ()

    @property
    def unlike_rows(self) -> tuple[int, ...]:
        """Rows of saved tables that the base's tables do not have."""
        return tuple(rows for rows in self.saved_rows if rows != self.base_rows)


@dataclasses.dataclass(frozen=True, slots=True)
class Coverage:
    """How much of the base the adapter reaches: of its linear modules (the head left out), and of the blocks that hold them.

    `unmatched` are names in target_modules that no module of the base ends with; `deliberate`: the config itself picks some layers.
    """

    linear: int
    adapted: int
    blocks: int
    adapted_blocks: int
    unmatched: tuple[str, ...] = ()
    deliberate: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class FileFacts:
    """What the files alone tell. `kind` is what `tuned` is: a LoRA adapter, a whole model, or another kind of adapter.

    `keys_proved_by` says against what the adapter's keys were held: the base's safetensors headers, or PEFT on a model without
    weights; where neither could be done it is None, `reason` says why, and the three key lists are empty. `recorded_base`,
    `rank` and `alpha` are what adapter_config.json says, None where it does not. `has_metadata`: the header says that PEFT or
    transformers wrote it. `renames` are the changes by which `renamable` of the unexpected keys would fit. `ill_shaped` keys have the
    right name and the wrong shape. `changes_base` are settings by which the model with the adapter switched off is not the base.
    `head_overwritten` is for a whole model: its config ties the head to the embedding, and its file holds two that differ.
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
    dtypes: tuple[str, ...] = ()
    has_metadata: bool = False
    task_type: str | None = None
    renames: tuple[str, ...] = ()
    renamable: int = 0
    ill_shaped: tuple[str, ...] = ()
    changes_base: tuple[str, ...] = ()
    coverage: Coverage | None = None
    vocabulary: Vocabulary | None = None
    head_overwritten: bool | None = None

    @property
    def fits_after_renaming(self) -> bool:
        """Every key that fits nothing fits once the names in `renames` are taken out or put in."""
        return bool(self.unexpected_keys) and self.renamable == len(self.unexpected_keys)

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
    LoRA layers only. `trainable_parameters` counts those of the whole object. `nested` counts adapters inside adapters,
    `active_dropout` the modules that would drop something out, as found. `emptied`: a PEFT wrapper without a layer, as after a merge.
    `twins` are active adapters that hold one and the same update, so that it is added more than once.
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
    nested: int = 0
    active_dropout: int = 0
    emptied: bool = False
    uses_dora: bool = False
    twins: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Load:
    """How an object was loaded."""

    dtype: str
    quantization: str | None
    attention: str | None


@dataclasses.dataclass(frozen=True, slots=True)
class Drift:
    """Weights of one model beside those of another, on `n` matrices spread over it: how many differ, and by how much in all.

    `relative` is the norm of the difference over that of the first; `cosine` that of the two. `coarser`: the numbers of one of them, and
    of it alone, lie on a coarse grid (16 or 4 bits).
    """

    n: int
    different: int
    relative: float
    cosine: float
    coarser: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Share:
    """A share of an adapter's update, by module: mean, standard deviation between modules, number of modules."""

    mean: float
    sd: float
    n: int


@dataclasses.dataclass(frozen=True, slots=True)
class LiveFacts:
    """The object graph. `base` is the object called base, as it was when its likelihoods of record were taken.

    `shared_tensors` of the tuned model's `n_tensors` lie in the memory of the base's. `different_tensors` is None where the two
    are not both plain models of one shape. `tensors_unlike_file` is None where no file was given; `holds_file` are the loaded adapters that
    are that file, bit for bit.

    `under_adapter` compares the weights below the tuned model's adapter with the base's, where they are not the same memory;
    `base_source` the base's weights with the files that it names as its source. `dead_targets` are adapted weights that are all zero.
    `in_base` is the share of the update that the base's weights hold already, dot(W, d) / dot(d, d); `in_merge` that which a merge in
    memory has kept, and `after_merge` that which one would keep, by the grid of the weights. Of two whole models `changed_entries` is the
    share of entries that differ, in the matrices that differ at all. `unexpected_on_loading` are the names that load_state_dict gave back,
    where its result was handed over.
    """

    base: AdapterState
    tuned: AdapterState
    same_object: bool
    tuned_wraps_base: bool
    n_tensors: int
    shared_tensors: int
    different_tensors: int | None = None
    tensors_unlike_file: tuple[str, ...] | None = None
    base_load: Load | None = None
    tuned_load: Load | None = None
    under_adapter: Drift | None = None
    base_source: Drift | None = None
    dead_targets: tuple[str, ...] = ()
    in_base: Share | None = None
    in_merge: Share | None = None
    after_merge: Mapping[str, Share] = dataclasses.field(default_factory=dict)
    changed_entries: float | None = None
    unexpected_on_loading: tuple[str, ...] | None = None
    holds_file: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class SweepPoint:
    """Mean NLL over all check tokens with the adapter's scaling multiplied by `multiplier`."""

    multiplier: float
    nll_nats: float


@dataclasses.dataclass(frozen=True, slots=True)
class FunctionFacts:
    """Largest differences of one token's NLL, in nats, over all tokens of the check texts.

    `noise_floor_nats` is the largest of `repeat_nats` (one forward pass twice), `batch_nats` (batched with padding against alone) and
    `length_nats` (the first tokens of a text against the whole: another shape, on which quantised kernels may compute otherwise). `on_base` compares the tuned model as found with the object called base; `on_off` and `off_base` use the tuned
    model with every adapter layer switched off, None where that could not be done without changing it. Of `generated` greedy tokens
    `generated_otherwise` are not those that the same model's own logits put first. `finite`: every likelihood of the tuned model is.
    """

    n_texts: int
    n_tokens: int
    repeat_nats: float
    batch_nats: float
    on_base_nats: float | None
    on_off_nats: float | None = None
    off_base_nats: float | None = None
    sweep: tuple[SweepPoint, ...] = ()
    generated: int | None = None
    generated_otherwise: int | None = None
    finite: bool = True
    length_nats: float = 0.0

    @property
    def noise_floor_nats(self) -> float:
        return max(self.repeat_nats, self.batch_nats, self.length_nats)

    @property
    def off_is_another(self) -> bool:
        """Switched off, the model is another than the base: the floor is of a few texts, and ten of them are no rounding."""
        return self.off_base_nats is not None and self.off_base_nats > FLOORS * self.noise_floor_nats


@dataclasses.dataclass(frozen=True, slots=True)
class Recorded:
    """What the program that trained wrote beside the adapter; what it did not write is None.

    `by` is who wrote it: galvan (`training.json`) or transformers' Trainer (`trainer_state.json`). `checkpoint` is the step that the
    adapter's folder is named after, `best_step` the one that the trainer called best. `sharded` are what FSDP or DeepSpeed leave behind.
    """

    by: Literal["galvan", "transformers"] | None = None
    base_sha256: str | None = None
    adapter_sha256: str | None = None
    rank: float | None = None
    alpha: float | None = None
    use_rslora: bool | None = None
    trainable_parameters: int | None = None
    optimizer_parameters: int | None = None
    steps: int | None = None
    checkpoint: int | None = None
    best_step: int | None = None
    same_as_best: bool | None = None
    course: Course | None = None
    sharded: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Exported:
    """Mean NLL in nats a token, on the check texts, of the base, the tuned model, and a model that was exported from it."""

    base_nats: float
    tuned_nats: float
    exported_nats: float


@dataclasses.dataclass(frozen=True, slots=True)
class Integrity:
    """All that the checks found, in their order. `reason` says why a part is None."""

    files: FileFacts | None = None
    live: LiveFacts | None = None
    function: FunctionFacts | None = None
    refused_by_peft: str | None = None
    reason: str | None = None
    recorded: Recorded | None = None
    base_sha256: str | None = None
    exported: Exported | None = None


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
    if not files.n_keys:
        return "its file holds no tensor"
    if files.ill_shaped:
        return f"{len(files.ill_shaped)} of its tensors have shapes that do not fit the base"
    if files.vocabulary is not None and files.vocabulary.unlike_rows:
        return f"it saves a table of {files.vocabulary.unlike_rows[0]} rows, and the base has {files.vocabulary.base_rows}"
    if files.missing_keys or files.unexpected_keys:
        return f"{len(files.missing_keys)} of its tensors are missing and {len(files.unexpected_keys)} fit nothing in the base"
    if files.empty_tensors or files.not_finite:
        return f"{len(files.empty_tensors)} of its tensors are empty and {len(files.not_finite)} hold values that are not finite"
    if files.modules and len(files.dead_modules) == len(files.modules) and not files.other_tensors:
        return "every update in it is zero"
    if files.unscaled_modules:
        return f"{len(files.unscaled_modules)} of its {len(files.modules)} modules are scaled by zero or by nothing"
    return None
