"""A memory of places seen from above: the ground lies still under who drives, and he is followed by it."""

import math
from itertools import pairwise

import pytest
import torch
from tiny import see_colours

from world_model.above import FENCE, Ground, RecallFromAbove
from world_model.recall import PLACE
from world_model.training.recall import TexelOptimizer

VIEW = 0.2, 0.15, 0.25


def place(x: float, y: float, angle: float, turn: float = 0.0, step: tuple[float, float] = (0.0, 0.0)) -> torch.Tensor:
    return torch.tensor([x, y, math.cos(angle), math.sin(angle), turn, 0.0, *step])


@torch.no_grad()
def test_the_ground_is_seen_where_it_lies() -> None:
    """A spot ahead is above the body in the picture, one to its left on the left, whichever way it heads; and what moves with it lies over both."""
    ground = Ground((30, 40), 256)
    assert not ground.begun
    ground.begin(torch.tensor([[0.5, 0.5]]), VIEW, torch.tensor([0.1, 0.2, 0.3]))
    assert torch.allclose(ground(place(3, 3, 1.0)[None])[0], torch.tensor([0.1, 0.2, 0.3])[:, None, None])
    assert ground.begun and float((ground.stands() - 0.5).abs().max()) < 0.04
    ground.covers.fill_(-20)
    for angle in (0.0, 1.0, 3.0):
        for ahead, left in ((0.05, 0.0), (0.0, 0.05), (0.08, -0.06)):
            spot = torch.tensor([0.5 + ahead * math.cos(angle) - left * math.sin(angle), 0.5 + ahead * math.sin(angle) + left * math.cos(angle)])
            cells = torch.stack(torch.meshgrid(torch.arange(256), torch.arange(256), indexing="xy"), -1)
            apart = ((cells + 0.5) / 256 * 1.125 - 1 / 16 - spot).square().sum(-1)
            ground.ground.copy_((-apart / 0.008**2).exp().expand(1, 3, -1, -1))
            (picture,), (bare,) = ground(place(0.5, 0.5, angle)[None])
            assert picture.shape == (3, 30, 40) and bare.shape == (1, 30, 40) and bare.min() > 0.99
            row, column = divmod(int(picture[0].argmax()), 40)
            assert abs(row + 0.5 - 30 * (0.75 - ahead / VIEW[1])) <= 1 and abs(column + 0.5 - 40 * (0.5 - left / VIEW[0])) <= 1, (angle, ahead, left)
    ground.covers[..., 20:] = 20
    ground.cover.fill_(-0.5)
    (picture,), _ = ground(place(0.5, 0.5, 0.0)[None])
    assert torch.allclose(picture[:, :, 20:], torch.tensor(-0.5), atol=1e-4) and not torch.allclose(picture[:, :, :20], torch.tensor(-0.5), atol=1e-2)


@pytest.fixture(scope="module")
def painted() -> RecallFromAbove:
    """Return a recall of ground with smooth random paint, of which latents are the mean colours."""
    torch.manual_seed(0)
    recall = RecallFromAbove((3, 16, 32), 6, 128, 0, 16, 90.0)
    with torch.no_grad():
        recall.memory.begin(torch.rand(500, 2), VIEW, torch.zeros(3))
        recall.memory.ground.copy_(torch.nn.functional.interpolate(torch.randn(1, 3, 24, 24), (128, 128), mode="bilinear"))
        see_colours(recall)
    return recall


@torch.no_grad()
def test_a_driver_is_found_where_the_picture_says(painted: RecallFromAbove) -> None:
    """Each step brings his place nearer, ahead, aside and turned, and his last step and turn with it."""
    true = place(0.45, 0.5, 0.4)[None, None]
    seen = painted.remember(true)[:, :, :-1]
    for x, y, angle in ((0.008, 0.0, 0.0), (0.0, 0.008, 0.0), (0.0, 0.0, 0.08), (0.005, -0.005, 0.05)):
        guess, errors = place(0.45 + x, 0.5 + y, 0.4 + angle)[None, None], []
        for _ in range(5):
            errors.append(float((painted.remember(guess)[:, :, :-1] - seen).square().mean()))
            guess = painted.align(guess, seen, painted.remember(guess))
        assert all(after < 0.8 * before for before, after in pairwise(errors)) and errors[-1] < 0.03 * errors[0], errors
        assert float((guess - true)[..., :4].abs().max()) < 0.005
        corrected = guess[0, 0, 4:]
        assert abs(float(corrected[0]) + angle / 2) < 0.01 and torch.allclose(corrected[2:], -torch.tensor([x, y]) / 2, atol=0.001), corrected


@torch.no_grad()
def test_a_driver_is_found_without_a_guess(painted: RecallFromAbove, monkeypatch: pytest.MonkeyPatch) -> None:
    """Anywhere he may be, by what his last two pictures show alone."""
    monkeypatch.setattr(painted, "guess", lambda *given: place(0.7, 0.3, 3.0)[None, None])
    for x, y, angle in ((0.45, 0.5, 0.4), (0.3, 0.65, 3.0), (0.6, 0.35, -1.8)):
        went, turn = torch.tensor([0.004 * math.cos(angle), 0.004 * math.sin(angle)]), 0.03
        drive = torch.stack([place(x - float(went[0]), y - float(went[1]), angle - turn), place(x, y, angle)])[None]
        found = painted.find(painted.remember(drive)[:, :, :-1], torch.zeros(1, 2, 2, 3))[0, 0]
        assert float((found[:4] - drive[0, 1, :4]).abs().max()) < 0.01
        assert float((found[6:] - went).abs().max()) < 0.001 and abs(float(found[4]) - turn) < 0.01, "and how fast he goes"


@torch.no_grad()
def test_there_is_a_fence_around_the_map(painted: RecallFromAbove) -> None:
    ahead = painted.expect(torch.zeros(1, 4, 2, 3), place(0.9, 0.5, 0.0, step=(0.03, 0.0))[None, None])
    assert ahead[0, :, 0].tolist() == pytest.approx([0.93, 1 - FENCE, 1 - FENCE, 1 - FENCE]) and ahead[0, 2:, 6].abs().max() < 1e-6, "nobody drives through it"


@torch.no_grad()
def test_what_lies_over_the_ground_is_not_taken_from_the_memory(painted: RecallFromAbove) -> None:
    covers = painted.memory.covers.clone()
    painted.memory.covers[..., 32:, :] = 50
    known = painted.remembers()
    painted.memory.covers.copy_(covers)
    assert known.shape == (1, 1, 16, 32) and known[..., 8:, :].max() < 1e-6 < 0.9 < known[..., :8, :].min()


@torch.no_grad()
def test_who_drives_rolls_on(painted: RecallFromAbove) -> None:
    """Before anything is learnt he goes on as he went, round a bend, and his step turns with him no more than his picture says."""
    here = place(0.5, 0.5, math.pi / 2, turn=0.1, step=(0.0, 0.02))[None, None]
    nothing = torch.zeros(1, 1, 2, 3)
    gone = painted.go_on(torch.zeros(1, 1, 3, 16, 32), nothing, here, here)
    assert torch.allclose(gone, place(0.5, 0.52, math.pi / 2 + 0.1, turn=0.1, step=(0.0, 0.02)), atol=1e-6)
    ahead = painted.expect(nothing.expand(-1, 3, -1, -1), here)
    assert ahead.shape == (1, 3, PLACE) and torch.allclose(ahead[0, :, 1], torch.tensor([0.52, 0.54, 0.56]), atol=1e-6)
    assert torch.allclose(ahead[:, :1], gone, atol=1e-6)


def test_a_driver_learns_what_his_actions_do(painted: RecallFromAbove) -> None:
    """Gas makes steps longer and a stick turns: learnt from places alone."""
    torch.manual_seed(1)
    recall = RecallFromAbove((3, 16, 32), 2, 16, 0, 16, 90.0)
    optimizer = torch.optim.Adam(recall.ego.parameters(), 3e-3)
    for _ in range(300):
        actions, angle, speed, turn = torch.rand(256, 2), 6 * torch.rand(256), 0.01 * torch.rand(256), 0.1 * torch.randn(256)
        faster, heading = speed + 0.003 * actions[:, 0], angle + (turned := 0.8 * turn + 0.05 * actions[:, 1])
        here = torch.stack([0 * speed + 0.5, 0 * speed + 0.5, angle.cos(), angle.sin(), turn, 0 * turn, speed * angle.cos(), speed * angle.sin()], 1)
        there = torch.stack([0.5 + faster * angle.cos(), 0.5 + faster * angle.sin(), heading.cos(), heading.sin(), turned], 1)
        error = recall.drive(here, actions)[:, :5] - there
        (error * torch.tensor([100.0, 100.0, 10.0, 10.0, 10.0])).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        slow = recall.drive(place(0.5, 0.5, 2.0, step=(0.005 * math.cos(2.0), 0.005 * math.sin(2.0)))[None], torch.tensor([[1.0, 0.0]]))
        bend = recall.drive(place(0.5, 0.5, 2.0)[None], torch.tensor([[0.0, 1.0]]))
    assert abs(float(slow[0, 6:].norm()) - 0.008) < 0.0007 and abs(float(bend[0, 4]) - 0.05) < 0.01


def test_ground_is_learnt_from_pictures_and_places() -> None:
    """What was never seen from a place is foretold there, and not by who was told wrong places; a panel that moves with the driver is told from the ground."""
    torch.manual_seed(0)
    true = Ground((24, 32), 64)
    somewhere = torch.rand(400, 2)
    true.begin(somewhere, VIEW, torch.zeros(3))
    with torch.no_grad():
        true.ground.copy_(torch.nn.functional.interpolate(torch.randn(1, 3, 32, 32), (64, 64), mode="bilinear"))
        true.covers.fill_(-20)
        true.covers[..., 20:, :] = 20
        true.cover.fill_(-0.5)
        places = torch.stack([place(x, y, angle) for (x, y), angle in zip(somewhere.tolist(), (6.3 * torch.rand(400)).tolist(), strict=True)])
        pictures = true(places)[0]
    errors, bare = [], []
    for told in (places, places[torch.randperm(400)]):
        learns = Ground((24, 32), 64)
        learns.begin(somewhere, VIEW, torch.zeros(3))
        optimizer = TexelOptimizer(learns, 0.02)
        for step in range(300):
            rows = torch.randint(320, (16,))
            ((learns(told[rows])[0] - pictures[rows]).square().mean() + learns.price()).backward()
            optimizer.step_at(min(1.0, (300 - step) / 100))
        with torch.no_grad():
            foretold = learns(places[320:])[0]
            errors.append(float((foretold - pictures[320:]).square().mean()))
            bare.append(learns.bare(24, 32)[0, 0])
    assert errors[0] < 0.05 * float(pictures.var()) < 0.5 * errors[1], errors
    assert float(bare[0][21:].mean()) < 0.3 < 0.9 < float(bare[0][:18].mean()), "only the panel covers the ground"
