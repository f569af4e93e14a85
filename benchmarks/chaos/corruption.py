"""Files damaged at rest: every region of every file truncated, flipped or zeroed. What reads it names it, or nothing at all depends on it."""

from __future__ import annotations

import itertools
import os
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

from benchmarks.chaos.trials import Trial
from benchmarks.chaos.verbs import ENDED, RUN, TINY, VERBS
from galvan import recipe as recipes
from galvan.errors import GalvanError
from processes import galvan

REGIONS = 16
Damage = Callable[[bytes, int, int, random.Random], bytes]
DAMAGES: dict[str, Damage] = {
    "truncated": lambda b, begin, end, rng: b[:begin],
    "flipped": lambda b, begin, end, rng: _flipped(b, rng.randrange(begin, end), rng.randrange(8)),
    "zeroed": lambda b, begin, end, rng: b[:begin] + bytes(end - begin) + b[end:],
}


def _flipped(content: bytes, place: int, bit: int) -> bytes:
    out = bytearray(content)
    out[place] ^= 1 << bit
    return bytes(out)


def damaged(content: bytes, rng: random.Random, regions: int = REGIONS) -> Iterator[tuple[str, bytes]]:
    """Each damage of each region of a file, with its name; what changes nothing is left out."""
    edges = sorted({len(content) * k // regions for k in range(regions + 1)})
    for begin, end in itertools.pairwise(edges):
        for name, damage in DAMAGES.items():
            after = damage(content, begin, end, rng)
            if after != content:
                yield f"{name} at {begin:,} of {len(content):,}", after


def _judge(place: Path) -> None:
    """In this process; pages name the run as the command line does."""
    from galvan.report import judge

    os.chdir(place)
    judge(RUN)


def _judging(place: Path, name: str, before: dict[str, bytes]) -> Iterator[str]:
    """`galvan report` after the damage: it names the file, or comes to the very same."""
    try:
        _judge(place)
    except GalvanError as error:
        if Path(name).name not in str(error):
            yield f"the message names another file: {error}"
        if (place / RUN / "verdict.json").exists():
            yield "a verdict was left"
        return
    except Exception as error:
        yield f"{type(error).__name__}: {error}"
        return
    yield from (
        f"{key} is another one and nothing was said"
        for key, value in VERBS["report"].results(place).items()
        if before[key] != value
    )


def _judging_unmarked(place: Path, name: str, before: dict[str, bytes]) -> Iterator[str]:
    """The same where no stage's checksum is at hand, as for files that another program wrote: refused or judged, never a crash."""
    shutil.rmtree(place / RUN / "stages")
    try:
        _judge(place)
    except GalvanError:
        return
    except Exception as error:
        yield f"{type(error).__name__}: {error}"


def _voting(place: Path, name: str, before: dict[str, bytes]) -> Iterator[str]:
    """The ratings: named as damaged, or every vote is as it was."""
    from galvan.app.ratings import ratings
    from galvan.app.store import Store

    def votes() -> list[tuple[object, ...]]:
        with closing(Store(place / RUN)) as store:
            rows = store._db.execute("SELECT rater, pair, choice, arm, reason, undone_at IS NULL FROM votes ORDER BY id").fetchall()
        return [*rows, (repr(ratings(place / RUN)),)]

    try:
        found = votes()
    except GalvanError as error:
        if "ratings.sqlite" not in str(error):
            yield f"the message names another file: {error}"
        return
    except Exception as error:
        yield f"{type(error).__name__}: {error}"
        return
    if repr(found).encode() != before["votes"]:
        yield "votes are other ones and nothing was said"


def _checking(place: Path, name: str, before: dict[str, bytes]) -> Iterator[str]:
    """A model from elsewhere: refused by name, or its recorded fingerprint is another one, so that no score of before is taken for it."""
    from galvan import models
    from galvan.story import _file_digests

    folder = (place / name).parent
    located = models.Located(str(folder), folder)
    stem = "adapter_model" if (folder / "adapter_config.json").is_file() or "adapter" in name else "model"
    try:
        models.weight_files(located, stem)
        prints = repr(_file_digests(folder))
    except GalvanError as error:
        if Path(name).name not in str(error) and folder.name not in str(error):
            yield f"the message names another file: {error}"
        return
    except Exception as error:
        yield f"{type(error).__name__}: {error}"
        return
    if prints.encode() == before["prints"]:
        yield "the fingerprint did not change"


def _reading_recipe(place: Path, name: str, before: dict[str, bytes]) -> Iterator[str]:
    """The recipe: refused by name, or it is a recipe, whose every value the run then records."""
    try:
        recipes.load(place / name)
    except GalvanError as error:
        if Path(name).name not in str(error):
            yield f"the message names another file: {error}"
    except Exception as error:
        yield f"{type(error).__name__}: {error}"


def _sweeping(place: Path, name: str, before: dict[str, bytes]) -> Iterator[str]:
    """`galvan sweep` after the damage: it names the file, or ends with the same trials in the same bytes."""
    done = galvan(*VERBS["sweep"].command, cwd=place)
    if "Traceback" in done.err or (done.code not in ENDED and Path(name).name not in done.err):
        yield f"ended with {done.code}: {done.err[-600:]}"
    if done.code in ENDED:
        yield from (f"{key} differs" for key, value in VERBS["sweep"].results(place).items() if before[key] != value)


def _running(place: Path, name: str, before: dict[str, bytes]) -> Iterator[str]:
    """`galvan run` after the damage makes anew what was damaged, and ends in the same bytes."""
    done = galvan("run", "recipe.yaml", *TINY, cwd=place)
    if done.code not in ENDED or "Traceback" in done.err:
        yield f"ended with {done.code}: {done.err[-600:]}"
        return
    yield from (f"{key} differs" for key, value in VERBS["run"].results(place).items() if before[key] != value)


def _files(place: Path, *patterns: str) -> list[str]:
    return sorted({str(p.relative_to(place)) for pattern in patterns for p in place.glob(pattern) if p.is_file()})


def campaigns(
    place: Path,
) -> dict[str, tuple[list[str], Callable[[Path, str, dict[str, bytes]], Iterator[str]], dict[str, bytes], int]]:
    """By name: the files of the finished run in `place` that are damaged, what is asked then, what was so before, and into how many regions."""
    from galvan.story import _file_digests

    votes = _votes_of(place)
    _judge(place)
    judged = {**VERBS["report"].results(place), "votes": votes}
    evidence = _files(
        place, "runs/small/*.json*", "runs/small/*.parquet", "runs/small/data/*", "runs/small/stages/*", "runs/small/recipe.yaml"
    )
    made = ("verdict", "findings", "comparisons", "style", "originality", "retention")
    evidence = [name for name in evidence if Path(name).stem not in made or name.endswith("parquet")]
    weights = {folder: {"prints": repr(_file_digests(place / folder)).encode()} for folder in ("tiny", "foreign")}
    return {
        "report": (evidence, _judging, judged, REGIONS),
        "report without checksums": (evidence, _judging_unmarked, judged, 4),
        "votes": (["runs/small/ratings.sqlite"], _voting, judged, 64),
        "base": (["tiny/model.safetensors", "tiny/config.json"], _checking, weights["tiny"], 32),
        "adapter": (["foreign/adapter_model.safetensors", "foreign/adapter_config.json"], _checking, weights["foreign"], 32),
        "recipe": (["recipe.yaml"], _reading_recipe, judged, 128),
        "run": ([*_files(place, "runs/small/*.parquet", "runs/small/samples.jsonl", "runs/small/data/train.jsonl", "runs/small/integrity.json", "runs/small/adapter/adapter_*", "runs/small/stages/*")], _running, VERBS["run"].results(place), 2),
        "sweep": (["swept/study.journal"], _sweeping, VERBS["sweep"].results(place), 32),
    }  # fmt: skip


def _votes_of(place: Path) -> bytes:
    from galvan.app.ratings import ratings
    from galvan.app.store import Store

    with closing(Store(place / RUN, 5)) as store:
        while store.place("Ada").left is not None:
            store.vote("Ada", store.place("Ada").number, "left", "because")
        rows = store._db.execute("SELECT rater, pair, choice, arm, reason, undone_at IS NULL FROM votes ORDER BY id").fetchall()
    return repr([*rows, (repr(ratings(place / RUN)),)]).encode()


def trials(origin: Path, scratch: Path, wanted: int | None, rng: random.Random, only: set[str] | None = None) -> Iterator[Trial]:
    """All damages of all campaigns, or `wanted` of each drawn by `rng`."""
    here, whole, sound = Path.cwd(), scratch / "w", scratch / "sound"
    for copy in (whole, sound):
        shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(origin, whole)
    if not only or "sweep" in only:
        swept = galvan(*VERBS["sweep"].command, cwd=whole)
        assert swept.code in ENDED, swept.err
    asked = campaigns(whole)
    os.chdir(here)  # judging goes into the folder, which is taken away before each trial
    shutil.copytree(whole, sound)
    for kind, (names, ask, before, regions) in asked.items():
        if only and kind not in only:
            continue
        todo = [(name, how, after) for name in names for how, after in damaged((sound / name).read_bytes(), rng, regions)]
        for name, how, after in todo if wanted is None or wanted >= len(todo) else rng.sample(todo, wanted):
            shutil.rmtree(whole, ignore_errors=True)
            shutil.copytree(sound, whole)
            (whole / name).write_bytes(after)
            problems = tuple(ask(whole, name, before))
            os.chdir(here)
            yield Trial(kind, "corruption", f"{name} {how}", problems)
