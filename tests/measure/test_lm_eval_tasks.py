"""lm-eval's tasks answered by base and tuned, item by item, on a task of three questions in a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from galvan.errors import DataError, RecipeError
from galvan.measure import lm_eval_tasks
from galvan.measure.lm_eval_tasks import answer_tasks, require_lm_eval
from models_for_tests import byte_tokenizer, move, tiny_llama, wrap

TASK = """
task: galvan_three
dataset_path: json
dataset_kwargs: {{data_files: {{test: {path}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
metric_list: [{{metric: acc}}]
"""


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    pytest.importorskip("lm_eval")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    rows = [{"question": f"Is {n} even?", "choices": [" yes", " no", " perhaps"], "answer": n % 2} for n in range(3)]
    (tmp_path / "items.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "three.yaml").write_text(TASK.format(path=tmp_path / "items.jsonl"))
    return str(tmp_path / "three.yaml")


@pytest.mark.slow
def test_both_models_answer_every_item_and_a_zero_adapter_answers_as_the_base_does(task: str) -> None:
    def answers(tuned: Any) -> list[Any]:
        return answer_tasks(tiny_llama(), tuned, byte_tokenizer(), [task])

    same, other = answers(wrap(tiny_llama())), answers(move(wrap(tiny_llama()), size=2.0))
    assert [(row.task, row.metric, row.item) for row in same] == [("galvan_three", "acc", n) for n in range(3)]
    assert all(row.base == row.tuned for row in same) and [row.base for row in other] == [row.base for row in same]
    assert {row.base for row in same} | {row.tuned for row in other} <= {0.0, 1.0}


@pytest.mark.slow
def test_a_task_that_lm_eval_does_not_know_or_cannot_run_is_refused_in_a_sentence(task: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no task `no_such_task`"):
        answer_tasks(tiny_llama(), tiny_llama(), byte_tokenizer(), ["no_such_task"])
    (tmp_path / "items.jsonl").unlink()
    with pytest.raises(DataError, match="galvan_three: lm-eval cannot run it") as raised:
        answer_tasks(tiny_llama(), tiny_llama(), byte_tokenizer(), [task])
    assert raised.value.code == "retention/lm-eval"


def test_without_lm_eval_the_recipe_is_refused_at_once_and_an_empty_list_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lm_eval_tasks, "find_spec", lambda name: None)
    require_lm_eval([])
    with pytest.raises(RecipeError, match="pip install lm-eval") as raised:
        require_lm_eval(["hellaswag"])
    assert raised.value.code == "recipe/no-lm-eval"
