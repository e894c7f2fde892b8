"""Recall: a network's memory of what is seen from where.

A window remembers a second of play; what comes into view after a turn was never in it. Where the recorded game told its true places (position and heading), a
world can learn its map: from its tokens it estimates where each frame was taken, and a small network, which has learned every view by its place, paints
what it remembers from there. Motion compensation is given that picture beside the frame before, and takes from it what the frame before cannot show.
No true place is needed in play: the network finds its own from what it sees and does, so that a world anchors itself to its map.

A place is (x, y, cosine, sine of the heading), positions from 0 to 1 over the longer side of the map.
"""

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

FINEST, HARMONICS = 7, 8  # octaves of positions, multiples of the heading
NUM_FEATURES = 2 * (2 * FINEST + HARMONICS + 2 * (FINEST - 1)) + 2


class Recall(nn.Module):
    """Estimate places from tokens, and remember latent frames by their places.

    Args:
        dim, tokens: width and number of a frame's tokens.
        shape: [channels, height, width] of a latent frame.
        width, blocks: of the memory.
    """

    def __init__(self, dim: int, tokens: int, shape: tuple[int, int, int], width: int, blocks: int) -> None:
        super().__init__()
        self.shape, self.width = shape, width
        self.summary = nn.Linear(dim, 16)
        self.context = nn.Linear(dim, width)
        self.place = nn.Sequential(nn.Linear(16 * tokens, width), nn.GELU("tanh"), nn.Linear(width, width), nn.GELU("tanh"), nn.Linear(width, 4))
        self.enter = nn.Linear(NUM_FEATURES, width)
        self.up = nn.ModuleList(nn.Linear(width, 2 * width) for _ in range(blocks))
        self.down = nn.ModuleList(nn.Linear(2 * width, width) for _ in range(blocks))
        self.leave = nn.Linear(width, math.prod(shape))
        for zero in self.down:
            nn.init.zeros_(zero.weight)  # type: ignore[arg-type]

    def locate(self, tokens: Tensor, e: Tensor) -> Tensor:
        """Return the places [b, f, 4], float32, at which frames were taken whose tokens [b, n, d] have been through the blocks; e [b, f, d] as there."""
        flat = rearrange(self.summary(tokens), "b (f n) d -> b f (n d)", f=e.shape[1])
        first, *rest = self.place
        hidden = first(flat) + self.context(e)
        for layer in rest:
            hidden = layer(hidden)
        return hidden.float()

    def paint(self, places: Tensor) -> Tensor:
        """Return the latent frames [..., c, h, w] remembered from places [..., 4]."""
        x = self.enter(features(places).to(self.enter.weight.dtype))
        for up, down in zip(self.up, self.down, strict=True):
            x = x + down(F.gelu(up(F.layer_norm(x, (self.width,))), approximate="tanh"))
        return self.leave(F.layer_norm(x, (self.width,))).unflatten(-1, self.shape)


def features(places: Tensor) -> Tensor:
    """Return waves of places [..., 4], from broad to fine: of the position, of the heading, and of the position as seen in that heading; float32."""
    position, heading = places[..., :2].float(), torch.atan2(places[..., 3], places[..., 2]).float()
    cosine, sine = heading.cos()[..., None], heading.sin()[..., None]
    x, y = position[..., :1], position[..., 1:]
    turned = torch.cat([x * cosine + y * sine, x * sine - y * cosine], -1)
    octaves = math.pi * 2.0 ** torch.arange(FINEST, device=places.device)
    waves = [
        (position[..., None] * octaves).flatten(-2),
        heading[..., None] * torch.arange(1, HARMONICS + 1, device=places.device),
        (turned[..., None] * octaves[:-1]).flatten(-2),
    ]
    return torch.cat([part for wave in waves for part in (wave.sin(), wave.cos())] + [position], -1)
