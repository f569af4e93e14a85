"""Both arms of a comparison and its controls, from one load of the base.

The base of record is scored first, from an object that no adapter has touched. Only then is the adapter put into that object
(PEFT changes it in place) and the tuned arm scored. The controls come last: the base a second time must score the same, an
adapter whose B is zero must change nothing, and one whose B is random noise must do harm. Where the adapter leaves something behind
in that object (biases, saved modules, a start out of the weights), the controls take a base loaded afresh.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from galvan import models
from galvan.measure.alignment import common_start, scored_from
from galvan.measure.bench import Bench
from galvan.measure.kept import Kept
from galvan.measure.scoring import Score, scores
from galvan.measure.shuffle import shuffled_documents
from galvan.models import Located
from galvan.progress import Progress
from galvan.recipe import Recipe
from galvan.rundir import Document

RANDOM_B_SHARE = 0.5  # size of the random update: its Frobenius norm over that of the weight it is added to


def score_arms(
    bench: Bench,
    tuned: Located,
    recipe: Recipe,
    tokenizer: Any,
    documents: Mapping[str, Sequence[Document]],
    context_tokens: int,
    n_control: int,
    progress: Progress,
    tuned_tokenizer: Any = None,
    kept: Kept | None = None,
) -> Iterator[Score]:
    """Rows, as they come (on a shared bench those of the base at once), of arms base and tuned on every split of `documents`, and of the control arms on the first `n_control` test documents.

    Both arms also score `n_control` test documents with their words shuffled, as split "test_shuffled". `tuned_tokenizer` is given for
    a whole model with a tokenizer of its own; both arms are then counted from the same byte of each document on. `kept` holds blocks that were scored before.
    """

    asked = recipe.evaluation

    def all_of(model: Any, arm: str, split: str, some: Sequence[Document], own: Any = tokenizer) -> Iterator[Score]:
        return scores(model, own, some, arm, split, context_tokens, asked.tokens_per_pass, asked.score_eos, progress, kept)

    def from_start(rows: Iterable[Score], some: Sequence[Document], own: Any = tokenizer) -> Iterable[Score]:
        if tuned_tokenizer is None:
            return rows
        return scored_from(rows, own, some, [common_start([tokenizer, tuned_tokenizer], document) for document in some])

    def scored(model: Any, arm: str, split: str, some: Sequence[Document], own: Any = tokenizer) -> Iterable[Score]:
        return from_start(all_of(model, arm, split, some, own), some, own)

    def by_base(split: str, some: Sequence[Document]) -> Iterable[Score]:
        if not bench.shared:
            return scored(model, "base", split, some)
        what = ["scores", split, list(some), context_tokens, asked.tokens_per_pass, asked.score_eos]
        return from_start(bench.said(what, lambda: list(all_of(model, "base", split, some))), some)

    control = documents["test"][:n_control]
    documents = {**documents, "test_shuffled": shuffled_documents(documents["test"], n_control, recipe.seed)}
    model = bench.base()
    for split, some in documents.items():
        yield from by_base(split, some)
    yield from scored(model, "base_again", "test", control)
    if (tuned.path / "adapter_config.json").is_file():
        wrapped = models.load_adapter(bench.host(model), tuned)
        for split, some in documents.items():
            yield from scored(wrapped, "tuned", split, some)
        if hasattr(wrapped.base_model, "unload"):
            again = bench.unload(wrapped, tuned)
            del wrapped, model
            again = bench.host(bench.base()) if again is None else again
            control_model = _control_adapter(again, recipe, bench.located.name)
            yield from scored(control_model, "zero_adapter", "test", control)
            randomize(control_model, recipe.seed)
            yield from scored(control_model, "random_b", "test", control)
            bench.give_back(bench.unload(control_model, None))
    else:
        del model
        other = bench.load(tuned)
        for split, some in documents.items():
            yield from scored(other, "tuned", split, some, tuned_tokenizer or tokenizer)


def _control_adapter(model: Any, recipe: Recipe, base_name: str) -> Any:
    """An adapter whose update is zero: of the recipe's, only what leaves the base as it is."""
    plain = {"targets": "all-linear", "dropout": 0.0, "start": "default", "bias": "none", "save_modules": [], "dora": False}
    return models.add_lora(model, recipe.training.lora.model_copy(update=plain), base_name, None, recipe.seed).eval()


def randomize(model: Any, seed: int) -> None:
    """Fill every B with noise so that each update has RANDOM_B_SHARE of the norm of the weight it is added to."""
    import torch
    from peft.tuners.lora import LoraLayer

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in model.modules():
            if not isinstance(layer, LoraLayer) or "default" not in layer.lora_B:
                continue
            a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
            b.copy_(torch.randn(b.shape, generator=generator))
            update = layer.scaling["default"] * (b.double() @ a.double()).norm()
            b.mul_(float(RANDOM_B_SHARE * _weight_norm(layer) / update))


def _weight_norm(layer: Any) -> float:
    from peft.utils.integrations import dequantize_module_weight

    return float(dequantize_module_weight(layer.get_base_layer()).float().norm())
