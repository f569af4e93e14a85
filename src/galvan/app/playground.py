"""A prompt goes in, and what base and tuned write comes out side by side, token by token, in turn and with the same draws.

The base is an object that never saw an adapter. The tuned model is another, on a base of its own from fresh files.
"""

from __future__ import annotations

import math
import queue
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import nn

from galvan import models
from galvan import recipe as recipes
from galvan.errors import GalvanError, RecipeError, ResourceError
from galvan.measure.decode import Continuation, Job, Sampling, stop_ids, stream
from galvan.measure.generation import written_text
from galvan.measure.prompts import prompts
from galvan.models import Located
from galvan.rundir import each_document, read_json
from galvan.text import shown

MOST_TOKENS = 1024
LONGEST_PROMPT = 20_000
STRONGEST = 2.0
WAIT_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Asked:
    """What the form asks for; `strength` scales the adapter: 0 is the base, 1 as trained."""

    prompt: str = ""
    adapter: str = ""
    temperature: float = 0.8
    top_p: float = 0.95
    max_new_tokens: int = 120
    seed: int = 1
    strength: float = 1.0


_RANGES: Mapping[str, tuple[float, float]] = {
    "temperature": (0, 5), "top_p": (0.01, 1), "max_new_tokens": (1, MOST_TOKENS), "seed": (0, 2**48 - 1), "strength": (0, STRONGEST),
}  # fmt: skip


class Playground:
    """The base and the adapters of a run, loaded when they are first asked for. One text is written at a time."""

    def __init__(self, folder: Path, adapters: Sequence[str] = (), offline: bool = False) -> None:
        """The run's own adapter and `adapters`, which are folders or Hub ids. RecipeError where there is none."""
        self._recipe = recipes.load(folder / "recipe.yaml")
        base = models.locate(self._recipe.model.base, offline=offline)
        self._located: dict[str, Located] = {}
        for name in _own(folder) + list(adapters):
            self._located[name] = models.locate(name, "adapter", offline)
        if not self._located:
            raise RecipeError("app/no-adapter", f"{shown(str(folder))} holds no adapter; name one with --adapter.")
        self._base, self._tokenizer = base, models.load_tokenizer(base)
        path = folder / "data" / "train.jsonl"
        self._shape = list(islice(each_document(path), 1)) if path.is_file() else []
        self._loaded: dict[str, Any] = {}
        self._one = threading.Lock()

    @property
    def names(self) -> list[str]:
        return list(self._located)

    def asked(self, fields: Mapping[str, str]) -> Asked:
        """The form's fields, checked; RecipeError names the first that is out of its range."""
        prompt, adapter = fields.get("prompt", ""), fields.get("adapter", self.names[0])
        if not prompt.strip() or len(prompt) > LONGEST_PROMPT:
            raise RecipeError("app/prompt", f"A prompt of 1 to {LONGEST_PROMPT:,} characters is needed; yours has {len(prompt):,}.")
        if adapter not in self._located:
            raise RecipeError("app/adapter", f"There is no adapter {shown(adapter, 80)} here.")
        found: dict[str, Any] = {}
        for name, (low, high) in _RANGES.items():
            default = getattr(Asked(), name)
            try:
                value = type(default)(fields.get(name, default))
            except ValueError:
                value = math.nan
            if not low <= value <= high:
                raise RecipeError("app/range", f"{name} must be a number from {low:g} to {high:g}.")
            found[name] = value
        return Asked(prompt.replace("\r\n", "\n"), adapter, **found)

    def write(self, asked: Asked) -> Iterator[dict[str, str]]:
        """What each arm has written so far, as {"base": text} or {"tuned": text}, in turn; {"problem": sentence} where it fails.

        A thread of its own does the work, for torch's modes belong to a thread; it ends when the caller stops reading.
        """
        news: queue.SimpleQueue[dict[str, str] | None] = queue.SimpleQueue()
        stop = threading.Event()

        def work() -> None:
            try:
                for one in self._write(asked):
                    news.put(one)
                    if stop.is_set():
                        break
            except GalvanError as error:
                news.put({"problem": str(error)})
            except Exception as error:
                news.put({"problem": f"Writing failed: {shown(str(error), 200)}"})
            finally:
                news.put(None)

        threading.Thread(target=work, daemon=True).start()
        try:
            while (one := news.get()) is not None:
                yield one
        finally:
            stop.set()

    def _write(self, asked: Asked) -> Iterator[dict[str, str]]:
        if not self._one.acquire(timeout=WAIT_SECONDS):
            raise ResourceError("app/busy", "Another text is being written; try again when it is done.")
        try:
            base, tuned = self._model(None), self._model(asked.adapter)
            ids = self._ids(asked.prompt)
            sampling = Sampling("playground", asked.temperature, asked.top_p, asked.max_new_tokens)
            job, context = Job(ids, sampling, asked.seed), _positions(base)
            stops, vocabulary = stop_ids(base, self._tokenizer), len(self._tokenizer)
            with torch.inference_mode(), at_strength(tuned, asked.strength):
                arms = {name: stream(model, job, stops, context, vocabulary) for name, model in (("base", base), ("tuned", tuned))}
                while arms:
                    for name, arm in list(arms.items()):
                        said: Continuation | None = next(arm, None)
                        if said is None:
                            del arms[name]
                        else:
                            yield {name: shown(written_text(self._tokenizer, ids, said.ids))}
        finally:
            self._one.release()

    def _ids(self, text: str) -> list[int]:
        asked = self._recipe.generation.model_copy(update={"documents": 0, "prompts": [text]})
        return prompts({"train": self._shape}, asked, self._tokenizer)[0].ids(self._tokenizer)

    def _model(self, name: str | None) -> Any:
        """The base (None), or a tuned model; of those the last is kept."""
        key = name or ""
        if key not in self._loaded:
            for other in [k for k in self._loaded if k and name]:
                del self._loaded[other]
            settings = self._recipe.model
            located = None if name is None else self._located[name]
            self._loaded[key] = (
                models.load_base(self._base, settings) if located is None else models.load_tuned(self._base, located, settings)
            )
        return self._loaded[key]


@contextmanager
def at_strength(model: nn.Module, factor: float) -> Iterator[None]:
    """Every LoRA layer's scale times `factor`, and afterwards what it was. At 0 the model computes what its base does, exactly.

    RecipeError for another factor than 1 where the adapter is more than scaled products: DoRA, trained modules and biases, other kinds.
    """
    if factor == 1:
        yield
        return
    reason = not_scalable(model)
    if reason:
        raise RecipeError("app/strength", f"This adapter's strength must stay 1: {reason}.")
    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    before = [dict(layer.scaling) for layer in layers]
    try:
        for layer in layers:
            layer.scaling = {name: scale * factor for name, scale in layer.scaling.items()}
        yield
    finally:
        for layer, scaling in zip(layers, before, strict=True):
            layer.scaling = scaling


def not_scalable(model: nn.Module) -> str | None:
    """Why the adapter cannot be made weaker or stronger; None where it can."""
    config = getattr(model, "peft_config", {}).get("default")
    if config is None:
        return "it is a whole model"
    if not any(isinstance(module, LoraLayer) for module in model.modules()):
        return "it is not LoRA"
    if getattr(config, "use_dora", False):
        return "DoRA also rescales the base's weights"
    if getattr(config, "modules_to_save", None) or getattr(config, "bias", "none") != "none":
        return "it also replaces weights of the base"
    return None


def _own(folder: Path) -> list[str]:
    """The adapter that the run trained, or the one that it evaluated."""
    if (folder / "adapter").is_dir():
        return [str(folder / "adapter")]
    path = folder / "provenance.json"
    name = read_json(path).get("adapter") if path.is_file() else None
    return [name] if isinstance(name, str) and name != "adapter" else []


def _positions(model: Any) -> int:
    config = model.config
    limits = [getattr(config, key, None) for key in ("max_position_embeddings", "n_positions", "n_ctx")]
    return min([n for n in limits if isinstance(n, int) and n > 0], default=1 << 30)
