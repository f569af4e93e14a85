"""Figures as people read them: one place, so that page, terminal and analysis say the same."""

from __future__ import annotations

from collections.abc import Sequence

from galvan.compare import Control
from galvan.compare_seeds import SeedsCompared
from galvan.report.markdown import md
from galvan.statistics.paired import Gain
from galvan.statistics.ratio import Interval

CONTROL_NAMES = {
    "base_vs_base": "base against itself", "zero_adapter": "adapter of zeros", "random_b": "adapter of random numbers",
    "shuffled_text": "test text shuffled", "shuffled_author": "author's text shuffled",
}  # fmt: skip


def plural(n: int, noun: str) -> str:
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def epochs(number: float) -> str:
    return f"{number:g} epoch" + ("" if number == 1 else "s")


def percent(value: float) -> str:
    """A signed percentage; two digits below 1 %, one above."""
    return f"{value:+.{2 if abs(value) < 1 else 1}f} %"


def percent_interval(interval: Interval | None) -> str:
    if interval is None:
        return "interval not defined"
    digits = 2 if max(abs(interval.low), abs(interval.high)) < 1 else 1
    return f"95 % interval {interval.low:+.{digits}f} to {interval.high:+.{digits}f} %"


def nats(value: float, interval: Interval | None = None) -> str:
    tail = "" if interval is None else f" ({interval.low:+.4f} to {interval.high:+.4f})"
    return f"{value:+.4f} nats a token{tail}"


def sentence(text: str) -> str:
    """First letter large, full stop at the end."""
    text = text.strip()
    return text if not text else text[0].upper() + text[1:] + ("" if text[-1] in ".!?:`" else ".")


def told(lines: Sequence[str], refused: bool) -> str:
    """What speaks for or against a cause; of a refused comparison no sentence that gives a perplexity."""
    kept = [line for line in lines if not refused or "perplexity" not in line.lower()]
    return " ".join(map(sentence, kept)) or ("Withheld: the comparison is refused." if lines else "")


def control_line(name: str, control: Control) -> str:
    word = {"ok": "passed", "failed": "FAILED", None: "not run"}[control.status]
    return f"{CONTROL_NAMES.get(name, name)}: {word}. {control.reason}"


def sensitivity(test: Gain) -> list[str]:
    """What these documents could not have shown and, where they were too few to tell, how many would be enough (METHODS S2.1, S2.2)."""
    lines = [test.sensitivity]
    margin, observed = test.documents_needed_for_margin, test.documents_needed_for_observed
    if test.verdict == "inconclusive" and margin is not None:
        lines.append(f"To see a change as large as the margin: {margin}, about {margin.tokens80:,} tokens")
    if test.verdict == "inconclusive" and observed is not None:
        lines.append(f"To see a change as large as the one observed, for planning only: {observed}")
    return lines


def recipe_line(known: SeedsCompared) -> str:
    """The gain of the recipe beside that of this adapter, and which is which."""
    gain = known.gain
    if gain is None:
        return f"The recipe, over {plural(len(known.seeds), 'training seed')}: not known. {known.reason}"
    interval = "interval not defined" if gain.ci95 is None else f"95 % interval {gain.ci95.low:+.4f} to {gain.ci95.high:+.4f}"
    return (
        f"The recipe, over {gain.n_seeds} training seeds: {gain.verdict}, {gain.nats_per_token:+.4f} nats a token ({interval}), "
        f"what another training run would gain on other documents. {gain.reason}"
    )


def bullets(lines: list[str], escaped: bool = False) -> str:
    """A Markdown list of sentences; they are escaped here unless they were already."""
    return "\n".join(f"- {line if escaped else md(sentence(line))}" for line in lines)
