"""One optimizer for all networks: Muon on matrices (and on convolutions seen as matrices), AdamW on everything else."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from world_model.precision import fastest
from world_model.training.ranks import sharded_like


def is_inner_matrix(name: str, p: nn.Parameter) -> bool:
    """Muon's share of a network: convolutions and the matrices inside transformer blocks."""
    return p.ndim == 4 or (p.ndim == 2 and name.startswith("blocks."))


class InFloat32(TorchFunctionMode):
    """Keep in float32 what would be turned into bfloat16, as torch's Muon does with what it orthogonalises."""

    def __torch_function__(self, function: Callable, types: Sequence[type], args: tuple = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        return args[0].to(torch.float32, copy=True) if function is Tensor.bfloat16 else function(*args, **(kwargs or {}))


class MuonAdamW:
    """Step both optimizers at rates scaled together.

    Args:
        model: the network.
        muon_rate, adam_rate: their base rates.
        weight_decay: of the matrices.
    """

    def __init__(self, model: nn.Module, muon_rate: float, adam_rate: float, weight_decay: float = 0.01) -> None:
        named = list(model.named_parameters())
        self.parameters = [p for name, p in named if is_inner_matrix(name, p)]
        self.matrices = [nn.Parameter(as_matrix(p.data, p)) for p in self.parameters]
        rest = [p for name, p in named if not is_inner_matrix(name, p)]
        self.muon = torch.optim.Muon(self.matrices, lr=muon_rate, weight_decay=weight_decay, momentum=0.95)
        self.adamw = torch.optim.AdamW(rest, lr=adam_rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
        self.rates = (muon_rate, adam_rate)
        self.model = model

    def step(self, factor: float = 1.0) -> None:
        """Update all parameters from their gradients, which are then gone, with both rates scaled by `factor`."""
        for parameter, matrix in zip(self.parameters, self.matrices, strict=True):
            matrix.grad = None if parameter.grad is None else as_matrix(parameter.grad, parameter)
        for optimizer, rate in zip((self.muon, self.adamw), self.rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * factor
        with InFloat32() if fastest() is torch.float32 else nullcontext():  # a processor that only emulates bfloat16 takes 30 times as long for it
            self.muon.step()
        self.adamw.step()
        self.model.zero_grad()

    def state_dict(self) -> dict[str, Any]:
        return {"muon": self.muon.state_dict(), "adamw": self.adamw.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for optimizer, saved in ((self.muon, state["muon"]), (self.adamw, state["adamw"])):
            optimizer.load_state_dict(saved)
            for parameter, moments in optimizer.state.items():
                moments.update({name: sharded_like(value, parameter.data) for name, value in moments.items()})


def as_matrix(values: Tensor, weight: Tensor) -> Tensor:
    """See a weight's values or gradients as [outputs, everything else], on the same storage; a convolution may lie channels-last."""
    return (values if weight.is_contiguous() else values.permute(0, 2, 3, 1)).flatten(1)
