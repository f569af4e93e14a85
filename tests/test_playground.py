"""The playground: what it writes is what each model writes alone, at every strength, streamed or not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

pytest.importorskip("fastapi", reason="galvan app needs the extra [app]")

from app_run import Browser, make_run
from galvan import models
from galvan.app.playground import Playground, at_strength
from galvan.errors import RecipeError
from galvan.measure.decode import Job, Sampling, decode, stop_ids, stream
from galvan.recipe import Model
from models_for_tests import byte_tokenizer, move, save_adapter, save_base, tiny_llama, tiny_mistral, wrap

FORM = {"prompt": "The lamp", "temperature": "0.9", "top_p": "0.9", "max_new_tokens": "12", "seed": "3", "strength": "1"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_run(tmp_path_factory.mktemp("play") / "run", 4)
    save_base(folder.parent / "base", tiny_mistral(0))
    save_adapter(folder / "adapter", tiny_mistral(0))
    save_adapter(folder.parent / "second", tiny_mistral(0), lora_alpha=32)
    (folder / "recipe.yaml").write_text(f"model: {{base: {folder.parent / 'base'}, device: cpu, dtype: float32}}\n")
    return folder


def last(news: Any) -> dict[str, str]:
    found: dict[str, str] = {}
    for one in news:
        found |= one
    return found


def by_hand(run: Path, adapter: str | None, strength: float = 1.0) -> str:
    """The same continuation from `decode`, and models loaded apart; the strength set in the adapter's config file."""
    base = models.locate(str(run.parent / "base"))
    model = models.load_base(base, Model(device="cpu", dtype="float32"))
    if adapter is not None:
        model = models.load_adapter(model, models.locate(adapter, "adapter"))
        for module in model.modules():
            if isinstance(getattr(module, "scaling", None), dict):
                module.scaling = {name: value * strength for name, value in module.scaling.items()}
    tokenizer = models.load_tokenizer(base)
    job = Job(tokenizer("The lamp")["input_ids"], Sampling("", 0.9, 0.9, 12), 3)
    said = decode(model, [job], stop_ids(model, tokenizer), 256, len(tokenizer), 0)[0]
    return str(tokenizer.decode([*job.ids, *said.ids], skip_special_tokens=True)).removeprefix("The lamp")


def test_each_side_writes_what_its_model_writes_alone(run: Path) -> None:
    from galvan.text import shown

    play = Playground(run, [str(run.parent / "second")])
    for name in play.names:
        for strength in ("1", "0.5", "2", "0"):
            said = last(play.write(play.asked({**FORM, "adapter": name, "strength": strength})))
            assert said == {"base": shown(by_hand(run, None)), "tuned": shown(by_hand(run, name, float(strength)))}
            assert (said["base"] == said["tuned"]) == (strength == "0")


def test_at_strength_0_the_logits_are_the_bases_bit_for_bit_and_afterwards_the_tuned_ones() -> None:
    ids = torch.arange(40)[None]
    base, tuned = tiny_llama(0), move(wrap(tiny_llama(0)))
    with torch.inference_mode():
        before = tuned(input_ids=ids).logits
        with at_strength(tuned, 0):
            assert torch.equal(tuned(input_ids=ids).logits, base(input_ids=ids).logits)
        assert torch.equal(tuned(input_ids=ids).logits, before)
        assert not torch.equal(before, base(input_ids=ids).logits)


@pytest.mark.parametrize("change", [{"use_dora": True}, {"modules_to_save": ["lm_head"]}, {"bias": "all"}])
def test_an_adapter_that_is_more_than_scaled_products_keeps_its_strength(change: dict[str, Any]) -> None:
    tuned = get_peft_model(tiny_llama(0), LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM", **change))
    with pytest.raises(RecipeError, match="must stay 1"), at_strength(tuned, 0.5):
        pass
    with at_strength(tuned, 1):
        pass


def test_a_stream_grows_token_by_token_into_what_decode_writes() -> None:
    model, tokenizer = tiny_llama(0), byte_tokenizer()
    job = Job([256, 5, 6], Sampling("", 1.0, 1.0, 20), 1)
    lengths = [len(said.ids) for said in stream(model, job, {257}, 256, 259)]
    whole = decode(model, [job], {257}, 256, len(tokenizer), 0)[0]
    assert lengths == sorted(lengths) and lengths[0] <= 1 and lengths[-1] == len(whole.ids) > 5
    *_, final = stream(model, job, {257}, 256, 259)
    assert (final.ids, final.stop) == (whole.ids, whole.stop)
    *_, cut = stream(model, Job([5] * 250, Sampling("", 1.0, 1.0, 20), 1), set(), 256, 259)
    assert (len(cut.ids), cut.stop) == (6, "context")


@pytest.mark.parametrize(
    ("change", "named"),
    [({"prompt": " "}, "prompt"), ({"temperature": "nan"}, "temperature"), ({"top_p": "0"}, "top_p"), ({"max_new_tokens": "1e9"}, "max_new_tokens"),
     ({"seed": "-1"}, "seed"), ({"strength": "2.1"}, "strength"), ({"adapter": "/etc"}, "adapter")],
)  # fmt: skip
def test_a_field_out_of_its_range_is_refused_by_name(run: Path, change: dict[str, str], named: str) -> None:
    with pytest.raises(RecipeError, match=named):
        Playground(run).asked({**FORM, **change})


def test_the_page_without_javascript_and_the_stream_give_the_same_texts(run: Path) -> None:
    browser = Browser(run, playground=Playground(run)).enter()
    page = browser.post("/playground", **FORM)
    lines = [json.loads(line) for line in browser.post("/playground/stream", **FORM).text.splitlines()]
    said = last(lines)
    import html

    assert page.status_code == 200 and len(lines) > 12
    for arm in ("base", "tuned"):
        assert (
            f'id="{arm}-text">{html.escape(said[arm], quote=True)}'.replace("&quot;", "&#34;").replace("&#x27;", "&#39;")
            in page.text
        )
    assert browser.post("/playground/stream", **{**FORM, "prompt": "x" * 400}).text.count("Shorten the prompt") == 1
    assert browser.post("/playground", **{**FORM, "strength": "3"}).status_code == 400


def test_a_run_without_an_adapter_says_so(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", 4)
    with pytest.raises(RecipeError, match="--adapter"):
        Playground(run)
