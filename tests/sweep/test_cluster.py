"""A sweep on two Ray nodes of one machine: one is lost while it trains, and no trial is lost or counted twice."""

from __future__ import annotations

import dataclasses
import threading
import time
from pathlib import Path

import optuna
import pytest
from test_sweep import recipe

from galvan import pipeline
from galvan.improve.driver import Budget, improve
from galvan.rundir import read_json
from galvan.sweep.driver import sweep

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'galvan[cluster]'")


@pytest.mark.slow
def test_a_sweep_survives_the_loss_of_a_node_with_no_trial_lost_or_counted_twice(tmp_path: Path) -> None:
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    lost, out = cluster.add_node(num_cpus=1), tmp_path / "out"

    def lose() -> None:
        while len(list(out.glob("trials/*/work"))) < 2:  # both nodes train
            time.sleep(0.05)
        cluster.remove_node(lost, allow_graceful=False)

    losing = threading.Thread(target=lose, daemon=True)
    losing.start()
    try:
        grid = ["training.lora.rank=1,2,3,4", "training.learning_rate=1e-3,1e-2"]
        found = sweep(recipe(tmp_path, "training.epochs=40", "training.checkpoint_seconds=0"), grid, ray=cluster.address, out=out)
        losing.join(timeout=1)
        assert not losing.is_alive()
        assert sum(node["Alive"] for node in ray.nodes()) == 1
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert [t.name for t in found.trials] == [f"{n:03d}" for n in range(8)]
    assert all(t.validation_nats is not None for t in found.trials)
    assert len({read_json(out / f"trials/{t.name}/training.json")["adapter_sha256"] for t in found.trials}) == 8
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(out / "study.journal")))
    study = optuna.load_study(study_name=optuna.get_all_study_names(storage)[0], storage=storage)
    assert sum(t.state == optuna.trial.TrialState.COMPLETE for t in study.trials) == 8


@pytest.mark.slow
def test_an_improving_loop_on_nodes_takes_the_steps_that_it_takes_here_and_survives_the_loss_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The head lends no core, so that every trial runs on a node; the first is lost in the first trial after the start."""
    from ray.cluster_utils import Cluster

    start = recipe(tmp_path, "training.learning_rate=1e-7", "training.checkpoint_seconds=0", "data.split.test=0.35")
    pipeline.run(start, tmp_path / "run")
    here = improve(tmp_path / "run", Budget(trials=2), out=tmp_path / "here")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    monkeypatch.setattr(
        ray._private.utils, "set_sigterm_handler", lambda handler: None
    )  # which a thread may not set, and a new node would
    lost, out = cluster.add_node(num_cpus=1), tmp_path / "there"

    def lose() -> None:
        while not (out / "trials/01/work").exists():
            time.sleep(0.01)
        cluster.remove_node(lost, allow_graceful=False)
        cluster.add_node(num_cpus=1)
        replaced.set()
        over.wait()  # a node dies with the thread that began it

    replaced, over = threading.Event(), threading.Event()
    losing = threading.Thread(target=lose, daemon=True)
    losing.start()
    try:
        there = improve(tmp_path / "run", Budget(trials=2), out=out, ray=cluster.address)
        assert replaced.is_set()
    finally:
        over.set()
        ray.shutdown()
        cluster.shutdown()
    timeless = [[dataclasses.replace(step, seconds=0.0) for step in found.steps] for found in (here, there)]
    assert timeless[0] == timeless[1] and len(here.steps) > 1
    assert (there.improved, there.reason) == (here.improved, here.reason)
    for step in there.steps[1:]:
        mine, theirs = (place / "trials" / step.trial / "adapter/adapter_model.safetensors" for place in (tmp_path / "here", out))
        assert mine.read_bytes() == theirs.read_bytes()
