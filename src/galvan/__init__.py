"""Galvan fine-tunes a causal language model on a small body of text, and proves whether it worked.

    import galvan
    galvan.run("recipe.yaml")                       # the whole story of a recipe
    galvan.evaluate(base, adapter, "held-out.csv")  # everything after training, for an adapter made anywhere
    galvan.evaluate_many(base, [a, b], "held-out.csv")  # the same for several of one base, judged together
    galvan.check(base, adapter)                     # is the adapter whole, in the model, and doing something?
    galvan.audit(base=model, tuned=model2, tokenizer=tokenizer, texts=[...])  # the same on live objects, in a notebook
    galvan.originality(train, texts, human=held_out)                          # does generated text copy? no model
    galvan.paired_gain(base_nll, tuned_nll, n_tokens)                         # the statistics alone
    galvan.judge_style(author, base_texts, tuned_texts, held_out)             # does it write like the author?

Importing galvan imports neither torch nor transformers; each function brings what it needs.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from galvan.copying.originality import originality
    from galvan.many import evaluate_many
    from galvan.notebook import audit
    from galvan.pipeline import check, evaluate, run
    from galvan.statistics import paired_gain
    from galvan.style import judge_style

__version__ = "0.1.0"
__all__ = ["audit", "check", "evaluate", "evaluate_many", "judge_style", "originality", "paired_gain", "run"]

_WHERE = {
    "originality": "galvan.copying.originality",
    "audit": "galvan.notebook", "check": "galvan.pipeline", "evaluate": "galvan.pipeline", "evaluate_many": "galvan.many", "run": "galvan.pipeline", "paired_gain": "galvan.statistics",
    "judge_style": "galvan.style",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'galvan' has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)
