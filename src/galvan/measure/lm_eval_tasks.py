"""Tasks of EleutherAI's lm-eval, answered by base and tuned: one row an item, so that they are compared in pairs and not as two averages."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from galvan.errors import DataError, RecipeError
from galvan.models import quiet
from galvan.text import shown


@dataclasses.dataclass(frozen=True, slots=True)
class TaskItem:
    """What base and tuned were given for one item of a task by one metric."""

    task: str
    metric: str
    item: int
    base: float
    tuned: float


def require_lm_eval(tasks: Sequence[str]) -> None:
    """RecipeError where tasks are asked for and lm-eval is not installed; asked before anything is trained."""
    if tasks and find_spec("lm_eval") is None:
        raise RecipeError(
            "recipe/no-lm-eval",
            f"evaluation.lm_eval_tasks asks for {shown(tasks[0], 80)}, which needs lm-eval: pip install lm-eval, or leave the list empty.",
        )


def answer_tasks(base: Any, tuned: Any, tokenizer: Any, tasks: Sequence[str]) -> list[TaskItem]:
    """Every item of `tasks` by every metric that is one number an item. Raises RecipeError for a task that lm-eval does not know, DataError
    where a task cannot be run (its data set is not at hand, or no metric of it is a number an item)."""
    require_lm_eval(tasks)
    from lm_eval.tasks import TaskManager

    folders = [str(Path(task).parent) for task in tasks if _is_file(task)]
    names = [_name_in(Path(task)) if _is_file(task) else task for task in tasks]
    with quiet():
        manager = TaskManager(include_path=folders or None)
    for name in names:
        if name not in manager.all_tasks:
            raise RecipeError(
                "recipe/lm-eval-task", f"evaluation.lm_eval_tasks: lm-eval knows no task `{shown(name, 80)}`; see lm-eval ls tasks."
            )
    before, after = (_answers(model, tokenizer, names, manager) for model in (base, tuned))
    rows = [TaskItem(*key, value, after[key]) for key, value in before.items() if key in after]
    if not rows:
        raise DataError(
            "retention/lm-eval", f"{shown(', '.join(names), 120)}: no metric gives one number an item, so nothing can be paired."
        )
    return rows


def _is_file(task: str) -> bool:
    return task.endswith((".yaml", ".yml")) and Path(task).is_file()


def _name_in(path: Path) -> str:
    found = re.search(r"^task:\s*['\"]?([^'\"\s#]+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    return found.group(1) if found else path.stem


def _answers(model: Any, tokenizer: Any, names: Sequence[str], manager: Any) -> dict[tuple[str, str, int], float]:
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    try:
        with quiet():
            judge = HFLM(pretrained=model, tokenizer=tokenizer, backend="causal", batch_size=8)
            found = simple_evaluate(judge, tasks=list(names), task_manager=manager, log_samples=True, bootstrap_iters=0)
    except Exception as error:
        line = shown((str(error).strip() or type(error).__name__).splitlines()[0], 200)
        raise DataError("retention/lm-eval", f"{shown(', '.join(names), 120)}: lm-eval cannot run it: {line}") from None
    return {
        (task, metric, int(sample["doc_id"])): float(sample[metric])
        for task, samples in found["samples"].items()
        for sample in samples
        for metric in sample["metrics"]
        if isinstance(sample[metric], int | float)
    }
