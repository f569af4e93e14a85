"""The notebook that galvan began with, recreated with a tiny model: `galvan.audit` under its evaluation cell names what went wrong."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from galvan.errors import DataError
from galvan.measure.by_hand import wrong_ways
from galvan.notebook import Audit, audit
from models_for_tests import byte_tokenizer, move, save_adapter, save_base, tiny_llama, tiny_mistral, wrap
from test_notebook import codes, state

TOKENIZER = byte_tokenizer()
SNIPPETS = [
    "It was on a dreary night of November that I beheld the accomplishment of my toils.",
    "I saw the dull yellow eye open.",
    "How can I describe my emotions at this catastrophe?",
    "The rain pattered dismally against the panes, and my candle was nearly burnt out.",
    "I had worked hard for nearly two years.",
    "Morning, dismal and wet, at length dawned.",
]


def evaluation_cell(model: Any) -> float:
    """As it stands in the notebook: the mean loss of N - 1 targets, times N."""
    total, count = 0.0, 0
    for text in SNIPPETS:
        ids = TOKENIZER(text, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            loss = model(input_ids=ids, labels=ids).loss
        total += loss.item() * ids.size(1)
        count += ids.size(1)
    return math.exp(total / count)


def right_cell(model: Any) -> float:
    total, count = 0.0, 0
    for text in SNIPPETS:
        ids = TOKENIZER(text, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            total += model(input_ids=ids, labels=ids).loss.item() * (ids.size(1) - 1)
        count += ids.size(1) - 1
    return math.exp(total / count)


def generate(model: Any, prompt: str) -> str:
    """As in the notebook: sampled, and not seeded. It also switches the model to evaluation mode."""
    model.eval()
    ids = TOKENIZER(prompt, return_tensors="pt")["input_ids"]
    out = model.generate(input_ids=ids, max_new_tokens=8, do_sample=True, temperature=1.0, pad_token_id=258)
    return str(TOKENIZER.decode(out[0]))


def greedy(model: Any, prompt: str) -> str:
    ids = TOKENIZER(prompt, return_tensors="pt")["input_ids"]
    return str(TOKENIZER.decode(model.generate(input_ids=ids, max_new_tokens=8, do_sample=False, pad_token_id=258)[0]))


def look(base: Any, tuned: Any, **more: Any) -> Audit:
    return audit(base=base, tuned=tuned, tokenizer=TOKENIZER, texts=SNIPPETS, **more)


@pytest.mark.cause("G07", "fault")
@pytest.mark.cause("H02", "fault")
def test_the_origin_notebook_is_told_a01_first_then_g07_and_h02_and_after_the_merge_a02(tmp_path: Path) -> None:
    save_base(tmp_path / "base", tiny_mistral(0))
    save_adapter(tmp_path / "adapter", tiny_mistral(0))
    base_model = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    finetuned_model = PeftModel.from_pretrained(base_model, tmp_path / "adapter")
    reported = {"base": evaluation_cell(base_model), "tuned": evaluation_cell(finetuned_model)}
    assert reported["base"] == reported["tuned"]
    base_model.train()
    before = state(base_model, finetuned_model)
    found = look(base_model, finetuned_model, reported=reported, generate=generate)
    assert state(base_model, finetuned_model) == before
    assert found.present[0].code == "A01" and found.alive is False
    assert {"A01", "G07", "H02"} <= set(codes(found)) and "G10" not in codes(found)
    seen = {finding.code: finding for finding in found.findings}
    assert seen["G07"].certainty == "certain" and "N one more than the targets" in seen["G07"].because[0]
    assert "the second time" in seen["H02"].because[0]
    assert "Found:        The base was evaluated" in found.to_text() and "To settle it:" in found.to_text()

    merged = finetuned_model.merge_and_unload()
    before = state(base_model, finetuned_model, merged)
    found = look(base_model, finetuned_model, reported=reported, generate=generate)
    assert state(base_model, finetuned_model, merged) == before
    assert {"A02", "G07", "H02"} <= set(codes(found))


@pytest.mark.cause("G07", "healthy")
@pytest.mark.cause("H02", "healthy")
@pytest.mark.cause("G01", "healthy")
def test_a_notebook_that_does_it_right_is_accused_of_neither() -> None:
    base, tuned = tiny_llama(0), move(wrap(tiny_llama(0)))
    reported = {"base": right_cell(base), "tuned": right_cell(tuned)}
    found = look(base, tuned, reported=reported, generate=greedy)
    seen = {finding.code: finding for finding in found.findings}
    assert not [code for code in codes(found) if code[0] in "EFH" or code in ("G01", "G02", "G03", "G04", "G07", "G11")]
    assert all(seen[code].status == "absent" for code in ("G01", "G02", "G03", "G04", "G07", "G11", "H02"))
    assert "What exp(sum of NLL" in seen["G07"].against[0] or "exp(sum of NLL" in seen["G07"].against[0]


def mean_of_perplexities(model: Any) -> float:
    losses = [_loss(model, TOKENIZER(text, return_tensors="pt")["input_ids"]) for text in SNIPPETS]
    return sum(map(math.exp, losses)) / len(losses)


def mean_of_means(model: Any) -> float:
    losses = [_loss(model, TOKENIZER(text, return_tensors="pt")["input_ids"]) for text in SNIPPETS]
    return math.exp(sum(losses) / len(losses))


def padding_scored(model: Any) -> float:
    """As in Axolotl's callback: padded, labels a copy of the ids."""
    batch = TOKENIZER(SNIPPETS, return_tensors="pt", padding=True)
    with torch.no_grad():
        return math.exp(
            model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=batch["input_ids"]).loss.item()
        )


def two_bos(model: Any) -> float:
    return _weighted(model, [torch.tensor([[256, *TOKENIZER(text)["input_ids"]]]) for text in SNIPPETS])


def no_bos(model: Any) -> float:
    return _weighted(model, [torch.tensor([TOKENIZER(text)["input_ids"][1:]]) for text in SNIPPETS])


def shifted_twice(model: Any) -> float:
    """Labels shifted by the data already, and by the model once more."""
    total, count = 0.0, 0
    for text in SNIPPETS:
        ids = TOKENIZER(text, return_tensors="pt")["input_ids"]
        labels = torch.cat([ids[:, 1:], torch.full((1, 1), -100)], 1)
        with torch.no_grad():
            total += model(input_ids=ids, labels=labels).loss.item() * (ids.size(1) - 2)
        count += ids.size(1) - 2
    return math.exp(total / count)


def last_batch_dropped(model: Any) -> float:
    return _weighted(model, [TOKENIZER(text, return_tensors="pt")["input_ids"] for text in SNIPPETS[:4]])


def last_batch_filled_up(model: Any) -> float:
    return _weighted(model, [TOKENIZER(text, return_tensors="pt")["input_ids"] for text in [*SNIPPETS, *SNIPPETS[:2]]])


def _loss(model: Any, ids: torch.Tensor) -> float:
    with torch.no_grad():
        return float(model(input_ids=ids, labels=ids).loss)


def _weighted(model: Any, rows: list[torch.Tensor]) -> float:
    return math.exp(sum(_loss(model, ids) * (ids.size(1) - 1) for ids in rows) / sum(ids.size(1) - 1 for ids in rows))


@pytest.mark.parametrize(
    ("code", "way"),
    [
        pytest.param("E03", two_bos, marks=pytest.mark.cause("E03", "fault")),
        pytest.param("E04", no_bos, marks=pytest.mark.cause("E04", "fault")),
        pytest.param("E11", shifted_twice, marks=pytest.mark.cause("E11", "fault")),
        pytest.param("G01", mean_of_perplexities, marks=pytest.mark.cause("G01", "fault")),
        pytest.param("G02", padding_scored, marks=pytest.mark.cause("G02", "fault")),
        pytest.param("G03", last_batch_dropped, marks=pytest.mark.cause("G03", "fault")),
        pytest.param("G04", mean_of_means, marks=pytest.mark.cause("G04", "fault")),
        pytest.param("G11", last_batch_filled_up, marks=pytest.mark.cause("G11", "fault")),
    ],
)
def test_a_figure_computed_wrongly_is_recognised_by_its_value_alone(code: str, way: Any) -> None:
    base, tuned = tiny_llama(0), move(wrap(tiny_llama(0)))
    found = look(base, tuned, reported={"base": way(base), "tuned": way(tuned)})
    suspects = [c for c in codes(found) if c[0] in "EF" or c in ("G01", "G02", "G03", "G04", "G07", "G11")]
    assert suspects == [code]


@pytest.mark.cause("G13", "fault")
def test_a_base_with_two_beginnings_beside_a_tuned_model_with_one_is_a_handicap() -> None:
    base, tuned = tiny_llama(0), move(wrap(tiny_llama(0)))
    found = look(base, tuned, reported={"base": two_bos(base), "tuned": right_cell(tuned)})
    assert {"E03", "G13"} <= set(codes(found))


def test_a_figure_that_nothing_explains_is_unknown_and_no_accusation() -> None:
    base, tuned = tiny_llama(0), move(wrap(tiny_llama(0)))
    found = look(base, tuned, reported={"base": 1.2345 * right_cell(base), "tuned": right_cell(tuned)})
    seen = {finding.code: finding for finding in found.findings}
    assert seen["G01"].status == seen["G07"].status == "unknown" and "no way that is known" in seen["G07"].because[0]


def test_a_reported_figure_must_be_a_perplexity() -> None:
    with pytest.raises(DataError, match="has no perplexity"):
        look(tiny_llama(0), tiny_llama(1), reported={"loss": 2.07})


def test_a_generating_function_may_do_what_it_likes_and_the_models_stay_as_they_were() -> None:
    base, tuned = tiny_llama(0), move(wrap(tiny_llama(0))).train()

    def rough(model: Any, prompt: str) -> str:
        model.eval()
        if hasattr(model, "disable_adapter_layers"):
            model.disable_adapter_layers()
        model.requires_grad_(False)
        return prompt

    before = state(base, tuned)
    assert "H02" not in codes(look(base, tuned, generate=rough))
    assert state(base, tuned) == before


def test_two_beginnings_are_not_tried_where_the_model_has_no_room_for_them() -> None:
    row = torch.arange(10)[None] + 1
    row[0, 0] = 256
    assert "E03" not in wrong_ways(tiny_llama(0), [row], 256, 258, most=10) and "E03" in wrong_ways(
        tiny_llama(0), [row], 256, 258, 11
    )
