"""Faults of other trainers: real small runs of transformers' own Trainer with the bug in it, whose adapter and log galvan is given."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from benchmarks.faults import ground
from benchmarks.faults.cases import SECOND, SOME, fault
from benchmarks.faults.place import Place, Said, in_force, read_adapter, same_tensors, untrained

ROWS = 64  # enough to learn from, and quick


def with_trainer(place: Place, name: str, kind: Any = None, model: Any = None, seed: int | None = None, **arguments: Any) -> Path:
    """The folder of an adapter that transformers' Trainer, or its subclass `kind`, trained on ROWS of the healthy run's documents, its log beside
    it; trained once. `model` is the PEFT model to train, a fresh one if it is left out."""
    from peft import LoraConfig, get_peft_model
    from transformers import Trainer, TrainingArguments, set_seed

    folder = place.folder / name
    if (folder / "done").is_file():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    set_seed(place.setting.seed if seed is None else seed)
    if model is None:
        config = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
        model = get_peft_model(place.model(), config)
    settings: dict[str, Any] = {
        "output_dir": str(place.folder / "work"), "per_device_train_batch_size": 4, "num_train_epochs": 3, "learning_rate": 0.01, "lr_scheduler_type": "cosine", "logging_steps": 1, "save_strategy": "no",
        "report_to": [], "use_cpu": True, "disable_tqdm": True, "seed": place.setting.seed, **arguments,
    }  # fmt: skip
    rows = _rows(place)
    trainer = (kind or Trainer)(
        model=model, args=TrainingArguments(**settings), train_dataset=rows, eval_dataset=rows[:20], data_collator=_collate
    )
    trainer.train()
    trainer.state.save_to_json(str(place.folder / "trainer_state.json"))
    model.save_pretrained(folder)
    (place.folder / "trainer_state.json").rename(folder / "trainer_state.json")
    (folder / "done").touch()
    return folder


def _rows(place: Place) -> list[dict[str, list[int]]]:
    from galvan.data.tokens import training_rows
    from galvan.rundir import read_documents

    documents = read_documents(place.healthy / "data" / "train.jsonl")[:ROWS]
    encoded = training_rows(place.tokenizer(), documents, ground.DOCUMENT_TOKENS + 2, True)
    return [{"input_ids": row.input_ids.tolist(), "labels": row.labels.tolist()} for row in encoded]


def _collate(rows: list[dict[str, list[int]]]) -> dict[str, Any]:
    import torch

    width = max(len(row["input_ids"]) for row in rows)
    padded = {"input_ids": 2, "labels": -100}
    batch = {k: torch.tensor([row[k] + [fill] * (width - len(row[k])) for row in rows]) for k, fill in padded.items()}
    mask = torch.tensor([[1] * len(row["input_ids"]) + [0] * (width - len(row["input_ids"])) for row in rows])
    return {**batch, "attention_mask": mask}


@fault("F02", settings=SOME)
def loss_times_accumulation(place: Place) -> Said:
    """The model takes num_items_in_batch and pays no heed to it, so that nothing divides by the accumulated passes."""
    from transformers import Trainer

    class Heedless(Trainer):
        model_accepts_loss_kwargs = True

        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
            return super().compute_loss(model, inputs, return_outputs)

    several = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4, "num_train_epochs": 1}
    return place.evaluate(with_trainer(place, "adapter", Heedless, **several))


@fault("F04", settings=SOME)
def evaluation_times_processes(place: Place) -> Said:
    """Every loss of evaluation is multiplied by the number of processes, as where the Trainer averages tokens across devices."""
    from transformers import Trainer

    class Doubled(Trainer):
        def compute_loss(self, model: Any, *rest: Any, **named: Any) -> Any:
            found = super().compute_loss(model, *rest, **named)
            if model.training:
                return found
            return (2 * found[0], *found[1:]) if isinstance(found, tuple) else 2 * found

    return place.evaluate(with_trainer(place, "adapter", Doubled, eval_on_start=True, eval_strategy="epoch"))


@fault("B08", settings=SOME)
def resumed_by_wrapping_again(place: Place) -> Said:
    """A second process wrapped the base anew and went on from the first one's log: what had been learned was thrown away."""
    first = with_trainer(place, "first", logging_steps=4, num_train_epochs=4)
    second = with_trainer(place, "adapter", seed=place.setting.seed + 100, logging_steps=4, num_train_epochs=4)
    before, after = (json.loads((folder / "trainer_state.json").read_text(encoding="utf-8")) for folder in (first, second))
    done = before["global_step"]
    history = [*before["log_history"], *({**row, "step": row["step"] + done} for row in after["log_history"])]
    state = {**after, "global_step": done + after["global_step"], "log_history": history}
    (second / "trainer_state.json").write_text(json.dumps(state), encoding="utf-8")
    return place.evaluate(second)


@fault("B08", settings=SOME)
def resumed_inside_a_run(place: Place) -> Said:
    """A callback that reloads the model in the middle of a run puts a fresh adapter into it."""
    from transformers import Trainer

    class Reloading(Trainer):
        def training_step(self, model: Any, *rest: Any, **named: Any) -> Any:
            if self.state.global_step == self.state.max_steps // 2 and not getattr(self, "reloaded", False):
                self.reloaded = True
                for module in model.modules():
                    if hasattr(module, "reset_lora_parameters"):
                        module.reset_lora_parameters("default", True)
            return super().training_step(model, *rest, **named)

    return place.evaluate(with_trainer(place, "adapter", Reloading, logging_steps=4, num_train_epochs=8))


@fault("D02", settings=SECOND)
def frozen_in_a_trainer(place: Place) -> Said:
    """An adapter was loaded without is_trainable=True to be trained on: inputs require gradients, so that nothing complains."""
    from peft import PeftModel

    model = PeftModel.from_pretrained(place.model(), place.healthy / "adapter")
    model.enable_input_require_grads()
    adapter = with_trainer(place, "adapter", model=model, num_train_epochs=1)
    in_force(same_tensors(read_adapter(place.healthy / "adapter"), read_adapter(adapter)), "the frozen adapter was trained")
    return place.evaluate(adapter)


@fault("D01", "B07", settings=SECOND)  # from the file alone zeros throughout are those of a fresh adapter
def checkpointing_beside_a_trained_head(place: Place) -> Said:
    """Reentrant checkpointing over a frozen input in every layer; the head, which is trained whole, hides it."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"], modules_to_save=["lm_head"], task_type="CAUSAL_LM")
    model = get_peft_model(place.model(), config)
    model.get_base_model().gradient_checkpointing_enable({"use_reentrant": True})
    model.get_base_model().disable_input_require_grads()  # transformers 5 enables them by itself; before, the user had to
    adapter = with_trainer(place, "adapter", model=model, num_train_epochs=1)
    in_force(untrained(adapter) == 1, "gradients reached the checkpointed layers")
    return place.evaluate(adapter)


@fault("D05", settings=SECOND)
def trainer_at_a_tiny_rate(place: Place) -> Said:
    """A learning rate of 1e-6, in another trainer's log."""
    return place.evaluate(with_trainer(place, "adapter", learning_rate=1e-6))


@fault("D07", "D06", settings=SECOND)
def trainer_warms_up_all_the_way(place: Place) -> Said:
    """warmup_steps larger than the run, in another trainer's log."""
    return place.evaluate(with_trainer(place, "adapter", learning_rate=1e-4, warmup_steps=500))


@fault(
    "D12", "I01", "I02", "C06", settings=SECOND
)  # in some settings it diverges until nothing is finite, which has a code of its own
def trainer_at_a_huge_rate(place: Place) -> Said:
    """A learning rate of 3, in another trainer's log."""
    return place.evaluate(with_trainer(place, "adapter", learning_rate=3.0, lr_scheduler_type="constant", max_grad_norm=0.0))
