"""Paired statistics for likelihoods: estimates, intervals, verdicts, power. NumPy and SciPy only; random only by an explicit `rng`."""

from galvan.statistics.bits_per_byte import BitsGain, BitsPerByte, Comparable, bits_per_byte, comparable, paired_bits
from galvan.statistics.bottleneck import Bottleneck, bottleneck
from galvan.statistics.compare_sets import Difference, difference
from galvan.statistics.curves import BestCheckpoint, Curve, CurveFinding, best_checkpoint, classify_curves
from galvan.statistics.extrapolation import Extrapolation, PowerLaw, extrapolate, fit_power_law
from galvan.statistics.identity import Identity, identical
from galvan.statistics.multiple import Candidate, Family, MaxT, Separation, holm, judge_candidates, separation, sign_flip_max_t
from galvan.statistics.paired import DEFAULT_MARGIN, Gain, paired_gain
from galvan.statistics.plan import Plan, PlanRow, plan
from galvan.statistics.power import (
    Needed,
    detectable_multiple,
    documents_needed,
    equivalence_power,
    mde_nats,
    mde_percent,
    needed,
    power,
    sensitivity_sentence,
    shown_count,
)
from galvan.statistics.ratio import Interval, Ratio, jackknife_se, kish_size, ratio
from galvan.statistics.seeds import RecipeGain, recipe_gain
from galvan.statistics.units import Grouping, Units, group_documents, lag1_autocorrelation, n_blocks
from galvan.statistics.verdict import Judgement, Verdict, judge
from galvan.statistics.windows import Window, rolling_windows, share_with_little_context

__all__ = [
    "DEFAULT_MARGIN",
    "BestCheckpoint",
    "BitsGain",
    "BitsPerByte",
    "Bottleneck",
    "Candidate",
    "Comparable",
    "Curve",
    "CurveFinding",
    "Difference",
    "Extrapolation",
    "Family",
    "Gain",
    "Grouping",
    "Identity",
    "Interval",
    "Judgement",
    "MaxT",
    "Needed",
    "Plan",
    "PlanRow",
    "PowerLaw",
    "Ratio",
    "RecipeGain",
    "Separation",
    "Units",
    "Verdict",
    "Window",
    "best_checkpoint",
    "bits_per_byte",
    "bottleneck",
    "classify_curves",
    "comparable",
    "detectable_multiple",
    "difference",
    "documents_needed",
    "equivalence_power",
    "extrapolate",
    "fit_power_law",
    "group_documents",
    "holm",
    "identical",
    "jackknife_se",
    "judge",
    "judge_candidates",
    "kish_size",
    "lag1_autocorrelation",
    "mde_nats",
    "mde_percent",
    "n_blocks",
    "needed",
    "paired_bits",
    "paired_gain",
    "plan",
    "power",
    "ratio",
    "recipe_gain",
    "rolling_windows",
    "sensitivity_sentence",
    "separation",
    "share_with_little_context",
    "shown_count",
    "sign_flip_max_t",
]
