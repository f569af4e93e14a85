"""Splits: exact partitions, whole groups, contiguous runs, and the sentence where there is too little to split."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from galvan import recipe
from galvan.data.split import Splits, runs, share_of_train, split, without_gap
from galvan.errors import DataError
from galvan.rundir import Document


def documents(*sizes: int) -> list[Document]:
    """One source for each size, `sizes[n]` documents long."""
    return [Document(f"{s}:{p}", f"text {s} {p}", f"source {s}", p) for s, size in enumerate(sizes) for p in range(1, size + 1)]


def ids(splits: Splits) -> dict[str, list[str]]:
    return {name: [document.id for document in part] for name, part in splits.items()}


def test_one_source_gives_eight_runs_each_of_neighbours_spread_over_it() -> None:
    parts = split(documents(481), recipe.Split(), 42)
    assert (len(parts.train), len(parts.validation), len(parts.test)) == (409, 24, 48)
    for part, length in ((parts.test, 6), (parts.validation, 3)):
        assert [len(run) for run in runs(part)] == [length] * 8
        # one run in each eighth of the source
        assert [(part[run[-1]].position - 1) * 8 // 481 for run in runs(part)] == list(range(8))


def test_no_run_touches_another_held_out_run_while_there_is_room() -> None:
    for seed in range(50):
        parts = split(documents(481), recipe.Split(), seed)
        held_out = sorted([*parts.validation, *parts.test], key=lambda document: document.position)
        assert len(runs(held_out)) == 16


def test_runs_never_straddle_a_source_and_take_short_sources_whole() -> None:
    parts = split(documents(*[3] * 40), recipe.Split(test=0.2, blocks=4), 1)
    assert len(parts.test) == 24
    assert all(len({parts.test[place].source for place in run}) == 1 for run in runs(parts.test))


def test_a_source_of_one_document_each_is_split_too() -> None:
    parts = split(documents(*[1] * 100), recipe.Split(), 1)
    assert (len(parts.train), len(parts.validation), len(parts.test)) == (85, 5, 10)


def test_the_seed_decides_and_nothing_else() -> None:
    first = ids(split(documents(100, 50), recipe.Split(), 7))
    assert first == ids(split(documents(100, 50), recipe.Split(), 7))
    assert first != ids(split(documents(100, 50), recipe.Split(), 8))
    # Written down so that a release, a platform or a Python version that changes the split is noticed.
    assert ids(split(documents(40), recipe.Split(blocks=2), 42)) == GOLDEN | {
        "train": [d.id for d in documents(40) if d.id not in HELD]
    }


GOLDEN = {"validation": ["0:18", "0:32"], "test": ["0:2", "0:3", "0:37", "0:38"]}
HELD = {name for part in GOLDEN.values() for name in part}


def test_groups_stay_whole_and_a_giant_group_trains() -> None:
    parts = split(documents(200, *[5] * 20), recipe.Split(by="group"), 3)
    sources = {name: {document.source for document in part} for name, part in parts.items()}
    assert (
        not sources["train"] & sources["test"]
        and not sources["train"] & sources["validation"]
        and not sources["test"] & sources["validation"]
    )
    assert "source 0" in sources["train"]
    assert (len(parts.validation), len(parts.test)) == (15, 30)


def test_a_group_column_is_kept_whole_across_sources() -> None:
    texts = [Document(f"s:{n}", "x", "s", n, group=f"author {n % 10}") for n in range(1, 101)]
    parts = split(texts, recipe.Split(by="group", group="author"), 3)
    assert {len({document.group for document in part}) for part in (parts.validation, parts.test)} == {1}
    assert len(parts.test) == 10


def test_random_takes_single_documents() -> None:
    parts = split(documents(1000), recipe.Split(by="random"), 3)
    assert (len(parts.validation), len(parts.test)) == (50, 100)
    assert len(runs(parts.test)) > 80


def test_a_share_of_zero_leaves_a_part_empty() -> None:
    parts = split(documents(10), recipe.Split(validation=0.0, test=0.0), 3)
    assert (len(parts.train), parts.validation, parts.test) == (10, [], [])


@pytest.mark.parametrize(
    ("total", "message"),
    [
        (
            0,
            "data.split: no document is left, and a split into train, validation, test needs at least 3; "
            "give more text, or cut it finer with data.document_tokens.",
        ),
        (
            1,
            "data.split: there is one document only, and a split into train, validation, test needs at least 3; "
            "give more text, or cut it finer with data.document_tokens.",
        ),
        (
            2,
            "data.split: there are 2 documents only, and a split into train, validation, test needs at least 3; "
            "give more text, or cut it finer with data.document_tokens.",
        ),
    ],
)
def test_too_few_documents_say_how_many_are_needed(total: int, message: str) -> None:
    with pytest.raises(DataError) as caught:
        split(documents(total), recipe.Split(), 1)
    assert (caught.value.code, str(caught.value)) == ("data/too-few", message)


def test_too_few_groups_say_how_many_are_needed() -> None:
    with pytest.raises(DataError) as caught:
        split(documents(50, 50), recipe.Split(by="group"), 1)
    assert str(caught.value) == (
        "data.split: `source` has 2 values, and a split by group needs at least 3; choose another data.split.group, or data.split.by: block."
    )


SHARES = st.sampled_from([0.0, 0.01, 0.05, 0.1, 0.3, 0.49])


@settings(max_examples=300, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=12),
    by=st.sampled_from(["block", "group", "random"]),
    validation=SHARES,
    test=SHARES,
    blocks=st.integers(1, 12),
    seed=st.integers(0, 99),
)
def test_a_split_is_an_exact_ordered_deterministic_partition(
    sizes: list[int], by: str, validation: float, test: float, blocks: int, seed: int
) -> None:
    how = recipe.Split.model_validate({"by": by, "validation": validation, "test": test, "blocks": blocks})
    texts = documents(*sizes)
    try:
        parts = split(texts, how, seed)
    except DataError as error:
        assert error.code in ("data/too-few", "data/too-few-groups")
        return
    order = {document.id: number for number, document in enumerate(texts)}
    for part in (parts.train, parts.validation, parts.test):
        assert [order[document.id] for document in part] == sorted(order[document.id] for document in part)
    assert sorted(order[d.id] for _, part in parts.items() for d in part) == list(range(len(texts)))
    assert parts.train and parts == split(texts, how, seed)
    assert bool(parts.validation) == (validation > 0) and bool(parts.test) == (test > 0)
    if by != "group" and len(texts) >= 4:
        assert abs(len(parts.test) - len(texts) * test) <= 1 and abs(len(parts.validation) - len(texts) * validation) <= 1


def test_fifty_thousand_documents_split_without_quadratic_work() -> None:
    for sizes in ([50_000], [1] * 20_000, [7] * 5_000):
        for by in ("block", "group", "random"):
            if len(sizes) > 1 or by != "group":
                split(documents(*sizes), recipe.Split.model_validate({"by": by}), 1)


def test_a_gap_keeps_training_away_from_held_out_runs() -> None:
    parts = split(documents(481, 30), recipe.Split(gap=2), 42)
    kept, beside = without_gap(parts, 2)
    held = {(d.source, d.position) for d in [*kept.validation, *kept.test]}
    assert (kept.validation, kept.test) == (parts.validation, parts.test)
    assert all((d.source, d.position + step) not in held for d in kept.train for step in (-2, -1, 1, 2))
    assert all(any((d.source, d.position + step) in held for step in (-2, -1, 1, 2)) for d in beside)
    assert len(kept.train) + len(beside) == len(parts.train)
    with pytest.raises(DataError, match="leaves none to train on"):
        without_gap(split(documents(12), recipe.Split(), 1), 9)


def strata(sizes: dict[str, int]) -> list[Document]:
    return [Document(f"{name}:{n}", f"{name} {n}", "s", n, name) for name, size in sizes.items() for n in range(size)]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=12), st.integers(0, 100))
def test_stratified_parts_have_every_value_in_proportion(sizes: list[int], seed: int) -> None:
    all_documents = strata({f"v{n}": size for n, size in enumerate(sizes)})
    if len(all_documents) < 3:
        return
    how = recipe.Split(by="stratified", group="kind", test=0.2, validation=0.1)
    parts = split(all_documents, how, seed)
    assert sorted(d.id for _, part in parts.items() for d in part) == sorted(d.id for d in all_documents)
    assert (len(parts.test), len(parts.validation)) == (
        max(1, round(0.2 * len(all_documents))),
        max(1, round(0.1 * len(all_documents))),
    )
    if min(sizes) >= 10:
        for n, size in enumerate(sizes):
            assert abs(sum(d.group == f"v{n}" for d in parts.test) - 0.2 * size) <= 1


def test_a_smaller_share_of_training_is_part_of_a_larger_one() -> None:
    parts = split(documents(200), recipe.Split(), 3)
    nested = [set(ids(share_of_train(parts, share, 3)[0])["train"]) for share in (0.1, 0.25, 0.5, 1.0)]
    assert [len(some) for some in nested] == [17, 42, 85, 170]
    assert nested[0] < nested[1] < nested[2] < nested[3]
    assert share_of_train(parts, 0.1, 3)[0].test == parts.test
    assert nested[0] != set(ids(share_of_train(parts, 0.1, 4)[0])["train"])


def test_a_random_split_rounds_up_as_scikit_learn_does_so_that_the_origin_judged_on_25_of_481() -> None:
    from sklearn.model_selection import train_test_split

    parts = split(documents(481), recipe.Split(by="random", validation=0.0, test=0.05), 42)
    train, test = train_test_split(list(range(481)), test_size=0.05, random_state=0)
    assert (len(parts.train), len(parts.test)) == (len(train), len(test)) == (456, 25)
