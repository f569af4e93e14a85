"""Every cause catches the fault that is put in, and accuses no healthy case (METHODS S8.7)."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from peft import IA3Config, get_peft_model
from safetensors.torch import load_file, save_file

from galvan.diagnosis.catalogue import Facts, Finding, Scores, Training, causes, diagnose, explain, liveness, refusal
from galvan.errors import ComparisonRefused, RecipeError
from galvan.measure.facts import AdapterState, FileFacts, FunctionFacts, Integrity, LiveFacts, ModuleDelta
from galvan.measure.integrity import check
from galvan.models import Located
from galvan.recipe import Model
from galvan.rundir import to_json
from models_for_tests import move, save_adapter, save_base, tiny_llama, tiny_mistral, wrap

CPU = Model(device="cpu", dtype="float32")
MODULE = ModuleDelta("model.layers.0.self_attn.q_proj", 4, 2.0, 0.1, 0.1, 0.5)
FILES = FileFacts(
    "lora", "ab" * 32, False, rank=4, alpha=8, n_keys=2, n_expected_keys=2, keys_proved_by="base headers", modules=(MODULE,)
)
ON = AdapterState(2, 0, True, ("default",), ("default",), scaling={"default": (2.0, 2.0)})
OFF = AdapterState(0, 0)
LIVE = LiveFacts(OFF, ON, same_object=False, tuned_wraps_base=True, n_tensors=30, shared_tensors=26, tensors_unlike_file=())
FUNCTION = FunctionFacts(3, 120, 0.0, 1e-6, on_base_nats=0.4, on_off_nats=0.4, off_base_nats=0.0)
HEALTHY = Integrity(FILES, LIVE, FUNCTION)


def with_(record: Any, **changes: Any) -> Any:
    return dataclasses.replace(record, **changes)


def found(facts: Facts) -> dict[str, Finding]:
    return {finding.code: finding for finding in diagnose(facts)}


def accused(facts: Facts) -> list[str]:
    return [finding.code for finding in diagnose(facts) if finding.status == "present"]


def test_every_cause_has_all_its_words_and_three_answers() -> None:
    for row in causes():
        assert all((row.title, row.symptom, row.proof, row.remedy, row.settle, row.sources, row.family)), row.code
    assert [row.code for row in causes()] == sorted(row.code for row in causes())
    assert {"A01", "A06", "A09", "B01", "B07", "C02", "D02"} <= {row.code for row in causes()}


def test_without_evidence_every_answer_is_unknown_and_says_what_is_missing() -> None:
    for finding in diagnose(Facts()):
        assert finding.status == "unknown" and finding.certainty == "cannot tell" and finding.because[0].startswith("Not known: ")


def test_a_healthy_record_is_absent_on_every_count() -> None:
    facts = Facts(HEALTHY, Training(trainable_parameters=512, optimizer_parameters=512, alpha=8, adapter_sha256="ab" * 32))
    assert {finding.status for finding in diagnose(facts) if finding.code in SEVEN} == {"absent"}
    assert all(finding.against for finding in diagnose(facts) if finding.code in SEVEN)
    assert refusal(diagnose(facts)) is None and liveness(facts, diagnose(facts)).alive is True


SEVEN = ("A01", "A06", "A09", "B01", "B07", "C02", "D02")
FAULTS: dict[str, tuple[str, Facts]] = {
    "layers inside the base": ("A01", Facts(with_(HEALTHY, live=with_(LIVE, base=ON)))),
    "disabled": ("A06", Facts(with_(HEALTHY, live=with_(LIVE, tuned=with_(ON, enabled=False))))),
    "irregular": ("A06", Facts(with_(HEALTHY, live=with_(LIVE, tuned=with_(ON, enabled="irregular", irregular=("enabled",)))))),
    "none active": ("A06", Facts(with_(HEALTHY, live=with_(LIVE, tuned=with_(ON, active=()))))),
    "empty one active": (
        "A06",
        Facts(with_(HEALTHY, live=with_(LIVE, tuned=with_(ON, active=("b",), available=("a", "b"), dead=("b",))))),
    ),
    "same files": ("A09", Facts(Integrity(with_(FILES, same_as_base=True)))),
    "not the file of training": ("A09", Facts(HEALTHY, Training(adapter_sha256="cd" * 32))),
    "same plain object": ("A09", Facts(Integrity(live=with_(LIVE, tuned=OFF, same_object=True, tuned_wraps_base=False)))),
    "equal weights": ("A09", Facts(Integrity(live=with_(LIVE, tuned=OFF, shared_tensors=0, different_tensors=0)))),
    "unexpected keys": (
        "B01",
        Facts(Integrity(with_(FILES, unexpected_keys=("x.lora_A.weight",), missing_keys=("y.lora_A.weight",)))),
    ),
    "not in memory": ("B01", Facts(with_(HEALTHY, live=with_(LIVE, tensors_unlike_file=("x",))))),
    "refused by PEFT": ("B01", Facts(with_(HEALTHY, refused_by_peft="2 missing"))),
    "zero in the file": ("B07", Facts(Integrity(with_(FILES, modules=(with_(MODULE, max_abs_b=0.0, update_norm=0.0),))))),
    "zero in memory": ("B07", Facts(Integrity(live=with_(LIVE, tuned=with_(ON, dead=("default",)))))),
    "alpha zero": ("C02", Facts(Integrity(with_(FILES, alpha=0, modules=(with_(MODULE, scaling=0.0),))))),
    "alpha missing": ("C02", Facts(Integrity(with_(FILES, alpha=None, modules=(with_(MODULE, scaling=None),))))),
    "another alpha": ("C02", Facts(HEALTHY, Training(alpha=16))),
    "scale zero in memory": ("C02", Facts(Integrity(live=with_(LIVE, tuned=with_(ON, scaling={"default": (0.0, 0.0)}))))),
    "nothing trainable": ("D02", Facts(HEALTHY, Training(trainable_parameters=0))),
    "empty optimizer": ("D02", Facts(HEALTHY, Training(trainable_parameters=9, optimizer_parameters=0))),
}


@pytest.mark.parametrize(("code", "facts"), FAULTS.values(), ids=FAULTS.keys())
def test_each_fault_is_named_first_and_alone(code: str, facts: Facts) -> None:
    first = diagnose(facts)[0]
    assert first.code == code and first.status == "present" and first.because and first.remedy and first.settle
    assert [c for c in accused(facts) if c in SEVEN] == [code]


def test_two_causes_may_be_true_at_once_and_the_alias_comes_first() -> None:
    dead = with_(ON, dead=("default",))
    facts = Facts(Integrity(live=with_(LIVE, base=dead, tuned=dead)))
    assert accused(facts)[:2] == ["A01", "B07"]


def test_missing_keys_alone_leave_room_for_a_better_name() -> None:
    finding = found(Facts(Integrity(with_(FILES, missing_keys=("y",)))))["B01"]
    assert finding.status == "present" and finding.certainty == "very likely"


def test_two_live_adapters_are_not_an_accusation() -> None:
    finding = found(Facts(Integrity(live=with_(LIVE, tuned=with_(ON, active=("a",), available=("a", "b"))))))["A06"]
    assert finding.status == "unknown" and "b is loaded too" in finding.because[0]


def test_saved_heads_leave_a_zero_adapter_undecided() -> None:
    files = with_(FILES, other_tensors=("lm_head.weight",), modules=(with_(MODULE, max_abs_b=0.0),))
    assert found(Facts(Integrity(files)))["B07"].status == "unknown"


def test_scores_alone_can_acquit_and_not_convict() -> None:
    differ = found(Facts(scores=Scores(0.5, 1e-6)))
    assert {differ[code].status for code in ("A01", "A06", "A09", "B07")} == {"absent"}
    equal = found(Facts(scores=Scores(0.0, 1e-6)))
    assert {equal[code].status for code in SEVEN} == {"unknown"} and any("exactly the same" in s for s in equal["A01"].because)


def test_a_refusal_is_one_sentence_with_code_and_remedy() -> None:
    error = refusal(diagnose(FAULTS["zero in the file"][1]))
    assert isinstance(error, ComparisonRefused) and error.code == "B07" and error.exit_code == 4
    assert str(error) == (
        "B07 The adapter is fresh: every lora_B is zero, so it adds nothing: In the file lora_B is zero in all 1 modules; load "
        "the trained adapter with PeftModel.from_pretrained(base, FOLDER) and never with get_peft_model; "
        "if its file holds zeros too, train again with `galvan run`"
    )
    assert refusal(diagnose(FAULTS["nothing trainable"][1])) is None


def test_alive_is_true_false_or_not_shown() -> None:
    def alive(function: FunctionFacts | None) -> bool | None:
        facts = Facts(with_(HEALTHY, function=function))
        return liveness(facts, diagnose(facts)).alive

    assert alive(FUNCTION) is True and alive(None) is None
    assert alive(with_(FUNCTION, on_off_nats=0.0, on_base_nats=0.0)) is False
    assert alive(with_(FUNCTION, on_off_nats=5e-7, on_base_nats=5e-7)) is None
    assert liveness(FAULTS["disabled"][1], diagnose(FAULTS["disabled"][1])).alive is False


def test_names_from_a_file_are_made_safe() -> None:
    facts = Facts(Integrity(with_(FILES, unexpected_keys=("\x1b[31mred",), missing_keys=("y",))))
    assert "(first: \\u001b[31mred)" in diagnose(facts)[0].because[0]


def test_findings_have_the_keys_of_the_verdict() -> None:
    finding = json.loads(to_json(diagnose(Facts())))[0]
    assert list(finding) == ["code", "status", "certainty", "title", "because", "against", "remedy", "settle"]


def test_explain_knows_each_code_and_names_them_for_an_unknown_one() -> None:
    assert explain("a01").code == "A01" and explain("A01").family == "The wrong thing was evaluated"
    with pytest.raises(RecipeError, match="There is no cause Z99; the codes are A01"):
        explain("Z99")


def test_facts_are_read_back_from_a_runs_folder(tmp_path: Path) -> None:
    (tmp_path / "integrity.json").write_text(to_json(HEALTHY))
    (tmp_path / "training.json").write_text(json.dumps({"trainable_parameters": 9, "unrelated": 1}))
    assert with_(Facts.of(tmp_path), run=None) == Facts(HEALTHY, Training(trainable_parameters=9))


def test_the_diagnosis_imports_no_torch() -> None:
    code = "import sys, galvan.diagnosis; sys.exit(any(m in sys.modules for m in ('torch', 'transformers', 'peft')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ---- the same on real adapters, from files to function ----


def at(path: Path) -> Located:
    return Located(str(path), path)


@pytest.fixture(scope="module", params=[tiny_llama, tiny_mistral], ids=["llama", "mistral"])
def make(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(scope="module")
def base(make: Any, tmp_path_factory: pytest.TempPathFactory) -> Located:
    return at(save_base(tmp_path_factory.mktemp("models") / "base", make(0)))


HEALTHY_CONFIGS: dict[str, dict[str, Any]] = {
    "q and v": {}, "all linear": {"target_modules": "all-linear"}, "rslora": {"use_rslora": True}, "dora": {"use_dora": True},
    "dropout": {"lora_dropout": 0.5}, "bias": {"bias": "lora_only"}, "saved head": {"modules_to_save": ["lm_head"]},
}  # fmt: skip


@pytest.mark.parametrize("config", HEALTHY_CONFIGS.values(), ids=HEALTHY_CONFIGS.keys())
def test_no_healthy_adapter_is_accused(make: Any, base: Located, tmp_path: Path, config: dict[str, Any]) -> None:
    facts = Facts(check(base, at(save_adapter(tmp_path / "a", make(0), **config)), CPU))
    findings = diagnose(facts)
    assert not accused(facts) and refusal(findings) is None and liveness(facts, findings).alive is True
    assert {f.code: f.status for f in findings if f.code in SEVEN} == {**dict.fromkeys(SEVEN, "absent"), "D02": "unknown"}


def test_an_adapter_saved_under_another_name_is_not_accused(make: Any, base: Located, tmp_path: Path) -> None:
    move(wrap(make(0), adapter_name="voice")).save_pretrained(tmp_path)
    assert not accused(Facts(check(base, at(tmp_path / "voice"), CPU)))


def test_ia3_is_unknown_where_lora_is_asked_about_and_never_accused(base: Located, make: Any, tmp_path: Path) -> None:
    model = get_peft_model(make(0), IA3Config(target_modules=["k_proj", "v_proj"], feedforward_modules=[], task_type="CAUSAL_LM"))
    for name, p in model.named_parameters():
        if "ia3" in name:
            p.data.fill_(1.3)
    model.save_pretrained(tmp_path)
    facts = Facts(check(base, at(tmp_path), CPU))
    assert not accused(facts) and liveness(facts, diagnose(facts)).alive is True
    assert found(facts)["C02"].status == "unknown" and found(facts)["B01"].status in ("unknown", "absent")


def edit_config(folder: Path, **changes: Any) -> Path:
    path = folder / "adapter_config.json"
    config = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not ...}))
    return folder


def rename(folder: Path, old: str, new: str) -> Path:
    path = folder / "adapter_model.safetensors"
    save_file({name.replace(old, new): tensor for name, tensor in load_file(path).items()}, path)
    return folder


INJECTED: dict[str, tuple[str, Any]] = {
    "every lora_B zero": ("B07", lambda folder, model: save_adapter(folder, model, trained=False)),
    "prefix dropped": ("B01", lambda folder, model: rename(save_adapter(folder, model), "base_model.model.", "")),
    "compiled": ("B02", lambda folder, model: rename(save_adapter(folder, model), "model.layers", "_orig_mod.model.layers")),
    "alpha zero": ("C02", lambda folder, model: edit_config(save_adapter(folder, model), lora_alpha=0)),
    "alpha lost": ("C02", lambda folder, model: edit_config(save_adapter(folder, model), lora_alpha=...)),
    "one alpha pattern zero": ("C02", lambda folder, model: edit_config(save_adapter(folder, model), alpha_pattern={"q_proj": 0})),
    "the base again": ("A09", lambda folder, model: save_base(folder, model)),
}


@pytest.mark.parametrize(("code", "inject"), INJECTED.values(), ids=INJECTED.keys())
def test_an_injected_fault_is_refused_by_name(make: Any, base: Located, tmp_path: Path, code: str, inject: Any) -> None:
    facts = Facts(check(base, at(inject(tmp_path / "a", make(0))), CPU))
    findings = diagnose(facts)
    error = refusal(findings)
    assert findings[0].code == code and accused(facts) == [code]
    assert error is not None and error.code == code and facts.function is None and liveness(facts, findings).alive is False


def test_the_same_folder_in_both_arms_is_one_checkpoint(base: Located, make: Any, tmp_path: Path) -> None:
    adapter = save_adapter(tmp_path / "a", make(0))
    assert accused(Facts(check(base, base, CPU))) == ["A09"]
    assert accused(Facts(check(at(adapter), at(adapter), CPU)))[0] == "A09"


def test_an_adapter_that_loading_dropped_is_caught_in_memory(
    base: Located, make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B07's own story: the file is trained, and what stands in memory is fresh."""
    monkeypatch.setattr("galvan.measure.integrity.load_adapter", lambda model, _: wrap(model).eval())
    facts = Facts(check(base, at(save_adapter(tmp_path / "a", make(0))), CPU))
    assert set(accused(facts)) >= {"B01", "B07"}


def test_a_tiny_adapter_is_not_called_dead(base: Located, make: Any, tmp_path: Path) -> None:
    move(wrap(make(0)), size=1e-12).save_pretrained(tmp_path)
    facts = Facts(check(base, at(tmp_path), CPU))
    assert accused(facts) == ["D05"] and found(facts)["D05"].certainty == "likely"
    assert facts.files is not None and all(m.update_norm for m in facts.files.modules) and refusal(diagnose(facts)) is None
    assert liveness(facts, diagnose(facts)).alive is not True
