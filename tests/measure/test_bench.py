"""One bench for several adapters: the base of record is never touched, and what one adapter leaves behind never reaches the next."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from galvan import models
from galvan.measure.bench import Bench, SharedBench
from galvan.models import Choice, Located
from galvan.recipe import Model
from models_for_tests import save_adapter, save_base, tiny_llama

HERE = Choice("cpu", "test"), Choice("float32", "test")
IDS = torch.arange(30)[None]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("bench")
    save_base(place / "base", tiny_llama())
    save_adapter(place / "plain", tiny_llama())
    save_adapter(place / "head", tiny_llama(), modules_to_save=["lm_head"])
    return place


def bench_of(place: Path) -> SharedBench:
    return SharedBench(Located("base", place / "base"), Model(), *HERE)


def test_adapters_take_turns_in_one_object_and_the_base_of_record_is_another(place: Path) -> None:
    bench = bench_of(place)
    base, hosts = bench.base(), set()
    learns = [p.requires_grad for p in base.parameters()]
    for _ in range(3):
        host = bench.host(base)
        hosts.add(id(host))
        assert [p.requires_grad for p in host.parameters()] == learns  # as it was loaded, not as PEFT leaves it
        tuned = models.load_adapter(host, Located("plain", place / "plain"))
        assert not torch.equal(tuned(IDS).logits, base(IDS).logits)
        bench.give_back(bench.unload(tuned, Located("plain", place / "plain")))
    assert bench.loads == 2 and len(hosts) == 1 and id(base) not in hosts


def test_a_host_that_is_not_the_base_any_more_is_not_used_again(place: Path) -> None:
    bench = bench_of(place)
    host = bench.host(bench.base())
    with torch.no_grad():
        next(host.parameters()).view(-1)[0] += 1e-3
    bench.give_back(host)
    assert bench.host(bench.base()) is not host and bench.loads == 3


def test_after_an_adapter_that_cannot_be_taken_off_a_base_is_loaded(place: Path) -> None:
    bench, head = bench_of(place), Located("head", place / "head")
    tuned = models.load_adapter(bench.host(bench.base()), head)
    assert bench.unload(tuned, head) is None
    bench.give_back(None)
    assert torch.equal(bench.host(bench.base())(IDS).logits, bench.base()(IDS).logits) and bench.loads == 3


def test_what_the_base_said_is_asked_once_for_the_same_question(place: Path) -> None:
    asked: list[str] = []
    for bench, times in ((bench_of(place), 2), (Bench(Located("base", place / "base"), Model()), 3)):
        asked.clear()
        answers = [bench.said(["q", n], lambda n=n: asked.append(n) or n) for n in (1, 1, 2)]  # type: ignore[misc]
        assert answers == [1, 1, 2] and len(asked) == times
