"""What a generating function answers (A08, A13), and what load_state_dict gave back (B09), proved on live models."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from galvan.errors import DataError
from galvan.notebook import Audit, audit
from models_for_tests import TEXTS, byte_tokenizer, move, save_adapter, tiny_llama, wrap

TOKENIZER, PROMPT, TOKENS = byte_tokenizer(), "The storm passed over", 12


def readable(seed: int = 0) -> Any:
    """A model whose likeliest token is always an ASCII letter, so that its answers are text that is encoded back to the same ids."""
    model = tiny_llama(seed)
    letters = TOKENIZER.convert_tokens_to_ids(list("abcdefghijklmnopqrstuvwxyz"))
    others = [i for i in range(300) if i not in letters]
    model.lm_head.weight.data[others] = 0
    return model


@pytest.fixture(scope="module")
def pair() -> tuple[Any, Any]:
    return readable(), move(wrap(readable()), size=0.5).eval()


@torch.no_grad()
def greedy(model: nn.Module, prompt: str, past: list[Any] | None = None) -> str:
    """Greedy words; `past` is a cache of the prompt's keys and values that outlives the call, as a careless server's does."""
    ids = torch.tensor([TOKENIZER(prompt)["input_ids"]])
    if past is not None and not past:
        past.append(model(input_ids=ids[:, :-1], use_cache=True).past_key_values)
    cache = copy.deepcopy(past[0]) if past else None
    new: list[int] = []
    given = ids if cache is None else ids[:, -1:]
    for _ in range(TOKENS):
        out = model(input_ids=given, past_key_values=cache, use_cache=True)
        cache, given = out.past_key_values, out.logits[:, -1:].argmax(-1)
        new.append(int(given))
    return str(TOKENIZER.decode(new))


def asked(pair: tuple[Any, Any], generate: Any) -> Audit:
    return audit(base=pair[0], tuned=pair[1], tokenizer=TOKENIZER, texts=TEXTS, generate=generate, prompt=PROMPT)


def status(found: Audit, code: str) -> str:
    return next(finding.status for finding in found.findings if finding.code == code)


@pytest.mark.cause("A08", "healthy")
@pytest.mark.cause("A13", "healthy")
def test_greedy_answers_of_the_model_that_was_asked_exclude_a_shared_cache_and_a_wrong_name(pair: tuple[Any, Any]) -> None:
    for generate in (greedy, lambda model, prompt: prompt + greedy(model, prompt)):
        found = asked(pair, generate)
        assert (status(found, "A08"), status(found, "A13"), status(found, "H02")) == ("absent", "absent", "absent")
        assert found.alive is True and not found.present


@pytest.mark.cause("A08", "fault")
def test_keys_and_values_of_the_tuned_model_used_under_the_base_are_a08(pair: tuple[Any, Any]) -> None:
    past: list[Any] = []
    found = asked(pair, lambda model, prompt: greedy(model, prompt, past))
    assert [f.code for f in found.present] == ["A08"] and "do not put" in found.present[0].because[1]
    assert status(found, "A13") == "absent"


@pytest.mark.cause("A08", "fault")
def test_whole_answers_kept_by_prompt_are_a08_and_less_certain(pair: tuple[Any, Any]) -> None:
    kept: dict[str, str] = {}
    found = asked(pair, lambda model, prompt: kept.setdefault(prompt, greedy(model, prompt)))
    assert [(f.code, f.certainty) for f in found.present] == [("A08", "likely")]


@pytest.mark.cause("A13", "fault")
def test_a_server_that_never_hears_the_adapters_name_is_a13(pair: tuple[Any, Any]) -> None:
    base = pair[0]
    found = asked(pair, lambda model, prompt: greedy(base, prompt))
    assert [f.code for f in found.present] == ["A13"] and found.alive is True
    assert status(found, "A08") == "unknown"


def test_answers_by_chance_or_in_other_words_decide_nothing(pair: tuple[Any, Any]) -> None:
    words = iter("abcdefgh")
    for generate in (
        lambda model, prompt: next(words) * 5,
        lambda model, prompt: "Nothing that either says.",
        lambda model, prompt: "",
    ):
        found = asked(pair, generate)
        assert (status(found, "A08"), status(found, "A13")) == ("unknown", "unknown")


@pytest.mark.cause("B09", "fault")
def test_weights_given_to_a_model_without_layers_are_b09(tmp_path: Path) -> None:
    folder, base, tuned = save_adapter(tmp_path / "a", tiny_llama(0)), tiny_llama(0), tiny_llama(0)
    lost = tuned.load_state_dict(load_file(folder / "adapter_model.safetensors"), strict=False)
    found = audit(base=base, tuned=tuned, tokenizer=TOKENIZER, adapter=folder, loaded=lost)
    assert found.present[0].code == "B09" and "8 tensors" in found.present[0].because[0] and found.alive is False
    assert status(found, "A05") == "absent"


@pytest.mark.cause("A05", "fault")
def test_an_adapter_that_is_not_in_the_object_is_a05_and_b09_stays_open(tmp_path: Path) -> None:
    folder = save_adapter(tmp_path / "a", tiny_llama(0))
    found = audit(base=tiny_llama(0), tuned=tiny_llama(0), tokenizer=TOKENIZER, adapter=folder)
    assert "A05" in [f.code for f in found.present] and status(found, "B09") == "unknown"


@pytest.mark.cause("B09", "healthy")
def test_an_adapter_loaded_into_its_layers_is_not_b09(tmp_path: Path) -> None:
    folder, tuned = save_adapter(tmp_path / "a", tiny_llama(0)), wrap(tiny_llama(0))
    saved = {name.replace(".weight", ".default.weight"): t for name, t in load_file(folder / "adapter_model.safetensors").items()}
    found = audit(
        base=tiny_llama(0), tuned=tuned, tokenizer=TOKENIZER, adapter=folder, loaded=tuned.load_state_dict(saved, strict=False)
    )
    assert status(found, "B09") == "absent" and not found.present and found.alive is True


def test_what_load_state_dict_returned_must_be_it() -> None:
    with pytest.raises(DataError, match="unexpected_keys"):
        audit(base=tiny_llama(0), tuned=tiny_llama(1), tokenizer=TOKENIZER, loaded=[])
