"""The adversary learns to tell, and points from what it doubts towards what it believes."""

import copy

import torch

from world_model.training.adversary import Adversary


def test_it_learns_to_tell_blur_from_texture_and_says_where_to_go() -> None:
    torch.manual_seed(0)
    adversary = Adversary()
    losses = [adversary.learn(torch.zeros(4, 3, 16, 16), torch.randn(4, 3, 16, 16)) for _ in range(250)]
    assert losses[-1] < 0.5 < losses[0], losses[::25]
    picture = torch.zeros(4, 3, 16, 16, requires_grad=True)
    doubt = adversary.doubt(picture)
    (gradient,) = torch.autograd.grad(doubt, picture)
    assert adversary.doubt(picture - 0.3 * gradient / gradient.std()) < doubt
    assert all(p.grad is None and p.requires_grad for p in adversary.network.parameters())


def test_a_restored_adversary_goes_on_the_same() -> None:
    made, real = torch.zeros(2, 3, 16, 16), torch.randn(2, 3, 16, 16)
    one, other = Adversary(), Adversary()
    for _ in range(3):
        one.learn(made, real)
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    assert one.learn(made, real) == other.learn(made, real)
    assert one.learn(made, real) == other.learn(made, real)
