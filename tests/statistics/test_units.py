"""What counts as one observation (METHODS S1.3)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from galvan.errors import DataError
from galvan.statistics import group_documents, lag1_autocorrelation, n_blocks


def test_documents_alone_are_the_unit_and_say_so():
    units = group_documents(7)
    assert units.coarse is None and units.fine.unit == "document" and units.fine.n_units == 7
    assert "documents count as independent" in units.cautions[0]


@pytest.mark.parametrize(("n", "blocks"), [(25, 6), (49, 6), (50, 8), (99, 8), (100, 10), (5000, 10), (4, 4)])
def test_one_source_is_cut_into_six_eight_or_ten_blocks(n, blocks):
    assert n_blocks(n) == blocks
    coarse = group_documents(n, sources=["book"] * n).coarse
    if n == blocks:
        assert coarse is None  # each document is a block of its own already
    else:
        assert coarse is not None and coarse.unit == "block" and coarse.n_units == blocks
        assert np.bincount(coarse.labels).max() - np.bincount(coarse.labels).min() <= 1


def test_blocks_follow_positions_and_not_the_order_given():
    rng = np.random.default_rng(0)
    positions = rng.permutation(30)
    coarse = group_documents(30, sources=["book"] * 30, positions=positions).coarse
    assert coarse is not None
    in_order = coarse.labels[np.argsort(positions)]
    assert (np.diff(in_order) >= 0).all() and set(in_order) == set(range(6))


def test_eight_sources_are_the_unit_and_seven_are_cut_into_blocks():
    eight = group_documents(40, sources=[i % 8 for i in range(40)]).coarse
    seven = group_documents(42, sources=[i % 7 for i in range(42)]).coarse
    assert eight is not None and eight.unit == "source" and eight.n_units == 8
    assert seven is not None and seven.unit == "block" and seven.n_units == 7


def test_what_a_few_sources_speak_about_is_said_of_one_and_of_two():
    said = [group_documents(24, sources=sources).cautions for sources in (["book"] * 24, ["book", "letters"] * 12)]
    assert said[0] == ("All documents come from one source: the result speaks about texts like it, not about others.",)
    assert said[1] == ("All documents come from 2 sources: the result speaks about texts like these, not about others.",)


def test_a_source_for_every_document_changes_nothing():
    units = group_documents(20, sources=list(range(20)))
    assert units.coarse is None and units.cautions == ()


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 4), min_size=6, max_size=120))
def test_no_block_crosses_a_source_and_none_is_empty(sources):
    coarse = group_documents(len(sources), sources=sources).coarse
    if coarse is None:
        return
    assert set(coarse.labels.tolist()) == set(range(coarse.n_units))
    for block in range(coarse.n_units):
        assert len({sources[i] for i in np.flatnonzero(coarse.labels == block)}) == 1


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 12)), min_size=1, max_size=80))
def test_clusters_are_never_taken_apart(labelled):
    # A cluster is a pair of copies of one text; its first document decides where it belongs.
    clusters, sources = [c for c, _ in labelled], [s for _, s in labelled]
    units = group_documents(len(labelled), clusters, sources)
    if units.coarse is None:
        return
    for cluster in set(clusters):
        assert len({int(units.coarse.labels[i]) for i, c in enumerate(clusters) if c == cluster}) == 1


def test_sums_within_units_add_up():
    grouping = group_documents(6, clusters=["a", "b", "a", "c", "b", "a"]).fine
    values = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    assert grouping.sums(values).tolist() == [10.0, 7.0, 4.0]
    assert grouping.sums(np.stack([values, -values])).tolist() == [[10.0, 7.0, 4.0], [-10.0, -7.0, -4.0]]


def test_lag_1_autocorrelation_is_found_in_reading_order_only():
    rng = np.random.default_rng(4)
    values = np.zeros(4000)
    for i in range(1, 4000):
        values[i] = 0.4 * values[i - 1] + rng.standard_normal()
    shuffled = rng.permutation(4000)
    units = group_documents(4000, sources=["book"] * 4000, positions=shuffled)
    assert lag1_autocorrelation(values[shuffled], units) == pytest.approx(0.4, abs=0.05)
    assert lag1_autocorrelation(values[shuffled], group_documents(4000, sources=["book"] * 4000)) == pytest.approx(0, abs=0.05)


def test_lag_1_autocorrelation_is_undefined_below_twelve_documents_of_a_source():
    values = np.arange(22.0)
    assert lag1_autocorrelation(values, group_documents(22, sources=["a"] * 11 + ["b"] * 11)) is None
    assert lag1_autocorrelation(values, group_documents(22)) is None
    assert lag1_autocorrelation(values, group_documents(22, sources=["a"] * 12 + ["b"] * 10)) is not None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"clusters": [1, 2]}, "`clusters` has 2 labels for 3 documents"),
        ({"sources": ["a"] * 4}, "`sources` has 4 labels for 3 documents"),
        ({"sources": ["a"] * 3, "positions": [1, 2]}, "`positions` has 2 documents where the others have 3"),
        ({"clusters": [[1], [2], [3]]}, "hashable"),
    ],
)
def test_labels_that_do_not_fit_are_refused_in_a_sentence(arguments, words):
    with pytest.raises(DataError, match=words):
        group_documents(3, **arguments)
