"""The model card of an adapter: what was measured, with intervals, as the Hub reads it and as people do. A pure function of the run's files.

It names no place on the machine and quotes no text: sources are reduced to their names, copies to their lengths.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from galvan.compare import BASE, TEST, TUNED, paired, read_scores
from galvan.copying.originality import HUMAN
from galvan.copying.originality import TUNED as TUNED_TEXTS
from galvan.payload import Chat
from galvan.report.analysis import HEADLINES
from galvan.report.copying import copying_line
from galvan.report.evidence import Evidence
from galvan.report.explanations import headline_of
from galvan.report.limits import limits
from galvan.report.markdown import code, md, table
from galvan.report.names import BUNDLED, base_id, base_name, data_name, went_on_from, without_paths
from galvan.report.prose import bullets, control_line, epochs, plural, recipe_line, sentence
from galvan.report.retention import retention_line
from galvan.report.style import style_line
from galvan.report.verdict import vetoes
from galvan.rundir import each_document
from galvan.statistics.bits_per_byte import bits_per_byte
from galvan.statistics.ratio import Interval

TAG = "galvan"
_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")


@dataclass(frozen=True, slots=True)
class Asked:
    """What the files of a run cannot know. `base`: the Hub id under which others find a base that was a folder here; `adapter`: what the
    snippet loads, by default the folder that the card lies in; `price_per_hour` of the machine, in `currency`."""

    base: str | None = None
    adapter: str = "."
    licence: str | None = None
    price_per_hour: float | None = None
    currency: str = "USD"


@dataclass(frozen=True, slots=True)
class Result:
    """One line of the model index; `ci95` is None, and `reason` says why, where there is no interval."""

    kind: str
    name: str
    value: float
    ci95: tuple[float, float] | None
    data: str
    reason: str | None = None


def card(folder: Path, e: Evidence, verdict: Mapping[str, Any], asked: Asked | None = None) -> str:
    """README.md with its front matter: of a refused comparison no result, of one that did not work the reason first."""
    from huggingface_hub import ModelCard

    asked = asked or Asked()
    found = list(results(folder, e)) if e.refusal is None else []
    parts = [f"# {e.recipe.name}", *_lead(e, verdict, asked)]
    parts += [f"## {title}\n\n{text}" for title, text in _sections(folder, e, verdict, asked, found) if text]
    body = without_paths("\n\n".join(parts))
    return str(ModelCard(f"---\n{_metadata(e, asked, found).to_yaml()}\n---\n\n{body}\n"))


# ---- results ----


def results(folder: Path, e: Evidence) -> Iterator[Result]:
    """Every figure with its interval, in the order in which the card shows them."""
    held_out = f"{data_name(e.recipe.data.source)}, held-out part"
    yield from _arms(folder, e, held_out)
    if e.test is not None:
        t = e.test
        yield _result(
            "perplexity_change_percent", "Change of perplexity, %", t.perplexity_change_percent, t.perplexity_change_ci95, held_out
        )
        yield _result("gain_nats_per_token", "Gain, nats a token", t.nats_per_token, t.ci95, held_out)
    if bits := e.comparisons.bits if e.comparisons else None:
        yield _result("gain_bits_per_byte", "Gain, bits per byte", bits.bits_per_byte, bits.ci95, held_out)
    if e.style is not None:
        closed, score = e.style.style.gap_closed, e.style.style.author_score
        if closed is not None and closed.value is not None:
            yield _result(
                "style_gap_closed",
                "Style: share of the distance to the author that was closed",
                closed.value,
                closed.ci95,
                held_out,
            )
        if score is not None and score.value is not None:
            yield _result("author_score", "Style: author score, 0 the base and 1 the author", score.value, score.ci95, held_out)
    if e.retention is not None and (n := e.retention.neutral) is not None:
        neutral = data_name(e.recipe.evaluation.neutral)
        yield _result(
            "neutral_perplexity_change_percent",
            "Change of perplexity on neutral text, %",
            n.perplexity_change_percent.value,
            n.perplexity_change_percent.ci95,
            neutral,
        )
        yield _result("kl_nats", "KL from base to tuned on neutral text, nats a token", n.kl_nats.value, n.kl_nats.ci95, neutral)
        yield _result(
            "top1_agreement",
            "Share of tokens with the same likeliest continuation",
            n.top1_agreement.value,
            n.top1_agreement.ci95,
            neutral,
        )


def _result(kind: str, name: str, value: float, ci95: Sequence[float] | None, data: str) -> Result:
    return Result(kind, name, value, None if ci95 is None else (ci95[0], ci95[1]), data)


def _arms(folder: Path, e: Evidence, data: str) -> Iterator[Result]:
    """Perplexity (where the tokenizers agree) and bits per byte of either arm, each about the population that the documents speak for."""
    base, tuned = paired(read_scores(folder / "scores.parquet"), TUNED, TEST, tokens=e.test is not None)
    for name, arm in ((BASE, base), (TUNED, tuned)):
        by_token, by_byte = (
            bits_per_byte(arm.nll_nats, sizes, sources=arm.sources, positions=arm.positions)
            for sizes in (arm.n_tokens, arm.n_bytes)
        )
        if e.test is not None:  # a perplexity is two to the bits a token
            ends = None if by_token.ci95 is None else Interval(2**by_token.ci95.low, 2**by_token.ci95.high)
            yield _result(f"{name}_perplexity", f"Perplexity, {name}", 2**by_token.bits_per_byte, ends, data)
        yield _result(f"{name}_bits_per_byte", f"Bits per byte, {name}", by_byte.bits_per_byte, by_byte.ci95, data)


def _metadata(e: Evidence, asked: Asked, found: Sequence[Result]) -> Any:
    from huggingface_hub import EvalResult, ModelCardData

    source, lora = e.recipe.data.source, e.recipe.training.method == "lora"
    results = [
        EvalResult(
            task_type="text-generation", dataset_type=r.data, dataset_name=r.data, dataset_split="test", metric_type=r.kind,
            metric_name=r.name + (f" (95 % interval {r.ci95[0]:.4g} to {r.ci95[1]:.4g})" if r.ci95 else " (interval not defined)"),
            metric_value=float(f"{r.value:.6g}"), metric_args={"ci95": [float(f"{end:.6g}") for end in r.ci95]} if r.ci95 else None,
        )
        for r in found
    ]  # fmt: skip
    return ModelCardData(
        base_model=base_id(e, asked.base), base_model_relation="adapter" if lora else "finetune", library_name="peft" if lora else "transformers",
        pipeline_tag="text-generation", license=asked.licence, tags=[TAG, *(["lora"] if lora else [])],
        datasets=[source.removeprefix("hub:").partition("@")[0].partition(":")[0]] if source.startswith("hub:") else None,
        model_name=e.recipe.name, eval_results=results or None,
    )  # fmt: skip


# ---- what people read ----


def _lead(e: Evidence, verdict: Mapping[str, Any], asked: Asked) -> list[str]:
    """What it is, then the verdict; a run that did not work says so before anything else."""
    kind = "A LoRA adapter for" if e.recipe.training.method == "lora" else "A fine-tune of"
    what = f"{kind} {code(base_name(e, asked.base))}, trained on {code(data_name(e.recipe.data.source))} and judged by galvan on text that it did not see."
    word, against = str(verdict["verdict"]), vetoes(verdict)
    warning = (
        f"**Do not use this: the comparison with the base is refused.** {md(sentence(e.refusal or ''), 1200)}"
        if word == "refused"
        else f"**Vetoed for {md(' and '.join(against))}.** It was published all the same."
        if against
        else f"**It was not shown to work: {word}.** It was published all the same."
        if verdict["worked"] is not True
        else ""
    )
    headline = headline_of(e)
    told = f"**{HEADLINES[word]}.** {md(headline, 800)}." if headline else ""
    return [f"> {part}" if part is warning else part for part in (warning, what, told) if part]


def _sections(
    folder: Path, e: Evidence, verdict: Mapping[str, Any], asked: Asked, found: Sequence[Result]
) -> Iterator[tuple[str, str]]:
    yield "Results", _results_table(e, found)
    yield "How to load it", _loading(folder, e, asked)
    yield "Training", bullets(list(_training(e, asked)))
    yield "Memorisation", _memorisation(e)
    yield "What was not tested", bullets([*limits(e), *NEVER_TESTED])
    yield "How it was measured", _measured(e)
    yield "How to cite", _citation(e, asked)


NEVER_TESTED = (
    "Whether what it writes is true, safe or unbiased, whether it follows instructions, and any task but going on with a text.",
    "Other prompts, lengths, temperatures and quantisations than those in the table, and merging with other adapters.",
)


def _results_table(e: Evidence, found: Sequence[Result]) -> str:
    if not found:
        return ""
    rows = [
        [md(r.name), f"{r.value:.4g}", f"{r.ci95[0]:.4g} to {r.ci95[1]:.4g}" if r.ci95 else "not defined", code(r.data)]
        for r in found
    ]
    parts = [table(["Measure", "Value", "95 % interval", "Text"], rows)]
    lines = []
    if e.style is not None:
        lines.append(f"Style: {style_line(e.style.style)}")
    if e.retention is not None and e.retention.answer is not None:
        lines.append(f"Forgetting: {retention_line(e.retention)}")
    if e.comparisons is not None:
        lines += [f"Control, {control_line(name, control)}" for name, control in e.comparisons.controls.items()]
        if e.comparisons.recipe is not None and len(e.comparisons.recipe.seeds) > 1:
            lines.append(recipe_line(e.comparisons.recipe))
    present = [f"{f.code}: {f.title}" for f in e.findings if f.status == "present"]
    lines += [f"Found: {'; '.join(present)}"] if present else []
    return "\n\n".join([*parts, bullets(lines)] if lines else parts)


def _loading(folder: Path, e: Evidence, asked: Asked) -> str:
    """A program that runs as it stands; a base that was a folder here must lie under its name where it is run."""
    name, revision = base_name(e, asked.base), e.provenance.get("base_revision")
    chat, nf4, lora = _is_chat(folder), e.recipe.model.quantization == "nf4", e.recipe.training.method == "lora"
    own = base_id(e, asked.base) is None or name.startswith(BUNDLED)
    pinned = f", revision={json.dumps(str(revision))}" if revision and not asked.base and not own else ""
    lines = ["from importlib.resources import files", ""] if name.startswith(BUNDLED) else []
    lines += ["from peft import PeftModel"] if lora else []
    lines += [f"from transformers import AutoModelForCausalLM, AutoTokenizer{', BitsAndBytesConfig' if nf4 and lora else ''}", ""]
    if lora and name.startswith(BUNDLED):
        lines.append(
            f'base = str(files("galvan") / "assets" / {json.dumps(name.removeprefix(BUNDLED))})  # the base comes with galvan'
        )
    elif lora:
        lines.append(f"base = {json.dumps(name)}" + ("  # the folder with the base" if own else ""))
    lines.append(f"tuned = {json.dumps(asked.adapter)}" + ("  # the folder that this file lies in" if asked.adapter == "." else ""))
    source, more = (
        ("base" if lora else "tuned"),
        f'{pinned}, quantization_config=BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")' if nf4 else pinned,
    )
    lines.append(f"tokenizer = AutoTokenizer.from_pretrained({source}{pinned})")
    lines.append(f"model = AutoModelForCausalLM.from_pretrained({source}{more if lora else ''})")
    lines += ["model = PeftModel.from_pretrained(model, tuned)"] if lora else []
    lines += ["", 'prompt = "It was a dark evening, and"']
    if chat:
        lines += [
            'turns = [{"role": "user", "content": prompt}]',
            'inputs = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt", return_dict=True)',
        ]
    else:
        lines.append('inputs = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)')
    lines += [
        "written = model.generate(**inputs.to(model.device), max_new_tokens=60, do_sample=True, temperature=0.8)",
        "print(tokenizer.decode(written[0], skip_special_tokens=True))",
    ]
    needs = (
        "pip install torch transformers"
        + (" peft" if lora else "")
        + (" bitsandbytes" if nf4 else "")
        + (" galvan" if name.startswith(BUNDLED) else "")
    )
    return f"`{needs}`, then:\n\n```python\n" + "\n".join(lines) + "\n```"


def _is_chat(folder: Path) -> bool:
    path = folder / "data" / "train.jsonl"
    first = next(iter(each_document(path)), None) if path.is_file() else None
    return first is not None and isinstance(first.payload, Chat)


def _training(e: Evidence, asked: Asked) -> Iterator[str]:
    settings, origin, facts = e.recipe.training, e.provenance, e.training
    parts = ", ".join(
        f"{plural(e.splits[name].documents, 'document')} ({e.splits[name].words:,} words) to {use}"
        for name, use in (("train", "train"), ("validation", "choose"), ("test", "judge"))
        if e.splits[name].documents
    )
    digest = f", sha256 of the splits `{origin['data_sha256']}`" if origin.get("data_sha256") else ""
    yield f"Data: `{_safe(data_name(e.recipe.data.source))}`, {parts}{digest}. No sentence of it is in this repository's files"
    revision = f" at revision `{_safe(str(origin['base_revision']))}`" if origin.get("base_revision") and not asked.base else ""
    yield f"Base: `{_safe(base_name(e, asked.base))}`{revision}, sha256 of its weights `{origin.get('base_sha256') or 'not recorded'}`"
    if facts is None:
        yield "Trained elsewhere, without a log that galvan could read"
        return
    if settings.method == "lora":
        targets = ", ".join(_safe(str(name)) for name in facts.get("targets") or []) or "no layer that is recorded"
        kind = "".join(word for word, there in ((" rsLoRA", settings.lora.rslora), (" DoRA", settings.lora.dora)) if there)
        yield f"Adapter:{kind} rank {facts.get('rank') or settings.lora.rank}, alpha {facts.get('alpha') or settings.lora.alpha:g}, dropout {settings.lora.dropout:g}, on {targets}"
    yield (
        f"{epochs(settings.epochs)[0].upper()}{epochs(settings.epochs)[1:]}, learning rate {settings.learning_rate:g} ({settings.schedule}, {100 * settings.warmup_ratio:g} % warm-up), {settings.optimizer}, "
        f"batch {settings.batch_size} x {settings.accumulation}, seed {e.recipe.training_seed}"
        + (", base in 4 bits (nf4)" if e.recipe.model.quantization == "nf4" else "")
    )
    if (before := went_on_from(e)) is not None:
        yield f"Trained on from {before}"
    yield f"{plural(int(facts.get('steps') or 0), 'step')}, {int(facts.get('tokens') or 0):,} tokens, {int(facts.get('trainable_parameters') or 0):,} of {int(facts.get('total_parameters') or 0):,} parameters"
    device = (origin.get("device") or {}).get("value", "a device that is not recorded")
    took = seconds(e)
    yield f"Time: {'not recorded' if took is None else f'{took:,.0f} s of training'} on {_safe(str(device))}, {_safe(str((origin.get('dtype') or {}).get('value', 'unknown precision')))}"
    if (spent := cost(took, asked.price_per_hour)) is not None and took is not None:
        yield f"Cost: {spent:.2f} {_safe(asked.currency)} of training at {asked.price_per_hour:g} {_safe(asked.currency)} an hour"
    versions = origin.get("versions") or {}
    yield "Versions: " + ", ".join(f"{_safe(name)} {_safe(str(version))}" for name, version in versions.items())


def seconds(e: Evidence) -> float | None:
    """What training took, evaluations on the way included; None where there is no log."""
    took = e.trace[-1].get("seconds") if e.trace else None
    return float(took) if isinstance(took, int | float) and math.isfinite(took) else None


def cost(took: float | None, price_per_hour: float | None) -> float | None:
    """Seconds at a price an hour."""
    return None if took is None or price_per_hour is None else took / 3600 * price_per_hour


def _safe(text: str) -> str:
    return "".join(letter for letter in text if letter.isalnum() or letter in " ._/@:+-*")[:120]


def _memorisation(e: Evidence) -> str:
    """Lengths and counts only: what was copied is somebody's text."""
    found = e.copying
    if e.refusal is not None or found is None:
        return ""
    lines = [copying_line(found)]
    if found.originality is not None and (tuned := found.originality.of(TUNED_TEXTS)) is not None:
        human = found.originality.of(HUMAN)
        usual = (
            "" if human is None or human.longest_max is None else f"; {human.longest_max} in as much held-out text of the author"
        )
        lines.append(
            f"The longest of {plural(tuned.n_texts, 'text')} shares a run of {tuned.longest_of_all} words with the training text{usual}"
        )
    lines += [
        f"Of {plural(row.n, 'training passage')} {row.greedy} are given word for word after their first tokens (95 % interval {100 * row.greedy_ci95.low:.1f} to {100 * row.greedy_ci95.high:.1f} %)"
        for row in found.extraction
        if (row.arm, row.split) == (TUNED, "train")
    ]
    lines += [found.membership.reason] if found.membership else []
    return bullets(lines)


def _measured(e: Evidence) -> str:
    if e.judged is None:
        return ""
    adapter = e.provenance.get("adapter_sha256")
    return (
        "The base is scored from an object that never held an adapter; base and tuned see the same tokens, each once. Intervals are a jackknife over "
        f"{e.judged.unit}s ({e.judged.n_clusters:,} of them) with Student's t, because neighbouring documents are not independent."
        + (f" Sha256 of the weights that were judged: `{adapter}`." if adapter else "")
    )


def _citation(e: Evidence, asked: Asked) -> str:
    version = (e.provenance.get("versions") or {}).get("galvan", "")
    what = "a LoRA adapter of" if e.recipe.training.method == "lora" else "a fine-tune of"
    key = re.sub(r"[^A-Za-z0-9]+", "-", e.recipe.name).strip("-")
    lines = [f"@misc{{{key},", f"  title = {{{e.recipe.name}: {what} {_safe(base_name(e, asked.base))}}},"]
    lines += [f"  howpublished = {{{_safe(asked.adapter)}}},"] if _ID.fullmatch(asked.adapter) else []
    return "```bibtex\n" + "\n".join([*lines, f"  note = {{Trained and judged with galvan {_safe(str(version))}}}", "}"]) + "\n```"
