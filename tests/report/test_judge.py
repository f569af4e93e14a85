"""From a run's files to its verdict: the answers, the schema, what a refused run may not show, and that it is repeatable."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from galvan import errors
from galvan.errors import DataError, RecipeError
from galvan.report import judge
from galvan.report.limits import limits
from galvan.report.terminal import show, show_stage
from galvan.report.verdict import exit_code, vetoes
from synthetic import VARIANTS, Plan, make, verdict_of

WRITTEN = ("comparisons.json", "findings.json", "analysis.md", "verdict.json")

# DESIGN.md's verdict.json, keys only.
SCHEMA: dict[str, Any] = {
    "schema_version": 1, "verdict": "", "worked": True,
    "fit": {
        "n_documents": 48, "n_tokens": 11034, "clusters": 8, "unit": "block", "base": {"perplexity": 0.0, "bits_per_byte": 0.0},
        "tuned": {"perplexity": 0.0, "bits_per_byte": 0.0},
        "gain": {
            "nats_per_token": 0.0, "ci95": [], "perplexity_change_percent": 0.0, "perplexity_change_ci95": [], "bits_per_byte": 0.0,
            "bits_per_byte_ci95": [],
        },
        "recipe": {
            "training_seeds": [], "verdict": "", "nats_per_token": 0.0, "ci95": [], "perplexity_change_percent": 0.0,
            "perplexity_change_ci95": [],
        },
        "mde80_percent": 0.0, "documents_needed": {"for_margin": 0, "for_observed": 0}, "margin_nats": 0.01,
    },
    "style": {"closer": "", "gap_closed": None, "ci95": None, "vetoes": []},
    "originality": {"excess_copying": False, "longest_span_words": 0, "held_out_longest_span_words": 0},
    "retention": {"kl_nats": 0.0, "top1_agreement": 0.0, "neutral_perplexity_change_percent": 0.0, "forgot": False},
    "controls": {"base_vs_base": "", "zero_adapter": "", "random_b": "", "shuffled_text": "", "shuffled_author": ""},
    "findings": [{"code": "", "status": "", "certainty": "", "title": "", "because": [], "against": [], "remedy": "", "settle": ""}],
    "next": [{"action": "", "why": "", "expected": "", "command": ""}],
    "provenance": {"base": "", "base_sha256": "", "adapter_sha256": "", "tokenizer_sha256": "", "data_sha256": "", "versions": {}},
}  # fmt: skip


def same_keys(found: Any, wanted: Any, place: str = "verdict") -> None:
    """The keys of DESIGN, and no other but `reason`."""
    if isinstance(wanted, dict) and wanted:
        assert isinstance(found, dict) and set(found) - {"reason"} == set(wanted), place
        for key, inner in wanted.items():
            same_keys(found[key], inner, f"{place}.{key}")
    if isinstance(wanted, list) and wanted:
        for item in found:
            same_keys(item, wanted[0], place)


def nulls_have_reasons(found: Any, place: str = "verdict") -> None:
    if isinstance(found, dict):
        if any(value is None for key, value in found.items() if key != "reason"):
            assert isinstance(found.get("reason"), str) and found["reason"], place
        for key, inner in found.items():
            nulls_have_reasons(inner, f"{place}.{key}")
    if isinstance(found, list):
        for item in found:
            nulls_have_reasons(item, place)


@pytest.mark.parametrize(
    ("variant", "verdict", "worked", "code"),
    [
        ("improved", "improved", True, errors.EXIT_DONE),
        ("worse", "worse", False, errors.EXIT_GATE_NOT_MET),
        ("equivalent", "equivalent", False, errors.EXIT_GATE_NOT_MET),
        ("inconclusive", "inconclusive", None, errors.EXIT_INCONCLUSIVE),
        ("elsewhere", "improved", True, errors.EXIT_DONE),
        ("dead", "refused", None, errors.EXIT_MODEL),
        ("control failed", "refused", None, errors.EXIT_MODEL),
        ("wrapped", "refused", None, errors.EXIT_MODEL),
        ("origin", "inconclusive", None, errors.EXIT_INCONCLUSIVE),
    ],
)
def test_each_kind_of_run_gets_its_verdict_schema_and_exit_code(
    tmp_path: Path, variant: str, verdict: str, worked: bool | None, code: int
) -> None:
    judged = judge(make(tmp_path, variant))
    found = verdict_of(tmp_path)
    same_keys(found, SCHEMA)
    nulls_have_reasons(found)
    assert (found["verdict"], found["worked"], judged.exit_code()) == (verdict, worked, code)
    assert all((tmp_path / name).is_file() for name in WRITTEN)
    assert exit_code(found) == code  # the same from the file


@pytest.mark.parametrize("variant", ["dead", "control failed", "wrapped"])
def test_a_refused_run_shows_no_perplexity_and_no_gain_anywhere(
    tmp_path: Path, variant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    judge(make(tmp_path, variant)).show()
    found, page = verdict_of(tmp_path), (tmp_path / "analysis.md").read_text()
    fit = found["fit"]
    assert (
        fit["base"]["perplexity"] is fit["tuned"]["bits_per_byte"] is fit["gain"]["nats_per_token"] is fit["mde80_percent"] is None
    )
    stored = json.loads((tmp_path / "comparisons.json").read_text())
    assert stored["test"] is stored["bits"] is stored["probe"] is None and stored["refusal"]
    for text in (page, capsys.readouterr().out):
        assert not re.search(r"perplexity[^.]*\d", text, re.IGNORECASE)
        assert "bits per byte" not in text.lower()
    assert page.index("refused") < page.index("## Training details")


def test_an_adapter_whose_b_is_zero_is_named_first_with_how_to_mend_it(tmp_path: Path) -> None:
    judge(make(tmp_path, "dead"))
    found, page = verdict_of(tmp_path), (tmp_path / "analysis.md").read_text()
    assert found["findings"][0]["code"] == "B07" and found["reason"].startswith("B07: ")
    assert "PeftModel.from_pretrained" in found["next"][0]["action"]
    assert found["next"][0]["command"] == "galvan check galvan/spark ADAPTER"
    assert "B07" in page.split("## Training details")[0] and "from_pretrained" in page.split("## Training details")[0]


def test_the_origins_case_is_named_a01_first_and_nothing_else_is_blamed(tmp_path: Path) -> None:
    """The base was evaluated by its old name after the adapter had been put into it: 7.95 = 7.95."""
    judge(make(tmp_path, "wrapped"))
    found, page = verdict_of(tmp_path), (tmp_path / "analysis.md").read_text()
    assert found["verdict"] == "refused" and found["findings"][0]["code"] == "A01" and found["reason"].startswith("A01: ")
    assert [f["code"] for f in found["findings"] if f["status"] == "present"] == ["A01"]
    assert "load the base a second time" in section(page, "Summary").lower() and "A01" in section(page, "Conclusion")


def test_an_honest_run_with_the_origins_settings_is_told_layers_steps_and_documents(tmp_path: Path) -> None:
    judge(make(tmp_path, "origin"))
    assert [command.split("--set ", 1)[-1] for command in commands(tmp_path)][:2] == [
        "training.lora.targets=all-linear",
        "training.epochs=4",
    ]
    assert any(action["action"].startswith("Judge on ") for action in verdict_of(tmp_path)["next"])
    assert not any("rank" in command or "MORE-TEXT" in command for command in commands(tmp_path))


def test_a_run_that_the_checks_refused_was_never_scored_and_is_judged_all_the_same(tmp_path: Path) -> None:
    make(tmp_path, "dead")
    (tmp_path / "scores.parquet").unlink()
    judge(tmp_path)
    found = verdict_of(tmp_path)
    same_keys(found, SCHEMA)
    nulls_have_reasons(found)
    assert found["verdict"] == "refused" and found["reason"].startswith("B07") and not (tmp_path / "comparisons.json").exists()


def test_a_run_without_scores_says_so(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "scores.parquet").unlink()
    assert judge(tmp_path).verdict["reason"] == "scores.parquet is not there, so nothing was compared."


def test_a_run_of_scores_alone_is_judged_and_what_is_missing_is_unknown(tmp_path: Path) -> None:
    make(tmp_path)
    for name in ("integrity.json", "provenance.json", "audit.json", "training.json", "training.jsonl", "curves.jsonl"):
        (tmp_path / name).unlink()
    judge(tmp_path)
    found = verdict_of(tmp_path)
    assert found["verdict"] == "improved" and found["provenance"]["adapter_sha256"] is None
    assert "unknown" in {finding["status"] for finding in found["findings"]}
    nulls_have_reasons(found)


def test_where_no_model_was_looked_at_the_scores_themselves_excuse_the_base(tmp_path: Path) -> None:
    judge(make(tmp_path, Plan(alive_facts=False)))
    found = {finding["code"]: finding for finding in verdict_of(tmp_path)["findings"]}
    assert found["A01"]["status"] == "absent" and "(noise 1e-05)" in found["A01"]["against"][0]


def test_figures_in_verdict_json_agree_with_the_rows(tmp_path: Path) -> None:
    import numpy as np
    import pyarrow.parquet as pq

    judge(make(tmp_path))
    rows = [row for row in pq.read_table(tmp_path / "scores.parquet").to_pylist() if row["split"] == "test"]
    base, tuned = ([row for row in rows if row["arm"] == arm] for arm in ("base", "tuned"))
    total = sum(row["n_tokens"] for row in base)
    b, t = (sum(row["nll_nats"] for row in arm) for arm in (base, tuned))
    fit = verdict_of(tmp_path)["fit"]
    assert fit["n_documents"] == 48 and fit["n_tokens"] == total and fit["unit"] == "block" and fit["clusters"] == 6
    assert fit["base"]["perplexity"] == pytest.approx(np.exp(b / total)) and fit["tuned"]["perplexity"] == pytest.approx(
        np.exp(t / total)
    )
    assert fit["gain"]["nats_per_token"] == pytest.approx((b - t) / total)
    assert fit["gain"]["perplexity_change_percent"] == pytest.approx(100 * (np.exp(t / total) / np.exp(b / total) - 1))
    assert fit["base"]["bits_per_byte"] == pytest.approx(b / (np.log(2) * sum(row["n_bytes"] for row in base)))


# ---- what next ----


def commands(folder: Path) -> list[str]:
    return [action["command"] for action in verdict_of(folder)["next"]]


def test_too_few_documents_are_answered_with_the_number_that_is_needed(tmp_path: Path) -> None:
    judged = judge(make(tmp_path, "inconclusive"))
    needed = judged.verdict["fit"]["documents_needed"]["for_margin"]
    assert any(str(needed) in action.action for action in judged.verdict["next"])
    assert not any("rank" in command for command in commands(tmp_path))


def test_a_higher_rank_is_advised_only_where_the_adapter_may_be_full(tmp_path: Path) -> None:
    """448 x 230 tokens at 0.5 nats learned are 74,328 bits; 1,000 parameters have room for 2,000, and 81,920 for 163,840."""
    plan = dataclasses.replace(VARIANTS["inconclusive"], probe_gain_nats=0.5)
    judge(make(tmp_path, plan))
    assert not any("rank" in command for command in commands(tmp_path))
    facts = json.loads((tmp_path / "training.json").read_text())
    (tmp_path / "training.json").write_text(json.dumps(facts | {"trainable_parameters": 1000}))
    judge(tmp_path)
    assert commands(tmp_path)[-1] == "galvan run RECIPE --set training.lora.rank=16"


def test_remedies_come_in_the_order_of_the_methods(tmp_path: Path) -> None:
    """Learning rate, all linear layers, steps, batch, and then data; never rank first."""
    settings = ("training.learning_rate=1e-5", "training.lora.targets=[q_proj, v_proj]", "training.accumulation=4")
    make(tmp_path, dataclasses.replace(VARIANTS["inconclusive"], settings=settings))
    facts = json.loads((tmp_path / "training.json").read_text())
    (tmp_path / "training.json").write_text(json.dumps(facts | {"steps": 29}))
    judge(tmp_path)
    assert [command.split("--set ", 1)[-1].split("=")[0] for command in commands(tmp_path)][:4] == [
        "training.learning_rate", "training.lora.targets", "training.epochs", "training.batch_size",
    ]  # fmt: skip
    assert commands(tmp_path)[0] == "galvan run RECIPE --set training.learning_rate=0.0003"
    assert commands(tmp_path)[2] == "galvan run RECIPE --set training.epochs=12"
    assert commands(tmp_path)[4].startswith("galvan evaluate galvan/spark ADAPTER --data")


def test_a_curve_that_still_falls_asks_for_more_epochs_even_after_a_success(tmp_path: Path) -> None:
    """A schedule that ended forbids to say by how much more steps would help; a curve that fell all the same asks for them."""
    for schedule, kind in (("constant", "under-trained"), ("cosine", "not determined")):
        plan = Plan(curve=(0.0, 0.02, 0.04, 0.06, 0.08, 0.10, 0.12), settings=(f"training.schedule={schedule}",))
        judged = judge(make(tmp_path / schedule, plan))
        assert judged.evidence.curve is not None and judged.evidence.curve.kind == kind
        assert "galvan run RECIPE --set training.epochs=6" in commands(tmp_path / schedule)


def test_the_analysis_says_what_twice_the_steps_would_give_or_why_it_does_not(tmp_path: Path) -> None:
    def line(schedule: str, gains: tuple[float, ...]) -> str:
        folder = tmp_path / f"{schedule}{len(list(tmp_path.iterdir()))}"
        judge(make(folder, Plan(curve=gains, validation=40, settings=(f"training.schedule={schedule}",))))
        return next(row for row in (folder / "analysis.md").read_text().splitlines() if "Training twice as long" in row)

    falling = (0.0, *(0.25 - 0.25 * (step / 14) ** -0.5 + 0.05 for step in (14, 28, 42, 56, 70, 84)))
    truth = 0.25 * (6**-0.5 - 12**-0.5)
    found = re.search(
        r"By step 168 .* by -([\d.]+) nats a token \(80 % interval -([\d.]+) to -([\d.]+)\)", line("constant", falling)
    )
    assert found is not None
    gain, most, least = map(float, found.groups())
    assert least < gain < most and gain == pytest.approx(truth, abs=0.01)
    assert "The learning rate had decayed" in line("cosine", falling)
    assert "has turned" in line("constant", (0.0, 0.05, 0.02, -0.03, -0.07, -0.09, -0.11))


def test_a_training_loss_that_hardly_moved_asks_for_a_higher_learning_rate_even_after_a_success(tmp_path: Path) -> None:
    judged = judge(make(tmp_path, Plan(curve=(0.0,) * 7)))
    assert judged.verdict["verdict"] == "improved" and judged.evidence.curve is not None
    assert judged.evidence.curve.kind == "not learning"
    asked = judged.evidence.recipe.training.learning_rate
    assert any("training.learning_rate=" in c for c in commands(tmp_path)) == (asked < 1e-3)
    healthy = make(tmp_path / "healthy", Plan(curve=(0.0, 0.06, 0.09, 0.105, 0.112, 0.114, 0.115)))
    judge(healthy)
    assert not any("training.learning_rate=" in c for c in commands(healthy))


def test_an_over_fitted_run_is_told_where_to_stop(tmp_path: Path) -> None:
    judged = judge(make(tmp_path, "worse"))
    assert (
        judged.evidence.curve is not None and judged.evidence.curve.kind == "over-fitted" and judged.evidence.curve.best_step == 14
    )
    assert commands(tmp_path)[0] == "galvan run RECIPE --set training.epochs=0.5"  # step 14 of 84 in 3 epochs


@pytest.mark.parametrize(
    ("curve", "kind"),
    [
        ((0.0, 0.06, 0.09, 0.105, 0.112, 0.114, 0.115), "saturated"),
        ((0.0, 0.02, 0.04, 0.06, 0.08, 0.10, 0.12), "under-trained"),
        ((0.0,) * 7, "not learning"),
        ((0.0, 0.05, 0.02, -0.03, -0.07, -0.09, -0.11), "over-fitted"),
    ],
)
def test_synthetic_curves_get_their_class(tmp_path: Path, curve: tuple[float, ...], kind: str) -> None:
    plan = Plan(curve=curve, validation=40, settings=("training.schedule=constant",))
    found = judge(make(tmp_path, plan)).evidence.curve
    assert found is not None and found.kind == kind


def test_a_loss_that_is_not_a_number_makes_a_run_unstable(tmp_path: Path) -> None:
    make(tmp_path)
    with (tmp_path / "training.jsonl").open("a") as stream:
        stream.write('{"step": 85, "tokens": 1, "learning_rate": 1, "loss_nats": null, "gradient_norm": null, "seconds": 1}\n')
    found = judge(tmp_path)
    assert found.evidence.curve is not None and found.evidence.curve.kind == "unstable" and "step 85" in found.evidence.curve.reason
    assert "not a number" in (tmp_path / "analysis.md").read_text()


# ---- the gate ----


@pytest.mark.parametrize(
    ("variant", "fail_on", "code"),
    [
        ("inconclusive", "worse", 0), ("inconclusive", "worse,inconclusive", 1), ("inconclusive", " Inconclusive ", 1), ("worse", "refused", 0),
        ("improved", "improved", 1), ("improved", "B07, a09", 0), ("dead", "worse", 4), ("dead", "B07", 4), ("improved", "veto", 0),
    ],
)  # fmt: skip
def test_fail_on_moves_the_gate(tmp_path: Path, variant: str, fail_on: str, code: int) -> None:
    assert judge(make(tmp_path, variant)).exit_code(fail_on) == code


def test_fail_on_names_a_present_cause() -> None:
    found = {
        "verdict": "improved", "findings": [{"code": "D02", "status": "present"}, {"code": "B07", "status": "absent"}],
        "style": {"vetoes": []}, "originality": {"excess_copying": None}, "retention": {"forgot": None},
    }  # fmt: skip
    assert exit_code(found, "D02") == 1 and exit_code(found, "B07") == 0 and exit_code(found) == 0


@pytest.mark.parametrize("words", ["", "bad", "worse,,", "Z99"])
def test_fail_on_with_an_unknown_word_is_a_usage_error(tmp_path: Path, words: str) -> None:
    with pytest.raises(RecipeError, match="--fail-on"):
        judge(make(tmp_path)).exit_code(words)


def test_a_veto_closes_the_gate_of_an_improved_run() -> None:
    found: dict[str, Any] = {
        "verdict": "improved", "findings": [], "style": {"vetoes": ["repetition"]}, "originality": {"excess_copying": True}, "retention": {"forgot": True},
    }  # fmt: skip
    assert vetoes(found) == ["repetition", "excess copying", "forgetting"] and exit_code(found) == 1


# ---- repeatable, harmless ----


def test_judging_twice_writes_the_same_bytes_wherever_the_run_lies(tmp_path: Path) -> None:
    first, second = make(tmp_path / "a"), make(tmp_path / "elsewhere" / "b")
    judge(first)
    before = {name: (first / name).read_bytes() for name in WRITTEN}
    judge(first)
    judge(second)
    for name in WRITTEN:
        assert (first / name).read_bytes() == before[name] == (second / name).read_bytes()
        assert str(tmp_path) not in before[name].decode()


SCRIPT = """
import sys
from pathlib import Path
from galvan.report import judge
from galvan.report.limits import limits
from galvan.report.terminal import show, show_stage
judge(Path(sys.argv[1])).show()
print(sorted({name.split(".")[0] for name in sys.modules} & {"torch", "transformers", "peft"}))
"""


def run(folder: Path, **environment: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder)], env=os.environ | environment, capture_output=True, timeout=120, check=True
    )
    return result.stdout.decode(environment.get("PYTHONIOENCODING", "utf-8"))


def test_another_hash_seed_writes_the_same_bytes_and_torch_is_never_imported(tmp_path: Path) -> None:
    make(tmp_path, "inconclusive")
    judge(tmp_path)
    before = {name: (tmp_path / name).read_bytes() for name in WRITTEN}
    output = run(tmp_path, PYTHONHASHSEED="123")
    assert before == {name: (tmp_path / name).read_bytes() for name in WRITTEN}
    assert output.rstrip().endswith("[]")


def test_the_summary_fits_80_columns_ends_with_verdict_and_paths_and_needs_no_colour(tmp_path: Path) -> None:
    make(tmp_path, "inconclusive")
    lines = run(tmp_path, PYTHONIOENCODING="ascii", COLUMNS="80").splitlines()
    assert "\x1b" not in "".join(lines)
    assert lines[-2].strip() == str(tmp_path / "analysis.md") and lines[-3].strip() == str(tmp_path / "verdict.json")
    verdict = next(i for i, line in enumerate(lines) if line.startswith("Verdict"))
    assert "INCONCLUSIVE" in lines[verdict] and verdict > max(i for i, line in enumerate(lines) if line.startswith("Causes"))
    assert all(len(line) <= 80 for line in lines if "galvan " not in line and str(tmp_path) not in line)


@pytest.mark.parametrize("page", ["terminal", "analysis.md"])
def test_the_origin_s_25_snippets_are_told_what_they_could_not_show_and_how_many_would_do(tmp_path: Path, page: str) -> None:
    """Four other things to do come before it, and the sentence is there all the same."""
    plan = dataclasses.replace(VARIANTS["origin"], gain_nats=0.004, probe_gain_nats=0.02)
    judged = judge(make(tmp_path, plan))
    assert judged.verdict["verdict"] == "inconclusive" and judged.verdict["fit"]["n_documents"] == 25
    text = run(tmp_path, COLUMNS="80") if page == "terminal" else (tmp_path / page).read_text()
    text = " ".join(text.split())
    unseen = re.search(
        r"With these 25 documents a change smaller than about ([\d.]+) % of perplexity would usually go unseen", text
    )
    enough = re.search(r"To see a change as large as the margin: ([\d,]+) documents for an 80 % chance, ([\d,]+) for 90 %", text)
    assert unseen is not None and enough is not None

    fit = judged.verdict["fit"]
    df = 24 if fit["unit"] == "document" else fit["clusters"] - 1
    se = (fit["gain"]["ci95"].high - fit["gain"]["ci95"].low) / 2 / stats.t.ppf(0.975, df)
    assert float(unseen[1]) == pytest.approx(100 * (1 - math.exp(-se * (stats.t.ppf(0.975, df) + stats.t.ppf(0.8, df)))), rel=0.05)

    def chance(n: int) -> float:
        """Of a two-sided t-test at 5 %, by the noncentral t, at n documents in as many blocks as METHODS S1.3 gives them."""
        units = {"document": n, "block": 6 if n < 50 else 8 if n < 100 else 10}[fit["unit"]]
        return float(1 - stats.nct.cdf(stats.t.ppf(0.975, units - 1), units - 1, 0.01 / (se * math.sqrt(25 / n))))

    for digits, wanted in ((enough[1], 0.8), (enough[2], 0.9)):
        n = next(n for n in range(25, 10_000) if chance(n) >= wanted)
        assert int(digits.replace(",", "")) == pytest.approx(n, rel=0.05)


HOSTILE = "\x1b[31m<script>alert(1)</script>[x](http://evil.example)![i](//e)[red]`|\u202e*b*_c_ www.evil.example $a$ <!-- {{"


def test_nothing_raw_from_data_or_names_reaches_a_page_or_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = dataclasses.replace(VARIANTS["inconclusive"], prefix=HOSTILE, base=HOSTILE[6:])
    judge(make(tmp_path, plan)).show()
    page, screen = (tmp_path / "analysis.md").read_text(), capsys.readouterr().out
    for raw in ("\x1b", "\u202e"):
        assert raw not in page and raw not in screen
    assert not re.search(r"(?<!\\)<(script|!--)", page)
    assert not re.search(r"(?<!\\)\]\(", page) and "//evil" not in page.replace("\\://", "")
    assert "script" in page  # it is shown, as text
    dead = make(tmp_path / "dead", dataclasses.replace(plan, dead_adapter=True))
    judge(dead).show()
    assert "\x1b" not in (dead / "analysis.md").read_text() + capsys.readouterr().out
    assert all("script" not in action["command"] for action in verdict_of(dead)["next"])


def test_the_terminal_reads_no_markup_and_no_escape_from_data(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    said, total = {"code": HOSTILE, "message": HOSTILE}, {"total": 3}
    audit = {"documents": 1, "sources": 1, "words": total, "tokens": total, "splits": {HOSTILE: {"documents": 1, "tokens": total}}}
    audit |= {"removed": {HOSTILE: {"count": 1}}, "changed": {}, "warnings": [said]}
    tokens = {"notices": [{**said, "level": "warning"}]}
    show_stage({"run": HOSTILE, "audit": audit, "tokens": tokens, "preflight": {"warnings": [said], "errors": []}}, [HOSTILE])
    judged = judge(make(tmp_path, "dead"))
    finding = dataclasses.replace(judged.evidence.findings[0], title=HOSTILE, because=[HOSTILE])
    show(dataclasses.replace(judged.evidence, findings=[finding]), judged.verdict, tmp_path / HOSTILE.replace("/", ""))
    screen = capsys.readouterr().out
    assert "\x1b" not in screen and "\u202e" not in screen and re.sub(r"\n\s*", "", screen).count("[red]") >= 5


def test_a_page_with_hostile_names_renders_without_html_links_or_images(tmp_path: Path) -> None:
    from markdown_it import MarkdownIt

    judge(make(tmp_path, dataclasses.replace(VARIANTS["improved"], prefix=HOSTILE, base=HOSTILE[6:])))
    tokens = MarkdownIt("commonmark", {"html": True}).enable("table").parse((tmp_path / "analysis.md").read_text())
    kinds = {child.type for token in tokens for child in token.children or []} | {token.type for token in tokens}
    assert not kinds & {"html_inline", "html_block", "link_open", "image", "em_open"}


@pytest.mark.parametrize("name", ["provenance.json", "audit.json", "training.json", "integrity.json"])
@pytest.mark.parametrize("content", ["{", "[]", "\x00", '"'])
def test_a_damaged_file_is_named_and_no_verdict_is_left(tmp_path: Path, name: str, content: str) -> None:
    judge(make(tmp_path))
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=re.escape(name)):
        judge(tmp_path)
    assert not (tmp_path / "verdict.json").exists()


@pytest.mark.parametrize("row", ["{}", "[1]", "{", '{"step": "a", "set": "probe", "document": "d", "n_tokens": 1, "nll_nats": 1}'])
def test_a_damaged_curve_is_a_data_error(tmp_path: Path, row: str) -> None:
    make(tmp_path)
    (tmp_path / "curves.jsonl").write_text(row + "\n")
    with pytest.raises(DataError, match=r"curves\.jsonl"):
        judge(tmp_path)


# ---- what the write-up claims ----


def section(page: str, title: str) -> str:
    return page.split(f"## {title}\n", 1)[1].split("\n## ", 1)[0]


def test_the_write_up_has_the_origins_sections_in_its_order(tmp_path: Path) -> None:
    judge(make(tmp_path))
    titles = re.findall(r"^## (.*)$", (tmp_path / "analysis.md").read_text(), re.MULTILINE)
    assert titles == [
        "Summary", "Training details", "Key findings", "Possible explanations", "Recommendations", "Next steps", "How it was measured", "Limits", "Files", "Conclusion",
    ]  # fmt: skip


def test_what_tokenizer_and_context_did_to_the_scored_texts_is_a_limit_only_where_it_is_something(tmp_path: Path) -> None:
    e = judge(make(tmp_path)).evidence

    def said(**facts: object) -> str:
        return " ".join(limits(dataclasses.replace(e, provenance={**e.provenance, "texts": facts})))

    nothing = {"n_not_reproduced": 0, "not_reproduced": [], "little_context_share": 0.3}
    assert said(**nothing) == said() == " ".join(limits(e))
    assert "give back 2 test documents as written (first: a, b)" in said(
        **nothing | {"n_not_reproduced": 2, "not_reproduced": ["a", "b"]}
    )
    assert "60% of the scored tokens have fewer than 64" in said(**nothing | {"little_context_share": 0.6})


def test_every_explanation_has_evidence_for_and_against_a_status_and_what_would_settle_it(tmp_path: Path) -> None:
    for variant in VARIANTS:
        judge(make(tmp_path / variant, variant))
        text = section((tmp_path / variant / "analysis.md").read_text(), "Possible explanations")
        parts = text.split("\n### ")[1:]
        assert len(parts) >= 2, variant
        for part in parts:
            assert re.match(r"[A-J]\. .*: (shown|supported|not settled|unlikely|excluded)\n", part), part.splitlines()[0]
            assert "\nFor it:\n" in part and "\nAgainst it:\n" in part and "To settle it: " in part


def test_the_healthy_run_excludes_a_dead_adapter_by_figures_and_not_by_printing_its_status(tmp_path: Path) -> None:
    judge(make(tmp_path))
    text = section((tmp_path / "analysis.md").read_text(), "Possible explanations").split("\n### ")[1]
    assert "excluded" in text.splitlines()[0] and "| B07 " in text and "over ten times the noise floor" in text


def test_an_inconclusive_run_is_told_what_it_could_not_have_seen_and_never_that_there_is_no_effect(tmp_path: Path) -> None:
    judged = judge(make(tmp_path, "inconclusive"))
    page = (tmp_path / "analysis.md").read_text()
    test = judged.evidence.comparisons.test if judged.evidence.comparisons else None
    assert test is not None and test.sensitivity in section(page, "Summary")
    assert "no effect" not in page.lower() and "It cannot be told" in section(page, "Conclusion")


def test_loss_in_the_log_stands_beside_the_base_of_record(tmp_path: Path) -> None:
    """At the first step B is zero: 3.5982 is the base's own loss, and the log alone points at the truth."""
    judge(make(tmp_path))
    text = section((tmp_path / "analysis.md").read_text(), "Training details")
    assert "3.5982 in the log" in text and "the base of record has 3.6" in text
    assert "| 84 | 310,800 | 1.05e-07 | 3.4500 | 0.8000 |" in text and "448 documents / 16 x 3 = 84.0" in text


def test_steps_done_are_ticked_and_steps_to_do_are_not(tmp_path: Path) -> None:
    judge(make(tmp_path, "dead"))
    text = section((tmp_path / "analysis.md").read_text(), "Next steps")
    assert "- [x] Check the adapter's files" in text and "- [ ] Compare base and tuned" in text


def test_an_adapter_from_elsewhere_is_judged_without_claims_about_its_training(tmp_path: Path) -> None:
    judge(make(tmp_path, "elsewhere"))
    page = (tmp_path / "analysis.md").read_text()
    assert "came without a training log" in page and "Learning curve" not in page and "Hyper" not in page
    assert not any("training." in command for command in commands(tmp_path))


def test_fewer_than_five_documents_are_inconclusive_without_a_made_up_number(tmp_path: Path) -> None:
    judge(make(tmp_path, Plan(documents=3)))
    found = verdict_of(tmp_path)
    nulls_have_reasons(found)
    assert found["verdict"] == "inconclusive" and "Too few" in found["reason"]


def test_one_document_has_no_interval_and_says_why(tmp_path: Path) -> None:
    judge(make(tmp_path, Plan(documents=1)))
    found = verdict_of(tmp_path)
    nulls_have_reasons(found)
    assert found["fit"]["gain"]["ci95"] is None and found["fit"]["mde80_percent"] is None and found["verdict"] == "inconclusive"
    assert "interval not defined" in (tmp_path / "analysis.md").read_text()
