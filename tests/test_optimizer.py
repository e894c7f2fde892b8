"""The optimizer sees convolutions as matrices, whatever their memory layout."""

import torch
from torch import nn

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
