"""Before the student, for worlds that recall: learn the map.

The memory learns every recorded frame by its place, as nearly as a place can be followed; and to follow places for some frames, from nearly the true one (or
none), worn frames and the actions. Neither needs the transformer, which is what makes it fast: minutes, where a student takes hours to learn any of it.
Places are corrected by their distance, not by its square: of the square, players who do not know where they are would take all.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from world_model.precision import fast_autocast
from world_model.recall import Recall
from world_model.training.optimizer import MuonAdamW
from world_model.training.ranks import average_gradients, count_ranks, normal_like, share
from world_model.training.run import Run, learning_rate

if TYPE_CHECKING:
    from world_model.training.student import LatentClips


FLOOR = 1e-5  # of a squared distance: nearer than its root no place needs to be


@dataclass(frozen=True)
class RecallRecipe:
    """How to learn a map.

    A step follows ``batch`` players for ``frames`` frames, noised and blurred by up to ``noise`` and ``blur`` and mixed with up to a share ``remembered``
    of what is remembered from there, as pictures in play are; and it remembers ``memory_batch`` views.
    """

    steps: int = 4000
    batch: int = 32
    frames: int = 12
    memory_batch: int = 128
    noise: float = 0.2
    blur: float = 1.0
    remembered: float = 0.8
    muon_rate: float = 0.02
    adam_rate: float = 1e-3


def memory_loss(recall: Recall, clips: "LatentClips", frames: int, rng: np.random.Generator) -> Tensor:
    """Return the mean squared error of what is remembered of randomly drawn frames, by places as near to the true ones as they can be followed."""
    rows = torch.from_numpy(share(rng.integers(len(clips.latents), size=count_ranks() * frames)))
    places = blurred_places(clips.places[rows], rng, finest=-3.5, coarsest=-2.4)
    return (recall.paint(places) - clips.latents[rows].float()).square().mean()


def follow_loss(recall: Recall, clips: "LatentClips", recipe: RecallRecipe, history: int, rng: np.random.Generator) -> Tensor:
    """Return the mean distance of places, and of headings, that are followed from nearly the true one, or from none."""
    starts, batch = clips.clips.starts(recipe.frames + 1), count_ranks() * recipe.batch
    rows = share(starts[rng.integers(len(starts), size=batch)])[:, None] + np.arange(recipe.frames + 1)
    before, places = clips.latents[torch.from_numpy(rows[:, :-1])].float(), clips.places[torch.from_numpy(rows)]
    worn = torch.from_numpy(share(rng.random((batch, 3)))).float()
    before = torch.lerp(before, recall.remember(places[:, :-1]), recipe.remembered * worn[:, 2, None, None, None, None])
    before = blur(before, recipe.blur * worn[:, 0])
    before = before + recipe.noise * worn[:, 1, None, None, None, None] * normal_like(before)
    place = blurred_places(places[:, :1], rng, finest=-3.5, unknown=0.25)
    actions = torch.from_numpy(clips.clips.histories(rows[:, 1:], history))
    position, heading = (recall.follow(before, actions, place)[0] - places[:, 1:]).square().unflatten(2, (2, 2)).sum(3).unbind(2)
    return ((4 * position + FLOOR).sqrt() + (heading + FLOOR).sqrt()).mean()


def blurred_places(places: Tensor, rng: np.random.Generator, *, finest: float, coarsest: float = -1.0, unknown: float = 0.0) -> Tensor:
    """Return places [..., 4] that are wrong by between 10 to the power of `finest` and of `coarsest`, and a share of them unknown."""
    size = count_ranks() * places.shape[0], *places.shape[1:-1]
    scale = 10.0 ** rng.uniform(finest, coarsest, size)
    error = torch.from_numpy(share(rng.standard_normal((*size, 3)) * scale[..., None])).float()
    known = torch.from_numpy(share(rng.random(size) >= unknown))[..., None]
    cosine, sine = (2 * error[..., 2]).cos(), (2 * error[..., 2]).sin()
    turned = torch.stack([places[..., 2] * cosine - places[..., 3] * sine, places[..., 2] * sine + places[..., 3] * cosine], -1)
    return known * torch.cat([places[..., :2] + error[..., :2], turned], -1)


def blur(frames: Tensor, share: Tensor) -> Tensor:
    """Mix latent frames [batch, frames, c, h, w] with their 3 x 3 means, by a share [batch]: what a picture made by regression has lost."""
    smooth = F.avg_pool2d(frames.flatten(0, 1), 3, 1, 1, count_include_pad=False).view_as(frames)
    return torch.lerp(frames, smooth, share[:, None, None, None, None])


def train_recall(recipe: RecallRecipe, recall: Recall, train: "LatentClips", history: int, out: Path) -> Recall:
    """Train, resume or just load the memory in `out`; return it."""
    optimizer = MuonAdamW(recall, recipe.muon_rate, recipe.adam_rate)
    run = Run(out, "recall", recipe.steps, {"recall": recall, "optimizer": optimizer})
    seen: dict[str, list[float]] = {"memory": [], "place": []}
    for step in run:
        rng = run.rng(step)
        with fast_autocast():
            memory, place = memory_loss(recall, train, recipe.memory_batch, rng), follow_loss(recall, train, recipe, history, rng)
        (memory + place).backward()
        average_gradients(recall.parameters())
        torch.nn.utils.clip_grad_norm_(recall.parameters(), 1.0)
        optimizer.step(learning_rate(step, recipe.steps))
        seen["memory"].append(memory.item())
        seen["place"].append(place.item())
        if (step + 1) % 50 == 0:
            run.log(step + 1, **{name: float(np.mean(values)) for name, values in seen.items()})
            seen = {name: [] for name in seen}
    return recall
