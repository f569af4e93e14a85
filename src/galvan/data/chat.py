"""Conversations as the model's own chat template writes them, and which stretches of that text are learned.

The text is always what the template gives for the whole conversation, byte for byte; it is tokenised once, without anything added,
because the template writes its own BOS. What is learned is found in one of three ways, and the way is recorded:

- marks: the template says it itself, with `{% generation %}`;
- prefix: an assistant's turn begins where the conversation before it, with the generation prompt, ends, and ends where the
  conversation with it ends; this needs each shorter text to be the beginning of the whole one;
- offsets: where it is not (templates that drop earlier thoughts), the turn's own words are looked up, in order, and what is learned
  ends with the special token that closes them.

Without a template the rule is: contents one after the other with a blank line between, no names of roles, EOS after the last.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from galvan.errors import DataError
from galvan.payload import Chat
from galvan.text import shown

Way = Literal["marks", "prefix", "offsets", "no template"]
Span = tuple[int, int]
SEPARATOR = "\n\n"
_MARKS = re.compile(r"\{%-?\s*generation\s*-?%\}")


@dataclass(frozen=True, slots=True)
class Rendered:
    """A conversation as text, the character spans that are learned in it, and how they were found."""

    text: str
    spans: list[Span]
    way: Way


def template_of(tokenizer: Any) -> str | None:
    """The tokenizer's chat template; the default one where it has several."""
    template = getattr(tokenizer, "chat_template", None)
    if isinstance(template, dict):
        template = template.get("default")
    return template or None


def generation_text(tokenizer: Any, chat: Chat) -> str:
    """What the model is given before it writes the last learned turn: used in training, scoring and generation alike."""
    before = chat.messages[: chat.learned()[-1]]
    if template_of(tokenizer) is None:
        return "".join(_content(message) + SEPARATOR for message in before)
    return _apply(tokenizer, before, chat.tools, generation_prompt=True)


def render(tokenizer: Any, chat: Chat, where: str = "conversation") -> Rendered:
    """The whole conversation; DataError if the template refuses it or a learned turn cannot be found in what it writes."""
    template = template_of(tokenizer)
    if template is None:
        return _without_template(chat)
    try:
        if _MARKS.search(template) and chat.context == 0 and all(m.get("weight") is None for m in chat.messages):
            return _by_marks(template, tokenizer, chat)
        text = _apply(tokenizer, chat.messages, chat.tools)
        spans = _by_prefix(tokenizer, chat, text)
        return (
            Rendered(text, spans, "prefix")
            if spans is not None
            else Rendered(text, _by_offsets(tokenizer, chat, text, where), "offsets")
        )
    except DataError:
        raise
    except Exception as error:  # jinja's own, and whatever a template raises with raise_exception
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError("tokens/template", f"{shown(where)}: the model's chat template refuses it: {shown(reason, 200)}.") from None


def _apply(tokenizer: Any, messages: Sequence[Mapping[str, Any]], tools: Any, generation_prompt: bool = False) -> str:
    plain = [{key: value for key, value in message.items() if key != "weight"} for message in messages]
    offered = None if tools is None else list(tools)
    return str(tokenizer.apply_chat_template(plain, tools=offered, tokenize=False, add_generation_prompt=generation_prompt))


def _by_marks(template: str, tokenizer: Any, chat: Chat) -> Rendered:
    from transformers.utils.chat_template_utils import render_jinja_template

    texts, indices = render_jinja_template(
        [[dict(message) for message in chat.messages]], tools=None if chat.tools is None else [dict(tool) for tool in chat.tools],
        chat_template=template, return_assistant_tokens_mask=True, **tokenizer.special_tokens_map,
    )  # fmt: skip
    return Rendered(texts[0], [(int(begin), int(end)) for begin, end in indices[0]], "marks")


def _by_prefix(tokenizer: Any, chat: Chat, text: str) -> list[Span] | None:
    """None where a shorter conversation is not written as the beginning of the whole one."""
    spans = []
    for index in chat.learned():
        try:
            before = _apply(tokenizer, chat.messages[:index], chat.tools, generation_prompt=True) if index else ""
            until = text if index == len(chat.messages) - 1 else _apply(tokenizer, chat.messages[: index + 1], chat.tools)
        except Exception:  # a template may refuse a beginning and yet accept the whole
            return None
        if not (text.startswith(before) and text.startswith(until) and len(until) > len(before)):
            return None
        spans.append((len(before), len(until)))
    return spans


def _by_offsets(tokenizer: Any, chat: Chat, text: str, where: str) -> list[Span]:
    closing = re.compile("|".join(re.escape(token) for token in special_tokens(tokenizer)) or r"\Z")
    spans, at, learned = [], 0, set(chat.learned())
    for index, message in enumerate(chat.messages):
        content = _content(message).strip()
        begin = text.find(content, at)
        if begin < 0 or (index in learned and not content):
            if index not in learned:
                continue
            raise DataError(
                "tokens/turn-not-found",
                f"{shown(where)}: message {index + 1} is not written as it is by the model's chat template, so it cannot be told what to learn; "
                "use a template with {% generation %} marks, or leave the row out.",
            )
        at = begin + len(content)
        if index in learned:
            close = closing.match(text, at)
            spans.append((begin, close.end() if close else at))
    return spans


def _without_template(chat: Chat) -> Rendered:
    text, spans = "", []
    for index, message in enumerate(chat.messages):
        text += SEPARATOR if index else ""
        begin = len(text)
        text += _content(message)
        if index in chat.learned():
            spans.append((begin, len(text)))
    return Rendered(text, spans, "no template")


def _content(message: Mapping[str, Any]) -> str:
    content = message.get("content") or ""
    return content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)


def special_tokens(tokenizer: Any) -> list[str]:
    """The tokens that the tokenizer marks as special, longest first."""
    added = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    return sorted({*added, *tokenizer.all_special_tokens}, key=lambda token: (-len(token), token))
