"""Where one case happens: a scratch folder, the healthy fine-tune that is spoilt in it, and galvan's real commands on the result."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.faults import ground
from benchmarks.faults.ground import Setting

Tensors = dict[str, Any]


@dataclasses.dataclass(slots=True)
class Said:
    """What galvan answered: codes that are present with their certainty, best first; the code of the error that stopped it, if one did.

    The others are what the baselines go by: did held-out loss fall, is PEFT's `get_model_status` content. None: cannot be asked.
    """

    present: list[tuple[str, str]]
    unknown: list[str] = dataclasses.field(default_factory=list)
    verdict: str | None = None
    error: str | None = None
    message: str | None = None
    gain: float | None = None
    loss_fell: bool | None = None
    peft_content: bool | None = None
    forgot: bool | None = None

    @property
    def answers(self) -> list[tuple[str, str]]:
        """An error that stopped the run is an answer too, and nothing is less doubtful."""
        return [(self.error, "certain")] if self.error else self.present


@dataclasses.dataclass(slots=True)
class Place:
    """One case at work. `out` is the benchmark's folder, `folder` this case's own."""

    out: Path
    folder: Path
    setting: Setting

    # ---- what is there ----

    @property
    def healthy(self) -> Path:
        return ground.healthy(self.out, self.setting)

    @property
    def base(self) -> Path | str:
        return ground.base_folder(self.out, self.setting.base)

    def test_file(self) -> Path:
        return self.healthy / "data" / "test.jsonl"

    def adapter(self) -> Path:
        """A copy of the healthy adapter, to be spoilt."""
        return self._copy(self.healthy / "adapter", "adapter")

    def model(self, folder: Path | str | None = None) -> Any:
        from galvan.models import load_base, locate
        from galvan.recipe import Model

        return load_base(locate(str(folder or self.base)), Model(device="cpu", dtype="float32"))

    def tokenizer(self) -> Any:
        from galvan.models import load_tokenizer, locate

        return load_tokenizer(locate(str(self.base)))

    # ---- galvan's commands ----

    def run(self, changes: dict[str, Any] | None = None) -> Said:
        """`galvan.run` of the healthy recipe with `changes`."""
        tree = ground.recipe(self.out, self.setting, changes)
        return self._asked(lambda: ground.run(self.folder / "run", tree))

    def evaluate(self, adapter: Path, base: Path | str | None = None, test: Path | None = None) -> Said:
        """`galvan.evaluate` on the documents that the healthy run held out; PEFT is asked what it thinks of the same pair."""
        import galvan

        base = base or self.base
        settings = [f"data.document_tokens={ground.DOCUMENT_TOKENS}", "model.device=cpu", "model.dtype=float32"]
        settings += [f"generation.{name}={value}" for name, value in ground.GENERATION.items()]
        said = self._asked(
            lambda: galvan.evaluate(
                base, adapter, test or self.test_file(), train_data=self.healthy / "data" / "train.jsonl", out=self.folder / "evaluated",
                settings=settings, offline=True,
            )
        )  # fmt: skip
        return dataclasses.replace(said, peft_content=self._peft_is_content(base, adapter))

    def audit(self, base: Any, tuned: Any) -> Said:
        """`galvan.audit` on live objects."""
        import galvan

        audit = galvan.audit(base=base, tuned=tuned, tokenizer=self.tokenizer())
        return dataclasses.replace(_found(audit.findings), peft_content=_content(tuned))

    def judge_again(self) -> Said:
        """`galvan report` on a copy of the healthy run, which `self.finished()` made and the case spoilt, as if its stages had left it so."""
        from galvan.report import judge
        from galvan.rundir import read_json, sha256_file, write_json

        run = self.folder / "run"
        for marker in (run / "stages").glob("*.json"):
            said = read_json(marker)
            there = {name: sha256_file(run / name) for name in said["outputs"] if (run / name).is_file()}
            write_json(marker, {**said, "outputs": {**said["outputs"], **there}})
        return self._asked(lambda: judge(run))

    def finished(self) -> Path:
        """A copy of the whole healthy run."""
        return self._copy(self.healthy, "run")

    def _copy(self, folder: Path, name: str) -> Path:
        shutil.rmtree(self.folder / name, ignore_errors=True)
        return Path(shutil.copytree(folder, self.folder / name))

    def _asked(self, ask: Callable[[], Any]) -> Said:
        from galvan.errors import GalvanError

        for name in ("run", "evaluated"):  # asked again after the code changed: what was trained is kept, what was found is not
            (self.folder / name / "stages" / "check.json").unlink(missing_ok=True)
        try:
            judged = ask()
        except GalvanError as error:
            return Said([], error=error.code, message=str(error))
        return _judged(judged)

    def _peft_is_content(self, base: Path | str, adapter: Path) -> bool | None:
        """What a careful person without galvan does: load with PEFT, and look at get_model_status. None for a whole model."""
        from peft import PeftModel

        if not (adapter / "adapter_config.json").is_file():
            return None
        try:
            return _content(PeftModel.from_pretrained(self.model(base), adapter))
        except Exception:  # whatever PEFT raises, it is not content
            return False


def _content(model: Any) -> bool:
    from peft import get_layer_status, get_model_status

    try:
        status, layers = get_model_status(model), get_layer_status(model)
    except Exception:
        return False
    return bool(
        status.enabled is True
        and status.active_adapters
        and "irregular" not in str(status)
        and not status.merged_adapters
        and layers
    )


def _judged(judged: Any) -> Said:
    verdict = json.loads((judged.folder / "verdict.json").read_text(encoding="utf-8"))
    said = _found(judged.verdict["findings"])
    gain = verdict["fit"]["gain"]["nats_per_token"]
    forgot = (verdict.get("retention") or {}).get("forgot")
    return dataclasses.replace(
        said, verdict=verdict["verdict"], gain=gain, loss_fell=_loss_fell(judged.folder, gain), forgot=forgot
    )


def _loss_fell(folder: Path, gain: float | None) -> bool | None:
    path = folder / "curves.jsonl"
    if not path.is_file():
        return None if gain is None else gain > 0
    rows = [row for line in path.read_text(encoding="utf-8").splitlines() if (row := json.loads(line))["set"] == "validation"]
    sums: dict[int, float] = {}
    for row in rows:
        sums[row["step"]] = sums.get(row["step"], 0.0) + (row["nll_nats"] if row["nll_nats"] is not None else float("inf"))
    return sums[max(sums)] < sums[0] if sums else None


def _found(findings: Any) -> Said:
    return Said(
        [(f.code, f.certainty) for f in findings if f.status == "present"], [f.code for f in findings if f.status == "unknown"]
    )


# ---- is it there? ----


class NotInForce(Exception):
    """What a case meant to put in is not there: the case is one of no fault, and counts nowhere."""


def in_force(there: bool, what: str) -> None:
    """Raise NotInForce(`what`) unless the fault is there."""
    if not there:
        raise NotInForce(what)


def same_tensors(first: Tensors, second: Tensors) -> bool:
    import torch

    return first.keys() == second.keys() and all(
        t.dtype == second[name].dtype and torch.equal(t, second[name]) for name, t in first.items()
    )


def read_adapter(adapter: Path) -> Tensors:
    from safetensors.torch import load_file

    return load_file(adapter / "adapter_model.safetensors")


def untrained(adapter: Path) -> float:
    """The share of an adapter's lora_B that are zero, as at the start."""
    zeros = [not t.any() for name, t in read_adapter(adapter).items() if "lora_B" in name]
    return sum(map(bool, zeros)) / len(zeros)


# ---- spoiling files ----


def edit_tensors(adapter: Path, change: Callable[[Tensors], Tensors]) -> Path:
    """Rewrite adapter_model.safetensors."""
    from safetensors.torch import save_file

    changed = {name: t.contiguous() for name, t in change(read_adapter(adapter)).items()}
    in_force(not same_tensors(changed, read_adapter(adapter)), "the edit of the adapter's tensors changed none")
    save_file(changed, adapter / "adapter_model.safetensors", metadata={"format": "pt"})
    return adapter


def rename_keys(adapter: Path, change: Callable[[str], str]) -> Path:
    return edit_tensors(adapter, lambda tensors: {change(name): t for name, t in tensors.items()})


def edit_config(adapter: Path, **changes: Any) -> Path:
    """Rewrite adapter_config.json; a value of `...` takes the key out."""
    path = adapter / "adapter_config.json"
    before = json.loads(path.read_text(encoding="utf-8"))
    after = {k: v for k, v in {**before, **changes}.items() if v is not ...}
    in_force(after != before, "the edit of adapter_config.json changed nothing")
    path.write_text(json.dumps(after), encoding="utf-8")
    return adapter


def train_with_peft(
    place: Place, folder: Path, learning_rate: float = 0.01, epochs: float = 4.0, base: Path | None = None, **config: Any
) -> Path:
    """An adapter of any PEFT configuration, trained on the healthy run's documents by galvan's loop and saved by PEFT itself.

    Trained once: a case that is asked again finds it in its folder `trained`.
    """
    import torch
    from peft import LoraConfig, get_peft_model

    from galvan.data.tokens import training_rows
    from galvan.recipe import Training
    from galvan.rundir import read_documents
    from galvan.training.loop import train

    kept = place.folder / "trained"
    if (kept / "done").is_file():
        return _trained(place, kept, folder)
    settings = {"r": 8, "lora_alpha": 16, "target_modules": "all-linear", "task_type": "CAUSAL_LM", **config}
    name = settings.pop("adapter_name", "default")
    torch.manual_seed(place.setting.seed)
    model = get_peft_model(place.model(base), LoraConfig(**settings), adapter_name=name)
    rows = training_rows(
        place.tokenizer(), read_documents(place.healthy / "data" / "train.jsonl"), ground.DOCUMENT_TOKENS + 2, True
    )
    asked = Training(learning_rate=learning_rate, epochs=epochs, batch_size=4, evaluations=1)
    train(model, rows, asked, place.setting.seed, place.folder / "work")
    model.save_pretrained(kept)
    (kept / "done").touch()
    return _trained(place, kept, folder)


def _trained(place: Place, kept: Path, folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    inner = next(kept.glob("**/adapter_config.json")).parent  # PEFT puts an adapter that is not called default one folder deeper
    return Path(shutil.copytree(inner, folder, ignore=shutil.ignore_patterns("done")))


def write_trainer_state(place: Place, folder: Path, **changes: Any) -> None:
    """The log that a transformers Trainer would have left beside the adapter, with the healthy run's own losses."""
    trace = [json.loads(line) for line in (place.healthy / "training.jsonl").read_text(encoding="utf-8").splitlines()]
    history = [
        {"step": row["step"], "loss": row["loss_nats"], "learning_rate": row["learning_rate"], "grad_norm": row["gradient_norm"]}
        for row in trace
    ]
    state = {"global_step": len(trace), "log_history": history, **changes}
    (folder / "trainer_state.json").write_text(json.dumps(state), encoding="utf-8")


def write_record(place: Place, adapter: Path, **changes: Any) -> None:
    """galvan's training.json beside the adapter, as a run leaves it, but for the digest of the file, which was edited."""
    record = json.loads((place.healthy / "training.json").read_text(encoding="utf-8"))
    kept = {k: v for k, v in {**record, **changes}.items() if k != "adapter_sha256"}
    (adapter.parent / "training.json").write_text(json.dumps(kept), encoding="utf-8")


@contextmanager
def patched(module: Any, name: str, value: Any) -> Iterator[None]:
    """`module.name` is `value` for a while: a bug in the training code itself."""
    kept = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, kept)
