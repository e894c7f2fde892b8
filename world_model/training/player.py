"""Train a player: a network that looks at a frame and does what those who played the real game did.

A stream of a world's own soon shows something else than the real game did. From then on a real tape steers through a picture that its player never saw: around
bends that are not there, off the road and away, so that a student would learn what it does there and not how a road goes on. A player who looks at the
picture keeps such streams where people will be.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from world_model.precision import fast_autocast
from world_model.training.run import Run, Stateful, learning_rate

if TYPE_CHECKING:
    from world_model.training.student import LatentClips


@dataclass(frozen=True)
class PlayerRecipe:
    """How to train a player; in a share ``forgets`` of the examples it is not told what was held before, or it would do nothing but go on."""

    steps: int = 1500
    batch: int = 128
    rate: float = 1e-3
    forgets: float = 0.3


class Player(nn.Module):
    """A latent frame and the actions held up to it in, logits of the next actions out."""

    def __init__(self, latent: tuple[int, int, int], num_actions: int, history: int, channels: tuple[int, ...] = (64, 128, 128)) -> None:
        super().__init__()
        before, layers = latent[0], list[nn.Module]()
        for width in channels:
            layers += [nn.Conv2d(before, width, 3, stride=2, padding=1), nn.ReLU()]
            before = width
        self.trunk = nn.Sequential(*layers, nn.AdaptiveAvgPool2d((3, 4)), nn.Flatten())
        self.head = nn.Sequential(nn.Linear(12 * before + history * num_actions, 256), nn.ReLU(), nn.Linear(256, num_actions))

    def forward(self, frame: Tensor, lived: Tensor) -> Tensor:
        """Return logits [b, actions] after a latent frame [b, c, h, w] and the actions up to it [b, history, actions]."""
        return self.head(torch.cat([self.trunk(frame), lived.flatten(1)], 1))  # type: ignore[no-any-return]

    @torch.no_grad()
    def act(self, frame: Tensor, lived: Tensor) -> Tensor:
        """Draw the next actions [b, actions], each held or not; arguments as of `forward`."""
        return self(frame, lived).float().sigmoid().bernoulli()


def train_player(recipe: PlayerRecipe, train: "LatentClips", held_out: "LatentClips", history: int, out: Path) -> Player:
    """Train, resume or just load the player in `out`."""
    torch.manual_seed(0)
    player = Player(tuple(train.latents.shape[1:]), train.clips.actions.shape[1], history)  # type: ignore[arg-type]
    optimizer = torch.optim.AdamW(player.parameters(), recipe.rate, weight_decay=1e-2)
    parts: dict[str, Stateful] = {"model": player, "optimizer": optimizer}
    run, losses, few = Run(out, "player", recipe.steps, parts), list[float](), held_out.clips.starts(2)
    few = few[np.linspace(0, len(few) - 1, min(len(few), 2048)).astype(int)]
    for step in run:
        rng = run.rng(step)
        with fast_autocast():
            loss = _loss(player, train, rng.choice(train.clips.starts(2), recipe.batch), history, rng.random(recipe.batch) >= recipe.forgets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.param_groups[0]["lr"] = recipe.rate * learning_rate(step, recipe.steps)
        optimizer.step()
        losses.append(loss.item())
        if (step + 1) % 250 == 0:
            with torch.no_grad():
                told, alone = (_loss(player, held_out, few, history, np.full(len(few), keeps)).item() for keeps in (True, False))
            run.log(step + 1, loss=float(np.mean(losses)), held_out=told, frame_alone=alone)
            losses.clear()
    return player.eval().requires_grad_(False)


def _loss(player: Player, clips: "LatentClips", rows: np.ndarray, history: int, told: np.ndarray) -> Tensor:
    """Return the cross-entropy of the actions after frames at some rows; `told` [rows] says where the actions up to it are given."""
    lived = torch.from_numpy(clips.clips.histories(rows, history) * told[:, None, None].astype(np.float32))
    wanted = torch.from_numpy(clips.clips.actions[rows + 1])
    return F.binary_cross_entropy_with_logits(player(clips.latents[torch.from_numpy(rows)].float(), lived).float(), wanted)
