"""Mutants that no test can see, each with the reason why it changes no result. A test finds entries whose line is no longer there."""

EXPLAINED = {
    "statistics/multiple.py _tosses: rows * n_units + 7 -> rows * n_units + 8": "One random byte more is drawn at most, and no toss is taken from it.",
    "statistics/bottleneck.py _noise_of_mean: -1 -> -2": "NumPy takes every negative length in a reshape for the one to infer.",
    "statistics/power.py documents_needed: required(answer) - 1e-09 -> required(answer) + 1e-09": "One document more where the number is whole, which the loop after it takes back.",
    "statistics/extrapolation.py fit_power_law: best + 1 -> best + 2": "The next, finer grid reaches one point further; its minimum is the same.",
    "likelihood.py token_nll: dim=-1 -> dim=+1": "The logits there have two dimensions, of which 1 is the last.",
    "likelihood.py _ChunkedNLL.forward: dim=-1 -> dim=+1": "The logits of a chunk have two dimensions, of which 1 is the last.",
    "likelihood.py supports_chunks: torch.arange(17, device=head.weight.device) -> torch.arange(18, device=head.weight.device)": "Both ways are tried on one token more.",
    "likelihood.py supports_chunks: torch.arange(17, device=head.weight.device)[None] * 7919 -> torch.arange(17, device=head.weight.device)[None] * 7920": "Both ways are tried on other words, as far apart.",
    "likelihood.py _head_is_last: use_cache=False -> use_cache=True": "Keys and values that nobody asks for again change no logit.",
    "likelihood.py _head_is_last.large: -1000 -> -1001": "No soft cap or bound that moves -1000 leaves -1001.",
    "measure/scoring.py _sequence_nll: job[1].end - job[1].start -> job[1].end + job[1].start": "Windows that do not begin at 0 are as long as any, so that the longest come first all the same.",
    "measure/scoring.py _sequence_nll: sum((w.end - w.first_scored for _, w in part)) * distributed.world() -> sum((w.end - w.first_scored for _, w in part)) / distributed.world()": "One process alone multiplies by 1; of several it would move a progress bar alone.",
    "measure/adapter_files.py _ask_peft: trust_remote_code=False -> trust_remote_code=True": "A base whose config names code is refused before PEFT is asked.",
    "measure/adapter_files.py _ask_peft: trust_remote_code=False -> trust_remote_code=True (2)": "A base whose config names code is refused before PEFT is asked.",
    "measure/adapter_files.py _matrix: copy=False -> copy=True": "A copy has the same values.",
    "measure/live.py _twins.same: 0 < len(one) == len(other) -> 1 < len(one) == len(other)": "Every layer adds three tensors, so that there are none or at least three.",
    "measure/live.py behind: logits.gather(-1, ids[0, start:, None]) -> logits.gather(+1, ids[0, start:, None])": "The logits there have two dimensions, of which 1 is the last.",
    "likelihood.py : CHUNK_ROWS = 1024 -> CHUNK_ROWS = 1025": "However many rows a chunk has, the sums are the same.",
    "statistics/curves.py _late: ci95.low > 0 -> ci95.low >= 0": "An interval of measured losses does not end at 0 exactly.",
    "statistics/curves.py _classify: whole.low <= 0 -> whole.low < 0": "An interval of measured losses does not end at 0 exactly.",
}  # fmt: skip
