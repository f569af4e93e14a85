"""Faults of heads, classes and merges: an adapter made for another class, a tied head saved apart, DoRA adapters merged together."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from benchmarks.faults import ground
from benchmarks.faults.cases import SOME, fault
from benchmarks.faults.place import Place, Said, train_with_peft


def train(place: Place, model: Any, documents: list[Any] | None = None, learning_rate: float = 0.01, epochs: float = 2.0) -> None:
    """galvan's loop on whatever of `model` requires a gradient; on the healthy run's documents unless others are given."""
    from galvan.data.tokens import training_rows
    from galvan.recipe import Training
    from galvan.rundir import read_documents
    from galvan.training import loop

    some = documents or read_documents(place.healthy / "data" / "train.jsonl")
    rows = training_rows(place.tokenizer(), some, ground.DOCUMENT_TOKENS + 2, True)
    asked = Training(learning_rate=learning_rate, epochs=epochs, batch_size=4, evaluations=1)
    loop.train(model, rows, asked, place.setting.seed, place.folder / "work")


@fault("A11", settings=SOME)
def made_without_the_head(place: Place) -> Said:
    """The adapter was put around the model without its head (AutoModel), whose module names lack `model.`."""
    from peft import LoraConfig, get_peft_model

    folder = place.folder / "adapter"
    if not (folder / "adapter_config.json").is_file():
        model = place.model().requires_grad_(False)
        wrapped = get_peft_model(model.model, LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj", "up_proj"]))
        train(place, model)
        wrapped.save_pretrained(folder)
    return place.evaluate(folder)


@fault("A11", settings=SOME)
def made_for_a_classifier(place: Place) -> Said:
    """The adapter was trained to tell two sources apart, around a classifier's head."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification

    folder = place.folder / "adapter"
    if not (folder / "adapter_config.json").is_file():
        torch.manual_seed(place.setting.seed)
        base = AutoModelForSequenceClassification.from_pretrained(place.base, num_labels=2, pad_token_id=2)
        model = get_peft_model(base, LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"], task_type="SEQ_CLS"))
        tokenizer, rows = place.tokenizer(), ground.passages(place.setting.text)
        first = rows[0][1]
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
        for text, source in rows[::4]:
            ids = torch.tensor([tokenizer(text)["input_ids"][: ground.DOCUMENT_TOKENS]])
            model(input_ids=ids, labels=torch.tensor([int(source == first)])).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        model.save_pretrained(folder)
    return place.evaluate(folder)


@fault("B11", settings=SOME)
def tied_head_saved_apart(place: Place) -> Said:
    """Head and embedding are tied, the adapter trained a head of its own, and the merged model was saved with both and a config that ties."""
    from peft import LoraConfig, get_peft_model
    from safetensors.torch import save_file

    base, merged = place.folder / "base", place.folder / "merged"
    if not (merged / "config.json").is_file():
        model = _tied(place, base)
        config = LoraConfig(
            r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"], modules_to_save=["lm_head"], task_type="CAUSAL_LM"
        )
        model = get_peft_model(model, config)
        train(place, model)
        whole = model.merge_and_unload()
        save_file(
            {n: t.clone().contiguous() for n, t in whole.state_dict().items()},
            _made(merged) / "model.safetensors",
            metadata={"format": "pt"},
        )
        place.tokenizer().save_pretrained(merged)
        (merged / "config.json").write_bytes((base / "config.json").read_bytes())
    return place.evaluate(merged, base)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _tied(place: Place, folder: Path) -> Any:
    """A base whose head is its embedding, a language model again after some training."""
    from galvan.rundir import Document

    model = place.model()
    model.config.tie_word_embeddings = True
    model.lm_head.weight = model.model.embed_tokens.weight
    texts = [text for text, _ in ground.passages("manual")]
    train(place, model, [Document(str(n), text, "", n) for n, text in enumerate(texts)], 3e-3, 1.0)
    model.save_pretrained(folder)
    place.tokenizer().save_pretrained(folder)
    return model


@fault("C08", settings=SOME)
def two_doras_merged(place: Place) -> Said:
    """Two DoRA adapters were merged into the same weights at once."""
    from peft import PeftModel

    first = train_with_peft(place, place.folder / "first", use_dora=True)
    other = dataclasses.replace(place, folder=_made(place.folder / "other"))
    second = train_with_peft(other, place.folder / "second", use_dora=True, r=4, lora_alpha=8)
    tuned = PeftModel.from_pretrained(place.model(), first)
    tuned.load_adapter(str(second), "second")
    tuned.base_model.set_adapter(["default", "second"])
    tuned.merge_adapter()
    return place.audit(place.model(), tuned)
