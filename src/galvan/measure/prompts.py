"""What both arms are asked to continue: beginnings of held-out documents, and prompts from the recipe. No torch."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any, Literal

from galvan.data import chat as chats
from galvan.data.encode import encode, prompt_ids
from galvan.data.tokens import IGNORE, encode_texts
from galvan.payload import Chat, Pair, Payload, Tokens
from galvan.recipe import Generation
from galvan.rundir import Document

PROMPT_WORDS = 35  # METHODS S4.1: the first 30 to 40 words
MOST_NEW_TOKENS = 512
_WORD = re.compile(r"\S+")
_LONGEST_WORD = 20  # characters a word on average; more, and the script puts no spaces between words


@dataclass(frozen=True, slots=True)
class Prompt:
    """`text` is what stands before the model's own words; `asked` renders to its ids. `document` is the id of the held-out text that it begins."""

    id: str
    kind: Literal["held-out", "recipe"]
    text: str
    asked: Document
    split: str | None = None
    document: str | None = None

    def ids(self, tokenizer: Any) -> list[int]:
        """The ids with which a training row of the same shape begins, BOS and chat template included."""
        if isinstance(self.asked.payload, Tokens):
            return list(self.asked.payload.input_ids)
        return prompt_ids(tokenizer, self.asked)


def prompts(splits: Mapping[str, Sequence[Document]], asked: Generation, tokenizer: Any) -> list[Prompt]:
    """At most `asked.documents` held-out prompts, spread evenly over the splits in their order (the first as far as it goes), then the recipe's.

    A document too short for a whole prompt gives one of half its words, and only where there are too few others.
    """
    found: list[Prompt] = []
    for split, documents in splits.items():
        found += _chosen([_held_out(document, split, tokenizer) for document in documents], asked.documents - len(found))
    shape = next((document.payload for documents in splits.values() for document in documents), None)
    return found + [_from_recipe(n, text, shape, tokenizer) for n, text in enumerate(asked.prompts, 1)]


def _chosen(candidates: Sequence[tuple[Prompt, int] | None], wanted: int) -> list[Prompt]:
    """`wanted` of the prompts, in reading order; whole ones before short ones, longest first."""
    able = [pair for pair in candidates if pair is not None]
    whole = [n for n, (_, words) in enumerate(able) if words >= PROMPT_WORDS]
    short = sorted(set(range(len(able))) - set(whole), key=lambda n: (-able[n][1], n))
    wanted = max(0, wanted)
    picked = (
        [whole[i * len(whole) // wanted] for i in range(wanted)] if len(whole) > wanted else [*whole, *short[: wanted - len(whole)]]
    )
    return [able[n][0] for n in sorted(picked)]


def _held_out(document: Document, split: str, tokenizer: Any) -> tuple[Prompt, int] | None:
    """The prompt of a document and its words (PROMPT_WORDS where the document has one of its own); None where nothing could precede."""
    payload, words = document.payload, PROMPT_WORDS
    if payload is None:
        end, words = _cut(document.text)
        text, payload = document.text[:end], Pair(document.text[:end], "")
    elif isinstance(payload, Pair):
        text = payload.prompt
    elif isinstance(payload, Chat):
        text = chats.generation_text(tokenizer, payload)
    else:
        payload = Tokens(payload.input_ids[: _learned_from(payload)])
        text = str(tokenizer.decode(list(payload.input_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))
    if not text:
        return None
    asked = replace(document, payload=payload)
    return Prompt(f"held-out:{document.id}", "held-out", text, asked, split, document.id), words


def _cut(text: str) -> tuple[int, int]:
    """Where the first PROMPT_WORDS words (or half of fewer) end, and how many they are; two characters count as a word without spaces."""
    ends = [word.end() for word in _WORD.finditer(text)]
    if len(text) > _LONGEST_WORD * len(ends):
        end = min(2 * PROMPT_WORDS, len(text) // 2)
        return end, end // 2
    words = min(PROMPT_WORDS, len(ends) // 2)
    return (ends[words - 1], words) if words else (0, 0)


def _learned_from(tokens: Tokens) -> int:
    """How many ids are read before the first that is learned; of ids that are all learned half, at most PROMPT_WORDS."""
    first = next((n for n, label in enumerate(tokens.labels or ()) if n and label != IGNORE), 1)
    return first if first > 1 else min(PROMPT_WORDS, max(1, len(tokens.input_ids) // 2))


def _from_recipe(number: int, text: str, shape: Payload | None, tokenizer: Any) -> Prompt:
    """A user's turn where the data are conversations, else a text to go on with."""
    payload: Payload = Pair(text, "")
    if isinstance(shape, Chat):
        payload = Chat(({"role": "user", "content": text}, {"role": "assistant", "content": ""}))
        text = chats.generation_text(tokenizer, payload)
    return Prompt(f"recipe:{number}", "recipe", text, Document(f"recipe {number}", text, "recipe", number, payload=payload))


def median_length(found: Sequence[Prompt], documents: Sequence[Document], tokenizer: Any) -> int:
    """Tokens of the held-out texts after their prompts, the median; 1 to MOST_NEW_TOKENS, and this much where there is no held-out text."""
    by_id = {document.id: document for document in documents}
    lengths = []
    for prompt in found:
        document = by_id.get(prompt.document or "")
        if document is None:
            continue
        if document.payload is None:
            lengths.append(len(encode_texts(tokenizer, [document.text[len(prompt.text) :]])[0]))
        else:
            lengths.append(int(encode(tokenizer, document, learn_eos=False).scored.sum()))
    return max(1, min(MOST_NEW_TOKENS, round(median(lengths)))) if lengths else MOST_NEW_TOKENS


@dataclass(frozen=True, slots=True)
class PromptFacts:
    """What the catalogue asks about prompts (E02, E03): of `checked` held-out ones, whose ids begin the training row of their document,
    and which begin with BOS twice."""

    checked: int
    prefix_of_training: int
    double_bos: int


def prompt_facts(found: Sequence[Prompt], documents: Sequence[Document], tokenizer: Any) -> PromptFacts:
    from galvan.data.tokens import training_rows

    by_id = {document.id: document for document in documents}
    held = [prompt for prompt in found if prompt.document in by_id]
    rows = training_rows(tokenizer, [by_id[str(prompt.document)] for prompt in held], None, False)
    prefix = double = 0
    for prompt, row in zip(held, rows, strict=True):
        ids = prompt.ids(tokenizer)
        plain = by_id[str(prompt.document)].payload is None  # cut inside a word, its last tokens are others than in the whole
        sure = ids[: len(ids) // 2 + 1] if plain else ids
        prefix += row.input_ids[: len(sure)].tolist() == sure
        double += ids[:2] == [tokenizer.bos_token_id] * 2
    return PromptFacts(len(held), prefix, double)
