"""The diagnosis. Importing a family's file registers its causes; a new family is one more name here."""

from galvan.diagnosis import a_wrong_model, b_adapter_file, c_scaling, d_training

__all__ = ["a_wrong_model", "b_adapter_file", "c_scaling", "d_training"]
