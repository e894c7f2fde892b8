"""The judge: a small network, trained on real frames, that says which actions were taken and where the player stands.

It is an inverse-dynamics model and a state probe in one. Shown three frames in a row it tells the actions that led to the last of them, and the pose of
the last. Applied to generated frames it measures whether a world does what the keys say, and whether it still is the place that it was trained on. Its
features serve the Fréchet distance. How good it is on real held-out frames is written in its file; every figure that it gives stands beside that.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from world_model.autoencoder import ResidualPair
from world_model.card import SHIPPED, WorldError, read_metadata

FRAMES = 3  # shown at once: two steps tell how fast a body already was


@dataclass(frozen=True)
class JudgeConfig:
    """What is judged; ``low`` and ``high`` are the bounds of the positions x and y in the training data, ``figures`` its held-out accuracy."""

    actions: tuple[str, ...]
    height: int
    width: int
    low: tuple[float, float] = (0.0, 0.0)
    high: tuple[float, float] = (1.0, 1.0)
    channels: tuple[int, ...] = (32, 64, 128)
    features: int = 128
    figures: dict[str, float] = field(default_factory=dict)


class Judge(nn.Module):
    """Three frames in, action logits and a pose out."""

    def __init__(self, config: JudgeConfig) -> None:
        super().__init__()
        self.config = config
        layers: list[nn.Module] = []
        before = 3 * FRAMES
        for channels in config.channels:
            layers += [nn.Conv2d(before, channels, 5, stride=2, padding=2), ResidualPair(channels), ResidualPair(channels)]
            before = channels
        self.trunk = nn.Sequential(*layers, nn.ReLU())
        self.features = nn.Linear(12 * before, config.features)
        self.actions = nn.Linear(config.features, len(config.actions))
        self.pose = nn.Linear(config.features, 4)  # x, y in [0, 1], cosine and sine of the heading

    def look(self, x: Tensor) -> Tensor:
        """Return features [b, features] of what `shrink` returned."""
        x = F.adaptive_avg_pool2d(self.trunk(x.contiguous(memory_format=torch.channels_last)), (3, 4))
        return F.relu(self.features(x.flatten(1)))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return action logits [b, actions] and poses [b, 4] of what `shrink` returned."""
        features = self.look(x)
        return self.actions(features), self.pose(features)

    @torch.no_grad()
    def see(self, clip: np.ndarray, batch: int = 256) -> "Seen":
        """Judge the frames of a clip uint8 [n, height, width, 3], from the third on."""
        frames = torch.from_numpy(np.array(clip))
        parts = []
        for first in range(0, len(frames) - FRAMES + 1, batch):
            last = min(first + batch, len(frames) - FRAMES + 1)
            features = self.look(shrink(torch.stack([frames[first + i : last + i] for i in range(FRAMES)], 1)))
            parts.append((features, self.actions(features).sigmoid(), self.pose(features)))
        seen, likely, pose = (torch.cat(part).numpy() for part in zip(*parts, strict=True))
        low, high = np.array(self.config.low), np.array(self.config.high)
        return Seen(seen, likely > 0.5, low + pose[:, :2] * (high - low), np.degrees(np.arctan2(pose[:, 3], pose[:, 2])))

    def save(self, path: Path) -> None:
        """Write the judge to one file, in bfloat16."""
        tensors = {name: t.detach().bfloat16().contiguous() for name, t in self.state_dict().items()}
        save_file(tensors, path, {"judge": msgspec.json.encode(self.config).decode()})

    @classmethod
    def load(cls, path: Path) -> "Judge":
        """Read a judge's file.

        Raises:
            WorldError: it is not one; the message says why.
        """
        told = read_metadata(path).get("judge")
        try:
            config = msgspec.convert(json.loads(told or "null"), JudgeConfig)
            with torch.device("meta"):
                judge = cls(config)
            tensors = {name: t.float() for name, t in load_file(path).items()}
            judge.load_state_dict(tensors, assign=True)
        except (ValueError, msgspec.ValidationError, SafetensorError, RuntimeError, OSError) as error:
            raise WorldError(f"{path} is not the file of a judge: {str(error).splitlines()[0]}") from error
        return judge.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def shrink(frames: Tensor) -> Tensor:
    """Return frames uint8 [b, 3, height, width, 3] at half their size as [b, 9, height / 2, width / 2] in [-1, 1]."""
    return F.avg_pool2d(rearrange(frames, "b f h w c -> b (f c) h w").float(), 2) / 127.5 - 1


@dataclass(frozen=True)
class Seen:
    """What a judge saw in n frames: features [n, d], actions bool [n, actions], positions [n, 2], headings in degrees [n]."""

    features: np.ndarray
    actions: np.ndarray
    positions: np.ndarray
    headings: np.ndarray


def find_judge(world: str) -> Judge | None:
    """Return the judge that ships for a world of this name, or None."""
    path = SHIPPED.parent / "judges" / f"{world}.safetensors"
    return Judge.load(path) if path.exists() else None


def macro_f1(seen: np.ndarray, told: np.ndarray) -> float:
    """Return the mean over actions of F1, for bool arrays [n, actions]; actions that are neither seen nor told do not count."""
    both, either = (seen & told).sum(0), seen.sum(0) + told.sum(0)
    return float((2 * both[either > 0] / either[either > 0]).mean()) if either.any() else 1.0
