"""What live models show: the object graph, the values in memory, and what the adapter does to likelihoods.

Nothing here changes a model for good: modes, switches and random state are put back as they were, flag by flag.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftConfig, PeftModel, get_model_status
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import Tensor, nn

from galvan.data.tokens import adds_bos, encode_texts
from galvan.likelihood import plain_token_nll
from galvan.measure import weights
from galvan.measure.facts import AdapterState, Flag, FunctionFacts, LiveFacts, SweepPoint
from galvan.models import quiet

# Neutral sentences of unlike length for the checks: any text would do, for only differences between likelihoods are looked at.
CHECK_TEXTS = (
    "The harbour was quiet when the first boats came in, and the gulls followed them over the wall.",
    "Water boils at a lower temperature on a mountain, because the air above it weighs less.",
    "She asked him twice where the key was. He said that he had left it on the table by the window, under the letters, "
    "but nobody could find it there.",
)
MULTIPLIERS = (0.0, 0.5, 1.0, 1.5, 2.0)
GENERATED = 8
UNDEFINED = 1e9  # stands for a difference that has no value; no two likelihoods are so far apart


@contextmanager
def keep_random_state() -> Iterator[None]:
    """Python's, NumPy's and torch's global random states are, afterwards, what they were."""
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)
        if devices:
            torch.cuda.set_rng_state_all(devices)


@contextmanager
def evaluation_mode(*models: nn.Module) -> Iterator[None]:
    """Every module in evaluation mode; afterwards each in the mode that it was in."""
    modes = [(module, module.training) for model in models for module in model.modules()]
    try:
        for model in models:
            model.eval()
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def adapters_off(model: nn.Module) -> Iterator[None]:
    """Every adapter layer switched off by its flag alone: PEFT's own switches also rewrite requires_grad."""
    layers = [m for m in model.modules() if isinstance(m, (BaseTunerLayer, AuxiliaryTrainingWrapper))]
    flags = [layer._disable_adapters for layer in layers]
    try:
        for layer in layers:
            layer._disable_adapters = True
        yield
    finally:
        for layer, flag in zip(layers, flags, strict=True):
            layer._disable_adapters = flag


def adapter_state(model: nn.Module) -> AdapterState:
    """The adapter layers inside `model`, which may be a PEFT model, the model inside one, or one that no adapter has touched."""
    layers = [m for m in model.modules() if isinstance(m, BaseTunerLayer)]
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    dropout = sum(m.training and _drops_out(m) for m in model.modules())
    if not layers:
        return AdapterState(
            0, trainable, active_dropout=dropout, emptied=isinstance(model, PeftModel) and not learns_a_prompt(model)
        )
    status = get_model_status(model)
    lists = {name: getattr(status, f"{name}_adapters") for name in ("active", "available", "merged")}
    irregular = [name for name, value in lists.items() if value == "irregular"]
    enabled: Flag = status.enabled
    if enabled == "irregular":
        irregular.append("enabled")
    known: dict[str, Any] = {name: () if value == "irregular" else tuple(value) for name, value in lists.items()}
    lora = [m for m in layers if isinstance(m, LoraLayer)]
    return AdapterState(
        len(layers),
        trainable,
        enabled,
        **known,
        irregular=tuple(irregular),
        dead=tuple(name for name in known["available"] if lora and _is_dead(lora, name)),
        scaling={name: span for name in known["available"] if (span := _scaling(lora, name))},
        nested=_nested(model, layers),
        active_dropout=dropout,
        uses_dora=any(any(layer.use_dora.values()) for layer in lora if isinstance(getattr(layer, "use_dora", None), dict)),
        twins=_twins(lora, known["active"]),
    )


def _drops_out(module: nn.Module) -> bool:
    """True if in training mode it drops something out: a layer of dropout, or a rate of its own that it passes on, as attention does."""
    own = [value for name, value in vars(module).items() if name.endswith("dropout") and isinstance(value, float)]
    return max([*own, module.p if isinstance(module, nn.Dropout) else 0.0]) > 0


def _twins(layers: Sequence[Any], active: Sequence[str]) -> tuple[str, ...]:
    """Active adapters whose factors and scaling are those of another active one in every layer that has them."""

    def update(name: str) -> list[Tensor]:
        return [
            x
            for i, layer in enumerate(layers)
            for a, b in _factors(layer, name)
            for x in (torch.tensor(float(i)), a, b * layer.scaling[name])
        ]

    def same(one: list[Tensor], other: list[Tensor]) -> bool:
        return 0 < len(one) == len(other) and all(a.shape == b.shape and torch.equal(a, b) for a, b in zip(one, other, strict=True))

    updates = {name: update(name) for name in active} if len(active) > 1 else {}
    return tuple(a for a, mine in updates.items() if any(same(mine, theirs) for b, theirs in updates.items() if a != b))


def learns_a_prompt(model: nn.Module) -> bool:
    """True for prompt and prefix tuning, which adapt no layer and lengthen the input: tokens do not line up with the base's."""
    return isinstance(model, PeftModel) and model.active_peft_config.is_prompt_learning


def is_prompt(folder: Path) -> bool:
    """Whether a saved adapter is a learned prompt; False where PEFT cannot read its config, which loading it will say better."""
    try:
        return bool(PeftConfig.from_pretrained(str(folder)).is_prompt_learning)
    except (ValueError, KeyError, TypeError):
        return False


def _nested(model: nn.Module, layers: Sequence[Any]) -> int:
    """Adapters inside adapters: PEFT models below `model`, and adapter layers around adapter layers."""
    wrappers = sum(isinstance(m, PeftModel) for m in model.modules() if m is not model)
    return wrappers + sum(isinstance(getattr(layer, "base_layer", None), BaseTunerLayer) for layer in layers)


def _is_dead(layers: Sequence[Any], adapter: str) -> bool:
    """True if every LoRA layer of this adapter has a factor that is zero throughout."""
    pairs = [p for layer in layers for p in _factors(layer, adapter)]
    return bool(pairs) and all(not bool(a.any()) or not bool(b.any()) for a, b in pairs)


def _factors(layer: Any, adapter: str) -> Iterator[tuple[Tensor, Tensor]]:
    if adapter in layer.lora_A:
        yield layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
    if adapter in layer.lora_embedding_A:
        yield layer.lora_embedding_A[adapter], layer.lora_embedding_B[adapter]


def _scaling(layers: Sequence[Any], adapter: str) -> tuple[float, float] | None:
    values = [float(layer.scaling[adapter]) for layer in layers if adapter in layer.scaling]
    return (min(values), max(values)) if values else None


def live_facts(
    base: nn.Module, tuned: nn.Module, base_state: AdapterState | None = None, adapter_file: Mapping[str, Tensor] | None = None,
    unexpected: tuple[str, ...] | None = None,
) -> LiveFacts:  # fmt: skip
    """The object graph of a pair. `base_state` is the base as it was when it was scored, if `tuned` was wrapped around it since.

    `adapter_file` holds the tensors of the adapter's file, by their names there; each is looked for in memory, bit for bit.
    `unexpected` are the names for which load_state_dict, by its own account, had no place.
    """
    own = {name: p for name, p in tuned.named_parameters() if p.device.type != "meta"}
    plain = weights.base_weights(base)
    there = {p.data_ptr() for p in base.parameters() if p.device.type != "meta" and p.numel()}
    state = adapter_state(tuned)
    unlike, holds = (None, ()) if adapter_file is None else _beside_file(tuned, state, adapter_file)
    return LiveFacts(
        base=base_state or adapter_state(base),
        tuned=state,
        same_object=base is tuned,
        tuned_wraps_base=isinstance(tuned, PeftModel) and tuned.get_base_model() is base,
        n_tensors=len(own),
        shared_tensors=sum(p.data_ptr() in there for p in own.values()),
        changed_entries=None if state.layers else weights.changed_entries(plain, weights.base_weights(tuned)),
        different_tensors=None if state.layers else _different(dict(base.named_parameters()), own),
        tensors_unlike_file=unlike,
        base_load=weights.load_of(base),
        tuned_load=weights.load_of(tuned),
        under_adapter=weights.drift(plain, weights.base_weights(tuned)) if state.layers else None,
        base_source=weights.source_drift(base) if base_state is None else None,
        dead_targets=weights.dead_targets(tuned),
        in_base=weights.share_in_base(tuned),
        in_merge=weights.share_in_merge(tuned, plain),
        after_merge=weights.after_merge(tuned),
        unexpected_on_loading=unexpected,
        holds_file=holds,
    )


def _different(base: Mapping[str, Tensor], tuned: Mapping[str, Tensor]) -> int | None:
    if base.keys() != tuned.keys() or any(base[name].shape != tuned[name].shape for name in base):
        return None
    return sum(not torch.equal(base[name].to(p.device, p.dtype), p) for name, p in tuned.items())


def _beside_file(model: nn.Module, state: AdapterState, tensors: Mapping[str, Tensor]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the file's tensors that the active adapter does not hold, and the loaded adapters that hold all of them."""
    loaded = tuple(getattr(model, "peft_config", None) or ()) if state.layers else ()
    unlike = {name: unlike_file(model, tensors, name) for name in loaded}
    active = state.active[0] if len(state.active) == 1 else "default"
    return unlike.get(active, tuple(tensors)), tuple(name for name, missing in unlike.items() if not missing)


def unlike_file(model: nn.Module, tensors: Mapping[str, Tensor], adapter: str = "default") -> tuple[str, ...]:
    """Names of the file's tensors that memory does not hold bit for bit; those that memory has no place for are among them.

    A file in bfloat16 is compared after the conversion that loading makes, which is exact into float32.
    """
    from peft import get_peft_model_state_dict

    memory = get_peft_model_state_dict(model, adapter_name=adapter, save_embedding_layers=False)
    whole = model.state_dict()
    unlike = []
    for name, tensor in tensors.items():
        held = memory.get(name, whole.get(name))
        if held is None or not torch.equal(held.cpu(), tensor.to(held.dtype)):
            unlike.append(name)
    return tuple(unlike)


def read_tensors(paths: Sequence[Path]) -> dict[str, Tensor]:
    """All tensors of safetensors files, on the CPU."""
    from safetensors.torch import load_file

    return {name: tensor for path in paths for name, tensor in load_file(path).items()}


def encode(tokenizer: Any, texts: Sequence[str], most_tokens: int = 256) -> list[Tensor]:
    """Ids [1, T] of each text by the first-token rule; at most `most_tokens`, and none so short that nothing is predicted."""
    bos = [tokenizer.bos_token_id] if adds_bos(tokenizer) else []
    rows = [torch.tensor([[*bos, *ids.tolist()]])[:, :most_tokens] for ids in encode_texts(tokenizer, texts)]
    return [row for row in rows if row.shape[1] > 1]


@torch.no_grad()
def alone_nll(model: nn.Module, rows: Sequence[Tensor]) -> Tensor:
    """NLL in nats of every predicted token, one row a pass, joined: float32 on the CPU, shape [sum of (T - 1)]."""
    device = next(model.parameters()).device
    return torch.cat([plain_token_nll(model, row.to(device))[0].cpu() for row in rows])


@torch.no_grad()
def batched_nll(model: nn.Module, rows: Sequence[Tensor]) -> Tensor:
    """As `alone_nll`, all rows in one pass, padded on the right."""
    device = next(model.parameters()).device
    ids = torch.zeros((len(rows), max(row.shape[1] for row in rows)), dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : row.shape[1]] = row[0]
    nll = plain_token_nll(model, ids.to(device)).cpu()
    return torch.cat([nll[i, : row.shape[1] - 1] for i, row in enumerate(rows)])


def length_nats(model: nn.Module, rows: Sequence[Tensor]) -> float:
    """Largest difference of one token's NLL between a row [1, T] and the row cut short, T >= 2: no padding, no cache, another shape alone.

    A causal model makes none but that of its arithmetic, which in 4 or 16 bits depends on the shape.
    """
    largest = 0.0
    for row in rows:
        whole = alone_nll(model, [row])
        for length in {min(n, row.shape[1]) for n in (2, 6, max(2, row.shape[1] // 2))}:
            largest = max(largest, _largest(alone_nll(model, [row[:, :length]]), whole[: length - 1]))
    return largest


def _largest(first: Tensor, second: Tensor) -> float:
    """Largest difference of two NLLs; UNDEFINED where one of them is not finite."""
    difference = (first.double() - second.double()).abs()
    return float(difference.nan_to_num(nan=UNDEFINED, posinf=UNDEFINED).max())


def function_facts(
    tuned: nn.Module, base_nll: Tensor | None, rows: Sequence[Tensor], sweep: bool = False, generate: bool = False
) -> FunctionFacts:
    """What the adapter does to likelihoods. `base_nll` is `alone_nll` of the base, taken before `tuned` was wrapped around it.

    Where an adapter is merged it is not switched off: PEFT would unmerge it, and not to the same bits.
    """
    with evaluation_mode(tuned):
        on = alone_nll(tuned, rows)
        repeat, batch = _largest(alone_nll(tuned, rows), on), _largest(batched_nll(tuned, rows), on)
        length = length_nats(tuned, rows)
        off = None
        tuner_layers = [m for m in tuned.modules() if isinstance(m, BaseTunerLayer)]
        if tuner_layers and not any(layer.merged for layer in tuner_layers):
            with adapters_off(tuned):
                off = alone_nll(tuned, rows)
        points = _sweep(tuned, rows) if sweep and any(isinstance(m, LoraLayer) for m in tuner_layers) else ()
        tokens, otherwise = _generated(tuned, rows[0]) if generate else (None, None)
    return FunctionFacts(
        n_texts=len(rows),
        n_tokens=len(on),
        repeat_nats=repeat,
        batch_nats=batch,
        on_base_nats=None if base_nll is None else _largest(on, base_nll),
        on_off_nats=None if off is None else _largest(on, off),
        off_base_nats=None if off is None or base_nll is None else _largest(off, base_nll),
        sweep=points,
        generated=tokens,
        generated_otherwise=otherwise,
        finite=bool(on.isfinite().all()),
        length_nats=length,
    )


@torch.no_grad()
def _generated(model: Any, row: Tensor) -> tuple[int | None, int | None]:
    """Greedy tokens after the first ids of `row`, and those of them that the model's own logits, without a cache, do not put first.

    (None, None) where the model cannot generate.
    """
    prompt = row[:, :8].to(next(model.parameters()).device)
    plain = {"do_sample": False, "num_beams": 1, "repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "max_new_tokens": GENERATED}
    try:
        with quiet():
            ids = model.generate(input_ids=prompt, attention_mask=torch.ones_like(prompt), pad_token_id=0, **plain)
    except Exception:  # whatever a foreign model's generate raises, it does not generate
        return None, None
    return ids.shape[1] - prompt.shape[1], behind(model, ids, prompt.shape[1])


@torch.no_grad()
def behind(model: Any, ids: Tensor, start: int) -> int:
    """Of the ids [1, T] from `start` on, those that the model's own logits, without a cache, do not put first. Two may change places that are
    nearer than a thousandth of the largest logit, or than rounding in the model's number format."""
    weight = next(model.parameters())
    ids, share = ids.to(weight.device), max(1e-3, 2 * torch.finfo(weight.dtype).eps) if weight.is_floating_point() else 1e-3
    if ids.shape[1] <= start:
        return 0
    logits = model(input_ids=ids, use_cache=False).logits[0, start - 1 : -1].float()
    short = logits.amax(-1) - logits.gather(-1, ids[0, start:, None])[:, 0]
    return int((short > share * logits.abs().amax().clamp_min(1.0)).sum())


def _sweep(tuned: nn.Module, rows: Sequence[Tensor]) -> tuple[SweepPoint, ...]:
    """Mean NLL over multipliers of the adapter's scaling; at 0 a plain LoRA is exactly its base. Those by which a lost or made-up rsLoRA
    flag is out are among them, and one beyond, so that a lowest NLL there is seen to be one."""
    from peft.helpers import rescale_adapter_scale

    ranks = {
        layer.r[name]
        for layer in tuned.modules()
        if isinstance(layer, LoraLayer)
        for name in layer.active_adapters
        if name in layer.r
    }
    root = math.sqrt(ranks.pop()) if len(ranks) == 1 else 1.0
    points = []
    for multiplier in sorted({*MULTIPLIERS, *((1 / root, root, 2 * root) if root > 1 else ())}):
        with rescale_adapter_scale(tuned, multiplier):
            points.append(SweepPoint(multiplier, float(alone_nll(tuned, rows).double().mean())))
    return tuple(points)
