"""Texts that base and tuned write to the same prompts, with the same seeds and settings: rows for style, originality and reading.

The base writes first, from an object that no adapter has touched, and writes a second time with other seeds (`base_again`), so that
the noise of sampling is known (H02). Then each adapter is put into that object in turn. Last, a base from fresh files scores what
every adapter wrote. Whether a batch writes what each row would write alone, and with the cache what it would without, is tried on
the live model before it writes (H01, A14).
"""

from __future__ import annotations

import copy
import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from galvan import distributed, models
from galvan.data.tokens import IGNORE, encode_texts
from galvan.errors import ComparisonRefused
from galvan.measure import live
from galvan.measure.bench import Bench
from galvan.measure.decode import Continuation, Job, Sampling, decode, stop_ids
from galvan.measure.facts import FLOORS
from galvan.measure.prompts import Prompt, PromptFacts
from galvan.measure.scoring import score
from galvan.models import Located
from galvan.payload import Tokens
from galvan.progress import Progress
from galvan.recipe import Generation, Recipe
from galvan.rundir import Document

BASE, AGAIN = "base", "base_again"
DISTRIBUTION, OWN, GREEDY = "distribution", "own", "greedy"
PILOT_PROMPTS, PILOT_TOKENS = 4, 24
BATCH_TOLERANCE_NATS = {
    torch.float32: 1e-3
}  # of one token, batched with the cache against alone without it; 0.5 in half precision; or ten floors
MERGE_TOLERANCE_NATS = 1e-4  # rounding of float32 in the merged weights moves a token by less; a wrong merge by far more
LARGEST_COPY_BYTES = 2**31  # a merged copy is made of models up to this size
ENGINE_TOLERANCE_NATS = (
    0.05  # mean difference of a token's log-likelihood between another engine and us; a lost adapter is beyond it
)

# Writes an arm's continuations in place of `decode`: arm, its adapter or model (None: the base), jobs, ids that end a text.
Engine = Callable[[str, Located | None, Sequence[Job], Collection[int]], list[Continuation]]


@dataclass(frozen=True, slots=True)
class Sample:
    """One row of samples.jsonl. `text` is what was written after `prompt`; `logprob_nats` is the sum over its `n_tokens` tokens, special
    ones left out, under the arm that wrote it, at temperature 1; `base_logprob_nats` is that of the base over its `base_n_tokens`."""

    prompt_id: str
    kind: str
    split: str | None
    document: str | None
    prompt: str
    arm: str
    sample: int
    seed: int
    text: str
    stop: str
    settings: Mapping[str, Any]
    n_tokens: int
    logprob_nats: float
    base_n_tokens: int
    base_logprob_nats: float


@dataclass(frozen=True, slots=True)
class BatchFacts:
    """Greedy tokens of `prompts` pilot prompts. `identical`: prompts whose tokens are the same batched and alone. `teacher_forced`: share of
    the batched tokens that are the argmax of one pass over the whole text, and the largest difference of their log-likelihoods to it.
    `alone`: the difference was beyond the tolerance, so rows were written one at a time. `noise_floor_nats` is what another shape alone does
    to one token's likelihood in this model and number format, without padding or cache."""

    prompts: int
    tokens: int
    identical: int
    teacher_forced: float | None
    largest_difference_nats: float
    alone: bool
    noise_floor_nats: float = 0.0


@dataclass(frozen=True, slots=True)
class MergeFacts:
    """Whether the adapter wrote merged into a copy of the weights, and what merging changed: largest difference of one token's likelihood."""

    merged: bool
    reason: str
    largest_difference_nats: float | None = None
    noise_floor_nats: float | None = None


@dataclass(slots=True)
class GenerationFacts:
    """generation.json: what was asked, how texts ended, and the checks, by arm. `stops` counts reasons by arm and settings; `stop_rate` is the
    share of an arm's samples at temperature 1 that the model ended itself; `greedy_same_as_base` counts prompts with the base's very words."""

    prompts: Mapping[str, int]
    left_out: int
    max_new_tokens: int
    settings: Sequence[Sampling]
    engine: str = "galvan"
    greedy_prompts: int = 0
    prompt_ids: PromptFacts | None = None
    stop_ids: dict[str, list[int]] = field(default_factory=dict)
    stops: dict[str, dict[str, dict[str, int]]] = field(default_factory=dict)
    stop_rate: dict[str, float] = field(default_factory=dict)
    greedy_same_as_base: dict[str, int] = field(default_factory=dict)
    batches: dict[str, BatchFacts] = field(default_factory=dict)
    merges: dict[str, MergeFacts] = field(default_factory=dict)
    engine_difference_nats: dict[str, float] = field(default_factory=dict)

    def count(self, samples: Sequence[Sample]) -> None:
        """How the texts of every arm ended, and how many greedy ones are the base's."""
        greedy = {(row.arm, row.prompt_id): row.text for row in samples if row.settings["name"] == GREEDY}
        for arm in dict.fromkeys(row.arm for row in samples):
            mine = [row for row in samples if row.arm == arm]
            self.stops[arm] = {
                s.name: dict(Counter(row.stop for row in mine if row.settings["name"] == s.name)) for s in self.settings
            }
            ends = self.stops[arm][DISTRIBUTION]
            self.stop_rate[arm] = ends.get("eos", 0) / sum(ends.values())
            if arm not in (BASE, AGAIN):
                self.greedy_same_as_base[arm] = sum(greedy[BASE, p] == text for (a, p), text in greedy.items() if a == arm)


def settings_of(asked: Generation, max_new_tokens: int) -> list[Sampling]:
    """The recipe's ways of choosing tokens: the model's own distribution, the user's own where given, greedy."""
    found = [Sampling(DISTRIBUTION, 1.0, 1.0, max_new_tokens)]
    if asked.temperature is not None or asked.top_p < 1:
        found.append(Sampling(OWN, asked.temperature or 1.0, asked.top_p, max_new_tokens))
    return [*found, Sampling(GREEDY, 0.0, 1.0, max_new_tokens)] if asked.greedy else found


def seed_of(seed: int, prompt: str, sample: int, again: bool = False) -> int:
    """Seed of one continuation's draws, 48 bits. Every arm has the same (METHODS S4.1), but for the base's second set."""
    text = f"galvan generation {seed} {prompt} {sample}{' again' if again else ''}"
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "backslashreplace")).digest()[:6], "big")


@dataclass(frozen=True, slots=True)
class Slot:
    """One continuation that an arm owes."""

    prompt: Prompt
    sampling: Sampling
    sample: int
    seed: int


def slots(prompts: Sequence[Prompt], sets: Sequence[Sampling], asked: Generation, seed: int, again: bool = False) -> list[Slot]:
    """Every sample of every prompt by every setting; greedily one of the first prompts each, for there is only one."""
    found = []
    for sampling in sets:
        greedy = sampling.temperature == 0
        for prompt in prompts[: asked.greedy] if greedy else prompts:
            for sample in range(1 if greedy else asked.samples):
                found.append(Slot(prompt, sampling, sample, seed_of(seed, prompt.id, sample, again)))
    return found


def generate(
    bench: Bench,
    tuned: Mapping[str, Located],
    recipe: Recipe,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    max_new_tokens: int,
    context: int,
    progress: Progress,
    tokenizers: Mapping[str, Any] | None = None,
    engine: Engine | None = None,
) -> tuple[list[Sample], GenerationFacts]:
    """Rows of arms base, base_again and each of `tuned` by name (adapters, or whole models), and facts about how they came to be.

    `context` is the most positions that the models have; prompts that leave no room there are left out. `tokenizers` holds those of
    whole models that have one of their own. All adapters go through one loaded base, one after the other.
    """
    own = dict(tokenizers or {})
    able = [p for p in prompts if all(0 < len(p.ids(t)) < context for t in [tokenizer, *own.values()])]
    sets = settings_of(recipe.generation, max_new_tokens)
    facts = GenerationFacts(
        prompts=dict(Counter(p.split or p.kind for p in able)), left_out=len(prompts) - len(able), max_new_tokens=max_new_tokens,
        settings=sets, engine=recipe.generation.engine, greedy_prompts=min(recipe.generation.greedy, len(able)),
    )  # fmt: skip
    if not able:
        return [], facts
    model = bench.base()
    writers = _Writers(recipe, able, tokenizer, own, stop_ids(model, tokenizer), context, progress, engine, facts)
    what = ["samples", able, sets, recipe.generation, recipe.evaluation.tokens_per_pass, recipe.seed, context]
    samples = writers.take(bench.said(what, partial(writers.by_base, model, sets)))
    model = bench.host(model)
    by_tuned: dict[str, list[Sample]] = {}
    for arm, located in tuned.items():
        if not (located.path / "adapter_config.json").is_file():
            whole = bench.load(located)
            by_tuned[arm] = writers.write(arm, located, whole, whole, sets)
            del whole
            continue
        model = bench.host(bench.base()) if model is None else model
        wrapped = models.load_adapter(model, located)
        merged, facts.merges[arm] = merged_copy(wrapped, [p.ids(tokenizer) for p in writers.pilot_prompts()])
        by_tuned[arm] = writers.write(arm, located, wrapped, merged or wrapped, sets)
        model = bench.unload(wrapped, located)
        del wrapped, merged
    bench.give_back(model)
    del model
    if by_tuned:
        judge = bench.base()
        for arm, rows in by_tuned.items():
            samples += writers.judged_by_base(judge, arm, rows)
    facts.count(samples)
    return samples, facts


class _ByBase(NamedTuple):
    """What the base alone wrote, and the facts about it."""

    rows: list[Sample]
    stop_ids: dict[str, list[int]]
    batches: dict[str, BatchFacts]
    engine_difference_nats: dict[str, float]


@dataclass(slots=True)
class _Writers:
    """What all arms share, and what each has written."""

    recipe: Recipe
    able: Sequence[Prompt]
    tokenizer: Any
    own: Mapping[str, Any]
    stops: Collection[int]
    context: int
    progress: Progress
    engine: Engine | None
    facts: GenerationFacts
    written: dict[str, list[list[int]]] = field(default_factory=dict)
    claimed: dict[str, list[tuple[int, float]]] = field(default_factory=dict)  # another engine's own likelihoods

    def by_base(self, model: nn.Module, sets: Sequence[Sampling]) -> _ByBase:
        """What the base writes, and once more with other seeds."""
        rows = [s for arm in (BASE, AGAIN) for s in self.write(arm, None, model, model, sets[:1] if arm == AGAIN else sets)]
        facts = self.facts
        return _ByBase(rows, dict(facts.stop_ids), dict(facts.batches), dict(facts.engine_difference_nats))

    def take(self, known: _ByBase) -> list[Sample]:
        """Rows of the base that were written here, or before, with their facts."""
        self.facts.stop_ids |= known.stop_ids
        self.facts.batches |= known.batches
        self.facts.engine_difference_nats |= known.engine_difference_nats
        return list(known.rows)

    def pilot_prompts(self) -> list[Prompt]:
        """Prompts of unlike length, from the shortest to the longest."""
        by_length = sorted(self.able, key=lambda p: len(p.ids(self.tokenizer)))
        last = len(by_length) - 1
        return [by_length[i] for i in sorted({round(last * n / (PILOT_PROMPTS - 1)) for n in range(PILOT_PROMPTS)})]

    def write(
        self, arm: str, located: Located | None, plain: nn.Module, writer: nn.Module, sets: Sequence[Sampling]
    ) -> list[Sample]:
        """The rows of one arm. `writer` is the same arm as `plain`, perhaps with its adapter merged."""
        asked, tokenizer = self.recipe.generation, self.own.get(arm, self.tokenizer)
        stops = stop_ids(plain, tokenizer) if arm in self.own else self.stops
        self.facts.stop_ids[arm] = sorted(stops)
        wanted = slots(self.able, sets, asked, self.recipe.seed, arm == AGAIN)
        jobs = [Job(slot.prompt.ids(tokenizer), slot.sampling, slot.seed) for slot in wanted]
        if self.engine is None:
            if arm != AGAIN:
                pilots = [p.ids(tokenizer) for p in self.pilot_prompts()]
                self.facts.batches[arm] = batch_facts(writer, pilots, stops, self.context, len(tokenizer))
            alone = self.facts.batches[BASE if arm == AGAIN else arm].alone
            budget = 0 if alone else asked.tokens_per_pass

            def write(mine: Sequence[Job]) -> list[Continuation]:
                return decode(writer, mine, stops, self.context, len(tokenizer), budget, self.progress, f"Writing {arm}")

            said = distributed.shared(jobs, write)
        else:
            said = self.engine(arm, located, jobs, stops)
        special = set(tokenizer.all_special_ids)
        rows = [_sample(slot, arm, job, one, tokenizer, special) for slot, job, one in zip(wanted, jobs, said, strict=True)]
        self.written[arm] = [one.ids for one in said]
        if self.engine is not None:
            scores = self._scores(plain, tokenizer, arm, [job.ids for job in jobs], self.written[arm])
            self.facts.engine_difference_nats[arm] = agreement(arm, rows, scores)
            self.claimed[arm] = [(row.n_tokens, row.logprob_nats) for row in rows]
            rows = [replace(row, n_tokens=n, logprob_nats=nats) for row, (n, nats) in zip(rows, scores, strict=True)]
        return [replace(row, base_n_tokens=row.n_tokens, base_logprob_nats=row.logprob_nats) for row in rows]

    def judged_by_base(self, judge: nn.Module, arm: str, rows: Sequence[Sample]) -> list[Sample]:
        """`rows` with the base's likelihood of what was written: of the very tokens, or of its own where the arm has another tokenizer."""
        by_id = {prompt.id: prompt for prompt in self.able}
        texts = [row.text for row in rows]
        ids = [i.tolist() for i in encode_texts(self.tokenizer, texts)] if arm in self.own else self.written[arm]
        scores = self._scores(
            judge, self.tokenizer, f"{arm} by the base", [by_id[r.prompt_id].ids(self.tokenizer) for r in rows], ids
        )
        if (
            arm in self.claimed
            and arm not in self.own
            and _difference(self.claimed[arm], scores) < self.facts.engine_difference_nats[arm]
        ):
            raise _other_model(arm, "are the base's rather than the tuned model's: it has lost the adapter")
        return [replace(row, base_n_tokens=n, base_logprob_nats=nats) for row, (n, nats) in zip(rows, scores, strict=True)]

    def _scores(
        self, model: nn.Module, tokenizer: Any, label: str, asked: Sequence[Sequence[int]], written: Sequence[Sequence[int]]
    ) -> list[tuple[int, float]]:
        """Tokens and log-likelihood in nats of each continuation by galvan's scorer; special tokens are left out."""
        special = set(tokenizer.all_special_ids)
        documents = [
            Document(str(n), "", label, n, payload=Tokens((*before, *after), (*[IGNORE] * len(before), *after)))
            for n, (before, after) in enumerate(zip(asked, written, strict=True))
            if any(i not in special for i in after)
        ]
        scores = score(
            model,
            tokenizer,
            documents,
            label,
            "samples",
            self.context,
            self.recipe.evaluation.tokens_per_pass,
            False,
            self.progress,
        )
        found = {int(row.document): (row.n_tokens, -row.nll_nats) for row in scores}
        return [found.get(n, (0, 0.0)) for n in range(len(asked))]


def _sample(slot: Slot, arm: str, job: Job, said: Continuation, tokenizer: Any, special: Collection[int]) -> Sample:
    logprobs = [x for i, x in zip(said.ids, said.logprobs, strict=True) if i not in special]
    prompt, settings = slot.prompt, asdict(slot.sampling)
    return Sample(
        prompt.id, prompt.kind, prompt.split, prompt.document, prompt.text, arm, slot.sample, slot.seed, written_text(tokenizer, job.ids, said.ids),
        said.stop, settings, len(logprobs), sum(logprobs), 0, 0.0,
    )  # fmt: skip


def written_text(tokenizer: Any, before: Sequence[int], written: Sequence[int]) -> str:
    """What `written` adds to `before`: some tokenizers drop the space before a text that is decoded alone."""

    def read(ids: Sequence[int]) -> str:
        return str(tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    whole, start = read([*before, *written]), read(before)
    return whole[len(start) :] if whole.startswith(start) else read(written)


def agreement(arm: str, rows: Sequence[Sample], scores: Sequence[tuple[int, float]], limit: float = ENGINE_TOLERANCE_NATS) -> float:
    """Mean absolute difference, in nats a token, between an engine's likelihoods of its own texts and ours.

    Raises ComparisonRefused `generation/engine` beyond `limit`: what wrote the texts is then not the model that is judged.
    """
    difference = _difference([(row.n_tokens, row.logprob_nats) for row in rows], scores)
    if difference > limit:
        raise _other_model(arm, f"differ from galvan's by {difference:.3f} nats a token, more than {limit}")
    return difference


def _difference(some: Sequence[tuple[int, float]], others: Sequence[tuple[int, float]]) -> float:
    """Mean over texts of the absolute difference of log-likelihoods, a token; infinite where no text can be compared."""
    pairs = [(n, x, y) for (n, x), (m, y) in zip(some, others, strict=True) if n and n == m]
    return sum(abs(x - y) / n for n, x, y in pairs) / len(pairs) if pairs else float("inf")


def _other_model(arm: str, how: str) -> ComparisonRefused:
    return ComparisonRefused(
        "generation/engine",
        f"{arm}: the texts were written by another model than the one that is judged: the engine's likelihoods of its own words {how}; "
        "set generation.engine to galvan.",
    )


@torch.inference_mode()
def _alone(model: nn.Module, ids: Sequence[int], vocabulary: int) -> tuple[Tensor, Tensor]:
    """Argmax and NLL of every token but the first, from one pass without cache or padding, shapes [T - 1]."""
    row = torch.tensor([list(ids)], device=next(model.parameters()).device)
    logits = model(input_ids=row, use_cache=False).logits[0, -row.shape[1] : -1].float()
    nll = logits.logsumexp(-1) - logits.gather(-1, row[0, 1:, None])[:, 0]
    return logits[:, :vocabulary].argmax(-1).cpu(), nll.cpu()


def batch_facts(
    model: nn.Module, prompts: Sequence[Sequence[int]], stops: Collection[int], context: int, vocabulary: int
) -> BatchFacts:
    """Write PILOT_TOKENS greedily in one batch and alone, and hold both against one pass over each whole text."""
    jobs = [Job(ids, Sampling(GREEDY, 0.0, 1.0, PILOT_TOKENS)) for ids in prompts]
    together, single = (decode(model, jobs, stops, context, vocabulary, budget) for budget in (1 << 30, 0))
    same, total, worst, floor = 0, 0, 0.0, 0.0
    with live.evaluation_mode(model):
        for job, said in zip(jobs, together, strict=True):
            if said.ids:
                whole = [*job.ids, *said.ids]
                floor = max(floor, live.length_nats(model, [torch.tensor([whole])]))
                best, nll = (x[len(job.ids) - 1 :] for x in _alone(model, whole, vocabulary))
                same += int((best == torch.tensor(said.ids)).sum())
                total += len(said.ids)
                worst = max(worst, float((nll.double() + torch.tensor(said.logprobs, dtype=torch.float64)).abs().max()))
    tolerance = max(BATCH_TOLERANCE_NATS.get(next(model.parameters()).dtype, 0.5), FLOORS * floor)
    identical = sum(a.ids == b.ids for a, b in zip(together, single, strict=True))
    return BatchFacts(len(jobs), total, identical, same / total if total else None, worst, not worst <= tolerance, floor)


def merged_copy(wrapped: Any, prompts: Sequence[Sequence[int]]) -> tuple[nn.Module | None, MergeFacts]:
    """A copy of the tuned model with its adapter merged into the weights, where its likelihoods of the prompts show that it is the same.

    None, and why, where it is not, or need not be tried: other number formats than float32 round away part of an adapter when merging.
    """
    parameters = list(wrapped.parameters())
    if not hasattr(wrapped, "merge_and_unload") or live.learns_a_prompt(wrapped):
        return None, MergeFacts(False, "this kind of adapter cannot be merged")
    if any(p.dtype != torch.float32 for p in parameters):
        return None, MergeFacts(False, "the weights are not float32 throughout")
    if sum(p.numel() * p.element_size() for p in parameters) > LARGEST_COPY_BYTES:
        return None, MergeFacts(False, "a copy of the weights would take too much memory")
    rows = [torch.tensor([list(ids)]) for ids in prompts if len(ids) > 1]
    if not rows:
        return None, MergeFacts(False, "no prompt is long enough to compare likelihoods on")
    try:
        with models.quiet():
            merged = copy.deepcopy(wrapped).merge_and_unload().eval()
    except (ValueError, RuntimeError, AttributeError):  # PEFT has kinds of adapters that refuse it, each in its own way
        return None, MergeFacts(False, "PEFT cannot merge this kind of adapter")
    with live.evaluation_mode(wrapped):
        facts = live.function_facts(merged, live.alone_nll(wrapped, rows), rows)
    assert facts.on_base_nats is not None
    same = facts.on_base_nats <= max(facts.noise_floor_nats, MERGE_TOLERANCE_NATS)
    reason = "likelihoods are the same" if same else "merging changes likelihoods"
    return merged if same else None, MergeFacts(same, reason, facts.on_base_nats, facts.noise_floor_nats)
