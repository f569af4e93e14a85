"""Drawings for the page, as SVG: pure functions from records to `Markup`, every text in them escaped, told in words in title and description.

Colours come from the page by class; the attributes are for a drawing that stands alone as a file. Whole drawings from the run's own
files pass through `trusted`, because a run may come from anywhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from xml.etree import ElementTree

from markupsafe import Markup

from galvan.report.curves import Curve, Point
from galvan.statistics.ratio import Interval
from galvan.style.explain import Moved
from galvan.text import shown

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 300, 56, 16, 14, 44
_SPACE = "{http://www.w3.org/2000/svg}"
_ELEMENTS = frozenset(["svg", "title", "desc", "g", "rect", "line", "path", "circle", "text"])
_ATTRIBUTES = frozenset(
    [
        "x",
        "y",
        "x1",
        "y1",
        "x2",
        "y2",
        "cx",
        "cy",
        "r",
        "d",
        "width",
        "height",
        "viewBox",
        "fill",
        "fill-opacity",
        "stroke",
        "stroke-width",
        "stroke-dasharray",
        "text-anchor",
        "font-size",
        "font-family",
        "role",
        "class",
    ]
)


def trusted(svg: str) -> Markup | None:
    """`svg` with nothing left in it that could act: known shapes and known attributes only; None where it is no plain SVG."""
    if "<!" in svg or len(svg) > 500_000:  # no entity, no comment, no section: ours have none
        return None
    try:
        root = ElementTree.fromstring(svg)
    except ElementTree.ParseError:
        return None
    return _rewritten(root) if root.tag == f"{_SPACE}svg" else None


def _rewritten(element: ElementTree.Element) -> Markup:
    name = element.tag.removeprefix(_SPACE)
    attributes = Markup("").join(
        Markup(' {}="{}"').format(key, value)
        for key, value in element.attrib.items()
        if key in _ATTRIBUTES and "(" not in value and (key != "class" or value.isalpha())
    )
    space = Markup(' xmlns="http://www.w3.org/2000/svg"') if name == "svg" else Markup("")
    inside = Markup("").join(
        _rewritten(child) for child in element if isinstance(child.tag, str) and child.tag.removeprefix(_SPACE) in _ELEMENTS
    )
    return Markup("<{0}{1}{2}>{3}{4}</{0}>").format(name, space, attributes, shown(element.text or "").strip(), inside)


def _svg(height: int, title: str, description: str, *marks: Markup) -> Markup:
    return Markup(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {} {}" role="img" font-family="system-ui, sans-serif" font-size="12" fill="#222">'
        "<title>{}</title><desc>{}</desc>{}</svg>"
    ).format(WIDTH, height, title, description, Markup("").join(marks))


def _text(x: float, y: float, text: str, anchor: str = "start") -> Markup:
    return Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(x, y, anchor, text)


def _line(x1: float, y1: float, x2: float, y2: float, name: str, stroke: str, dashes: str = "none") -> Markup:
    return Markup('<line x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}" class="{}" stroke="{}" stroke-dasharray="{}"/>').format(
        x1, y1, x2, y2, name, stroke, dashes
    )


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers from `low` to `high`, at most `most`."""
    room = max(high - low, 1e-9)
    step = next(s * 10.0**e for e in range(-9, 13) for s in (1, 2, 5) if room / (s * 10.0**e) < most)
    return [k * step for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def shares(rows: Sequence[tuple[str, float, Interval]]) -> Markup:
    """A bar from 0 to 100 % for each name, with the interval of its share."""
    name_width, row = 200, 30
    height = TOP + row * len(rows) + BOTTOM

    def x(share: float) -> float:
        return name_width + min(max(share, 0.0), 1.0) * (WIDTH - name_width - RIGHT)

    marks = [
        _line(x(t), TOP, x(t), height - BOTTOM, "grid", "#ddd") + _text(x(t), height - BOTTOM + 16, f"{t:.0%}", "middle")
        for t in ticks(0, 1)
    ]
    bar = Markup('<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="14" class="gain" fill="#4477aa" fill-opacity="0.6"/>')
    for n, (name, share, ends) in enumerate(rows):
        middle = TOP + row * (n + 0.5)
        marks += [_text(name_width - 8, middle + 4, name, "end"), bar.format(x(0), middle - 7, x(share) - x(0))]
        marks.append(_line(x(ends.low), middle, x(ends.high), middle, "whisker", "#222"))
    words = "; ".join(f"{name} {share:.0%} ({ends.low:.0%} to {ends.high:.0%})" for name, share, ends in rows)
    return _svg(height, "What mattered", f"Share of the variance of validation loss between trials: {words}.", *marks)


def curves(curve: Curve) -> Markup:
    """Both losses over the steps, the step of the lowest held-out loss, and what twice the steps would give with its 80 % interval."""
    points, ahead = curve.points, curve.finding.extrapolation
    last = points[-1]
    far = _ahead(last, None if ahead is None else ahead.change_nats, None if ahead is None else ahead.ci80)
    values = [v for p in points for v in (p.validation, p.probe) if v is not None and math.isfinite(v)] + list(far or ())
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    low, high = low - 0.05 * (high - low), high + 0.05 * (high - low) + 1e-9
    end = max(1, last.step) * (2 if far else 1)

    def x(step: float) -> float:
        return LEFT + step / end * (WIDTH - LEFT - RIGHT)

    def y(nats: float) -> float:
        return TOP + (high - nats) / (high - low) * (HEIGHT - TOP - BOTTOM)

    def series(of: Sequence[tuple[int, float | None]], name: str, colour: str, dashes: str) -> Markup:
        known = [(step, v) for step, v in of if v is not None and math.isfinite(v)]
        path = " ".join(f"{'L' if i else 'M'}{x(s):.1f} {y(v):.1f}" for i, (s, v) in enumerate(known))
        line = Markup('<path d="{}" class="{}" fill="none" stroke="{}" stroke-width="2" stroke-dasharray="{}"/>')
        dot = Markup(
            '<circle cx="{:.1f}" cy="{:.1f}" r="4" class="{}" fill="{}" stroke="{}"><title>{}: {:.4f} nats a token at step {}</title></circle>'
        )
        return Markup("").join(
            [line.format(path, name, colour, dashes)]
            + [dot.format(x(s), y(v), f"{name}dot", colour if dashes == "none" else "#fff", colour, name, v, s) for s, v in known]
        )  # fmt: skip

    def seen(value: float | None) -> str:
        return "not scored" if value is None else f"{value:.4f}"

    floor = HEIGHT - BOTTOM
    marks = [
        _line(LEFT, y(t), WIDTH - RIGHT, y(t), "grid", "#ddd") + _text(LEFT - 6, y(t) + 4, f"{t:g}", "end")
        for t in ticks(low, high)
    ]
    marks += [_text(x(t), floor + 18, f"{t:,.0f}", "middle") for t in ticks(0, end, 8) if t == round(t)]
    marks.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, "step; vertically: loss in nats a token, lower is better", "middle"))
    if curve.best_step is not None:
        marks.append(_line(x(curve.best_step), TOP, x(curve.best_step), floor, "axis", "#555", "3 3"))
    marks.append(series([(p.step, p.probe) for p in points], "training", "#a35a00", "6 4"))
    marks.append(series([(p.step, p.validation) for p in points], "validation", "#1b63b5", "none"))
    if far:
        middle, least, most = far
        marks.append(
            Markup('<path d="M{0:.1f} {1:.1f}V{2:.1f}" class="validation" stroke="#1b63b5" stroke-width="2"/>').format(
                x(end), y(least), y(most)
            )
        )
        marks.append(
            Markup('<circle cx="{:.1f}" cy="{:.1f}" r="5" class="ahead" fill="#fff" stroke="#1b63b5" stroke-width="2"/>').format(
                x(end), y(middle)
            )
        )
    first = points[0]
    said = (
        f"{curve.kind}. Validation loss went from {seen(first.validation)} to {seen(last.validation)} nats a token, "
        f"training probe from {seen(first.probe)} to {seen(last.probe)}, over {last.step:,} steps. {curve.twice_as_long or ''}"
    )
    return _svg(HEIGHT, f"Learning curves: {curve.kind}", said, *marks)


def _ahead(last: Point, change: float | None, interval: Interval | None) -> tuple[float, float, float] | None:
    """Predicted loss at twice the steps and its interval, in nats a token."""
    if last.validation is None or change is None or interval is None:
        return None
    return last.validation + change, last.validation + interval.low, last.validation + interval.high


def _row(*marks: Markup) -> Markup:
    """A strip as wide as its place, 20 pixels high; the figures beside it say the same, so it is hidden from readers."""
    return Markup('<svg class="row" width="100%" height="20" aria-hidden="true">{}</svg>').format(Markup("").join(marks))


def _at(value: float, low: float, high: float) -> float:
    """Percent of the width, with room for a dot at both ends."""
    return float(3 + 94 * min(1.0, max(0.0, (value - low) / max(high - low, 1e-12))))


def pair(base: float, tuned: float, low: float, high: float) -> Markup:
    """Base as a ring, tuned as a disc, and the way between them."""
    b, t = _at(base, low, high), _at(tuned, low, high)
    return _row(
        Markup('<line x1="{:.2f}%" x2="{:.2f}%" y1="10" y2="10" class="{}"/>').format(b, t, "fell" if tuned < base else "rose"),
        Markup('<circle cx="{:.2f}%" cy="10" r="4.5" class="basedot"/>').format(b),
        Markup('<circle cx="{:.2f}%" cy="10" r="4.5" class="{}"/>').format(t, "felldot" if tuned < base else "rosedot"),
    )


def trio(moved: Moved) -> Markup:
    """Author as a bar, base as a ring, tuned as a disc, on the feature's own scale."""
    values = [v.mean for v in (moved.author, moved.base, moved.tuned)]
    low, high = min(values), max(values)
    a, b, t = (_at(v, low, high) for v in values)
    way = "fell" if moved.toward_author else "rose"
    return _row(
        Markup('<line x1="{:.2f}%" x2="{:.2f}%" y1="10" y2="10" class="{}"/>').format(b, t, way),
        Markup('<rect x="{:.2f}%" y="1" width="4" height="18" class="author"/>').format(a - 0.5),
        Markup('<circle cx="{:.2f}%" cy="10" r="4.5" class="basedot"/>').format(b),
        Markup('<circle cx="{:.2f}%" cy="10" r="4.5" class="{}dot"/>').format(t, way),
    )


def score(value: float, interval: Interval | None, label: str) -> Markup:
    """A score between base (0) and author (1), with its 95 % interval."""
    ends = [0.0, 1.0, value, *(interval or ())]
    low, high = max(-1.0, min(ends)) - 0.08, min(2.0, max(ends)) + 0.08

    def x(v: float) -> float:
        return float(20 + (min(high, max(low, v)) - low) / (high - low) * (WIDTH - 40))

    marks = [_line(20, 40, WIDTH - 20, 40, "axis", "#555")]
    for place, name in ((0.0, "0, the base"), (1.0, "1, the author")):
        marks += [_line(x(place), 28, x(place), 52, "axis", "#555"), _text(x(place), 68, name, "middle")]
    if interval is not None:
        marks.append(
            Markup('<path d="M{:.1f} 40H{:.1f}" class="result" stroke="#1b63b5" stroke-width="4"/>').format(
                x(interval.low), x(interval.high)
            )
        )
    marks.append(Markup('<circle cx="{:.1f}" cy="40" r="6" class="resultdot" fill="#1b63b5"/>').format(x(value)))
    marks.append(_text(x(value), 20, f"{value:.2f}", "middle"))
    known = "" if interval is None else f", 95 % interval {interval.low:.2f} to {interval.high:.2f}"
    return _svg(76, label, f"{value:.2f}{known}; 0 is the base, 1 is the author.", *marks)
