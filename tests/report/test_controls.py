"""Shuffled text, several candidates, training seeds, two tokenizers, the picture: what comparisons say, on scores drawn from a seed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pyarrow.parquet as pq
import pytest

from galvan import recipe as recipes
from galvan.compare import candidates, compare, read_scores
from galvan.compare_seeds import ask, folder_of, training_seeds, with_seed
from galvan.errors import ComparisonRefused, DataError
from galvan.measure.shuffle import shuffled_documents, shuffled_words
from galvan.plan import pilot_spreads
from galvan.report import judge
from galvan.report.picture import COLUMNS, axis, in_words, power_line, power_svg
from galvan.rundir import Document, read_json, write_json, write_text
from galvan.statistics import Gain, paired_gain
from synthetic import Plan, make, score_row, verdict_of, write_scores

Rows = list[dict[str, Any]]


def rewrite(folder: Path, change: Callable[[Rows], None]) -> Path:
    rows = pq.read_table(folder / "scores.parquet").to_pylist()
    change(rows)
    write_scores(folder / "scores.parquet", rows)
    return folder


def shuffled_like(arm: str, factor: float) -> Callable[[Rows], None]:
    """Give `arm`'s shuffled documents `factor` times the NLL of the real ones."""

    def change(rows: Rows) -> None:
        real = {r["document"]: r for r in rows if r["arm"] == arm and r["split"] == "test"}
        for i, r in enumerate(rows):
            if r["arm"] == arm and r["split"] == "test_shuffled":
                document = Document(r["document"], "", r["source"], r["position"])
                rows[i] = score_row(arm, document, "test_shuffled", factor * np.array(real[r["document"]]["token_nll_nats"]))

    return change


# ---- shuffled text ----


def test_shuffling_keeps_bytes_and_first_word_and_changes_the_order() -> None:
    text = "The storm passed over the lake in the night,\nand nobody spoke of it."
    mixed = shuffled_words(text, np.random.default_rng(1))
    assert mixed is not None and mixed != text
    assert mixed.startswith("The ") and sorted(mixed) == sorted(text) and sorted(mixed.split()) == sorted(text.split())
    assert shuffled_words("Too few words to shuffle.", np.random.default_rng(1)) is None
    assert shuffled_words("no " * 40, np.random.default_rng(1)) is None


def test_documents_that_cannot_be_shuffled_are_passed_over_and_the_order_follows_from_the_seed() -> None:
    some = [
        Document(str(i), text, "s", i)
        for i, text in enumerate(["short", "one two three four five six seven eight nine", "語" * 50])
    ]
    assert [d.id for d in shuffled_documents(some * 2, 8, 42)] == ["1", "1"]
    assert shuffled_documents(some, 8, 42) == shuffled_documents(some, 8, 42)


@pytest.mark.parametrize(
    ("base", "tuned", "status", "says"),
    [
        (1.3, 1.3, "ok", "far less likely"),
        (1.3, 1.08, "ok", "far less likely"),
        (1.0, 1.0, "failed", "word order does not reach the scores"),  # a scorer that sorts tokens
        (1.3, 1.0, "failed", "The tuned arm scores text"),
        (1.0, 1.3, "failed", "The base arm scores text"),
        (1.3, 1.01, "failed", "not scored alike"),  # better on the text, and yet it does not mind the order
        (1.01, 1.3, None, "base hardly minds"),  # a base that knows nothing yet
        (1.002, 0.998, None, "base and tuned hardly"),  # random weights
    ],
)
def test_shuffled_text_fails_what_no_working_scorer_can_give_and_nothing_else(
    tmp_path: Path, base: float, tuned: float, status: str | None, says: str
) -> None:
    rewrite(rewrite(make(tmp_path), shuffled_like("base", base)), shuffled_like("tuned", tuned))
    control = compare(tmp_path / "scores.parquet", 0.01).controls["shuffled_text"]
    assert control.status == status and says in control.reason


def test_a_ruined_tuned_model_that_minds_no_order_is_judged_and_not_refused(tmp_path: Path) -> None:
    rewrite(make(tmp_path, Plan(gain_nats=-3.0)), shuffled_like("tuned", 1.01))
    judge(tmp_path)
    found = verdict_of(tmp_path)
    assert (
        found["verdict"] == "worse"
        and found["controls"]["shuffled_text"] is None
        and "shuffled_text: Not shown" in found["controls"]["reason"]
    )


def scores_of(arm: str, nats: float, like: str) -> Callable[[Rows], None]:
    def change(rows: Rows) -> None:
        source = {r["document"]: r for r in rows if r["arm"] == like and r["split"] == "test"}
        for i, r in enumerate(rows):
            if r["arm"] == arm:
                document = Document(r["document"], "", r["source"], r["position"])
                rows[i] = score_row(arm, document, "test", np.array(source[r["document"]]["token_nll_nats"]) + nats)

    return change


@pytest.mark.parametrize(
    ("control", "change"),
    [
        ("base_vs_base", scores_of("base_again", 0.01, "base")),
        ("zero_adapter", scores_of("zero_adapter", 0.01, "base")),
        ("random_b", scores_of("random_b", 0.0, "base")),
        ("shuffled_text", shuffled_like("base", 1.0)),
    ],
)
def test_each_failing_control_refuses_the_verdict_and_is_named(
    tmp_path: Path, control: str, change: Callable[[Rows], None]
) -> None:
    judged = judge(rewrite(make(tmp_path), change))
    found, page = verdict_of(tmp_path), (tmp_path / "analysis.md").read_text()
    assert found["verdict"] == "refused" and judged.exit_code() == 4 and found["reason"].startswith("A control failed: ")
    assert [name for name, status in found["controls"].items() if status == "failed"] == [control]
    assert "FAILED" in page and found["fit"]["gain"]["nats_per_token"] is None and found["fit"]["recipe"]["nats_per_token"] is None
    assert not (tmp_path / "power.svg").exists()


# ---- several candidates ----


def several(path: Path, gains: dict[str, float], n: int = 48) -> dict[tuple[str, str], Any]:
    rng = np.random.default_rng(5)
    rows = []
    for i in range(n):
        document, base, shared = Document(str(i), "", f"s{i}", 0), np.abs(rng.normal(3, 1, 200)), rng.normal(0, 0.05)
        rows.append(score_row("base", document, "test", base))
        rows += [score_row(name, document, "test", base - gain - shared - rng.normal(0, 0.02)) for name, gain in gains.items()]
    write_scores(path, rows)
    return read_scores(path)


def test_candidates_pay_for_each_other_and_holm_stands_beside(tmp_path: Path) -> None:
    names = {f"a{k}": 0.016 for k in range(5)}
    scores = several(tmp_path / "s.parquet", names)
    together, alone = candidates(scores, list(names), 0.01, 42), candidates(scores, ["a0"], 0.01, 42)
    wide, narrow = together.candidates[0].ci95, alone.candidates[0].ci95
    assert wide is not None and narrow is not None and wide.high - wide.low > narrow.high - narrow.low
    assert all(
        c.p_holm is not None and c.p_adjusted is not None and c.p_single is not None and c.p_adjusted >= c.p_single
        for c in together.candidates
    )
    assert together == candidates(scores, list(names), 0.01, 42)  # the seed decides the flips


def test_candidates_with_other_tokenizers_are_judged_in_bits_and_never_called_equivalent(tmp_path: Path) -> None:
    scores = several(tmp_path / "s.parquet", {"a": 0.0, "b": 0.5})
    family = candidates(scores, ["a", "b"], 0.01, 42, tokens=False)
    assert family.candidates[1].nats_per_token == pytest.approx(0.5 / np.log(2) / 4, abs=0.01)  # 4 bytes a token
    assert family.candidates[1].verdict == "improved" and family.candidates[0].verdict == "inconclusive"
    assert not any("perplexity" in c.reason for c in family.candidates)


# ---- seeds ----


def with_seeds(folder: Path, gains: tuple[float, ...], variant: Plan | None = None) -> Path:
    """A judged run with so many training seeds, whose adapters gain so much."""
    plan = variant or Plan(documents=60, gain_nats=gains[0])
    make(folder, plan)
    recipe = recipes.load(folder / "recipe.yaml")
    ask(folder, training_seeds(recipe, len(gains)))
    for seed, gain in zip(training_seeds(recipe, len(gains))[1:], gains[1:], strict=True):
        other = folder_of(folder, seed)
        make(other, plan)
        write_text(other / "recipe.yaml", recipes.resolved(with_seed(recipe, seed)))

        def shift(rows: Rows, by: float = gain - gains[0]) -> None:
            for i, r in enumerate(rows):
                if r["arm"] == "tuned" and r["split"] == "test":
                    rows[i] = score_row(
                        "tuned", Document(r["document"], "", r["source"], r["position"]), "test", np.array(r["token_nll_nats"]) - by
                    )

        judge(rewrite(other, shift))
    return folder


def test_the_recipe_s_interval_stands_beside_this_adapter_s_and_is_wider_where_seeds_differ(tmp_path: Path) -> None:
    judge(with_seeds(tmp_path, (0.12, 0.05, 0.19)))
    fit, page = verdict_of(tmp_path)["fit"], (tmp_path / "analysis.md").read_text()
    assert fit["recipe"]["training_seeds"] == [42, 43, 44]
    assert fit["recipe"]["nats_per_token"] == pytest.approx(0.12, abs=0.02)
    own, recipe = fit["gain"]["ci95"], fit["recipe"]["ci95"]
    assert recipe[1] - recipe[0] > 2 * (own[1] - own[0])
    assert "This adapter, of training seed 42" in page and "The recipe, over 3 training seeds" in page
    stored = read_json(tmp_path / "comparisons.json")["recipe"]
    assert stored["gain"]["n_seeds"] == 3 and len(stored["gain"]["adapters"]) == 3


def test_without_other_seeds_the_recipe_is_not_judged_and_the_reason_says_how(tmp_path: Path) -> None:
    judge(make(tmp_path))
    recipe = verdict_of(tmp_path)["fit"]["recipe"]
    assert recipe["nats_per_token"] is None and "--seeds" in recipe["reason"]
    assert "This adapter, and the recipe" not in (tmp_path / "analysis.md").read_text()


def not_done(folder: Path) -> None:
    (folder / "seeds" / "43" / "verdict.json").unlink()


def other_recipe(folder: Path) -> None:
    path = folder / "seeds" / "43" / "recipe.yaml"
    write_text(path, recipes.resolved(recipes.load(path, ["training.epochs=9"])))


def refused(folder: Path) -> None:
    write_json(folder / "seeds" / "43" / "verdict.json", {"verdict": "refused"})


def other_base(folder: Path) -> None:
    def change(rows: Rows) -> None:
        for i, r in enumerate(rows):
            if r["arm"] == "base" and r["split"] == "test":
                rows[i] = score_row(
                    "base", Document(r["document"], "", r["source"], r["position"]), "test", np.array(r["token_nll_nats"]) + 0.1
                )

    rewrite(folder / "seeds" / "43", change)


def lost_document(folder: Path) -> None:
    rewrite(folder / "seeds" / "43", lambda rows: rows.pop(0) and None)


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (not_done, "not done yet"),
        (other_recipe, "another recipe"),
        (refused, "refused"),
        (other_base, "its base scores other"),
        (lost_document, "cannot be compared"),
    ],
)
def test_a_seed_that_may_not_count_leaves_the_recipe_undefined_and_is_named(
    tmp_path: Path, fault: Callable[[Path], None], says: str
) -> None:
    with_seeds(tmp_path, (0.12, 0.11))
    fault(tmp_path)
    judge(tmp_path)
    recipe = verdict_of(tmp_path)["fit"]["recipe"]
    assert recipe["nats_per_token"] is None and "Training seed 43: " in recipe["reason"] and says in recipe["reason"]
    assert verdict_of(tmp_path)["verdict"] == "improved"


def test_a_damaged_list_of_seeds_is_a_data_error(tmp_path: Path) -> None:
    write_json(make(tmp_path) / "seeds.json", {"training_seeds": [42, "43"]})
    with pytest.raises(DataError, match=r"seeds\.json"):
        judge(tmp_path)


# ---- two tokenizers ----


def test_with_two_tokenizers_bits_judge_and_token_figures_are_null_with_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The tuned model cuts the same bytes into half as many tokens, each twice as unlikely but for the gain."""
    make(tmp_path, Plan(documents=60))

    def halve(rows: Rows) -> None:
        for i, r in enumerate(rows):
            if r["arm"] == "tuned":
                tokens = np.array(r["token_nll_nats"])
                even = tokens[: len(tokens) // 2 * 2].reshape(-1, 2).sum(axis=1)
                row = score_row("tuned", Document(r["document"], "", r["source"], r["position"]), r["split"], even)
                rows[i] = row | {"n_bytes": r["n_bytes"]}

    rewrite(tmp_path, halve)
    write_json(tmp_path / "provenance.json", {**read_json(tmp_path / "provenance.json"), "tuned_tokenizer_sha256": "e" * 64})
    judge(tmp_path).show()
    found, page, out = verdict_of(tmp_path), (tmp_path / "analysis.md").read_text(), capsys.readouterr().out
    assert found["verdict"] == "improved" and found["worked"] is True
    fit = found["fit"]
    assert fit["base"]["perplexity"] is fit["tuned"]["perplexity"] is fit["gain"]["nats_per_token"] is fit["n_tokens"] is None
    assert "not comparable" in fit["base"]["reason"] and "not comparable" in fit["gain"]["reason"]
    assert fit["gain"]["bits_per_byte"] == pytest.approx(fit["base"]["bits_per_byte"] - fit["tuned"]["bits_per_byte"])
    assert fit["n_documents"] == 60 and fit["clusters"] and fit["unit"] == "block"
    for text in (page, out):
        assert not re.search(r"perplexity (fell|rose|[-+]?\d)", text) and "not comparable" in text.replace("\n              ", " ")
    assert not (tmp_path / "power.svg").exists()


def test_scores_of_two_tokenizers_without_a_word_of_it_are_refused(tmp_path: Path) -> None:
    def fewer(rows: Rows) -> None:
        r = next(r for r in rows if r["arm"] == "tuned")
        r["token_nll_nats"] = [r["nll_nats"]]
        r["n_tokens"] = 1

    with pytest.raises(ComparisonRefused, match="use one tokenizer"):
        judge(rewrite(make(tmp_path), fewer))


# ---- what could have been seen ----


def gain_of(n: int, gain: float, spread: float = 0.05) -> Gain:
    rng = np.random.default_rng(2)
    tokens = np.full(n, 230)
    base = rng.normal(2.07, 0.25, n) * tokens
    return paired_gain(base, base - rng.normal(gain, spread, n) * tokens, tokens)


@pytest.mark.parametrize("test", [gain_of(25, 0.02), gain_of(200, 0.3), gain_of(50, -0.5), gain_of(1, 0.1), gain_of(25, 0.0, 1e-5)])
def test_the_picture_is_an_svg_that_says_in_words_what_it_shows(test: Gain) -> None:
    root = ElementTree.fromstring(power_svg(test))
    space = "{http://www.w3.org/2000/svg}"
    title, desc = root.find(f"{space}title"), root.find(f"{space}desc")
    assert title is not None and desc is not None and desc.text == in_words(test)
    assert root.get("role") == "img" and root.get("aria-labelledby") == f"{title.get('id')} {desc.get('id')}"
    dot = root.find(f"{space}circle")
    assert dot is not None and 0 < float(dot.get("cx", "0")) < 640
    places = [float(e.get("x", "0")) for e in root.iter(f"{space}rect")] + [float(dot.get("cx", "0"))]
    assert all(0 <= x <= 640 for x in places)
    assert float(dot.get("cx", "0")) == pytest.approx(30 + axis(test).at(test.perplexity_change_percent, 580), abs=0.1)


def test_the_line_of_text_shows_the_same_worked_by_hand() -> None:
    test = gain_of(25, 0.02)
    line = power_line(test)
    inside = line[line.index("[") + 1 : line.index("]")]
    assert len(inside) == COLUMNS and inside.count("o") == 1 and line.isascii()
    a = axis(test)
    assert inside.index("o") == round((a.result / a.reach + 1) / 2 * 60)
    assert inside.index("o") < 30  # better is on the left


def test_the_origin_s_25_snippets_print_what_could_not_be_seen_and_how_many_would_do(tmp_path: Path) -> None:
    judge(make(tmp_path, "inconclusive"))
    page, fit = (tmp_path / "analysis.md").read_text(), verdict_of(tmp_path)["fit"]
    wanted = fit["documents_needed"]["for_margin"]
    assert fit["n_documents"] == 25 and wanted > 25
    assert re.search(r"With these 25 documents a change smaller than about [\d.]+ % of perplexity would usually go unseen", page)
    assert f"To see a change as large as the margin: {wanted:,} documents for an 80 % chance" in page
    assert re.search(r"```text\n\S+ % \[[ :=|o-]{61}\] \S+ %\n```", page)
    assert "no effect" not in page.lower()
    ElementTree.fromstring((tmp_path / "power.svg").read_text())


def test_a_pilot_gives_the_spread_between_the_ends_of_its_own_interval(tmp_path: Path) -> None:
    """48 unrelated documents that spread by 0.05 nats, and by 0.3 / sqrt(260) more from their tokens: about 0.053."""
    low, sd, high = pilot_spreads(make(tmp_path, Plan(sources=48)))
    assert low < sd < high and sd == pytest.approx((0.05**2 + 0.3**2 / 260) ** 0.5, rel=0.25)
    other = make(tmp_path / "refused", "control failed")
    with pytest.raises(ComparisonRefused, match="refused"):
        pilot_spreads(other)


def test_comparisons_json_holds_no_gain_of_a_refused_run(tmp_path: Path) -> None:
    judge(rewrite(make(tmp_path), shuffled_like("tuned", 1.0)))
    stored = json.loads((tmp_path / "comparisons.json").read_text())
    assert stored["test"] is stored["bits"] is None and stored["controls"]["shuffled_text"]["status"] == "failed"
