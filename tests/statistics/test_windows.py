"""Every token predicted once, in lm-eval's windows (METHODS S3.5, C3.1)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from galvan.errors import RecipeError
from galvan.statistics import rolling_windows, share_with_little_context

lengths = st.integers(0, 400)
contexts = st.integers(1, 60).flatmap(lambda most: st.tuples(st.just(most), st.integers(1, most)))


def documented(n_tokens, max_length, context):
    """lm-eval's rule as its docstring states it, written token by token: (inputs, predicted) with -1 for the prefix.

    The first window predicts as many tokens as it holds; each later one the next max_length - context + 1, or what is left,
    from the max_length tokens just before its last prediction.
    """
    text = list(range(n_tokens))
    shifted = [-1, *text]
    found, predicted = [], 0
    while predicted < n_tokens:
        new = max_length if predicted == 0 else max_length - context + 1
        targets = text[predicted : predicted + new]
        last = targets[-1]
        inputs = [shifted[i] for i in range(last + 1) if i > last - max_length]
        found.append((inputs, targets))
        predicted += len(targets)
    return found


def as_lists(n_tokens, windows):
    ids = [-1, *range(n_tokens)]
    return [(ids[w.start : w.end - 1], ids[w.first_scored : w.end]) for w in windows]


@given(lengths, contexts)
def test_windows_are_the_documented_ones(n_tokens, sizes):
    assert as_lists(n_tokens, rolling_windows(n_tokens, *sizes)) == documented(n_tokens, *sizes)


@given(lengths, contexts)
def test_every_token_is_predicted_exactly_once_and_no_window_is_too_long(n_tokens, sizes):
    most, context = sizes
    windows = rolling_windows(n_tokens, most, context)
    scored = [i for window in windows for i in range(window.first_scored, window.end)]
    assert scored == list(range(1, n_tokens + 1))
    for window in windows:
        assert 1 <= window.n_inputs <= most and window.start >= 0
        assert window.first_scored == 1 or window.first_scored - window.start >= context
    assert sum(window.n_scored for window in windows) == n_tokens


def test_lm_eval_itself_gives_these_windows():
    utils = pytest.importorskip("lm_eval.utils")
    for n_tokens in (0, 1, 9, 10, 11, 34, 101):
        for most, context in ((10, 1), (10, 5), (10, 10), (7, 3), (1, 1)):
            theirs = [(list(a), list(b)) for a, b in utils.get_rolling_token_windows(list(range(n_tokens)), -1, most, context)]
            assert as_lists(n_tokens, rolling_windows(n_tokens, most, context)) == theirs


def test_lm_eval_s_own_known_answer():
    # From its tests: 34 tokens, max_seq_len 10, context_len 5 predicts 10, then 6 at a time.
    assert [w.n_scored for w in rolling_windows(34, 10, 5)] == [10, 6, 6, 6, 6]
    assert [w.n_scored for w in rolling_windows(34, 10, 1)] == [10, 10, 10, 4]
    assert rolling_windows(34, 10, 1)[-1].n_inputs == 10


def test_overlap_is_half_by_default():
    assert rolling_windows(1000, 256) == rolling_windows(1000, 256, 128)
    assert rolling_windows(5, 1) == rolling_windows(5, 1, 1)


@given(lengths, contexts, st.integers(1, 80))
def test_the_share_with_little_context_is_that_of_a_count_by_hand(n_tokens, sizes, least):
    windows = rolling_windows(n_tokens, *sizes)
    little = [i - w.start < least for w in windows for i in range(w.first_scored, w.end)]
    expected = sum(little) / len(little) if little else None
    assert share_with_little_context(windows, least) == expected


def test_half_overlapping_windows_of_128_leave_little_context_only_at_the_start():
    windows = rolling_windows(1000, 128)
    assert share_with_little_context(windows) == pytest.approx(63 / 1000)


@pytest.mark.parametrize(("most", "context"), [(10, 0), (10, 11), (0, 1)])
def test_impossible_overlaps_are_refused(most, context):
    with pytest.raises(RecipeError, match=f"Windows of {most} tokens cannot overlap by {context}"):
        rolling_windows(5, most, context)
