"""The diagnosis. Importing a family's file registers its causes; a new family is one more name here."""

from galvan.diagnosis import a_wrong_model, b_adapter_file, c_scaling, d_training
from galvan.diagnosis.catalogue import Cause, Facts, Finding, causes, diagnose, explain, liveness, refusal

__all__ = [
    "Cause",
    "Facts",
    "Finding",
    "a_wrong_model",
    "b_adapter_file",
    "c_scaling",
    "causes",
    "d_training",
    "diagnose",
    "explain",
    "liveness",
    "refusal",
]
