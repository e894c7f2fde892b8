"""Stage 4, Rolling Forcing: distil the student on its own history by matching distributions (arXiv 2509.25161, section 3; DMD, arXiv 2311.18828).

Three networks begin as the student of stage 3, or two of them as the teacher of stage 2: the *student* plays, the *teacher* stays as it is and knows what real
frames look like after a given past, the *critic* goes on learning what the student's frames look like. The student plays on and on through the engine's own
code, under real tapes, on its own history.
Once in as many passes as the window has blocks a pass carries gradient, so that these windows tile the stream without overlap: all its blocks, at all levels
at once, are noised to one common time, teacher and critic each say what they take them to have been, and the student goes where the teacher differs from the
critic. Neither cache nor history carries gradient.

Half of the steps play frame by frame instead (Self Forcing): one block through all levels, of which one pass carries gradient. Teacher and critic follow the
streams with caches of their own, so that they judge a window by the past that the student really made. This past is what a world shows in play; the teacher was
trained to go on with a sharp picture from a blurred and noisy one, and so leads the student back.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from world_model.autoencoder import Autoencoder
from world_model.precision import fast_autocast
from world_model.schedule import add_noise
from world_model.stream import RollingWindow, WindowConfig
from world_model.training.optimizer import MuonAdamW
from world_model.training.ranks import average_gradients, normal_like, shard, uniform_for
from world_model.training.rollout import StreamRecipe, Streams
from world_model.training.run import Average, Run, Stateful, learning_rate
from world_model.training.student import LatentClips, StudentRecipe, averaged, sample_strip
from world_model.transformer import Transformer


@dataclass(frozen=True)
class DistillRecipe(StreamRecipe):
    """How to distil.

    The streams are short: what has gone wrong long before a window the teacher takes for granted, unless the truth is known. At ten times these rates, and
    after up to 200 ticks without it, the worlds became worse than what they began from. ``critic_steps`` passes of each step also train the critic.
    ``rolling_share`` of the steps roll, the others play frame by frame. Where the truth is known it pulls too, with the weight ``truth_price``: there is one
    right answer then.
    """

    batch: int = 8
    shortest: int = 2
    longest: int = 14
    rollbacks: float = 0.05
    steps: int = 1100
    critic_steps: int = 5
    rolling_share: float = 0.5
    truth_price: float = 0.2
    student_muon_rate: float = 1e-4
    student_adam_rate: float = 1e-5
    critic_muon_rate: float = 3e-4
    critic_adam_rate: float = 3e-5
    ema: float = 0.99


def noised(made: Tensor) -> tuple[Tensor, Tensor]:
    """Return windows [b, frames, c, h, w] noised to one time for each, and that time as a level for each frame [b, frames]."""
    sigma = (0.02 + 0.96 * uniform_for(made))[:, None].expand(-1, made.shape[1])
    return add_noise(made, normal_like(made), sigma[..., None, None, None]), sigma


class Follower:
    """A network that follows the student's streams, with a cache of its own, and denoises their windows at any level."""

    def __init__(self, model: Transformer, of: RollingWindow) -> None:
        self.window = RollingWindow(model, of.config, of.noise, (*of.x.shape[2:],), batch=len(of.x))  # type: ignore[arg-type]

    @torch.no_grad()
    def follow(self, student: RollingWindow) -> None:
        """See the block that the student finished last; call it before each of the student's passes."""
        if student.clean is not None:
            own = self.window
            own.clean, own.last, own.lived, own.start = student.clean, student.last, student.lived, student.start
            own._flush()
        self.window.locate(student.place)

    def denoise(self, student: RollingWindow, noisy: Tensor, sigma: Tensor | None, made: Tensor) -> Tensor:
        """Return x0 of the student's window, noised to sigma [b, frames], None being the ladder's levels; `made` is what the student made of it."""
        own = self.window
        own.levels, own.actions, own.x, own.x0 = list(student.levels), student.actions.clone(), noisy, made
        x0 = own.denoise(sigma)
        own.levels, own.actions, own.x, own.x0 = [], own.actions[:, :0], noisy[:, :0], made[:, :0]
        return x0


class Followed(Streams):
    """The student's streams, and the networks that follow them."""

    def __init__(
        self, recipe: StreamRecipe, window: WindowConfig, model: Transformer, clips: LatentClips, following: tuple[Transformer, ...], stands_out: float = 0.0
    ) -> None:
        super().__init__(recipe, window, model, clips, stands_out)
        self.following = following
        self.followers: list[Follower] = []

    def _new_window(self) -> RollingWindow:
        window = super()._new_window()
        self.followers = [Follower(model, window) for model in self.following]
        return window

    def _remember(self, window: RollingWindow, latents: Tensor, actions: Tensor, places: Tensor) -> None:
        super()._remember(window, latents, actions, places)
        for follower in self.followers:
            follower.window.remember(latents, actions, places)
            follower.window._flush()

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"followers": [follower.window.snapshot() for follower in self.followers]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        if self.window is not None:
            for follower, saved in zip(self.followers, state["followers"], strict=True):
                follower.window.restore(saved)


class Distillation(Followed):
    """The student's streams, and the teacher and critic that follow them."""

    recipe: DistillRecipe

    def __init__(
        self,
        recipe: DistillRecipe,
        window: WindowConfig,
        model: Transformer,
        teacher: Transformer,
        critic: Transformer,
        clips: LatentClips,
        stands_out: float = 0.0,
    ) -> None:
        super().__init__(recipe, window, model, clips, (teacher, critic), stands_out)
        self.critic = critic
        self.critic_optimizer = MuonAdamW(critic, recipe.critic_muon_rate, recipe.critic_adam_rate)

    def step(self, rng: np.random.Generator, rate: float) -> dict[str, float]:
        """Make as many passes as the window has blocks or the critic wants; leave the student's gradient, train the critic, and return what is to be logged."""
        recipe, blocks = self.recipe, len(self.config.ladder)
        rolling, told = rng.random() < recipe.rolling_share, {}
        for number in range(max(blocks, recipe.critic_steps)):
            window = self.go_on(rng)
            if not number:
                chosen = self.seed % blocks if rolling else int(rng.integers(blocks))  # the same for as long as the streams roll: windows do not overlap
            if not rolling and len(window.levels) > 1:  # the speculation ahead is not played frame by frame
                window.levels, window.x, window.x0, window.actions = [], window.x[:, :0], window.x0[:, :0], window.actions[:, :0]
            for follower in self.followers:
                follower.follow(window)
            window.enter(self.action(window, rng), append=rolling or not window.levels)
            with torch.set_grad_enabled(number == chosen):
                x0 = window.denoise()
            if number == chosen:
                loss, told["student"] = self._distance(window, x0)
                if self.truth_is_known(window.start):
                    loss, told["truth"] = self._add_truth(window, x0, loss)
                loss.backward()
            made = x0.detach()
            if number < recipe.critic_steps:
                told["critic"] = self._train_critic(window, made, rate)
            window.step_down(made)
        return told

    def _distance(self, window: RollingWindow, x0: Tensor) -> tuple[Tensor, float]:
        """Return a loss whose gradient is the normalised difference of critic and teacher, and the mean size of that difference."""
        made = x0.detach()
        noisy, sigma = noised(made)
        with torch.no_grad():
            real, fake = (follower.denoise(window, noisy, sigma, made) for follower in self.followers)
        gradient = (fake - real) / (made - real).abs().mean((1, 2, 3, 4), keepdim=True).clamp(min=1e-3)
        return 0.5 * (x0 - (made - gradient)).square().mean(), float(gradient.abs().mean())

    def _add_truth(self, window: RollingWindow, x0: Tensor, loss: Tensor) -> tuple[Tensor, float]:
        """Add the error against the frames that the real game showed, of those of the window whose tape was played: its first."""
        real = self.clips.latents[torch.from_numpy(self.rows + window.start)].float()
        error = (x0[:, 0] - real).square().mean()
        return loss + self.recipe.truth_price * error, error.item()

    def _train_critic(self, window: RollingWindow, made: Tensor, rate: float) -> float:
        """Teach the critic to denoise what the student made; return its error."""
        noisy, sigma = noised(made)
        x0 = self.followers[1].denoise(window, noisy, sigma, made)
        loss = ((x0 - made).square().mean((2, 3, 4)) / sigma.clamp(min=0.3)).mean()
        loss.backward()
        average_gradients(self.critic.parameters())
        torch.nn.utils.clip_grad_norm_(self.critic.parameters(), 1.0)
        self.critic_optimizer.step(rate)
        return loss.item()

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"critic": self.critic.state_dict(), "critic_optimizer": self.critic_optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.critic.load_state_dict(state["critic"])
        self.critic_optimizer.load_state_dict(state["critic_optimizer"])


def distill(
    recipe: DistillRecipe,
    student: StudentRecipe,
    trained: Transformer,
    train: LatentClips,
    held_out: LatentClips,
    autoencoder: Autoencoder,
    out: Path,
    taught_by: Transformer | None = None,
) -> Transformer:
    """Distil the student of stage 3 on its own history, resume, or just load the result in `out`; return it with its averaged weights.

    `taught_by` is the network that teacher and critic begin as, if not as the student: student and teacher are learnt by one network unless stage 2 was made.
    """
    torch.manual_seed(0)
    model, teacher, critic = (Transformer(student.model) for _ in range(3))
    for network, begin in ((model, trained), (teacher, taught_by or trained), (critic, taught_by or trained)):
        network.load_state_dict(begin.state_dict())
        if student.shard:
            shard(network)
    distillation = Distillation(recipe, student.window, model, teacher.eval().requires_grad_(False), critic, train, student.stands_out)
    optimizer = MuonAdamW(model, recipe.student_muon_rate, recipe.student_adam_rate)
    average = Average(model, recipe.ema)
    parts: dict[str, Stateful] = {"model": model, "optimizer": optimizer, "average": average, "distillation": distillation}
    run = Run(out, "distill", recipe.steps, parts)
    seen: dict[str, list[float]] = {}
    for step in run:
        rate = learning_rate(step, recipe.steps, warmup=20)
        with fast_autocast(keep_casts=not student.shard):
            told = distillation.step(run.rng(step), rate)
        average_gradients(model.parameters())
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step(rate)
        average.update(model)
        for name, value in told.items():
            seen.setdefault(name, []).append(value)
        if (step + 1) % 20 == 0:
            run.log(step + 1, **{name: float(np.mean(values)) for name, values in seen.items()})
            seen.clear()
        if (step + 1) % 100 == 0 or step + 1 == recipe.steps:
            sample_strip(averaged(model, average), student, held_out, autoencoder, out / "distill.png")
    return averaged(model, average)
