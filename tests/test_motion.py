"""Motion compensation: what a flow means, and that a network can learn one."""

import numpy as np
import pytest
import torch

from world_model.motion import Motion, warp
from world_model.training.autoencoder import draw_warps, inside
from world_model.training.autoencoder import warp as warp_by_map
from world_model.training.optimizer import MuonAdamW


def test_no_flow_changes_nothing() -> None:
    images = torch.randn(2, 3, 6, 8)
    torch.testing.assert_close(warp(images, torch.zeros(2, 2, 6, 8)), images)


def test_a_flow_of_whole_positions_takes_content_from_there() -> None:
    images = torch.randn(1, 3, 6, 8)
    flow = torch.zeros(1, 2, 6, 8)
    flow[:, 0], flow[:, 1] = 2, -1
    torch.testing.assert_close(warp(images, flow)[..., 1:, :6], images[..., :5, 2:])


def test_affine_maps_agree_with_flows() -> None:
    images = torch.randn(1, 3, 6, 8)
    maps = torch.tensor([[[1.0, 0, 2 * 1.5 / 8], [0, 1.0, 0]]])  # 1.5 positions to the right, in half pictures
    flow = torch.zeros(1, 2, 6, 8)
    flow[:, 0] = 1.5
    torch.testing.assert_close(warp_by_map(images, maps), warp(images, flow))
    assert inside(maps, 6, 8)[0, 0, 3].tolist() == [True] * 6 + [False] * 2


def test_motion_learns_to_follow_an_action() -> None:
    """Frames move by one position to the side that the action vector says; a residual alone cannot do that to random frames."""
    torch.manual_seed(0)
    motion = Motion(latent_channels=4, dim=16, patch_size=(2, 2), channels=16, blocks=1)
    optimizer = MuonAdamW(motion, 0.01, 1e-2)
    codes = torch.randn(2, 16)
    errors = []
    for _ in range(150):
        before = torch.randn(8, 1, 4, 6, 8)
        side = torch.randint(0, 2, (8,))
        moved = torch.stack([frame.roll(1 if s else -1, -1) for frame, s in zip(before, side, strict=True)])
        out = motion(torch.randn_like(before), before, torch.zeros(8, 1, 12, 16), codes[side][:, None])
        error = (out - moved)[..., 1:-1].square().mean()
        error.backward()
        optimizer.step()
        errors.append(error.item())
    assert errors[-1] < 0.1 < 1 < errors[0], errors[::30]


@torch.no_grad()
def test_a_part_of_what_is_remembered_is_taken_in_any_case() -> None:
    before, recalled, tokens, told = torch.zeros(1, 1, 4, 6, 8), torch.ones(1, 1, 4, 6, 8), torch.zeros(1, 1, 12, 16), torch.zeros(1, 1, 16)
    motion = Motion(latent_channels=4, dim=16, patch_size=(2, 2), channels=16, blocks=1, recalls=True)
    motion.flow.bias[4:] = -50  # as little as can be
    for least in (0.0, 0.5, 1.0, torch.rand(1, 1, 6, 8)):
        assert torch.allclose(motion(before, before, tokens, told, recalled, least=least), least * recalled)


def test_warps_of_a_batch_lie_within_their_bounds() -> None:
    maps = draw_warps(np.random.default_rng(0), 500)
    assert maps[:, 0, 0].log().abs().max() <= 0.2 and maps[:, 0, 2].abs().max() <= 0.19 and 150 < int((maps[:, 1, 2] == 0).sum()) < 350


def test_one_product_makes_the_modulations_of_all_pairs() -> None:
    torch.manual_seed(0)
    motion = Motion(latent_channels=4, dim=16, patch_size=(2, 2), channels=16, blocks=2)
    for pair in motion.pairs:
        torch.nn.init.normal_(pair.modulation.weight)
    before, tokens, told = torch.randn(2, 3, 4, 6, 8), torch.randn(2, 3, 12, 16), torch.randn(2, 3, 16)
    plain = motion(before, before, tokens, told)
    motion.pack()
    with torch.no_grad():
        torch.testing.assert_close(motion(before, before, tokens, told), plain)
    motion(before, before, tokens, told).square().sum().backward()
    assert all(pair.modulation.bias.grad is not None for pair in motion.pairs), "each has weights of its own"


@pytest.mark.parametrize("refined", [0, 2])
def test_frames_that_are_not_refined_are_only_moved(refined: int) -> None:
    torch.manual_seed(0)
    motion = Motion(latent_channels=4, dim=16, patch_size=(2, 2), channels=16, blocks=2, recalls=True)
    for weight in motion.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    x, before, recalled = torch.randn(3, 2, 3, 4, 6, 8)
    tokens, told = torch.randn(2, 3, 12, 16), torch.randn(2, 3, 16)
    whole, some = (motion(x, before, tokens, told, recalled, number, 0.3) for number in (None, refined))
    torch.nn.init.zeros_(motion.leave.weight)
    torch.nn.init.zeros_(motion.leave.bias)  # type: ignore[arg-type]
    moved = motion(x, before, tokens, told, recalled, least=0.3)
    assert not torch.allclose(whole, moved, atol=0.1)
    torch.testing.assert_close(some, torch.cat([whole[:, :refined], moved[:, refined:]], 1), rtol=1e-3, atol=2e-3)
