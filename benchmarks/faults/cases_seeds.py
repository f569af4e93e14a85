"""A recipe at the edge, whose outcome is the seed's."""

from __future__ import annotations

from typing import Any

from benchmarks.faults import ground
from benchmarks.faults.cases import DEVELOPMENT, HELD_OUT, fault
from benchmarks.faults.place import Place, Said

FEW = {"training.epochs": 1.0, "training.schedule": "constant", "generation.documents": 10}


@fault("I03", "D12", "I02", settings=(DEVELOPMENT[0], HELD_OUT[0]))  # at the edge of divergence: a lower rate mends it as well
def seeds_disagree(place: Place) -> Said:
    """A rate at which the training seed decides whether the run ends better or worse than the base; found by halving."""
    low, high = 0.02, 0.6
    for _ in range(4):
        rate = (low * high) ** 0.5
        said = place.run({**FEW, "training.learning_rate": rate})
        low, high = (rate, high) if (said.gain or -1.0) > 0 else (low, rate)
    return _with_seeds(place, {**FEW, "training.learning_rate": round(low, 4)})


def _with_seeds(place: Place, changes: dict[str, Any]) -> Said:
    """`galvan run RECIPE --seeds 4`."""
    import galvan
    from galvan import recipe as recipes
    from galvan.rundir import to_json

    asked = recipes.from_text(to_json(ground.recipe(place.out, place.setting, changes)), "benchmark")
    return place._asked(lambda: galvan.run(asked, place.folder / "run-of-seeds", offline=True, seeds=4))
