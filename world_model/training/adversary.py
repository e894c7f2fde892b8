"""The adversary: a discriminator that tells a real step of the game from a rolled-out one, and so keeps rollouts sharp.

The truth alone teaches a student to answer doubt with blur, and on its own history blur feeds on itself. What a discriminator asks for is any frame that
could follow. It judges, in latents, the texture of a frame place by place, and the step to it from the frame before under the action (projection discriminator,
arXiv 1802.05637).
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from world_model.training.ranks import average_gradients, normal_like

Step = tuple[Tensor, Tensor, Tensor]  # a frame and the one after it [n, c, h, w], and the action between them [n, actions]


class Discriminator(nn.Module):
    """A step to two maps of numbers, positive for real: [n, 1, h / 2, w / 2] of its texture, [n, 1, h / 4, w / 4] of whether the action leads there."""

    def __init__(self, latent_channels: int, num_actions: int, channels: int = 64) -> None:
        super().__init__()
        wide, wider = 2 * channels, 4 * channels
        self.near = nn.Sequential(
            nn.Conv2d(latent_channels, channels, 3, padding=1), nn.LeakyReLU(0.2),
            nn.Conv2d(channels, wide, 4, stride=2, padding=1), nn.LeakyReLU(0.2),
            nn.Conv2d(wide, wide, 3, padding=1), nn.LeakyReLU(0.2),
        )  # fmt: skip
        self.far = nn.Sequential(
            nn.Conv2d(2 * wide, wider, 4, stride=2, padding=1), nn.LeakyReLU(0.2),
            nn.Conv2d(wider, wider, 3, padding=1), nn.LeakyReLU(0.2),
        )  # fmt: skip
        self.texture, self.whole = nn.Conv2d(wide, 1, 3, padding=1), nn.Conv2d(wider, 1, 3, padding=1)
        self.action = nn.Linear(num_actions, wider)

    def forward(self, step: Step) -> tuple[Tensor, Tensor]:
        before, frame, action = step
        near = self.near(torch.cat([frame, before]).contiguous(memory_format=torch.channels_last))
        far = self.far(torch.cat(near.chunk(2), 1))
        match = (self.action(action)[..., None, None] * far).sum(1, keepdim=True) / far.shape[1] ** 0.5
        return self.texture(near[: len(frame)]).float(), (self.whole(far) + match).float()


class Adversary:
    """A discriminator and its optimizer; hinge loss, and real steps must look as real when they are a little noisy (for a R1 penalty, arXiv 2501.08316)."""

    NOISE, PRICE = 0.05, 20.0  # of that penalty, per standard deviation of the latents

    def __init__(self, latent_channels: int, num_actions: int, rate: float = 2e-4) -> None:
        self.network = Discriminator(latent_channels, num_actions).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = torch.optim.AdamW(self.network.parameters(), rate, betas=(0.5, 0.99), weight_decay=0.0, fused=True)

    def doubt(self, step: Step) -> Tensor:
        """Return how much a step looks made up: what a student is to lessen. For `torch.autograd.grad`."""
        return -sum(said.mean() for said in self.network(step))  # type: ignore[return-value]

    def learn(self, made: Step, real: Step) -> float:
        """Make one step at telling made steps from as many real ones; return the hinge loss, 4 for one that cannot tell."""
        before, frame, action = real
        noisy = tuple(latents + self.NOISE * normal_like(latents) for latents in (before, frame))
        hinge = steady = torch.zeros(())
        for said in self.network(tuple(torch.cat(parts) for parts in zip(made, real, (*noisy, action), strict=True))):
            on_made, on_real, on_noisy = said.chunk(3)
            hinge = hinge + F.relu(1 + on_made).mean() + F.relu(1 - on_real).mean()
            steady = steady + (on_real - on_noisy).square().mean()
        (hinge + self.PRICE * steady).backward()
        average_gradients(self.network.parameters())
        self.optimizer.step()
        self.optimizer.zero_grad()
        return hinge.item()

    def state_dict(self) -> dict[str, Any]:
        return {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
