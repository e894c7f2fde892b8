"""A world that recalls: it follows where it is, tick by tick, and its place belongs to its state."""

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import make_world, see_colours
from torch import Tensor

from world_model.memory import EYE, Memory
from world_model.recall import BOB, PLACE, STEP, Recall, reckon
from world_model.state import StateError
from world_model.world import World

TAPE = [["forward"], ["forward", "turn_left"], [], ["turn_right"], ["turn_right"]] * 3


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    path = tmp_path_factory.mktemp("recall") / "tiny.safetensors"
    make_world(recall_width=16).save(path)
    return World.load(path, "cpu", torch.float32)


@torch.no_grad()
def test_a_wall_is_seen_where_it_stands() -> None:
    """In half an empty square with red walls: the one ahead is as high in the picture as its distance says, and higher when walked up to."""
    memory = Memory((32, 64), 256, 90.0)
    everywhere = torch.stack(torch.meshgrid(torch.linspace(0, 1, 90), torch.linspace(0, 1, 90), indexing="ij"), -1).flatten(0, 1)
    memory.begin(everywhere[everywhere[:, 0] < 0.5])
    memory.walls.zero_()
    memory.flats.fill_(-1)
    memory.seen.zero_()
    memory.seen[:, -3] = 1
    red = []
    for x in (0.1, 0.3):
        (picture,), (inverse,) = memory(torch.tensor([[x, 0.5, 1.0] + [0.0] * 5]))
        assert picture.shape == (3, 32, 64) and inverse.shape == (1, 32, 64)
        red.append(int((picture[0, 16:, 32] > 0).sum()))
        expected = EYE / (0.5 + 0.017 - x) / (0.5 / 16)  # rows: the wall ends an eye's height below the horizon, and half a row is 1/32 at depth one
        assert abs(red[-1] - expected) < 1.5, (red, expected)
    assert red[1] > red[0]
    (higher,), _ = memory(torch.tensor([[0.3, 0.5, 1.0, 0.0, 0.02] + [0.0] * 3]))
    assert int((higher[0, 16:, 32] > 0).sum()) > red[1], "from higher up its foot is seen lower"


@pytest.fixture(scope="module")
def painted() -> Recall:
    """Return a recall of a square room with smooth random paint everywhere, of which latents are the mean colours."""
    torch.manual_seed(0)
    recall = Recall((3, 16, 32), 6, 64, 0, 16, 90.0)
    memory = recall.memory
    everywhere = torch.stack(torch.meshgrid(torch.linspace(0.2, 0.8, 60), torch.linspace(0.2, 0.8, 60), indexing="ij"), -1).flatten(0, 1)
    memory.begin(everywhere)
    with torch.no_grad():
        memory.flats.copy_(torch.nn.functional.interpolate(torch.randn(2, 3, 16, 16), (64, 64), mode="bilinear"))
        memory.seen[:, -3:] = torch.nn.functional.interpolate(torch.randn(1, 3, 8, 8), memory.seen.shape[2:], mode="bilinear")
        memory.walls.zero_()
        see_colours(recall)
    return recall


@torch.no_grad()
def test_a_place_is_aligned_with_what_is_seen_from_it(painted: Recall) -> None:
    """Each step brings it nearer, ahead, aside, turned and up, until from there the same is seen."""
    true = torch.tensor([[[0.45, 0.5, math.cos(0.4), math.sin(0.4), 0.001] + [0.0] * 3]])
    seen = painted.remember(true)[:, :, :-1]
    for error in ([0.06, 0.0, 0.0], [0.0, 0.06, 0.0], [0.0, 0.0, 0.01], [0.06, -0.06, 0.01]):
        place = reckon(true, torch.tensor([*error, 0.0, 0.0, 0.0]))
        place[..., 4] += 0.001
        errors = []
        for _ in range(6):
            errors.append(float((painted.remember(place)[:, :, :-1] - seen).square().mean()))
            assert abs(float((place - true)[0, 0, 4])) < 0.001 * 0.2 ** (len(errors) > 1) + 1e-6
            place = painted.align(place, seen, painted.remember(place))
        assert all(after < 0.75 * before for before, after in pairwise(errors)) and errors[-1] < 0.05 * errors[0], errors
        assert float((place - true)[..., :4].abs().max()) < 0.006


@torch.no_grad()
def test_a_place_is_found_from_a_guess(painted: Recall, monkeypatch: pytest.MonkeyPatch) -> None:
    true = torch.tensor([[[0.45, 0.5, math.cos(0.4), math.sin(0.4)] + [0.0] * 4]])
    seen = painted.remember(true)[:, :, :-1].expand(-1, 2, -1, -1, -1)
    guess = reckon(true, torch.tensor([0.5, -0.5, 0.15, 0.0, 0.0, 0.0]))
    monkeypatch.setattr(painted, "guess", lambda *given: guess)
    found = painted.find(seen, torch.zeros(1, 2, 2, 3))
    assert found.shape == (1, 1, PLACE) and float((found - true)[..., :4].abs().max()) < 0.01 < 0.1 < float((guess - true)[..., :4].abs().max())


@torch.no_grad()
def test_a_place_is_found_without_a_guess(painted: Recall, monkeypatch: pytest.MonkeyPatch) -> None:
    """Anywhere in the room, whatever is guessed: its own atlas shows where a picture may have been taken."""
    monkeypatch.setattr(painted, "guess", lambda *given: torch.tensor([[[0.7, 0.3, -1.0] + [0.0] * 5]]))
    for x, y, angle in ((0.45, 0.5, 0.4), (0.3, 0.65, 3.0), (0.6, 0.35, -1.8)):
        true = torch.tensor([[[x, y, math.cos(angle), math.sin(angle)] + [0.0] * 4]])
        found = painted.find(painted.remember(true)[:, :, :-1].expand(-1, 2, -1, -1, -1), torch.zeros(1, 2, 2, 3))
        assert float((found - true)[..., :4].abs().max()) < 0.06


@torch.no_grad()
def test_reckoning_goes_where_the_player_looks_and_lets_him_swing() -> None:
    north = torch.tensor([0.5, 0.5, 0.0, 1.0, 0.01, 0.0, 0.0, 0.02])
    walked = reckon(north, torch.tensor([2.0, 0.0, 0.0, 0.0, 0.0, 0.0]))
    assert torch.allclose(walked, torch.tensor([0.5, 0.6, 0.0, 1.0, 0.01, 0.01, 0.0, 0.1]), atol=1e-6)
    turned = reckon(north, torch.tensor([0.0, 2.0, math.pi / 2, 0.0, 0.0, 0.0]))
    assert torch.allclose(turned, torch.tensor([0.4, 0.5, -1.0, 0.0, 0.01, 0.01, -0.1, 0.0]), atol=1e-6)
    glides = reckon(north, torch.tensor([0.0, 0.0, math.pi / 2, 0.0, 0.0, 0.5]))
    assert torch.allclose(glides, torch.tensor([0.5, 0.51, -1.0, 0.0, 0.01, 0.01, 0.0, 0.01]), atol=1e-6), "on where he went, wherever he looks"
    swing, heights = torch.tensor([0.0, 0.0, 0.0, 2 * math.cos(0.6) - 1, -1.0, 0.0]), []
    place = torch.tensor([0.5, 0.5, 0.0, 1.0, math.sin(0.6), 0.0, 0.0, 0.0])
    for _ in range(20):
        heights.append(float(place[4]))
        place = reckon(place, swing)
    assert np.allclose(heights, np.sin(0.6 * np.arange(1, 21)), atol=1e-4), "two heights tell where in its swing a body is"


@torch.no_grad()
def test_runs_are_followed_each_from_its_own_place_and_one_frame_after_the_other() -> None:
    torch.manual_seed(0)
    recall = Recall((4, 8, 8), 6, 16, 1, 16, 90.0)
    before, actions = torch.randn(2, 6, 4, 8, 8), torch.rand(2, 6, 2, 3)
    place = torch.tensor([[0.1, 0.2, 0.6, 0.8, 0.01, 0.0, 0.01, 0.0], [0.0] * PLACE]).expand(2, -1, -1)
    together, remembered = recall.follow(before, actions, place)
    for run in (0, 1):
        follows = place[:, run : run + 1]
        for frame in range(3 * run, 3 * run + 3):
            follows = recall.follow(before[:, frame : frame + 1], actions[:, frame : frame + 1], follows)[0]
            assert torch.allclose(together[:, frame : frame + 1], follows, atol=1e-5)
    assert remembered.shape == before.shape and torch.allclose(remembered, recall.remember(together)[:, :, :-1], atol=1e-5)


@torch.no_grad()
def test_who_does_nothing_stays_where_he_is_whatever_he_sees() -> None:
    torch.manual_seed(0)
    recall = Recall((4, 8, 8), 6, 16, 1, 16, 90.0)
    torch.nn.init.normal_(recall.ego[2].weight)  # type: ignore[arg-type]
    recall.memory.matter -= 1
    frames, here, idle = torch.randn(1, 5, 4, 8, 8), torch.tensor([[[0.1, 0.2, 0.6, 0.8, 0.01] + [0.0] * 3]]), torch.zeros(1, 5, 2, 3)
    pressed = idle.clone()
    pressed[:, 0, 1, 0] = 1
    assert torch.allclose(recall.follow(frames, idle, here)[0], here.expand(1, 5, PLACE), atol=1e-6)
    assert (recall.follow(frames, pressed, here)[0] - here).abs().amax(2).min() > 1e-3
    lost = torch.zeros(1, 1, PLACE)
    assert recall.follow(frames[:, :1], idle[:, :1], lost)[0].abs().max() > 1e-3, "who does not know where he is looks around nonetheless"


@torch.no_grad()
def test_who_walks_into_a_wall_slides_along_it(painted: Recall) -> None:
    """The room's walls are at 0.2 and 0.8, less what a body needs."""
    for x, y, ahead, expected in ((0.7, 0.5, (0.8, 0.6), (False, True)), (0.5, 0.7, (0.6, 0.8), (True, False)), (0.5, 0.5, (0.6, 0.8), (True, True))):
        here = torch.tensor([x, y, *ahead] + [0.0] * 4)
        walked = painted.walk(here, torch.tensor([4.0] + [0.0] * 5))
        assert [bool(moved) for moved in (walked - here).abs()[:2] > 1e-6] == list(expected)
        assert torch.allclose(walked[6:], (walked - here)[:2]), "where a wall was in the way there is nothing to glide on"
        assert not bool(painted.memory.is_free(torch.tensor([0.9, 0.5]))) and bool(painted.memory.is_free(walked[:2]))


@torch.no_grad()
def test_who_stands_too_near_to_a_wall_does_not_get_through_it() -> None:
    """Maps are a little wrong: where bodies do not fit, thinner ones are stopped."""
    recall = Recall((3, 16, 32), 6, 512, 0, 16, 90.0)
    recall.memory.matter.fill_(-1)
    recall.memory.matter[..., 400:] = 1  # from x = 0.79 on
    ways = torch.linspace(0.7, 0.85, 300)
    positions = torch.stack([ways, torch.full_like(ways, 0.5)], 1)
    tight = ~recall.memory.is_free(positions) & recall.memory.is_free(positions, 0.3)
    assert bool(tight.any())
    for position in positions[tight]:
        here = torch.cat([position, torch.tensor([1.0] + [0.0] * 5)])
        for _ in range(3):
            here = recall.walk(here, torch.tensor([1.0] + [0.0] * 5))
        assert bool(recall.memory.is_free(here[:2], 0.3))


@torch.no_grad()
def test_who_is_stopped_by_a_wall_bobs_no_longer(painted: Recall) -> None:
    """What is reckoned of a swing may grow, here by a fifth with every step."""
    for x, ahead, gets_on in ((0.5, (0.8, 0.6), 1.0), (0.7, (0.8, 0.6), 0.6), (0.78, (1.0, 0.0), 0.0)):
        walked = painted.walk(torch.tensor([x, 0.5, *ahead, 0.005] + [0.0] * 3), torch.tensor([4.0, 0.0, 0.0, 0.2, 0.0, 0.0]))
        assert float(walked[4]) == pytest.approx(0.006 * gets_on, abs=1e-6)


def test_a_place_far_from_the_map_leads_nowhere_farther() -> None:
    recall = Recall((4, 8, 8), 6, 16, 1, 16, 90.0)
    place = torch.full((1, 1, PLACE), 1e6)
    with torch.no_grad():
        followed, _ = recall.follow(torch.zeros(1, 1, 4, 8, 8), torch.zeros(1, 1, 2, 3), place)
    assert float(followed.abs().max()) < 10
    assert float(followed[..., 4:6].abs().max()) <= BOB and float(followed[..., 6:].abs().max()) <= 2 * STEP


def test_a_stream_knows_its_place_and_says_so_in_its_state(world: World, tmp_path: Path) -> None:
    here = world.stream(7)
    assert bool(here.window.place.any()), "it has looked at its start clip"
    for action in TAPE:
        before = here.window.place
        here.tick(action)
        assert torch.equal(before[..., :6], here.window.place[..., :6]) == (not action)
        assert action or not here.window.place[..., 6:].any(), "who stays makes no step"
    here.save(tmp_path / "state.safetensors")
    saved = here.snapshot()
    onwards = [here.tick(action) for action in TAPE]
    here.restore(saved)
    there = world.stream(3, 1)
    there.restore(there.load(tmp_path / "state.safetensors"))
    for stream in (here, there):
        assert all(np.array_equal(stream.tick(action), frame) for action, frame in zip(TAPE, onwards, strict=True))


def test_what_is_prepared_between_ticks_changes_no_frame(world: World) -> None:
    plain, prepared = world.stream(seed=3), world.stream(seed=3)
    for n, action in enumerate(TAPE):
        frame = plain.tick(action, rollback=n % 2)
        prepared.prepare()
        before = prepared.snapshot()
        prepared.prepare()
        prepared.tick(["turn_left"])
        prepared.restore(before)  # what was prepared for another future does not count
        if n % 3:
            prepared.prepare()
        assert np.array_equal(prepared.tick(action, rollback=n % 2), frame), n


def test_with_what_is_prepared_a_tick_aligns_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = world.stream(seed=3)
    stream.tick(["forward"])
    stream.prepare()
    with monkeypatch.context() as patch:
        patch.setattr(Recall, "align", None)
        stream.tick(["turn_left"])
        with pytest.raises(TypeError):
            stream.tick(["turn_left"])


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
    go_on = world.transformer.recall.go_on

    def counting(before: Tensor, *rest: Tensor) -> Tensor:
        sought.append(before.shape[1])
        return go_on(before, *rest)

    monkeypatch.setattr(world.transformer.recall, "go_on", counting)
    for action in (["forward"], ["forward"], ["turn_left"]):
        sought.clear()
        stream.tick(action, rollback=3)
        assert sought == [1], "in none of its passes are frames ahead sought, they are reckoned"


@pytest.mark.parametrize("newest_is_rough", [False, True])
def test_every_pass_is_shown_what_is_remembered_from_the_places_of_its_frames(world: World, newest_is_rough: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    stream, forward, passes = world.stream(7), world.transformer.forward, []
    monkeypatch.setattr("world_model.stream.ROUGH", stream.window.config.ladder[1] + (0 if newest_is_rough else 0.01))

    def watched(*given: Any, recalled: Tensor | None = None, refined: int | None = None, **more: Any) -> Tensor:
        if recalled is not None:
            assert stream.window.recalled is not None and refined is not None
            frames = recalled.shape[1]
            assert refined == frames - (newest_is_rough and stream.window.levels[-1] == 0), "of the others enough is left"
            places = stream.window.recalled[1][:, [min(n, max(0, refined - 1)) for n in range(frames)]]
            assert torch.allclose(recalled, world.transformer.recall.remember(places)[:, :, :-1], atol=3e-5)  # convolutions of other batches round differently
            passes.append(frames)
        return forward(*given, recalled=recalled, refined=refined, **more)

    monkeypatch.setattr(world.transformer, "forward", watched)
    for action in (["forward"], ["forward"], ["turn_left"]):
        stream.tick(action, rollback=3)
    assert set(passes) == {1, 2, 3, 4}


def test_frames_to_come_are_reckoned_one_after_the_other(world: World) -> None:
    recall, here = world.transformer.recall, world.stream(7).window.place
    held = torch.zeros(1, 3, 1, world.transformer.config.num_actions).expand(-1, -1, world.transformer.config.action_history, -1)
    assert torch.allclose(recall.expect(held, here)[..., :5], here[..., :5].expand(1, 3, 5), atol=1e-6), "who does nothing stays where he is"
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
