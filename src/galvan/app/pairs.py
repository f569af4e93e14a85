"""What readers are shown: two texts that go on from the same beginning, in a form that tells nothing about who wrote them. No torch."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from galvan.errors import DataError, RecipeError
from galvan.rundir import Document, read_documents, read_rows, sha256_file
from galvan.style.normalise import normalise
from galvan.style.run import continuations
from galvan.text import shown, visible

BASE, TUNED, AUTHOR = "base", "tuned", "author"
CONTROL_SHARE = 4  # one pair in so many sets the author beside the tuned model
FEWEST_WORDS, MOST_WORDS = 30, 150


@dataclass(frozen=True, slots=True)
class Pair:
    """`first` was written by `first_arm`; which of both stands on the left is the schedule's."""

    prompt_id: str
    prompt: str
    first_arm: str
    second_arm: str
    first: str
    second: str

    @property
    def control(self) -> bool:
        return AUTHOR in (self.first_arm, self.second_arm)


def pairs_of_run(folder: Path, seed: int) -> tuple[list[Pair], str]:
    """One pair a prompt, no text twice, and the sha256 of samples.jsonl. RecipeError where nothing was written by both arms.

    The recipe's own sampling settings are preferred to the plain distribution, for they are what a reader would be given.
    """
    path = folder / "samples.jsonl"
    rows = list(read_rows(path)) if path.is_file() else []
    try:
        by_setting: dict[str, dict[tuple[str, str], Mapping[str, Any]]] = {}
        for row in rows:
            if row["arm"] in (BASE, TUNED) and row["sample"] == 0:
                {str(row[key]) for key in ("prompt", "text")}
                by_setting.setdefault(row["settings"]["name"], {})[row["prompt_id"], row["arm"]] = row
    except (KeyError, TypeError):
        raise DataError(
            "run/damaged", f"{shown(path.name)}: a row is not a sample of ours; delete the file and run again."
        ) from None
    chosen = by_setting.get("own") or by_setting.get("distribution") or {}
    both = [name for name, arm in chosen if arm == TUNED and (name, BASE) in chosen]
    if not both:
        raise RecipeError(
            "app/no-samples", f"{shown(str(folder))}: base and tuned wrote nothing to the same prompts, so there is nothing to read; run with generation.documents above 0."
        )  # fmt: skip
    documents = {name: _documents(folder / "data" / f"{name}.jsonl") for name in ("test", "validation")}
    author = continuations(documents["test"], documents["validation"], [chosen[name, TUNED] for name in both])
    known = [name for name in both if author.get(name.removeprefix("held-out:"))]
    controls = set(_rng(seed, "controls").permutation(known)[: len(both) // CONTROL_SHARE].tolist()) if known else set()
    found = []
    for name in both:
        base, tuned = chosen[name, BASE], chosen[name, TUNED]
        other = (AUTHOR, author[name.removeprefix("held-out:")]) if name in controls else (BASE, str(base["text"]))
        first, second = alike([str(tuned["text"]), other[1]])
        found.append(Pair(str(name), visible(str(tuned["prompt"])), TUNED, other[0], first, second))
    return found, sha256_file(path)


def alike(texts: Sequence[str]) -> list[str]:
    """`texts` in one typography and of one length in words, but no shorter than FEWEST_WORDS for the sake of a short one."""
    words = [normalise([text])[0].split() for text in texts]
    most = min(MOST_WORDS, max(FEWEST_WORDS, min(map(len, words))))
    return [" ".join(some[:most]) for some in words]


def schedule(seed: int, rater: str, n: int) -> list[tuple[int, bool]]:
    """A rater's own order of `n` pairs, and whether the first text stands on the right; the same for the same seed and name."""
    rng = _rng(seed, f"rater {rater}")
    return list(zip(rng.permutation(n).tolist(), (rng.random(n) < 0.5).tolist(), strict=True))


def _rng(seed: int, purpose: str) -> np.random.Generator:
    digest = hashlib.sha256(f"galvan review {seed} {purpose}".encode("utf-8", "backslashreplace")).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "big")))


def _documents(path: Path) -> list[Document]:
    return read_documents(path) if path.is_file() else []
