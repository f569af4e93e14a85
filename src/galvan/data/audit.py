"""What the data is, as plain facts for `audit.json`: counts, lengths, what was removed, what the splits have in common."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from galvan.data import near, overlap, warn
from galvan.data.clean import Log
from galvan.data.facts import Audit, Lengths, Overlap, Part, Typography
from galvan.data.rows import one_line
from galvan.data.split import Splits, runs
from galvan.rundir import Document
from galvan.text import shown, words

SPAN_WORDS = 20  # a run of so many words that train and test share is a leak
NGRAM_WORDS = 13  # the usual unit of contamination reports
COPY_WORDS = 8  # a run of so many words is a copy rather than a phrase (METHODS S5.6)
FORMULA = 4  # a run that more documents have is a formula rather than a copy: a greeting, a refrain
NEAR = 0.8  # Jaccard similarity of five-word runs from which two documents are the same text
_LISTED = 10


def audit(
    source: str,
    column: str,
    splits: Splits,
    n_tokens: dict[str, int],
    cut: tuple[int, int],
    log: Log,
    neutral: Sequence[Document] = (),
    leaks: str = "refuse",
) -> Audit:
    """The facts about `splits`. `n_tokens` is each document's length by id, `cut` the texts that were cut and their pieces.

    `neutral` are the documents on which forgetting is measured, `leaks` what the recipe says about text that splits share.
    """
    parts = [_Split(name, documents) for name, documents in splits.items()]
    pairs = [(a, b) for number, a in enumerate(parts) for b in parts[number + 1 :] if a.documents and b.documents]
    everything = [document for part in parts for document in part.documents]
    facts = Audit(
        source=one_line(source),
        column=column,
        rows_read=log.rows_read,
        rows_tidied=log.rows_tidied,
        gutenberg_stripped=log.gutenberg_stripped,
        cut_texts=cut[0],
        cut_documents=cut[1],
        documents=len(everything),
        sources=len({document.source for document in everything}),
        words=lengths([len(text) for part in parts for text in part.corpus.documents]),
        tokens=lengths([n_tokens[document.id] for document in everything]),
        removed=log.removed,
        splits={part.name: _part(part, n_tokens) for part in parts},
        overlaps=[_overlap(a, b, parts) for a, b in pairs],
        typography=typography("\n\n".join(document.text for document in everything)),
        changed=log.changed,
        reported=log.reported,
        repeated=dict(sorted(log.repeated.items(), key=lambda pair: -pair[1].copies)[:_LISTED]),
        neutral=_overlap(parts[0], _Split("neutral", list(neutral)), parts) if neutral and parts[0].documents else None,
        leaks=leaks,
    )
    facts.warnings.extend(warn.notices(facts))
    return facts


def lengths(values: Sequence[int]) -> Lengths:
    if not values:
        return Lengths(0, None, None, None, None, None)
    low, middle, high = (float(value) for value in np.quantile(values, [0.25, 0.5, 0.75]))
    return Lengths(sum(values), min(values), low, middle, high, max(values))


class _Split:
    """One split with its words."""

    def __init__(self, name: str, documents: list[Document]) -> None:
        self.name, self.documents = name, documents
        self.corpus = overlap.Corpus([words(document.text) for document in documents])


def _part(split: _Split, n_tokens: dict[str, int]) -> Part:
    spoken = split.corpus.documents
    return Part(
        documents=len(split.documents),
        sources=len({document.source for document in split.documents}),
        runs=len(runs(split.documents)),
        words=lengths([len(text) for text in spoken]),
        tokens=lengths([n_tokens[document.id] for document in split.documents]),
        duplicates=len(spoken) - len({tuple(text) for text in spoken}),
    )


def _overlap(a: _Split, b: _Split, parts: Sequence[_Split]) -> Overlap:
    in_a, in_b = a.corpus, b.corpus
    seeds = overlap.seeds(in_a, in_b)
    span = overlap.longest(in_a, in_b, seeds)
    leaking = overlap.documents_sharing(in_a, in_b, SPAN_WORDS, seeds)
    whole = {tuple(text) for text in in_a.documents}
    repeated = [tuple(text) in whole for text in in_b.documents]
    return Overlap(
        a=a.name,
        b=b.name,
        longest_span_words=span.length if span else 0,
        longest_span=shown(" ".join(in_b.words(span.b_start, span.length)), 300) if span else "",
        longest_span_in=(a.documents[in_a.owner[span.a_start]].id, b.documents[in_b.owner[span.b_start]].id) if span else None,
        leaking=len(leaking),
        leaking_documents=[b.documents[index].id for index in leaking[:_LISTED]],
        contained_13_grams=overlap.containment(in_a, in_b, NGRAM_WORDS, seeds),
        duplicates=sum(repeated),
        long_duplicates=sum(same and len(text) >= COPY_WORDS for same, text in zip(repeated, in_b.documents, strict=True)),
        near_duplicates=len(_near(a, b, seeds)),
        copied_words=overlap.copied_share(in_b, seeds[1], COPY_WORDS, [part.corpus for part in parts], FORMULA),
        copied_runs=overlap.copied_share(
            in_b, overlap.matches(in_a, in_b, NGRAM_WORDS, *seeds)[1], NGRAM_WORDS, [part.corpus for part in parts], FORMULA
        ),
        documents=len(b.documents),
    )


def _near(a: _Split, b: _Split, seeds: tuple[overlap.Places, overlap.Places]) -> list[int]:
    """Documents of `b` that `a` nearly has. Two texts so similar share a run of eight words, unless they are shorter than a copy."""
    some, others = np.unique(a.corpus.owner[seeds[0]]).tolist(), np.unique(b.corpus.owner[seeds[1]]).tolist()
    found = near.across([a.documents[index].text for index in some], [b.documents[index].text for index in others], NEAR)
    return [others[index] for index in found]


def leaking_ids(splits: Splits) -> set[str]:
    """Ids of the held-out documents that training has in part or (of validation) that test has, by any of the measures that refuse."""
    parts = [_Split(name, documents) for name, documents in splits.items() if documents]
    found: set[str] = set()
    for number, a in enumerate(parts):
        for b in parts[number + 1 :]:
            seeds = overlap.seeds(a.corpus, b.corpus)
            whole = {tuple(text) for text in a.corpus.documents if len(text) >= COPY_WORDS}
            members = {*overlap.documents_sharing(a.corpus, b.corpus, SPAN_WORDS, seeds), *_near(a, b, seeds)}
            members |= {index for index, text in enumerate(b.corpus.documents) if tuple(text) in whole}
            found |= {b.documents[index].id for index in members}
    return found


def typography(text: str) -> Typography:
    breaks = [line for line in text.split("\n") if line.strip()]
    wrapped = sum(55 <= len(line) <= 80 for line in breaks)
    ascii_only = text.isascii()
    return Typography(
        straight_quotes=text.count('"'),
        curly_quotes=text.count("“") + text.count("”"),
        straight_apostrophes=text.count("'"),
        curly_apostrophes=text.count("‘") + text.count("’"),
        em_dashes=text.count("—"),
        double_hyphens=len(re.findall(r"--(?!-)(?<!---)", text)),
        ellipsis_characters=text.count("…"),
        three_dots=text.count("...") + text.count(". . ."),
        underscored_words=len(re.findall(r"_(?<![\w_]_)[^_\s][^_\n]{0,80}_(?![\w_])", text)),
        markup_tags=len(re.findall(r"</?[a-zA-Z][^<>\n]{0,80}>", text)),
        replacement_characters=text.count("\ufffd"),
        non_ascii_share=(0.0 if ascii_only else 1 - len(text.encode("ascii", "ignore")) / len(text)) if text else None,
        wrapped_lines_share=wrapped / len(breaks) if breaks else None,
    )
