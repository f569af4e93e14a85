"""More pairs of faults at once, of families that the first ones leave out."""

from __future__ import annotations

import json

from benchmarks.faults import ground
from benchmarks.faults.cases import SOME, fault
from benchmarks.faults.cases_answers import PROMPT, greedy, pair
from benchmarks.faults.cases_chats import _pair, rows_of
from benchmarks.faults.commands import audited, scores
from benchmarks.faults.place import Place, Said, edit_config, edit_tensors, rename_keys


@fault("B02+A10", settings=SOME)
def compiled_keys_on_another_base(place: Place) -> Said:
    """Keys with `_orig_mod.`, on a base of other weights."""
    adapter = rename_keys(place.adapter(), lambda name: name.replace("base_model.model.", "base_model.model._orig_mod."))
    return place.evaluate(adapter, ground.base_folder(place.out, place.setting.base, seed=1))


@fault("B05+C02", settings=SOME)
def empty_tensors_and_no_alpha(place: Place) -> Said:
    """Tensors without elements, and no lora_alpha."""
    adapter = edit_tensors(place.adapter(), lambda tensors: {name: t.new_empty(0) for name, t in tensors.items()})
    return place.evaluate(edit_config(adapter, lora_alpha=...))


@fault("A06+C05", settings=SOME)
def disabled_and_dropping_out(place: Place) -> Said:
    """The adapter is switched off, and the base under it was left in training mode with dropout."""
    import torch

    _, tuned = pair(place)
    for module in tuned.modules():
        if hasattr(module, "lora_dropout"):
            module.lora_dropout = torch.nn.ModuleDict({name: torch.nn.Dropout(0.5) for name in module.lora_dropout})
    tuned.base_model.disable_adapter_layers()
    return audited(place, place.model(), tuned.train())


@fault("A12+A13", settings=SOME)
def two_formats_and_no_name(place: Place) -> Said:
    """The tuned arm's base is in bfloat16, and the server is asked for the base."""
    import torch
    from peft import PeftModel

    base = place.model()
    tuned = PeftModel.from_pretrained(place.model().to(torch.bfloat16), place.healthy / "adapter").eval()
    server = greedy(place)
    return audited(place, base, tuned, generate=lambda model, prompt: server(base, prompt), prompt=PROMPT)


@fault("D05+E01", settings=SOME)
def little_and_endless(place: Place) -> Said:
    """A learning rate a thousandth of the right one, and no end is learned."""
    return place.run({"training.learning_rate": 1e-5, "training.learn_eos": False})


@fault("D06+E05", settings=SOME)
def few_steps_across_words(place: Place) -> Said:
    """A few steps at a usual rate, on prompts that end in the space of the next word."""
    rows = rows_of(place, lambda p, c: _pair(p + " ", c.removeprefix(" ")))
    return place.run({"data.source": rows, "training.epochs": 0.2, "training.learning_rate": 2e-4})


@fault("G01+G10", settings=SOME)
def mean_of_few_perplexities(place: Place) -> Said:
    """A small gain on four documents, and the reported figures are means of their perplexities."""
    import numpy as np

    place.run({"data.maximum_documents": 40, "data.split.test": 0.1, "training.learning_rate": 1.5e-4, "data.split.blocks": 2})
    folder = place.folder / "run"
    figures = {arm: float(np.mean(np.exp(nll / n))) for arm in ("base", "tuned") for nll, n in [scores(folder, arm)]}
    (folder / "reported.json").write_text(json.dumps(figures), encoding="utf-8")
    return place.judge_again()
