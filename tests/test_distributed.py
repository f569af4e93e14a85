"""Two processes do the work of one: the same figures to the order of summation, one message, one exit code, no rank left waiting."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from galvan import distributed
from galvan.errors import DataError
from models_for_tests import move, tiny_mistral, wrap
from processes import CONTEXT, Done, Running, galvan
from test_resume import make_inputs

STEADY = ("--set", "training.lora.dropout=0", "--set", "training.learning_rate=1e-3")
BRIEF = ("--set", "generation.max_new_tokens=8", "--set", "generation.documents=2")


def environments(count: int = 2) -> list[dict[str, str]]:
    """What torchrun and accelerate set, one a rank."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    usual = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [usual | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]


def started(*arguments: str, cwd: Path) -> list[Running]:
    return [Running(*arguments, cwd=cwd, env=one) for one in environments()]


def both(*arguments: str, cwd: Path) -> list[Done]:
    return [one.wait() for one in started(*arguments, cwd=cwd)]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_inputs(tmp_path_factory.mktemp("inputs") / "w")


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss_nats"] for line in (run / "training.jsonl").read_text().splitlines()]


def curves(run: Path) -> list[tuple[str, float]]:
    rows = [json.loads(line) for line in (run / "curves.jsonl").read_text().splitlines()]
    return [(f"{row['step']} {row['set']} {row['document']}", row["nll_nats"]) for row in rows]


def scores(run: Path) -> list[dict[str, object]]:
    return pq.read_table(run / "scores.parquet").to_pylist()


def same_training(one: Path, two: Path) -> None:
    assert losses(one) == pytest.approx(losses(two), rel=1e-5)
    assert [name for name, _ in curves(one)] == [name for name, _ in curves(two)]
    assert [nats for _, nats in curves(one)] == pytest.approx([nats for _, nats in curves(two)], rel=1e-5)


def test_two_processes_train_score_and_write_as_one_and_only_the_first_speaks(inputs: Path) -> None:
    alone = galvan("run", "recipe.yaml", *STEADY, *BRIEF, "--out", "alone", cwd=inputs)
    first, second = both("run", "recipe.yaml", *STEADY, *BRIEF, "--out", "two", cwd=inputs)
    assert first.code == second.code == alone.code
    assert first.out.replace("two", "alone") == alone.out and (second.out, second.err) == ("", "")
    same_training(inputs / "alone", inputs / "two")
    ours, theirs = scores(inputs / "two"), scores(inputs / "alone")
    assert [(row["arm"], row["document"], row["split"]) for row in ours] == [
        (row["arm"], row["document"], row["split"]) for row in theirs
    ]
    for mine, other in zip(ours, theirs, strict=True):
        assert mine["token_nll_nats"] == pytest.approx(other["token_nll_nats"], rel=1e-5, abs=1e-5)
    for name in ("retention.parquet", "extraction.parquet"):
        one, two = (pq.read_table(inputs / run / name).column("document").to_pylist() for run in ("alone", "two"))
        assert one == two
    written = [(inputs / run / "samples.jsonl").read_text().splitlines() for run in ("alone", "two")]
    prompts = [[(row["arm"], row["prompt_id"], row["seed"]) for row in map(json.loads, rows)] for rows in written]
    assert prompts[0] == prompts[1]


def test_two_processes_score_adapters_as_one(inputs: Path) -> None:
    move(wrap(tiny_mistral(initializer_range=0.02))).save_pretrained(inputs / "adapter", save_embedding_layers=False)
    command = ("score", "tiny", "adapter", "--data", "letters.csv")
    alone, (first, second) = galvan(*command, "--out", "s1", cwd=inputs), both(*command, "--out", "s2", cwd=inputs)
    assert (first.code, second.code, second.out) == (alone.code, alone.code, "")
    for mine, other in zip(scores(inputs / "s2"), scores(inputs / "s1"), strict=True):
        assert (mine["arm"], mine["document"]) == (other["arm"], other["document"])
        assert mine["token_nll_nats"] == pytest.approx(other["token_nll_nats"], abs=1e-5)


def test_a_loss_that_overflows_ends_both_with_one_sentence(inputs: Path) -> None:
    first, second = both("train", "recipe.yaml", "--quiet", "--set", "training.learning_rate=1e38", "--out", "wild", cwd=inputs)
    assert first.err.startswith("error[training/non-finite]: ") and first.err.count("\n") == 1
    assert (first.code, second.code, second.err) == (4, 4, "")


def until_step(run: Path, step: int) -> Callable[[], bool]:
    trace = run / "work" / "training.jsonl"
    return lambda: trace.exists() and trace.read_bytes().count(b"\n") >= step


def stopped(*arguments: str, cwd: Path, run: str, ranks: int) -> list[int]:
    """Exit codes of a training to whose first rank SIGTERM was sent after its third step."""
    running = started(*arguments, cwd=cwd) if ranks > 1 else [Running(*arguments, cwd=cwd)]
    codes = [running[0].when(until_step(cwd / run, 3), signal.SIGTERM).code]
    return [*codes, *(one.wait().code for one in running[1:])]


@pytest.mark.parametrize("before", [1, 2])
def test_a_training_goes_on_with_another_number_of_processes(inputs: Path, before: int) -> None:
    run = f"from-{before}"
    if not (inputs / "whole").exists():
        galvan("train", "recipe.yaml", *STEADY, "--out", "whole", cwd=inputs)
    command = ("train", "recipe.yaml", *STEADY, "--out", run)
    assert stopped(*command, cwd=inputs, run=run, ranks=before) == [143] * before
    done = galvan(*command, cwd=inputs) if before == 2 else both(*command, cwd=inputs)[0]
    assert done.code == 0 and "Training goes on at step " in done.err
    same_training(inputs / "whole", inputs / run)


def adapter(run: Path, name: str = "adapter/adapter_model.safetensors") -> dict[str, torch.Tensor]:
    return load_file(run / name)


def close(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.allclose(one[name], two[name], rtol=1e-3, atol=1e-5) for name in one)


@pytest.mark.parametrize("checkpointing", ["false", pytest.param("true", marks=pytest.mark.slow)])
def test_two_processes_that_share_out_the_weights_train_as_one(inputs: Path, checkpointing: str) -> None:
    if not (inputs / "whole").exists():
        galvan("train", "recipe.yaml", *STEADY, "--out", "whole", cwd=inputs)
    run = f"sharded-{checkpointing}"
    asked = (*STEADY, "--set", "training.shard=true", "--set", f"training.gradient_checkpointing={checkpointing}")
    first, second = both("train", "recipe.yaml", *asked, "--out", run, cwd=inputs)
    assert (first.code, second.code) == (0, 0), first.err + second.err
    same_training(inputs / "whole", inputs / run)
    assert close(adapter(inputs / "whole"), adapter(inputs / run))  # whole factors, as plain PEFT saves them
    figures = [json.loads((inputs / name / "training.jsonl").read_text().splitlines()[-1])["modules"] for name in ("whole", run)]
    assert figures[0].keys() == figures[1].keys()
    for module, found in figures[0].items():
        assert found["delta_ratio"] == pytest.approx(figures[1][module]["delta_ratio"], rel=1e-2) and found["delta_ratio"] > 0


def test_a_sharded_training_goes_on_alone_and_one_alone_goes_on_sharded(inputs: Path) -> None:
    if not (inputs / "whole").exists():
        galvan("train", "recipe.yaml", *STEADY, "--out", "whole", cwd=inputs)
    sharded = ("--set", "training.shard=true")
    command = ("train", "recipe.yaml", *STEADY)
    assert stopped(*command, *sharded, "--out", "s-to-1", cwd=inputs, run="s-to-1", ranks=2) == [143, 143]
    done = galvan(*command, "--out", "s-to-1", cwd=inputs)
    assert done.code == 0 and "Training goes on at step " in done.err
    same_training(inputs / "whole", inputs / "s-to-1")
    assert stopped(*command, "--out", "1-to-s", cwd=inputs, run="1-to-s", ranks=1) == [143]
    first, _ = both(*command, *sharded, "--out", "1-to-s", cwd=inputs)
    assert first.code == 0 and "Training goes on at step " in first.err
    same_training(inputs / "whole", inputs / "1-to-s")
    assert close(adapter(inputs / "s-to-1"), adapter(inputs / "1-to-s"))


@pytest.mark.slow
def test_full_training_shared_out_saves_the_model_that_one_process_saves(inputs: Path) -> None:
    full = (*STEADY, "--set", "training.method=full")
    assert galvan("train", "recipe.yaml", *full, "--out", "full", cwd=inputs).code == 0
    first, second = both("train", "recipe.yaml", *full, "--set", "training.shard=true", "--out", "full-2", cwd=inputs)
    assert (first.code, second.code) == (0, 0), first.err + second.err
    same_training(inputs / "full", inputs / "full-2")
    assert close(*(adapter(inputs / run, "model/model.safetensors") for run in ("full", "full-2")))


@pytest.mark.slow
def test_a_training_by_two_that_is_stopped_and_goes_on_ends_in_the_same_bytes_with_dropout(inputs: Path) -> None:
    assert [done.code for done in both("train", "recipe.yaml", "--out", "d0", cwd=inputs)] == [0, 0]
    assert stopped("train", "recipe.yaml", "--out", "d1", cwd=inputs, run="d1", ranks=2) == [143, 143]
    assert [done.code for done in both("train", "recipe.yaml", "--out", "d1", cwd=inputs)] == [0, 0]
    one, two = (load_file(inputs / run / "adapter" / "adapter_model.safetensors") for run in ("d0", "d1"))
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.slow
def test_torchrun_starts_it_and_reports_the_first_ranks_exit_code(inputs: Path) -> None:
    launcher = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--master-port",
        environments()[0]["MASTER_PORT"],
    ]
    command = [*launcher, "-m", "galvan", "train", "recipe.yaml", *STEADY, "--out"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, "launched"], cwd=inputs, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.count("Trained ") == 1, done.stderr
    done = subprocess.run(
        [*command, "none", "--set", "data.source=nowhere.csv"],
        cwd=inputs,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1 and done.stderr.count("error[") == 1, done.stderr
    assert "exitcode  : 2" in done.stderr or "exitcode  : 3" in done.stderr
    assert "exitcode  : -15" not in done.stderr


# ---- the parts, in two bare processes ----


def _rank(function: Callable[[], str], environment: dict[str, str], out: Path) -> None:
    torch.set_num_threads(1)
    os.environ.update(environment)
    distributed.begin()
    if distributed.rank():
        sys.exit(distributed.serve())
    try:
        said = str(distributed.together(function))
    except Exception as error:
        said = f"{type(error).__name__} {getattr(error, 'code', '')} {error}"
    out.write_text(said)
    distributed.end(9)
    sys.exit(9)


def in_two(function: Callable[[], object], folder: Path) -> str:
    """What the function returned, or the error that it raised, on the first of two ranks; both must end with code 9."""
    ranks = [CONTEXT.Process(target=_rank, args=(function, one, folder / "out")) for one in environments()]
    for one in ranks:
        one.start()
    for one in ranks:
        one.join(60)
    alive = [one.is_alive() for one in ranks]
    for one in ranks:
        one.kill()
    assert alive == [False, False], "a rank hangs"
    assert [one.exitcode for one in ranks] == [9, 9]
    return (folder / "out").read_text()


def _fails_on_the_second() -> float:
    if distributed.rank():
        raise DataError("data/x", "The second cannot.")
    return distributed.summed(1.0)  # where the first waits for it


def _fails_at_the_end_of_the_first() -> None:
    distributed.summed(1.0)
    if not distributed.rank():
        raise DataError("data/y", "The first cannot write.")
    distributed.summed(1.0)
    distributed.summed(1.0)


def _is_a_bug_on_the_second() -> None:
    if distributed.rank():
        {}["missing"]
    distributed.gathered(1)


def _shares_in_order() -> object:
    return distributed.shared(range(5), lambda mine: [i * 10 + distributed.rank() for i in mine]), distributed.shared(
        range(1), list
    )


def _sums_gradients() -> list[object]:
    """p has a gradient on both ranks, q on the second alone, r on none."""
    p, q, r = (nn.Parameter(torch.zeros(2)) for _ in range(3))
    p.grad = torch.full((2,), 1.0 + distributed.rank())
    if distributed.rank():
        q.grad = torch.full((2,), 5.0)
    distributed.BUCKET = 2
    distributed.sum_gradients([p, q, r])
    return [None if x.grad is None else x.grad.tolist() for x in (p, q, r)]


def _knows_what_any_rank_knows() -> list[bool]:
    return distributed.agree(False, distributed.rank() == 1, distributed.rank() == 0)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (_fails_on_the_second, "DataError data/x The second cannot."),
        (_fails_at_the_end_of_the_first, "DataError data/y The first cannot write."),
        (_shares_in_order, "([0, 11, 20, 31, 40], [0])"),
        (_sums_gradients, "[[3.0, 3.0], [5.0, 5.0], None]"),
        (_knows_what_any_rank_knows, "[False, True, True]"),
    ],
)
def test_what_two_ranks_come_to(function: Callable[[], object], expected: str, tmp_path: Path) -> None:
    assert in_two(function, tmp_path) == expected


def test_a_bug_on_another_rank_keeps_its_traceback(tmp_path: Path) -> None:
    said = in_two(_is_a_bug_on_the_second, tmp_path)
    assert "rank 1:" in said and "Traceback" in said and said.endswith("KeyError: 'missing'\n")


def test_a_rank_that_is_killed_ends_the_other_with_one_sentence(inputs: Path) -> None:
    first, second = started("train", "recipe.yaml", "--quiet", "--set", "training.epochs=500", "--out", "killed", cwd=inputs)
    while not until_step(inputs / "killed", 2)():
        assert first.process.is_alive()
        time.sleep(0.01)
    os.kill(second.process.pid or 0, signal.SIGKILL)
    done = first.wait()
    second.wait()
    assert done.code == 5 and done.err.startswith("error[distributed/lost]: ") and done.err.count("\n") == 1


def test_a_single_process_shares_with_nobody() -> None:
    assert (distributed.rank(), distributed.world(), distributed.launched()) == (0, 1, False)
    assert distributed.together(max, 1, 2) == 2 and distributed.agree(True, False) == [True, False]
    assert distributed.shared([3, 1], list) == distributed.share([3, 1], int) == [3, 1]
