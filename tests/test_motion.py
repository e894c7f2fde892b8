"""Motion compensation: what a flow means, and that a network can learn one."""

import numpy as np
import pytest
import torch

from world_model.motion import Motion, positions, rigid, warp
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


def turned(angle: float, right: float, down: float, plane: float) -> torch.Tensor:
    """Return the flow [1, 2, 12, 16] of a plane that turns about the picture's corner and shifts, `plane` times as wide as high."""
    here = positions(12, 16, torch.device("cpu"))[0]
    x, y = here[0] / plane, here[1]
    cosine, sine = np.cos(angle), np.sin(angle)
    there = torch.stack([plane * (cosine * x - sine * y + right), sine * x + cosine * y + down])
    return (there - here)[None]


@pytest.mark.parametrize("plane", [1.0, 1.2])
def test_a_plane_moves_as_one_piece(plane: float) -> None:
    for flow in (turned(0.2, 1.5, -2.0, plane), turned(-0.03, 0.0, 0.4, plane), torch.zeros(1, 2, 12, 16)):
        torch.testing.assert_close(rigid(flow, torch.rand(1, 1, 12, 16), plane), flow, atol=1e-4, rtol=1e-4)
        told, tells = flow.clone(), torch.ones(1, 1, 12, 16)
        told[:, :, 9:], tells[:, :, 9:] = 0, 0  # a panel that stands still tells nothing
        torch.testing.assert_close(rigid(told, tells, plane), flow, atol=1e-4, rtol=1e-4)
    torch.manual_seed(0)
    noisy = torch.cat([turned(0.2, 1.5, -2.0, plane)] * 20) + 0.3 * torch.randn(20, 2, 12, 16)
    assert (rigid(noisy, torch.ones(20, 1, 12, 16), plane) - turned(0.2, 1.5, -2.0, plane)).square().mean().sqrt() < 0.06, "errors cancel"
    stretched = torch.stack(torch.meshgrid(torch.arange(16.0), torch.arange(12.0), indexing="xy"))[None] * 0.1
    fitted = rigid(stretched, torch.ones(1, 1, 12, 16), plane)
    assert fitted.flatten(2).std(2).max() < 1e-4, "and nothing grows"


@torch.no_grad()
def test_what_is_bound_moves_with_the_plane() -> None:
    torch.manual_seed(0)
    before, tokens, told = torch.randn(1, 1, 4, 12, 16), torch.zeros(1, 1, 48, 16), torch.zeros(1, 1, 16)
    motion, moved = Motion(latent_channels=4, dim=16, patch_size=(2, 2), channels=16, blocks=1, plane=1.2), {}
    torch.nn.init.normal_(motion.flow.weight, std=0.1)
    seen: list[torch.Tensor] = []
    motion.flow.register_forward_hook(lambda _, __, out: seen.append(out))
    for bound in (-50.0, 50.0):
        motion.flow.bias[3] = bound  # type: ignore[index]
        moved[bound] = motion(before, before, tokens, told)
        flow = seen[-1][:, :2] if bound < 0 else rigid(seen[-1][:, :2], seen[-1][:, 2:3].sigmoid(), 1.2)
        torch.testing.assert_close(moved[bound], warp(before[0], flow)[None], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(moved[-50.0], moved[50.0], atol=0.05)


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
    for least in (0.0, 0.5, 1.0):
        motion = Motion(latent_channels=4, dim=16, patch_size=(2, 2), channels=16, blocks=1, recalls=True, least=least)
        motion.flow.bias[4:] = -50  # as little as can be
        assert torch.allclose(motion(before, before, tokens, told, recalled), least * recalled)


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
    motion = Motion(latent_channels=4, dim=16, patch_size=(2, 2), channels=16, blocks=2, recalls=True, least=0.3)
    for weight in motion.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    x, before, recalled = torch.randn(3, 2, 3, 4, 6, 8)
    tokens, told = torch.randn(2, 3, 12, 16), torch.randn(2, 3, 16)
    whole, some = (motion(x, before, tokens, told, recalled, number) for number in (None, refined))
    torch.nn.init.zeros_(motion.leave.weight)
    torch.nn.init.zeros_(motion.leave.bias)  # type: ignore[arg-type]
    moved = motion(x, before, tokens, told, recalled)
    assert not torch.allclose(whole, moved, atol=0.1)
    torch.testing.assert_close(some, torch.cat([whole[:, :refined], moved[:, refined:]], 1), rtol=1e-3, atol=2e-3)
