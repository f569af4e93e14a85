"""Print the table and the list of docs/style.md and write them there: what the style measures say about texts whose answer is known.

    python scripts/style_figures.py            # print them
    python scripts/style_figures.py --write    # put them between the markers of docs/style.md
    python scripts/style_figures.py --check    # exit 1 if the page says something else

All texts are bundled: the "author" is one of the six hands of galvan/letters, the "base" wrote galvan/plain, in passages of 50 words or more.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from galvan.data.read import read
from galvan.style import MEASURES, Style, judge_style
from galvan.style.files import passages
from galvan.style.guards import shuffle_words
from galvan.style.others import other_voices

PAGE = Path(__file__).resolve().parents[1] / "docs" / "style.md"
AUTHOR, OTHERS = "the letters of the keeper", ("the letters of Isolde Marchmont", "the letters of Ambrose Vell")
WORDS, LETTERS = 50, 40


def bundled() -> dict[str, list[str]]:
    """The author's training, held-out and further passages, base outputs, more of them, and two other hands."""
    base = [piece for row in read("galvan/plain") for piece in passages(row.text, WORDS)]
    base = [base[i] for i in np.random.default_rng(0).permutation(len(base))]
    return {**letters_of(AUTHOR), "base": base[:70], "more_base": base[70:140], **{name: cut(letters(name)) for name in OTHERS}}


def letters(hand: str) -> list[str]:
    """The letters of a hand without its further papers."""
    return other_voices(())[hand][:LETTERS]


def letters_of(hand: str) -> dict[str, list[str]]:
    """One hand's letters: of every four one trains, two are held out (other hands must be told from them) and one is further text."""
    every = letters(hand)
    return {"author": cut(every[0::4]), "held_out": cut(every[1::2]), "further": cut(every[2::4])}


def cut(texts: Sequence[str]) -> list[str]:
    return list(passages(" ".join(texts), WORDS))


def known_texts(sets: Mapping[str, Sequence[str]], seed: int = 0) -> dict[str, list[str]]:
    """What stands in for the tuned model's outputs, by what it is."""
    rng = np.random.default_rng(seed)
    further, base = sets["further"], sets["more_base"]
    half = [further[i // 4 * 2 + i % 4] if i % 4 < 2 else base[i] for i in range(min(len(base), 2 * len(further) - 3))]
    return {
        "further letters of the author": further,
        "further letters and base, half and half": half,
        **{f"another hand: {name}": sets[name] for name in OTHERS},
        "letters that it was trained on": sets["author"],
        "further letters, words shuffled": [shuffle_words(text, rng) for text in further],
        "three further letters, repeated": [further[(0, 10, 20)[i % 3]] for i in range(len(base))],
        "more of the base": base,
    }


def judged(sets: Mapping[str, Sequence[str]], tuned: Sequence[str]) -> Style:
    return judge_style(sets["author"], sets["base"], tuned, sets["held_out"])


def known() -> str:
    """The table of known texts."""
    sets = bundled()
    rows = [
        "| text in place of the tuned model's | author score | gap closed | energy / base | vetoes | answer |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, texts in known_texts(sets).items():
        found = judged(sets, texts)
        score, closed = found.author_score, found.gap_closed
        if score is None or closed is None or score.value is None or closed.value is None:
            figures = ["-", "-", "-"]
        else:
            figures = [f"{score.value:.2f}", f"{closed.value:.2f}", f"{closed.tuned_energy / closed.base_energy:.2f}"]
        rows.append("| " + " | ".join([name, *figures, ", ".join(found.vetoes) or "none", found.closer]) + " |")
    return "\n".join(rows)


def measures() -> str:
    """The list of measures, from the code."""
    return "\n".join(f"- `{measure.name}`: {measure.phrase}" for measure in MEASURES)


FIGURES: dict[str, Callable[[], str]] = {"measures": measures, "known": known}


def fill(page: str, names: Sequence[str] = tuple(FIGURES)) -> str:
    """`page` with these figures between their markers."""
    for name in names:
        block = f"<!-- figure {name} -->\n{FIGURES[name]()}\n<!-- end -->"
        page = re.sub(rf"<!-- figure {name} -->\n.*?<!-- end -->", lambda _, block=block: block, page, flags=re.DOTALL)
    return page


def main(arguments: Sequence[str]) -> int:
    if "--write" in arguments or "--check" in arguments:
        page = PAGE.read_text(encoding="utf-8")
        filled = fill(page)
        if "--write" in arguments:
            PAGE.write_text(filled, encoding="utf-8")
        return int("--check" in arguments and filled != page)
    print("\n\n".join(function() for function in FIGURES.values()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
