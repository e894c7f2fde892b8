"""Several processes, one training: ``torchrun --nproc-per-node=N main.py train ...``.

Every process (a rank) draws the same whole batch, with the same random numbers, works on its own share of it, and the gradients are averaged before each
update. So N ranks do what one does on the same batch, only faster. The first rank alone writes files and progress. A network that is too large for every rank
to hold with its optimizer can be sharded (FSDP2): each rank keeps a part of every parameter. All of it computes on processors, with gloo between them.
"""

import os
from collections.abc import Iterable
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

Batch = TypeVar("Batch", Tensor, np.ndarray)


def join_ranks() -> None:
    """Join the other processes, if torchrun started this one; otherwise do nothing."""
    if "WORLD_SIZE" in os.environ and not dist.is_initialized():
        dist.init_process_group("gloo")


def leave_ranks() -> None:
    """Part from the other processes."""
    if dist.is_initialized():
        dist.destroy_process_group()


def is_first() -> bool:
    """Tell whether this process writes the files."""
    return not dist.is_initialized() or dist.get_rank() == 0


def share(batch: Batch) -> Batch:
    """Return this rank's share of something that has one entry per example.

    Raises:
        ValueError: it cannot be shared evenly.
    """
    if not dist.is_initialized():
        return batch
    ranks = dist.get_world_size()
    if len(batch) % ranks:
        raise ValueError(f"A batch of {len(batch)} cannot be shared by {ranks} processes; start a number that divides it.")
    return batch[dist.get_rank() :: ranks]


def count_ranks() -> int:
    """Return how many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def normal_like(examples: Tensor) -> Tensor:
    """Return standard normal numbers for this rank's examples [b, ...]: what one process would draw for them in the whole batch."""
    return share(torch.randn(count_ranks() * len(examples), *examples.shape[1:]))


def uniform_for(examples: Tensor) -> Tensor:
    """Return a number in [0, 1) for each of this rank's examples [b, ...]: what one process would draw for them in the whole batch."""
    return share(torch.rand(count_ranks() * len(examples)))


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Give all ranks the mean of their gradients, in one exchange; those of sharded parameters are that already."""
    if not dist.is_initialized():
        return
    gradients = [p.grad for p in parameters if p.grad is not None and not isinstance(p.grad, DTensor)]
    if gradients:
        flat = torch.cat([g.reshape(-1) for g in gradients])
        dist.all_reduce(flat)
        flat /= dist.get_world_size()
        for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))


def shard(model: nn.Module) -> None:
    """Leave every rank its part of a transformer's parameters; a block's are brought together while it computes. Before the optimizer is made."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    ranks = init_device_mesh("cpu", (count_ranks(),))
    ready = {p for name, p in model.named_parameters() if name.startswith("recall.")}  # asked before the transformer is; it learns nothing any more
    for part in (*model.blocks, model):  # type: ignore[misc]
        fully_shard(part, mesh=ranks, ignored_params=ready)


def whole(state: Any) -> Any:
    """Return a state (tensors in dicts and lists) with what is sharded brought together. All ranks must call it."""
    if isinstance(state, DTensor):
        return state.full_tensor()
    if isinstance(state, dict):
        return {name: whole(value) for name, value in state.items()}
    return [whole(value) for value in state] if isinstance(state, list) else state


def sharded_like(state: Any, example: Any) -> Any:
    """Return a whole state with the tensors sharded that are so in another state, as far as that one has them."""
    if isinstance(state, dict) and isinstance(example, dict):
        return {name: sharded_like(value, example.get(name)) for name, value in state.items()}
    if isinstance(example, DTensor) and isinstance(state, Tensor) and state.shape == example.shape:
        return distribute_tensor(state, example.device_mesh, example.placements)
    return state


def agree(choice: bool) -> bool:
    """Return what the first rank has chosen."""
    if not dist.is_initialized():
        return choice
    told = [choice]
    dist.broadcast_object_list(told)
    return told[0]


def wait_for_all() -> None:
    """Return when every rank has come here."""
    if dist.is_initialized():
        dist.barrier()
