"""The optimizer sees convolutions as matrices, whatever their memory layout."""

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from world_model.training import optimizer as optimizers
from world_model.training.optimizer import MuonAdamW


def test_memory_layout_does_not_change_the_singular_directions() -> None:
    """A Muon step depends on the layout only by the order of a matrix's columns: both layouts take the same step."""
    results = []
    for layout in (torch.contiguous_format, torch.channels_last):
        torch.manual_seed(0)
        conv = nn.Conv2d(4, 6, 3).to(memory_format=layout)
        optimizer = MuonAdamW(conv, 0.02, 1e-3)
        x = torch.randn(2, 4, 8, 8).contiguous(memory_format=layout)
        for _ in range(3):
            conv(x).square().mean().backward()
            optimizer.step()
        results.append(conv.weight.detach().contiguous())
        assert conv.weight.grad is None
    torch.testing.assert_close(*results, rtol=0, atol=2e-3)  # Muon orthogonalises in bfloat16


def test_parameters_without_a_gradient_stay() -> None:
    model = nn.ModuleDict({"used": nn.Conv2d(2, 2, 1), "unused": nn.Conv2d(2, 2, 1)})
    before = model["unused"].weight.detach().clone()
    optimizer = MuonAdamW(model, 0.02, 1e-3, weight_decay=0.0)
    model["used"](torch.randn(1, 2, 4, 4)).square().mean().backward()
    optimizer.step()
    torch.testing.assert_close(model["unused"].weight, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_matrices_are_orthogonalised_in_the_numbers_that_are_fast_here(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """And both take the same step, but for roundings."""

    dtypes = set()

    class Products(TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            if function is torch.addmm:
                dtypes.add(args[0].dtype)
            return function(*args, **(kwargs or {}))

    monkeypatch.setattr(optimizers, "fastest", lambda: dtype)
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 6, 3)
    optimizer, weight, before = MuonAdamW(conv, 0.1, 1e-3, weight_decay=0.0), conv.weight, conv.weight.detach().clone()
    conv(torch.randn(2, 4, 8, 8)).square().mean().backward()
    gradient = weight.grad.clone()  # type: ignore[union-attr]
    with Products():
        optimizer.step()
    assert dtypes == {dtype}
    u, _, v = torch.linalg.svd(gradient.flatten(1), full_matrices=False)
    step = (before - weight.detach()).flatten(1)
    singular = torch.linalg.svdvals(step) / 0.1
    assert ((singular > 0.6) & (singular < 1.3)).all(), "the step has the gradient's singular vectors, and singular values near one"
    assert ((step * (u @ v)).sum() / step.norm() / (u @ v).norm()) > 0.97
