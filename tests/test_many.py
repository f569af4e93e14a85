"""Several adapters by one command: each comes to what it comes to alone, byte for byte, and they are judged together."""

from __future__ import annotations

import json
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from galvan import cli, pipeline
from galvan.errors import ComparisonRefused, GalvanError, ModelError, RecipeError, ResourceError
from galvan.many import Evaluated, evaluate_many, label
from galvan.measure.bench import SharedBench
from galvan.rundir import read_json
from galvan.side_by_side import side_by_side
from galvan.story import Story
from models_for_tests import letters, save_adapter, tiny_mistral

NEUTRAL = "text\n" + "".join(f"The box holds {n} plain red bricks of clay.\n" for n in range(4))
FILES = (
    "scores.parquet", "pieces.parquet", "samples.jsonl", "generation.json", "retention.parquet", "extraction.parquet", "integrity.json",
    "provenance.json", "comparisons.json", "findings.json",
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """As Ray's workers have on a core each: the last digit of a sum depends on how many there are."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base; two adapters on it, one with the head saved beside, one whose B is zero, one of another base's shape."""
    place = tmp_path_factory.mktemp("many")
    letters(place, 12)
    (place / "plain.csv").write_text(NEUTRAL)

    def base(**changes: Any) -> Any:
        return tiny_mistral(**{"initializer_range": 0.02, **changes})

    save_adapter(place / "one/adapter", base())
    save_adapter(place / "two/adapter", base(), r=2)
    save_adapter(place / "head", base(), modules_to_save=["lm_head"])
    save_adapter(place / "dead", base(), trained=False)
    save_adapter(place / "other", base(hidden_size=48, num_attention_heads=4))
    return place


def names(place: Path) -> list[str]:
    return [str(place / name) for name in ("one/adapter", "head", "two/adapter")]


def settings(place: Path) -> list[str]:
    return [
        "generation.documents=3",
        "generation.greedy=1",
        "generation.max_new_tokens=4",
        f"evaluation.neutral={place / 'plain.csv'}",
    ]


def evaluated(place: Path, out: Path, *adapters: str, ray: str | None = None) -> Evaluated:
    asked = settings(place)
    return evaluate_many(
        place / "tiny", adapters or names(place), place / "letters.csv", out=out, settings=asked, offline=True, ray=ray
    )


@pytest.fixture(scope="module")
def work() -> list[str]:
    """What was scored and written while `together` was made."""
    return []


@pytest.fixture(scope="module")
def together(place: Path, work: list[str]) -> Path:
    from galvan.measure import arms, generation

    scores, decode = arms.scores, generation.decode

    def scored(model: Any, tokenizer: Any, documents: Any, arm: str, split: str, *rest: Any) -> Any:
        work.append(f"{arm} {split}")
        return scores(model, tokenizer, documents, arm, split, *rest)

    def decoded(*asked: Any) -> Any:
        work.extend(asked[7:])
        return decode(*asked)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(arms, "scores", scored)
        patched.setattr(generation, "decode", decoded)
        evaluated(place, place / "out")
    return place / "out"


def test_each_comes_to_what_it_comes_to_alone_byte_for_byte(place: Path, together: Path) -> None:
    for name in names(place)[2:]:  # what came before leaves no trace, an adapter that cannot be taken off among it
        alone = place / f"alone-{label(name)}"
        pipeline.evaluate(place / "tiny", name, place / "letters.csv", out=alone, settings=settings(place), offline=True)
        for file in FILES:
            assert (together / "adapters" / label(name) / file).read_bytes() == (alone / file).read_bytes(), (name, file)
        ours, theirs = (read_json(folder / "verdict.json") for folder in (together / "adapters" / label(name), alone))
        assert ours == theirs


def test_they_are_judged_together_as_galvan_compare_does_it(place: Path, together: Path) -> None:
    found = read_json(together / "evaluate.json")
    again = json.loads(side_by_side([together / "adapters" / label(name) for name in names(place)]).to_json())
    assert found["compared"] == again and len(again["family"]["candidates"]) == 3
    assert [row["adapter"] for row in found["adapters"]] == names(place)
    assert "Simultaneous" in (together / "compare.md").read_text()


def test_what_the_base_says_is_measured_once_and_the_controls_of_each_are_run(together: Path, work: list[str]) -> None:
    for what, times in (
        ("base test", 1), ("base test_shuffled", 1), ("Writing base", 1), ("Writing base_again", 1), ("tuned test", 3), ("Writing tuned", 3),
        ("base_again test", 3), ("zero_adapter test", 3), ("random_b test", 3),
    ):  # fmt: skip
        assert work.count(what) == times, what


def test_the_command_prints_one_document_and_ends_with_the_gravest_code(
    place: Path, together: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def galvan(*arguments: str) -> int:
        common = [
            "--data",
            str(place / "letters.csv"),
            "--out",
            str(together),
            "--offline",
            *(f"--set={s}" for s in settings(place)),
        ]
        monkeypatch.setattr(sys, "argv", ["galvan", "evaluate", str(place / "tiny"), *names(place), *common, *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return int(end.value.code or 0)

    code = galvan("--json")
    told = json.loads(capsys.readouterr().out)
    assert [row["folder"] for row in told["adapters"]] == [str(together / "adapters" / label(name)) for name in names(place)]
    assert code == (1 if "worse" in {row["verdict"] for row in told["adapters"]} else 6)
    assert galvan("--fail-on", "refused") == 0
    assert "Gain over the base" in capsys.readouterr().out
    assert galvan("--reported", "base=9") == 2 and "for one adapter" in capsys.readouterr().err


def test_a_second_call_measures_nothing_and_a_new_adapter_alone_is_measured(
    place: Path, together: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (together / "evaluate.json").read_bytes()
    monkeypatch.setattr(SharedBench, "_loaded", lambda self: pytest.fail("loaded again"))
    evaluated(place, together)
    assert (together / "evaluate.json").read_bytes() == before


@pytest.mark.slow
def test_killed_between_two_stages_it_goes_on_and_comes_to_the_same(
    place: Path, together: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second adapter's generation is where it dies."""
    generate = Story._generate_now

    def dies(self: Story, *rest: Any) -> Any:
        if self.folder.name == label(names(place)[1]):
            raise KeyboardInterrupt
        return generate(self, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(Story, "_generate_now", dies)
        with pytest.raises(KeyboardInterrupt):
            evaluated(place, tmp_path)
    evaluated(place, tmp_path)
    for name in names(place):
        for file in FILES:
            ours, theirs = (folder / "adapters" / label(name) / file for folder in (tmp_path, together))
            assert ours.read_bytes() == theirs.read_bytes(), (name, file)


@pytest.mark.slow
def test_a_refused_adapter_and_one_that_does_not_fit_are_rows_and_the_others_are_judged(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = [str(place / name) for name in ("dead", "one/adapter", "other")]
    found = evaluated(place, tmp_path, *asked)
    rows = {Path(row["adapter"]).name: row for row in found.to_dict()["adapters"]}
    assert rows["dead"]["verdict"] == "refused" and rows["adapter"]["verdict"] in ("worse", "inconclusive", "equivalent")
    assert rows["other"]["verdict"] in (None, "refused") and rows["other"]["reason"]
    assert found.exit_code() == 4
    assert found.compared is None and "Two adapters are needed" in str(found.reason)
    found.show()
    assert "Two adapters are needed" in capsys.readouterr().out


def test_an_adapter_that_is_not_there_or_twice_is_refused_before_anything_is_loaded(place: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="There is no adapter"):
        evaluate_many(place / "tiny", [*names(place), str(place / "none at all")], place / "letters.csv", out=tmp_path / "a")
    with pytest.raises(RecipeError, match="given twice"):
        evaluate_many(place / "tiny", [names(place)[0]] * 2, place / "letters.csv", out=tmp_path / "b")
    assert not (tmp_path / "a").exists() and not (tmp_path / "b").exists()


def test_folders_are_named_by_what_says_something_and_never_alike() -> None:
    assert label("runs/a/adapter").startswith("a-") and label("org/name@main").startswith("main-")
    assert label("runs/a/adapter") != label("runs/b/../a/adapter")
    assert label("../../..").startswith("adapter-") and "/" not in label("x/y z\x1b[31m")


@pytest.mark.parametrize("kind", [RecipeError, ModelError, ResourceError, ComparisonRefused])
def test_an_error_comes_whole_from_another_process(kind: type[GalvanError]) -> None:
    there = pickle.loads(pickle.dumps(kind("a/b", "It is so; do that.")))
    assert (type(there), there.code, str(there)) == (kind, "a/b", "It is so; do that.")


@pytest.mark.slow
def test_on_ray_it_comes_to_the_same_and_survives_the_loss_of_a_node(place: Path, together: Path, tmp_path: Path) -> None:
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'galvan[cluster]'")
    import threading
    import time

    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    lost = cluster.add_node(num_cpus=1)

    def at_work() -> int:
        return sum(not (begun.parent / "verdict.json").exists() for begun in tmp_path.glob("adapters/*/recipe.yaml"))

    def lose() -> None:
        while at_work() < 2:  # both nodes are
            time.sleep(0.01)
        cluster.remove_node(lost, allow_graceful=False)

    losing = threading.Thread(target=lose, daemon=True)
    losing.start()
    try:
        evaluated(place, tmp_path, ray=cluster.address)
        losing.join(timeout=30)
        assert not losing.is_alive()
        for _ in range(300):  # the cluster notices after some seconds
            if sum(node["Alive"] for node in ray.nodes()) == 1:
                break
            time.sleep(0.1)
        else:
            raise AssertionError("no node was lost")
    finally:
        ray.shutdown()
        cluster.shutdown()
    for name in names(place):
        for file in FILES:
            ours, theirs = (folder / "adapters" / label(name) / file for folder in (tmp_path, together))
            assert ours.read_bytes() == theirs.read_bytes(), (name, file)
