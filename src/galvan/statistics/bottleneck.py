"""More documents or longer documents? Which part of the spread each of them would shrink (METHODS S2.5).

The spread of per-document gains has two parts, sd^2 = s_doc^2 + s_tok^2 / T. More documents shrink both, longer ones only the
second. Tokens are not independent of their neighbours, so the second part is estimated from means of runs of tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from galvan.statistics.checks import FloatArray

TOKENS_PER_RUN = 16
FEWEST_RUNS = 4
FEWEST_DOCUMENTS = 5


@dataclass(frozen=True, slots=True)
class Bottleneck:
    """`sd_document` and `sd_token` are s_doc and s_tok in nats; `token_share`: how much of the variance length would shrink.

    All None, with the `reason`, where there are too few documents that are long enough.
    """

    advice: Literal["more documents", "longer documents"] | None
    reason: str
    sd_document: float | None
    sd_token: float | None
    token_share: float | None
    mean_tokens: float | None
    n_documents: int


def bottleneck(token_gains: Iterable[npt.ArrayLike]) -> Bottleneck:
    """Decompose per-token gains (base NLL - tuned NLL, nats), one array a document, by the method of moments.

    Documents of fewer than 4 runs of 16 tokens are left out, because their own noise cannot be estimated.
    """
    least = FEWEST_RUNS * TOKENS_PER_RUN
    documents = (np.asarray(gains, dtype=np.float64).ravel() for gains in token_gains)
    long = [(gains.mean(), _noise_of_mean(gains), gains.size) for gains in documents if gains.size >= least]
    if len(long) < FEWEST_DOCUMENTS:
        reason = f"Only {len(long)} documents have {least} tokens or more; {FEWEST_DOCUMENTS} are needed to tell."
        return Bottleneck(None, reason, None, None, None, None, len(long))
    means, noise, lengths = (np.array(column, dtype=np.float64) for column in zip(*long, strict=True))
    return _advise(means, noise, lengths)


def _noise_of_mean(gains: FloatArray) -> float:
    """Variance of a document's mean gain given the document, from the spread of its runs' means; the ragged end is left out."""
    runs = gains[: gains.size // TOKENS_PER_RUN * TOKENS_PER_RUN].reshape(-1, TOKENS_PER_RUN).mean(axis=1)
    return float(runs.var(ddof=1) * TOKENS_PER_RUN / gains.size)


def _advise(means: FloatArray, noise: FloatArray, lengths: FloatArray) -> Bottleneck:
    n, spread, token_part = means.size, float(means.var(ddof=1)), float(noise.mean())
    if spread == 0 and token_part == 0:
        return Bottleneck(None, "The gains do not vary at all.", 0.0, 0.0, None, float(lengths.mean()), n)
    document_part = max(0.0, spread - token_part)
    share = token_part / (document_part + token_part)
    doubled = 100 * (1 - math.sqrt(1 - share / 2))
    advice: Literal["more documents", "longer documents"] = "longer documents" if share > 0.5 else "more documents"
    effect = f"documents twice as long would narrow the interval by about {doubled:.0f} %, twice as many by about 29 %"
    where = "chance within documents" if share > 0.5 else "differences between documents"
    reason = f"{100 * max(share, 1 - share):.0f} % of the spread is {where}: {effect}."
    return Bottleneck(
        advice, reason, math.sqrt(document_part), math.sqrt(float((noise * lengths).mean())), share, float(lengths.mean()), n
    )
