"""One run by many processes: what `torchrun -m galvan ...` and `accelerate launch -m galvan ...` start.

The first process (rank 0) runs the command as if it were alone: it alone writes, prints and judges. Where work can be divided it calls
`together`, and the others, which wait in `serve`, do their share of the same function. Before any exchange all ranks agree that none has
failed, so that a failure ends all of them, with one message, and none waits for ever. They need one folder and one cache in common.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from galvan.errors import EXIT_BUG, EXIT_INTERRUPTED, EXIT_RESOURCES, GalvanError, ResourceError
from galvan.text import shown

if TYPE_CHECKING:
    from torch import Tensor, nn

T = TypeVar("T")
R = TypeVar("R")
MOST_FLAGS = 3
LAST_SECONDS = 0.5  # in which a launcher sees the first rank's end
BUCKET = 2**24  # numbers of gradients summed at once
PATIENCE = timedelta(days=7)  # the others wait as long as the first one prepares and judges; a process that dies is noticed at once

_rank, _world = 0, 1
_working = False  # inside `together`; outside of it the first process is alone
_control: Any = None  # a gloo group for agreements and objects, whatever the device


class _Elsewhere(Exception):
    """Another rank has failed and has the error."""


class _Lost(ResourceError):
    """Another rank is gone, so nothing can be agreed any more."""


def rank() -> int:
    """0 for the process that writes, prints and judges, also where it is alone."""
    return _rank


def world() -> int:
    """How many processes are at the work in hand: 1 outside of `together`."""
    return _world if _working else 1


def launched() -> bool:
    """True if a launcher started this process as one of several."""
    return {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys() and int(os.environ["WORLD_SIZE"]) > 1


def begin() -> None:
    """Meet the other processes; each has a GPU of its own where there are GPUs."""
    global _rank, _world, _control
    import torch
    import torch.distributed as dist

    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, timeout=PATIENCE)
    _rank, _world, _control = dist.get_rank(), dist.get_world_size(), dist.new_group(backend="gloo", timeout=PATIENCE)


def end(code: int) -> None:
    """The first rank's last word: the others end with the same exit code."""
    global _rank, _world, _control
    import torch.distributed as dist

    with suppress(_Lost):
        _broadcast(code)
        dist.destroy_process_group()
    _rank, _world, _control = 0, 1, None


def serve() -> int:
    """What every rank but the first does: its share of whatever is asked, until the exit code comes. What fails is said by the first."""
    try:
        while not isinstance(job := _broadcast(None), int):
            with suppress(Exception):
                _run(*job)
        end_code: int = job
    except _Lost:
        return EXIT_RESOURCES
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    # The first rank goes first: a launcher ends all others as soon as one has failed, and is to report that one.
    signal.signal(signal.SIGTERM, lambda number, frame: os._exit(end_code))
    with suppress(_Lost):
        _broadcast(None)
    time.sleep(LAST_SECONDS)
    return end_code


def together(function: Callable[..., R], *arguments: Any) -> R:
    """`function(*arguments)` on every rank at once; this one's result. A failure of any rank is raised here.

    Function and arguments are sent to the others, so they must be picklable.
    """
    if _world == 1 or _working:
        return function(*arguments)
    _broadcast((function, arguments))
    return _run(function, arguments)


def _run(function: Callable[..., R], arguments: Sequence[Any]) -> R:
    global _working
    failure: Exception | None = None
    _working = True
    try:
        result = function(*arguments)
        agree()
        return result
    except _Lost:
        raise
    except _Elsewhere:
        pass
    except Exception as error:
        failure = error
        _reduce([True])  # where the others are, or will be
    finally:
        _working = False
    told = [one for one in _gathered(None if failure is None else _portable(failure)) if one is not None]
    if failure is not None:
        raise failure
    kind, *what = told[0]
    raise kind(*what)


def _portable(error: Exception) -> tuple[type[Exception], *tuple[str, ...]]:
    """An error's class and arguments; of a bug, its traceback."""
    if isinstance(error, GalvanError):
        return type(error), error.code, str(error)
    return RuntimeError, f"rank {_rank}:\n" + "".join(traceback.format_exception(error))


def agree(*flags: bool) -> list[bool]:
    """Each flag, true if it is so on any rank. All ranks come here before they exchange anything; it raises where another has failed."""
    if world() == 1:
        return list(flags)
    found = _reduce([False, *flags])
    if found[0]:
        raise _Elsewhere
    return found[1 : 1 + len(flags)]


def gathered(value: T) -> list[T]:
    """The value of every rank, on every rank."""
    if world() == 1:
        return [value]
    agree()
    return _gathered(value)


def shared(items: Sequence[T], work: Callable[[Sequence[T]], Sequence[R]]) -> list[R]:
    """`work(items)`, one result an item and in their order, each rank working on every so-manyth; all ranks get all of it."""
    if world() == 1:
        return list(work(items))
    mine = items[_rank::_world]
    parts = gathered(list(work(mine)) if len(mine) else [])
    return [parts[i % _world][i // _world] for i in range(len(items))]


def share(items: Sequence[T], size: Callable[[T], int]) -> Sequence[T]:
    """This rank's part of `items`, about as large as the others'; all of them in their order where it is alone."""
    return items if world() == 1 else sorted(items, key=size, reverse=True)[_rank::_world]


def summed(value: float) -> float:
    """The sum over all ranks, in float64."""
    if world() == 1:
        return value
    import torch
    import torch.distributed as dist

    total = torch.tensor(value, dtype=torch.float64)
    agree()
    _exchange(lambda: dist.all_reduce(total, group=_control))
    return float(total)


def same_start(parameters: Iterable[nn.Parameter]) -> None:
    """Every rank's parameters become those of the first: factors taken from a decomposition may differ between machines."""
    if world() == 1:
        return
    import torch.distributed as dist

    agree()
    for parameter in parameters:
        data = parameter.data.contiguous()
        _exchange(lambda data=data: dist.broadcast(data, 0))  # type: ignore[misc]
        parameter.data.copy_(data)


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Each gradient becomes the sum over all ranks, and is then the same on each to the bit; None stays where no rank has one."""
    if world() == 1:
        return
    import torch
    import torch.distributed as dist

    held = list(parameters)
    there = torch.tensor([p.grad is not None for p in held], dtype=torch.int32)
    agree()
    _exchange(lambda: dist.all_reduce(there, dist.ReduceOp.MAX, group=_control))
    used = [p for p, anywhere in zip(held, there.tolist(), strict=True) if anywhere]
    for p in used:
        if p.grad is None:
            p.grad = torch.zeros_like(p)
    for bucket in _buckets([p.grad for p in used if p.grad is not None]):
        flat = torch.cat([gradient.flatten() for gradient in bucket])
        _exchange(lambda flat=flat: dist.all_reduce(flat))  # type: ignore[misc]
        for gradient, total in zip(bucket, torch.split(flat, [g.numel() for g in bucket]), strict=True):
            gradient.copy_(total.view_as(gradient))


def _buckets(gradients: Sequence[Tensor]) -> list[list[Tensor]]:
    """Neighbours of one dtype and device, BUCKET numbers at most, or one tensor."""
    buckets: list[list[Tensor]] = []
    room = 0
    for gradient in gradients:
        last = buckets[-1][0] if buckets else None
        room -= gradient.numel()
        if last is None or room < 0 or (last.dtype, last.device) != (gradient.dtype, gradient.device):
            buckets.append([])
            room = BUCKET - gradient.numel()
        buckets[-1].append(gradient)
    return buckets


def _reduce(flags: Sequence[bool]) -> list[bool]:
    import torch
    import torch.distributed as dist

    found = torch.zeros(1 + MOST_FLAGS, dtype=torch.int32)
    found[: len(flags)] = torch.tensor(flags, dtype=torch.int32)
    _exchange(lambda: dist.all_reduce(found, dist.ReduceOp.MAX, group=_control))
    return [bool(flag) for flag in found]


def _gathered(value: T) -> list[T]:
    import torch.distributed as dist

    values: list[Any] = [None] * _world
    _exchange(lambda: dist.all_gather_object(values, value, group=_control))
    return values


def _broadcast(value: Any) -> Any:
    import torch.distributed as dist

    box = [value]
    _exchange(lambda: dist.broadcast_object_list(box, 0, group=_control))
    return box[0]


def _exchange(call: Callable[[], Any]) -> None:
    try:
        call()
    except RuntimeError:  # gloo and nccl raise it where a peer has closed its connection
        raise lost() from None


def lost() -> ResourceError:
    """What is raised where another rank is gone."""
    return _Lost(
        "distributed/lost",
        "Another process of this run has ended without a word; look for its message, then start the same command again.",
    )


def leave(error: Exception) -> NoReturn:
    """End this rank at once, with its message: the others wait for it where nothing can be agreed, and notice that it is gone."""
    said = f"error[{error.code}]: {error}" if isinstance(error, GalvanError) else _portable(error)[-1]
    print(shown(f"rank {_rank}: {said}"), file=sys.stderr, flush=True)
    os._exit(error.exit_code if isinstance(error, GalvanError) else EXIT_BUG)
