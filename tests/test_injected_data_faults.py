"""Faults of data and tokens, each injected into a whole run of a tiny model and seen by its check before the first step; none fires on
sound text (issue 3: E01, E02, E03, E06, E08, E09, E10, E11, D04)."""

from __future__ import annotations

import dataclasses
import json
import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from chat_tokenizers import CHATML, LLAMA, chat_tokenizer
from galvan import recipe
from galvan.data.tokens import TokenRow
from galvan.errors import GalvanError
from galvan.likelihood import sum_nll
from galvan.rundir import read_json
from galvan.story import Story
from galvan.training import gradients, loop
from galvan.training.packing import Pass, collate_packs
from models_for_tests import byte_tokenizer, save_base, tiny_llama

SHARED = Path(os.environ.get("GALVAN_SHARED") or Path(__file__).resolve().parents[1].parent / "shared") / "data"
SNIPPETS = SHARED / "frankenstein_chunks.csv"
WORDS = ("storm", "lake", "letter", "answer", "lamp", "night", "sister", "north", "ship", "ice", "voice", "window")
Rows = Sequence[dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Seen:
    """What a run said: codes of the notices in tokens.json and of the audit's warnings, and of the error that stopped it, with its stage."""

    notices: dict[str, str]
    audit: set[str]
    error: str | None = None
    stage: str | None = None
    trained: bool = False


def sentence(number: int) -> str:
    return " ".join(random.Random(number).choices(WORDS, k=9)) + f" {number}."


TEXTS: Rows = [{"text": sentence(n)} for n in range(60)]
PAIRS: Rows = [{"prompt": f"Say {n}: ", "completion": sentence(n)} for n in range(60)]
TALKS: Rows = [
    {"messages": [{"role": "user", "content": f"Say {n}"}, {"role": "assistant", "content": sentence(n)}]} for n in range(60)
]


def tokens_row(number: int, shift: int = 0, mask_end: bool = False) -> dict[str, Any]:
    """A row that came tokenised: its labels moved `shift` places early, its end masked as padding is where pad is EOS."""
    ids = [256, *byte_tokenizer(bos=False)(sentence(number))["input_ids"], 257]
    labels = [*ids[shift:], *[-100] * shift]
    return {"input_ids": ids, "labels": [*labels[:-1], -100] if mask_end else labels}


def told(folder: Path, source: Rows | str, *settings: str, tokenizer: Any = None) -> Seen:
    """A run on a tiny base, as far as it goes: prepare, then train for three steps."""
    base = save_base(folder / "base", tiny_llama(max_position_embeddings=2048))
    if tokenizer is not None:
        tokenizer.save_pretrained(base)
    if not isinstance(source, str):
        (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in source))
        source = str(folder / "a.jsonl")
    asked = recipe.from_text(
        "", "test", [f"model.base={base}", f"data.source={source}", "training.epochs=0.05", "training.evaluations=1", *settings]
    )
    story = Story.begin(asked, folder / "run", None, True)
    stage, error = "prepare", None
    try:
        story.prepare()
        stage = "train"
        story.train()
    except GalvanError as caught:
        error = caught.code
    notices = read_json(folder / "run" / "tokens.json")["notices"] if (folder / "run" / "tokens.json").exists() else []
    audit = read_json(folder / "run" / "audit.json")["warnings"]
    return Seen(
        {notice["code"]: notice["message"] for notice in notices}, {warning["code"] for warning in audit}, error,
        stage if error else None, (folder / "run" / "training.jsonl").exists(),
    )  # fmt: skip


# ---- sound ----

SOUND: list[tuple[str, Rows | str, Any]] = [
    ("texts", TEXTS, None), ("prompts with completions", PAIRS, None), ("conversations", TALKS, chat_tokenizer(CHATML, True)),
    ("rows that came tokenised", [tokens_row(n) for n in range(60)], None), ("the letters", "galvan/letters", None),
]  # fmt: skip


@pytest.mark.parametrize("packing", ["true", "false"])
@pytest.mark.parametrize(("name", "source", "tokenizer"), SOUND, ids=[name for name, *_ in SOUND])
def test_no_check_fires_on_sound_text(tmp_path: Path, name: str, source: Rows | str, tokenizer: Any, packing: str) -> None:
    seen = told(tmp_path, source, f"training.packing={packing}", tokenizer=tokenizer)
    small = {"data/few-test-documents", "data/little-text"} if name != "the letters" else set()
    assert seen == Seen({}, small, trained=True)


@pytest.mark.skipif(not SNIPPETS.exists(), reason="the origin's snippets are not beside this checkout")
def test_no_check_fires_on_the_origin_s_snippets(tmp_path: Path) -> None:
    seen = told(tmp_path, str(SNIPPETS), "data.document_tokens=1500", "training.packing=true")
    assert seen == Seen({}, set(), trained=True)


# ---- seen by preparing, which writes tokens.json and audit.json ----


def without_end() -> Any:
    tokenizer = byte_tokenizer()
    tokenizer.eos_token = None
    return tokenizer


def with_template(template: str) -> Any:
    tokenizer = chat_tokenizer(LLAMA)
    tokenizer.chat_template = template
    return tokenizer


def test_e01_an_end_that_is_masked_or_never_appended_is_seen(tmp_path: Path) -> None:
    masked = told(tmp_path / "masked", [tokens_row(n, mask_end=True) for n in range(60)])
    assert "the end is not learned in" in masked.notices["E01"] and masked.trained
    never = told(tmp_path / "never", TEXTS, tokenizer=without_end())
    assert "no end-of-text token" in never.notices["E01"]


def test_e02_a_prompt_that_is_written_otherwise_in_use_is_seen(tmp_path: Path) -> None:
    other = "{% if add_generation_prompt %}<|head|>system<|/head|>\n\nBe brief.<|eot|>{% endif %}" + LLAMA.replace(
        "{{ bos_token }}", ""
    )
    assert "not how its training row begins" in told(tmp_path / "other", TALKS, tokenizer=with_template(other)).notices["E02"]
    assert "without the model's chat template" in told(tmp_path / "none", PAIRS, tokenizer=chat_tokenizer(LLAMA)).notices["E02"]


def test_e03_a_second_beginning_of_text_stops_the_run_before_a_model_is_loaded(tmp_path: Path) -> None:
    seen = told(tmp_path, TALKS, tokenizer=with_template("{{ bos_token }}" + LLAMA))
    assert (seen.error, seen.stage, seen.trained) == ("E03", "train", False) and "E03" in seen.notices


def test_e06_rows_that_lose_their_ends_are_counted(tmp_path: Path) -> None:
    seen = told(tmp_path, TEXTS, "training.document_tokens=30")
    assert "the end is left in 0 rows" in seen.notices["E06"]


def test_e10_copies_across_the_split_stop_the_run(tmp_path: Path) -> None:
    rows = [{"text": " ".join(sentence(10 * n + k) for k in range(4))} for n in range(40)]
    again = [{"text": row["text"].upper()} for row in rows]
    seen = told(tmp_path, [*rows, *again], "data.split.by=random", "data.clean.near_duplicates=null")
    assert (seen.error, seen.stage, seen.trained) == ("data/leak", "prepare", False) and "data/leak" in seen.audit


def test_e11_labels_that_are_shifted_already_stop_the_run(tmp_path: Path) -> None:
    seen = told(tmp_path, [tokens_row(n, shift=1) for n in range(60)])
    assert (seen.error, seen.stage, seen.trained) == ("E11", "train", False) and "stand one place early" in seen.notices["E11"]


def test_d04_rows_without_a_token_to_learn_stop_the_run(tmp_path: Path) -> None:
    rows = [{"prompt": f"This prompt {n} is longer than the room: ", "completion": sentence(n)} for n in range(60)]
    seen = told(tmp_path, rows, "training.document_tokens=20")
    assert (seen.error, seen.stage, seen.trained) == ("D04", "train", False) and "have no token to learn" in seen.notices["D04"]


# ---- seen by the live checks, before the first step ----


def test_e08_a_model_that_mixes_packed_documents_is_not_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Positions of its own are lost on the way, so that packed documents are one to it."""
    monkeypatch.setattr(loop, "supports_unpadded", lambda *_, **k: False)
    model = tiny_llama()
    forward = model.forward
    model.forward = lambda *given, position_ids=None, **more: forward(*given, **more)
    rows = [TokenRow(str(n), ids, ids.copy()) for n, ids in enumerate(np.arange(24).reshape(3, 8))]
    settings = recipe.Training(method="full", epochs=1, evaluations=1, packing=True)
    with pytest.raises(GalvanError) as caught:
        loop.train(model, rows, settings, 0, tmp_path)
    assert caught.value.code == "E08" and not (tmp_path / "training.jsonl").exists()
    loop.train(tiny_llama(), rows, settings, 0, tmp_path)


@pytest.mark.parametrize("packing", ["true", "false"])
def test_e09_a_label_across_a_seam_stops_the_run(tmp_path: Path, packing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows without padding between them have seams too."""

    def unmasked(packs: Sequence[list[TokenRow]], device: torch.device) -> Pass:
        one = collate_packs(packs, device)
        return Pass(one.input_ids, one.input_ids.clone(), one.position_ids)

    monkeypatch.setattr(loop, "collate_packs", unmasked)
    seen = told(tmp_path, TEXTS, f"training.packing={packing}")
    assert (seen.error, seen.stage, seen.trained) == ("E09", "train", False)


def test_e11_a_loss_that_shifts_its_labels_twice_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def twice(model: Any, input_ids: torch.Tensor, labels: torch.Tensor, *more: Any) -> torch.Tensor:
        return sum_nll(model, input_ids, torch.roll(labels, -1, dims=1), *more)

    monkeypatch.setattr(gradients, "sum_nll", twice)  # in the steps alone: what is checked is what training calls
    seen = told(tmp_path, TEXTS)
    assert (seen.error, seen.stage, seen.trained) == ("E11", "train", False)
