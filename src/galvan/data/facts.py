"""The records of which `audit.json` is made. Nothing here computes."""

from __future__ import annotations

from dataclasses import dataclass, field

from galvan.data.clean import Removed, Repeated


@dataclass(frozen=True, slots=True)
class Lengths:
    """How long documents are; None where there is no document."""

    total: int
    minimum: int | None
    quartile_1: float | None
    median: float | None
    quartile_3: float | None
    maximum: int | None


@dataclass(frozen=True, slots=True)
class Part:
    """One split. `runs` counts its stretches of neighbouring documents, `duplicates` the documents that repeat an earlier one."""

    documents: int
    sources: int
    runs: int
    words: Lengths
    tokens: Lengths
    duplicates: int


@dataclass(frozen=True, slots=True)
class Overlap:
    """What two splits share, word by word (case and punctuation aside).

    `leaking` counts the documents of `b` that share a run of 20 words or more with `a`; `contained_13_grams` is the share of
    `b`'s 13-word windows that stand in `a` (None: `b` has none); `duplicates` counts the documents of `b` that `a` has whole,
    `long_duplicates` those of them that have eight words or more, `near_duplicates` those that share four fifths of their five-word
    runs with one of `a`; `copied_words` is the share of the words of `b` that stand in copies of eight words or more (METHODS S5.6),
    `copied_runs` in copies of 13, neither counting runs that more than four documents have; `documents` counts the documents of `b`.
    """

    a: str
    b: str
    longest_span_words: int
    longest_span: str
    longest_span_in: tuple[str, str] | None
    leaking: int
    leaking_documents: list[str]
    contained_13_grams: float | None
    duplicates: int
    long_duplicates: int = 0
    near_duplicates: int = 0
    copied_words: float | None = None
    copied_runs: float | None = None
    documents: int = 0


@dataclass(frozen=True, slots=True)
class Typography:
    """Habits of the type, which a model learns before any style: counts over all documents."""

    straight_quotes: int
    curly_quotes: int
    straight_apostrophes: int
    curly_apostrophes: int
    em_dashes: int
    double_hyphens: int
    ellipsis_characters: int
    three_dots: int
    underscored_words: int
    markup_tags: int
    replacement_characters: int
    non_ascii_share: float | None
    wrapped_lines_share: float | None


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that a person should know before training; `code` is stable."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Audit:
    """The whole of `audit.json`. `cut_texts` counts the rows that were too long, `cut_documents` what they became.

    `changed` counts texts that were mended, `reported` those that were only remarked on, `repeated` the texts that came most often;
    `neutral` is what the training part shares with `galvan/plain`, on which forgetting is measured; `leaks` is what the recipe asked.
    """

    source: str
    column: str
    rows_read: int
    rows_tidied: int
    gutenberg_stripped: int
    cut_texts: int
    cut_documents: int
    documents: int
    sources: int
    words: Lengths
    tokens: Lengths
    removed: dict[str, Removed]
    splits: dict[str, Part]
    overlaps: list[Overlap]
    typography: Typography
    warnings: list[Notice] = field(default_factory=list)
    changed: dict[str, Removed] = field(default_factory=dict)
    reported: dict[str, Removed] = field(default_factory=dict)
    repeated: dict[str, Repeated] = field(default_factory=dict)
    neutral: Overlap | None = None
    leaks: str = "refuse"
