"""The adversary: a discriminator that tells real pictures from rolled-out ones, patch by patch, and so keeps rollouts sharp.

The truth alone teaches a student to answer doubt with blur, and on its own history blur feeds on itself. What a discriminator asks for is any picture that
could be real.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from world_model.training.optimizer import MuonAdamW
from world_model.training.ranks import average_gradients


class Discriminator(nn.Sequential):
    """RGB in [-1, 1], [batch, 3, height, width], to one number per patch, positive for real, [batch, 1, height / 8, width / 8]."""

    def __init__(self, channels: int = 64) -> None:
        super().__init__(
            nn.PixelUnshuffle(4),
            nn.Conv2d(48, channels, 3, padding=1), nn.LeakyReLU(0.2),
            nn.Conv2d(channels, 2 * channels, 4, stride=2, padding=1), nn.LeakyReLU(0.2),
            nn.Conv2d(2 * channels, 2 * channels, 3, padding=1), nn.LeakyReLU(0.2),
            nn.Conv2d(2 * channels, 1, 3, padding=1),
        )  # fmt: skip


class Adversary:
    """A discriminator and its optimizer; hinge loss."""

    def __init__(self, muon_rate: float = 0.005, adam_rate: float = 1e-3) -> None:
        self.network = Discriminator().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = MuonAdamW(self.network, muon_rate, adam_rate)

    def doubt(self, made: Tensor) -> Tensor:
        """Return how much pictures [batch, 3, height, width] look made up: what a student is to lessen. For `torch.autograd.grad`."""
        return -self.network(made.contiguous(memory_format=torch.channels_last)).float().mean()

    def learn(self, made: Tensor, real: Tensor) -> float:
        """Make one step at telling made pictures from real ones; return the loss, 2 for one that cannot tell."""
        both = self.network(torch.cat([made.detach(), real]).contiguous(memory_format=torch.channels_last)).float()
        loss = F.relu(1 + both[: len(made)]).mean() + F.relu(1 - both[len(made) :]).mean()
        loss.backward()
        average_gradients(self.network.parameters())
        self.optimizer.step()
        return loss.item()

    def state_dict(self) -> dict[str, Any]:
        return {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
