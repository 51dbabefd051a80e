"""One run in several processes, started by torchrun: on the GPUs of one machine, or of many.

Every process draws the same rows for a step and takes its own share of them; gradients are averaged right before an
optimizer steps, so a method's `update` need not know of it, however many networks and optimizers it has. With one process all
of this does nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, distributed, nn

from vivavoce.method import Method
from vivavoce.types import InputError

BUCKET = 25 * 2**20  # numbers averaged in one message
LARGE = 500_000  # parameters of a part worth cutting up


def count() -> int:
    """Processes of this run."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def number() -> int:
    """Of this process, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def first() -> bool:
    """Whether this process writes the files."""
    return number() == 0


@contextmanager
def joined(device: str) -> Iterator[str]:
    """The run that torchrun started this process for; gives the device of this process. Without torchrun: the device as given."""
    if "WORLD_SIZE" not in os.environ or int(os.environ["WORLD_SIZE"]) == 1 or distributed.is_initialized():
        yield device
        return
    if device.startswith("cuda"):
        device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    try:
        yield device
        distributed.barrier()
    finally:
        distributed.destroy_process_group()


def spread(method: Method, shard: bool) -> None:
    """Make the processes' methods one: the weights of the first everywhere; with `shard`, large parts cut up among them (FSDP2)."""
    if count() == 1:
        if shard:
            raise InputError("--shard", "there is one process only", "start it with: torchrun --nproc-per-node N -m vivavoce.cli train ...")
        return
    for value in method.state_dict(keep_vars=True).values():
        distributed.broadcast(value.detach(), 0)
    if shard:
        from torch.distributed.fsdp import fully_shard

        for part in method.children():
            if sum(p.numel() for p in part.parameters()) >= LARGE:
                fully_shard(part)


def average(optimizers: list[torch.optim.Optimizer]) -> None:
    """From now on gradients are averaged over the processes when an optimizer is about to step."""
    if count() > 1:
        for optimizer in optimizers:
            optimizer.register_step_pre_hook(_average)


def _average(optimizer: torch.optim.Optimizer, *rest: Any) -> None:
    """A parameter without a gradient in this process may have one in another: zeros stand for it."""
    parameters = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad and not _cut(p)]
    there = torch.tensor([float(p.grad is not None) for p in parameters], device=parameters[0].device if parameters else "cpu")
    if not len(there):
        return
    distributed.all_reduce(there)
    used = [p for p, n in zip(parameters, there.tolist(), strict=True) if n]
    for parameter in used:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    bucket: list[Tensor] = []
    for at, parameter in enumerate(used):
        assert parameter.grad is not None
        bucket.append(parameter.grad)
        if at == len(used) - 1 or sum(g.numel() for g in bucket) >= BUCKET or used[at + 1].dtype != parameter.dtype:
            flat = torch.cat([g.flatten() for g in bucket])
            distributed.all_reduce(flat)
            flat /= count()
            for gradient, piece in zip(bucket, flat.split([g.numel() for g in bucket]), strict=True):
                gradient.copy_(piece.view_as(gradient))
            bucket = []


def mean(losses: dict[str, Tensor]) -> dict[str, float]:
    """Named losses as numbers, averaged over the processes."""
    if count() == 1:
        return {k: float(v) for k, v in losses.items()}
    values = torch.stack([v.float() for v in losses.values()])
    distributed.all_reduce(values)
    return dict(zip(losses, (values / count()).tolist(), strict=True))


def agreed(answer: bool) -> bool:
    """What the first process says: clocks differ, and all must do the same."""
    if count() == 1:
        return answer
    device = f"cuda:{torch.cuda.current_device()}" if distributed.get_backend() == "nccl" else "cpu"
    said = torch.tensor([float(answer)], device=device)
    distributed.broadcast(said, 0)
    return bool(said.item())


def same(method: nn.Module, step: int) -> None:
    """Raises InputError when the processes' weights have come apart: a method that changes itself by what it saw alone."""
    if count() == 1:
        return
    sums = [v.detach().double().sum() for v in method.parameters() if not _cut(v)]
    if not sums:
        return
    own = torch.stack(sums)
    low, high = own.clone(), own.clone()
    distributed.all_reduce(low, distributed.ReduceOp.MIN)
    distributed.all_reduce(high, distributed.ReduceOp.MAX)
    if not torch.allclose(low, high, rtol=1e-6, atol=1e-9):
        cause = f"the processes' weights differ at step {step}: this method changes itself by what one process saw"
        raise InputError(type(method).__name__, cause, "train it in one process")


def whole(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous tensors, put together from the processes where they are cut up."""
    return {k: _full(v).detach().contiguous() for k, v in tensors.items()}


def like(value: Tensor, parameter: Any) -> Tensor:
    """A whole tensor cut up as a parameter is."""
    if not _cut(parameter) or value.shape != parameter.shape:
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)


def _full(tensor: Any) -> Tensor:
    return tensor.full_tensor() if _cut(tensor) else tensor


def _cut(tensor: Tensor) -> bool:
    """Whether a tensor's parts lie in several processes (a DTensor)."""
    return hasattr(tensor, "full_tensor")
