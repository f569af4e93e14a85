"""Every number that a cause decides by, in one place; frozen on the development part of the fault benchmark (METHODS S8.5)."""

from __future__ import annotations

from typing import Final

# ---- E to I: data, loss, arithmetic, generation, outcome ----

ENDS_LEARNED: Final = 0.5  # share of rows whose end is learned, below which a model is not taught to stop (E01)
LOST_TARGETS: Final = 0.02  # share of the tokens to learn that truncation may take (E06)
MUCH_LOST: Final = 0.2  # from here truncation is decisive by itself (E06)
LOSS_SHARE: Final = 0.02  # how far a loss may be from its definition, as a share (E11, F01, F03)
PASSES_SHARE: Final = 1e-3  # the same of several passes (F01), where it is also
PASSES_TIMES: Final = 100.0  # so many times the error of one pass, which rounding alone never is (F01)
LOGGED_LOSS: Final = 0.15  # how far the first logged loss may be from k times the base's NLL, as a share (F02, F04)
ODD_LOSS: Final = 0.5  # a first loss further from the base's than this share is not the base's (E11)
PADDING_NATS: Final = 0.5  # a token whose NLL moves by so much with padding is not rounding, in any dtype (E13, G02)
DESIGN_EFFECT: Final = 1.5  # an interval over tokens is too narrow by the root of this or more (G09)
SAME_WIDTH: Final = 0.1  # how near two intervals' widths must be to be the same computation (G08, G09)
STOPPED: Final = 0.05  # share of samples that end by themselves, below which nothing seems to stop (E01)
FEWEST_SAMPLES: Final = 10  # samples below which a share says nothing (E01, H02)
FEWEST_SEEDS: Final = 3  # training seeds below which their spread is not known (I03)
MOST_DECIMALS: Final = 6  # a reported figure with no more decimals was rounded to them
FLOAT_SHARE: Final = 2e-5  # rounding of float32 in a perplexity that was not rounded for print

# ---- A to D: adapter, scaling, training ----

IN_BASE_SE: Final = 5.0  # standard errors by which the share of the update in the base's weights must be above 0 (C04)
IN_BASE_SPREAD: Final = 0.35  # most that this share may scatter between modules (C04)
MERGE_KEPT: Final = 0.7  # share of its update that a merge must keep (C03, C08)
CHANGED_ENTRIES: Final = 0.25  # share of a whole model's entries that a training or merge in 16 bits must change (C03, C07)
CLEARLY_LOWER: Final = 0.05  # nats a token by which a sweep's lowest NLL must be below that of the scale as it is (C01)
RSLORA_SHARE: Final = (
    2.0  # gain at the lowest point of the sweep, in gains of the scale as it is, from which the scale is suspected (C01)
)
LOG_FELL: Final = 0.05  # share by which the logged training loss must fall to count as learned (A10)
FEW_BLOCKS: Final = 0.5  # share of the base's blocks that an adapter reaches, below which its targets are suspected (B12)
LOW_RATES: Final = {
    "lora": 2e-5,
    "full": 2e-7,
}  # peak learning rates up to which hardly anything is learned (D05; METHODS 8, cause E)
USUAL_RATES: Final = {
    "lora": 1e-4,
    "full": 1e-6,
}  # peak learning rates from which one is usual; below, one that taught nothing is suspected (D05)
HIGH_RATES: Final = {"lora": 3e-3, "full": 3e-3}  # peak learning rates from which a run that got worse was driven too hard (D12)
LEAST_MOVE: Final = 2e-5  # with Adam no entry of lora_B travels further than the sum of the rates: below one usual step (D05)
SHORT_MOVE: Final = 1e-3  # below some ten usual steps (D05, D06)
FEW_STEPS: Final = 10  # below which hardly any run has moved (D06)
SHORT_RUN: Final = 50  # below which a run that has not learned was short (D06; METHODS 8, cause E)
WARMUP_SHARE: Final = 0.5  # share of the run before the highest rate, from which warm-up ate it (D07)
# From this share of warm-up the rate was still rising when the run ended: its peak is not the one that was asked for (D05, D07).
WHOLE_WARMUP: Final = 0.95
SPIKE: Final = 10.0  # gradient norms above so many medians (D12)
LOSS_JUMP: Final = 1.5  # losses above so many first ones (D12)
MASKED_ROWS: Final = 0.5  # share of training rows without a token to learn, from which most are masked (D04)
GRADIENT_LEFT: Final = 1e-3  # gradient found before a step's own is added, as a share of the step's (D10)
