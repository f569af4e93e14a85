"""Does it write like the author? Torch-free measures of texts from anywhere (METHODS 4)."""

from galvan.style.guards import BaseLikelihood
from galvan.style.judge import Style, judge_style
from galvan.style.lists import CONTRACTIONS, PRONOUNS
from galvan.style.measures import MEASURES, Measure, measure
from galvan.style.samples import Texts

__all__ = ["CONTRACTIONS", "MEASURES", "PRONOUNS", "BaseLikelihood", "Measure", "Style", "Texts", "judge_style", "measure"]
