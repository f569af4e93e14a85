"""What is known of a trial from its validation documents, in the form in which a judged run is known. Test documents are not looked at."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from galvan.compare import Comparisons, noise_floor
from galvan.diagnosis.catalogue import diagnose
from galvan.report.evidence import Evidence, gather
from galvan.rundir import SCHEMA_VERSION
from galvan.statistics import difference, identical, paired_gain
from galvan.statistics.paired import Gain
from galvan.sweep.losses import Losses, read_losses


def on_validation(folder: Path) -> Evidence:
    """The evidence of a trained run, its slot for the test documents holding the validation documents' gain; findings included."""
    e = gather(folder)
    losses = read_losses(folder)
    margin = e.recipe.evaluation.margin_nats
    held, probe = gain(losses, margin), gain(read_losses(folder, "probe"), margin)
    floor, reason = noise_floor(e.integrity)
    means = [one / losses.n_tokens for one in (losses.base, losses.tuned)]
    identity = identical([[m] for m in means[0]], [[m] for m in means[1]], floor)
    known = Comparisons(SCHEMA_VERSION, floor, reason, identity, {}, None, held, None, None, probe, difference(probe, held), None)
    e = dataclasses.replace(e, comparisons=known)
    return dataclasses.replace(e, findings=diagnose(e.facts()))


def gain(losses: Losses, margin: float) -> Gain:
    """The gain over the base on the documents that were scored before training and with the weights that were kept."""
    return paired_gain(
        losses.base, losses.tuned, losses.n_tokens, margin=margin, sources=losses.sources, positions=losses.positions
    )
