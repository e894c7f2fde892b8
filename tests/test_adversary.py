"""The adversary learns to tell, and points from what it doubts towards what it believes."""

import copy

import torch

from world_model.training.adversary import Adversary, Step

ACTIONS = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).repeat(4, 1)


def step(frame: torch.Tensor, before: torch.Tensor | None = None) -> Step:
    return torch.zeros_like(frame) if before is None else before, frame, ACTIONS


def test_it_learns_to_tell_blur_from_texture_and_says_where_to_go() -> None:
    torch.manual_seed(0)
    adversary = Adversary(4, 2, 5e-4)
    losses = [adversary.learn(step(torch.zeros(8, 4, 8, 8)), step(torch.randn(8, 4, 8, 8))) for _ in range(60)]
    assert losses[-1] < 1.0 < 3.0 < losses[0], losses[::25]
    frame = torch.zeros(8, 4, 8, 8, requires_grad=True)
    doubt = adversary.doubt(step(frame))
    (gradient,) = torch.autograd.grad(doubt, frame)
    assert adversary.doubt(step(frame - 0.3 * gradient / gradient.std())) < doubt
    assert all(p.grad is None and p.requires_grad for p in adversary.network.parameters())


def test_it_learns_where_an_action_leads() -> None:
    """Frames move to one side under one action and to the other under the other; made frames of the same looks move the wrong way."""
    torch.manual_seed(0)
    adversary = Adversary(4, 2, 5e-4)
    sides = ACTIONS[:, 0] > 0
    for _ in range(90):
        before = torch.randn(8, 4, 8, 8)
        left, right = before.roll(-2, 3), before.roll(2, 3)
        right_way, wrong_way = (torch.where(which[:, None, None, None], left, right) for which in (sides, ~sides))
        loss = adversary.learn(step(wrong_way, before), step(right_way, before))
    assert adversary.doubt(step(wrong_way, before)) > adversary.doubt(step(right_way, before)) + 1
    assert loss < 3


def test_a_restored_adversary_goes_on_the_same() -> None:
    made, real = step(torch.zeros(8, 4, 8, 8)), step(torch.randn(8, 4, 8, 8))
    one, other = Adversary(4, 2, 5e-4), Adversary(4, 2, 5e-4)
    results = []
    for adversary in (one, other):
        torch.manual_seed(1)
        if adversary is one:
            for _ in range(3):
                one.learn(made, real)
            other.load_state_dict(copy.deepcopy(one.state_dict()))
    for adversary in (one, other):
        torch.manual_seed(2)
        results.append([adversary.learn(made, real) for _ in range(2)])
    assert results[0] == results[1]
