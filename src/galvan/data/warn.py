"""What a person should know about the data before training. A warning is one function from facts to a sentence or None."""

from __future__ import annotations

from collections.abc import Callable

from galvan.data.clean import SECRETS
from galvan.data.facts import Audit, Notice
from galvan.data.leak import COPIED_SHARE, leaks, reasons

Check = Callable[[Audit], str | None]
_CHECKS: dict[str, Check] = {}

_FEW_TEST_DOCUMENTS = 20
_FEW_TRAIN_WORDS = 5_000
_MANY_DUPLICATES = 0.1
_MIXED_SHARE, _MIXED_COUNT = 0.1, 50
_WRAPPED_SHARE, _WRAPPED_WORDS = 0.5, 1_000
_TAGS_PER_DOCUMENT, _FEWEST_TAGS = 0.2, 20


def notices(facts: Audit) -> list[Notice]:
    """The warnings that apply, in the order in which they stand below."""
    said = ((code, check(facts)) for code, check in _CHECKS.items())
    return [Notice(code, sentence) for code, sentence in said if sentence is not None]


def warning(code: str) -> Callable[[Check], Check]:
    """Register the function below it under `code`."""

    def register(check: Check) -> Check:
        _CHECKS[code] = check
        return check

    return register


@warning("data/leak")
def leak(facts: Audit) -> str | None:
    found = leaks(facts)
    return "; ".join(found) + "." if found else None


@warning("data/secrets")
def secrets(facts: Audit) -> str | None:
    if SECRETS not in facts.changed:
        return None
    count = facts.changed[SECRETS].count
    return f"{count:,} rows held what looks like an access token or a private key, which was removed: revoke it, for whoever has the file has it."


@warning("data/copied-phrases")
def copied_phrases(facts: Audit) -> str | None:
    said = [
        f"{pair.copied_words:.1%} of the words of {pair.b} stand in copies of 8 words or more from {pair.a}"
        for pair in facts.overlaps
        if pair.copied_words is not None and pair.copied_words > COPIED_SHARE and not reasons(pair)
    ]
    return f"{'; '.join(said)}; these documents may be no independent judges." if said else None


@warning("data/outliers")
def outliers(facts: Audit) -> str | None:
    if not facts.reported:
        return None
    found = ", ".join(f"{entry.count:,} {reason}" for reason, entry in facts.reported.items())
    return f"some rows are unlike the rest: {found}; audit.json shows them, data.clean.outliers: remove leaves them out."


@warning("data/few-test-documents")
def few_test_documents(facts: Audit) -> str | None:
    test = facts.splits["test"].documents
    if test >= _FEW_TEST_DOCUMENTS:
        return None
    return f"{test} test documents can show a large gain only; give more text or a larger data.split.test."


@warning("data/little-text")
def little_text(facts: Audit) -> str | None:
    train = facts.splits["train"].words.total
    if train >= _FEW_TRAIN_WORDS:
        return None
    return f"{train:,} words are few to learn a voice from; {_FEW_TRAIN_WORDS:,} or more are better."


@warning("data/many-duplicates")
def many_duplicates(facts: Audit) -> str | None:
    repeated = facts.removed["duplicate"].count if "duplicate" in facts.removed else 0
    if repeated <= _MANY_DUPLICATES * facts.rows_read:
        return None
    return f"{repeated:,} of {facts.rows_read:,} rows repeat an earlier one; was the text exported twice?"


@warning("data/hard-wrapped")
def hard_wrapped(facts: Audit) -> str | None:
    share = facts.typography.wrapped_lines_share
    if share is None or share <= _WRAPPED_SHARE or facts.words.total < _WRAPPED_WORDS:
        return None
    return f"{share:.0%} of the lines are 55 to 80 characters long; the model will learn these line breaks too, unless data.clean.unwrap joins them."


@warning("data/markup")
def markup(facts: Audit) -> str | None:
    tags = facts.typography.markup_tags
    if tags < _TAGS_PER_DOCUMENT * facts.documents or tags < _FEWEST_TAGS:
        return None
    return f"{tags:,} tags such as <p> or <b> stand in the text, and will be learned; data.clean.markup: html removes them."


@warning("data/mixed-quotes")
def mixed_quotes(facts: Audit) -> str | None:
    return _mixed("straight and curly quotation marks", facts.typography.straight_quotes, facts.typography.curly_quotes)


@warning("data/mixed-dashes")
def mixed_dashes(facts: Audit) -> str | None:
    return _mixed("em dashes and double hyphens", facts.typography.em_dashes, facts.typography.double_hyphens)


def _mixed(what: str, one: int, other: int) -> str | None:
    if one + other < _MIXED_COUNT or min(one, other) <= _MIXED_SHARE * (one + other):
        return None
    return f"{what} are mixed ({one:,} and {other:,}); the text comes from more than one edition."


@warning("data/replacement-characters")
def replacement_characters(facts: Audit) -> str | None:
    lost = facts.typography.replacement_characters
    return f"U+FFFD stands in the text {lost:,} times; letters were lost when it was converted." if lost else None
