"""Several processes, one training: ``torchrun --nproc-per-node=N main.py train ...``.

Every process (a rank) draws the same whole batch, with the same random numbers, works on its own share of it, and the gradients are averaged before each
update. So N ranks do what one does on the same batch, only faster. The first rank alone writes files and progress. Communication is gloo on processors and
nccl on GPUs.
"""

import os
from collections.abc import Iterable
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

Batch = TypeVar("Batch", Tensor, np.ndarray)


def join_ranks() -> None:
    """Join the other processes, if torchrun started this one; otherwise do nothing."""
    if "WORLD_SIZE" in os.environ and not dist.is_initialized():
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")


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
    """Give all ranks the mean of their gradients, in one exchange."""
    if not dist.is_initialized():
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    if gradients:
        flat = torch.cat([g.reshape(-1) for g in gradients])
        dist.all_reduce(flat)
        flat /= dist.get_world_size()
        for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))


def wait_for_all() -> None:
    """Return when every rank has come here."""
    if dist.is_initialized():
        dist.barrier()
