"""Going on from an adapter that was trained before: its weights are the start, the optimizer is fresh, the learning rate rises and falls anew.

Nothing is taken on trust. The adapter's bytes are pinned in the recipe, its shape must be the recipe's, and where the run that made it is at
hand, its documents must have at step 0 the losses that it ended with. Learning is counted from the base, whose losses stand in
`curves.jsonl` beside those of step 0, as the sets `validation_base` and `probe_base`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from galvan import models
from galvan import recipe as recipes
from galvan.data.tokens import TokenRow
from galvan.errors import GalvanError, ModelError, RecipeError
from galvan.models import Located
from galvan.recipe import CONTINUE, CONTINUE_SHA256, Lora, Recipe
from galvan.rundir import fingerprint, read_json, read_rows, sha256_file
from galvan.text import shown

FILES = {"validation": "validation.jsonl", "probe": "train.jsonl"}
Sets = Mapping[str, Sequence[TokenRow]]
Rows = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Parent:
    """The adapter that training goes on from. `run` is the galvan run that made it and `record` its training.json; None and empty for an
    adapter from elsewhere."""

    adapter: Located
    sha256: str
    run: Path | None
    record: Mapping[str, Any]

    def told(self) -> dict[str, Any]:
        """What training.json keeps of it; steps and epochs are all that lie behind it, None where they are not known."""
        steps, epochs = self.record.get("kept_step"), None
        before = self.record.get("continued") or {}
        if self.run is not None and steps and (self.run / "recipe.yaml").is_file():
            share = steps / self.record["steps"]
            epochs = recipes.load(self.run / "recipe.yaml").training.epochs * share + (before.get("epochs") or 0)
        steps = None if steps is None else steps + (before.get("steps") or 0)
        return {"adapter": self.adapter.name, "sha256": self.sha256, "steps": steps, "epochs": epochs}


def find(name: str, offline: bool) -> Parent:
    """The adapter `name`, and the run that made it if that lies around it. ModelError where there is none."""
    adapter = models.locate(name, "adapter", offline)
    weights = [sha256_file(path) for path in models.weight_files(adapter, "adapter_model")]
    digest = weights[0] if len(weights) == 1 else fingerprint(weights)
    run = adapter.path.resolve().parent
    record = read_json(run / "training.json") if (run / "training.json").is_file() else None
    if isinstance(record, dict) and record.get("adapter_sha256") == digest:
        return Parent(adapter, digest, run, record)
    return Parent(adapter, digest, None, {})


def pinned(asked: Recipe, folder: Path, offline: bool) -> Recipe:
    """The recipe with the sha256 of the adapter that it goes on from, for the run in `folder`. ModelError where it names another's."""
    lora = asked.training.lora
    if lora.continue_from is None:
        return asked
    parent = find(lora.continue_from, offline)
    if parent.adapter.path.resolve() == (folder / "adapter").resolve():
        raise RecipeError(
            "training/own-adapter",
            f"{CONTINUE} is the adapter of this run itself, {shown(str(folder))}, which training would replace; choose another folder with --out.",
        )
    if lora.continue_sha256 not in (None, parent.sha256):
        raise ModelError(
            "training/other-adapter",
            f"{shown(parent.adapter.name)} is not the adapter that this recipe goes on from: its weights have the sha256 {parent.sha256}, and {CONTINUE_SHA256} is "
            f"{lora.continue_sha256}; give that adapter, or set {CONTINUE_SHA256} to null to go on from this one.",
        )
    return recipes.with_values(asked, {CONTINUE_SHA256: parent.sha256}, "galvan")


def require_same_tokenizer(parent: Parent, tokenizer: str | None, same_files: bool | None) -> None:
    """ModelError where the parent learned from tokens of another tokenizer: by its run's record beside `tokenizer`, the sha256 of the
    base's files, or by files beside the adapter that are not the base's (`same_files` False)."""
    theirs = parent.record.get("tokenizer_sha256", tokenizer)
    if theirs != tokenizer or same_files is False:
        raise _unfit(parent.adapter, "it was trained with another tokenizer than that of model.base")


def require_shape(adapter: Located, lora: Lora) -> None:
    """ModelError that names every setting of the adapter's own config that is not the recipe's."""
    config = models.read_config(adapter.path / "adapter_config.json")
    if str(config.get("peft_type", "LORA")) != "LORA" or config.get("rank_pattern") or config.get("alpha_pattern"):
        raise _unfit(adapter, "it is no LoRA of one rank and one alpha, which is all that galvan trains")
    theirs = {
        "rank": config.get("r"), "alpha": config.get("lora_alpha"), "rslora": bool(config.get("use_rslora")), "dora": bool(config.get("use_dora")),
        "bias": config.get("bias", "none"), "save_modules": list(config.get("modules_to_save") or []),
    }  # fmt: skip
    unlike = [
        f"{name} is {shown(str(value), 80)} (recipe: {getattr(lora, name)})"
        for name, value in theirs.items()
        if value != getattr(lora, name)
    ]
    if unlike:
        raise _unfit(adapter, f"its {', '.join(unlike)}")


def take_weights(wrapped: Any, adapter: Located) -> None:
    """Put a trained adapter's weights into the fresh LoRA `wrapped`, as PEFT loads them. ModelError where modules or shapes differ."""
    from peft import get_peft_model_state_dict, set_peft_model_state_dict
    from safetensors.torch import load_file

    theirs = {name: tensor for path in models.weight_files(adapter, "adapter_model") for name, tensor in load_file(path).items()}
    ours = get_peft_model_state_dict(wrapped, save_embedding_layers=False)
    missing, left_over = sorted(ours.keys() - theirs.keys()), sorted(theirs.keys() - ours.keys())
    if missing or left_over:
        what = "does not adapt" if missing else "also adapts"
        raise _unfit(
            adapter,
            f"it {what} {shown((missing or left_over)[0].rpartition('.lora_')[0] or (missing or left_over)[0], 120)}, one of {len(missing or left_over)} weights",
        )
    for name, tensor in ours.items():
        if tensor.shape != theirs[name].shape:
            raise _unfit(adapter, f"its {shown(name, 120)} has the shape {list(theirs[name].shape)}, not {list(tensor.shape)}")
    try:
        with models.quiet():
            set_peft_model_state_dict(wrapped, theirs)
    except (ValueError, RuntimeError, KeyError) as error:
        raise _unfit(adapter, f"PEFT cannot load it: {shown(str(error), 160)}") from None


def _unfit(adapter: Located, what: str) -> ModelError:
    return ModelError(
        "training/continue",
        f"{shown(adapter.name)}, {CONTINUE}: {what}; an adapter cannot change while it goes on. Set training.lora as it has it, or "
        f"train afresh with {CONTINUE}=null.",
    )


def losses(parent: Parent, folder: Path, sets: Sets, score: Callable[[Sequence[TokenRow]], Rows]) -> tuple[Rows, dict[str, float]]:
    """Rows of `curves.jsonl` with the losses of all documents under the base, and what the parent's run ended with, by document.

    Both are read from the parent's run, if it followed the same documents; else `score` gives the former, and the latter is empty.
    """
    base: Rows = []
    ended: dict[str, float] = {}
    for name, rows in sets.items():
        known = _followed(parent, folder, name, rows)
        first = (
            [{"document": r.id, "n_tokens": r.n_supervised, "nll_nats": known["base"][r.id]} for r in rows]
            if known
            else score(rows)
        )
        base += [{"step": 0, "set": f"{name}_base", **row} for row in first]
        ended |= known.get("ended", {})
    return base, ended


def _followed(parent: Parent, folder: Path, name: str, rows: Sequence[TokenRow]) -> dict[str, dict[str, float]]:
    """Losses by document, `base` and `ended`, of the same documents in the parent's own curves; empty where it did not follow them."""
    if parent.run is None or not rows:
        return {}
    file = Path("data") / FILES[name]
    try:
        if sha256_file(parent.run / file) != sha256_file(folder / file):
            return {}
        curves = list(read_rows(parent.run / "curves.jsonl"))
        base = f"{name}_base" if parent.record.get("continued") else name
        found = {"base": dict(_of(curves, base, 0, rows)), "ended": dict(_of(curves, name, parent.record.get("kept_step"), rows))}
    except (OSError, GalvanError, KeyError, TypeError, ValueError):  # a parent without a readable record is one from elsewhere
        return {}
    return found if all(len(part) == len(rows) for part in found.values()) else {}


def _of(curves: Sequence[Mapping[str, Any]], name: str, step: object, rows: Sequence[TokenRow]) -> Iterator[tuple[str, float]]:
    tokens = {row.id: row.n_supervised for row in rows}
    for row in curves:
        if row["set"] == name and row["step"] == step and tokens.get(row["document"]) == row["n_tokens"]:
            yield row["document"], float(row["nll_nats"])
