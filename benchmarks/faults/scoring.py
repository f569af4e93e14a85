"""What the results come to: pure functions of the results, as METHODS S8.6 asks for them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from benchmarks.faults.runner import Result

CONFIDENT = ("certain", "very likely")
WORDS = ("certain", "very likely", "likely")


@dataclass(frozen=True, slots=True)
class Rate:
    """`hits` of `of`, with Clopper and Pearson's exact 95 % interval."""

    hits: int
    of: int

    @property
    def share(self) -> float | None:
        return self.hits / self.of if self.of else None

    def interval(self) -> tuple[float, float]:
        from scipy.stats import beta

        low = float(beta.ppf(0.025, self.hits, self.of - self.hits + 1)) if self.hits else 0.0
        high = float(beta.ppf(0.975, self.hits + 1, self.of - self.hits)) if self.hits < self.of else 1.0
        return low, high

    def __str__(self) -> str:
        if not self.of:
            return "none"
        low, high = self.interval()
        return f"{self.hits} of {self.of} ({self.hits / self.of:.0%}; {low:.0%} to {high:.0%})"


def rate(results: Iterable[Result], hit: Callable[[Result], bool]) -> Rate:
    rows = list(results)
    return Rate(sum(map(hit, rows)), len(rows))


def said(result: Result) -> list[tuple[str, str]]:
    """What was named: present, and with a word that claims something."""
    return [(code, word) for code, word in result.present if word != "cannot tell"]


def named(result: Result) -> str | None:
    """The code named first, or None: it abstained."""
    return said(result)[0][0] if said(result) else None


def right_first(result: Result) -> bool:
    return named(result) in result.accept


def abstained(result: Result) -> bool:
    return named(result) is None


def wrong_and_confident(result: Result) -> bool:
    return bool(said(result)) and not right_first(result) and said(result)[0][1] in CONFIDENT


def accused(result: Result) -> bool:
    """On a healthy run: anything named, an error, a refusal, or a crash."""
    return bool(said(result)) or result.verdict == "refused" or result.crash is not None


def came_out(result: Result) -> set[str]:
    """What the run came to by measurement, whatever was put in: too few documents to tell (G10), forgetful (I02).

    METHODS calls a run healthy that improved and kept what the base could do (topic 8, row Z). One that was put in as healthy and came out
    otherwise has that very cause, and to name it is no false alarm; to name any other is.
    """
    return {code for code, so in (("G10", result.verdict == "inconclusive"), ("I02", result.forgot is True)) if so}


def alarmed(result: Result) -> bool:
    """A false alarm: on a healthy run anything named that it did not come to, an error, a refusal, or a crash."""
    return accused(result) and (
        result.crash is not None
        or result.error is not None
        or result.verdict == "refused"
        or not {code for code, _ in said(result)} <= came_out(result)
    )


def faults(results: Iterable[Result]) -> list[Result]:
    return [r for r in results if not r.is_healthy]


def healthy(results: Iterable[Result]) -> list[Result]:
    return [r for r in results if r.is_healthy]


def recalled(result: Result, code: str) -> bool:
    """Whether the cause that was put in, or another that is accepted for it, stands anywhere among those named."""
    others = set(result.accept) - set(result.code.split("+"))
    return any(c == code or c in others for c, _ in said(result))


def recall_by_cause(results: Iterable[Result]) -> dict[str, tuple[Rate, Rate]]:
    """Code to (named anywhere, named first or an accepted one first); a pair counts for both of its rows."""
    by: dict[str, list[Result]] = defaultdict(list)
    for r in faults(results):
        for code in r.code.split("+"):
            by[code].append(r)
    return {code: (rate(rows, lambda r, c=code: recalled(r, c)), rate(rows, right_first)) for code, rows in sorted(by.items())}  # type: ignore[misc]


def reliability(results: Iterable[Result]) -> dict[str, Rate]:
    """How often a first answer with this word was right, over faults and healthy runs alike."""
    rows = [(said(r)[0][1], right_first(r)) for r in results if said(r)]
    return {word: Rate(sum(right for w, right in rows if w == word), sum(w == word for w, _ in rows)) for word in WORDS}


def certainty_table(results: Iterable[Result]) -> dict[str, dict[str, list[int]]]:
    """By code and word, [right, of] over every naming, first or not: right where the code is accepted. Development runs only."""
    counts: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(lambda: [0, 0]))
    for r in results:
        for code, word in said(r):
            if not r.error and word != "certain" and r.part == "development":
                counts[code][word][0] += code in r.accept
                counts[code][word][1] += 1
    return {code: dict(words) for code, words in sorted(counts.items())}


def majority(results: Sequence[Result]) -> Rate:
    """The baseline that always names the commonest cause of the development part."""
    learn, test = [r for r in faults(results) if r.part == "development"], faults(results)
    if not learn:
        return Rate(0, 0)
    guess = Counter(r.code for r in learn).most_common(1)[0][0]
    return rate(test, lambda r: guess in r.accept)


def chance(results: Sequence[Result]) -> float:
    """Expected share of right first answers if the truths were dealt out anew at random (METHODS C8.2), exactly: no shuffling needed."""
    rows = faults(results)
    answers = Counter(named(r) for r in rows)
    return sum(answers[code] for r in rows for code in set(r.accept)) / len(rows) ** 2 if rows else 0.0
