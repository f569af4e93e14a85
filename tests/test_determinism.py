"""What may not change a verdict does not: hash seeds, threads, the size of a pass."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from models_for_tests import save_adapter, tiny_mistral
from processes import galvan
from test_resume import make_inputs


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = make_inputs(tmp_path_factory.mktemp("determinism") / "w")
    save_adapter(place / "foreign", tiny_mistral(initializer_range=0.02))
    return place


def evaluated(place: Path, out: str, *settings: str, threads: int = 1) -> dict[str, Any]:
    asked = ["generation.documents=0", *settings]
    done = galvan(
        "evaluate", "tiny", "foreign", "--data", "letters.csv", "--out", out, *(word for one in asked for word in ("--set", one)),
        cwd=place, first=None if threads == 1 else Threads(threads),
    )  # fmt: skip
    assert done.code in (0, 1, 6), done.err
    return dict(json.loads((place / out / "verdict.json").read_text()))


class Threads:
    """Called in the process before the command."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __call__(self) -> None:
        import torch

        torch.set_num_threads(self._number)


def test_threads_and_the_size_of_a_pass_change_no_verdict_and_no_finding(place: Path) -> None:
    one = evaluated(place, "one")
    for out, settings, threads in (
        ("small", ("evaluation.tokens_per_pass=64",), 1),
        ("threads", ("evaluation.tokens_per_pass=4096",), 2),
    ):
        other = evaluated(place, out, *settings, threads=threads)
        assert other["verdict"] == one["verdict"] and other["style"]["closer"] == one["style"]["closer"]
        assert [(f["code"], f["status"]) for f in other["findings"]] == [(f["code"], f["status"]) for f in one["findings"]]
        assert other["fit"]["gain"]["nats_per_token"] == pytest.approx(one["fit"]["gain"]["nats_per_token"], abs=1e-6)
        assert other["fit"]["gain"]["ci95"] == pytest.approx(one["fit"]["gain"]["ci95"], abs=1e-6)
