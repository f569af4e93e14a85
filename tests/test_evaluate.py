"""`galvan evaluate`, `check` and `score` on adapters that others made, and on broken ones: the acceptance of the foundation."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

import galvan
from galvan import pipeline
from galvan.cli import main
from galvan.compare import read_scores
from models_for_tests import save_adapter, save_base, tiny_llama, tiny_mistral

DOCUMENTS = [
    f"The {n} lamps of the harbour were lit at {n % 12 + 1}; nobody came, and letter {n} stayed unread." for n in range(24)
]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("base"), tiny_llama(3))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "held-out.jsonl"
    path.write_text("".join(json.dumps({"text": t}) + "\n" for t in DOCUMENTS), encoding="utf-8")
    return path


def command(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr("sys.argv", ["galvan", *map(str, words)])
    with pytest.raises(SystemExit) as done:
        main()
    return int(done.value.code or 0)


def verdict_of(capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    return json.loads(capsys.readouterr().out)


def naive_perplexity(model: torch.nn.Module, tokenizer: object) -> float:
    """transformers' own loss, one document at a time, weighted by its targets."""
    total, count = 0.0, 0
    with torch.no_grad():
        for text in DOCUMENTS:
            ids = tokenizer(text, return_tensors="pt").input_ids  # type: ignore[operator]
            total += float(model(input_ids=ids, labels=ids).loss) * (ids.shape[1] - 1)
            count += ids.shape[1] - 1
    return float(np.exp(total / count))


def test_an_adapter_saved_by_plain_peft_is_judged(
    base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = save_adapter(tmp_path / "adapter", AutoModelForCausalLM.from_pretrained(base))
    code = command(monkeypatch, "evaluate", base, adapter, "--data", data, "--out", tmp_path / "run", "--json")
    verdict = verdict_of(capsys)
    from peft import PeftModel

    tokenizer, plain = AutoTokenizer.from_pretrained(base), AutoModelForCausalLM.from_pretrained(base)
    # The base first: once wrapped, `plain` is the tuned model (this test's first draft fell for A01).
    assert verdict["fit"]["base"]["perplexity"] == pytest.approx(naive_perplexity(plain, tokenizer), rel=1e-5)
    tuned = PeftModel.from_pretrained(plain, adapter).eval()
    assert verdict["fit"]["tuned"]["perplexity"] == pytest.approx(naive_perplexity(tuned, tokenizer), rel=1e-5)
    assert verdict["fit"]["n_documents"] == len(DOCUMENTS)
    assert code == {"improved": 0, "worse": 1, "equivalent": 1, "inconclusive": 6}[verdict["verdict"]]


def test_an_adapter_trained_by_trl_is_judged_improved(
    base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(base),
        processing_class=AutoTokenizer.from_pretrained(base),
        train_dataset=Dataset.from_dict({"text": DOCUMENTS[:16]}),
        args=SFTConfig(
            output_dir=str(tmp_path / "trl"),
            max_steps=12,
            learning_rate=1e-2,
            per_device_train_batch_size=8,
            report_to=[],
            use_cpu=True,
            save_strategy="no",
            bf16=False,
        ),
        peft_config=LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "down_proj"], task_type="CAUSAL_LM"),
    )
    trainer.train()
    trainer.save_model(str(tmp_path / "adapter"))
    capsys.readouterr()
    code = command(monkeypatch, "evaluate", base, tmp_path / "adapter", "--data", data, "--out", tmp_path / "run", "--json")
    verdict = verdict_of(capsys)
    assert (code, verdict["verdict"]) == (0, "improved")
    assert all(finding["status"] != "present" for finding in verdict["findings"])


# A prefix of another program fits nothing (B01); that of torch.compile has a code of its own (B02).
WRONG_PARTS = {"foreign names": "transformer.net.", "compiled": "base_model.model._orig_mod.model."}


@pytest.mark.parametrize(("fault", "code"), [("zero", "B07"), ("foreign names", "B01"), ("compiled", "B02")])
def test_a_dead_adapter_is_refused_before_any_perplexity_is_printed(
    fault: str,
    code: str,
    base: Path,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    adapter = save_adapter(tmp_path / "adapter", AutoModelForCausalLM.from_pretrained(base), trained=fault != "zero")
    if fault in WRONG_PARTS:
        weights = load_file(adapter / "adapter_model.safetensors")
        save_file(
            {name.replace("base_model.model.model.", WRONG_PARTS[fault]): w for name, w in weights.items()},
            adapter / "adapter_model.safetensors",
        )
    assert command(monkeypatch, "evaluate", base, adapter, "--data", data, "--out", tmp_path / "run") == 4
    shown = capsys.readouterr()
    assert f"error[{code}]" in shown.out
    written = "".join(p.read_text() for p in (tmp_path / "run").glob("*.*") if p.suffix in {".md", ".json"})
    assert "erplexity fell" not in shown.out + shown.err + written
    verdict = json.loads((tmp_path / "run" / "verdict.json").read_text())
    assert verdict["verdict"] == "refused"
    assert verdict["findings"][0]["code"] == code
    assert verdict["fit"]["base"]["perplexity"] is None
    assert not (tmp_path / "run" / "scores.parquet").exists()
    assert command(monkeypatch, "check", base, adapter, "--json") == 4
    checked = verdict_of(capsys)
    assert checked["alive"] is False
    assert checked["findings"][0]["code"] == code


def test_audit_names_a01_on_a_pair_wrapped_in_place(base: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    adapter = save_adapter(tmp_path / "adapter", AutoModelForCausalLM.from_pretrained(base))
    base_model = AutoModelForCausalLM.from_pretrained(base)
    tuned = PeftModel.from_pretrained(base_model, adapter)
    result = galvan.audit(base=base_model, tuned=tuned, tokenizer=AutoTokenizer.from_pretrained(base), texts=DOCUMENTS[:3])
    assert result.findings[0].code == "A01"
    assert result.findings[0].status == "present"


def test_score_refuses_the_dead_adapter_and_scores_the_live_one(base: Path, data: Path, tmp_path: Path) -> None:
    live = save_adapter(tmp_path / "live", AutoModelForCausalLM.from_pretrained(base))
    dead = save_adapter(tmp_path / "dead", AutoModelForCausalLM.from_pretrained(base), trained=False)
    scored = pipeline.score(base, [live, dead], data, out=tmp_path / "run")
    by_name = {a.adapter: a for a in scored.adapters}
    assert by_name[str(dead)].code == "B07"
    assert by_name[str(dead)].gain is None
    gain = by_name[str(live)].gain
    assert gain is not None
    # The same through the statistics alone, from one forward pass a document.
    from galvan.data.tokens import training_rows
    from galvan.models import Located, load_tuned
    from galvan.recipe import Model
    from galvan.rundir import Document
    from galvan.training.gradients import evaluate_rows

    rows = training_rows(
        AutoTokenizer.from_pretrained(base), [Document(str(i), t, "s", i) for i, t in enumerate(DOCUMENTS)], None, learn_eos=False
    )
    place = Located(str(base), base)
    nll = {}
    for name, tuned in (("base", place), ("tuned", Located(str(live), live))):
        torch.manual_seed(0)
        nll[name] = [r["nll_nats"] for r in evaluate_rows(load_tuned(place, tuned, Model()), rows, chunked=False)]
    again = galvan.paired_gain(nll["base"], nll["tuned"], [r.n_supervised for r in rows])
    assert again.nats_per_token == pytest.approx(gain.nats_per_token, abs=1e-5)
    assert np.isfinite(again.nats_per_token)


def test_a_fully_tuned_model_is_judged_beside_its_base(base: Path, data: Path, tmp_path: Path) -> None:
    other = save_base(tmp_path / "other", tiny_mistral(5))
    verdict = galvan.evaluate(base, other, data, out=tmp_path / "run").verdict
    assert verdict["verdict"] in {"worse", "improved", "inconclusive", "equivalent"}
    same = galvan.evaluate(base, base, data, out=tmp_path / "same").verdict
    assert same["verdict"] == "refused"
    assert same["findings"][0].code == "A09"


def test_a_reported_perplexity_is_recognised_by_the_way_it_was_computed(base: Path, data: Path, tmp_path: Path) -> None:
    adapter = save_adapter(tmp_path / "adapter", AutoModelForCausalLM.from_pretrained(base))

    def judged(name: str, reported: dict[str, float] | None) -> dict[str, str]:
        found = pipeline.evaluate(base, adapter, data, out=tmp_path / name, reported=reported)
        return {f.code: f.status for f in found.verdict["findings"]}

    judged("run", None)
    assert not (tmp_path / "run" / "reported.json").exists()
    right, wrong = {}, {}
    for name in ("base", "tuned"):
        arm = read_scores(tmp_path / "run" / "scores.parquet")[name, "test"]
        right[name] = float(np.exp(arm.nll_nats.sum() / arm.n_tokens.sum()))
        wrong[name] = float(np.exp(arm.nll_nats / arm.n_tokens).mean())
    assert judged("run", right)["G01"] == "absent" and judged("run", wrong)["G01"] == "present"


@pytest.mark.parametrize("given", ["7.95", "other=7.95", "base=x", "base=0.5", "tuned=nan"])
def test_a_reported_figure_must_be_an_arms_perplexity(
    given: str, base: Path, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(monkeypatch, "evaluate", base, base, "--data", data, "--reported", given) == 2
    assert "base=7.95" in capsys.readouterr().err


def test_an_export_that_lost_the_adapter_is_named(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from peft import PeftModel

    adapter = save_adapter(tmp_path / "adapter", AutoModelForCausalLM.from_pretrained(base))
    merged = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter).merge_and_unload()
    merged.save_pretrained(tmp_path / "whole")
    AutoModelForCausalLM.from_pretrained(base).save_pretrained(tmp_path / "lost")
    for folder, status, code in (("whole", "absent", 0), ("lost", "present", 4)):
        assert command(monkeypatch, "check", base, adapter, "--exported", tmp_path / folder, "--json") == code
        found = json.loads(capsys.readouterr().out)
        assert next(f["status"] for f in found["findings"] if f["code"] == "H03") == status
        assert found["alive"] is True
    assert next(f.status for f in pipeline.check(base, adapter).findings if f.code == "H03") == "unknown"
