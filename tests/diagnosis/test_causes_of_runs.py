"""Families E to I on run folders: each fault is put into a file that a run leaves behind, and named; the healthy run is excluded on every count."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chat_tokenizers import CHATML, LLAMA, chat_tokenizer
from galvan.compare import Control, read_scores
from galvan.compare_seeds import SeedsCompared
from galvan.data.audit import audit
from galvan.data.clean import Log
from galvan.data.split import Splits
from galvan.data.token_checks import TokenFacts, report
from galvan.data.tokens import IGNORE, TokenRow, training_rows
from galvan.diagnosis.catalogue import Facts, Finding, diagnose
from galvan.diagnosis.outcome import Outcome
from galvan.diagnosis.reported import Reported
from galvan.diagnosis.run_facts import RunFacts, run_facts
from galvan.payload import Chat, Tokens
from galvan.report import judge
from galvan.rundir import Document, read_rows, write_json, write_rows
from galvan.statistics.paired import paired_gain
from galvan.statistics.seeds import recipe_gain
from models_for_tests import byte_tokenizer
from synthetic import VARIANTS, make, score_row, write_scores

OURS = "EFGHI"
TEXTS = [
    "The storm passed over the lake.",
    "Nobody spoke for a long while.",
    "I wrote to her again, and waited.",
    "The lamp burned low.",
]
DOCUMENTS = [Document(f"d{i}", text, "book", i) for i, text in enumerate(TEXTS)]
PLAIN = byte_tokenizer()
NEUTRAL = {"kl_nats": 0.002, "neutral_perplexity_change_percent": 0.1, "forgot": False}


def rows(tokenizer: Any = PLAIN, documents: Any = DOCUMENTS, most: int | None = None) -> list[TokenRow]:
    return training_rows(tokenizer, documents, most, True)


def tokens(some: list[TokenRow] | None = None, tokenizer: Any = PLAIN, documents: Any = DOCUMENTS, learn_eos: bool = True) -> Any:
    return report(TokenFacts(tokenizer, documents, rows(tokenizer, documents) if some is None else some, learn_eos))


def seeds_of(gains: list[float], spread: float = 0.01, seed: int = 1) -> SeedsCompared:
    rng, n = np.random.default_rng(seed), np.full(60, 200)
    base = 200 * rng.normal(3.0, 0.2, 60)
    gain = recipe_gain(base, [base - 200 * rng.normal(mean, spread, 60) for mean in gains], n)
    return SeedsCompared(tuple(range(len(gains))), gain, None)


def complete(folder: Path) -> Path:
    """A synthetic run with everything beside it that a healthy one has."""
    make(folder, "improved")
    told = tokens()
    write_json(folder / "tokens.json", told)
    write_json(
        folder / "preflight.json",
        {**{k: getattr(told, k) for k in ("rows", "tokens", "supervised_tokens", "truncated_rows")}, "epochs": 2.0},
    )
    training = json.loads((folder / "training.json").read_text())
    checks = {"loss_error": 1e-7, "passes_error": 1e-7, "padding_error": 1e-7, "contamination": None, "seams_learned": None}
    write_json(folder / "training.json", {**training, "rows": told.rows, "checks": checks})
    trace = list(read_rows(folder / "training.jsonl"))
    write_rows(folder / "training.jsonl", [*trace[:-1], {**trace[-1], "tokens": 2 * told.supervised_tokens}])
    provenance = json.loads((folder / "provenance.json").read_text())
    write_json(folder / "provenance.json", {**provenance, "tuned_tokenizer_sha256": "c" * 64, "first_token_rule": "bos-prepended"})
    write_rows(folder / "samples.jsonl", samples())
    write_json(
        folder / "generation.json",
        {
            "batches": {arm: pilot(False) for arm in ("base", "tuned")},
            "prompt_ids": {"checked": 12, "prefix_of_training": 12, "double_bos": 0},
        },
    )
    write_json(folder / "export.json", {"base_nats": 3.2, "tuned_nats": 3.0, "exported_nats": 3.0001})
    return folder


def samples(stop: str = "eos", tuned_seed: int | None = 0) -> list[dict[str, Any]]:
    made = []
    for arm in ("base", "tuned"):
        for i in range(12):
            seed: int | None = i if arm == "base" or tuned_seed == 0 else None if tuned_seed is None else i + tuned_seed
            made.append({"prompt_id": f"p{i}", "prompt": "It", "arm": arm, "sample": 0, "seed": seed, "text": f"{arm} {i}", "stop": stop,
                         "settings": {"name": "sampled", "temperature": 0.8}})  # fmt: skip
    return made


def pilot(alone: bool) -> dict[str, Any]:
    return {
        "prompts": 4,
        "tokens": 64,
        "identical": 1 if alone else 4,
        "largest_difference_nats": 2.3 if alone else 1e-6,
        "alone": alone,
    }


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Facts]:
    folder = complete(tmp_path_factory.mktemp("healthy") / "run")
    judged = judge(folder)
    facts = judged.evidence.facts({"retention": NEUTRAL, "originality": {"excess_copying": False}, "style": {"closer": "yes"}})
    assert facts.outcome is not None
    return folder, dataclasses.replace(facts, outcome=dataclasses.replace(facts.outcome, recipe=seeds_of([0.1, 0.11, 0.12])))


def found(facts: Facts) -> dict[str, Finding]:
    return {finding.code: finding for finding in diagnose(facts)}


def accused(facts: Facts) -> list[str]:
    return [finding.code for finding in diagnose(facts) if finding.status == "present" and finding.code[0] in OURS]


@pytest.mark.parametrize(
    "code",
    [
        *(pytest.param(c, marks=pytest.mark.cause(c, "healthy")) for c in (
            "E01", "E02", "E03", "E04", "E05", "E06", "E07", "E08", "E09", "E10", "E11", "E12", "E13", "F01", "F02", "F03", "F04",
            "G01", "G02", "G03", "G04", "G05", "G06", "G07", "G08", "G09", "G10", "G11", "G12", "G13", "H01", "H02", "H03",
            "I01", "I02", "I03",
        )),
    ],
)  # fmt: skip
def test_a_healthy_run_excludes_every_cause_with_a_figure(code: str, healthy: tuple[Path, Facts]) -> None:
    finding = found(healthy[1])[code]
    assert finding.status == "absent" and finding.against, finding


def test_without_evidence_every_cause_is_unknown_and_says_what_is_missing() -> None:
    for finding in diagnose(Facts(run=RunFacts(), outcome=Outcome())):
        if finding.code[0] in OURS:
            assert finding.status == "unknown" and finding.because[0].startswith("Not known: "), finding


# ---- faults in the run's files ----

Change = Callable[[Path], None]


def with_tokens(told: Any) -> Change:
    """Rows as they were encoded, encoded again and trained on."""

    def change(folder: Path) -> None:
        write_json(folder / "tokens.json", told)
        counts = {name: getattr(told, name) for name in ("rows", "tokens", "supervised_tokens", "truncated_rows")}
        with_file("preflight.json", counts)(folder)
        with_file("training.json", {"truncated_rows": told.truncated_rows})(folder)
        trace = list(read_rows(folder / "training.jsonl"))
        write_rows(folder / "training.jsonl", [*trace[:-1], {**trace[-1], "tokens": 2 * told.supervised_tokens}])

    return change


def with_file(name: str, value: Any) -> Change:
    def change(folder: Path) -> None:
        old = json.loads((folder / name).read_text()) if (folder / name).is_file() else {}
        write_json(folder / name, {**old, **value})

    return change


def with_checks(**values: Any) -> Change:
    return with_file("training.json", {"checks": {"loss_error": 1e-7, "passes_error": 1e-7, "padding_error": 1e-7, **values}})


def ends_masked() -> Any:
    """pad == eos, and every padding id masked: the end with them."""
    some = []
    for row in rows():
        labels = row.labels.copy()
        labels[row.input_ids == PLAIN.eos_token_id] = IGNORE
        some.append(dataclasses.replace(row, labels=labels))
    return tokens(some)


def begun_twice() -> Any:
    some = [dataclasses.replace(r, input_ids=np.append(256, r.input_ids), labels=np.append(IGNORE, r.labels)) for r in rows()]
    return tokens(some)


def without_bos() -> Any:
    ids = [Document(d.id, d.text, d.source, d.position, payload=Tokens((*PLAIN(d.text)["input_ids"][1:], 257))) for d in DOCUMENTS]
    return tokens(documents=ids)


def labels_shifted() -> Any:
    return tokens([dataclasses.replace(r, labels=np.append(r.input_ids[1:], IGNORE)) for r in rows()])


def other_template() -> Any:
    """Rows made with one template, used with another."""
    documents = [
        Document(
            f"c{i}", text, "book", i, payload=Chat(({"role": "user", "content": "Say it."}, {"role": "assistant", "content": text}))
        )
        for i, text in enumerate(TEXTS)
    ]
    trained, used = chat_tokenizer(LLAMA), chat_tokenizer(LLAMA)
    used.chat_template = CHATML.replace("<|im_start|>", "<|head|>").replace("<|im_end|>", "<|eot|>")
    return report(TokenFacts(used, documents, rows(trained, documents), True))


def straddling() -> Any:
    return tokens([dataclasses.replace(r, straddling=1) for r in rows()])


def copied(folder: Path) -> None:
    """Half of the test documents stand in the training text as well."""
    words = "one day the old captain told us how his ship had been lost among the ice and how only three of his men came home again"
    some = [Document(f"x{i}", f"{words} {i} and that was chapter {i} of his long story about the sea", "book", i) for i in range(8)]
    splits = Splits(train=some[:6], validation=[], test=[dataclasses.replace(some[0], id="t0"), *some[6:]])
    made = audit("x", "text", splits, {d.id: 30 for part in (splits.train, splits.test) for d in part}, (0, 0), Log())
    write_json(folder / "audit.json", made)


def first_loss(factor: float) -> Change:
    """Another program's log, whose first loss is `factor` times the base's NLL."""
    return trainer([{"step": 1, "loss": factor * 3.6, "grad_norm": 1.0}, {"step": 2, "loss": factor * 3.5}])


def trainer(history: list[dict[str, Any]]) -> Change:
    def change(folder: Path) -> None:
        for name in ("training.json", "training.jsonl", "curves.jsonl"):
            (folder / name).unlink()
        write_json(folder / "trainer_state.json", {"log_history": history})

    return change


def scores_without_the_last(folder: Path) -> None:
    rescored(folder, lambda rows: [row for row in rows if not row["document"].endswith("test-47")])


def scores_with_one_twice(folder: Path) -> None:
    rescored(folder, lambda rows: [*rows, *[row for row in rows if row["document"].endswith("test-0")]])


def other_windows(folder: Path) -> None:
    def shorten(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{**row, "n_tokens": row["n_tokens"] - (row["arm"] == "tuned")} for row in rows]

    rescored(folder, shorten)


def rescored(folder: Path, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> None:
    made = []
    for (arm, split), scored in read_scores(folder / "scores.parquet").items():
        if split == "test" and arm in ("base", "tuned"):
            for i, name in enumerate(scored.documents):
                made.append(
                    score_row(arm, Document(name, "x", scored.sources[i], int(scored.positions[i])), split, scored.tokens[i])
                )
    write_scores(folder / "scores.parquet", change(made))


def extra_targets(folder: Path) -> None:
    """One target more for every row and epoch, as if position 0 were one."""
    told = json.loads((folder / "preflight.json").read_text())
    trace = list(read_rows(folder / "training.jsonl"))
    write_rows(folder / "training.jsonl", [*trace[:-1], {**trace[-1], "tokens": 2 * (told["supervised_tokens"] + told["rows"])}])
    with_file("training.json", {"checks": None})(folder)


FAULTS = [
    pytest.param("E01", with_tokens(ends_masked()), id="ends masked as padding", marks=pytest.mark.cause("E01", "fault")),
    pytest.param("E02", with_tokens(other_template()), id="another template", marks=pytest.mark.cause("E02", "fault")),
    pytest.param("E02", with_file("generation.json", {"prompt_ids": {"checked": 12, "prefix_of_training": 3, "double_bos": 0}}), id="other prompts"),
    pytest.param("E03", with_file("generation.json", {"prompt_ids": {"checked": 12, "prefix_of_training": 12, "double_bos": 12}}), id="prompts begin twice"),
    pytest.param("E03", with_tokens(begun_twice()), id="two beginnings", marks=pytest.mark.cause("E03", "fault")),
    pytest.param("E04", with_tokens(without_bos()), id="ids without a beginning"),
    pytest.param("E04", with_file("provenance.json", {"first_token_rule": "first-token-is-context"}), id="no beginning", marks=pytest.mark.cause("E04", "fault")),
    pytest.param("E05", with_tokens(straddling()), id="merged boundary", marks=pytest.mark.cause("E05", "fault")),
    pytest.param("E07", with_file("training.json", {"truncated_rows": 9}), id="rows of another cut", marks=pytest.mark.cause("E07", "fault")),
    pytest.param("E06", with_tokens(tokens(rows(most=20))), id="cut rows", marks=pytest.mark.cause("E06", "fault")),
    pytest.param("E07", with_file("preflight.json", {"tokens": 7}), id="stale rows", marks=pytest.mark.cause("E07", "fault")),
    pytest.param("E08", with_checks(contamination=0.3), id="packed together", marks=pytest.mark.cause("E08", "fault")),
    pytest.param("E09", with_checks(contamination=0.0, seams_learned=3), id="seams learned", marks=pytest.mark.cause("E09", "fault")),
    pytest.param("E10", copied, id="copied rows", marks=pytest.mark.cause("E10", "fault")),
    pytest.param("E11", with_tokens(labels_shifted()), id="shifted labels", marks=pytest.mark.cause("E11", "fault")),
    pytest.param("E11", with_checks(loss_error=0.4, passes_error=0.4), id="another loss", marks=pytest.mark.cause("E11", "fault")),
    pytest.param("E13", with_checks(padding_error=0.2), id="padding seen", marks=pytest.mark.cause("E13", "fault")),
    pytest.param("F01", with_checks(passes_error=0.006), id="passes of nearly even rows divided one by one", marks=pytest.mark.cause("F01", "fault")),
    pytest.param("F01", with_checks(passes_error=0.2), id="passes divided one by one", marks=pytest.mark.cause("F01", "fault")),
    pytest.param("F02", first_loss(4.0), id="loss times 4", marks=pytest.mark.cause("F02", "fault")),
    pytest.param("F03", extra_targets, id="first positions counted", marks=pytest.mark.cause("F03", "fault")),
    pytest.param("F04", trainer([{"step": 1, "loss": 3.6}, {"step": 1, "eval_loss": 7.2}]), id="evaluation times 2", marks=pytest.mark.cause("F04", "fault")),
    pytest.param("G03", scores_without_the_last, id="last text dropped", marks=pytest.mark.cause("G03", "fault")),
    pytest.param("G05", other_windows, id="other windows", marks=pytest.mark.cause("G05", "fault")),
    pytest.param("G11", scores_with_one_twice, id="one text twice", marks=pytest.mark.cause("G11", "fault")),
    pytest.param("H01", with_file("generation.json", {"batches": {"base": pilot(False), "tuned": pilot(True)}}), id="batch unlike alone", marks=pytest.mark.cause("H01", "fault")),
    pytest.param("H02", lambda f: write_rows(f / "samples.jsonl", samples(tuned_seed=100)), id="other seeds", marks=pytest.mark.cause("H02", "fault")),
    pytest.param("H02", lambda f: write_rows(f / "samples.jsonl", samples(tuned_seed=None)), id="no seeds", marks=pytest.mark.cause("H02", "fault")),
    pytest.param("H03", with_file("export.json", {"exported_nats": 3.2}), id="export is the base", marks=pytest.mark.cause("H03", "fault")),
]  # fmt: skip


@pytest.mark.parametrize(("code", "change"), FAULTS)
def test_a_fault_in_a_runs_files_is_named_and_nothing_else_is(
    code: str, change: Change, healthy: tuple[Path, Facts], tmp_path: Path
) -> None:
    folder, facts = healthy
    for path in folder.rglob("*"):
        target = tmp_path / path.relative_to(folder)
        target.mkdir() if path.is_dir() else target.write_bytes(path.read_bytes())
    change(tmp_path)
    assert facts.run is not None
    finding = found(broken := dataclasses.replace(facts, run=run_facts(tmp_path, facts.run.settings)))[code]
    assert finding.status == "present" and finding.because and finding.remedy and finding.settle
    assert accused(broken) == [code]


@pytest.mark.cause("E01", "fault")
def test_an_end_that_the_recipe_does_not_ask_for_is_named_with_what_speaks_for_it(tmp_path: Path) -> None:
    told = tokens([dataclasses.replace(r, labels=r.labels[:-1], input_ids=r.input_ids[:-1]) for r in rows()], learn_eos=False)
    write_json(tmp_path / "tokens.json", told)
    finding = found(Facts(run=run_facts(tmp_path, {"training": {"learn_eos": False}})))["E01"]
    assert finding.status == "present" and "The recipe asks" in finding.against[0]


# ---- faults in what was concluded ----


def outcome(facts: Facts, **changes: Any) -> Facts:
    assert facts.outcome is not None
    return dataclasses.replace(facts, outcome=dataclasses.replace(facts.outcome, **changes))


@pytest.mark.cause("E12", "fault")
def test_another_tokenizer_beside_the_adapter_is_e12(healthy: tuple[Path, Facts]) -> None:
    facts = healthy[1]
    assert facts.integrity is not None and facts.files is not None
    other = dataclasses.replace(facts.integrity, files=dataclasses.replace(facts.files, same_tokenizer=False))
    assert "E12" in accused(dataclasses.replace(facts, integrity=other))


@pytest.mark.cause("E13", "fault")
@pytest.mark.cause("G02", "healthy")
def test_likelihoods_that_move_with_padding_are_e13(healthy: tuple[Path, Facts]) -> None:
    facts = healthy[1]
    assert facts.integrity is not None and facts.function is not None
    moved = dataclasses.replace(facts.integrity, function=dataclasses.replace(facts.function, batch_nats=2.5))
    assert "E13" in accused(dataclasses.replace(facts, integrity=moved))


@pytest.mark.cause("G06", "fault")
def test_perplexities_of_two_tokenizers_that_were_compared_are_g06_and_bits_per_byte_are_not(healthy: tuple[Path, Facts]) -> None:
    facts = outcome(healthy[1], one_tokenizer=False)
    assert "G06" not in accused(facts) and facts.run is not None
    told = dataclasses.replace(facts, run=dataclasses.replace(facts.run, reported=Reported(7.95, 7.2)))
    assert "G06" in accused(told)


@pytest.mark.cause("G08", "fault")
@pytest.mark.cause("G09", "fault")
def test_figures_without_an_interval_and_intervals_over_tokens_are_named(tmp_path: Path) -> None:
    """Documents that share their gains: the interval over tokens is far too narrow."""
    plan = dataclasses.replace(VARIANTS["inconclusive"], gain_nats=0.0, spread_nats=0.2, probe_gain_nats=0.0)
    judged = judge(make(tmp_path / "run", plan))
    facts = judged.evidence.facts()
    assert facts.run is not None and facts.run.scored is not None and facts.outcome is not None and facts.outcome.test is not None
    arms = facts.run.scored.arms
    pair = {name: sums.perplexity() for name, sums in arms.items()}
    bare = Reported(pair["base"], pair["tuned"])
    assert "G08" in accused(dataclasses.replace(facts, run=dataclasses.replace(facts.run, reported=bare)))
    gain, se = facts.outcome.test.nats_per_token, facts.run.scored.token_se_nats
    assert se is not None and facts.outcome.test.se is not None and facts.outcome.test.se > 2 * se
    narrow = dataclasses.replace(bare, ci95=(gain - 1.96 * se, gain + 1.96 * se))
    assert "G09" in accused(dataclasses.replace(facts, run=dataclasses.replace(facts.run, reported=narrow)))
    own = dataclasses.replace(bare, ci95=tuple(facts.outcome.test.ci95 or (0, 0)))
    assert not {"G08", "G09"} & set(accused(dataclasses.replace(facts, run=dataclasses.replace(facts.run, reported=own))))


@pytest.mark.cause("G10", "fault")
def test_the_honest_weak_run_on_25_snippets_is_g10_with_the_detectable_effect_and_the_documents_needed(tmp_path: Path) -> None:
    judged = judge(make(tmp_path / "run", "origin"))
    first = judged.evidence.findings[0]
    assert first.code == "G10" and first.certainty == "certain"
    said = " ".join(first.because)
    assert "25 documents" in said and "%" in said and "documents for a chance of 80 %" in said
    assert "--data MORE-HELD-OUT-TEXT" in first.remedy


@pytest.mark.cause("G12", "fault")
def test_a_perplexity_that_rose_while_style_came_closer_is_g12(healthy: tuple[Path, Facts], tmp_path: Path) -> None:
    worse = judge(make(tmp_path / "run", "worse")).evidence.test
    assert "G12" in accused(outcome(healthy[1], test=worse)) and "G12" not in accused(
        outcome(healthy[1], test=worse, style={"closer": "no"})
    )


@pytest.mark.cause("G13", "fault")
def test_random_numbers_that_improve_on_the_base_show_a_handicap(healthy: tuple[Path, Facts]) -> None:
    control = Control("failed", "An adapter of random numbers improves on the base, so the base is at a disadvantage.")
    assert "G13" in accused(outcome(healthy[1], controls={"random_b": control}))


@pytest.mark.cause("I01", "fault")
def test_a_curve_that_turns_is_i01(tmp_path: Path) -> None:
    facts = judge(make(tmp_path / "run", "worse")).evidence.facts()
    assert "I01" in accused(facts)


@pytest.mark.cause("I01", "fault")
@pytest.mark.cause("I02", "fault")
def test_copying_and_forgetting_are_i01_and_i02(healthy: tuple[Path, Facts]) -> None:
    assert accused(outcome(healthy[1], originality={"excess_copying": True})) == ["I01"]
    assert accused(outcome(healthy[1], retention={**NEUTRAL, "forgot": True})) == ["I02"]


@pytest.mark.cause("I03", "fault")
def test_seeds_that_disagree_are_i03_and_two_seeds_say_nothing(healthy: tuple[Path, Facts]) -> None:
    assert accused(outcome(healthy[1], recipe=seeds_of([0.15, -0.12, 0.1]))) == ["I03"]
    assert found(outcome(healthy[1], recipe=seeds_of([0.15, -0.12])))["I03"].status == "unknown"


def test_a_decisive_cause_stops_later_judgements_and_not_their_figures(tmp_path: Path) -> None:
    evidence = judge(make(tmp_path / "run", "wrapped")).evidence
    facts = dataclasses.replace(evidence.facts(), outcome=Outcome(test=_weak()))
    seen = diagnose(facts)
    g10 = next(f for f in seen if f.code == "G10")
    assert seen[0].code == "A01" and g10.status == "unknown"
    assert "A01 is mended" in g10.because[0] and "25 documents" in " ".join(g10.because)


def _weak() -> Any:
    rng = np.random.default_rng(0)
    base = 230 * rng.normal(3.0, 0.2, 25)
    return paired_gain(base, base - 230 * rng.normal(0.0, 0.05, 25), np.full(25, 230))
