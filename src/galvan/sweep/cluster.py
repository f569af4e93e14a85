"""Trials on many machines by Ray: one trial a GPU (or a core each, without any), each resumed from its own folder where its node is lost.

The process that was started holds the study and hands out trials; nodes only train. All of them see the sweep's folder under the same path.
Nothing is bound beyond loopback by a cluster that is started here, and no dashboard is.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from galvan import models
from galvan.errors import GalvanError, RecipeError, ResourceError
from galvan.progress import Progress, Silent
from galvan.recipe import Recipe, from_text, resolved
from galvan.rundir import fingerprint
from galvan.sweep.space import with_settings
from galvan.sweep.study import Asked, Study
from galvan.sweep.trial import Outcome, run_trial
from galvan.text import shown

try:
    import ray
except ModuleNotFoundError:
    raise RecipeError("sweep/no-ray", "--ray needs Ray; install it with: pip install 'galvan[cluster]'.") from None

T = TypeVar("T")

RETRIES = 5  # of a trial whose node is lost
LOCAL = "local"


def connect(address: str) -> None:
    """Join the cluster at `address`, or start one here for `local`, on loopback and without a dashboard."""
    if ray.is_initialized():
        return
    try:
        if address == LOCAL:
            ray.init(include_dashboard=False, _node_ip_address="127.0.0.1", log_to_driver=False, configure_logging=False)
        else:
            ray.init(address=address, log_to_driver=False, configure_logging=False)
    except Exception as error:  # a bare one where a node is slow to start
        raise ResourceError(
            "sweep/ray", f"--ray {shown(address, 80)}: no cluster answers there ({shown(str(error), 120)})."
        ) from None


def run_on_ray(study: Study, most: int, asked: Recipe, folder: Path, progress: Progress, address: str) -> None:
    """Every trial of the study, as many at a time as the cluster has GPUs, or cores where it has none."""
    connect(address)
    here: dict[Any, Asked] = {}
    while True:
        while len(here) < max(1, slots()) and (one := study.ask(most)) is not None:
            progress.say(f"Trial {one.name} of {most} is handed out.")
            here[submit(with_settings(asked, one.point), folder / "trials" / one.name, folder)] = one
        if not here:
            return
        (ready, *_), _ = ray.wait(list(here), num_returns=1)
        one = here.pop(ready)
        came = result(ready)
        study.tell(one, came.value, came.pruned, came.reason)
        progress.say(f"Trial {one.name}: {came.reason or f'validation {came.value:.4f} nats a token'}.")


def _resources() -> dict[str, float]:
    return dict(ray.cluster_resources())  # type: ignore[no-untyped-call]


def slots() -> int:
    """How many trials the cluster holds at a time, now: nodes come and go."""
    found = _resources()
    return int(found.get("GPU", 0) or found.get("CPU", 1))


def hand_out(function: Callable[..., T], *arguments: Any) -> Any:
    """Run a function on some node, with a GPU where the cluster has any; Ray starts it again elsewhere where its node is lost."""
    on_gpu = bool(_resources().get("GPU", 0))
    remote = ray.remote(num_cpus=1, num_gpus=1 if on_gpu else 0, max_retries=RETRIES)(_there)
    return remote.remote(str(Path.cwd()), function, *arguments)


def _there(folder: str, function: Callable[..., T], *arguments: Any) -> T:
    """Run in the folder in which the command was given, so that relative paths mean the same."""
    if Path(folder).is_dir():
        os.chdir(folder)
    return function(*arguments)


def submit(recipe: Recipe, folder: Path, prepared: Path, check: bool = False) -> Any:
    """Hand out the trial in `folder`, on the documents of `prepared`; started again elsewhere it goes on from its checkpoint."""
    return hand_out(trial_there, resolved(recipe), str(folder.resolve()), str(prepared.resolve()), check)


def trial_there(recipe: str, folder: str, prepared: str, check: bool) -> Outcome:
    """One trial on whatever node this is."""
    return run_trial(from_text(recipe), Path(folder), Path(prepared), Silent(), True, check=check)


def run_there(recipe: str, folder: str) -> None:
    """A whole run on whatever node this is; all that came of it is in its folder."""
    from galvan import pipeline

    pipeline.run(from_text(recipe), Path(folder), Silent(), True, wait=True)


def run_on_node(recipe: Recipe, folder: Path) -> None:
    """A whole run in `folder` on some node; raises what it raised there."""
    taken(hand_out(run_there, resolved(recipe), str(folder.resolve())))


_benches: dict[str, Any] = {}


def evaluation_there(recipe: str, adapter: str, folder: str, documents: str) -> GalvanError | None:
    """One adapter on whatever node this is; a process that gets several keeps the base and what it alone said."""
    from galvan import many
    from galvan.measure.bench import SharedBench

    asked = from_text(recipe)
    key = fingerprint([asked.model, documents])
    if key not in _benches:
        _benches.clear()
        _benches[key] = SharedBench(models.locate(asked.model.base, offline=True), asked.model)
    return many.one(asked, adapter, Path(folder), Path(documents), Silent(), True, _benches[key])


def evaluate_on_ray(
    jobs: Mapping[str, tuple[Recipe, Path]], documents: Path, progress: Progress, address: str
) -> dict[str, GalvanError]:
    """Every adapter in the folder that `jobs` has for it; why the failed ones failed."""
    connect(address)
    handed = {
        hand_out(evaluation_there, resolved(asked), name, str(folder.resolve()), str(documents.resolve())): name
        for name, (asked, folder) in jobs.items()
    }
    failed: dict[str, GalvanError] = {}
    waiting = list(handed)
    while waiting:
        (ready, *_), waiting = ray.wait(waiting, num_returns=1)
        try:
            error = taken(ready)
        except LostNode as lost:
            error = lost
        if error is not None:
            failed[handed[ready]] = error
        progress.say(f"{shown(handed[ready])}: {f'not evaluated: {shown(str(error))}' if error else 'evaluated'}.")
    return failed


class LostNode(ResourceError):
    """The nodes of a task were lost again and again."""


def taken(reference: Any) -> Any:
    """What a function came to on its node. LostNode where its nodes were lost too often; the user's own errors are raised as they were."""
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        if isinstance(cause, GalvanError):
            raise cause from None
        raise
    except ray.exceptions.RayError as error:
        said = shown(str(error).splitlines()[0], 120)
        raise LostNode("sweep/node-lost", f"Its node was lost {RETRIES + 1} times: {said}") from None


def result(reference: Any) -> Outcome:
    """What came of a trial; a trial whose nodes were lost again and again is a failed one."""
    try:
        came: Outcome = taken(reference)
    except LostNode as lost:
        return Outcome(None, reason=str(lost), code=lost.code)
    return came
