"""More rows from few texts, where the base follows instructions: instruction back-translation.

For each training text the base writes, greedily, what the text could be the answer to; a conversation of that and the author's own
words joins the training rows (Li et al. 2024, Self-Alignment with Instruction Backtranslation). The originals stay. No word that is
learned is the base's, each row names its parent, and only training texts are used: a leak can only be one that the parent has.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from galvan.data import chat as chats
from galvan.data.encode import prompt_ids
from galvan.errors import DataError, ModelError
from galvan.measure.decode import Continuation, Job, Sampling, decode, stop_ids
from galvan.measure.generation import batch_facts
from galvan.payload import Chat
from galvan.progress import Progress
from galvan.rundir import Document
from galvan.text import shown, words

Kind = Literal["instruction", "paraphrase"]
ASK: dict[Kind, str] = {
    "instruction": "Read this passage:\n\n{text}\n\nWrite one short instruction in plain words to which this passage would be the answer. "
    "Do not quote the passage. Write only the instruction.",
    "paraphrase": "Read this passage:\n\n{text}\n\nSay in short, plain sentences what it says, without its manner and without quoting it. "
    "Write only that.",
}
FRAME: dict[Kind, str] = {"instruction": "{written}", "paraphrase": "Write this in your own manner:\n\n{written}"}
MOST_TOKENS: dict[Kind, int] = {"instruction": 64, "paraphrase": 256}
COPY_WORDS = 8  # an instruction with so many words of the text in a row gives the answer away (METHODS S5.6)
PILOT_TEXTS = 4


@dataclass(frozen=True, slots=True)
class Augmented:
    """augment.json: of `texts` training texts, how many rows were made, and why others gave none."""

    kind: Kind
    texts: int
    rows: int
    other_shape: int  # no plain text: they have a prompt already
    too_long: int  # leave the base no room to write
    empty: int
    quoting: int  # share COPY_WORDS words in a row with their text


def prompt_room(kind: Kind) -> int:
    """Tokens by which an augmented row may be longer than its text: what the base wrote, its frame, and the template's marks."""
    return MOST_TOKENS[kind] + 64


def require_template(tokenizer: Any, base: str) -> None:
    """ModelError `augment/no-template` unless the base has a chat template: one without was not made to follow instructions."""
    if chats.template_of(tokenizer) is None:
        raise ModelError(
            "augment/no-template",
            f"data.augment is back_translation, but {shown(base)} has no chat template, so it follows no instructions: take an instruct model, or "
            "set data.augment to none.",
        )


def back_translate(
    model: Any, tokenizer: Any, documents: Sequence[Document], kind: Kind, context: int, tokens_per_pass: int, progress: Progress
) -> tuple[list[Document], Augmented]:
    """A row for each plain text of `documents`, in their order: the base's words are the user's turn, the text itself the answer.

    Greedy, so the same rows again. `context` is the most positions that the model has. Raises ModelError where the template refuses.
    """
    plain = [document for document in documents if document.payload is None]
    asked = [prompt_ids(tokenizer, _asked(document, ASK[kind].format(text=document.text), tokenizer)) for document in plain]
    room = [n for n, ids in enumerate(asked) if len(ids) + MOST_TOKENS[kind] <= context]
    sampling = Sampling("greedy", 0.0, 1.0, MOST_TOKENS[kind])
    jobs = [Job(asked[n], sampling) for n in room]
    said: list[Continuation] = []
    if jobs:
        stops = stop_ids(model, tokenizer)
        by_length = sorted(asked[n] for n in room)
        pilots = sorted(by_length, key=len)[:: max(1, len(by_length) // PILOT_TEXTS)][:PILOT_TEXTS]
        budget = 0 if batch_facts(model, pilots, stops, context, len(tokenizer)).alone else tokens_per_pass
        said = decode(model, jobs, stops, context, len(tokenizer), budget, progress, f"Writing {kind}s")
    rows, empty, quoting = [], 0, 0
    for n, one in zip(room, said, strict=True):
        written = _tidy(tokenizer.decode(one.ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))
        if not words(written):
            empty += 1
        elif _quotes(written, plain[n].text):
            quoting += 1
        else:
            rows.append(_row(plain[n], kind, written))
    other = len(documents) - len(plain)
    return rows, Augmented(kind, len(documents), len(rows), other, len(plain) - len(room), empty, quoting)


def _asked(document: Document, text: str, tokenizer: Any) -> Document:
    asked = replace(document, payload=Chat(({"role": "user", "content": text}, {"role": "assistant", "content": ""})))
    try:
        chats.generation_text(tokenizer, asked.payload)  # type: ignore[arg-type]
    except Exception as error:  # jinja's own, and whatever a template raises
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError("augment/template", f"The base's chat template refuses a plain question: {shown(reason, 200)}.") from None
    return asked


def _row(document: Document, kind: Kind, written: str) -> Document:
    turns = ({"role": "user", "content": FRAME[kind].format(written=written)}, {"role": "assistant", "content": document.text})
    return replace(document, id=f"{document.id}+{kind}", payload=Chat(turns), parent=document.id)


def _tidy(written: str) -> str:
    """One paragraph, without the quotation marks that models put around what they were asked for."""
    one = re.sub(r"\s+", " ", written).strip()
    return one[1:-1].strip() if len(one) > 1 and (one[0], one[-1]) in {('"', '"'), ("“", "”")} else one


def _quotes(written: str, text: str) -> bool:
    mine, theirs = words(written), words(text)
    runs = {tuple(theirs[n : n + COPY_WORDS]) for n in range(len(theirs) - COPY_WORDS + 1)}
    return any(tuple(mine[n : n + COPY_WORDS]) in runs for n in range(len(mine) - COPY_WORDS + 1))


def refuse_strays(rows: Sequence[Document], train: Sequence[Document], held_out: Sequence[Document]) -> None:
    """The leak audit by parent: DataError `augment/leak` if a row's parent is no training text, its answer is not the parent's text, or its
    parent is held out."""
    texts, held = {d.id: d.text for d in train}, {d.id for d in held_out}
    for row in rows:
        if row.parent in held or texts.get(row.parent or "") != row.text:
            raise DataError(
                "augment/leak", f"Augmented row {shown(row.id)} does not belong to a training text; delete data/augmented.jsonl and run again."
            )  # fmt: skip
