"""The shipped maze, played: what is on the screen must look and move like the maze."""

import itertools

import numpy as np
import pytest

from world_model.world import World


@pytest.fixture(scope="module")
def maze() -> World:
    return World.load("maze")


def shift(before: np.ndarray, after: np.ndarray, reach: int = 24) -> int:
    """Return how many pixels the picture moved to the right, by matching the middle rows."""
    a, b = (frame[24:72].astype(np.float32).mean(2) for frame in (before, after))
    width = a.shape[1]
    errors = [np.mean((a[:, max(0, -s) : width - max(0, s)] - b[:, max(0, s) : width - max(0, -s)]) ** 2) for s in range(-reach, reach + 1)]
    return int(np.argmin(errors)) - reach


def turning_shifts(maze: World, action: str, sign: int) -> list[int]:
    """Return by how many pixels the scene moved in each frame of a turn, counted the way it should move."""
    shifts = []
    for start in range(8):
        stream = maze.stream(seed=1, start=start)
        frames = [stream.screen] + [stream.tick([action]) for _ in range(5)]
        shifts += [sign * shift(a, b) for a, b in itertools.pairwise(frames[1:])]
    return shifts


@pytest.mark.parametrize(("action", "sign"), [("turn_left", 1), ("turn_right", -1)])
def test_turning_moves_the_scene_the_other_way(maze: World, action: str, sign: int) -> None:
    shifts = turning_shifts(maze, action, sign)
    assert np.mean(np.array(shifts) > 0) > 0.7, shifts
    assert np.median(shifts) >= 2, shifts


def test_standing_still_keeps_the_picture(maze: World) -> None:
    changes = []
    for start in range(4):
        stream = maze.stream(seed=2, start=start)
        frames = [stream.tick([]).astype(np.float32) for _ in range(12)]
        changes.append(np.abs(frames[-1] - frames[5]).mean())
    assert np.median(changes) < 12, changes


def test_a_walk_stays_a_picture(maze: World) -> None:
    starts, contrasts = [0, 11], []
    stream, rng = maze.stream(seed=[3, 3], start=starts), np.random.default_rng(0)
    for n in range(240):
        if n % 12 == 0:
            held = [[["forward"], ["turn_left"], ["forward", "turn_right"], ["turn_right"]][int(rng.integers(4))] for _ in starts]
        contrasts += [float(frame.std()) for frame in stream.tick(held)]
    assert stream.frame == 240
    assert np.mean(np.array(contrasts) > 12) > 0.55, "the walk faded away"


def test_the_same_seed_and_keys_give_the_same_frames(maze: World) -> None:
    one, two, other = maze.stream(seed=5, start=2), maze.stream(seed=5, start=2), maze.stream(seed=6, start=2)
    for _ in range(6):
        a, b, c = one.tick(["forward"]), two.tick(["forward"]), other.tick(["forward"])
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)
