"""What is wrong with the tokens themselves, said before a model is loaded. A check is one function from facts to a sentence or None.

Codes are those of the catalogue. An error stops the run: training could not do what the recipe asks. E08, E09, E11 and E13 need a live
model or packed rows and stand beside them (`training.packing`, `training.live_checks`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any, Literal

import numpy as np

from galvan.data import chat as chats
from galvan.data.encode import prompt_ids
from galvan.data.shapes import describe
from galvan.data.tokens import IGNORE, TokenRow, adds_bos, first_token_rule
from galvan.payload import Chat, Pair, Tokens
from galvan.rundir import Document
from galvan.text import shown

_PROMPTS_COMPARED = 200  # every row would render every conversation once more
_END_WINDOW = 4  # an end-of-turn token may be followed by a line break that the template writes
_MOST = 0.5


@dataclass(frozen=True, slots=True)
class TokenNotice:
    """One thing that a person should know; `code` is a cause of the catalogue, or `tokens/...`."""

    code: str
    level: Literal["warning", "error"]
    message: str


@dataclass
class TokenFacts:
    """Training rows beside the documents they were made of, in the same order, and the tokenizer that made them."""

    tokenizer: Any
    documents: Sequence[Document]
    rows: Sequence[TokenRow]
    learn_eos: bool

    @cached_property
    def special_ids(self) -> frozenset[int]:
        return frozenset(self.tokenizer.convert_tokens_to_ids(chats.special_tokens(self.tokenizer)))

    @cached_property
    def end_ids(self) -> frozenset[int]:
        """Ids that say a text or a turn is over: special, and not the beginning of one."""
        return self.special_ids - {self.tokenizer.bos_token_id}

    def ends_learned(self, row: TokenRow) -> bool:
        learned = row.labels[1:][row.labels[1:] != IGNORE]
        return any(int(i) in self.end_ids for i in learned[-_END_WINDOW:])


@dataclass(frozen=True, slots=True)
class TokenReport:
    """`tokens.json`: what the training rows come to. `ends_survive_share` is the share of rows whose end is learned, `masked_rows` counts
    rows without a token to learn, `ways` rows by how their learned part was found."""

    schema_version: int
    shape: str
    rows: int
    tokens: int
    supervised_tokens: int
    truncated_rows: int
    truncated_tokens: int
    lost_supervised_tokens: int
    ends_survive_share: float | None
    ways: dict[str, int]
    first_token_rule: str
    masked_rows: int
    notices: list[TokenNotice]


Check = Callable[[TokenFacts], str | None]
_CHECKS: list[tuple[str, Literal["warning", "error"], Check]] = []


def check(code: str, level: Literal["warning", "error"]) -> Callable[[Check], Check]:
    """Register the function below it."""

    def register(function: Check) -> Check:
        _CHECKS.append((code, level, function))
        return function

    return register


def notices(facts: TokenFacts) -> list[TokenNotice]:
    """What the checks found, in the order in which they stand below; nothing where there are no rows."""
    said = ((code, level, function(facts)) for code, level, function in _CHECKS) if facts.rows else ()
    return [TokenNotice(code, level, sentence) for code, level, sentence in said if sentence is not None]


def report(facts: TokenFacts) -> TokenReport:
    rows = facts.rows
    shapes = Counter(describe(document.payload) for document in facts.documents)
    return TokenReport(
        schema_version=1, shape=", ".join(sorted(shapes)), rows=len(rows), tokens=sum(len(row.input_ids) for row in rows),
        supervised_tokens=sum(row.n_supervised for row in rows), truncated_rows=sum(row.cut_tokens > 0 for row in rows),
        truncated_tokens=sum(row.cut_tokens for row in rows), lost_supervised_tokens=sum(row.cut_supervised for row in rows),
        ends_survive_share=sum(map(facts.ends_learned, rows)) / len(rows) if rows else None,
        ways=dict(sorted(Counter(row.way for row in rows).items())), first_token_rule=first_token_rule(facts.tokenizer),
        masked_rows=sum(not row.n_supervised for row in rows), notices=notices(facts),
    )  # fmt: skip


class _Rows:
    """How many rows something is the matter with, and the names of the first: not the rows, which may be all there are."""

    def __init__(self, rows: Iterable[TokenRow] = ()) -> None:
        self.count, self.first = 0, list[str]()
        for row in rows:
            self.add(row)

    def add(self, row: TokenRow) -> None:
        self.count += 1
        if self.count <= 3:
            self.first.append(shown(row.id))

    def __len__(self) -> int:
        return self.count


def _some(rows: _Rows) -> str:
    return ", ".join(rows.first)


@check("D04", "error")
def nothing_to_learn(facts: TokenFacts) -> str | None:
    empty = _Rows(row for row in facts.rows if not row.n_supervised)
    if len(empty) <= _MOST * len(facts.rows):
        return None
    return f"{len(empty)} of {len(facts.rows)} rows have no token to learn (first: {_some(empty)}); look at them with `galvan prepare RECIPE --show 3` and mend the labels, the response marker or the cut."


@check("D04", "warning")
def some_without_targets(facts: TokenFacts) -> str | None:
    empty = _Rows(row for row in facts.rows if not row.n_supervised)
    if not 0 < len(empty) <= _MOST * len(facts.rows):
        return None
    return f"{len(empty)} of {len(facts.rows)} rows have no token to learn and are as good as left out (first: {_some(empty)})."


@check("E01", "warning")
def end_not_learned(facts: TokenFacts) -> str | None:
    if not facts.learn_eos:
        return None
    if facts.tokenizer.eos_token_id is None:
        return "training.learn_eos is on, but the tokenizer has no end-of-text token, so the model will not learn where texts end."
    whole = sum(not row.cut_tokens for row in facts.rows)
    open_ended = _Rows(row for row in facts.rows if not row.cut_tokens and not facts.ends_learned(row))
    if not open_ended:
        return None
    return f"the end is not learned in {len(open_ended)} of {whole} whole rows (first: {_some(open_ended)}); the model will not stop there."


@check("E02", "warning")
def prompt_differs(facts: TokenFacts) -> str | None:
    """Only of conversations: a prompt whose last token merges with the completion is E05."""
    pairs = (
        (d, row) for d, row in zip(facts.documents, facts.rows, strict=True) if isinstance(d.payload, Chat) and not row.straddling
    )
    other, compared = _Rows(), list(islice(pairs, _PROMPTS_COMPARED))
    for document, row in compared:
        given = prompt_ids(facts.tokenizer, document)
        if not np.array_equal(row.input_ids[: len(given)], np.array(given, dtype=np.int64)[: len(row.input_ids)]):
            other.add(row)
    if not other:
        return None
    return (
        f"what the model is given to continue is not how its training row begins in {len(other)} of {len(compared)} "
        f"conversations (first: {_some(other)}); the chat template writes them differently, or the rows were made with another one."
    )


@check("E02", "warning")
def template_unused(facts: TokenFacts) -> str | None:
    plain = sum(isinstance(document.payload, Pair) for document in facts.documents)
    if not plain or chats.template_of(facts.tokenizer) is None:
        return None
    return (
        f"{plain} prompts are followed by their completions without the model's chat template; if it will be used with the template, "
        "bring messages."
    )


@check("E03", "error")
def two_bos(facts: TokenFacts) -> str | None:
    bos = facts.tokenizer.bos_token_id
    twice = _Rows(
        row for row in facts.rows if bos is not None and len(row.input_ids) > 1 and row.input_ids[0] == row.input_ids[1] == bos
    )
    if not twice:
        return None
    return f"{len(twice)} of {len(facts.rows)} rows begin with two beginning-of-text tokens (first: {_some(twice)}); take one out of the data or the template."


@check("E04", "warning")
def no_bos(facts: TokenFacts) -> str | None:
    """Only of rows that came as ids: the others are encoded here, by the tokenizer's own rule or by a template, which may leave it out."""
    bos, template = facts.tokenizer.bos_token_id, chats.template_of(facts.tokenizer)
    if not adds_bos(facts.tokenizer) or (
        template is not None and "bos_token" not in template and facts.tokenizer.bos_token not in template
    ):
        return None
    ids = [row for d, row in zip(facts.documents, facts.rows, strict=True) if isinstance(d.payload, Tokens)]
    without = _Rows(row for row in ids if row.input_ids[0] != bos)
    if len(without) <= _MOST * len(ids):
        return None
    return (
        f"{len(without)} of {len(ids)} rows of ids do not begin with the beginning-of-text token (first: {_some(without)}), which this "
        "tokenizer puts in front of every text; put it in front of every row."
    )


@check("E05", "warning")
def boundary_inside_token(facts: TokenFacts) -> str | None:
    merged = _Rows(row for row in facts.rows if row.straddling)
    if not merged:
        return None
    return (
        f"in {len(merged)} of {len(facts.rows)} rows a token holds the end of the prompt and the beginning of what is learned (first: {_some(merged)}); "
        "it is learned, but the prompt alone ends in other tokens. Let the completion, not the prompt, hold the space between them."
    )


@check("E06", "warning")
def truncated(facts: TokenFacts) -> str | None:
    cut = sum(row.cut_tokens > 0 for row in facts.rows)
    if not cut:
        return None
    lost = sum(row.cut_supervised for row in facts.rows)
    total = lost + sum(row.n_supervised for row in facts.rows)
    ends = sum(map(facts.ends_learned, facts.rows))
    return (
        f"{cut} of {len(facts.rows)} rows are cut, and {lost:,} of {total:,} tokens to learn ({lost / max(1, total):.1%}) with them; "
        f"the end is left in {ends} rows. Raise training.document_tokens, or shorten the prompts."
    )


@check("E11", "error")
def labels_out_of_place(facts: TokenFacts) -> str | None:
    """Labels are not shifted: the label at t is the id at t. Every trainer shifts by itself, so shifted ones would be shifted twice."""
    shifted, other = _Rows(), _Rows()
    for row in facts.rows:
        learned = row.labels != IGNORE
        if np.array_equal(row.labels[learned], row.input_ids[learned]):
            continue
        ahead = np.append(row.input_ids[1:], IGNORE)
        (shifted if (row.labels[learned] == ahead[learned]).mean() > _MOST else other).add(row)
    if shifted:
        return f"the labels of {len(shifted)} of {len(facts.rows)} rows stand one place early (first: {_some(shifted)}): they are shifted already, and would be twice; give the id at each place, or -100."
    if other:
        return f"the labels of {len(other)} of {len(facts.rows)} rows are other ids than stand there (first: {_some(other)}); a label is the id at its place, or -100."
    return None


@check("tokens/special-in-text", "warning")
def special_spelled(facts: TokenFacts) -> str | None:
    """As in a text that was put through a chat template before it came here."""
    spelled = [token for token in chats.special_tokens(facts.tokenizer) if len(token) > 2]
    found: Counter[str] = Counter()
    for document in facts.documents:
        if isinstance(document.payload, Tokens):
            continue
        if isinstance(document.payload, Chat):
            text = "\n".join(str(message.get("content") or "") for message in document.payload.messages)
        else:
            text = document.text if document.payload is None else document.payload.prompt + document.payload.completion
        found.update(token for token in spelled if token in text)
    if not found:
        return None
    token, count = found.most_common(1)[0]
    return f"{count} documents spell the special token {shown(token)}; in plain text it is taken letter by letter, in a conversation it acts as the token. Bring messages instead of text that a template has written."
