"""Faults between a prompt and what is learned after it: chat templates, and boundaries that the tokenizer does not keep."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.faults import ground
from benchmarks.faults.cases import SOME, fault
from benchmarks.faults.place import Place, Said

FITS = 90  # tokens of a row, the template not counted
ROWS = "{% for m in messages %}{{ '### ' + m['role'] + ':\\n' + m['content'] + '\\n' }}{% endfor %}"
SAME = ROWS + "{% if add_generation_prompt %}{{ '### assistant:\\n' }}{% endif %}"
OTHER = ROWS + "{% if add_generation_prompt %}{{ '<assistant> ' }}{% endif %}"


def with_template(place: Place, template: str) -> Path:
    """A copy of the base whose tokenizer has a chat template."""
    folder = place.folder / "base"
    place.model().save_pretrained(folder)
    tokenizer = place.tokenizer()
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    return folder


def rows_of(place: Place, row: Callable[[str, str], dict[str, Any]], at: int = 12) -> str:
    """The setting's text as rows: `row` of its first `at` words and the rest, which keeps the space before it; cut so that each row fits."""
    tokenizer, made = place.tokenizer(), []
    for text, source in ground.passages(place.setting.text)[:160]:
        fits = tokenizer(text, return_offsets_mapping=True)["offset_mapping"][:FITS][-1][1]
        words = text[:fits].split(" ")[:-1]
        if len(words) > at + 4:
            made.append({**row(" ".join(words[:at]), " " + " ".join(words[at:])), "source": source})
    path = place.folder / "rows.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(one) + "\n" for one in made), encoding="utf-8")
    return str(path)


def _chat(prompt: str, completion: str) -> dict[str, Any]:
    said = (("user", f"Go on: {prompt}"), ("assistant", completion.strip()))
    return {"messages": [{"role": role, "content": content} for role, content in said]}


def _pair(prompt: str, completion: str) -> dict[str, Any]:
    return {"prompt": prompt, "completion": completion}


@fault("E02", settings=SOME)
def other_generation_prompt(place: Place) -> Said:
    """The template begins an answer in one way where it is trained, and in another where it is asked for."""
    return place.run({"data.source": rows_of(place, _chat), "model.base": str(with_template(place, OTHER))})


@fault("E02", settings=SOME)
def template_left_out(place: Place) -> Said:
    """Prompts and completions are trained bare, on a base that has a chat template and is used with it."""
    return place.run({"data.source": rows_of(place, _pair), "model.base": str(with_template(place, SAME))})


@fault("E05", settings=SOME)
def space_at_the_end_of_the_prompt(place: Place) -> Said:
    """Every prompt ends in the space that belongs to the completion's first word."""
    return place.run({"data.source": rows_of(place, lambda p, c: _pair(p + " ", c.removeprefix(" ")))})


@fault("E05", settings=SOME)
def prompt_ends_inside_a_word(place: Place) -> Said:
    """The rows were cut into prompt and completion at a number of characters."""

    def cut(prompt: str, completion: str) -> dict[str, Any]:
        text = prompt + completion
        return _pair(text[:60], text[60:])

    return place.run({"data.source": rows_of(place, cut)})
