"""Would more text help? The same number of steps on a quarter, half and all of the training text, with two seeds (METHODS S7.4).

Measured on validation documents, which all sizes share. What doubling the text would give is an envelope over exponents of a power law that
others measured, not a fit: three sizes do not tell an exponent.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from galvan import recipe as recipes
from galvan.errors import DataError
from galvan.progress import Progress, Silent
from galvan.recipe import Recipe
from galvan.rundir import SCHEMA_VERSION, each_document, to_json, write_json
from galvan.statistics.paired import Gain, paired_gain
from galvan.statistics.ratio import Interval
from galvan.story import Story
from galvan.sweep.driver import require_validation
from galvan.sweep.losses import Losses, read_losses
from galvan.sweep.trial import run_trial
from galvan.text import shown
from galvan.training.shared import Shared

SHARES = (0.25, 0.5, 1.0)
SEEDS = 2
EXPONENTS = (0.05, 0.1, 0.2, 0.3)  # b of L(D) = c + a D^-b


@dataclasses.dataclass(frozen=True, slots=True)
class MoreText:
    """`gains` are what each doubling gave, in nats a token on validation documents; `doubling` is the envelope of what one more would give,
    None where the last gain has no interval. `answer`: yes where all of it lies above the margin, no where all lies below, else not shown."""

    folder: Path
    documents: Mapping[str, int]
    steps: int
    gains: Mapping[str, Gain]
    doubling: Interval | None
    answer: str
    sentence: str

    def to_json(self) -> str:
        return to_json(
            {
                "schema_version": SCHEMA_VERSION,
                **{f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "folder"},
            }
        )

    def to_text(self) -> str:
        lines = [
            f"{name}: gain {gain.nats_per_token:+.4f} nats a token"
            + ("" if gain.ci95 is None else f" (95 % interval {gain.ci95.low:+.4f} to {gain.ci95.high:+.4f})")
            for name, gain in self.gains.items()
        ]
        return "\n".join(shown(line) for line in [*lines, self.sentence, f"  {self.folder / 'more-text.json'}"])


def would_more_text_help(
    asked: Recipe, out: Path | None = None, progress: Progress | None = None, offline: bool = False
) -> MoreText:
    """Train every share with every seed, and compare. DataError where there is too little to choose by, or a training failed."""
    progress, folder = progress or Silent(), out or Path("runs") / f"{asked.name}-more-text"
    story = Story.begin(asked, folder, progress, offline)
    with story.alone():
        steps = story.prepare().steps
        require_validation(folder)
        rows = sum(1 for _ in each_document(folder / "data" / "train.jsonl"))
        if rows < 4:
            raise DataError("more-text/too-few", f"{rows} training documents are too few to take a quarter of; give more text.")
        shared, losses = Shared(), {}
        for share in SHARES:
            for seed in range(SEEDS):
                name = f"{share:.0%}-{seed + 1}".replace("%", "")
                progress.say(f"Training on {share:.0%} of the text, seed {seed + 1} of {SEEDS}.")
                one = _recipe(asked, share, rows, steps, seed)
                came = run_trial(one, folder / "trials" / name, folder, progress, offline, shared=shared)
                if came.value is None:
                    raise DataError(
                        "more-text/failed", f"Training on {share:.0%} of the text failed: {shown(str(came.reason), 200)}"
                    )
                losses[share, seed] = read_losses(folder / "trials" / name)
        found = compared(losses, asked.evaluation.margin_nats, folder, rows, steps)
        write_json(folder / "more-text.json", dataclasses.replace(found, folder=Path()))
        return found


def _recipe(asked: Recipe, share: float, rows: int, steps: int, seed: int) -> Recipe:
    """The same number of steps on a share of the rows; early stop is off, because all shares are compared after those steps."""
    size = asked.training.batch_size * asked.training.accumulation
    per_epoch = math.ceil(max(1, round(share * rows)) / size)
    values: dict[str, Any] = {
        "data.train_share": share * asked.data.train_share, "training.epochs": steps / per_epoch, "training.early_stop": False,
        "training.seed": (asked.training_seed + seed) % 2**31,
    }  # fmt: skip
    return recipes.with_values(asked, values, "galvan more-text")


def compared(losses: Mapping[tuple[float, int], Losses], margin: float, folder: Path, rows: int, steps: int) -> MoreText:
    """The paired gain of each size over the one before, seeds averaged document by document, and the envelope of the next doubling."""
    first = losses[SHARES[0], 0]

    def mean(share: float) -> Any:
        return np.mean([losses[share, seed].tuned for seed in range(SEEDS)], axis=0)

    gains = {
        f"{a:.0%} to {b:.0%} of the text": paired_gain(mean(a), mean(b), first.n_tokens, margin=margin, sources=first.sources, positions=first.positions)
        for a, b in pairwise(SHARES)
    }  # fmt: skip
    doubling = envelope(list(gains.values())[-1].ci95)
    documents = {f"{share:.0%}": max(1, round(share * rows)) for share in SHARES}
    return MoreText(folder, documents, steps, gains, doubling, *_answer(doubling, margin))


def envelope(last: Interval | None) -> Interval | None:
    """What one more doubling gives where the last gave `last`: by L = c + a D^-b its gain is 2^-b of that, for every b of EXPONENTS."""
    if last is None:
        return None
    ends = [end * 2**-b for end in last for b in EXPONENTS]
    return Interval(min(ends), max(ends))


def _answer(doubling: Interval | None, margin: float) -> tuple[str, str]:
    if doubling is None:
        return "not shown", "Whether more text would help was not shown: validation documents are too few for an interval."
    said = f"Twice the text would give {doubling.low:+.4f} to {doubling.high:+.4f} nats a token more, at the same number of steps"
    if doubling.low > margin:
        return "yes", f"More text would help: {said[0].lower()}{said[1:]}."
    if doubling.high < margin:
        return "no", f"More text would hardly help: {said[0].lower()}{said[1:]}, and {margin:g} is what matters."
    return "not shown", f"Whether more text would help was not shown: {said[0].lower()}{said[1:]}."
