"""The style of a run, from its samples.jsonl and documents: torch-free, repeatable, None where nothing was generated."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from galvan.errors import DataError
from galvan.rundir import Document, read_documents, read_rows
from galvan.style.guards import BaseLikelihood
from galvan.style.judge import Style, judge_style
from galvan.style.samples import Texts
from galvan.text import shown

PROMPT_WORDS = 35  # left out of a held-out text that no prompt begins, as they are of those that one does
ARMS = ("base", "tuned")
# Perplexity a word from which a model's texts are no sense, whatever their counts say. The smallest GPT-2 has 29 to 75 on four corpora
# (Radford et al. 2019); the bundled model has 246 on the novel that it was tuned to, and writes word salad.
NO_SENSE = 150.0


@dataclass(frozen=True, slots=True)
class Shown:
    """One prompt with what the author, the base and the tuned model wrote after it; chosen by rule, see `rank`."""

    rank: str
    prompt_id: str
    prompt: str
    author: str | None
    base: str | None
    tuned: str


@dataclass(frozen=True, slots=True)
class RunStyle:
    """`style` at temperature 1 and top_p 1, `own` at the recipe's own sampling settings where there were any."""

    style: Style
    pairs: tuple[Shown, ...]
    own: Style | None


Rows = Sequence[Mapping[str, Any]]


def style_of_run(folder: Path, excess_copying: bool | None = None, seed: int = 0) -> RunStyle | None:
    """Judge the samples of a run; None where it has none of base and tuned. DataError where samples.jsonl is damaged."""
    path = folder / "samples.jsonl"
    if not path.is_file():
        return None
    rows = _checked(path)
    plain = [row for row in rows if _setting(row, "temperature") == 1 and _setting(row, "top_p") == 1]
    if not all(any(row["arm"] == arm for row in plain) for arm in ARMS):
        return None
    documents = {name: _documents(folder / "data" / f"{name}.jsonl") for name in ("train", "validation", "test")}
    held_out = continuations(documents["test"], documents["validation"], plain)
    train = documents["train"]
    author = Texts([d.text for d in train], None, [d.source for d in train])

    def judged(some: Rows) -> Style:
        again = _arm(some, "base_again")
        enough = len(set(again.prompts or ())) >= len(set(_arm(some, "base").prompts or ())) / 2
        return judge_style(
            author, _arm(some, "base"), _arm(some, "tuned"), Texts(list(held_out.values())), base_again=again if again.texts and enough else None,
            likelihood=_likelihood(folder, some), excess_copying=excess_copying, seed=seed,
        )  # fmt: skip

    style = judged(plain)
    if weak := _no_sense(folder, documents["test"]):
        style = replace(style, cautions=(*style.cautions, weak))
    own = [row for row in rows if row not in plain and _setting(row, "temperature") not in (0, None)]
    return RunStyle(
        style, _shown(style, plain, held_out), judged(own) if all(any(r["arm"] == arm for r in own) for arm in ARMS) else None
    )


def continuations(test: Sequence[Document], validation: Sequence[Document], rows: Rows) -> dict[str, str]:
    """What the author wrote after each prompt, by document id: all test documents, and those of validation that a prompt begins."""
    prompts = {str(row["prompt_id"]).removeprefix("held-out:"): str(row["prompt"]) for row in rows}
    asked = [d for d in validation if d.id in prompts]
    found: dict[str, str] = {}
    for document in [*test, *asked]:
        prompt = prompts.get(document.id, "")
        if prompt and document.text.startswith(prompt):
            found[document.id] = document.text[len(prompt) :].strip()
        elif document.payload is not None:  # the text is the answer alone, without what was asked
            found[document.id] = document.text
        else:
            found[document.id] = " ".join(document.text.split()[PROMPT_WORDS:])
    return found


def _checked(path: Path) -> list[dict[str, Any]]:
    rows = list(read_rows(path))
    for number, row in enumerate(rows, 1):
        if not all(isinstance(row.get(key), str) for key in ("prompt_id", "prompt", "arm", "text")):
            raise DataError(
                "run/damaged", f"{shown(str(path))} line {number}: not a sample of ours; delete the file and run again."
            )
    return rows


def _setting(row: Mapping[str, Any], name: str) -> Any:
    settings = row.get("settings")
    return settings.get(name) if isinstance(settings, Mapping) else None


def _documents(path: Path) -> list[Document]:
    return read_documents(path) if path.is_file() else []


def _arm(rows: Rows, arm: str) -> Texts:
    some = [row for row in rows if row["arm"] == arm]
    return Texts([str(row["text"]) for row in some], [row["prompt_id"] for row in some])


def _likelihood(folder: Path, rows: Rows) -> BaseLikelihood | None:
    """The base's nats per token of tuned outputs, where rows carry them (`base_logprob_nats`, `base_n_tokens`), and of held-out texts."""
    tuned = [
        -float(row["base_logprob_nats"]) / int(row["base_n_tokens"])
        for row in rows
        if row["arm"] == "tuned" and row.get("base_logprob_nats") is not None and row.get("base_n_tokens")
    ]
    path = folder / "scores.parquet"
    if not tuned or not path.is_file():
        return None
    table = pq.read_table(path, columns=["arm", "split", "n_tokens", "nll_nats"], filters=[("arm", "=", "base")]).to_pylist()
    known = {
        split: [r["nll_nats"] / r["n_tokens"] for r in table if r["split"] == split and r["n_tokens"]]
        for split in ("test", "test_shuffled")
    }
    return BaseLikelihood(tuned, known["test"], known["test_shuffled"])


def _no_sense(folder: Path, held_out: Sequence[Document]) -> str | None:
    """A caution where the tuned model finds the author's next word so hard to guess that its own texts cannot be sense.

    No count of words or of their order sees that: word salad of a small model has the order of little words that people's texts have.
    """
    path, n_words = folder / "scores.parquet", {d.id: len(d.text.split()) for d in held_out}
    if not path.is_file():
        return None
    rows = pq.read_table(
        path, columns=["document", "nll_nats"], filters=[("arm", "=", "tuned"), ("split", "=", "test")]
    ).to_pylist()
    known = [row for row in rows if n_words.get(row["document"])]
    if not known:
        return None
    choices = math.exp(min(700.0, sum(row["nll_nats"] for row in known) / sum(n_words[row["document"]] for row in known)))
    return (
        f"For the tuned model the author's next word is as open as a choice among {float(f'{choices:.2g}'):,.0f} (the smallest GPT-2: 29 to 75). "
        "Such a model writes no sense, which these measures do not see: they speak of its small words and marks. Read the pairs."
        if choices > NO_SENSE else None
    )  # fmt: skip


def _shown(style: Style, rows: Rows, held_out: Mapping[str, str]) -> tuple[Shown, ...]:
    by_arm = {arm: [row for row in rows if row["arm"] == arm] for arm in ARMS}
    found = []
    for pair in style.pairs:
        tuned = by_arm["tuned"][pair.tuned]
        base = None if pair.base is None else str(by_arm["base"][pair.base]["text"])
        name = str(tuned["prompt_id"])
        author = held_out.get(name.removeprefix("held-out:"))
        found.append(Shown(pair.rank, name, str(tuned["prompt"]), author, base, str(tuned["text"])))
    return tuple(found)
