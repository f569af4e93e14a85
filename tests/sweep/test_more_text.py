"""Would more text help: measured at equal steps, and an envelope that holds the truth where a power law with a known exponent made the losses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from test_sweep import recipe

from galvan.errors import DataError
from galvan.rundir import read_documents, read_json
from galvan.statistics.ratio import Interval
from galvan.sweep.losses import Losses
from galvan.sweep.more_text import EXPONENTS, SEEDS, SHARES, compared, envelope, would_more_text_help


def losses(rng: np.random.Generator, level: float, n: int = 60) -> Losses:
    """Documents of 200 tokens at `level` nats a token; they differ from each other, not between trainings, but for seeds."""
    tokens = np.full(n, 200.0)
    tuned = (level + 0.3 * np.sin(np.arange(n)) + 0.005 * rng.standard_normal(n)) * tokens
    return Losses(tuple(map(str, range(n))), ("book",) * n, tuple(range(n)), tokens, 4 * tokens, tuned, 30)


@pytest.mark.parametrize("b", EXPONENTS)
def test_the_envelope_holds_what_a_power_law_gives_at_twice_the_text(b: float) -> None:
    def level(size: float) -> float:
        return 2.0 + 1.0 * (100 * size) ** -b

    rng = np.random.default_rng(7)
    found = compared({(s, k): losses(rng, level(s)) for s in SHARES for k in range(SEEDS)}, 0.01, Path(), 100, 30)
    assert found.doubling is not None
    assert found.doubling.low < level(1) - level(2) < found.doubling.high
    assert found.answer == ("yes" if found.doubling.low > 0.01 else "not shown")


def test_where_the_last_doubling_gave_nothing_more_text_would_hardly_help_and_where_it_is_unsure_nothing_is_said() -> None:
    rng = np.random.default_rng(8)
    flat = compared({(s, k): losses(rng, 3.0) for s in SHARES for k in range(SEEDS)}, 0.01, Path(), 100, 30)
    assert flat.answer == "no" and "hardly" in flat.sentence
    few = compared({(s, k): losses(rng, 3 - 0.01 * s, 6) for s in SHARES for k in range(SEEDS)}, 0.01, Path(), 100, 30)
    assert few.answer == "not shown"


def test_the_envelope_of_a_gain_by_hand() -> None:
    found = envelope(Interval(0.1, 0.2))  # 0.1 x 2^-0.3 = 0.0812, 0.2 x 2^-0.05 = 0.1932
    assert found is not None and found == pytest.approx((0.0812, 0.1932), abs=1e-4)
    assert envelope(None) is None


@pytest.mark.slow
def test_all_shares_take_the_same_steps_on_nested_texts(tmp_path: Path) -> None:
    found = would_more_text_help(recipe(tmp_path, "training.epochs=1"), tmp_path / "out")
    trials = tmp_path / "out/trials"
    assert {read_json(trials / f"{n}/training.json")["steps"] for n in ("25-1", "50-2", "100-1")} == {found.steps}
    texts = [{d.id for d in read_documents(trials / f"{n}-1/data/train.jsonl")} for n in (25, 50, 100)]
    assert texts[0] < texts[1] < texts[2]
    assert list(found.documents.values()) == [len(t) for t in texts]
    assert read_json(tmp_path / "out/more-text.json")["answer"] == found.answer


def test_too_little_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="too few"):
        would_more_text_help(recipe(tmp_path, "data.maximum_documents=4"), tmp_path / "out")
