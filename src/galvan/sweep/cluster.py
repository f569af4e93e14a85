"""Trials on many machines by Ray: one trial a GPU (or a core each, without any), each resumed from its own folder where its node is lost.

The process that was started holds the study and hands out trials; nodes only train. All of them see the sweep's folder under the same path.
Nothing is bound beyond loopback by a cluster that is started here, and no dashboard is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from galvan.errors import GalvanError, RecipeError, ResourceError
from galvan.progress import Progress, Silent
from galvan.recipe import Recipe, from_text, resolved
from galvan.sweep.space import with_settings
from galvan.sweep.study import Asked, Study
from galvan.sweep.trial import Outcome, run_trial
from galvan.text import shown

try:
    import ray
except ModuleNotFoundError:
    raise RecipeError("sweep/no-ray", "--ray needs Ray; install it with: pip install 'galvan[cluster]'.") from None

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
    except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
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
            here[submit(with_settings(asked, one.point), folder, one.name)] = one
        if not here:
            return
        (ready, *_), _ = ray.wait(list(here), num_returns=1)
        one = here.pop(ready)
        came = result(ready, one.name)
        study.tell(one, came.value, came.pruned, came.reason)
        progress.say(f"Trial {one.name}: {came.reason or f'validation {came.value:.4f} nats a token'}.")


def _resources() -> dict[str, float]:
    return dict(ray.cluster_resources())  # type: ignore[no-untyped-call]


def slots() -> int:
    """How many trials the cluster holds at a time, now: nodes come and go."""
    found = _resources()
    return int(found.get("GPU", 0) or found.get("CPU", 1))


def submit(recipe: Recipe, folder: Path, name: str) -> Any:
    """Hand out a trial; Ray starts it again elsewhere where its node is lost, and it goes on from its checkpoint."""
    on_gpu = bool(_resources().get("GPU", 0))
    remote = ray.remote(num_cpus=1, num_gpus=1 if on_gpu else 0, max_retries=RETRIES)(trial_there)
    return remote.remote(resolved(recipe), str(folder.resolve()), name)


def trial_there(recipe: str, folder: str, name: str) -> Outcome:
    """One trial on whatever node this is."""
    return run_trial(from_text(recipe), Path(folder) / "trials" / name, Path(folder), Silent(), True)


def result(reference: Any, name: str) -> Outcome:
    """What came of a trial; a trial whose nodes were lost again and again is a failed one, what concerns all of them is raised."""
    try:
        came: Outcome = ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        if isinstance(cause, GalvanError):
            raise cause from None
        raise
    except ray.exceptions.RayError as error:
        return Outcome(None, reason=f"Its node was lost {RETRIES + 1} times: {shown(str(error).splitlines()[0], 120)}")
    return came
