"""Changes that the loop may try: those that a run's findings name, and the usual ones, in the order of METHODS S7.5. No torch.

A change is a set of training options. Nothing here can touch the base, the ruler, or which documents judge.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from galvan import recipe as recipes
from galvan.diagnosis.run_facts import behind
from galvan.errors import RecipeError
from galvan.recipe import CONTINUE, CONTINUE_SHA256, Recipe, Training
from galvan.report.evidence import Evidence
from galvan.report.remedies import LEARNING_RATES, Action, next_actions
from galvan.rundir import fingerprint
from galvan.sweep.space import MAY_VARY, RANK, may_vary, with_settings

RATE, EPOCHS, TARGETS, LAYERS = "training.learning_rate", "training.epochs", "training.lora.targets", "training.lora.layers"
ALL_LINEAR: Mapping[str, Any] = {TARGETS: "all-linear", LAYERS: None}
SMALL_BATCH, LONGER, DROPOUT = 8, 4, 0.1
EARLY_STOP = "training.early_stop"
BEST = "Keep the weights of the best evaluation."
_SETTING = re.compile(r"--set ([a-z_.]+)=(\S+)")


@dataclass(frozen=True, slots=True)
class Remedy:
    """One change to try, why, and the measurement that would confirm it."""

    action: str
    why: str
    expected: str
    settings: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class State:
    """Where the loop stands: the best recipe so far, its evidence on validation documents (None with the error's `code` where it could not
    train), the recipes that were tried, as `key` names them, and the best adapter, where there is one to go on from."""

    recipe: Recipe
    evidence: Evidence | None
    code: str | None
    tried: frozenset[str]
    adapter: str | None = None

    def after(self, settings: Mapping[str, Any]) -> Recipe:
        """The best recipe with these settings. Where it went on from an adapter, what changes more than for how long it does begins anew,
        with the epochs of both trainings: one recipe must give what is chosen. RecipeError for two options that exclude each other."""
        lora, now = self.recipe.training.lora, self.recipe.training.epochs
        if CONTINUE in settings:
            settings = {CONTINUE_SHA256: None, **settings}
        elif lora.continue_from is not None and not settings.keys() <= {EPOCHS, EARLY_STOP}:
            whole = now + behind(self.evidence.training if self.evidence else None, "epochs")
            settings = {CONTINUE: None, CONTINUE_SHA256: None, EPOCHS: whole, **settings}
        return with_settings(self.recipe, settings)

    def untried(self, remedies: Iterator[Remedy]) -> Iterator[Remedy]:
        """Those that lead to a recipe that can be and has not been tried, each once."""
        known = set(self.tried)
        for remedy in remedies:
            try:
                place = key(self.after(remedy.settings))
            except RecipeError:  # two options that exclude each other
                continue
            if place not in known:
                known.add(place)
                yield remedy


Policy = Callable[[State], Remedy | None]


def key(asked: Recipe) -> str:
    """One name for recipes that train alike."""
    return fingerprint([asked.training, {option: getattr(asked.data, option.rpartition(".")[2]) for option in MAY_VARY}])


def diagnosed(state: State) -> Remedy | None:
    """The first remedy that the findings name and that has not been tried, then the usual ones; None where all were tried."""
    return next(state.untried(_in_order(state)), None)


def at_random(seed: int) -> Policy:
    """Any usual remedy, whatever was found: what a diagnosis must do better than (METHODS S8.6)."""
    rng = np.random.default_rng([seed, 0x1A7])

    def choose(state: State) -> Remedy | None:
        known = list(state.untried(usual(state.recipe)))
        return known[int(rng.integers(len(known)))] if known else None

    return choose


def _in_order(state: State) -> Iterator[Remedy]:
    if state.evidence is None:
        yield from _where_nothing_trained(state)
    else:
        yield from (remedy for action in next_actions(state.evidence) if (remedy := of_action(action, state.adapter)) is not None)
        yield from _past_its_best(state.recipe.training, state.evidence)
    yield from usual(state.recipe)


def _past_its_best(settings: Training, e: Evidence) -> Iterator[Remedy]:
    """Where validation loss was lowest before the last step: that step's weights, and smaller steps before larger ones."""
    if e.curve is None or e.curve.best_step in (None, e.curve.points[-1].step):
        return
    why = f"Validation loss was lowest at step {e.curve.best_step} of {e.curve.points[-1].step}, though not surely so."
    if e.curve.best_step:
        yield Remedy(BEST, why, "Validation loss is what it was at that step.", {EARLY_STOP: True})
    for rate in LEARNING_RATES[settings.method][1::-1]:
        if rate < settings.learning_rate:
            yield Remedy(f"Lower the learning rate to {rate:g}.", why, "Validation loss falls further.", {RATE: rate})


def of_action(action: Action, adapter: str | None = None) -> Remedy | None:
    """The options that an action's own command sets, `adapter` being its ADAPTER; None where it asks for something else, such as more text."""
    settings = {option: recipes.values_of(value, "an action")[0] for option, value in _SETTING.findall(action.command)}
    if CONTINUE in settings:
        if adapter is None:
            return None
        settings[CONTINUE] = adapter
    if not action.command.startswith("galvan run RECIPE") or not settings or not all(map(may_vary, settings)):
        return None
    return Remedy(action.action, action.why, action.expected, settings)


def _where_nothing_trained(state: State) -> Iterator[Remedy]:
    if state.code == "training/non-finite":
        rate = min(state.recipe.training.learning_rate / 3, LEARNING_RATES[state.recipe.training.method][1])
        yield Remedy(
            f"Lower the learning rate to {rate:.2g}.",
            "Training left the numbers.",
            "Every loss is finite.",
            {RATE: float(f"{rate:.2g}")},
        )
    yield Remedy("Adapt all linear layers of all blocks.", "As it was, nothing was trained.", "Training starts.", ALL_LINEAR)


def usual(asked: Recipe) -> Iterator[Remedy]:
    """What helps most often, whatever was found, in the order of METHODS S7.5."""
    settings, lora = asked.training, asked.training.method == "lora"
    low, middle, high = LEARNING_RATES[settings.method]
    for rate in (middle, high, low):
        yield _usual(f"Set the learning rate to {rate:g}.", {RATE: rate})
    if lora:
        yield _usual("Adapt all linear layers of all blocks.", ALL_LINEAR)
    yield _usual(f"Train {LONGER} times as long.", {EPOCHS: settings.epochs * LONGER})
    yield _usual(BEST, {EARLY_STOP: True})
    yield _usual("Train a quarter as long.", {EPOCHS: settings.epochs / LONGER})
    yield _usual(f"Take {SMALL_BATCH} documents a step.", {"training.batch_size": SMALL_BATCH, "training.accumulation": 1})
    if lora:
        yield _usual("Drop a tenth of the adapter's input.", {"training.lora.dropout": DROPOUT})
    yield _usual("Cut long texts at new places in each epoch.", {"data.recut": True})
    yield _usual("Have the base write prompts to the texts.", {"data.augment": "back_translation"})
    if lora:
        yield _usual("Double the rank.", {RANK: 2 * settings.lora.rank})


def _usual(action: str, settings: Mapping[str, Any]) -> Remedy:
    return Remedy(action, "It often helps, and no finding points elsewhere.", "Validation loss falls.", settings)
