"""Which trials there are, who runs them and what came of them: an Optuna study in a journal file, or in a database that workers share.

Points of a grid or a random search are queued once; a worker takes a waiting one by an atomic change of its state, so no two run the same.
A trial whose worker died waits again under its own number: it is finished later from its own checkpoint, and counted once.
"""

from __future__ import annotations

import json
import threading
import time
import warnings
import zlib
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from galvan.errors import DataError, GalvanError, RecipeError, ResourceError
from galvan.recipe import plain_yaml, values_of
from galvan.rundir import cannot_write, writing
from galvan.sweep.space import Dimension, Point
from galvan.text import shown

try:
    import optuna
    from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
except ModuleNotFoundError:
    raise RecipeError("sweep/missing", "galvan sweep needs optuna; install it with: pip install 'galvan[sweep]'.") from None

optuna.logging.set_verbosity(optuna.logging.ERROR)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
warnings.filterwarnings("ignore", message="Heartbeat of storage")  # it beats in `alive`

Search = Literal["grid", "random", "tpe"]
HEARTBEAT, GRACE = 30, 120  # seconds: a worker in a shared study says that it lives; silence for so long gives its trial to another
MOST_TRIES, TRIES_TO_OPEN = 3, 3
NAME = "name"  # user attribute: the trial's own name, kept when it is tried again
JOURNAL, CHECKSUM = "study.journal", "crc32"


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
        self.dims, self.search, self.prune, self.seed = dims, search, prune, seed
        self.shared = storage is not None
        pruner = optuna.pruners.WilcoxonPruner(p_threshold=0.05, n_startup_steps=8) if prune else optuna.pruners.NopPruner()
        self.study = _opened(folder, storage, f"galvan-{identity[:16]}", pruner)

    def enqueue(self, points: Sequence[Mapping[str, Any]]) -> None:
        """Queue every point that is not known yet; two workers that do so at once queue some twice, and `ask` passes over the second."""
        known = {trial.user_attrs.get(NAME) for trial in self.study.get_trials(deepcopy=False)}
        for number, point in enumerate(points):
            if (name := f"{number:03d}") not in known:
                self.study.enqueue_trial({option: stored(value) for option, value in point.items()}, user_attrs={NAME: name})

    def revive(self) -> None:
        """In a journal every running trial died with its worker, because one process at a time has the folder: it waits again.

        It is queued before it is given up: a worker killed between the two leaves it twice, which `ask` passes over, and not never.
        """
        retry = optuna.storages.RetryHeartbeatStaleTrialCallback()
        for trial in [] if self.shared else self.study.get_trials(states=(optuna.trial.TrialState.RUNNING,)):
            retry(self.study, trial)
            self.study.tell(trial.number, state=optuna.trial.TrialState.FAIL)

    def ask(self, most: int) -> Asked | None:
        """The next trial to run, or None where none waits and, in a search without an end of its own, `most` are done or under way."""
        while True:
            if self.shared:
                optuna.storages.fail_stale_trials(self.study)
            begun = {one.name for one in self.told()} | self._names({optuna.trial.TrialState.RUNNING})
            known = begun | self._names({optuna.trial.TrialState.WAITING})
            if not self._trials({optuna.trial.TrialState.WAITING}) and (self.search != "tpe" or len(known) >= most):
                return None
            self.study.sampler = _sampler(self.seed, len(begun))
            trial = self.study.ask({d.option: distribution(d) for d in self.dims})
            point = {option: _read(choice) for option, choice in trial.params.items()}
            name = trial.user_attrs.get(NAME)
            if name is None and self.search != "tpe":  # another worker took the last that waited, and Optuna made one up
                self.study.tell(trial, state=optuna.trial.TrialState.FAIL)
                continue
            if name is None:  # Optuna's number counts a trial again that died; only workers that ask at once need it
                name = f"{trial.number if self.shared else len(begun):03d}"
                trial.set_user_attr(NAME, name)
            if not self._run_elsewhere(trial, name):
                return Asked(name, point, trial)
            self.study.tell(trial, state=optuna.trial.TrialState.FAIL)

    def _trials(self, states: set[Any]) -> list[Any]:
        return list(self.study.get_trials(deepcopy=False, states=tuple(states)))

    def _names(self, states: set[Any]) -> set[str | None]:
        return {trial.user_attrs.get(NAME) for trial in self._trials(states)}

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


def _sampler(seed: int, number: int) -> Any:
    """TPE with random numbers of its own for each trial: a sweep that goes on proposes what it would have proposed undisturbed."""
    return optuna.samplers.TPESampler(seed=(seed + 1_000_003 * number) % 2**32, multivariate=True)


def _checksum(log: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(log, sort_keys=True).encode())


class _NoLock(JournalFileSymlinkLock):
    """The folder's own lock keeps other processes out; a lock file of Optuna's would outlive a killed process and hold up the next one."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        pass


class _Journal(JournalFileBackend):
    """Optuna's journal with a checksum in each line.

    A line that a killed process wrote half is cut off, where Optuna would add to it and never read the file again.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with writing(path), path.open("a+b") as stream:
            stream.seek(0)
            content = stream.read()
            if content and not content.endswith(b"\n"):
                stream.truncate(content.rfind(b"\n") + 1)
        super().__init__(str(path), _NoLock(str(path)))

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
        line = log_number_from + 1
        try:
            for log in super().read_logs(log_number_from):
                if not isinstance(log, dict) or log.pop(CHECKSUM, None) != _checksum(log):
                    raise ValueError
                yield log
                line += 1
        except ValueError:
            raise DataError(
                "sweep/damaged",
                f"{shown(str(self._path))}: line {line} is not as it was written; delete the file and run again: what was trained is kept.",
            ) from None

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        try:
            super().append_logs([{**log, CHECKSUM: _checksum(log)} for log in logs])
        except OSError as error:
            raise cannot_write(self._path, error, written=self._path.stat().st_size) from None


def _opened(folder: Path, storage: str | None, name: str, pruner: Any, tries: int = TRIES_TO_OPEN) -> Any:
    """The study, made where it is not there; of two workers that make a database's tables at once one fails, and then finds them."""
    try:
        return optuna.create_study(
            storage=_storage(folder, storage), study_name=name, pruner=pruner, load_if_exists=True, direction="minimize"
        )
    except GalvanError:
        raise
    except Exception as error:  # a database's own errors, of whatever driver
        if tries > 1 and storage is not None:
            time.sleep(1)
            return _opened(folder, storage, name, pruner, tries - 1)
        where = shown(str(folder / JOURNAL)) if storage is None else "--storage"
        said = shown((str(error).splitlines() or [type(error).__name__])[0], 200)
        raise ResourceError("sweep/storage", f"{where}: the study cannot be opened: {said}.") from None


def _storage(folder: Path, url: str | None) -> Any:
    if url is None:
        folder.mkdir(parents=True, exist_ok=True)
        return optuna.storages.JournalStorage(_Journal(folder / JOURNAL))
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
