"""Before training: what will this evaluation set be able to show? Only the base is known, so the spread is assumed (S2.3)."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from galvan.statistics.checks import counts, margin_of
from galvan.statistics.paired import DEFAULT_MARGIN
from galvan.statistics.power import Needed, equivalence_power, mde_percent, needed
from galvan.statistics.ratio import kish_size
from galvan.statistics.units import Grouping, Unit, group_documents, n_blocks

ASSUMED_SDS = (0.02, 0.05, 0.10)


@dataclass(frozen=True, slots=True)
class PlanRow:
    """What one assumed spread `sd_nats` of per-document gains leads to. None where there are too few documents to say."""

    sd_nats: float
    mde80_percent: float | None
    mde90_percent: float | None
    equivalence_chance: float | None
    documents_needed_for_margin: Needed | None


@dataclass(frozen=True, slots=True)
class Plan:
    """The sensitivity of an evaluation set for each assumed spread; `assumption` says that it is one."""

    rows: tuple[PlanRow, ...]
    n_documents: int
    n_units: int
    n_effective: float
    unit: Unit
    margin: float
    assumption: str


def plan(
    n_tokens: npt.ArrayLike,
    sds: Sequence[float] = ASSUMED_SDS,
    margin: float = DEFAULT_MARGIN,
    *,
    clusters: Sequence[Hashable] | npt.NDArray[np.generic] | None = None,
    sources: Sequence[Hashable] | npt.NDArray[np.generic] | None = None,
    positions: npt.ArrayLike | None = None,
    pilot: bool = False,
) -> Plan:
    """What documents of `n_tokens` [n] will be able to show, if per-document gains spread by each of `sds` nats a token.

    `pilot`: the sds were measured on another adapter, and are then called so. Units as in `paired_gain`; the standard error takes
    documents as unrelated, so dependence between neighbours can only make the truth worse. DataError as there.
    """
    tokens = counts("n_tokens", n_tokens, np.size(n_tokens))
    margin = margin_of(margin)
    units = group_documents(tokens.size, clusters, sources, positions)
    grouping = units.coarsest
    n_effective = kish_size(grouping.sums(tokens))
    spread = kish_size(units.fine.sums(tokens))
    rows = tuple(_row(sd, tokens.size, float(tokens.sum()), spread, n_effective, grouping, margin) for sd in sds)
    shown = ", ".join(f"{sd:g}" for sd in sds)
    source = "were measured on a pilot adapter" if pilot else "are an assumption, not a measurement: no adapter exists yet"
    assumption = f"The spreads of per-document gains ({shown} nats a token) {source}."
    return Plan(rows, tokens.size, grouping.n_units, n_effective, grouping.unit, margin, assumption)


def _row(sd: float, n: int, n_tokens: float, spread: float, n_effective: float, grouping: Grouping, margin: float) -> PlanRow:
    if n_effective < 2 or sd <= 0:
        return PlanRow(sd, None, None, None, None)
    se, df = sd / spread**0.5, n_effective - 1

    def df_at(documents: int) -> float:
        growth = n_blocks(documents) / grouping.n_units if grouping.unit == "block" else documents / n
        return n_effective * growth - 1

    needs = needed(se, n, n_tokens, margin, df_at)
    return PlanRow(sd, mde_percent(se, df), mde_percent(se, df, 0.90), equivalence_power(se, df, margin), needs)
