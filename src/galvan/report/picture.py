"""The result and what could have been seen, on one axis in percent of perplexity (METHODS S2.4): as a small SVG, and as a line of text.

Low band: changes smaller than the margin. Tall band: changes that these documents would usually miss. Dot and whisker: the result
and its 95 % interval. Left of zero is better.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from xml.sax.saxutils import escape

from galvan.statistics.paired import Gain
from galvan.statistics.power import sensitivity_sentence
from galvan.statistics.ratio import Interval, percent_of_perplexity

WIDTH, HEIGHT, EDGE, MIDDLE = 640, 130, 30, 58
COLUMNS = 61
_STEPS = (1, 2, 5)


@dataclass(frozen=True, slots=True)
class Axis:
    """What is drawn, in percent of perplexity; `unseen` and `whisker` are None where they are not defined."""

    result: float
    whisker: Interval | None
    margin: Interval
    unseen: Interval | None
    reach: float

    def at(self, percent: float, width: float) -> float:
        """The place of `percent` on an axis of this width, from 0."""
        return (percent / self.reach + 1) / 2 * width

    def ticks(self) -> list[float]:
        """Round numbers around zero, at most nine."""
        step = next(s * 10.0**e for e in range(-6, 7) for s in _STEPS if self.reach / (s * 10.0**e) <= 4)
        return [k * step for k in range(-4, 5) if abs(k * step) <= self.reach]


def axis(test: Gain) -> Axis:
    margin = _band(test.margin)
    unseen = None if test.mde80_percent is None else _band(-math.log1p(-test.mde80_percent / 100))
    drawn = [test.perplexity_change_percent, *margin, *(unseen or ()), *(test.perplexity_change_ci95 or ())]
    return Axis(test.perplexity_change_percent, test.perplexity_change_ci95, margin, unseen, 1.1 * max(map(abs, drawn)))


def _band(nats: float) -> Interval:
    """A gain of +-nats a token, as changes of perplexity."""
    return Interval(percent_of_perplexity(nats), percent_of_perplexity(-nats))


def in_words(test: Gain) -> str:
    """What the picture shows, for those who do not see it."""
    interval = (
        "no interval"
        if test.perplexity_change_ci95 is None
        else "95 % interval {:+.2f} to {:+.2f} %".format(*test.perplexity_change_ci95)
    )
    return (
        f"Perplexity changed by {test.perplexity_change_percent:+.2f} % ({interval}). The margin is {test.margin:g} nats a token, "
        f"about {abs(percent_of_perplexity(test.margin)):.2g} % of perplexity. {sensitivity_sentence(test.n_documents, test.mde80_percent)}"
    )


def power_svg(test: Gain) -> str:
    """A whole SVG file; nothing in it comes from data but numbers."""
    a, width = axis(test), WIDTH - 2 * EDGE

    def x(percent: float) -> float:
        return EDGE + a.at(percent, width)

    def band(span: Interval, height: int, colour: str, name: str) -> str:
        return f'<rect x="{x(span.low):.1f}" y="{MIDDLE - height // 2}" width="{x(span.high) - x(span.low):.1f}" height="{height}" fill="{colour}" class="{name}"/>'

    ticks = "".join(
        f'<path d="M{x(t):.1f} 90v5" stroke="#555" class="axis"/><text x="{x(t):.1f}" y="108" text-anchor="middle">{t:+g} %</text>' if t else
        f'<path d="M{x(0):.1f} 22V95" stroke="#555" stroke-dasharray="3 3" class="axis"/><text x="{x(0):.1f}" y="108" text-anchor="middle">0</text>'
        for t in a.ticks()
    )  # fmt: skip
    whisker = (
        ""
        if a.whisker is None
        else f'<path d="M{x(a.whisker.low):.1f} {MIDDLE}H{x(a.whisker.high):.1f}" stroke="#b30000" stroke-width="2.5" class="result"/>'
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img" '
        'aria-labelledby="title desc" font-family="sans-serif" font-size="12" fill="#222">\n'
        f'<title id="title">Change of perplexity and what could have been seen: {test.verdict}</title>\n'
        f'<desc id="desc">{escape(in_words(test))}</desc>\n'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff" class="paper"/>\n'
        + (band(a.unseen, 56, "#e4e4e4", "unseen") if a.unseen else "") + band(a.margin, 36, "#b8b8b8", "margin")
        + f'\n<path d="M{EDGE} 90H{WIDTH - EDGE}" stroke="#555" class="axis"/>{ticks}\n{whisker}<circle cx="{x(a.result):.1f}" cy="{MIDDLE}" r="5" fill="#b30000" class="resultdot"/>\n'
        f'<text x="{EDGE}" y="16">better</text><text x="{WIDTH - EDGE}" y="16" text-anchor="end">worse</text>'
        f'<text x="{WIDTH / 2:g}" y="126" text-anchor="middle">change of perplexity; tall band: would usually go unseen, low band: below the margin</text>\n</svg>\n'
    )  # fmt: skip


def power_line(test: Gain) -> str:
    """The same in 61 characters between its ends: `:` would go unseen, `=` is below the margin, `o` the result, `-` its interval, `|` zero."""
    a = axis(test)
    cells = [" "] * COLUMNS

    def put(span: Interval | None, mark: str) -> None:
        if span is not None:
            for i in range(_column(a, span.low), _column(a, span.high) + 1):
                cells[i] = mark

    put(a.unseen, ":")
    put(a.margin, "=")
    put(a.whisker, "-")
    cells[_column(a, 0.0)] = "|"
    cells[_column(a, a.result)] = "o"
    return f"{-a.reach:+.2g} % [{''.join(cells)}] {a.reach:+.2g} %"


def _column(a: Axis, percent: float) -> int:
    return round(a.at(percent, COLUMNS - 1))
