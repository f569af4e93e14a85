"""Second ways of a fault, each beside the healthy case that looks like it: what the objects, the file and the log hold tells them apart."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from peft import PeftModel

from galvan.diagnosis.catalogue import Facts, Finding, diagnose
from galvan.diagnosis.outcome import CurveSeen, Outcome
from galvan.diagnosis.run_facts import RunFacts
from galvan.errors import DataError
from galvan.measure.course import Course, course
from galvan.measure.facts import FileFacts, FunctionFacts, Integrity, ModuleDelta, Recorded
from galvan.measure.integrity import check
from galvan.models import Located
from galvan.notebook import Audit, audit
from galvan.recipe import Model
from models_for_tests import TEXTS, byte_tokenizer, save_adapter, save_base, tiny_llama

MOVED, ZERO = (ModuleDelta("model.layers.0.self_attn.q_proj", 4, 2.0, 0.1, size, 0.5, 50.0) for size in (0.1, 0.0))
FILES = FileFacts("lora", "ab" * 32, False, rank=4, alpha=8, n_keys=2, keys_proved_by="PEFT", modules=(MOVED,), dtypes=("F32",))
COURSE = Course(
    100, 3.0, 2.5, 3.1, peak_rate=3e-4, integrated_rate=0.015, warmup_share=0.05, first_norm=1.0, median_norm=0.9, largest_norm=1.4
)
IDLE = Outcome(curve=CurveSeen("not learning", "Training text gained nothing.", 0, 100))


def with_(record: Any, **changes: Any) -> Any:
    return dataclasses.replace(record, **changes)


def of_a_trainer(files: FileFacts = FILES, function: FunctionFacts | None = None, **changes: Any) -> Facts:
    """An adapter from elsewhere, beside it the log of transformers' Trainer."""
    return Facts(Integrity(files, function=function, recorded=Recorded("transformers", steps=100, course=with_(COURSE, **changes))))


def named(facts: Facts) -> list[tuple[str, str]]:
    return [(f.code, f.certainty) for f in diagnose(facts) if f.status == "present" and f.code[0] in "ABCDI"]


def one(found: Audit | Facts, code: str) -> Finding:
    return next(f for f in (found.findings if isinstance(found, Audit) else diagnose(found)) if f.code == code)


# ---- live objects ----


@pytest.fixture
def adapters(tmp_path: Path) -> list[Path]:
    """Two trained adapters of one base."""
    return [
        save_adapter(tmp_path / str(seed), tiny_llama(0), lora_alpha=8 + seed, target_modules=["q_proj", "v_proj"])
        for seed in (0, 8)
    ]


def of(adapter: Path, *others: tuple[str, Path], active: list[str] | None = None, **changes: Any) -> Any:
    tuned = PeftModel.from_pretrained(tiny_llama(0, **changes), adapter)
    for name, folder in others:
        tuned.load_adapter(str(folder), name)
    tuned.base_model.set_adapter(active or ["default"])
    return tuned.eval()


def asked(tuned: Any, adapter: Path | None = None, **changes: Any) -> Audit:
    return audit(base=tiny_llama(0, **changes), tuned=tuned, tokenizer=byte_tokenizer(), texts=TEXTS, adapter=adapter)


@pytest.mark.cause("A06", "fault")
def test_the_adapter_that_was_meant_is_loaded_and_another_one_is_active(adapters: list[Path]) -> None:
    other = with_tensors_turned(adapters[1])
    found = asked(of(adapters[0], ("other", other), active=["other"]), adapters[0])
    assert found.present[0].code == "A06" and "active is other" in found.present[0].because[0]


@pytest.mark.cause("A06", "healthy")
def test_of_two_loaded_adapters_the_one_that_was_meant_is_active(adapters: list[Path]) -> None:
    found = asked(of(adapters[0], ("other", with_tensors_turned(adapters[1]))), adapters[0])
    assert one(found, "A06").status == "absent" and not found.present
    assert one(asked(of(adapters[0], ("other", with_tensors_turned(adapters[1])))), "A06").status == "unknown"  # nobody said which


def with_tensors_turned(folder: Path) -> Path:
    from safetensors.torch import load_file, save_file

    path = folder / "adapter_model.safetensors"
    save_file({n: t.flip(0).contiguous() for n, t in load_file(path).items()}, path, metadata={"format": "pt"})
    return folder


@pytest.mark.cause("C04", "fault")
def test_one_file_active_under_two_names_is_added_twice(adapters: list[Path]) -> None:
    found = asked(of(adapters[0], ("again", adapters[0]), active=["default", "again"]), adapters[0])
    assert [f.code for f in found.present] == ["C04"] and found.present[0].certainty == "certain"


@pytest.mark.cause("C04", "healthy")
def test_two_adapters_together_or_one_of_two_equal_ones_are_not_applied_twice(adapters: list[Path]) -> None:
    for tuned in (
        of(adapters[0], ("other", with_tensors_turned(adapters[1])), active=["default", "other"]),
        of(adapters[0], ("again", adapters[0])),
    ):
        assert one(asked(tuned), "C04").status != "present"


@pytest.mark.cause("C05", "fault")
def test_dropout_of_attention_is_dropout(adapters: list[Path]) -> None:
    found = asked(of(adapters[0], attention_dropout=0.3).train())
    assert [f.code for f in found.present] == ["C05"] and "2 modules of the tuned" in found.present[0].because[0]


@pytest.mark.cause("C05", "healthy")
def test_a_rate_of_dropout_is_nothing_in_evaluation_and_training_mode_is_nothing_without_one(adapters: list[Path]) -> None:
    for tuned in (of(adapters[0], attention_dropout=0.3), of(adapters[0]).train()):
        assert one(asked(tuned), "C05").status == "absent"


def test_a_wrapper_whose_last_adapter_was_deleted_is_refused_in_a_sentence(adapters: list[Path]) -> None:
    tuned = of(adapters[0])
    tuned.delete_adapter("default")
    with pytest.raises(DataError, match="last adapter was deleted"):
        asked(tuned, adapters[0])


def rounded(model: Any, levels: int) -> Any:
    for name, weight in model.named_parameters():
        if name.endswith("_proj.weight"):
            step = weight.data.abs().amax(1, keepdim=True) / levels
            weight.data = (weight.data / step).round() * step
    return model


@pytest.mark.cause("A12", "fault")
@pytest.mark.parametrize("levels", [7, 127])
def test_one_arm_whose_rows_were_rounded_to_integers_is_another_load(adapters: list[Path], levels: int) -> None:
    tuned = PeftModel.from_pretrained(rounded(tiny_llama(0), levels), adapters[0])
    assert asked(tuned.eval()).present[0].code == "A12"


@pytest.mark.cause("A12", "healthy")
def test_another_base_is_not_a_rounded_one(adapters: list[Path]) -> None:
    found = asked(PeftModel.from_pretrained(tiny_llama(1), adapters[0]).eval())
    assert found.present[0].code == "A10" and one(found, "A12").status == "absent"


@pytest.mark.cause("A04", "fault")
@pytest.mark.cause("A04", "healthy")
def test_trained_biases_stay_on_where_the_adapter_is_switched_off(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    folder = save_base(tmp_path / "base", tiny_llama(0, attention_bias=True))

    def off(moved: float) -> Any:
        tuned = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder), trained)
        for name, weight in tuned.named_parameters():
            if name.endswith("q_proj.base_layer.bias"):
                weight.data += moved
        tuned.base_model.disable_adapter_layers()
        return tuned.get_base_model().eval()

    trained = save_adapter(tmp_path / "a", tiny_llama(0, attention_bias=True))
    on = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder), trained).eval()
    say = [one(audit(base=off(moved), tuned=on, tokenizer=byte_tokenizer(), texts=TEXTS), "A04").status for moved in (0.1, 0.0)]
    assert say == ["present", "absent"]


# ---- files ----


def checked(tmp_path: Path, rows: int) -> Facts:
    from peft import LoraConfig, get_peft_model

    base = save_base(tmp_path / "base", tiny_llama(0))
    model = tiny_llama(0)
    model.resize_token_embeddings(rows)
    config = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"], task_type="CAUSAL_LM")
    wrapped = get_peft_model(model, config)
    for name, weight in wrapped.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(std=0.05)
    wrapped.save_pretrained(tmp_path / "a")
    return Facts(check(*(Located(str(p), p) for p in (base, tmp_path / "a")), Model(device="cpu", dtype="float32")))


@pytest.mark.cause("B10", "fault")
def test_tables_that_grew_in_training_are_named_before_peft_is_asked_to_load_them(tmp_path: Path) -> None:
    size = tiny_llama(0).config.vocab_size
    facts = checked(tmp_path, size + 2)
    first = next(f for f in diagnose(facts) if f.status == "present")
    assert first.code == "B10" and f"{size + 2} rows, the base has {size}" in first.because[0]


@pytest.mark.cause("B10", "healthy")
def test_saved_tables_of_the_bases_size_are_loaded(tmp_path: Path) -> None:
    facts = checked(tmp_path, tiny_llama(0).config.vocab_size)
    assert one(facts, "B10").status == "absent" and facts.function is not None


@pytest.mark.cause("A10", "fault")
def test_a_base_of_other_sizes_and_fewer_layers_is_named_by_its_shapes(tmp_path: Path) -> None:
    adapter = save_adapter(tmp_path / "a", tiny_llama(0))
    base = save_base(tmp_path / "base", tiny_llama(0, num_hidden_layers=1, hidden_size=48))
    facts = Facts(check(*(Located(str(p), p) for p in (base, adapter)), Model(device="cpu", dtype="float32")))
    assert named(facts)[0] == ("A10", "certain")


# ---- what a log tells of the file ----

SILENT = {"first_norm": 0.0, "median_norm": 0.0, "largest_norm": 0.0}
SWITCHED = FunctionFacts(3, 120, 0.0, 1e-6, on_base_nats=0.4, on_off_nats=0.4, off_base_nats=0.0)
HEAD = "base_model.model.lm_head.weight"


@pytest.mark.cause("D02", "fault")
def test_a_trained_adapter_and_a_log_without_a_gradient_are_a_frozen_adapter() -> None:
    assert named(of_a_trainer(**SILENT)) == [("D02", "very likely")]
    assert "D02" in one(of_a_trainer(**SILENT), "D09").because[0]


@pytest.mark.cause("D02", "healthy")
def test_without_a_gradient_a_zero_adapter_is_not_a_frozen_one_and_with_one_none_is() -> None:
    assert one(of_a_trainer(with_(FILES, modules=(ZERO,)), **SILENT), "D02").status == "unknown"
    assert one(of_a_trainer(), "D02").status == "unknown" and not named(of_a_trainer())


@pytest.mark.cause("D01", "fault")
def test_zero_factors_beside_a_head_that_was_trained_got_no_gradient() -> None:
    beside = with_(FILES, modules=(ZERO,), other_tensors=(HEAD,))
    assert named(of_a_trainer(beside, SWITCHED)) == [("D01", "very likely")]


@pytest.mark.cause("D01", "healthy")
def test_a_trained_head_beside_trained_factors_is_healthy_and_an_untrained_one_proves_nothing() -> None:
    assert not named(of_a_trainer(with_(FILES, other_tensors=(HEAD,)), SWITCHED))
    untrained = of_a_trainer(with_(FILES, modules=(ZERO,), other_tensors=(HEAD,)), with_(SWITCHED, on_off_nats=0.0))
    assert one(untrained, "D01").status == one(untrained, "B07").status == "unknown"


@pytest.mark.cause("D07", "fault")
@pytest.mark.cause("D05", "healthy")
def test_a_rate_that_still_rose_at_the_end_was_kept_low_by_the_warm_up() -> None:
    risen = {"peak_rate": 1e-5, "integrated_rate": 5e-4}
    slow = [code for code, _ in named(with_(of_a_trainer(warmup_share=0.98, **risen), outcome=IDLE))]
    assert slow == ["D07", "D05"]
    low = [code for code, _ in named(with_(of_a_trainer(**risen), outcome=IDLE))]
    assert low == ["D05"]


@pytest.mark.cause("C06", "fault")
@pytest.mark.cause("D04", "healthy")
def test_zeros_that_stand_for_losses_that_are_not_finite_are_no_masked_labels() -> None:
    assert [code for code, _ in named(of_a_trainer(zero=(40, 50), not_finite=(40, 50)))] == ["C06"]
    assert [code for code, _ in named(of_a_trainer(zero=(40, 50)))] == ["D04"]


def row(step: int, gradient: float, **ratios: float) -> dict[str, Any]:
    modules = {name: {"gradient_norm": gradient, "delta_ratio": ratio} for name, ratio in ratios.items()}
    return {"step": step, "loss_nats": 3.0, "learning_rate": 3e-4, "gradient_norm": gradient, "modules": modules}


def test_the_distance_from_the_start_is_read_from_the_last_row_that_tells() -> None:
    seen = course([row(1, 0.5, a=0.0, b=0.0), row(50, 0.4, a=0.0, b=2e-3), {"step": 60, "loss_nats": 2.9}])
    assert seen is not None
    assert (seen.adapted, seen.unmoved, seen.starved, seen.stuck, seen.delta_ratios) == (2, ("a",), (), ("a",), (0.0, 2e-3))
    starved = course([row(1, 0.0, a=0.0), row(50, 0.0, a=0.0)])
    assert starved is not None and starved.starved == ("a",) and not starved.stuck


MOVES = {"factors": 2, "parameters": 4, "still": 0, "changed_share": 1.0, "adapted": 2, "delta_ratios": (1e-3, 2e-3)}


def ours(training: dict[str, Any] | None = None, curve: str = "improving", best: int = 100, **changes: Any) -> Facts:
    record = Recorded(
        "galvan", trainable_parameters=512, optimizer_parameters=512, steps=100, course=with_(COURSE, **{**MOVES, **changes})
    )
    outcome = Outcome(curve=CurveSeen(curve, "It turned.", best, 100))
    return Facts(Integrity(FILES, recorded=record), run=RunFacts(training=training or {}), outcome=outcome)


@pytest.mark.cause("D03", "fault")
def test_modules_that_moved_at_first_and_are_where_they_began_at_the_end_are_d03() -> None:
    assert named(ours(unmoved=("a",)))[0] == ("D03", "certain")


@pytest.mark.cause("D03", "healthy")
@pytest.mark.cause("D01", "healthy")
def test_factors_that_got_their_gradient_later_have_moved_by_the_end() -> None:
    assert not named(ours())
    late = ours(silent=("a.lora_B", "b.lora_B"))
    assert one(late, "D01").status == "absent"


@pytest.mark.cause("I01", "fault")
@pytest.mark.cause("I01", "healthy")
def test_weights_kept_from_before_the_turn_are_not_over_fitted() -> None:
    assert one(ours({"kept_step": 100}, "over-fitted", 40), "I01").status == "present"
    assert one(ours({"kept_step": 40}, "over-fitted", 40), "I01").status == "absent"


@pytest.mark.cause("D06", "healthy")
def test_a_run_that_ended_itself_was_not_too_short() -> None:
    assert one(ours({}, "under-trained", steps=40), "D06").status == "present"
    ended = one(ours({"stopped_early": "Validation loss was lower at step 20."}, "under-trained", steps=40), "D06")
    assert ended.status == "absent" and "ended by itself" in ended.against[0]


@pytest.mark.cause("D12", "fault")
def test_a_jump_after_the_kept_step_is_less_sure_to_be_in_the_weights() -> None:
    jump = {"highest_loss": 12.0, "last_loss": 9.0}
    assert ("D12", "very likely") in named(ours({"kept_step": 100}, **jump))
    kept = one(ours({"kept_step": 20}, **jump), "D12")
    assert kept.certainty in ("likely", "cannot tell") and "step 20 of 100" in kept.against[0]
