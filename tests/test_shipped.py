"""Every shipped world, and what its keys do in it; the maze has tests of its own."""

from pathlib import Path

import numpy as np
import pytest
import torch

from world_model.autoencoder import Autoencoder
from world_model.bodies import LIFE, bodies_of
from world_model.card import SHIPPED
from world_model.psnr import psnr_db
from world_model.recall import PLACE
from world_model.transformer import Transformer
from world_model.world import Stream, World

FILES = sorted(SHIPPED.glob("*.safetensors"))
MUZZLE = slice(46, 64), slice(56, 72)  # rows and columns where the arena's gun flashes


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_world_is_small_may_be_shipped_and_says_how_good_it_is(path: Path) -> None:
    card = World.load(path).card
    assert path.stat().st_size <= 40e6
    assert "Apache-2.0" in card.licence and card.title and card.description and card.data_source
    assert card.figures["psnr_free_running_1"] > card.figures["psnr_repeat_last_32"], "a frame of its own is nearer than an old one"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_restless_keys_leave_a_picture(path: Path) -> None:
    """A player may stand before a plain wall at any one moment, so it takes several, and some time."""
    world, rng, contrasts = World.load(path), np.random.default_rng(0), []
    names, streams = world.card.action_names, list(range(0, world.card.num_starts, 4))
    stream = world.stream(seed=streams, start=streams)
    for n in range(60):
        if n % 8 == 0:
            held = [[name for name in names if rng.random() < 0.35] for _ in streams]
        frames = stream.tick(held)
        if n >= 30:
            contrasts += [float(frame.std()) for frame in frames]
    assert np.median(contrasts) > 10, contrasts[:: len(streams)]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_speed_does_not_change_the_picture(path: Path, dtype: torch.dtype) -> None:
    """The first frame, as it is played, is that of plain layers in float32, which run two passes; later ones part as they do with other noise."""
    fast, whole = World.load(path, "cpu", dtype), World.load(path, "cpu", torch.float32)
    transformer, autoencoder = Transformer(whole.transformer.config), Autoencoder(whole.autoencoder.config)
    transformer.load_state_dict(whole.transformer.state_dict())
    autoencoder.load_state_dict(whole.autoencoder.state_dict())
    plain = World(whole.card, autoencoder, transformer, whole.window, whole.starts)
    streams, held = range(8), [[fast.card.action_names[n % 2]] for n in range(8)]
    frames = [world.stream(streams, streams, fused=world is fast).tick(held) for world in (plain, fast)]
    nearness = [psnr_db(*both) for both in zip(*frames, strict=True)]
    assert np.median(nearness) >= (40 if dtype == torch.bfloat16 else 60), nearness


def test_the_gun_fires_when_it_is_told_to() -> None:
    arena, flashes = World.load("arena"), {"shoot": 0, "": 0}
    starts = list(range(8))
    for action in flashes:
        stream = arena.stream(seed=[1] * len(starts), start=starts)

        def glow(held: list[str], stream: Stream = stream) -> np.ndarray:
            return np.array([frame[MUZZLE].mean() for frame in stream.tick([held] * len(starts))])

        before = [glow([]) for _ in range(12)][-1]
        fired = np.max([glow([action] if action else []) for _ in range(10)], 0)
        flashes[action] = int((fired > before + 25).sum())
    assert flashes["shoot"] >= 6 and flashes[""] <= 2, flashes


def test_gas_moves_the_track_and_the_wheel_turns_it() -> None:
    racing, ends = World.load("racing"), {}
    for held in ((), ("gas",), ("gas", "steer_left"), ("gas", "steer_right")):
        stream = racing.stream(seed=[1] * 6, start=list(range(6)))
        for _ in range(10):
            frames = stream.tick([held] * 6)
        ends[held] = frames.astype(np.float32)
    left, right, straight = (ends[("gas", *wheel)] for wheel in (("steer_left",), ("steer_right",), ()))
    apart = [np.abs(a - b).mean((1, 2, 3)) for a, b in ((left, right), (left, straight), (right, straight), (straight, ends[()]))]
    assert np.min(apart[:3]) > 2 and np.min(apart[3]) > 1, apart


def test_a_quarter_of_the_wheel_is_less_than_all_of_it() -> None:
    racing, nearer = World.load("racing"), 0
    for start in range(6):
        ends = []
        for far in (0.0, 0.25, 1.0):
            stream = racing.stream(seed=1, start=start)
            for _ in range(4):
                frame = stream.tick({"gas": 1.0, "steer_left": far})
            ends.append(frame.astype(np.float32))
        nearer += np.abs(ends[1] - ends[0]).mean() < np.abs(ends[2] - ends[0]).mean()
    assert nearer >= 5, nearer


def road(frames: np.ndarray) -> np.ndarray:
    """Return where frames [n, 96, 128, 3] show road, which is grey, above the panel: [n, 80, 128]."""
    colours = frames[:, :80].astype(int)
    return (np.ptp(colours, axis=-1) < 25) & (np.abs(colours.mean(-1) - 110) < 40)


def follow(seen: np.ndarray, tick: int) -> dict[str, float]:
    """Return what somebody presses who steers at the road a little ahead of the car and gives gas every third tick; it keeps to the real game's roads."""
    ahead = np.flatnonzero(seen[48:64].sum(0)) if seen[48:64].sum() >= 40 else np.flatnonzero(seen.sum(0))
    if not len(ahead):
        return {"steer_left": 1.0}
    strips = np.split(ahead, np.flatnonzero(np.diff(ahead) > 1) + 1)
    aside = min((strip.mean() - 64 for strip in strips), key=abs)
    held = {"steer_left" if aside < 0 else "steer_right": min(1.0, abs(aside) / 25)} if abs(aside) > 3 else {}
    return held | ({"gas": 1.0} if tick % 3 == 0 and abs(aside) < 25 else {})


def test_who_follows_the_road_has_one_for_ever() -> None:
    """In the real game 0.16 to 0.27 of what such a driver sees is road, and here, too."""
    racing, streams, shares = World.load("racing"), list(range(0, 24, 6)), []
    stream = racing.stream(seed=streams, start=streams)
    frames = stream.tick([[]] * len(streams))
    for tick in range(120):
        seen = road(frames)
        frames = stream.tick([follow(each, tick) for each in seen])
        shares.append(seen.mean((1, 2)))
    assert np.mean(shares[60:], 0).min() > 0.15, np.mean(shares[60:], 0)


def test_monsters_kill_who_waits_and_another_life_begins() -> None:
    """The sky is dark blue; it turns red when somebody is bitten, and after the worst of it is dark again. Nothing of that happens by itself at once."""
    arena, starts = World.load("arena"), [0, 8, 16]
    stream = arena.stream(seed=[1] * len(starts), start=starts)
    reds = np.array([stream.tick([[]] * len(starts))[:, :4, :, 0].mean((1, 2)) for _ in range(150)])
    bitten = (reds > 60).any(0)
    assert bitten.sum() >= 2 and (reds[20:] < 25).mean() > 0.2, reds[::17].round()
    assert any(np.flatnonzero(red > 60).min() < np.flatnonzero(red < 25).max() for red in reds.T[bitten])


def test_who_is_shot_at_falls() -> None:
    """A monster is put before the gun: it is painted there, red, and after half a second it is gone if somebody shoots, and nearer if nobody does."""
    arena, streams, left = World.load("arena"), list(range(6)), {}
    for action in ("shoot", ""):
        stream = arena.stream(seed=streams, start=streams)
        stream.tick([[]] * len(streams))
        place = stream.window.place.clone()
        monsters = bodies_of(place)
        monsters[..., 0] = 0
        monsters[:, :, 0, 0] = 1
        monsters[:, :, 0, 1:3] = place[..., :2] + 0.09 * place[..., 2:4]
        monsters[:, :, 0, 3:5] = -place[..., 2:4]
        place[..., PLACE + LIFE :] = monsters.flatten(-2)
        place[..., PLACE + 1] = 0.26  # shots
        stream.window.locate(place)
        for tick in range(10):
            frames = stream.tick([[action] if action else []] * len(streams)).astype(int)
            red = ((frames[:, 34:70, 52:76, 0] - frames[:, 34:70, 52:76, 1]) > 40).mean((1, 2))
            assert tick or np.median(red) > 0.15, red
        left[action] = int((bodies_of(stream.window.place)[:, 0, 0, 0] == 1).sum())
    assert left["shoot"] <= 2 and left[""] >= 5, left
