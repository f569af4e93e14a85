"""Faults in the code that encodes, packs, scores a loss or steps: galvan's own run, with the bug in it while it runs."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import contextmanager
from typing import Any

from benchmarks.faults.cases import SOME, fault
from benchmarks.faults.place import Place, Said, in_force, patched


@fault("D09", settings=SOME)
def no_gradient_of_joined_rows(place: Place) -> Said:
    """A fused kernel gives the right loss and, where a pass holds several documents, a gradient of zero."""
    from galvan.training import gradients

    original = gradients.sum_nll

    def fused(model: Any, ids: Any, labels: Any, chunked: bool, positions: Any = None) -> Any:
        loss = original(model, ids, labels, chunked, positions)
        several = ids.shape[0] > 1 or (positions is not None and int((positions == 0).sum()) > 1)
        return loss.detach() + 0 * loss if several else loss

    with patched(gradients, "sum_nll", fused):
        return place.run({"training.epochs": 1.0})


@fault("D10", "D12", settings=SOME)  # what it does to a run is that of a rate far too high
def gradients_never_cleared(place: Place) -> Said:
    """zero_grad() is never called: every step repeats all those before it."""
    from galvan.training import loop

    original = loop.build_optimizers

    def uncleared(*arguments: Any) -> Any:
        optimizers = original(*arguments)
        for optimizer in optimizers:
            optimizer.zero_grad = lambda set_to_none=True: None
        return optimizers

    with patched(loop, "build_optimizers", uncleared):
        return place.run({"training.epochs": 1.0})


def kept_in_bfloat16(place: Place, changes: dict[str, Any]) -> Said:
    """A run whose weights stay in bfloat16 while they are trained, where galvan keeps them in float32."""
    import torch

    from galvan.training import loop, precision

    original = loop.train

    def train(model: Any, *rest: Any) -> Any:
        found = original(model, *rest)
        in_force({p.dtype for p in model.parameters()} == {torch.bfloat16}, "weights were trained in another precision")
        return found

    with patched(precision, "_HALF", ()), patched(loop, "train", train):
        return place.run({"model.dtype": "bfloat16", "training.method": "full", **changes})


@fault("C07", settings=SOME)
def half_precision_weights(place: Place) -> Said:
    """Every weight is trained, at a usual rate for that, and all are kept in bfloat16."""
    return kept_in_bfloat16(place, {"training.learning_rate": 1e-5})


@fault("F03", settings=SOME)
def first_positions_counted(place: Place) -> Said:
    """The number that a step's loss is divided by counts every position, the first of a row among them, which is never a target."""
    from galvan.data.tokens import TokenRow
    from galvan.training import loop

    class Counted(TokenRow):
        @property
        def n_supervised(self) -> int:
            return len(self.labels[1:]) + 1

    original = loop.train

    def train(model: Any, rows: Sequence[Any], *rest: Any) -> Any:
        counted = [Counted(row.id, row.input_ids, row.labels, row.cut_tokens, row.cut_supervised, row.way) for row in rows]
        return original(model, counted, *rest)

    with patched(loop, "train", train):
        return place.run({"training.epochs": 2.0})


@fault("E07", settings=SOME)
def rows_from_a_cache(place: Place) -> Said:
    """Training takes its rows from a cache that was made when rows were a third as long."""
    from galvan.data import tokens
    from galvan.story import Story

    original = Story._train_now

    def cached(story: Any, *arguments: Any) -> Any:
        def stale(story: Any, documents: Any) -> Any:
            return tokens.training_rows(story._tokenizer, documents, 40, True)

        with patched(Story, "_encode", stale):
            return original(story, *arguments)

    with patched(Story, "_train_now", cached):
        return place.run()


@fault(
    "E07", "G03", "G05", "run/changed", settings=SOME
)  # the file changed under all later stages: what is trained and what is scored are then both another, unless the run is refused for it
def file_changed_after_preparing(place: Place) -> Said:
    """The training file was edited in the run's folder after its rows had been encoded."""
    from galvan.story import Story

    original = Story.preflight

    def edited(story: Any) -> Any:
        path = story.folder / "data" / "train.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        path.write_text("".join(lines[: len(lines) * 3 // 4]), encoding="utf-8")
        return original(story)

    with patched(Story, "preflight", edited):
        return place.run({"training.epochs": 2.0})


@fault("E08", settings=SOME)
def packed_documents_see_each_other(place: Place) -> Said:
    """Documents are packed, and the attention that is used does not know where one ends."""
    from transformers import masking_utils

    from galvan import unpadded

    def across(
        module: Any, query: Any, key: Any, value: Any, mask: Any, dropout: float = 0.0, scaling: Any = None, **rest: Any
    ) -> Any:
        from torch.nn import functional as F

        out = F.scaled_dot_product_attention(query, key, value, scale=scaling, is_causal=True, enable_gqa=True)
        return out.transpose(1, 2), None

    with (
        patched(masking_utils, "find_packed_sequence_indices", lambda positions: None),
        _registered(unpadded.NAME, across),
    ):
        return place.run({"training.packing": True})


@contextmanager
def _registered(name: str, attention: Any) -> Any:
    from transformers import AttentionInterface

    kept = AttentionInterface()[name]
    AttentionInterface.register(name, attention)
    try:
        yield
    finally:
        AttentionInterface.register(name, kept)


@fault("E09", settings=SOME)
def loss_across_seams(place: Place) -> Said:
    """The collator of packed rows leaves a label on the first token of every document."""
    from galvan.training import gradients, loop

    original = loop.collate_packs

    def careless(packs: Any, device: Any) -> Any:
        one = original(packs, device)
        real = one.labels.new_tensor(
            [[at < sum(len(r.input_ids) for r in pack) for at in range(one.labels.shape[1])] for pack in packs]
        )
        return one._replace(labels=one.input_ids.where(real.bool(), one.labels))

    with patched(loop, "collate_packs", careless), patched(gradients, "collate_packs", careless):
        return place.run({"training.packing": True})


def _sees_everything(model: Any) -> Any:
    """Attention in which every position, padding too, is open to every other: the mask is left out, and so is causality."""
    from torch.nn import functional as F
    from transformers import AttentionInterface

    def everywhere(
        module: Any, query: Any, key: Any, value: Any, mask: Any, dropout: float = 0.0, scaling: Any = None, **rest: Any
    ) -> Any:
        out = F.scaled_dot_product_attention(query, key, value, scale=scaling, enable_gqa=query.shape[1] != key.shape[1])
        return out.transpose(1, 2), None

    AttentionInterface.register("everywhere", everywhere)
    model.config._attn_implementation = "everywhere"
    return model


@fault("E13", "E11", settings=SOME)  # a loss of tokens that are seen beforehand is not that of the next token either
def no_mask_at_all(place: Place) -> Said:
    """An attention kernel got neither a mask nor is_causal, so that padding is attended to."""
    from galvan import models

    original = models.load_base
    with patched(models, "load_base", lambda *arguments: _sees_everything(original(*arguments))):
        return place.run()


@fault("E13", settings=SOME)
def no_mask_in_a_notebook(place: Place) -> Said:
    """The same in two live objects."""
    from peft import PeftModel

    tuned = PeftModel.from_pretrained(_sees_everything(place.model()), place.healthy / "adapter")
    return place.audit(_sees_everything(place.model()), tuned)


@fault("G05", "compare/tokens", settings=SOME)  # galvan stops there, and says that the counts differ
def tuned_arm_cut_short(place: Place) -> Said:
    """The tuned arm's texts were cut at a maximum length, the base's were not."""
    import dataclasses

    from galvan.measure import arms

    original = arms.scores

    def scores(model: Any, tokenizer: Any, documents: Any, arm: str, *rest: Any) -> Any:
        if arm == "tuned":
            documents = [dataclasses.replace(d, text=d.text[: len(d.text) * 2 // 3]) for d in documents]
        return original(model, tokenizer, documents, arm, *rest)

    with patched(arms, "scores", scores):
        return place.evaluate(place.adapter())
