"""A memory of bodies: they stand where they are, what becomes of them is drawn by the seed, and what may happen is learnt from what did."""

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import make_world

from world_model.bodies import BODY, EVENTS, LEFT, LIFE, LOOKS, Fates, RecallBodies, Scene, bodies_of, life_of, pick, relative
from world_model.recall import PLACE
from world_model.training.bodies import fate_loss, follow_bodies, list_what_happens, observe
from world_model.training.data import Clips
from world_model.training.recall import RecallRecipe, train_recall
from world_model.training.student import LatentClips
from world_model.world import World


def place(*bodies: tuple[float, ...], angle: float = 0.0) -> torch.Tensor:
    """Return a place in the middle of the map with bodies, each of a kind, x, y and a look."""
    rows = torch.zeros(3, BODY)
    for row, (kind, x, y, look) in zip(rows, bodies, strict=False):
        row[:6] = torch.tensor([kind, x, y, 1.0, 0.0, look])
    return torch.cat([torch.tensor([0.5, 0.5, math.cos(angle), math.sin(angle), 0, 0, 0, 0, 1.0, 0.5, 3.0, 0.0, 0.0]), rows.flatten()])


@torch.no_grad()
def test_bodies_are_painted_where_they_stand() -> None:
    """One ahead is in the middle and twice as large at half the distance; the nearer hides the farther; one to the left is on the left; none is behind."""
    scene = Scene((48, 64), 32, 90.0, 2)
    scene.matter.fill_(-8.0)
    scene.covers.fill_(-20.0)
    scene.flats.zero_()
    scene.seen.zero_()
    scene.album[:LOOKS] = torch.tensor([1.0, -1.0, -1.0, 1.0])[:, None, None]
    scene.album[LOOKS:] = torch.tensor([-1.0, 1.0, -1.0, 1.0])[:, None, None]

    def red_and_green(*bodies: tuple[float, ...], angle: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
        red, green, _ = scene(place(*bodies, angle=angle)[None])[0][0]
        return red > 0.5, green > 0.5

    far, near = (red_and_green((1, 0.5 + ahead, 0.5, 1))[0] for ahead in (0.2, 0.1))
    columns = near.any(0).nonzero()[:, 0]
    assert abs(float(columns.float().mean()) - 31.5) <= 0.5, "in the middle"
    assert abs(len(columns) / int(far.any(0).sum()) - 2) < 0.4, "twice as large"
    red, green = red_and_green((1, 0.7, 0.5, 0), (2, 0.6, 0.5, LOOKS + 1))
    assert green.any() and not red[green.any(1)].any()
    red, _ = red_and_green((1, 0.6, 0.55, 1))
    assert red[:, :32].any() and not red[:, 40:].any(), "y grows to the left of who looks along x"
    red, _ = red_and_green((1, 0.6, 0.55, 1), angle=math.pi)
    assert not red.any()
    scene.lights[1, 3:] = 0.7
    dark, lit = (scene(torch.cat([place()[: PLACE + 3], torch.tensor([light]), place()[PLACE + 4 :]])[None])[0] for light in (0.0, 1.0))
    assert torch.allclose(lit, dark + 0.7)


def test_what_is_likely_is_picked_often() -> None:
    logits = torch.tensor([0.1, 0.6, 0.3]).log().expand(3000, -1)
    shares = pick(logits, torch.rand(3000, 1, generator=torch.Generator().manual_seed(0)))[:, 0].bincount(minlength=3) / 3000
    assert torch.allclose(shares, torch.tensor([0.1, 0.6, 0.3]), atol=0.03)
    assert int(pick(logits[0], torch.ones(1))) == 2


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    path = tmp_path_factory.mktemp("bodies") / "tiny.safetensors"
    make_world(recall_width=16, bodies=3).save(path)
    return World.load(path, "cpu", torch.float32)


def test_what_happens_belongs_to_the_seed_and_to_the_state(world: World, tmp_path: Path) -> None:
    """Bodies move by what the seed draws; a stream that goes back, or is read from a file, sees the same again, and another seed something else."""
    stream = world.stream(3)
    recall = world.transformer.recall
    assert isinstance(recall, RecallBodies) and stream.window.place.shape[2] == PLACE + LIFE + 3 * BODY
    stream.tick(())
    saved = stream.snapshot()
    stream.save(tmp_path / "state.safetensors", saved)
    keys: list[tuple[str, ...]] = [("forward",), (), ("turn_left",), ("turn_left",), ()]
    frames, places = [], []
    for key in keys:
        frames.append(stream.tick(key))
        places.append(stream.window.place)
    assert any(not torch.equal(bodies_of(a), bodies_of(b)) for a, b in pairwise(places))
    for again in (saved, stream.load(tmp_path / "state.safetensors")):
        stream.restore(again)
        for key, frame, before in zip(keys, frames, places, strict=True):
            assert np.array_equal(stream.tick(key), frame) and torch.equal(stream.window.place, before)
    other = world.stream(4)
    for key in ((), *keys):
        other.tick(key)
    assert not torch.equal(bodies_of(other.window.place), bodies_of(places[-1]))


def test_a_place_out_of_a_file_may_be_anything(world: World) -> None:
    """States come from strangers: whatever numbers they hold, something is remembered and the stream goes on."""
    stream = world.stream(3)
    for number in (-1e6, 1e6, 0.37):
        stream.window.locate(torch.full_like(stream.window.place, number))
        assert stream.tick(("forward",)).shape == (32, 32, 3) and torch.isfinite(stream.window.place).all()


def test_another_key_changes_no_fate_that_it_does_not_decide(world: World) -> None:
    """What is drawn for a frame is the same with and without a rollback."""
    ends = []
    for levels in (0, 2):
        stream = world.stream(3)
        for key in ((), ("forward",), ("turn_left",)):
            stream.tick(key, rollback=levels)
        ends.append(stream.window.place)
    assert torch.equal(ends[0][..., PLACE:], ends[1][..., PLACE:])


def test_bodies_are_noticed_in_a_picture_to_begin_from(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever begins with a single picture or with a clip has the bodies around him that are seen in it, and a life's beginning."""
    recall = world.transformer.recall
    assert isinstance(recall, RecallBodies)
    looks = torch.full((1, 1 + LOOKS, 8), -9.0)
    looks[:, 0, :5], looks[:, 0, 6:], looks[:, 4, 5] = 9, 9, 9
    told = looks, torch.full((1, 8), math.log(0.2)), torch.zeros(1, 8), torch.zeros(1, 8, 8)
    monkeypatch.setattr(recall, "noticed", lambda frames: told)
    monkeypatch.setattr(recall.fates, "forward", lambda before, now, action, chance: now)
    for length in (1, 2):
        stream = world.stream(1, np.full((length, 32, 32, 3), 99, np.uint8))
        if length == 1:
            stream.tick(())  # where a single picture was taken is guessed as the next one is made
        own, bodies = stream.window.place[0, 0, :PLACE], bodies_of(stream.window.place)[0, 0]
        assert int((bodies[:, 0] > 0).sum()) >= 1 and torch.isfinite(stream.window.place).all()
        if length > 1:
            ahead, left = relative(own, bodies)
            assert float(ahead[0]) == pytest.approx(0.2, abs=1e-4) and float(left[0]) == pytest.approx(-0.2 * 3 / 8, abs=1e-4)
            assert torch.equal(life_of(stream.window.place)[0, 0, :2], recall.fates.first[PLACE : PLACE + 2])


def crowd(frames: int = 400) -> Clips:
    """Return the facts of clips in which a body walks along x and one along y, each until it is shot, and comes back three frames later."""
    bodies = np.full((frames, 2, 5), -1, np.float32)
    actions, vitals = np.zeros((frames, 1), np.float32), np.zeros((frames, 2), np.float32)
    vitals[:, 0], shots = 100, 26
    for row in range(frames):
        for slot in range(2):
            age = (row + 5 * slot) % 20
            if age < 17:
                x, y = (100 + 10 * age, 500) if slot == 0 else (500, 100 + 10 * age)
                bodies[row, slot] = 10 * ((row + 5 * slot) // 20) + slot, slot, x, y, 90 * slot
            elif age == 17:
                actions[row], shots = 1, 26 if shots == 0 else shots - 1
        vitals[row, 1] = shots
    states = np.tile(np.array([[300.0, 300.0, 0.0, 0.0]], np.float32), (frames, 1))
    pictures = np.zeros((frames, 32, 32, 3), np.uint8)
    return Clips(Path(), pictures, actions, states, vitals, bodies, np.array([0, frames // 2, frames]), ("shoot",))


def test_bodies_are_followed_in_their_slots() -> None:
    """Who lives on keeps his slot, and what is left of him; a step is told with the frames since it was made; a slot tells for how long it has been free."""
    clips = crowd()
    told = follow_bodies(clips, 3, 3, torch.tensor([0.0, 0.0]), torch.tensor(1000.0))
    bodies = torch.cat([torch.zeros(len(told), PLACE), told], 1)
    life, bodies = life_of(bodies), bodies_of(bodies)
    kinds = bodies[..., 0]
    assert torch.equal(((kinds > 0) & (kinds < 3)).sum(1), torch.from_numpy((clips.bodies[..., 0] >= 0).sum(1)))
    assert float(life[0, 2]) == float(life[200, 2]) == -1 and float(life[0, 0]) == 1
    row = 10
    assert bodies[row, 0].tolist() == pytest.approx([1, 0.2, 0.5, 1, 0, 0, 0, 0.01, 0, 0]) and bodies[row, 1, 7:].tolist() == pytest.approx([0, 0.01, 0])
    assert kinds[12:20, 1].tolist() == [3] * LEFT + [0] * 3 and bodies[12:20, 1, 9].tolist() == [*range(LEFT), *range(3)], "something is left of it for a while"
    assert torch.equal(bodies[12 + LEFT - 1, 1, 1:5], bodies[11, 1, 1:5])


def test_what_may_happen_is_learnt_from_what_did() -> None:
    """Bodies that always walk on walk on, and vanish when they are shot at."""
    torch.manual_seed(0)
    clips = LatentClips(crowd(), torch.zeros(400, 4, 8, 8), bodies=3, kinds=3)
    places = torch.cat([clips.own, clips.told], 1)
    clips.__dict__["places"] = places
    recall = RecallBodies((4, 8, 8), 2, 16, 0, 16, 90.0, 3, 3)
    fates = recall.fates
    list_what_happens(fates, clips)
    unit = 10 / float(clips.map[1])
    optimizer, rng = torch.optim.Adam(fates.parameters(), 3e-3), np.random.default_rng(0)
    losses = []
    for _ in range(150):
        loss = fate_loss(recall, clips, 2, rng)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]
    ends = {}
    with torch.no_grad():
        for shot in (0.0, 1.0):
            row = 16 if shot else 9
            action = torch.tensor([0.0, shot])
            chance = torch.full((200, fates.chances), 0.5).uniform_(generator=torch.Generator().manual_seed(1))
            after = fates(places[row].expand(200, -1), places[row].expand(200, -1), action.expand(200, -1), chance)
            stays = bodies_of(after)[:, 0, 0] == 1
            assert bool((stays | (bodies_of(after)[:, 0, 0] == 3)).all())
            ends[shot] = float(stays.float().mean())
            if not shot:
                walked = bodies_of(after)[:, 0, 1][stays] - bodies_of(places)[row, 0, 1]
                assert float((walked - unit).abs().lt(1e-4).float().mean()) > 0.9
    assert ends[0.0] > 0.95 and ends[1.0] < 0.3, ends


def test_a_life_ends_and_another_begins() -> None:
    """Who comes to the last event is where lives begin, with what is there."""
    fates = Fates(2, 3, 2, 1.0)
    with torch.no_grad():
        fates.happens[-1].weight.zero_()
        fates.happens[-1].bias.copy_(torch.where(torch.arange(EVENTS) == EVENTS - 1, 20.0, 0.0))
        fates.first.copy_(place((1, 0.2, 0.2, 0)))
        here = place((2, 0.6, 0.5, 0), angle=2.0)
        after = fates(here, here, torch.zeros(2), torch.rand(fates.chances))
    assert torch.equal(after, fates.first)


def test_bodies_and_lights_are_met_in_pictures(tmp_path: Path) -> None:
    """From frames in which red bodies walk through a grey place, now and then under a bright light, it learns that they are red, and sees the light."""
    torch.manual_seed(0)
    clips = crowd()
    clips.states[:, :2] = 440, 180
    truth = RecallBodies((4, 8, 8), 2, 16, 0, 16, 90.0, 3, 3)
    latents = LatentClips(clips, torch.zeros(400, 4, 8, 8), bodies=3, kinds=3)
    flashes = clips.actions[:, 0] > 0
    with torch.no_grad():
        scene = truth.memory
        scene.covers.fill_(-20)
        scene.album.copy_(torch.tensor([0.9, -0.9, -0.9, 1.0])[:, None, None])
        scene.album[:, 3, :, :16] = 0
        scene.lights[1] = torch.tensor([0.0, 0.0, 0.0, 0.5, 0.5, 0.5])
        places = torch.cat([latents.own, latents.told], 1)
        places[:, PLACE + 3] = torch.from_numpy(flashes).float()
        pictures = scene(places)[0]
    clips = replace(clips, frames=((pictures.clamp(-1, 1) + 1) * 127.5).round().permute(0, 2, 3, 1).numpy().astype(np.uint8))
    latents = LatentClips(clips, torch.zeros(400, 4, 8, 8), bodies=3, kinds=3)
    recall = RecallBodies((4, 8, 8), 2, 16, 0, 16, 90.0, 3, 3)
    recipe = RecallRecipe(steps=60, memory_batch=4, batch=16, memory_share=0.9, place_share=0.8)
    train_recall(recipe, recall, latents, 2, tmp_path)
    recall.requires_grad_(False)
    seen = observe(recall, latents)
    assert len(set(seen[flashes, PLACE + 3].tolist()) & set(seen[~flashes, PLACE + 3].tolist())) == 0
    looks = bodies_of(seen)[:, :, 5]
    kinds = bodies_of(seen)[..., 0]
    assert set(looks[kinds == 2].tolist()) - {0.0} and bool((looks[kinds == 0] == 0).all())
    album = recall.memory.album[LOOKS : 2 * LOOKS]
    shown = album[looks[(kinds == 2) & (looks > 0)].long() - 1 - LOOKS]
    hides = shown[:, 3:].clamp(0, 1)
    red, green, _ = ((shown[:, :3] * hides).sum((2, 3)) / hides.sum((2, 3))).mean(0)
    assert red > green + 1 and hides[..., 24:40, 24:40].mean() > 0.8
