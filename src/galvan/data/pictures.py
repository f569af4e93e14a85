"""What the data looks like, as inline SVG: pure functions from facts to strings, for the report and for `pictures/`.

Each has a title and a description for people who do not see it; colours are the page's own (currentColor), parts are told apart by
shade and by words. Every text from outside is escaped here.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence

from galvan.data.facts import Audit
from galvan.data.split import TEST, TRAIN, VALIDATION, Splits
from galvan.data.store import positions, sources, tokens_of
from galvan.text import shown

_WIDTH, _LEFT, _ROW = 640, 150, 22
_SHADES = {TRAIN: 0.15, VALIDATION: 0.45, TEST: 0.9}
_MOST_SOURCES, _MOST_BARS = 30, 24


def of_data(splits: Splits, n_tokens: Mapping[str, int], facts: Audit) -> dict[str, str]:
    """Every picture of a prepared collection, by name; `n_tokens` by id where the documents do not know it themselves."""
    everything = [n for _, part in splits.items() for n in tokens_of(part, n_tokens).tolist()]
    duplicates = [(entry.text, entry.copies + 1) for entry in facts.repeated.values()]
    return {"lengths": lengths(everything), "splits": split_map(splits), "duplicates": top_duplicates(duplicates)}


def lengths(values: Sequence[int], unit: str = "tokens") -> str:
    """A histogram of the documents' lengths."""
    if not values:
        return _figure("Length of documents", "There is no document.", [_text(8, 20, "There is no document.")], 40)
    low, high = min(values), max(values)
    width = max(1, math.ceil((high - low + 1) / _MOST_BARS))
    counts = [0] * math.ceil((high - low + 1) / width)
    for value in values:
        counts[(value - low) // width] += 1
    tallest, step = max(counts), (_WIDTH - 60) / len(counts)
    marks = []
    for number, count in enumerate(counts):
        begin = low + number * width
        span = f"{begin}" if width == 1 else f"{begin} to {min(begin + width - 1, high)}"
        height = 120 * count / tallest
        label = f"{span} {unit}: {count:,} documents"
        marks.append(
            f'<rect x="{50 + number * step:.1f}" y="{130 - height:.1f}" width="{max(1.0, step - 2):.1f}" height="{height:.1f}" fill="currentColor" fill-opacity="0.6"><title>{html.escape(label)}</title></rect>'
        )
    marks += [
        f'<line x1="48" y1="130.5" x2="{_WIDTH - 10}" y2="130.5" stroke="currentColor"/>',
        _text(44, 18, f"{tallest:,}", "end"), _text(44, 134, "0", "end"),
        _text(50, 148, f"{low:,}"), _text(_WIDTH - 10, 148, f"{high:,} {unit}", "end"),
    ]  # fmt: skip
    middle = sorted(values)[len(values) // 2]
    return _figure(
        "Length of documents",
        f"{len(values):,} documents of {low:,} to {high:,} {unit}, half of them of {middle:,} or more.",
        marks,
        156,
    )


def split_map(splits: Splits) -> str:
    """Each source as a line from its first document to its last, shaded by what the documents do: train, validate or test."""
    members_of: dict[str, list[tuple[int, str]]] = {}
    for name, part in splits.items():
        for source, position in zip(sources(part), positions(part), strict=True):
            members_of.setdefault(source, []).append((position, name))
    largest = sorted(members_of, key=lambda source: -len(members_of[source]))[:_MOST_SOURCES]
    marks = []
    for number, source in enumerate(largest):
        y = 8 + number * _ROW
        members = sorted(members_of[source], key=lambda pair: pair[0])
        last = members[-1][0]
        step = (_WIDTH - _LEFT - 10) / max(1, last)
        marks.append(_text(_LEFT - 8, y + 12, shown(source.replace("\n", " "), 22), "end"))
        for name, begin, end in _stretches(members):
            label = f"{name}: documents {begin} to {end}"
            marks.append(
                f'<rect x="{_LEFT + (begin - 1) * step:.2f}" y="{y}" width="{(end - begin + 1) * step:.2f}" height="16" fill="currentColor" fill-opacity="{_SHADES[name]}"><title>{label}</title></rect>'
            )
    y = 8 + len(largest) * _ROW
    for number, (name, part) in enumerate(splits.items()):
        x = _LEFT + number * 150
        marks.append(
            f'<rect x="{x}" y="{y + 4}" width="14" height="14" fill="currentColor" fill-opacity="{_SHADES[name]}" stroke="currentColor"/>'
        )
        marks.append(_text(x + 20, y + 16, f"{name} ({len(part):,})"))
    more = f" The {len(largest)} longest of {len(members_of):,} sources are shown." if len(members_of) > len(largest) else ""
    said = ", ".join(f"{len(part):,} documents {name}" for name, part in splits.items())
    return _figure("Which part of each source trains, validates and tests", f"{said}.{more}", marks, y + 26)


def _stretches(members: Sequence[tuple[int, str]]) -> list[tuple[str, int, int]]:
    found: list[tuple[str, int, int]] = []
    for position, name in members:
        if found and found[-1][0] == name and found[-1][2] == position - 1:
            found[-1] = (name, found[-1][1], position)
        else:
            found.append((name, position, position))
    return found


def top_duplicates(repeated: Sequence[tuple[str, int]]) -> str:
    """The texts that came most often, (text, times), as bars."""
    top = sorted(repeated, key=lambda pair: -pair[1])[:10]
    if not top:
        return _figure("Most repeated texts", "No text came more than once.", [_text(8, 20, "No text came more than once.")], 40)
    marks = []
    for number, (text, times) in enumerate(top):
        y = 4 + number * 36
        marks.append(_text(8, y + 12, shown(" ".join(text.split()), 80)))
        marks.append(
            f'<rect x="8" y="{y + 17}" width="{(_WIDTH - 80) * times / top[0][1]:.1f}" height="9" fill="currentColor" fill-opacity="0.6"/>'
        )
        marks.append(_text(_WIDTH - 8, y + 26, f"{times:,} times", "end"))
    return _figure(
        "Most repeated texts",
        f"{len(top)} texts that came more than once; the first came {top[0][1]:,} times.",
        marks,
        8 + 36 * len(top),
    )


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" fill="currentColor" font-size="12">{html.escape(text)}</text>'


def _figure(title: str, description: str, marks: Sequence[str], height: float) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" viewBox="0 0 {_WIDTH} {height:g}" font-family="system-ui, sans-serif">'
    )
    return f"{head}<title>{html.escape(title)}</title><desc>{html.escape(description)}</desc>{''.join(marks)}</svg>\n"
