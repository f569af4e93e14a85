"""Faults in the recipe, the data, the training code and the arithmetic: whole runs of `galvan.run`, and runs judged again."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.faults import ground
from benchmarks.faults.cases import EVERYWHERE, SOME, SPARK, fault
from benchmarks.faults.place import Place, Said, in_force, patched, untrained

# ---- too little, too much ----


@fault("D05", settings=SOME)
def rate_a_thousandth(place: Place) -> Said:
    """The learning rate is a thousandth of what this model needs: a hundredth still teaches it a little."""
    return place.run({"training.learning_rate": 1e-5})


@fault("D05", settings=(*SOME, *SPARK))
def rate_a_hundred_thousandth(place: Place) -> Said:
    """The learning rate is so low that nothing can move."""
    return place.run({"training.learning_rate": 1e-7})


@fault("D06", settings=SOME)
def five_steps(place: Place) -> Said:
    """Training ends after a few steps, at a usual rate."""
    return place.run({"training.epochs": 0.2, "training.learning_rate": 2e-4})


@fault("D06", "D05", settings=SOME)
def one_step(place: Place) -> Said:
    """Training ends after one step, at a usual rate."""
    return place.run({"training.epochs": 0.01, "training.learning_rate": 2e-4})


@fault("D07", settings=SOME)
def all_warm_up(place: Place) -> Said:
    """The learning rate rises until the last step, at a peak that would be right."""
    return place.run({"training.warmup_ratio": 1.0, "training.epochs": 1.0, "training.learning_rate": 2e-4})


@fault("D12", "training/non-finite", "I02", settings=SOME)  # what it broke is lost on neutral text too, and a lower rate mends both
def rate_a_hundredfold(place: Place) -> Said:
    """The learning rate is a hundred times what this model bears."""
    return place.run({"training.learning_rate": 1.0, "training.schedule": "constant"})


@fault("D12", "training/non-finite", "I02", settings=SOME)
def full_rate_too_high(place: Place) -> Said:
    """Full fine-tuning with a learning rate meant for an adapter."""
    return place.run({"training.method": "full", "training.learning_rate": 0.3, "training.schedule": "constant"})


@fault("D11", "G10", settings=SOME)  # no headroom looks, on few documents, like too few documents
def text_of_the_base(place: Place) -> Said:
    """The text is what the base learned from: there is nothing left to gain."""
    source = ground.write_text_file(place.out / "texts" / "manual.jsonl", ground.passages("manual"))
    changes = {"data.source": str(source), "data.maximum_documents": None, "data.split.test": 0.4, "data.split.leaks": "remove"}
    return place.run({**changes, "training.learning_rate": 3e-4})


@fault("I01", "I02", settings=SOME)  # it forgets as well, and to train less mends both
def memorised(place: Place) -> Said:
    """Sixty epochs on few documents."""
    return place.run({"data.maximum_documents": 60, "training.epochs": 60.0, "training.lora.rank": 32, "training.batch_size": 8})


@fault("I01", "I02", settings=SOME)
def memorised_in_full(place: Place) -> Said:
    """Every weight is trained for thirty epochs on few documents."""
    return place.run(
        {
            "data.maximum_documents": 60,
            "training.epochs": 30.0,
            "training.method": "full",
            "training.learning_rate": 3e-3,
            "training.batch_size": 8,
        }
    )


@fault("I02", "I01", settings=SOME)  # twelve epochs of every weight also overfit
def forgotten(place: Place) -> Said:
    """The author is learned at the cost of all else: full training at a high rate for many epochs."""
    return place.run({"training.epochs": 12.0, "training.method": "full", "training.learning_rate": 0.02})


@fault("G10", settings=SOME)
def few_test_documents(place: Place) -> Said:
    """A true small gain, judged on four documents."""
    return place.run(
        {"data.maximum_documents": 40, "data.split.test": 0.1, "training.learning_rate": 1.5e-4, "data.split.blocks": 2}
    )


# ---- labels and tokens ----


def _token_rows(place: Place, change: Callable[[list[int]], tuple[list[int], list[int]]], name: str) -> str:
    """The setting's text as ready-made token ids with labels, as other tools write it."""
    tokenizer = place.tokenizer()
    rows = []
    for text, _ in ground.passages(place.setting.text)[:160]:
        ids, labels = change([0, *tokenizer(text, add_special_tokens=False)["input_ids"][:126], 1])
        rows.append({"input_ids": ids, "labels": labels})
    path = place.folder / f"{name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@fault("D04", "training/no-targets", "data/no-targets", "tokens/no-targets", settings=SOME)
def all_labels_masked(place: Place) -> Said:
    """Every label is -100."""
    return place.run({"data.source": _token_rows(place, lambda ids: (ids, [-100] * len(ids)), "masked")})


@fault("D04", settings=SOME)
def most_rows_masked(place: Place) -> Said:
    """In nine of ten rows every label is -100."""
    seen: list[int] = []

    def mask(ids: list[int]) -> tuple[list[int], list[int]]:
        seen.append(0)
        return ids, (ids if len(seen) % 10 == 0 else [-100] * len(ids))

    return place.run({"data.source": _token_rows(place, mask, "mostly-masked")})


@fault("D04", "training/no-targets", settings=SOME)
def collator_masks_all(place: Place) -> Said:
    """The marker at which learning begins is in no row, so the collator masks them all."""
    return _with_labels(place, lambda number, row: row.labels.fill(-100))


@fault("D04", settings=SOME)
def collator_masks_most(place: Place) -> Said:
    """The collator masks nineteen rows of twenty."""
    return _with_labels(place, lambda number, row: row.labels.fill(-100) if number % 20 else None)


def _with_labels(place: Place, spoil: Callable[[int, Any], None]) -> Said:
    """A run whose training rows pass through `spoil` (number, row) after they were encoded."""
    from galvan.data import tokens

    original = tokens.training_rows

    def rows(*arguments: Any) -> list[Any]:
        found = original(*arguments)
        for number, row in enumerate(found):
            spoil(number, row)
        return found

    with patched(tokens, "training_rows", rows):
        return place.run()


@fault("E03", settings=SOME)
def two_beginnings(place: Place) -> Said:
    """Every row begins with BOS twice."""
    return place.run({"data.source": _token_rows(place, lambda ids: ([0, *ids], [0, *ids]), "two-bos")})


@fault("E04", settings=SOME)
def no_beginning(place: Place) -> Said:
    """No row begins with BOS, which this tokenizer puts in front of every text."""
    return place.run({"data.source": _token_rows(place, lambda ids: (ids[1:], ids[1:]), "no-bos")})


@fault("E01", settings=SOME)
def ends_masked(place: Place) -> Said:
    """Padding is EOS, and masking the padding masked every end."""
    return place.run({"data.source": _token_rows(place, lambda ids: (ids, [*ids[:-1], -100]), "ends-masked")})


@fault("E01", settings=SOME)
def ends_not_learned(place: Place) -> Said:
    """No end-of-text token is appended in training."""
    return place.run({"training.learn_eos": False})


@fault("E11", settings=SOME)
def labels_shifted(place: Place) -> Said:
    """The rows' labels were shifted by one before the model shifts them again."""
    return place.run({"data.source": _token_rows(place, lambda ids: (ids, [*ids[1:], -100]), "shifted")})


@fault("E11", settings=SOME)
def loss_shifted_twice(place: Place) -> Said:
    """The loss itself shifts labels that were shifted already."""
    from galvan.training import gradients

    original = gradients.sum_nll

    def shifted(model: Any, ids: Any, labels: Any, *rest: Any, **named: Any) -> Any:
        return original(
            model, ids, labels.roll(-1, 1).index_fill(1, labels.new_tensor([labels.shape[1] - 1]), -100), *rest, **named
        )

    with patched(gradients, "sum_nll", shifted):
        return place.run()


@fault("E06", settings=SOME)
def tails_cut(place: Place) -> Said:
    """Rows are truncated to a third of their length."""
    return place.run({"training.document_tokens": 40})


def _reworded(place: Place) -> dict[str, Any]:
    """Half of the rows are the other half lightly reworded, and the split is at random."""
    rows = ground.passages(place.setting.text)[:25]
    again = [(text.replace(" the ", " that ", 2), f"{name} again") for text, name in rows]
    source = ground.write_text_file(place.folder / "copies.jsonl", [*rows, *again])
    return {"data.source": str(source), "data.clean.near_duplicates": None, "data.split.by": "random"}


@fault("E10", "data/leak", settings=SOME)
def copies_in_the_split(place: Place) -> Said:
    """Rows stand on both sides of the split, lightly reworded."""
    return place.run(_reworded(place))


@fault("E10", settings=SOME)
def leak_allowed(place: Place) -> Said:
    """As before, and the recipe allows it."""
    return place.run({**_reworded(place), "data.split.leaks": "allow"})


# ---- bugs in the training code ----


@fault("D02", "training/nothing-trains", settings=SOME)
def adapter_frozen(place: Place) -> Said:
    """The adapter was made with is_trainable=False."""
    from galvan import models

    original = models.add_lora

    def frozen(*arguments: Any) -> Any:
        return original(*arguments).requires_grad_(False)

    with patched(models, "add_lora", frozen):
        return place.run()


@fault("D03", "B07", settings=SOME)
def stale_optimizer(place: Place) -> Said:
    """The optimizer was built from parameters that the model no longer holds."""
    from torch import nn

    from galvan.training import loop

    original = loop.build_optimizers

    def stale(model: Any, parameters: Any, settings: Any) -> Any:
        return original(model, {name: nn.Parameter(p.detach().clone()) for name, p in parameters.items()}, settings)

    with patched(loop, "build_optimizers", stale):
        return _untrained(place, 1.0, {})


def _untrained(place: Place, least: float, changes: dict[str, Any]) -> Said:
    """A run that left at least this share of the factors where they began."""
    said = place.run(changes)
    in_force(untrained(place.folder / "run" / "adapter") >= least, "training moved the factors all the same")
    return said


@fault("D03", settings=SOME)
def half_of_the_optimizer_stale(place: Place) -> Said:
    """Half of the parameters in the optimizer are no longer the model's."""
    from torch import nn

    from galvan.training import loop

    original = loop.build_optimizers

    def stale(model: Any, parameters: Any, settings: Any) -> Any:
        half = {n: nn.Parameter(p.detach().clone()) if i % 4 < 2 else p for i, (n, p) in enumerate(parameters.items())}
        return original(model, half, settings)

    with patched(loop, "build_optimizers", stale):
        return _untrained(place, 0.3, {})


@fault("D01", "B07", settings=SOME)
def checkpointing_without_gradients(place: Place) -> Said:
    """Reentrant gradient checkpointing over a frozen input: no gradient reaches the checkpointed layers."""
    from galvan import models

    original = models.add_lora

    def checkpointed(*arguments: Any) -> Any:
        import torch
        from torch.utils.checkpoint import checkpoint

        model = original(*arguments)
        layers = model.get_base_model().model.layers
        for layer in layers[:-1]:
            forward = layer.forward

            def wrapped(hidden: Any, *rest: Any, forward: Any = forward, **named: Any) -> Any:
                if not torch.is_grad_enabled():
                    return forward(hidden, *rest, **named)
                return checkpoint(lambda h: forward(h, *rest, **named), hidden, use_reentrant=True)

            layer.forward = wrapped
        return model

    with patched(models, "add_lora", checkpointed):
        return _untrained(place, 0.3, {})


@fault("F01", settings=SOME)
def mean_of_passes(place: Place) -> Said:
    """Gradient accumulation averages the passes instead of the tokens."""
    from galvan.training import loop

    original = loop.batch_gradient

    def averaged(model: Any, batch: Any, rows_per_pass: int, *rest: Any) -> float:
        passes = [batch[i : i + rows_per_pass] for i in range(0, len(batch), rows_per_pass)]
        losses = [original(model, part, rows_per_pass, *rest) for part in passes]
        for p in model.parameters():
            if p.grad is not None:
                p.grad.div_(len(passes))
        return sum(losses) / len(passes)

    with patched(loop, "batch_gradient", averaged):
        return place.run({"training.batch_size": 1, "training.accumulation": 4})


# ---- arithmetic: a perplexity from elsewhere, beside the run ----


def _reported(place: Place, formula: Callable[[np.ndarray, np.ndarray], float]) -> Said:
    """The healthy run with the perplexities that a person computed in another way: `formula` of NLL sums [n] and targets [n]."""
    import pyarrow.parquet as pq

    folder = place.finished()
    rows = pq.read_table(folder / "scores.parquet").to_pylist()
    figures = {}
    for arm in ("base", "tuned"):
        mine = [row for row in rows if row["arm"] == arm and row["split"] == "test"]
        figures[arm] = formula(np.array([r["nll_nats"] for r in mine]), np.array([r["n_tokens"] for r in mine]))
    (folder / "reported.json").write_text(json.dumps(figures), encoding="utf-8")
    return place.judge_again()


@fault("G01")
def mean_of_perplexities(place: Place) -> Said:
    """Reported: the mean of each text's perplexity."""
    return _reported(place, lambda nll, n: float(np.mean(np.exp(nll / n))))


@fault("G03")
def remainder_dropped(place: Place) -> Said:
    """Reported: batches of eight, the last incomplete one dropped."""

    def dropped(nll: np.ndarray, n: np.ndarray) -> float:
        whole = len(n) // 16 * 16 if len(n) % 8 == 0 else len(n) // 8 * 8
        return float(np.exp(nll[:whole].sum() / n[:whole].sum()))

    return _reported(place, dropped)


@fault("G04", settings=(*EVERYWHERE, *SPARK))
def mean_of_batches(place: Place) -> Said:
    """Reported: exp of the mean over batches of four of their mean loss."""
    return _reported(
        place, lambda nll, n: float(np.exp(np.mean([nll[i : i + 4].sum() / n[i : i + 4].sum() for i in range(0, len(n), 4)])))
    )


@fault("G07", settings=(*EVERYWHERE, *SPARK))
def off_by_one(place: Place) -> Said:
    """Reported: each mean over N - 1 targets weighted by N, as in the notebook that started this."""
    return _reported(place, lambda nll, n: float(np.exp((nll / n * (n + 1)).sum() / (n + 1).sum())))


@fault("A07")
def cached_scores(place: Place) -> Said:
    """The tuned arm's rows are the base's, from a cache whose key does not name the adapter."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = place.finished()
    path = folder / "scores.parquet"
    table = pq.read_table(path)
    rows = table.to_pylist()
    cache = {(row["document"], row["split"]): row for row in rows if row["arm"] == "base"}
    rows = [{**cache[row["document"], row["split"]], "arm": "tuned"} if row["arm"] == "tuned" else row for row in rows]
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)
    return place.judge_again()


@fault("G03", "scores/damaged", "run/damaged")
def rows_missing(place: Place) -> Said:
    """Both arms lack the last documents of the test file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = place.finished()
    path = folder / "scores.parquet"
    table = pq.read_table(path)
    rows = table.to_pylist()
    tests = sorted({row["document"] for row in rows if row["split"] == "test"})[-5:]
    kept = [row for row in rows if not (row["split"] == "test" and row["document"] in tests and row["arm"] in ("base", "tuned"))]
    pq.write_table(pa.Table.from_pylist(kept, schema=table.schema), path)
    return place.judge_again()


@fault("A09")
def old_file(place: Place) -> Said:
    """The adapter that was scored is not the one that training saved."""
    from galvan.rundir import read_json, write_json

    folder = place.finished()
    training = read_json(folder / "training.json")
    write_json(folder / "training.json", {**training, "adapter_sha256": "0" * 64})
    return place.judge_again()
