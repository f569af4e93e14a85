"""Does the remedy of the named cause help more than one drawn at random? For faults that another recipe mends (METHODS S8.6)."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.faults import ground
from benchmarks.faults.runner import Result
from benchmarks.faults.scoring import named
from galvan.errors import GalvanError
from galvan.rundir import read_json, write_json

CASES = (
    "rate-a-thousandth",
    "rate-a-hundred-thousandth",
    "five-steps",
    "all-warm-up",
    "rate-a-hundredfold",
    "tails-cut",
    "memorised",
)
REMEDIES: dict[str, Callable[[dict[str, Any]], None]] = {
    "D05": lambda t: t.update(learning_rate=min(0.01, 100 * t["learning_rate"])),
    "D06": lambda t: t.update(epochs=max(4.0, t["epochs"])),
    "D07": lambda t: t.update(warmup_ratio=0.05),
    "D12": lambda t: t.update(learning_rate=t["learning_rate"] / 30),
    "E06": lambda t: t.update(document_tokens=None),
    "I01": lambda t: t.update(epochs=max(1.0, t["epochs"] / 15)),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Mended:
    """One fault run again with the remedy of the cause that galvan named first, and with another of the list. `won`: the held-out text is
    likelier under the first, with a 95 % interval above 0 by paired documents; None where galvan named nothing that is in the list."""

    case: str
    setting: str
    remedy: str | None
    other: str
    won: bool | None
    lost: bool | None


def measure(out: Path, results: Sequence[Result]) -> list[Mended]:
    """Two more runs for each of the cases; kept, so that they are made once."""
    return [_mended(out, r) for r in results if r.case in CASES and r.setting.endswith(("-0", "-11"))]


def _mended(out: Path, result: Result) -> Mended:
    code = named(result)
    remedy = code if code in REMEDIES else None
    other = random.Random(result.case + result.setting).choice([c for c in REMEDIES if c != remedy])
    if remedy is None:
        return Mended(result.case, result.setting, None, other, None, None)
    folder = out / "remedies" / f"{result.case}--{result.setting}"
    with_it, with_other = (_scores(out, result, folder / c, c) for c in (remedy, other))
    if with_it is None or with_other is None:
        return Mended(result.case, result.setting, remedy, other, with_it is not None, with_it is None and with_other is not None)
    from galvan.statistics.paired import paired_gain

    names = sorted(with_it.keys() & with_other.keys())
    gain = paired_gain([with_other[n][0] for n in names], [with_it[n][0] for n in names], [with_it[n][1] for n in names])
    low, high = (gain.ci95.low, gain.ci95.high) if gain.ci95 else (0.0, 0.0)
    return Mended(result.case, result.setting, remedy, other, low > 0, high < 0)


def _scores(out: Path, result: Result, folder: Path, code: str) -> dict[str, tuple[float, int]] | None:
    """Held-out documents under the mended run: NLL sum in nats and targets; None where it cannot be scored."""
    import pyarrow.parquet as pq

    from galvan import recipe as recipes

    kept = folder / "held-out.json"
    if not kept.is_file():
        tree = recipes.load(out / "cases" / f"{result.case}--{result.setting}" / "run" / "recipe.yaml").model_dump(mode="json")
        tree["training"]["betas"] = tuple(tree["training"]["betas"])
        REMEDIES[code](tree["training"])
        try:
            ground.run(folder / "run", tree)
            rows = pq.read_table(folder / "run" / "scores.parquet").to_pylist()
        except (GalvanError, FileNotFoundError):
            rows = []
        write_json(
            kept, {r["document"]: [r["nll_nats"], r["n_tokens"]] for r in rows if (r["arm"], r["split"]) == ("tuned", "test")}
        )
    return {name: (float(nll), int(n)) for name, (nll, n) in read_json(kept).items()} or None
