"""Curves and the verdict for TensorBoard, W&B, MLflow and trackio: one small hook each, off unless the recipe names them.

They get figures, never a text or a path. One that fails while a run goes on is said once, written into trackers.json, and left alone.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from galvan.errors import RecipeError
from galvan.progress import Progress
from galvan.recipe import Recipe
from galvan.rundir import read_json, write_json
from galvan.text import shown

if TYPE_CHECKING:
    from galvan.training.loop import Watch

FILE = "trackers.json"
PROJECT = "galvan"
INSTALL = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow", "trackio": "trackio"}
_SECRET = re.compile(r"(?i)(?:KEY|TOKEN|SECRET|PASSWORD)")
_IN_ADDRESS = re.compile(r"(?<=://)[^/@\s]+@")


class Hook(Protocol):
    """One tracker's run. `id` finds it again when the run goes on later."""

    id: str

    def log(self, step: int, figures: Mapping[str, float]) -> None: ...
    def conclude(self, step: int, figures: Mapping[str, float], words: Mapping[str, str]) -> None: ...
    def close(self) -> None: ...


Start = Callable[[Path, Recipe, str | None, int, bool], Hook]  # folder, recipe, id of an earlier start, next step, offline
HOOKS: dict[str, Start] = {}


def hook(name: str) -> Callable[[Start], Start]:
    def register(start: Start) -> Start:
        HOOKS[name] = start
        return start

    return register


def require(names: Sequence[str]) -> None:
    """RecipeError before anything is trained where a tracker that the recipe names is not installed."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise RecipeError("tracker/missing", f"trackers names {name}, which is not installed: pip install {INSTALL[name]}, or leave it out.")  # fmt: skip


class Tracking:
    """All trackers of one run. No method raises: a tracker that fails is said once and dropped."""

    def __init__(self, folder: Path, recipe: Recipe, progress: Progress, offline: bool = False) -> None:
        self._folder, self._recipe, self._progress, self._offline = folder, recipe, progress, offline
        path = folder / FILE
        kept = read_json(path) if path.is_file() else {}
        self._known: dict[str, dict[str, Any]] = {name: dict(kept.get(name, {})) for name in recipe.trackers}
        self._hooks: dict[str, Hook] = {}
        self._dropped: set[str] = set()

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Figures by name, as `train/loss_nats`, after optimizer step `step`."""
        self._each(step, lambda one: one.log(step, figures))

    def beside(self, watch: Watch | None) -> Watch:
        """What a training tells, for the trackers and then for `watch`, which may end it."""

        def told(step: int, figures: Mapping[str, float], curves: Sequence[Mapping[str, Any]]) -> str | None:
            if figures:
                self.log(step, figures)
            return None if watch is None else watch(step, figures, curves)

        return told

    def conclude(self, step: int, verdict: Mapping[str, Any]) -> None:
        figures, words = concluded(verdict)
        self._each(step + 1, lambda one: one.conclude(step, figures, words))  # what was logged at this step stays

    def close(self) -> None:
        for name, one in list(self._hooks.items()):
            self._tried(name, one.close)
        if self._hooks or self._dropped:
            write_json(self._folder / FILE, self._known)
        self._hooks = {}

    def _each(self, step: int, act: Callable[[Hook], None]) -> None:
        for name in self._recipe.trackers:
            if name in self._dropped:
                continue
            if name not in self._hooks:
                self._tried(name, partial(self._begin, name, step))
            if name in self._hooks:
                self._tried(name, partial(act, self._hooks[name]))

    def _begin(self, name: str, step: int) -> None:
        one = HOOKS[name](self._folder, self._recipe, self._known[name].get("id"), step, self._offline)
        self._hooks[name] = one
        self._known[name] = {"id": one.id}
        write_json(self._folder / FILE, self._known)

    def _tried(self, name: str, act: Callable[[], None]) -> None:
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # stdout is the command's own answer
                act()
        except Exception as error:
            self._hooks.pop(name, None)
            self._dropped.add(name)
            reason = without_secrets((str(error).strip().splitlines() or [type(error).__name__])[0])
            self._known[name]["failed"] = reason
            self._progress.say(f"{name} failed and gets nothing more of this run, which goes on: {reason}")


@contextlib.contextmanager
def tracking(folder: Path, recipe: Recipe, progress: Progress, offline: bool = False) -> Iterator[Tracking]:
    """The trackers of a run, closed also by an error."""
    found = Tracking(folder, recipe, progress, offline)
    try:
        yield found
    finally:
        found.close()


def without_secrets(text: str) -> str:
    """`text` for people, without what the environment calls a key, token, secret or password, and without names in addresses."""
    for name, value in os.environ.items():
        if _SECRET.search(name) and len(value) >= 6:
            text = text.replace(value, "***")
    return shown(_IN_ADDRESS.sub("***@", text), 300)


def concluded(verdict: Mapping[str, Any]) -> tuple[dict[str, float], dict[str, str]]:
    """The verdict as figures, those that are defined, and as words."""
    fit, style, kept = verdict["fit"], verdict["style"], verdict["retention"]
    ends = [fit["gain"]["perplexity_change_ci95"] or (None, None), style["ci95"] or (None, None)]
    named = {
        "base_perplexity": fit["base"]["perplexity"], "tuned_perplexity": fit["tuned"]["perplexity"], "gain_nats_per_token": fit["gain"]["nats_per_token"],
        "perplexity_change_percent": fit["gain"]["perplexity_change_percent"], "perplexity_change_ci95_low": ends[0][0],
        "perplexity_change_ci95_high": ends[0][1], "mde80_percent": fit["mde80_percent"], "style_gap_closed": style["gap_closed"],
        "style_gap_closed_ci95_low": ends[1][0], "style_gap_closed_ci95_high": ends[1][1],
        "longest_copied_words": verdict["originality"]["longest_span_words"], "kl_nats": kept["kl_nats"],
        "neutral_perplexity_change_percent": kept["neutral_perplexity_change_percent"],
    }  # fmt: skip
    present = [str(_field(f, "code")) for f in verdict["findings"] if _field(f, "status") == "present"]
    words = {"verdict": str(verdict["verdict"]), "worked": str(verdict["worked"]).lower(), "findings": " ".join(present) or "none"}
    return {f"verdict/{name}": float(value) for name, value in named.items() if isinstance(value, int | float)}, words


def _field(finding: Any, name: str) -> Any:
    return finding[name] if isinstance(finding, Mapping) else getattr(finding, name)


def settings_of(recipe: Recipe) -> dict[str, Any]:
    """The recipe by dotted names, without what names texts, files and prompts."""
    from galvan.recipe import options

    tree, found = recipe.model_dump(mode="json"), dict[str, Any]()
    for name, _ in options():
        value: Any = tree
        for part in name.split("."):
            value = value[part]
        if name.split(".")[0] in ("training", "model", "seed", "evaluation") and name not in (
            "model.base",
            "evaluation.neutral",
            "evaluation.lm_eval_tasks",
        ):
            found[name] = value
    return found


# ---- the hooks ----


@hook("tensorboard")
class TensorBoard:
    """Event files in RUN/trackers/tensorboard; steps that a killed run had logged beyond its checkpoint are purged."""

    def __init__(self, folder: Path, recipe: Recipe, known: str | None, step: int, offline: bool) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.id = "trackers/tensorboard"
        writer: Any = SummaryWriter
        self._writer = writer(str(folder / self.id), purge_step=step if known else None)
        if not known:
            rows = [f"| {name} | {value} |" for name, value in settings_of(recipe).items()]
            self._writer.add_text("recipe", "\n".join(["| option | value |", "| --- | --- |", *rows]), 0)

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)

    def conclude(self, step: int, figures: Mapping[str, float], words: Mapping[str, str]) -> None:
        self.log(step, figures)
        for name, word in words.items():
            self._writer.add_text(f"verdict/{name}", word, step)

    def close(self) -> None:
        self._writer.close()


@hook("wandb")
class WandB:
    """Where WANDB_MODE or `galvan --offline` says offline, files that `wandb sync` sends later. No console, code or machine facts are sent."""

    def __init__(self, folder: Path, recipe: Recipe, known: str | None, step: int, offline: bool) -> None:
        import wandb

        quiet = wandb.Settings(
            console="off", silent=True, disable_git=True, save_code=False, x_disable_meta=True, x_disable_stats=True
        )
        place = folder / "trackers"
        place.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT), name=recipe.name, id=known, resume="allow" if known else None, dir=str(place),
            config=settings_of(recipe), settings=quiet, mode="offline" if offline else None,
        )  # fmt: skip
        self.id = str(self._run.id)

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        self._run.log(dict(figures), step=step)

    def conclude(self, step: int, figures: Mapping[str, float], words: Mapping[str, str]) -> None:
        self._run.summary.update({**figures, **{f"verdict/{name}": word for name, word in words.items()}})

    def close(self) -> None:
        self._run.finish()


@hook("mlflow")
class MLflow:
    """To MLFLOW_TRACKING_URI, else RUN/trackers/mlflow.db. A server that is away is asked twice, not for minutes."""

    def __init__(self, folder: Path, recipe: Recipe, known: str | None, step: int, offline: bool) -> None:
        for name, value in (
            ("MLFLOW_DISABLE_TELEMETRY", "true"),
            ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1"),
            ("MLFLOW_HTTP_REQUEST_TIMEOUT", "10"),
        ):
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient

        place = folder / "trackers"
        place.mkdir(parents=True, exist_ok=True)
        address = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{place.absolute() / 'mlflow.db'}"
        if offline and not address.startswith(("sqlite:", "file:", "/", ".")):
            raise RecipeError("tracker/offline", "MLFLOW_TRACKING_URI points to another machine, and --offline was asked for")
        self._client = MlflowClient(address)
        self.id = known or self._create(recipe)

    def _create(self, recipe: Recipe) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        found = self._client.get_experiment_by_name(name)
        run = self._client.create_run(found.experiment_id if found else self._client.create_experiment(name), run_name=recipe.name)
        for option, value in settings_of(recipe).items():
            self._client.log_param(run.info.run_id, option, str(value)[:500])
        return str(run.info.run_id)

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self._client.log_metric(self.id, name, value, step=step)

    def conclude(self, step: int, figures: Mapping[str, float], words: Mapping[str, str]) -> None:
        self.log(step, figures)
        for name, word in words.items():
            self._client.set_tag(self.id, f"verdict.{name}", word)

    def close(self) -> None:
        self._client.set_terminated(self.id)


@hook("trackio")
class Trackio:
    """To trackio's own database on this machine, or wherever TRACKIO_SPACE_ID and TRACKIO_SERVER_URL point."""

    def __init__(self, folder: Path, recipe: Recipe, known: str | None, step: int, offline: bool) -> None:
        import trackio

        away = {"TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL"} & os.environ.keys()
        if offline and away:
            raise RecipeError("tracker/offline", f"{sorted(away)[0]} points to another machine, and --offline was asked for")
        self.id = known or f"{recipe.name}-{os.urandom(4).hex()}"
        self._run = trackio.init(
            project=PROJECT,
            name=self.id,
            resume="allow",
            config=settings_of(recipe),
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        self._run.log(dict(figures), step=step)

    def conclude(self, step: int, figures: Mapping[str, float], words: Mapping[str, str]) -> None:
        self._run.log({**figures, **{f"verdict/{name}": word for name, word in words.items()}}, step=step)

    def close(self) -> None:
        self._run.finish()
