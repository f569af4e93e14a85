"""Worlds with a known truth: documents whose gain, spread, lengths and dependence were chosen, not measured (METHODS C1.4)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
TRUE_GAIN = 0.02


class World(NamedTuple):
    """`differences` D and `tokens` T, both [runs, n]; the true gain is TRUE_GAIN in every run."""

    differences: FloatArray
    tokens: FloatArray


def world(rng: np.random.Generator, runs: int, n: int, *, unequal: bool = False, skewed: bool = False, phi: float = 0.0) -> World:
    """230-token documents, document sd 0.04 nats, token sd 0.5 nats; `phi`: correlation of neighbouring documents' gains (AR(1))."""
    if unequal:
        tokens = np.maximum(20, np.round(230 * np.exp(0.8 * rng.standard_normal((runs, n)) - 0.32)))
    else:
        tokens = rng.integers(200, 261, (runs, n)).astype(float)
    effect = (rng.gamma(2, 1, (runs, n)) - 2) / np.sqrt(2) if skewed else rng.standard_normal((runs, n))
    if phi:
        for i in range(1, n):
            effect[:, i] = phi * effect[:, i - 1] + np.sqrt(1 - phi**2) * effect[:, i]
    noise = 0.5 * np.sqrt(tokens) * rng.standard_normal((runs, n))
    return World(tokens * (TRUE_GAIN + 0.04 * effect) + noise, tokens)


def dependent_world(rng: np.random.Generator, runs: int, n: int, phi: float) -> World:
    """As `world`, but the whole per-document gain is AR(1), so that neighbours correlate by exactly `phi`."""
    tokens = rng.integers(200, 261, (runs, n)).astype(float)
    gain = rng.standard_normal((runs, n))
    for i in range(1, n):
        gain[:, i] = phi * gain[:, i - 1] + np.sqrt(1 - phi**2) * gain[:, i]
    return World(tokens * (TRUE_GAIN + 0.05 * gain), tokens)
