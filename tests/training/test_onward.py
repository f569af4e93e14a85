"""Going on from an adapter: it begins where that one ended, in the shape that it has, and says so; anything else is refused before a step."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from galvan import models, pipeline
from galvan.errors import ModelError, RecipeError
from galvan.models import Located
from galvan.recipe import Lora, Model, Recipe, from_text
from galvan.rundir import read_json, read_rows
from galvan.story import Story
from galvan.sweep.losses import read_losses
from galvan.training import onward
from models_for_tests import letters, move, save_adapter, save_base, tiny_llama, tiny_mistral


def recipe(place: Path, *more: str) -> Recipe:
    settings = [
        f"data.source={place / 'letters.csv'}", "data.document_tokens=64", "data.split.by=random", "data.split.validation=0.2",
        "data.split.test=0.2", f"model.base={place / 'tiny'}", "training.epochs=1", "training.batch_size=8", "training.evaluations=2",
        "training.probe_documents=8", "training.learning_rate=1e-2", "generation.documents=0", "data.clean.near_duplicates=null",
    ]  # fmt: skip
    return from_text("", "test", [*settings, *more])


def onto(place: Path, *more: str, adapter: object = "first/adapter") -> Recipe:
    return recipe(place, f"training.lora.continue_from={place / str(adapter)}", *more)


def trained(asked: Recipe, folder: Path) -> Path:
    story = Story.begin(asked, folder, None, True)
    with story.alone():
        story.prepare()
        story.train()
    return folder


def nll(folder: Path, name: str, step: int) -> dict[str, float]:
    rows = read_rows(folder / "curves.jsonl")
    return {row["document"]: row["nll_nats"] for row in rows if row["set"] == name and row["step"] == step}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, its text, a run `first`, and one that goes on from it, `second`."""
    place = tmp_path_factory.mktemp("onward")
    letters(place, 80)
    trained(recipe(place), place / "first")
    trained(onto(place), place / "second")
    return place


def test_it_begins_where_the_adapter_was_left_and_learning_is_counted_from_the_base(place: Path) -> None:
    first, second = place / "first", place / "second"
    steps = read_json(first / "training.json")["steps"]
    for part in ("validation", "probe"):
        assert nll(second, part, 0) == pytest.approx(nll(first, part, steps), rel=1e-5)
        assert nll(second, f"{part}_base", 0) == nll(first, part, 0)
    losses = read_losses(second)
    assert losses.base.tolist() == read_losses(first).base.tolist()
    assert losses.nats_per_token < read_losses(first).nats_per_token  # it learned more


def test_the_recipe_and_the_log_name_the_adapter_by_its_bytes(place: Path) -> None:
    told = read_json(place / "first/training.json")
    kept = read_json(place / "second/training.json")["continued"]
    assert kept == {
        "adapter": str(place / "first/adapter"),
        "sha256": told["adapter_sha256"],
        "steps": told["steps"],
        "epochs": 1.0,
    }
    written = from_text((place / "second/recipe.yaml").read_text())
    assert written.training.lora.continue_sha256 == told["adapter_sha256"]


def test_steps_and_epochs_behind_add_up_over_several_trainings(place: Path, tmp_path: Path) -> None:
    third = trained(onto(place, "training.epochs=2", adapter="second/adapter"), tmp_path / "third")
    kept, steps = read_json(third / "training.json")["continued"], read_json(place / "first/training.json")["steps"]
    assert (kept["steps"], kept["epochs"]) == (2 * steps, 2.0)
    assert nll(third, "validation_base", 0) == nll(place / "first", "validation", 0)


def test_without_the_run_that_made_it_the_base_is_scored_here(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "first/adapter", tmp_path / "adapter")
    alone = trained(onto(place, adapter=tmp_path / "adapter"), tmp_path / "alone")
    assert nll(alone, "validation_base", 0) == pytest.approx(nll(place / "first", "validation", 0), rel=1e-5)
    assert read_json(alone / "training.json")["continued"]["steps"] is None
    ours, theirs = (run / "adapter/adapter_model.safetensors" for run in (alone, place / "second"))
    assert ours.read_bytes() == theirs.read_bytes()  # where the adapter lies changes nothing


def test_a_killed_training_goes_on_and_ends_in_the_same_bytes(place: Path, tmp_path: Path) -> None:
    from galvan.errors import Terminated

    def killed(step: int, *_: Any) -> None:
        if step == 3:
            raise Terminated("test", "killed")

    story = Story.begin(onto(place, "training.checkpoint_seconds=0"), tmp_path / "run", None, True)
    with story.alone():
        story.prepare()
        with pytest.raises(Terminated):
            story.train(killed)
    trained(onto(place, "training.checkpoint_seconds=0"), tmp_path / "run")
    name = "adapter/adapter_model.safetensors"
    assert (tmp_path / "run" / name).read_bytes() == (place / "second" / name).read_bytes()
    assert (tmp_path / "run/curves.jsonl").read_bytes() == (place / "second/curves.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("lora", "said"),
    [
        (Lora(rank=4), "rank is 8"),
        (Lora(alpha=8), "alpha is 16"),
        (Lora(rslora=True), "rslora is False"),
        (Lora(dora=True), "dora is False"),
        (Lora(bias="all"), "bias is none"),
        (Lora(save_modules=["lm_head"]), "save_modules is"),
        (Lora(targets=["q_proj"]), "also adapts"),
        (Lora(layers=[0]), "also adapts"),
    ],
)
def test_another_shape_than_the_adapters_is_refused_by_name(lora: Lora, said: str, place: Path) -> None:
    adapter = Located("first", place / "first/adapter")
    with pytest.raises(ModelError, match=said) as caught:
        onward.require_shape(adapter, lora)
        base = models.load_base(Located("tiny", place / "tiny"), Model())
        onward.take_weights(models.add_lora(base, lora, "tiny", None, 1), adapter)
    assert caught.value.code == "training/continue"


def test_where_it_does_not_fit_nothing_is_written(place: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="rank is 8"):
        trained(onto(place, "training.lora.rank=4"), tmp_path / "run")
    assert not (tmp_path / "run/adapter").exists() and not (tmp_path / "run/training.json").exists()


def test_another_base_and_another_tokenizer_are_refused(place: Path, tmp_path: Path) -> None:
    save_base(tmp_path / "other", tiny_mistral(seed=3, initializer_range=0.02))
    with pytest.raises(ModelError, match="nothing to go on from"):
        trained(onto(place, f"model.base={tmp_path / 'other'}"), tmp_path / "run")
    parent = onward.find(str(place / "first/adapter"), True)
    with pytest.raises(ModelError, match="another tokenizer"):
        onward.require_same_tokenizer(parent, "0" * 64, None)
    with pytest.raises(ModelError, match="another tokenizer"):
        onward.require_same_tokenizer(parent, parent.record["tokenizer_sha256"], False)
    onward.require_same_tokenizer(parent, parent.record["tokenizer_sha256"], None)


def test_a_loss_at_step_0_that_the_parents_run_did_not_end_with_is_refused(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "first", tmp_path / "first")
    curves = tmp_path / "first/curves.jsonl"
    rows = list(read_rows(curves))
    last = max(row["step"] for row in rows)
    for row in rows:
        row["nll_nats"] *= 1.1 if row["step"] == last else 1
    curves.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ModelError, match="was left") as caught:
        trained(onto(place, adapter=tmp_path / "first/adapter"), tmp_path / "run")
    assert caught.value.code == "training/step-0"


def test_an_adapter_with_other_bytes_than_the_recipe_names_and_a_runs_own_are_refused(place: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not the adapter that this recipe goes on from") as caught:
        trained(onto(place, f"training.lora.continue_sha256={'0' * 64}"), tmp_path / "run")
    assert caught.value.code == "training/other-adapter"
    with pytest.raises(RecipeError, match="adapter of this run itself"):
        trained(onto(place), place / "first")
    for wrong, said in (
        (["training.lora.start=pissa"], "continue_from gives the start"),
        (["training.method=full"], "is for method lora"),
    ):
        with pytest.raises(RecipeError, match=said):
            onto(place, *wrong)
    with pytest.raises(RecipeError, match="give both or neither"):
        recipe(place, f"training.lora.continue_sha256={'0' * 64}")


@pytest.mark.parametrize(
    "lora", [Lora(), Lora(dora=True), Lora(bias="all"), Lora(save_modules=["lm_head"]), Lora(rslora=True, targets=["q_proj"])]
)
def test_the_weights_are_those_that_plain_peft_loads(lora: Lora, tmp_path: Path) -> None:
    model = move(models.add_lora(tiny_llama(), lora, "tiny", None, 1))
    for name, p in model.named_parameters():
        if "bias" in name or "modules_to_save" in name or "magnitude" in name:
            p.data += 0.1
    models.save(model, tmp_path / "adapter")
    fresh = models.add_lora(tiny_llama(), lora, "tiny", None, 2)
    onward.require_shape(Located("a", tmp_path / "adapter"), lora)
    onward.take_weights(fresh, Located("a", tmp_path / "adapter"))
    ids = torch.arange(40)[None]
    plain = models.load_adapter(tiny_llama(), Located("a", tmp_path / "adapter"))
    assert torch.equal(fresh.eval()(ids).logits, plain(ids).logits)


def test_an_adapter_of_several_ranks_is_refused(tmp_path: Path) -> None:
    save_adapter(tmp_path / "adapter", tiny_llama(), rank_pattern={"q_proj": 2})
    with pytest.raises(ModelError, match="one rank and one alpha"):
        onward.require_shape(Located("a", tmp_path / "adapter"), Lora(rank=4, alpha=8))


@pytest.mark.slow
def test_a_whole_run_goes_on_and_is_judged_against_the_base(place: Path, tmp_path: Path) -> None:
    judged = pipeline.run(onto(place), tmp_path / "run", None, True)
    assert judged.verdict["verdict"] == "improved"
    for page in ("analysis.md", "report.html", "adapter/README.md"):
        assert read_json(place / "first/training.json")["adapter_sha256"] in (tmp_path / "run" / page).read_text(), page
