"""Batched decoding on any causal language model of transformers: KV cache, left padding, rows that end leave the batch.

Each row draws from a generator of its own, keyed by the row's seed alone, and inverts the distribution's CDF in float64: its words do not
depend on which rows share its batch (but where a draw falls within rounding of a boundary between two tokens).
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import DynamicCache

from galvan import llama
from galvan.errors import DataError, ModelError
from galvan.likelihood import causal_lm, supports_chunks
from galvan.measure.live import evaluation_mode, learns_a_prompt
from galvan.progress import Progress, Silent
from galvan.unpadded import close, equal_throughout

Stop = Literal["eos", "length", "context"]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen. `temperature` 0 is greedy: then `top_p` does nothing."""

    name: str
    temperature: float
    top_p: float
    max_new_tokens: int


@dataclass(frozen=True, slots=True)
class Job:
    """One continuation to be written: the ids that the model is given, how to choose, and the seed of its draws."""

    ids: Sequence[int]
    sampling: Sampling
    seed: int = 0


@dataclass(slots=True)
class Continuation:
    """What was written, without the token that ended it; `logprobs` in nats, at temperature 1 over the whole vocabulary."""

    ids: list[int]
    logprobs: list[float]
    stop: Stop = "length"


def stop_ids(model: nn.Module, tokenizer: Any) -> set[int]:
    """Ids that end a text: the tokenizer's EOS and those of the model's own generation config (end of turn among them)."""
    config = getattr(causal_lm(model), "generation_config", None)
    named = getattr(config, "eos_token_id", None)
    found = named if isinstance(named, list) else [named]
    return {int(i) for i in [*found, tokenizer.eos_token_id] if i is not None}


def decode(
    model: nn.Module,
    jobs: Sequence[Job],
    stops: Collection[int],
    context: int,
    vocabulary: int,
    tokens_per_pass: int,
    progress: Progress | None = None,
    label: str = "Generating",
) -> list[Continuation]:
    """Continuations in the order of `jobs`. Rows of like prompt length share a batch of at most `tokens_per_pass` positions (0: each alone).

    `context` is the most positions that the model has; ids from `vocabulary` on, which no tokenizer knows, are never chosen. Raises
    DataError where a prompt leaves no room, ModelError where the model gives no numbers.
    """
    progress = progress or Silent()
    _require_room(jobs, context)
    done: list[Continuation] = [Continuation([], []) for _ in jobs]
    room = [min(job.sampling.max_new_tokens, context - len(job.ids)) for job in jobs]
    begun = time.monotonic()
    written = 0
    progress.start(label, sum(room), "token")
    alone, own = not _has_cache(model), _writes_own_way(model)
    with evaluation_mode(model), torch.inference_mode():
        for members in _batches(jobs, room, 0 if alone else tokens_per_pass):
            for n_new, n_spared in _decode(model, [jobs[i] for i in members], [room[i] for i in members], [done[i] for i in members],
                                           stops, vocabulary, alone, own):  # fmt: skip
                written += n_new
                progress.advance(n_new + n_spared, f"{written / max(time.monotonic() - begun, 1e-9):,.0f} tokens/s")
    for continuation, job, most in zip(done, jobs, room, strict=True):
        if continuation.stop == "length" and most < job.sampling.max_new_tokens:
            continuation.stop = "context"
    return done


def stream(model: nn.Module, job: Job, stops: Collection[int], context: int, vocabulary: int) -> Iterator[Continuation]:
    """`decode` of one job, token by token: yields the same continuation as it grows, at the end with its reason to stop.

    Several streams may be read in turn within one `torch.inference_mode()` of the caller's. Raises as `decode` does.
    """
    _require_room([job], context)
    room = min(job.sampling.max_new_tokens, context - len(job.ids))
    done = Continuation([], [])
    with evaluation_mode(model), torch.inference_mode():
        for _ in _decode(model, [job], [room], [done], stops, vocabulary, not _has_cache(model), _writes_own_way(model)):
            yield done
    if done.stop == "length" and room < job.sampling.max_new_tokens:
        done.stop = "context"
    yield done


def _require_room(jobs: Sequence[Job], context: int) -> None:
    for job in jobs:
        if not 0 < len(job.ids) < context:
            raise DataError(
                "generation/prompt-length",
                f"A prompt has {len(job.ids)} tokens; the model takes 1 to {context - 1} before it can write. Shorten the prompt.",
            )


def _has_cache(model: nn.Module) -> bool:
    """False for models with another kind of memory than keys and values, and for learned prompts, which PEFT puts before every input."""
    return not learns_a_prompt(model) and "past_key_values" in inspect.signature(causal_lm(model).forward).parameters


def _batches(jobs: Sequence[Job], room: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Numbers of the jobs that share a batch, longest prompts first, so that too large a batch fails at once."""
    order = sorted(range(len(jobs)), key=lambda i: -len(jobs[i].ids))
    batch: list[int] = []
    most = 0
    for i in order:
        widest = max(most, room[i]) + len(jobs[batch[0] if batch else i].ids)
        if batch and (len(batch) + 1) * widest > budget:
            yield batch
            batch, most = [], 0
        batch.append(i)
        most = max(most, room[i])
    if batch:
        yield batch


def _decode(
    model: nn.Module, jobs: Sequence[Job], room: Sequence[int], out: Sequence[Continuation], stops: Collection[int], vocabulary: int, alone: bool, own: bool
) -> Iterator[tuple[int, int]]:  # fmt: skip
    """Fill `out`; after each step yield the tokens written, and those that rows which ended will not write."""
    uniforms = [np.random.Generator(np.random.Philox(key=job.seed)).random(most) for job, most in zip(jobs, room, strict=True)]
    steps: _Own | _Cached | _Whole = _Whole(model, jobs) if alone else _Own(model, jobs, max(room)) if own else _Cached(model, jobs)
    live = list(range(len(jobs)))
    logits = steps.first()
    for step in range(max(room)):
        drawn = torch.tensor([uniforms[i][step] for i in live], dtype=torch.float64)
        tokens, logprobs = choose(logits, [jobs[i].sampling for i in live], drawn, vocabulary)
        keep, spared = [], 0
        for row, (i, token, logprob) in enumerate(zip(live, tokens, logprobs, strict=True)):
            if token in stops:
                out[i].stop = "eos"
                spared += room[i] - step - 1
                continue
            out[i].ids.append(token)
            out[i].logprobs.append(logprob)
            if step + 1 < room[i]:
                keep.append(row)
        yield len(live), spared
        if not keep:
            return
        logits = steps.next([tokens[row] for row in keep], None if len(keep) == len(live) else keep)
        live = [live[row] for row in keep]


def choose(logits: Tensor, samplings: Sequence[Sampling], uniforms: Tensor, vocabulary: int) -> tuple[list[int], list[float]]:
    """A token of each row of `logits` [B, V] and its log-probability at temperature 1, in nats.

    Sampled tokens are the CDF's inverse at `uniforms` [B]; below `top_p` 1 that of the smallest set of likeliest tokens whose mass reaches it.
    """
    if logits.device.type == "mps":  # has no float64
        logits = logits.cpu()
    log_p = logits.double().log_softmax(-1)
    known = log_p[:, :vocabulary]
    tokens = known.argmax(-1)
    warm = [row for row, sampling in enumerate(samplings) if sampling.temperature > 0]
    if warm:
        some = known[warm] / torch.tensor([samplings[row].temperature for row in warm], device=known.device)[:, None]
        order = None
        if any(samplings[row].top_p < 1 for row in warm):
            some, order = some.sort(dim=-1, descending=True, stable=True)
        mass = some.softmax(-1)
        cdf = mass.cumsum(-1)
        if order is not None:
            top_p = torch.tensor([samplings[row].top_p for row in warm], dtype=torch.float64, device=known.device)[:, None]
            cdf = mass.where(cdf - mass < top_p, 0.0).cumsum(-1)
        at = uniforms.to(cdf.device)[warm, None] * cdf[:, -1:]
        drawn = torch.searchsorted(cdf, at, right=True).clamp(max=cdf.shape[-1] - 1)
        tokens[warm] = (drawn if order is None else order.gather(-1, drawn))[:, 0]
    chosen = log_p.gather(-1, tokens[:, None])[:, 0]
    if not bool(chosen.isfinite().all()):
        raise ModelError(
            "generation/not-finite", "The model gives no finite probabilities for what comes next; its weights or its number format are broken."
        )  # fmt: skip
    return tokens.tolist(), chosen.tolist()


def _writes_own_way(model: nn.Module) -> bool:
    """True if `llama.Cache` gives this very model's logits: two rows of unlike length together, step by step, against each alone without a cache."""
    inner = causal_lm(model)
    if learns_a_prompt(model) or not supports_chunks(model) or llama.refusal(inner.get_decoder()) is not None:
        return False
    size = inner.get_output_embeddings().weight.shape[0]
    texts = [[n * 7919 % size for n in range(length)] for length in (13, 8)]
    greedy = Sampling("", 0.0, 1.0, 3)

    def equal(tolerance: float) -> bool:
        try:
            with evaluation_mode(model), torch.inference_mode():
                steps = _Own(model, [Job(ids[:-3], greedy) for ids in texts], 3)
                found = [steps.first(), *(steps.next([ids[at] for ids in texts], None) for at in (-3, -2))]
                wholes = [
                    inner(input_ids=torch.tensor([ids], device=steps.device), use_cache=False).logits[0, -4:-1] for ids in texts
                ]
                return all(close(torch.stack([one[row] for one in found]), whole, tolerance) for row, whole in enumerate(wholes))
        except (NotImplementedError, AttributeError, TypeError, ValueError, RuntimeError):
            return False

    return equal_throughout(model, equal)


class _Left:
    """Prompts as rows padded on the left: [B, T] ids, positions from 0 in each, and which are real."""

    def __init__(self, jobs: Sequence[Job], device: torch.device) -> None:
        width = max(len(job.ids) for job in jobs)
        ids, real = np.zeros((len(jobs), width), dtype=np.int64), np.zeros((len(jobs), width), dtype=np.int64)
        for row, job in enumerate(jobs):
            ids[row, width - len(job.ids) :] = job.ids
            real[row, width - len(job.ids) :] = 1
        self.ids, self.real = (torch.from_numpy(x).to(device) for x in (ids, real))
        self.positions = (self.real.cumsum(1) - 1).clamp(min=0)


class _Own:
    """Logits of the last position, step by step, by the Llama family's forward pass written out, from keys and values that are kept."""

    def __init__(self, model: nn.Module, jobs: Sequence[Job], new: int) -> None:
        inner = causal_lm(model)
        self.head, self.device = inner.get_output_embeddings(), next(inner.parameters()).device
        left = _Left(jobs, self.device)
        self.inputs, self.positions = left.ids, left.positions
        self.cache = llama.Cache(inner.get_decoder(), F.pad(left.real.bool(), (0, new), value=True))

    def first(self) -> Tensor:
        return self.head(self.cache.next_states(self.inputs, self.positions))  # type: ignore[no-any-return]

    def next(self, tokens: Sequence[int], keep: Sequence[int] | None) -> Tensor:
        """`keep`: rows of the last step that go on; None: all."""
        self.positions = self.positions[:, -1:] + 1
        if keep is not None:
            rows = torch.tensor(keep, device=self.device)
            self.cache.keep(rows)
            self.positions = self.positions[rows]
        self.inputs = torch.tensor(tokens, device=self.device)[:, None]
        return self.first()


class _Cached:
    """The same by transformers' own model and cache."""

    def __init__(self, model: nn.Module, jobs: Sequence[Job]) -> None:
        self.model = causal_lm(model)
        accepted = inspect.signature(self.model.forward).parameters
        self.positioned = "position_ids" in accepted
        self.options: dict[str, Any] = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}
        self.device = next(self.model.parameters()).device
        self.cache = DynamicCache(config=self.model.config)
        left = _Left(jobs, self.device)
        self.inputs, self.positions = left.ids, left.positions
        self.mask = None if left.real.all() else left.real

    def first(self) -> Tensor:
        if self.positioned:
            self.options["position_ids"] = self.positions
        out = self.model(
            input_ids=self.inputs, attention_mask=self.mask, past_key_values=self.cache, use_cache=True, **self.options
        )
        return out.logits[:, -1]  # type: ignore[no-any-return]

    def next(self, tokens: Sequence[int], keep: Sequence[int] | None) -> Tensor:
        """`keep`: rows of the last step that go on; None: all."""
        self.positions = self.positions[:, -1:] + 1
        if self.mask is not None:
            self.mask = torch.cat([self.mask, self.mask.new_ones(self.mask.shape[0], 1)], dim=1)
        if keep is not None:
            rows = torch.tensor(keep, device=self.device)
            self.cache.reorder_cache(rows)
            self.positions = self.positions[rows]
            self.mask = None if self.mask is None else self.mask[rows]
        self.inputs = torch.tensor(tokens, device=self.device)[:, None]
        return self.first()


class _Whole:
    """The same for one row without a cache: the whole text goes through the model at each step."""

    def __init__(self, model: nn.Module, jobs: Sequence[Job]) -> None:
        self.model = model
        self.ids = list(jobs[0].ids)
        self.device = next(model.parameters()).device

    def first(self) -> Tensor:
        return self.model(input_ids=torch.tensor([self.ids], device=self.device), use_cache=False).logits[:, -1]  # type: ignore[no-any-return]

    def next(self, tokens: Sequence[int], keep: Sequence[int] | None) -> Tensor:
        self.ids += tokens
        return self.first()
