"""Which documents train, which choose and which judge. Every choice follows from the seed and the order of the documents."""

from __future__ import annotations

import math
import operator
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice, pairwise

import numpy as np
from numpy.typing import NDArray

from galvan import recipe
from galvan.data.store import groups, positions, sources, take
from galvan.errors import DataError
from galvan.rundir import Document

TRAIN, VALIDATION, TEST = "train", "validation", "test"


@dataclass(frozen=True, slots=True)
class Splits:
    """Documents that train, that choose (checkpoints, settings) and that judge, each in reading order."""

    train: Sequence[Document]
    validation: Sequence[Document]
    test: Sequence[Document]

    def items(self) -> Iterator[tuple[str, Sequence[Document]]]:
        yield from ((TRAIN, self.train), (VALIDATION, self.validation), (TEST, self.test))


def split(documents: Sequence[Document], how: recipe.Split, seed: int) -> Splits:
    """Divide `documents` (ordered by source and position) as `how` says: exactly, deterministically, train never empty.

    A share that rounds to nothing still gets one document. Raises DataError where there are too few documents or groups.
    """
    wanted = _sizes(len(documents), how)
    rng = random.Random(f"galvan split {seed}")  # a string seed is hashed the same way on every machine
    part_of = _METHODS[how.by](documents, wanted, how, rng)
    return Splits(*(take(documents, (n for n, part in enumerate(part_of) if part == name)) for name in (TRAIN, VALIDATION, TEST)))


def without_gap(splits: Splits, gap: int) -> tuple[Splits, Sequence[Document]]:
    """`splits` without the training documents that stand within `gap` places of a held-out one of their source, and these documents.

    Raises DataError if none is left to train on.
    """
    held: dict[str, set[int]] = {}
    for part in (splits.validation, splits.test):
        for source, position in zip(sources(part), positions(part), strict=True):
            held.setdefault(source, set()).add(position)
    near = {source: {place + step for place in places for step in range(-gap, gap + 1)} for source, places in held.items()}
    beside = [
        position in near.get(source, ()) for source, position in zip(sources(splits.train), positions(splits.train), strict=True)
    ]
    kept = take(splits.train, (number for number, is_near in enumerate(beside) if not is_near))
    if not kept:
        raise DataError(
            "data/too-few",
            f"data.split: a gap of {gap} documents leaves none to train on; take a smaller data.split.gap or fewer data.split.blocks.",
        )
    taken = take(splits.train, (number for number, is_near in enumerate(beside) if is_near))
    return Splits(kept, splits.validation, splits.test), taken


def share_of_train(splits: Splits, share: float, seed: int) -> tuple[Splits, Sequence[Document]]:
    """`splits` with that share of the training documents (one at least) in reading order, and the others.

    Documents are taken in one random order, which the share does not change: what a share holds, a larger one holds too.
    """
    order = list(range(len(splits.train)))
    random.Random(f"galvan train share {seed}").shuffle(order)
    chosen = set(order[: max(1, round(share * len(order)))])
    kept = take(splits.train, sorted(chosen))
    spared = take(splits.train, (number for number in range(len(splits.train)) if number not in chosen))
    return Splits(kept, splits.validation, splits.test), spared


def without(splits: Splits, ids: set[str]) -> Splits:
    """`splits` without the held-out documents of these ids. Raises DataError where that empties a part that had some."""
    validation, test = (
        take(part, [number for number, document in enumerate(part) if document.id not in ids])
        for part in (splits.validation, splits.test)
    )
    for name, before, after in ((VALIDATION, splits.validation, validation), (TEST, splits.test, test)):
        if before and not after:
            raise DataError(
                "data/leak",
                f"data.split: every {name} document shares text with training or test; split by block or group, or remove the copies.",
            )
    return Splits(splits.train, validation, test)


def runs(documents: Sequence[Document]) -> list[range]:
    """Maximal runs of neighbours, by number: same source, positions one after the other."""
    return [range(begin, end) for begin, end in pairwise([*run_begins(documents).tolist(), len(documents)])]


def run_begins(documents: Sequence[Document]) -> NDArray[np.int64]:
    """Where these runs begin."""
    named = sources(documents)
    same_source = np.fromiter(map(operator.eq, named, islice(named, 1, None)), dtype=np.bool_)
    follows = same_source & (np.diff(np.array(positions(documents), dtype=np.int64)) == 1)
    return np.flatnonzero(np.append(np.ones(min(1, len(documents)), dtype=np.bool_), ~follows))


def _sizes(total: int, how: recipe.Split) -> dict[str, int]:
    """Documents of each held-out part; a part with share 0 is left out. `random` rounds up, as scikit-learn and datasets do."""
    shares = {TEST: how.test, VALIDATION: how.validation}
    wanted = {
        part: max(1, math.ceil(total * share - 1e-9) if how.by == "random" else round(total * share))
        for part, share in shares.items()
        if share > 0
    }
    needed = len(wanted) + 1
    if total < needed:
        found = {0: "no document is left", 1: "there is one document only"}.get(total, f"there are {total} documents only")
        names = ", ".join([TRAIN, *sorted(wanted, reverse=True)])
        raise DataError(
            "data/too-few",
            f"data.split: {found}, and a split into {names} needs at least {needed}; "
            "give more text, or cut it finer with data.document_tokens.",
        )
    while sum(wanted.values()) >= total:
        wanted[max(wanted, key=lambda part: wanted[part])] -= 1
    return wanted


def _by_random(documents: Sequence[Document], wanted: dict[str, int], how: recipe.Split, rng: random.Random) -> list[str]:
    order = list(range(len(documents)))
    rng.shuffle(order)
    part_of = [TRAIN] * len(documents)
    for part, size in wanted.items():
        for index in order[:size]:
            part_of[index] = part
        del order[:size]
    return part_of


def _by_group(documents: Sequence[Document], wanted: dict[str, int], how: recipe.Split, rng: random.Random) -> list[str]:
    """Whole groups, drawn in random order while each brings the part nearer to its size; at least one a part."""
    sizes: dict[str, int] = {}
    group_of = groups(documents)
    for group in group_of:
        sizes[group] = sizes.get(group, 0) + 1
    if len(sizes) <= len(wanted):
        raise DataError(
            "data/too-few-groups",
            f"data.split: `{how.group}` has {len(sizes)} value{'s' * (len(sizes) != 1)}, and a split by group needs at least "
            f"{len(wanted) + 1}; choose another data.split.group, or data.split.by: block.",
        )
    left = sorted(sizes)
    rng.shuffle(left)
    part_of_group: dict[str, str] = {}
    for served, (part, size) in enumerate(wanted.items(), 1):
        others = len(wanted) - served + 1  # parts behind this one that need a group too, train included
        chosen: list[str] = []
        total = 0
        for group in left:
            if len(left) - len(chosen) > others and 2 * (total + sizes[group] - size) <= sizes[group]:
                chosen.append(group)
                total += sizes[group]
        chosen = chosen or [min(left, key=lambda group: sizes[group])]
        part_of_group.update(dict.fromkeys(chosen, part))
        left = [group for group in left if group not in part_of_group]
    return [part_of_group.get(group, TRAIN) for group in group_of]


def _by_stratum(documents: Sequence[Document], wanted: dict[str, int], how: recipe.Split, rng: random.Random) -> list[str]:
    """Single documents, of each value of the group column its share; what is lost by rounding goes to the largest remainders."""
    strata: dict[str, list[int]] = {}
    for index, group in enumerate(groups(documents)):
        strata.setdefault(group, []).append(index)
    for members in strata.values():
        rng.shuffle(members)
    part_of = [TRAIN] * len(documents)
    for part, size in wanted.items():
        exact = {group: size * len(members) / len(documents) for group, members in strata.items()}
        taken = {group: min(int(share), len(strata[group]) - 1) for group, share in exact.items()}
        for group in sorted(exact, key=lambda group: taken[group] - exact[group]):
            taken[group] += sum(taken.values()) < size and len(strata[group]) > taken[group] + 1
        for group in sorted(
            exact, key=lambda group: -len(strata[group])
        ):  # many values of a single document each: these have to give
            while sum(taken.values()) < size and taken[group] < len(strata[group]):
                taken[group] += 1
        for group, number in taken.items():
            for index in strata[group][:number]:
                part_of[index] = part
            del strata[group][:number]
        strata = {group: members for group, members in strata.items() if members}
    return part_of


def _by_block(documents: Sequence[Document], wanted: dict[str, int], how: recipe.Split, rng: random.Random) -> list[str]:
    """Runs of neighbours. The documents are divided into as many stretches as a part has runs, and each stretch gives one run,
    so that held-out text is spread over every source in proportion to its length; no run crosses from one source into another.
    """
    part_of = [TRAIN] * len(documents)
    source_of = [number for number, (_, members) in enumerate(groupby(sources(documents))) for _ in members]
    for part, size in wanted.items():
        stretches = min(how.blocks, size)
        missing = 0
        for number in range(stretches):
            low, high = (len(documents) * (number + side) // stretches for side in (0, 1))
            length = size * (number + 1) // stretches - size * number // stretches
            missing += _place(part, length, _free(part_of, source_of, low, high, 1), part_of, rng)
        if missing:  # sources too short or too crowded: what is left goes wherever there is room
            _place(part, missing, _free(part_of, source_of, 0, len(documents), 0), part_of, rng)
    return part_of


def _free(part_of: list[str], source_of: list[int], low: int, high: int, gap: int) -> list[range]:
    """Stretches of training documents within one source between `low` and `high`, `gap` documents away from any held-out run."""
    free = []
    for (_, is_train), members in groupby(range(low, high), key=lambda index: (source_of[index], part_of[index] == TRAIN)):
        if not is_train:
            continue
        inside = list(members)
        begin, end = inside[0], inside[-1] + 1
        held_before = begin > 0 and source_of[begin - 1] == source_of[begin] and part_of[begin - 1] != TRAIN
        held_behind = end < len(part_of) and source_of[end] == source_of[end - 1] and part_of[end] != TRAIN
        begin, end = begin + gap * held_before, end - gap * held_behind
        if begin < end:
            free.append(range(begin, end))
    return free


def _place(part: str, length: int, free: list[range], part_of: list[str], rng: random.Random) -> int:
    """Give `part` one run of `length` documents where there is room, else several shorter ones; returns what is missing."""
    starts = [len(stretch) - length + 1 for stretch in free]
    if any(count > 0 for count in starts):
        choice = rng.randrange(sum(count for count in starts if count > 0))
        for stretch, count in zip(free, starts, strict=True):
            if count > 0:
                if choice < count:
                    begin = stretch[0] + choice
                    part_of[begin : begin + length] = [part] * length
                    return 0
                choice -= count
    rng.shuffle(free)
    for stretch in free:
        taken = min(length, len(stretch))
        part_of[stretch[0] : stretch[0] + taken] = [part] * taken
        length -= taken
        if not length:
            return 0
    return length


_Method = Callable[[Sequence[Document], dict[str, int], recipe.Split, random.Random], list[str]]
_METHODS: dict[str, _Method] = {"block": _by_block, "group": _by_group, "stratified": _by_stratum, "random": _by_random}
