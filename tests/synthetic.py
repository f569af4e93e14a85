"""Run directories without a model: what the measuring half would leave behind, drawn from a seed, so that the judging half can be tested.

Documents gain `gain_nats` a token on average, with a spread between documents and a larger one between tokens, as real ones do.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from galvan import recipe as recipes
from galvan.compare import _COLUMNS
from galvan.measure.facts import AdapterState, FileFacts, FunctionFacts, Integrity, LiveFacts, ModuleDelta
from galvan.rundir import Document, write_json, write_rows, write_text

TOKENS, BYTES_PER_TOKEN = 230, 4
ORIGIN = (
    "training.learning_rate=2e-4", "training.batch_size=1", "training.accumulation=16", "training.epochs=1", "training.lora.dropout=0.05",
    "training.lora.targets=[q_proj, k_proj, v_proj, o_proj]",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a synthetic run is to look like."""

    documents: int = 48
    sources: int = 1
    train: int = 448
    validation: int = 12
    gain_nats: float = 0.12
    probe_gain_nats: float = 0.15
    spread_nats: float = 0.05
    curve: tuple[float, ...] = (0.0, 0.06, 0.09, 0.105, 0.112, 0.114, 0.115)
    trained: bool = True
    settings: tuple[str, ...] = ()
    steps: int = 84
    dead_adapter: bool = False
    base_wrapped: bool = False
    alive_facts: bool = True
    base_differs_from_itself: bool = False
    prefix: str = "letter-"
    base: str = "galvan/spark"
    seed: int = 7

    @property
    def arms_equal(self) -> bool:
        return self.dead_adapter or self.base_wrapped

    @property
    def evaluations(self) -> list[int]:
        return [round(self.steps * i / 6) for i in range(7)]


VARIANTS = {
    "improved": Plan(),
    "worse": Plan(gain_nats=-0.10, probe_gain_nats=0.2, curve=(0.0, 0.05, 0.02, -0.03, -0.07, -0.09, -0.11)),
    "equivalent": Plan(documents=200, gain_nats=0.0, probe_gain_nats=0.004, spread_nats=0.01, curve=(0.0,) * 7),
    "inconclusive": Plan(
        documents=25, gain_nats=0.004, probe_gain_nats=0.02, curve=(0.0, 0.002, 0.003, 0.003, 0.004, 0.004, 0.004)
    ),
    "elsewhere": Plan(trained=False, documents=40),
    "dead": Plan(dead_adapter=True),
    "wrapped": Plan(documents=25, train=456, base_wrapped=True, steps=29, settings=ORIGIN),
    "origin": Plan(
        documents=25,
        train=456,
        gain_nats=0.02,
        probe_gain_nats=0.03,
        curve=(0.0, 0.01, 0.015, 0.02, 0.022, 0.024, 0.025),
        steps=29,
        settings=ORIGIN,
    ),
    "control failed": Plan(base_differs_from_itself=True),
}


def make(folder: Path, plan: Plan | str = "improved") -> Path:
    """Write the run that `plan` describes into `folder`."""
    plan = VARIANTS[plan] if isinstance(plan, str) else plan
    rng = np.random.default_rng(plan.seed)
    parts = {
        name: documents(plan, name, n)
        for name, n in (("train", plan.train), ("validation", plan.validation), ("test", plan.documents))
    }
    recipe = recipes.from_text("name: synthetic", "synthetic", [f"model.base={plan.base}", *plan.settings])
    write_text(folder / "recipe.yaml", recipes.resolved(recipe))
    for name, some in parts.items():
        write_rows(folder / "data" / f"{name}.jsonl", some if plan.trained or name == "test" else [])
    write_json(folder / "provenance.json", provenance(plan))
    write_json(folder / "integrity.json", integrity(plan))
    write_scores(folder / "scores.parquet", score_rows(plan, parts, rng))
    if plan.trained:
        _training(folder, plan, parts, rng, recipe)
    return folder


def documents(plan: Plan, split: str, n: int) -> list[Document]:
    return [
        Document(f"{plan.prefix}{split}-{i}", "It was a dreary night. " * 40, f"{plan.prefix}book-{i * plan.sources // n}", i)
        for i in range(n)
    ]


def provenance(plan: Plan) -> dict[str, Any]:
    return {
        "base": plan.base, "base_revision": None, "base_sha256": "b" * 64, "tokenizer_sha256": "c" * 64, "chat_template_sha256": None,
        "adapter": f"{plan.prefix}adapter", "adapter_sha256": "a" * 64, "data_sha256": "d" * 64, "versions": {"galvan": "0.1.0", "python": "3.11"},
        "device": {"value": "cpu", "reason": "no GPU"}, "dtype": {"value": "float32", "reason": "a CPU"},
        "first_token_rule": "context only", "context_tokens": 512, "tokens_per_pass": 2048,
    }  # fmt: skip


def integrity(plan: Plan) -> Integrity:
    b = 0.0 if plan.dead_adapter else 0.02
    modules = tuple(ModuleDelta(f"model.layers.{i}.self_attn.q_proj", 8, 2.0, 0.1, b, b * 3) for i in range(4))
    names = tuple(f"base_model.model.{m.module}.lora_{x}.weight" for m in modules for x in "AB")
    files = FileFacts(
        "lora", "a" * 64, False, True, rank=8, alpha=16.0, target_modules=("q_proj",), recorded_base=plan.base, recorded_base_matches=True,
        n_keys=len(names), n_expected_keys=len(names), keys_proved_by="base headers", modules=modules,
    )  # fmt: skip
    tuned = AdapterState(
        4, 0, True, ("default",), ("default",), (), (), ("default",) if plan.dead_adapter else (), {"default": (2.0, 2.0)}
    )
    base = AdapterState(4, 0, True, ("default",), ("default",)) if plan.base_wrapped else AdapterState(0, 0)
    live = LiveFacts(base, tuned, False, plan.base_wrapped, 100, 0, None, ())
    change = 0.0 if plan.arms_equal else 1.4
    function = FunctionFacts(3, 690, 0.0, 3e-6, change, 1.4 if plan.base_wrapped else change, 1.4 if plan.base_wrapped else 0.0)
    return Integrity(files, live, function) if plan.alive_facts else Integrity(files, reason="only files were read")


def score_rows(plan: Plan, parts: dict[str, list[Document]], rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    for split, mean in (("test", plan.gain_nats), ("train", plan.probe_gain_nats)):  # the probe: its first 60
        if split == "train" and not plan.trained:
            continue
        for i, document in enumerate(parts[split][: 60 if split == "train" else None]):
            n = TOKENS + 17 * (i % 5)
            base = np.abs(rng.normal(3.6, 1.1, n)).astype(np.float32)
            share = rng.normal(mean, plan.spread_nats) + rng.normal(0, 0.3, n)
            tuned = base if plan.arms_equal else (base - share).astype(np.float32)
            yield score_row("base", document, split, base)
            yield score_row("tuned", document, split, tuned)
            if split == "test" and i < 8:
                again = base + np.float32(0.2 if plan.base_differs_from_itself else 2e-6)
                yield score_row("base_again", document, split, again)
                yield score_row("zero_adapter", document, split, base)
                for arm, tokens in (("base", base), ("tuned", tuned)):
                    yield score_row(arm, document, "test_shuffled", 1.3 * tokens)
                yield score_row("random_b", document, split, base + np.abs(rng.normal(1.0, 0.4, n)).astype(np.float32))


def score_row(arm: str, document: Document, split: str, tokens: Any) -> dict[str, Any]:
    tokens = np.asarray(tokens, dtype=np.float32)
    return {
        "arm": arm, "document": document.id, "source": document.source, "position": document.position, "split": split, "n_tokens": len(tokens),
        "n_bytes": BYTES_PER_TOKEN * len(tokens), "nll_nats": float(tokens.astype(np.float64).sum()), "token_nll_nats": tokens.tolist(),
    }  # fmt: skip


def write_scores(path: Path, rows: Iterator[dict[str, Any]] | Sequence[dict[str, Any]]) -> None:
    pq.write_table(pa.Table.from_pylist(list(rows), schema=_COLUMNS), path)


def _training(folder: Path, plan: Plan, parts: dict[str, list[Document]], rng: np.random.Generator, recipe: recipes.Recipe) -> None:
    steps, rate, flat = plan.steps, recipe.training.learning_rate, recipe.training.schedule == "constant"
    trace = [
        {
            "step": s,
            "tokens": 3700 * s,
            "learning_rate": rate * (1 if flat else 0.5 * (1 + math.cos(math.pi * (s - 1) / steps))),
            "loss_nats": 3.6 - 0.15 * s / steps,
            "gradient_norm": 0.8,
            "seconds": s / 3,
        }
        for s in range(1, steps + 1)
    ]
    write_rows(folder / "training.jsonl", trace)
    rows = []
    for name, some, scale in (("validation", parts["validation"], 1.0), ("probe", parts["train"][:20], 1.4)):
        level = {d.id: 3.6 + rng.normal(0, 0.2) for d in some}
        for step, gain in zip(plan.evaluations, plan.curve, strict=True):
            gained = max(gain, 0.4 * step / steps) if name == "probe" and min(plan.curve) < 0 else gain * scale
            for d in some:
                noise = rng.normal(0, 0.004) if step else 0.0
                rows.append(
                    {
                        "step": step,
                        "set": name,
                        "document": d.id,
                        "n_tokens": TOKENS,
                        "nll_nats": TOKENS * (level[d.id] - gained + noise),
                    }
                )
    write_rows(folder / "curves.jsonl", rows)
    targets = recipe.training.lora.targets
    write_json(
        folder / "training.json",
        {
            "method": "lora", "steps": steps, "tokens": 3700 * steps, "trainable_parameters": 81_920, "total_parameters": 4_900_000,
            "rows": plan.train, "truncated_rows": 0, "truncated_tokens": 0,
            "targets": ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj"] if targets == "all-linear" else targets,
        },
    )  # fmt: skip
    write_json(folder / "audit.json", audit(plan))


def audit(plan: Plan) -> dict[str, Any]:
    return {
        "splits": {"train": {"tokens": {"total": plan.train * TOKENS}}},
        "overlaps": [{"a": "train", "b": "test", "longest_span_words": 7, "leaking": 0, "leaking_documents": []}],
        "warnings": [],
    }


def verdict_of(folder: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((folder / "verdict.json").read_text())
    return result
