"""Training on the student's own history: the engine rolls it out under real tapes, and every pass is corrected by the real frames.

A game answers the same actions with the same frames, so the truth stays a fair target while the picture drifts from it: the student learns to denoise what
it made itself, at the engine's own levels and with the held action on the frames ahead, and to find its way back. Clips of real frames
(`student.clip_loss`) never show it that.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from world_model.autoencoder import Autoencoder
from world_model.noise import AddressedNoise
from world_model.stream import RollingWindow, WindowConfig
from world_model.training.autoencoder import detail_loss
from world_model.transformer import Transformer

if TYPE_CHECKING:
    from world_model.training.student import LatentClips


@dataclass(frozen=True)
class RolloutRecipe:
    """How to roll out: ``batch`` streams in step, one tick per training step, from a real past of ``past`` frames for ``shortest`` to ``longest`` ticks.

    A share ``rollbacks`` of the ticks begins with a rollback by a random depth, as when a player changes his mind.
    ``picture_price`` weighs the error of the decoded front frame (L1 and L1 of gradients) beside the latents' squared error.
    """

    batch: int = 8
    past: int = 17
    shortest: int = 4
    longest: int = 16
    rollbacks: float = 0.15
    picture_price: float = 0.5


class Rollout:
    """Streams that go on from one training step to the next; their state belongs into the checkpoint."""

    def __init__(self, recipe: RolloutRecipe, window: WindowConfig, model: Transformer, autoencoder: Autoencoder, clips: "LatentClips") -> None:
        self.recipe, self.config, self.model, self.autoencoder, self.clips = recipe, window, model, autoencoder, clips
        self.window: RollingWindow | None = None
        self.rows = np.zeros(0, np.int64)  # of each stream: the data's row of block 0
        self.seed = 0
        self.end = 0  # block at which the streams begin anew

    def loss(self, rng: np.random.Generator) -> Tensor:
        """Make one tick with the whole batch and return its loss; the streams move on without gradient."""
        if self.window is None or self.window.start >= self.end:
            self._begin(rng)
        window, recipe = self.window, self.recipe
        assert window is not None
        block = window.start  # the front of the window
        ahead = np.arange(min(len(window.levels) + 1, len(self.config.ladder)))
        rows = self.rows[:, None] + block + ahead
        real = self.clips.latents[torch.from_numpy(rows)].float()
        action = torch.from_numpy(self.clips.clips.actions[rows[:, 0]])
        if rng.random() < recipe.rollbacks:
            with torch.no_grad():
                window.roll_back(action, int(rng.integers(1, len(self.config.ladder))))
        window.enter(action)
        sigma = torch.tensor([self.config.ladder[level] for level in window.levels])
        x0 = window.denoise()
        loss = ((x0 - real).square().mean((2, 3, 4)) / sigma.clamp(min=0.3)).mean()
        finished = window.step_down(x0.detach())
        if finished is not None:
            frames = torch.from_numpy(self.clips.clips.frames[rows[:, 0]])
            target = frames.permute(0, 3, 1, 2).float() / 127.5 - 1
            loss = loss + recipe.picture_price * detail_loss(self.autoencoder.to_rgb(x0[:, 0]), target)
        return loss

    @torch.no_grad()
    def _begin(self, rng: np.random.Generator) -> None:
        """Start all streams again from real clips, their sinks adjacent or from long before."""
        recipe = self.recipe
        ticks = int(rng.integers(recipe.shortest, recipe.longest + 1))
        past = int(rng.integers(self.config.context.sink + 1, recipe.past + 1))
        starts = self.clips.clips.starts(past + ticks + len(self.config.ladder))
        self.rows, self.seed, self.end = starts[rng.integers(len(starts), size=recipe.batch)], int(rng.integers(1 << 62)), past + ticks
        self.window = self._new_window()
        sink = self.clips.draw_sinks(self.rows, rng)[:, None] + np.arange(self.config.context.sink)
        rows = np.concatenate([sink, self.rows[:, None] + np.arange(self.config.context.sink, past)], 1)
        self.window.remember(self.clips.latents[torch.from_numpy(rows)].float(), torch.from_numpy(self.clips.clips.actions[rows]))

    def _new_window(self) -> RollingWindow:
        shape = self.autoencoder.config.latent_shape
        noise = AddressedNoise(range(self.seed, self.seed + self.recipe.batch), 1, shape)
        return RollingWindow(self.model, self.config, noise, shape, batch=self.recipe.batch)

    def state_dict(self) -> dict[str, Any]:
        window = None if self.window is None else self.window.snapshot()
        return {"rows": torch.from_numpy(self.rows), "seed": self.seed, "end": self.end, "window": window}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rows, self.seed, self.end = state["rows"].numpy(), state["seed"], state["end"]
        if state["window"] is not None:
            with torch.autocast("cpu", torch.bfloat16):
                self.window = self._new_window()
            self.window.restore(state["window"])
