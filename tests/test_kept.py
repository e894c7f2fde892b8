"""What is made of weights is made again exactly when they change."""

import torch
from torch import nn

from world_model.kept import Kept


def test_it_is_made_once_for_weights_that_stay() -> None:
    kept, weight = Kept(), nn.Parameter(torch.ones(3), requires_grad=False)
    first = kept("double", lambda: 2 * weight, weight)
    assert kept("double", lambda: 2 * weight, weight) is first


def test_it_is_made_again_for_weights_that_were_changed_or_replaced() -> None:
    kept, weight = Kept(), nn.Parameter(torch.ones(3), requires_grad=False)
    for change in (lambda: weight.add_(1), lambda: setattr(weight, "data", torch.full((3,), 7.0)), lambda: weight.mul_(3)):
        kept("double", lambda: 2 * weight, weight)
        change()
        assert torch.equal(kept("double", lambda: 2 * weight, weight), 2 * weight)
    other = nn.Parameter(torch.zeros(3), requires_grad=False)
    assert torch.equal(kept("double", lambda: 2 * other, other), torch.zeros(3))


def test_what_is_made_in_play_may_serve_training_and_gradients_reach_weights_that_learn() -> None:
    kept, weight, input = Kept(), nn.Parameter(torch.ones(3)), torch.ones(3, requires_grad=True)
    with torch.inference_mode():
        kept("double", lambda: 2 * weight, weight)
    (kept("double", lambda: 2 * weight, weight) * input).sum().backward()
    assert torch.equal(weight.grad, torch.full((3,), 2.0))
    weight.requires_grad_(False)
    (kept("double", lambda: 2 * weight, weight) * input).sum().backward()  # an inference tensor cannot be saved for backward
