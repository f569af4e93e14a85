"""More runs in which nothing is wrong: what is told beside them is right, and other programs made them well."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.faults.cases import healthy
from benchmarks.faults.cases_answers import PROMPT, greedy, pair
from benchmarks.faults.cases_chats import SAME, _chat, _pair, rows_of, with_template
from benchmarks.faults.cases_healthy import MORE
from benchmarks.faults.cases_trainers import with_trainer
from benchmarks.faults.commands import audited, checked, perplexity, reported
from benchmarks.faults.place import Place, Said, edit_tensors, rename_keys


@healthy(MORE)
def healthy_reported(place: Place) -> Said:
    """Reported: the right perplexities, with the paired interval over texts."""
    from galvan.statistics.paired import paired_gain

    def figures(base: Any, tuned: Any) -> dict[str, Any]:
        gain = paired_gain(base[0], tuned[0], base[1])
        assert gain.ci95 is not None
        return {"base": perplexity(base), "tuned": perplexity(tuned), "ci95": [gain.ci95.low, gain.ci95.high]}

    return reported(place, figures)


@healthy(MORE)
def healthy_rounded_figures(place: Place) -> Said:
    """Reported: the right perplexities to two decimals, and no interval where the gain is plain."""
    return reported(place, lambda base, tuned: {"base": round(perplexity(base), 2), "tuned": round(perplexity(tuned), 2)})


@healthy(MORE)
def healthy_server(place: Place) -> Said:
    """A server that answers greedily, each model as itself."""
    base, tuned = pair(place)
    return audited(place, base, tuned, generate=greedy(place), prompt=PROMPT)


@healthy(MORE)
def healthy_export(place: Place) -> Said:
    """The adapter merged in float32 and exported."""
    return checked(place, place.adapter(), _merged(place))


@healthy(MORE)
def healthy_merged(place: Place) -> Said:
    """The merged model, evaluated as a whole model against its base."""
    return place.evaluate(_merged(place))


def _merged(place: Place) -> Path:
    """The healthy adapter merged in float32, as another program would export it."""
    _, tuned = pair(place)
    folder = place.folder / "merged"
    tuned.merge_and_unload().save_pretrained(folder)
    place.tokenizer().save_pretrained(folder)
    return folder


@healthy(MORE)
def healthy_trainer(place: Place) -> Said:
    """transformers' Trainer trained it, and its log lies beside it."""
    return place.evaluate(with_trainer(place, "adapter", eval_strategy="epoch"))


@healthy(MORE)
def healthy_chat(place: Place) -> Said:
    """Conversations on a base with a chat template that is used as it was trained."""
    return place.run({"data.source": rows_of(place, _chat), "model.base": str(with_template(place, SAME))})


@healthy(MORE)
def healthy_pairs(place: Place) -> Said:
    """Prompts with completions, the space between them in the completion."""
    return place.run({"data.source": rows_of(place, _pair)})


@healthy(MORE)
def healthy_of_two(place: Place) -> Said:
    """Two adapters are loaded, and the one that was meant is active."""
    _, tuned = pair(place)
    other = edit_tensors(place.adapter(), lambda tensors: {n: t.flip(0) for n, t in tensors.items()})
    tuned.load_adapter(str(other), "other")
    return audited(place, place.model(), tuned, adapter=place.healthy / "adapter")


@healthy(MORE)
def healthy_bfloat16(place: Place) -> Said:
    """The base in bfloat16, the adapter in float32."""
    return place.run({"model.dtype": "bfloat16"})


@healthy(MORE)
def healthy_again(place: Place) -> Said:
    """One epoch, then a second training of the same adapter from another trainer, which goes on where the first one was."""
    import json

    from peft import PeftModel

    first = with_trainer(place, "first", num_train_epochs=1)
    model = PeftModel.from_pretrained(place.model(), first, is_trainable=True)
    second = with_trainer(place, "adapter", model=model, num_train_epochs=1, learning_rate=3e-3)
    before, after = (json.loads((folder / "trainer_state.json").read_text(encoding="utf-8")) for folder in (first, second))
    done = before["global_step"]
    if after["global_step"] < 2 * done:
        later = [{**row, "step": row["step"] + done} for row in after["log_history"]]
        state = {**after, "global_step": done + after["global_step"], "log_history": [*before["log_history"], *later]}
        (second / "trainer_state.json").write_text(json.dumps(state), encoding="utf-8")
    return place.evaluate(second)


@healthy(MORE)
def healthy_keys_with_default(place: Place) -> Said:
    """The keys are those of model.state_dict(), with `default` in them: PEFT loads them all the same."""
    return place.evaluate(rename_keys(place.adapter(), lambda n: n.replace(".weight", ".default.weight")))
