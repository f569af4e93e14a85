"""The diagnosis. Importing a family's file registers its causes; a new family is one more name here."""

from galvan.diagnosis import (
    a_wrong_model,
    b_adapter_file,
    c_scaling,
    d_training,
    e_data,
    f_loss,
    g_arithmetic,
    h_generation,
    i_outcome,
)
from galvan.diagnosis.catalogue import (
    Cause,
    Facts,
    Finding,
    causes,
    diagnose,
    explain,
    liveness,
    not_excluded,
    phrase,
    refusal,
    spans,
)

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
    "e_data",
    "explain",
    "f_loss",
    "g_arithmetic",
    "h_generation",
    "i_outcome",
    "liveness",
    "not_excluded",
    "phrase",
    "refusal",
    "spans",
]
