"""Which trials there are, who runs them and what came of them: an Optuna study in a journal file, or in a database that workers share.

Points of a grid or a random search are queued once; a worker takes a waiting one by an atomic change of its state, so no two run the same.
A trial whose worker died waits again under its own number: it is finished later from its own checkpoint, and counted once.
"""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from galvan.errors import RecipeError, ResourceError
from galvan.recipe import plain_yaml, values_of
from galvan.sweep.space import Dimension, Point
from galvan.text import shown

try:
    import optuna
    from optuna.storages.journal import JournalFileBackend
except ModuleNotFoundError:
    raise RecipeError("sweep/missing", "galvan sweep needs optuna; install it with: pip install 'galvan[sweep]'.") from None

optuna.logging.set_verbosity(optuna.logging.ERROR)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
warnings.filterwarnings("ignore", message="Heartbeat of storage")  # it beats in `alive`

Search = Literal["grid", "random", "tpe"]
HEARTBEAT, GRACE = 30, 120  # seconds: a worker in a shared study says that it lives; silence for so long gives its trial to another
MOST_TRIES, TRIES_TO_OPEN = 3, 3
NAME = "name"  # user attribute: the trial's own name, kept when it is tried again
JOURNAL = "study.journal"


@dataclass(frozen=True, slots=True)
class Asked:
    """A trial that this worker is to run. `trial` is Optuna's."""

    name: str
    point: Point
    trial: Any


@dataclass(frozen=True, slots=True)
class Told:
    """A finished trial: mean validation NLL in nats a token; None where it failed, and then `reason` says why."""

    name: str
    point: Point
    value: float | None
    pruned: bool
    reason: str | None


class Study:
    """One sweep's trials. `identity` is everything that makes two trials comparable; a study of another identity is refused."""

    def __init__(
        self, folder: Path, identity: str, dims: Sequence[Dimension], search: Search, seed: int, storage: str | None, prune: bool
    ) -> None:
        self.dims, self.search, self.prune = dims, search, prune
        self.shared = storage is not None
        sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True)
        pruner = optuna.pruners.WilcoxonPruner(p_threshold=0.05, n_startup_steps=8) if prune else optuna.pruners.NopPruner()
        self.study = _opened(folder, storage, f"galvan-{identity[:16]}", sampler, pruner)

    def enqueue(self, points: Sequence[Mapping[str, Any]]) -> None:
        """Queue every point that is not known yet; two workers that do so at once queue some twice, and `ask` passes over the second."""
        known = {trial.user_attrs.get(NAME) for trial in self.study.get_trials(deepcopy=False)}
        for number, point in enumerate(points):
            if (name := f"{number:03d}") not in known:
                self.study.enqueue_trial({option: stored(value) for option, value in point.items()}, user_attrs={NAME: name})

    def revive(self) -> None:
        """In a journal every running trial died with its worker, because one process at a time has the folder: it waits again."""
        retry = optuna.storages.RetryHeartbeatStaleTrialCallback()
        for trial in [] if self.shared else self.study.get_trials(states=(optuna.trial.TrialState.RUNNING,)):
            self.study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
            retry(self.study, trial)

    def ask(self, most: int) -> Asked | None:
        """The next trial to run, or None where none waits and, in a search without an end of its own, `most` are done or under way."""
        while True:
            if self.shared:
                optuna.storages.fail_stale_trials(self.study)
            known = {one.name for one in self.told()} | {t.user_attrs.get(NAME) for t in self._trials(ALIVE)}
            if not self._trials({optuna.trial.TrialState.WAITING}) and (self.search != "tpe" or len(known) >= most):
                return None
            trial = self.study.ask({d.option: distribution(d) for d in self.dims})
            point = {option: _read(choice) for option, choice in trial.params.items()}
            name = trial.user_attrs.get(NAME)
            if name is None:
                name = f"{trial.number:03d}"
                trial.set_user_attr(NAME, name)
            if not self._run_elsewhere(trial, name):
                return Asked(name, point, trial)
            self.study.tell(trial, state=optuna.trial.TrialState.FAIL)

    def _trials(self, states: set[Any]) -> list[Any]:
        return list(self.study.get_trials(deepcopy=False, states=tuple(states)))

    def _run_elsewhere(self, trial: Any, name: str) -> bool:
        """True if another trial of this name is done, or runs and came first: two workers queued the same point."""
        same = [t for t in self._trials(FINISHED | {optuna.trial.TrialState.RUNNING}) if t.user_attrs.get(NAME) == name]
        return any(t.number < trial.number for t in same)

    def tell(self, asked: Asked, value: float | None, pruned: bool = False, reason: str | None = None) -> None:
        """What came of it. A pruned trial keeps the value that it had reached (WilcoxonPruner's own advice)."""
        for key, said in (("pruned", pruned), ("reason", reason)):
            asked.trial.set_user_attr(key, said)
        if value is None:
            self.study.tell(asked.trial, state=optuna.trial.TrialState.FAIL)
        else:
            self.study.tell(asked.trial, value)

    def told(self) -> list[Told]:
        """Every trial that came to an end, once, by name: as it succeeded, or why it never did."""
        found: dict[str, Told] = {}
        for trial in self._trials(FINISHED | {optuna.trial.TrialState.FAIL}):
            name, reason = trial.user_attrs.get(NAME), trial.user_attrs.get("reason")
            if self.shared and len(trial.system_attrs.get("retry_history", ())) >= MOST_TRIES:
                reason = reason or f"Its worker died {MOST_TRIES + 1} times; the last words are in that worker's log."
            if name is None or (trial.value is None and (reason is None or name in found)):
                continue
            point = {option: _read(choice) for option, choice in trial.params.items()}
            found[name] = Told(name, point, trial.value, bool(trial.user_attrs.get("pruned")), reason)
        return [found[name] for name in sorted(found)]

    @contextmanager
    def alive(self, asked: Asked) -> Iterator[None]:
        """Inside, a shared study hears that this worker lives."""
        storage, done = self.study._storage, threading.Event()
        if not self.shared:
            yield
            return

        def beat() -> None:
            while not done.is_set():
                storage.record_heartbeat(asked.trial._trial_id)
                done.wait(HEARTBEAT)

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


FINISHED = {optuna.trial.TrialState.COMPLETE}
ALIVE = {optuna.trial.TrialState.RUNNING, optuna.trial.TrialState.WAITING}


def _opened(folder: Path, storage: str | None, name: str, sampler: Any, pruner: Any, tries: int = TRIES_TO_OPEN) -> Any:
    """The study, made where it is not there; of two workers that make a database's tables at once one fails, and then finds them."""
    try:
        return optuna.create_study(
            storage=_storage(folder, storage), study_name=name, sampler=sampler, pruner=pruner, load_if_exists=True, direction="minimize"
        )  # fmt: skip
    except Exception as error:  # a database's own errors, of whatever driver
        if tries > 1 and storage is not None:
            time.sleep(1)
            return _opened(folder, storage, name, sampler, pruner, tries - 1)
        where, said = "the journal" if storage is None else "--storage", shown(str(error).splitlines()[0], 200)
        raise ResourceError("sweep/storage", f"{where}: the study cannot be opened: {said}.") from None


def _storage(folder: Path, url: str | None) -> Any:
    if url is None:
        folder.mkdir(parents=True, exist_ok=True)
        return optuna.storages.JournalStorage(JournalFileBackend(str(folder / JOURNAL)))
    retry = optuna.storages.RetryHeartbeatStaleTrialCallback(max_retry=MOST_TRIES)
    return optuna.storages.RDBStorage(url, heartbeat_interval=HEARTBEAT, grace_period=GRACE, heartbeat_stale_trial_callback=retry)


def stored(value: Any) -> Any:
    """A value as Optuna stores a choice: lists and mappings as the text that a recipe would have."""
    return value if value is None or isinstance(value, (bool, int, float, str)) else "yaml:" + plain_yaml(value)


def _read(choice: Any) -> Any:
    return values_of(choice[5:], "the study")[0] if isinstance(choice, str) and choice.startswith("yaml:") else choice


def distribution(d: Dimension) -> Any:
    """A dimension as Optuna knows it."""
    if d.values:
        return optuna.distributions.CategoricalDistribution([stored(value) for value in d.values])
    if d.whole:
        return optuna.distributions.IntDistribution(int(d.low), int(d.high), log=d.log)
    return optuna.distributions.FloatDistribution(float(d.low), float(d.high), log=d.log)
