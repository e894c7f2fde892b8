"""A world that recalls: it follows where it is, tick by tick, and its place belongs to its state."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import make_world
from torch import Tensor

from world_model.recall import NUM_FEATURES, NUM_RAY_FEATURES, Recall, features, rays, reckon
from world_model.state import StateError
from world_model.world import World

TAPE = [["forward"], ["forward", "turn_left"], [], ["turn_right"], ["turn_right"]] * 3


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    path = tmp_path_factory.mktemp("recall") / "tiny.safetensors"
    make_world(recall_width=16).save(path)
    return World.load(path, "cpu", torch.float32)


@torch.no_grad()
def test_a_heading_is_the_same_after_a_full_turn() -> None:
    angle = torch.tensor([0.3, 0.3 + 2 * math.pi, 0.4])
    waves = features(torch.stack([torch.full((3,), 0.2), torch.full((3,), 0.7), angle.cos(), angle.sin()], 1))
    assert waves.shape == (3, NUM_FEATURES)
    assert torch.allclose(waves[0], waves[1], atol=1e-4) and not torch.allclose(waves[0], waves[2], atol=1e-2)


@torch.no_grad()
def test_a_ray_is_the_same_in_whatever_column_it_falls() -> None:
    """Who turns by a column's angle has that column's ray in the middle, and columns of one picture spread over the field of view."""
    turned = torch.atan((torch.arange(9) + 0.5) * 2 / 9 - 1)  # the middle of nine columns looks straight ahead, and 45 degrees are at the border
    ahead = torch.tensor([0.3, 0.6, math.cos(0.7), math.sin(0.7)])
    picture = rays(ahead, 9, 1.0)
    assert picture.shape == (9, NUM_RAY_FEATURES)
    for column, angle in enumerate(turned):
        seen = rays(reckon(ahead, torch.tensor([0.0, 0.0, -float(angle)])), 9, 1.0)
        assert torch.allclose(seen[4, :-2], picture[column, :-2], atol=1e-3)


@torch.no_grad()
def test_reckoning_goes_where_the_player_looks() -> None:
    north = torch.tensor([0.5, 0.5, 0.0, 1.0])
    assert torch.allclose(reckon(north, torch.tensor([2.0, 0.0, 0.0])), torch.tensor([0.5, 0.6, 0.0, 1.0]), atol=1e-6)
    assert torch.allclose(reckon(north, torch.tensor([0.0, 2.0, math.pi / 2])), torch.tensor([0.4, 0.5, -1.0, 0.0]), atol=1e-6)


@torch.no_grad()
def test_runs_are_followed_each_from_its_own_place_and_one_frame_after_the_other() -> None:
    torch.manual_seed(0)
    recall = Recall((4, 8, 8), 6, 16, 1, 16, 90.0)
    before, actions, place = torch.randn(2, 6, 4, 8, 8), torch.rand(2, 6, 2, 3), torch.tensor([[0.1, 0.2, 0.6, 0.8], [0.0, 0.0, 0.0, 0.0]]).expand(2, -1, -1)
    together, remembered = recall.follow(before, actions, place)
    for run in (0, 1):
        follows = place[:, run : run + 1]
        for frame in range(3 * run, 3 * run + 3):
            follows = recall.follow(before[:, frame : frame + 1], actions[:, frame : frame + 1], follows)[0]
            assert torch.allclose(together[:, frame : frame + 1], follows, atol=1e-5)
    assert remembered.shape == before.shape and torch.allclose(remembered, recall.paint(together), atol=1e-5)


@torch.no_grad()
def test_who_does_nothing_stays_where_he_is_whatever_he_sees() -> None:
    torch.manual_seed(0)
    recall = Recall((4, 8, 8), 6, 16, 1, 16, 90.0)
    torch.nn.init.normal_(recall.ego[2].weight)  # type: ignore[arg-type]
    torch.nn.init.normal_(recall.settle.weight)
    frames, here, idle = torch.randn(1, 5, 4, 8, 8), torch.tensor([[[0.1, 0.2, 0.6, 0.8]]]), torch.zeros(1, 5, 2, 3)
    pressed = idle.clone()
    pressed[:, 0, 1, 0] = 1
    assert torch.allclose(recall.follow(frames, idle, here)[0], here.expand(1, 5, 4), atol=1e-6)
    assert (recall.follow(frames, pressed, here)[0] - here).abs().amax(2).min() > 1e-3
    lost = torch.zeros(1, 1, 4)
    assert recall.follow(frames[:, :1], idle[:, :1], lost)[0].abs().max() > 1e-3, "who does not know where he is looks around nonetheless"


def test_a_place_far_from_the_map_leads_nowhere_farther() -> None:
    recall = Recall((4, 8, 8), 6, 16, 1, 16, 90.0)
    place = torch.full((1, 1, 4), 1e6)
    with torch.no_grad():
        followed, _ = recall.follow(torch.zeros(1, 1, 4, 8, 8), torch.zeros(1, 1, 2, 3), place)
    assert float(followed.abs().max()) < 10


def test_a_stream_knows_its_place_and_says_so_in_its_state(world: World, tmp_path: Path) -> None:
    here = world.stream(7)
    assert bool(here.window.place.any()), "it has looked at its start clip"
    for action in TAPE:
        before = here.window.place
        here.tick(action)
        assert not torch.equal(before, here.window.place)
    here.save(tmp_path / "state.safetensors")
    saved = here.snapshot()
    onwards = [here.tick(action) for action in TAPE]
    here.restore(saved)
    there = world.stream(3, 1)
    there.restore(there.load(tmp_path / "state.safetensors"))
    for stream in (here, there):
        assert all(np.array_equal(stream.tick(action), frame) for action, frame in zip(TAPE, onwards, strict=True))


def test_streams_of_a_batch_have_places_of_their_own(world: World) -> None:
    batch, alone = world.stream([1, 2], [0, 2]), world.stream(2, 2)
    assert torch.allclose(batch.window.place[1:], alone.window.place, atol=1e-4)
    frames = batch.tick([[], TAPE[0]])
    assert np.abs(frames[1].astype(int) - alone.tick(TAPE[0])).mean() <= 1  # these weights are random, and make much of a last digit
    assert torch.allclose(batch.window.place[1:], alone.window.place, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(batch.window.place[:1], alone.window.place, rtol=0.1, atol=0.1)


def test_the_passes_of_a_rollback_seek_the_first_place_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = world.stream(7)
    sought: list[int] = []
    seek = world.transformer.recall.seek

    def counting(before: Tensor, *rest: Tensor) -> Tensor:
        sought.append(before.shape[1])
        return seek(before, *rest)

    monkeypatch.setattr(world.transformer.recall, "seek", counting)
    for action in (["forward"], ["forward"], ["turn_left"]):
        sought.clear()
        stream.tick(action, rollback=3)
        assert sought == [1], "in none of its passes are frames ahead sought, they are reckoned"


def test_every_pass_is_shown_what_is_remembered_from_the_places_of_its_frames(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    stream, forward, passes = world.stream(7), world.transformer.forward, []

    def watched(*given: Any) -> Tensor:
        if len(given) > 7:
            assert torch.allclose(given[7], world.transformer.recall.remember(stream.window.places), atol=1e-5)
            passes.append(given[7].shape[1])
        return forward(*given)

    monkeypatch.setattr(world.transformer, "forward", watched)
    for action in (["forward"], ["forward"], ["turn_left"]):
        stream.tick(action, rollback=3)
    assert set(passes) == {1, 2, 3, 4}


def test_frames_to_come_are_reckoned_one_after_the_other(world: World) -> None:
    recall, here = world.transformer.recall, world.stream(7).window.place
    held = torch.zeros(1, 3, 1, world.transformer.config.num_actions).expand(-1, -1, world.transformer.config.action_history, -1)
    assert torch.allclose(recall.expect(held, here), here.expand(1, 3, 4), atol=1e-6), "who does nothing stays where he is"
    places = recall.expect(held + 1, here)
    assert torch.allclose(recall.expect(held[:, 1:] + 1, places[:, :1]), places[:, 1:])
    assert not torch.allclose(places[:, :1], here)


def test_a_single_picture_is_a_place_unknown(world: World) -> None:
    stream = world.stream(0, np.zeros((32, 32, 3), np.uint8))
    assert not stream.window.place.any()
    stream.tick([])
    assert stream.window.place.any()


def test_a_state_with_a_place_is_not_for_a_world_without_one(world: World, tiny_world: World, tmp_path: Path) -> None:
    stream = world.stream(0)
    stream.tick([])
    stream.save(tmp_path / "state.safetensors")
    other = tiny_world.stream(0)
    with pytest.raises(StateError, match="place"):
        other.load(tmp_path / "state.safetensors")
