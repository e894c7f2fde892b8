"""Training on the student's own history: the engine rolls it out under real tapes, and every pass is corrected by the real frames.

A game answers the same actions with the same frames, so the truth stays a fair target while the picture drifts from it: the student learns to denoise what
it made itself, at the engine's own levels and with the held action on the frames ahead, and to find its way back. Clips of real frames
(`student.clip_loss`) never show it that. The further a rollout has come the more of the picture nobody could know; there the truth counts less and an adversary
(`adversary`) asks for steps that could be real ones. Where the tape goes on with another action than the one held, the truth is no answer at all.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from world_model.noise import AddressedNoise
from world_model.precision import fast_autocast
from world_model.stream import RollingWindow, WindowConfig
from world_model.training.adversary import Adversary, Step
from world_model.training.ranks import count_ranks, share
from world_model.training.recall import NEARLY, blurred_places
from world_model.transformer import Transformer

if TYPE_CHECKING:
    from world_model.training.student import LatentClips


@dataclass(frozen=True)
class StreamRecipe:
    """How to roll out: ``batch`` streams in step, from a real past of up to ``past`` frames, for ``shortest`` to ``longest`` ticks.

    The truth is known for the first ``known`` of these. A share ``rollbacks`` of the ticks begins with a rollback by a random depth, as when a player changes
    his mind.
    """

    batch: int = 8
    past: int = 17
    shortest: int = 4
    longest: int = 20
    known: int = 8
    rollbacks: float = 0.15


@dataclass(frozen=True)
class RolloutRecipe(StreamRecipe):
    """How to correct rollouts, one tick per training step.

    ``adversary_price`` is the size of the adversary's pull, as an error of the latents, and where something stands out it pulls as much more as the truth does;
    where the truth is not known it counts ``late_price`` times as much.
    """

    adversary_price: float = 0.1
    late_price: float = 0.05


class Streams:
    """Streams of the student under real tapes that go on from one training step to the next; their state belongs into the checkpoint."""

    def __init__(self, recipe: StreamRecipe, window: WindowConfig, model: Transformer, clips: "LatentClips", stands_out: float = 0.0) -> None:
        self.recipe, self.config, self.model, self.clips, self.stands_out = recipe, window, model, clips, stands_out
        self.shape: tuple[int, int, int] = tuple(clips.latents.shape[1:])  # type: ignore[assignment]
        self.window: RollingWindow | None = None
        self.rows = np.zeros(0, np.int64)  # of each stream: the data's row of block 0
        self.seed = 0
        self.begin = self.end = 0  # blocks at which the streams began, and begin anew

    def go_on(self, rng: np.random.Generator) -> RollingWindow:
        """Return the streams' window, ready for a tick; streams that have come to their end begin anew.

        Worlds that recall are told nearly where the true player is. A place that has drifted would make the truth a wrong answer, and a student that cannot
        know by how much would answer with blur.
        """
        if self.window is None or self.window.start >= self.end:
            self._begin(rng)
        assert self.window is not None
        if self.model.config.recall_width:
            places = self.clips.places[torch.from_numpy(self.rows + self.window.start - 1)]
            self.window.locate(blurred_places(places[:, None], rng, **NEARLY))
        return self.window

    def truth_is_known(self, block: int) -> bool:
        """Return whether the truth of a block is the right answer: the streams have not been on their own for long."""
        return block - self.begin < self.recipe.known

    def action(self, window: RollingWindow, rng: np.random.Generator) -> Tensor:
        """Return the tape's action for the front of the window [batch, actions]; in a share of the ticks roll back first, as for a change of mind."""
        action = torch.from_numpy(self.clips.clips.actions[self.rows + window.start])
        if rng.random() < self.recipe.rollbacks:
            with torch.no_grad():
                window.roll_back(action, int(rng.integers(1, len(self.config.ladder))))
        return action

    @torch.no_grad()
    def _begin(self, rng: np.random.Generator) -> None:
        """Start all streams from real clips, their sinks adjacent or from long before."""
        recipe, sink = self.recipe, self.config.context.sink
        most = min(recipe.past, self.config.context.cache)
        past = int(rng.integers(min(most, sink + self.model.config.action_history), most + 1))
        fits = int(np.diff(self.clips.clips.bounds).max()) - past - 2 * len(self.config.ladder)
        ticks = min(int(rng.integers(recipe.shortest, recipe.longest + 1)), max(recipe.shortest, fits))
        length = past + ticks + 2 * len(self.config.ladder)
        first, self.seed = self.clips.draw_starts(length, past - 1, recipe.batch, rng, self.stands_out), int(rng.integers(1 << 62))
        self.begin, self.end = past, past + ticks
        self.window = window = self._new_window()
        rows, self.rows = share(self.clips.with_sinks(first, sink, past, rng)), share(first)
        places = self.clips.places[torch.from_numpy(rows[:, -1:])]
        self._remember(window, self.clips.latents[torch.from_numpy(rows)].float(), torch.from_numpy(self.clips.clips.actions[rows]), places)

    def _remember(self, window: RollingWindow, latents: Tensor, actions: Tensor, places: Tensor) -> None:
        window.remember(latents, actions, places)

    def _new_window(self) -> RollingWindow:
        seeds = share(self.seed + np.arange(self.recipe.batch)).tolist()
        return RollingWindow(self.model, self.config, AddressedNoise(seeds, 1, self.shape), self.shape, batch=len(seeds))

    def state_dict(self) -> dict[str, Any]:
        window = None if self.window is None else self.window.snapshot()
        return {"rows": torch.from_numpy(self.rows), "seed": self.seed, "begin": self.begin, "end": self.end, "window": window}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if count_ranks() > 1 or len(state["rows"]) != self.recipe.batch:
            return  # a checkpoint holds the first rank's streams; several ranks begin theirs anew
        self.rows, self.seed, self.begin, self.end = state["rows"].numpy(), state["seed"], state["begin"], state["end"]
        if state["window"] is not None:
            with fast_autocast():
                self.window = self._new_window()
            self.window.restore(state["window"])


class Rollout(Streams):
    """Correct every tick of the streams by the real frames and by the adversary."""

    recipe: RolloutRecipe

    def __init__(self, recipe: RolloutRecipe, window: WindowConfig, model: Transformer, clips: "LatentClips", stands_out: float = 0.0) -> None:
        super().__init__(recipe, window, model, clips, stands_out)
        self.adversary = Adversary(model.config.in_channels, model.config.num_actions)
        self.told = float("nan")  # the adversary's last loss

    def loss(self, rng: np.random.Generator) -> Tensor:
        """Make one tick with the whole batch and return its loss; the streams move on without gradient."""
        window, recipe = self.go_on(rng), self.recipe
        window.enter(self.action(window, rng))
        rows = torch.from_numpy(self.rows[:, None] + window.start + np.arange(len(window.levels)))
        real, tape = self.clips.latents[rows].float(), torch.from_numpy(self.clips.clips.actions)[rows]
        follows = (tape == window.actions).all(2).cumprod(1)  # the action held is the tape's up to here, so the truth is the right answer
        price = follows * (1.0 if self.truth_is_known(window.start) else recipe.late_price)
        sigma = torch.tensor([self.config.ladder[level] for level in window.levels])
        x0 = window.denoise()
        prices = self.clips.prices(window.last, self.stands_out)
        errors = ((x0 - real).square().mean(2) * prices).mean((2, 3))
        loss = (price * errors / sigma.clamp(min=0.3)).mean()
        if recipe.adversary_price and window.levels[0] == len(self.config.ladder) - 1:  # the frames ahead are not finished, and need not look so
            made = window.last[:, 0], x0[:, 0].detach(), window.actions[:, 0]
            before = self.clips.latents[rows[:, 0] - 1].float()
            pull = self._pull(made, (before, real[:, 0], tape[:, 0]))
            towards = 2 * recipe.adversary_price * (x0[:, 0] * prices * pull).mean()
            loss = loss + towards - towards.detach()
        window.step_down(x0.detach())
        return loss

    @torch.enable_grad()
    def _pull(self, made: Step, real: Step) -> Tensor:
        """Return where the adversary sees made frames become less real, of size 1 in the mean over the batch; it learns on the way."""
        before, frame, action = made
        frame.requires_grad_()
        (pull,) = torch.autograd.grad(self.adversary.doubt(made), frame)
        self.told = self.adversary.learn((before, frame.detach(), action), real)
        return pull / pull.square().mean().sqrt().clamp(min=1e-12)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"adversary": self.adversary.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.adversary.load_state_dict(state["adversary"])
