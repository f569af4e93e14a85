"""Faults in figures from elsewhere: perplexities and intervals that a person computed otherwise, of the same models and texts."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.faults import ground
from benchmarks.faults.cases import SOME, fault
from benchmarks.faults.cases_answers import pair
from benchmarks.faults.commands import audited, evaluated, perplexity, reported, scores, test_texts, token_nll
from benchmarks.faults.place import Place, Said

Rows = list[Any]
Figure = Callable[[Any, Rows], float]


def _loss(model: Any, ids: Any, **more: Any) -> float:
    import torch

    with torch.no_grad():
        return float(model.eval()(input_ids=ids, labels=ids, **more).loss)


def _right(model: Any, rows: Rows) -> float:
    nll = [_loss(model, ids) * (ids.shape[1] - 1) for ids in rows]
    return math.exp(sum(nll) / sum(ids.shape[1] - 1 for ids in rows))


def _two_beginnings(model: Any, rows: Rows) -> float:
    import torch

    return _right(model, [torch.cat([ids[:, :1], ids], 1) for ids in rows])


def _no_beginning(model: Any, rows: Rows) -> float:
    return _right(model, [ids[:, 1:] for ids in rows])


def _padding_scored(model: Any, rows: Rows, size: int = 8, padding: int = 2) -> float:
    """Batches padded on the right, every position a label, as in a callback that is much used; the mean of the batches' losses."""
    import torch

    means = []
    for part in (rows[i : i + size] for i in range(0, len(rows), size)):
        width = max(ids.shape[1] for ids in part)
        batch = torch.cat([torch.nn.functional.pad(ids, (0, width - ids.shape[1]), value=padding) for ids in part])
        mask = torch.cat([torch.nn.functional.pad(torch.ones_like(ids), (0, width - ids.shape[1])) for ids in part])
        means.append(_loss(model, batch, attention_mask=mask))
    return math.exp(sum(means) / len(means))


def _told(place: Place, base: Figure, tuned: Figure) -> Said:
    """An audit that is told the figures of a notebook, which were computed on the documents held out."""
    models, tokenizer, texts = pair(place), place.tokenizer(), test_texts(place)
    rows = [tokenizer(text, return_tensors="pt")["input_ids"] for text in texts]
    figures = {arm: way(model, rows) for arm, model, way in zip(("base", "tuned"), models, (base, tuned), strict=True)}
    return audited(place, *models, texts=texts, reported=figures)


@fault("G02", settings=SOME)
def padding_scored(place: Place) -> Said:
    """Reported: padded batches whose labels are a copy of the ids."""
    return _told(place, _padding_scored, _padding_scored)


@fault("G13", "E03", settings=SOME)  # two beginnings in the base's arm alone: the cause and what it does to the comparison
def base_begins_twice(place: Place) -> Said:
    """Reported: the base was given two beginnings, the tuned model one."""
    return _told(place, _two_beginnings, _right)


@fault("G13", "E04", settings=SOME)
def base_without_beginning(place: Place) -> Said:
    """Reported: the base was given texts without their beginning-of-text token, the tuned model with it."""
    return _told(place, _no_beginning, _right)


@fault("E03", settings=SOME)
def reported_with_two_beginnings(place: Place) -> Said:
    """Reported: both arms with two beginnings."""
    return _told(place, _two_beginnings, _two_beginnings)


@fault("G08", settings=SOME)
def unpaired_interval(place: Place) -> Said:
    """Reported: the interval of two independent samples, though both arms read the same documents."""

    def figures(base: Any, tuned: Any) -> dict[str, Any]:
        se = math.sqrt(sum((nll / n).var(ddof=1) / len(n) for nll, n in (base, tuned)))
        gain = math.log(perplexity(base) / perplexity(tuned))
        return {"base": perplexity(base), "tuned": perplexity(tuned), "ci95": [gain - 1.96 * se, gain + 1.96 * se]}

    return reported(place, figures)


@fault("G08", "G10", settings=SOME)  # a gain that four documents cannot show, reported as it came out: bare, and of too few
def bare_figures(place: Place) -> Said:
    """Reported: two perplexities of a small gain on few documents, and no interval."""
    place.run({"data.maximum_documents": 40, "data.split.test": 0.1, "training.learning_rate": 1.5e-4, "data.split.blocks": 2})
    folder = place.folder / "run"
    figures = {arm: perplexity(scores(folder, arm)) for arm in ("base", "tuned")}
    (folder / "reported.json").write_text(json.dumps(figures), encoding="utf-8")
    return place.judge_again()


@fault("G09", settings=SOME)
def interval_over_tokens(place: Place) -> Said:
    """Reported: the interval over all tokens, each taken as independent, where half of the texts are of another kind and gain otherwise."""
    from galvan.report import judge

    rows = [*((text, "held out") for text in test_texts(place)), *ground.passages("encyclopaedic")]
    mixed = ground.write_text_file(place.folder / "mixed.jsonl", rows)
    place.evaluate(place.adapter(), test=mixed)
    folder = place.folder / "evaluated"
    gains = token_nll(folder, "base") - token_nll(folder, "tuned")
    wide = 1.96 * float(gains.std(ddof=1)) / len(gains) ** 0.5
    figures = {arm: perplexity(scores(folder, arm)) for arm in ("base", "tuned")}
    told = {**figures, "ci95": [gains.mean() - wide, gains.mean() + wide]}
    (folder / "reported.json").write_text(json.dumps(told), encoding="utf-8")
    return place._asked(lambda: judge(folder))


@fault("G11", settings=SOME)
def last_batch_filled_up(place: Place) -> Said:
    """Reported: a sampler filled the last batch up with the first texts again."""

    def figure(sums: Any) -> float:
        size = next(size for size in (8, 16, 32) if len(sums[1]) % size)
        again = slice(0, size - len(sums[1]) % size)
        return float(np.exp((sums[0].sum() + sums[0][again].sum()) / (sums[1].sum() + sums[1][again].sum())))

    return reported(place, lambda base, tuned: {"base": figure(base), "tuned": figure(tuned)})


@fault("G11", "G03", settings=SOME)
def counted_by_every_process(place: Place) -> Said:
    """Reported: the number of texts that two processes counted, each its padded half."""

    def figures(base: Any, tuned: Any) -> dict[str, Any]:
        return {"base": perplexity(base), "tuned": perplexity(tuned), "n_documents": len(base[1]) + 3}

    return reported(place, figures)


@fault("G06", settings=SOME)
def two_tokenizers(place: Place) -> Said:
    """Reported: perplexities a token of two models whose tokenizers cut text otherwise."""
    base, tuned = place.base, _with_another_tokenizer(place)
    figures = {}
    for arm, folder in (("base", base), ("tuned", tuned)):
        from galvan.models import load_tokenizer, locate

        tokenizer = load_tokenizer(locate(str(folder)))
        rows = [tokenizer(text, return_tensors="pt")["input_ids"] for text in test_texts(place)]
        figures[arm] = _right(place.model(folder), rows)
    return evaluated(place, tuned, figures)


def _with_another_tokenizer(place: Place) -> Any:
    """The base trained on the author with a tokenizer of half the merges, kept in the case's folder."""
    from galvan.data.tokens import training_rows
    from galvan.models import load_tokenizer, locate, save
    from galvan.recipe import Training
    from galvan.rundir import read_documents
    from galvan.training.loop import train

    folder = place.folder / "tuned"
    if (folder / "done").is_file():
        return folder
    place.tokenizer().save_pretrained(place.folder / "tokenizer")
    path = place.folder / "tokenizer" / "tokenizer.json"
    tree = json.loads(path.read_text(encoding="utf-8"))
    tree["model"]["merges"] = tree["model"]["merges"][: len(tree["model"]["merges"]) // 2]
    path.write_text(json.dumps(tree), encoding="utf-8")
    tokenizer = load_tokenizer(locate(str(place.folder / "tokenizer")))
    model = place.model()
    rows = training_rows(tokenizer, read_documents(place.healthy / "data" / "train.jsonl"), 250, True)
    asked = Training(method="full", learning_rate=3e-3, epochs=4.0, batch_size=4, evaluations=1)
    train(model, rows, asked, place.setting.seed, place.folder / "work")
    save(model, folder, tokenizer)
    (folder / "done").touch()
    return folder


@fault("A01+G07", settings=SOME)
def origin_notebook(place: Place) -> Said:
    """The notebook that started this: the base wrapped in place, and each mean over N - 1 targets weighted by N."""
    from peft import PeftModel

    base = place.model()
    tuned = PeftModel.from_pretrained(base, place.healthy / "adapter")
    texts, tokenizer = test_texts(place), place.tokenizer()
    rows = [tokenizer(text, return_tensors="pt")["input_ids"] for text in texts]

    def cell(model: Any) -> float:
        return math.exp(sum(_loss(model, ids) * ids.shape[1] for ids in rows) / sum(ids.shape[1] for ids in rows))

    return audited(place, base, tuned, texts=texts, reported={"base": cell(base), "tuned": cell(tuned)})
