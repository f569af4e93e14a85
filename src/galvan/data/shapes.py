"""From a record to its payload: prompt and completion, messages, ShareGPT, Alpaca and ids, each checked where it stands.

Every function gets the record and says in its own words, with file and line, what it expected and what it found.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from galvan.data.columns import BY_NAME, Columns
from galvan.data.rows import Row, check_text, one_line
from galvan.errors import DataError
from galvan.payload import Chat, Pair, Payload, Tokens

IGNORE = -100
_LARGEST_ID = 2**31
Record = Mapping[str, object]
Decode = Callable[[list[int]], str]
_ROLES = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "chatgpt": "assistant", "bot": "assistant",
    "model": "assistant", "system": "system", "developer": "developer", "tool": "tool", "function_response": "tool", "observation": "tool",
    "function_call": "assistant",
}  # fmt: skip


def payload(record: Record, columns: Columns, where: str) -> Payload | None:
    """What `record` holds beside plain text, by the shape that `columns` is settled on; DataError where it does not fit."""
    if columns.shape.name == "text":
        return None
    return _BUILDERS[columns.shape.name](_Cells(record, columns, where))


def decoded(rows: Iterable[Row], decode: Decode) -> Iterator[Row]:
    """Rows of ids with their learned text, which only the tokenizer can read; the others as they are.

    Raises DataError D04, after the last row, if there are rows of ids and none of them has a token to learn.
    """
    of_ids, learned = 0, False
    for row in rows:
        if isinstance(row.payload, Tokens):
            labels = row.payload.labels or row.payload.input_ids
            of_ids += 1
            learned = learned or any(i != IGNORE for i in labels[1:])  # position 0 is never a target
            row = row.with_text(decode([i for i in labels if i != IGNORE]))
        yield row
    if of_ids and not learned:
        raise DataError(
            "D04",
            f"None of the {of_ids:,} rows of token ids has a token to learn: every label is {IGNORE}; give `labels` that are the ids "
            "where the model is to learn.",
        )


def describe(payload: Payload | None) -> str:
    """The shape in words, for the one line that says what was found."""
    names = {Pair: "prompts with completions", Chat: "conversations", Tokens: "token ids"}
    return "plain text" if payload is None else names[type(payload)]


class _Cells:
    """One record's parts by name, whatever their columns are called."""

    def __init__(self, record: Record, columns: Columns, where: str) -> None:
        self.record, self.columns, self.where = record, columns, where

    def wrong(self, part: str, expected: str, value: object) -> DataError:
        name, found = one_line(self.columns.column(part), 80), one_line(repr(value), 60)
        return DataError("data/shape", f"{self.where}: `{name}` must be {expected}, found {found}.")

    def text(self, part: str) -> str:
        value = self.record.get(self.columns.column(part))
        if value is None:
            return ""
        if not isinstance(value, str):
            raise self.wrong(part, "text", value)
        return check_text(value, self.where)

    def items(self, part: str, of: str) -> list[Any] | None:
        """A list; a cell of a csv may hold it as JSON."""
        value = self.record.get(self.columns.column(part))
        if isinstance(value, str):
            try:
                value = json.loads(value) if value.strip() else None
            except (ValueError, RecursionError):
                raise self.wrong(part, f"a list of {of}", value) from None
        if value is not None and (not isinstance(value, Sequence) or isinstance(value, (str, bytes))):
            raise self.wrong(part, f"a list of {of}", value)
        return None if value is None else list(value)

    def tools(self) -> tuple[Mapping[str, Any], ...] | None:
        found = self.items("tools", "tool schemas")
        if found and not all(isinstance(tool, dict) for tool in found):
            raise self.wrong("tools", "a list of tool schemas", found)
        return tuple(found) if found else None


def _pair(cells: _Cells) -> Payload:
    """Two texts, or two lists of messages, of which the second is learned."""
    prompt = cells.record.get(cells.columns.column("prompt"))
    if prompt is None or isinstance(prompt, str):  # a text may well begin like JSON
        return Pair(cells.text("prompt"), cells.text("completion"))
    first, second = _messages(cells, "prompt"), _messages(cells, "completion")
    return _chat(cells, "completion", [*first, *second], cells.tools(), len(first))


def _turns(cells: _Cells) -> Payload:
    return _chat(cells, "messages", _messages(cells, "messages"), cells.tools())


def _sharegpt(cells: _Cells) -> Payload:
    """`from` and `value` by ShareGPT's own names for the roles; `system` may stand in a column of its own."""
    messages = _messages(cells, "conversations", "from", "value")
    system = cells.text("system")
    if system and (not messages or messages[0]["role"] != "system"):
        messages.insert(0, {"role": "system", "content": system})
    return _chat(cells, "conversations", messages, cells.tools())


def _alpaca(cells: _Cells) -> Payload:
    """instruction and input, with a blank line between, are the user's turn; history holds earlier pairs of [user, assistant]."""
    messages: list[dict[str, Any]] = [{"role": "system", "content": cells.text("system")}] if cells.text("system") else []
    for pair in cells.items("history", "[user, assistant] pairs") or []:
        if not isinstance(pair, (list, tuple)) or len(pair) != 2 or not all(isinstance(turn, str) for turn in pair):
            raise cells.wrong("history", "a list of [user, assistant] pairs", pair)
        user, assistant = (check_text(turn, cells.where) for turn in pair)
        messages += [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]
    context = len(messages)
    asked = "\n\n".join(part for part in (cells.text("instruction"), cells.text("input")) if part)
    messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": cells.text("output")}]
    return _chat(cells, "output", messages, None, context)


def _ids(cells: _Cells) -> Payload:
    ids = _integers(cells, "input_ids", 0)
    if not ids:
        raise cells.wrong("input_ids", "a list of token ids", ids)
    if cells.record.get(cells.columns.column("labels")) is None:
        return Tokens(ids)
    labels = _integers(cells, "labels", IGNORE)
    if len(labels) != len(ids):
        raise cells.wrong("labels", f"as long as input_ids ({len(ids)})", labels)
    return Tokens(ids, labels)


def _integers(cells: _Cells, part: str, least: int) -> tuple[int, ...]:
    found = cells.items(part, "token ids") or []
    for value in found:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value < _LARGEST_ID:
            raise cells.wrong(part, "a list of token ids", value)
    return tuple(found)


def _messages(cells: _Cells, part: str, role_key: str = "role", content_key: str = "content") -> list[dict[str, Any]]:
    """Messages with `role` and `content` as text; every other key (tool calls, names, weights) is kept as it is."""
    result = []
    for number, message in enumerate(cells.items(part, "messages") or [], 1):
        if not isinstance(message, dict):
            raise cells.wrong(part, f"a list of messages, but message {number} is none", message)
        here = {key: value for key, value in message.items() if value is not None}  # parquet fills absent keys with null
        said = here.pop(role_key, here.pop("role", here.pop("from", None)))
        content = here.pop(content_key, here.pop("content", here.pop("value", None)))
        role = _ROLES.get(said.lower(), said) if isinstance(said, str) else None
        if not role:
            raise cells.wrong(part, f"messages with `{role_key}`, but message {number} has none", message)
        result.append({"role": role, "content": _content(cells, part, number, content), **here})
    return result


def _content(cells: _Cells, part: str, number: int, content: object) -> str:
    if content is None:
        return ""
    if isinstance(content, list) and all(isinstance(piece, dict) and isinstance(piece.get("text"), str) for piece in content):
        content = "".join(piece["text"] for piece in content)
    if not isinstance(content, str):
        raise cells.wrong(part, f"messages of text, but message {number} is not", content)
    return check_text(content, cells.where)


def _chat(
    cells: _Cells, part: str, messages: list[dict[str, Any]], tools: tuple[Mapping[str, Any], ...] | None, context: int = 0
) -> Payload:
    chat = Chat(tuple(messages), tools, context)
    if not chat.learned():
        raise cells.wrong(part, "a conversation with an assistant's turn to learn", messages)
    return chat


_BUILDERS: dict[str, Callable[[_Cells], Payload]] = {
    "prompt-completion": _pair, "messages": _turns, "sharegpt": _sharegpt, "alpaca": _alpaca, "input_ids": _ids,
}  # fmt: skip
assert set(_BUILDERS) | {"text"} == set(BY_NAME)
