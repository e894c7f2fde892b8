"""Drift: does a world stay what it is while it is played for minutes?

Several streams are played in step by restless players, without rollbacks: those of one would unmake what is ahead in all of them. Their frames are looked at
in slices of five seconds, all streams together: the Fréchet distance between the judge's features of two slices, simple statistics, how well the actions can
be read off the frames, and flags for pictures that have died. The yardstick is real play: the distance between two random slices of it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from world_model.evaluation.bench import player
from world_model.evaluation.judge import FRAMES, Judge, macro_f1
from world_model.world import World

SLICE_S = 5.0
ASKED_S = (1.0, 10.0, 60.0, 300.0)  # when the actions are read
BLACK = 8.0  # mean of a frame that shows nothing
FROZEN, FROZEN_S = 0.5, 2.0  # mean change per frame, in steps of 255, of a picture that stands still, and for how long it must
LOOP, LOOP_S = 1.0, 1.0  # mean difference, in steps of 255, of a small picture from one seen before, and how long what it repeats must be


@dataclass(frozen=True)
class Played:
    """What was seen of some streams: in slices of n frames each, with the streams laid end to end in a slice.

    Attributes:
        features: of each slice [streams * n, d].
        seen, told: the actions read off the frames and those commanded, bool [streams * n, actions], for each slice.
        statistics: of each slice: brightness, contrast and sharpness, in steps of 255.
        flags: for each stream, and each slice of it, the names of what looked dead.
        sheet: the last frame of each slice, uint8 [slices, streams, height, width, 3].
    """

    features: list[np.ndarray]
    seen: list[np.ndarray]
    told: list[np.ndarray]
    statistics: list[dict[str, float]]
    flags: list[list[list[str]]]
    sheet: np.ndarray


def slices(frames: np.ndarray, actions: np.ndarray, judge: Judge, before: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return features, actions seen and actions told of frames [n, streams, height, width, 3] under actions [n, streams, a], streams end to end.

    `before` are the two frames before them; without it the first two are not judged.
    """
    told = actions if before is not None else actions[FRAMES - 1 :]
    whole = frames if before is None else np.concatenate([before, frames])
    seen = [judge.see(whole[:, stream]) for stream in range(frames.shape[1])]
    return np.concatenate([s.features for s in seen]), np.concatenate([s.actions for s in seen]), told.swapaxes(0, 1).reshape(-1, told.shape[-1]) > 0.5


def slicing(world: World, minutes: float = 0.0) -> tuple[int, int]:
    """Return how many frames of a world a slice has, and how many slices so many minutes are, at least one."""
    return round(SLICE_S * world.card.fps), max(1, round(60 * minutes / SLICE_S))


def play(
    world: World, judge: Judge, minutes: float, seeds: int, *, rolling: bool = True, seed: int = 0, progress: Callable[[float], None] = lambda share: None
) -> Played:
    """Play `seeds` streams of a world for some minutes of its own time and look at them slice by slice; `rolling` as in `Stream.tick`."""
    size, count = slicing(world, minutes)
    stream = world.stream(seed=list(range(seed, seed + seeds)), start=[n % world.card.num_starts for n in range(seeds)])
    players = [player(world, seed + n) for n in range(seeds)]
    played = Played([], [], [], [], [[] for _ in range(seeds)], np.zeros((count, *stream.screen.shape), np.uint8))
    watch = [Watch(world.card.fps) for _ in range(seeds)]
    before = None
    for number in range(count):
        tape = [[next(p) for p in players] for _ in range(size)]
        actions = np.stack([[world.action_vector(action) for action in line] for line in tape])
        frames = np.stack([stream.tick(line, rollback=0, rolling=rolling) for line in tape])
        features, seen, told = slices(frames, actions, judge, before)
        played.features.append(features)
        played.seen.append(seen)
        played.told.append(told)
        played.statistics.append(statistics(frames))
        for n in range(seeds):
            played.flags[n].append(watch[n].look(frames[:, n], actions[:, n]))
        played.sheet[number] = frames[-1]
        before = frames[1 - FRAMES :]
        progress((number + 1) / count)
    return played


def statistics(frames: np.ndarray) -> dict[str, float]:
    """Return brightness, contrast and sharpness of frames [..., height, width, 3], in steps of 255."""
    pixels = frames.reshape(-1, *frames.shape[-3:]).astype(np.float32)
    sharpness = (np.abs(np.diff(pixels, axis=1)).mean() + np.abs(np.diff(pixels, axis=2)).mean()) / 2
    return {"brightness": float(pixels.mean()), "contrast": float(pixels.std((1, 2)).mean()), "sharpness": float(sharpness)}


class Watch:
    """Watch one stream for what a dead picture does: it turns black, freezes although it is told to move, or loops.

    A loop shows again, in order, what it has shown long before, while it changes all the time: who walks along a plain wall sees the same picture again
    and again, but nothing of it changes.
    """

    def __init__(self, fps: float) -> None:
        self.fps = fps
        self.small: np.ndarray = np.zeros((0, 192 * 3), np.float32)  # all small pictures so far, 12 x 16

    def look(self, frames: np.ndarray, actions: np.ndarray) -> list[str]:
        """Return the flags of a slice: frames uint8 [n, height, width, 3] under actions [n, a]."""
        n, height, width, _ = frames.shape
        small = frames[:, : height // 12 * 12, : width // 16 * 16].reshape(n, 12, height // 12, 16, width // 16, 3).mean((2, 4), np.float32).reshape(n, -1)
        moving = actions.any(1)
        change = np.abs(np.diff(frames.astype(np.int16), axis=0)).mean((1, 2, 3))
        still = np.concatenate([[False], change < FROZEN]) & moving
        flags = []
        if (frames.mean((1, 2, 3)) < BLACK).all():
            flags.append("black")
        if longest_run(still) >= FROZEN_S * self.fps:
            flags.append("frozen")
        lately = round(LOOP_S * self.fps)
        changing = np.array([small[max(0, i - lately) : i + 1].std(0).mean() > LOOP for i in range(n)])
        if longest_repeat(small, self.small, changing & moving) >= LOOP_S * self.fps:
            flags.append("looping")
        self.small = np.concatenate([self.small, small])
        return flags


def longest_repeat(now: np.ndarray, before: np.ndarray, counts: np.ndarray) -> int:
    """Return how many pictures now [n, d] in a row repeat, in order, pictures from before [m, d]; only those for which counts [n] is true can."""
    runs, longest = np.zeros(len(before), int), 0  # of repeats that end with each picture from before
    for picture, may in zip(now, counts, strict=True):
        same = np.abs(before - picture).mean(1) < LOOP if may else False
        runs = np.where(same, np.pad(runs, (1, 0))[:-1] + 1, 0)
        longest = max(longest, int(runs.max(initial=0)))
    return longest


def longest_run(true: np.ndarray) -> int:
    """Return the length of the longest run of true values."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], true, [0]])))
    return int((edges[1::2] - edges[::2]).max(initial=0))


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """Return the Fréchet distance between the normal distributions of two sets of features [n, d]."""
    apart = np.square(a.mean(0) - b.mean(0)).sum()
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    values, vectors = np.linalg.eigh(cov_a)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ cov_b @ root), 0)).sum()
    return float(apart + np.trace(cov_a) + np.trace(cov_b) - 2 * cross)


def report(played: Played, real: list[np.ndarray] | None) -> dict[str, Any]:
    """Condense what was played; `real` are features of slices of real play, of the same size."""
    features = played.features
    told: dict[str, Any] = {
        "drift": round(frechet(features[0], features[-1]), 3),
        "collapsed": sum(map(any, played.flags)),
        "flags": [list(dict.fromkeys(chain(*stream))) for stream in played.flags],
        "flagged_share": round(float(np.mean([[bool(flags) for flags in stream] for stream in played.flags])), 4),
        "statistics": {name: [round(s[name], 2) for s in played.statistics] for name in played.statistics[0]},
        "action_f1": {},
    }
    for at_s in ASKED_S:
        number = int(np.ceil(at_s / SLICE_S)) - 1
        if number < len(features):
            told["action_f1"][f"{at_s:g} s"] = round(macro_f1(played.seen[number], played.told[number]), 4)
    if real is not None:
        every = np.concatenate(real)
        told["from_real"] = [round(frechet(f, every), 3) for f in features]
    return told


def real_distance(real: list[np.ndarray], pairs: int = 20, seed: int = 0) -> float:
    """Return the mean Fréchet distance between two random slices of real play."""
    rng = np.random.default_rng(seed)
    drawn = [rng.choice(len(real), 2, replace=False) for _ in range(pairs)]
    return float(np.mean([frechet(real[a], real[b]) for a, b in drawn]))
