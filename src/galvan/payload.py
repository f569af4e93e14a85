"""What a document is beside its text: prompt and completion, a conversation, or ids. Plain text has no payload.

`Document.text` then holds what is to be learned (the completion, the assistant's turns), so that words, leaks and style are counted
on the author's own text; the payload holds all that the model sees.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Pair:
    """A prompt, which is only read, and the completion that is learned. Whatever white space separates them is theirs."""

    prompt: str
    completion: str


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation: messages as the chat template takes them, each with `role` and `content`.

    Assistant messages from number `context` on are learned, except one with `"weight": 0`; `tools` are the schemas that were offered.
    """

    messages: tuple[Mapping[str, Any], ...]
    tools: tuple[Mapping[str, Any], ...] | None = None
    context: int = 0

    def learned(self) -> list[int]:
        """Numbers of the messages that are learned."""
        numbered = enumerate(self.messages)
        return [i for i, m in numbered if i >= self.context and m["role"] == "assistant" and m.get("weight") != 0]


@dataclass(frozen=True, slots=True)
class Tokens:
    """Ids made elsewhere, and labels (an id or -100), which are not shifted; without labels every id is learned."""

    input_ids: tuple[int, ...]
    labels: tuple[int, ...] | None = None


Payload = Pair | Chat | Tokens


def learned_text(payload: Payload) -> str:
    """What is to be learned, as text; "" for ids, which only a tokenizer can read."""
    if isinstance(payload, Pair):
        return payload.completion
    if isinstance(payload, Chat):
        return "\n\n".join(str(payload.messages[i].get("content") or "") for i in payload.learned())
    return ""


def mapped(payload: Payload, change: Callable[[str], str]) -> Payload:
    """The payload with every text of it changed; ids have none."""
    if isinstance(payload, Pair):
        return Pair(change(payload.prompt), change(payload.completion))
    if isinstance(payload, Chat):
        tools = None if payload.tools is None else tuple(_mapped(tool, change) for tool in payload.tools)
        return Chat(tuple(_mapped(message, change) for message in payload.messages), tools, payload.context)
    return payload


def _mapped(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {key: _mapped(inner, change) for key, inner in value.items()}
    return [_mapped(inner, change) for inner in value] if isinstance(value, list | tuple) else value


def from_json(value: Mapping[str, Any]) -> Payload:
    """The payload that `run.to_json` wrote; KeyError, TypeError or ValueError if it is none."""
    if "completion" in value:
        return Pair(str(value["prompt"]), str(value["completion"]))
    if "messages" in value:
        tools = value.get("tools")
        messages = tuple(dict(m) for m in value["messages"])
        if any("role" not in message for message in messages):
            raise ValueError("a message has no role")
        return Chat(messages, None if tools is None else tuple(tools), int(value.get("context", 0)))
    labels = value.get("labels")
    return Tokens(tuple(int(i) for i in value["input_ids"]), None if labels is None else tuple(int(i) for i in labels))
