"""Before the student, for worlds that recall: learn the map, and what else is needed to follow places on it.

The memory learns recorded pictures by the places they were taken from, and what their latents are; beside it how far actions take the player. Then these are
kept, and a network learns to guess places from single frames. None of it needs the transformer, which is what makes it fast: minutes, where a student takes
hours to learn any of it. Places are learnt by their distance, not by its square: of the square, walls that stop players would take all.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from world_model.bodies import RecallBodies
from world_model.memory import Memory
from world_model.precision import fast_autocast
from world_model.recall import PLACE, Recall, along, turned
from world_model.training.bodies import fate_loss, list_what_happens, meet, notice_loss
from world_model.training.optimizer import MuonAdamW
from world_model.training.ranks import average_gradients, count_ranks, normal_like, share
from world_model.training.run import Run, learning_rate

if TYPE_CHECKING:
    from world_model.training.student import LatentClips


NEARLY = {"finest": -4.0, "coarsest": -2.6}  # how nearly students are told where they are, for `blurred_places`
RECKONED = 1024  # steps of a player in a batch
CAREFULLY = 0.3  # by so much less is changed of a place that is known, as bodies in it are learnt
FLOOR = 1e-6  # of a squared distance: nearer than its root no place needs to be


@dataclass(frozen=True)
class RecallRecipe:
    """How to learn a map.

    In the first part of the steps, ``memory_share``, the memory learns ``memory_batch`` views a step, its texels at ``texel_rate``, and how far actions take
    the player; where there are bodies, a part of these, ``place_share``, is for the place alone. In each of the others ``batch`` places are guessed from
    frames, noised and blurred by up to ``noise`` and ``blur``, or bodies are noticed in as many.
    ``view``, for worlds seen from above, is (width, height, how far from the lower edge the player is) of a picture, in the game's own units and in heights.
    """

    steps: int = 12000
    view: tuple[float, float, float] | None = None
    memory_share: float = 0.85
    place_share: float = 0.5
    memory_batch: int = 16
    texel_rate: float = 0.02
    batch: int = 256
    noise: float = 0.2
    blur: float = 1.0
    muon_rate: float = 0.02
    adam_rate: float = 1e-3


def begin(recall: Recall, recipe: RecallRecipe, clips: "LatentClips") -> None:
    """Begin to learn a map of the places in these clips."""
    positions = (clips.been - clips.map[0]) / clips.map[1]
    if recipe.view is None:
        recall.memory.begin(positions)
        return
    width, height, below = recipe.view
    some = torch.from_numpy(clips.clips.frames[:: max(1, len(clips.clips.frames) // 256)])
    colour = some.flatten(0, 2).float().median(0).values / 127.5 - 1
    recall.memory.begin(positions, (width / float(clips.map[1]), height / float(clips.map[1]), below), colour)  # type: ignore[call-arg]


def memory_loss(recall: Recall, clips: "LatentClips", frames: int, rng: np.random.Generator) -> Tensor:
    """Return mean squared errors for randomly drawn frames, added up: of what is remembered, in pictures in [-1, 1] and in latents, and of latents' colours."""
    rows = np.sort(share(rng.integers(len(clips.latents), size=count_ranks() * frames)))
    made, _ = recall.memory(clips.places[torch.from_numpy(rows)])
    real = clips.pictures(rows)
    latents = clips.latents[torch.from_numpy(rows)].float()
    colours = recall.colour(latents).float() - F.interpolate(real, recall.shape[1:], mode="area")
    apart = made - F.interpolate(real, recall.memory.size, mode="area"), recall.encoded(made).float() - latents, colours
    return torch.stack([error.square().mean() for error in apart]).sum() + recall.memory.price()


class TexelOptimizer(torch.optim.Adam):
    """Adam for a memory: it knows what the numbers of a map are, and a texel that is seldom seen steps as far as any."""

    def __init__(self, memory: Memory, rate: float) -> None:
        rates = {"matter": 5.0, "shade": 0.25, "heights": 0.15, "steep": 0.15, "horizon": 0.15, "view": 0.05, "covers": 2.0, "album": 0.2, "lights": 0.05}
        groups = [{"params": [weight], "rate": rate * rates.get(name, 1.0)} for name, weight in memory.named_parameters()]
        super().__init__(groups, rate, betas=(0.9, 0.99), eps=1e-12)

    def step_at(self, factor: float) -> None:
        """Step with all rates scaled by `factor`; the gradients are gone then."""
        for group in self.param_groups:
            group["lr"] = factor * group["rate"]
        self.step()
        self.zero_grad()


def reckon_loss(recall: Recall, clips: "LatentClips", steps: int, history: int, rng: np.random.Generator) -> Tensor:
    """Return the mean distance of places that are reckoned from the true one before, by the actions alone: of most, for walls cannot be reckoned."""
    rows, actions = draw_steps(clips, steps, history, rng)
    return distance(recall.expect(actions, clips.own[rows][:, None]), clips.own[rows + 1][:, None])


def guess_loss(recall: Recall, clips: "LatentClips", recipe: RecallRecipe, history: int, rng: np.random.Generator) -> Tensor:
    """Return the mean distance of places that are guessed from the frame before, worn, and the actions."""
    rows, actions = draw_steps(clips, recipe.batch, history, rng)
    before, worn = clips.latents[rows][:, None].float(), torch.from_numpy(share(rng.random((count_ranks() * recipe.batch, 2)))).float()
    before = blur(before, recipe.blur * worn[:, 0])
    before = before + recipe.noise * worn[:, 1, None, None, None, None] * normal_like(before)
    return distance(recall.guess(before, actions), clips.own[rows + 1][:, None])


def draw_steps(clips: "LatentClips", steps: int, history: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Draw frames that others follow: their rows [steps], and the actions that led to those others, [steps, 1, history, n]."""
    starts = clips.clips.starts(2)
    rows = share(starts[rng.integers(len(starts), size=count_ranks() * steps)])
    return torch.from_numpy(rows), torch.from_numpy(clips.clips.histories(rows[:, None] + 1, history))


def distance(places: Tensor, true: Tensor) -> Tensor:
    """Return the mean distance of places [..., 8], of headings and of heights, added up."""
    position, heading, heights, _ = (places - true).square().unflatten(-1, (4, 2)).sum(-1).unbind(-1)
    return ((4 * position + FLOOR).sqrt() + (heading + FLOOR).sqrt() + (16 * heights + FLOOR).sqrt()).mean()


def blurred_places(places: Tensor, rng: np.random.Generator, *, finest: float, coarsest: float = -1.0, unknown: float = 0.0) -> Tensor:
    """Return places [..., 8] that are wrong by 10 to a power between `finest` and `coarsest`, and a share of them unknown.

    Heights are wrong by a tenth as much, and last steps by a quarter. What comes after the player's own place is right.
    """
    places, others = places[..., :PLACE], places[..., PLACE:]
    size = count_ranks() * places.shape[0], *places.shape[1:-1]
    scale = 10.0 ** rng.uniform(finest, coarsest, size)
    error = torch.from_numpy(share(rng.standard_normal((*size, 3)) * scale[..., None])).float()
    known = torch.from_numpy(share(rng.random(size) >= unknown))[..., None]
    (own, turns), (position, heading, heights, step) = error.split((2, 1), -1), places.split(2, -1)
    heading = turned(heading, along(2 * turns))
    return known * torch.cat([position + own, heading, heights + own / 10, step + own / 4, others], -1)


def blur(frames: Tensor, share: Tensor) -> Tensor:
    """Mix latent frames [batch, frames, c, h, w] with their 3 x 3 means, by a share [batch]: what a picture made by regression has lost."""
    smooth = F.avg_pool2d(frames.flatten(0, 1), 3, 1, 1, count_include_pad=False).view_as(frames)
    return torch.lerp(frames, smooth, share[:, None, None, None, None])


def train_recall(recipe: RecallRecipe, recall: Recall, train: "LatentClips", history: int, out: Path) -> Recall:
    """Train, resume or just load the memory in `out`; return it."""
    if not recall.memory.begun:
        begin(recall, recipe, train)
    texels, optimizer = TexelOptimizer(recall.memory, recipe.texel_rate), MuonAdamW(recall, recipe.muon_rate, recipe.adam_rate)
    run = Run(out, "recall", recipe.steps, {"recall": recall, "texels": texels, "optimizer": optimizer})
    drawing = round(recipe.memory_share * recipe.steps)
    met = round(recipe.place_share * drawing) if isinstance(recall, RecallBodies) else drawing  # a place must be known before it is seen who is in it
    seen: dict[str, list[float]] = {}
    for step in run:
        rng, learns = run.rng(step), step < drawing
        if isinstance(recall, RecallBodies) and step >= met and train.witness is None:
            if step == met:
                list_what_happens(recall.fates, train)
                meet(recall, train)
            train = replace(train, witness=recall)
            _ = train.places  # as it is seen now
        for part in recall.drawn:
            part.requires_grad_(learns)
        first, last = max(n for n in (0, met, drawing) if n <= step), min(n for n in (met, drawing, recipe.steps) if n > step)
        rate = learning_rate(step - first, last - first)
        with fast_autocast():
            if learns:
                loss = memory_loss(recall, train, recipe.memory_batch, rng) + reckon_loss(recall, train, RECKONED, history, rng)
            else:
                loss = guess_loss(recall, train, recipe, history, rng)
                loss = loss + notice_loss(recall, train, recipe.batch, rng) if isinstance(recall, RecallBodies) else loss
            fate = fate_loss(recall, train, history, rng) if isinstance(recall, RecallBodies) and met <= step < drawing else None
        (loss if fate is None else loss + fate).backward()
        average_gradients(recall.parameters())
        if learns:
            texels.step_at(rate if step < met else CAREFULLY * rate)
        torch.nn.utils.clip_grad_norm_(recall.parameters(), 1.0)
        optimizer.step(rate)
        seen.setdefault("memory" if learns else "place", []).append(loss.item())
        if fate is not None:
            seen.setdefault("fate", []).append(fate.item())
        if (step + 1) % 50 == 0:
            run.log(step + 1, **{name: float(np.mean(values)) for name, values in seen.items()})
            seen = {}
    recall.requires_grad_(True)
    return recall
