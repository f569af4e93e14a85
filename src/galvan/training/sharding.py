"""One model held by several processes together (FSDP2): each keeps its part of every block's weights, and has a block whole only while it runs.

Embeddings, head and final norm stay whole on every rank; their gradients are summed as without sharding. Blocks are gathered by hooks on their
own calls, in which all ranks take part: every rank therefore makes the same number of passes, and one that has none left repeats one at weight 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from galvan import distributed
from galvan.errors import ModelError
from galvan.likelihood import causal_lm

T = TypeVar("T")


def shard(model: nn.Module, device: torch.device) -> None:
    """Share out the blocks of `model` among the ranks, in place. Only for a model whose parameters are the same on every rank.

    ModelError where the architecture does not say what its blocks are, or where their weights are quantised.
    """
    decoder: Any = causal_lm(model).get_decoder()
    blocks = getattr(decoder, "layers", None) or getattr(decoder, "h", None)
    if not isinstance(blocks, nn.ModuleList):
        raise ModelError(
            "training/shard", f"training.shard: {type(decoder).__name__} does not say what its blocks are; set it to false."
        )
    inside = {id(p) for block in blocks for p in block.parameters()}
    if any(not p.is_floating_point() for block in blocks for p in block.parameters()):
        raise ModelError("training/shard", "training.shard cannot share out a quantised base; set model.quantization to none.")
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for block in blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(decoder, mesh=mesh, ignored_params={p for p in decoder.parameters() if id(p) not in inside})
    for module in decoder.modules():
        if isinstance(module, FSDPModule):
            module.set_force_sum_reduction_for_comms(True)  # gloo knows no average; the loss is already divided by the whole batch
            module.set_gradient_divide_factor(1.0)
    for p in model.parameters():
        p.data = p.data.to(device)  # what is not in a block


def is_sharded(model: nn.Module) -> bool:
    return any(isinstance(p, DTensor) for p in model.parameters())


def whole(tensor: Tensor) -> Tensor:
    """The full value of a tensor; of one that is shared out, gathered by all ranks together."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def as_held(full: Tensor, like: Tensor) -> Tensor:
    """`full` held as `like` is: this rank's part where that is shared out. Nothing is exchanged; every rank has `full`."""
    if not isinstance(like, DTensor) or full.shape != like.shape:
        return full
    return distribute_tensor(full.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def gather(model: nn.Module) -> None:
    """Every parameter that trains becomes a whole one on the CPU, on every rank, so that the model can be saved; it cannot run afterwards."""
    for module in model.modules():
        for name, p in list(module.named_parameters(recurse=False)):
            if isinstance(p, DTensor) and p.requires_grad:
                module._parameters[name] = nn.Parameter(whole(p.detach()).cpu())


def plain(parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    """Those that every rank holds whole."""
    return [p for p in parameters if not isinstance(p, DTensor)]


@torch.no_grad()
def clip_gradients(parameters: Sequence[nn.Parameter], most: float) -> float:
    """As `torch.nn.utils.clip_grad_norm_`, where some gradients are shared out: their squares are summed over the ranks."""
    grads = [p.grad for p in parameters if p.grad is not None]
    shared = sum(float(g.to_local().double().square().sum()) for g in grads if isinstance(g, DTensor))
    norm = (distributed.summed(shared) + sum(float(g.double().square().sum()) for g in grads if not isinstance(g, DTensor))) ** 0.5
    for g in grads:
        g.mul_(min(1.0, most / (norm + 1e-6)))
    return float(norm)


def rounds(passes: Sequence[T]) -> Iterator[tuple[T, bool]]:
    """This rank's passes of all, and whether each counts; every rank gets the same number."""
    world, rank = distributed.world(), distributed.rank()
    for begin in range(0, len(passes), world):
        counts = begin + rank < len(passes)
        yield passes[begin + rank if counts else begin], counts


@contextmanager
def all_or_none() -> Iterator[None]:
    """A rank that fails inside cannot tell the others, which wait for it in an exchange: it ends at once, and their exchange fails too."""
    try:
        yield
    except Exception as error:
        if isinstance(error, RuntimeError) and ("gloo" in str(error) or isinstance(error, dist.DistBackendError)):
            raise distributed.lost() from None
        distributed.leave(error)


def named_whole(tensors: Mapping[str, Tensor], keep: Callable[[], bool]) -> dict[str, Tensor]:
    """Each tensor whole on the CPU, in memory of its own, where `keep()`; the others only take part in gathering."""
    found, seen = {}, set()
    for name, tensor in tensors.items():
        full = whole(tensor.detach())
        if keep():
            full = full.cpu().contiguous()
            found[name] = full.clone() if full.data_ptr() in seen else full  # bitsandbytes has one table for all its states
            seen.add(full.data_ptr())
    return found
