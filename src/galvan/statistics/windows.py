"""Texts longer than the context, cut into overlapping windows so that every token is predicted exactly once (METHODS S3.5).

The cuts are those of lm-eval's `get_rolling_token_windows`, so that sums of likelihoods agree with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from galvan.errors import RecipeError

LITTLE_CONTEXT = 64


@dataclass(frozen=True, slots=True)
class Window:
    """Half-open ranges in `ids` = [prefix] + tokens, where the prefix (BOS, or an unscored first token) has index 0.

    Feed `ids[start : end - 1]` to the model; its last `end - first_scored` outputs predict `ids[first_scored : end]`.
    """

    start: int
    end: int
    first_scored: int

    @property
    def n_inputs(self) -> int:
        return self.end - 1 - self.start

    @property
    def n_scored(self) -> int:
        return self.end - self.first_scored


def rolling_windows(n_tokens: int, max_length: int, context: int | None = None) -> list[Window]:
    """Windows for `n_tokens` tokens to be predicted behind one prefix token, at most `max_length` inputs each.

    The first window predicts all it holds; each later one predicts max_length - context + 1 new tokens, so every token after
    the first window sees at least `context` tokens, the prefix or earlier text (half of max_length by default). RecipeError unless
    1 <= context <= max_length.
    """
    context = max(1, max_length // 2) if context is None else context
    if not 1 <= context <= max_length:
        raise RecipeError("score/windows", f"Windows of {max_length} tokens cannot overlap by {context}; choose 1 to {max_length}.")
    if n_tokens <= 0:
        return []
    done = min(max_length, n_tokens)
    windows = [Window(0, done + 1, 1)]
    while done < n_tokens:
        following = min(done + max_length - context + 1, n_tokens)
        windows.append(Window(following - max_length, following + 1, done + 1))
        done = following
    return windows


def share_with_little_context(windows: Sequence[Window], least: int = LITTLE_CONTEXT) -> float | None:
    """Share of the tokens predicted from fewer than `least` tokens, the prefix included; None where no token is predicted.

    Pass the windows of all documents together: shares of documents do not average.
    """
    scored = sum(window.n_scored for window in windows)
    if not scored:
        return None
    # Token i of a window sees i - start tokens.
    little = sum(max(0, min(window.end, window.start + least) - window.first_scored) for window in windows)
    return little / scored
