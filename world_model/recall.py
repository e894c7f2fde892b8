"""Recall: a world's memory of what is seen from where.

A window remembers a second of play; what comes into view after a turn was never in it. Where the recorded game told its true places (position and heading), a
world can learn its map. One small network follows the player: from the place where it took the frame before to be, from that frame itself and from the last
actions it says where the next one is. Another has learnt every view by its place, and paints what it remembers from there. Motion compensation is given that
picture beside the frame before, and takes from it what the frame before cannot show. In play no true place is needed: a stream that begins somewhere finds its
place by looking, and what it sees from then on is what is there.

A place is (x, y, cosine, sine of the heading), positions from 0 to 1 over the longer side of the map. Of an uncertain heading cosine and sine are the means,
shorter than 1; shorter than a half the place counts as unknown.
"""

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FINEST, HARMONICS = 7, 8  # octaves of positions, multiples of the heading
UNKNOWN = 0.5
NUM_FEATURES = 2 * (2 * FINEST + HARMONICS + 2 * (FINEST - 1)) + 2


class Recall(nn.Module):
    """Follow places, and remember latent frames by them.

    Args:
        shape: [channels, height, width] of a latent frame.
        told: how many numbers the actions of a frame's history are.
        width, blocks: of the memory.
        looks: channels of the convolutions that look at a frame.
    """

    def __init__(self, shape: tuple[int, int, int], told: int, width: int, blocks: int, looks: int = 32) -> None:
        super().__init__()
        self.shape, self.width = shape, width
        sizes = (shape[0], looks, 2 * looks, 4 * looks, 4 * looks)
        rows, columns = shape[1:]
        self.look = nn.ModuleList([nn.Conv2d(sizes[0], sizes[1], 3, padding=1)])
        for inputs, outputs in pairwise(sizes[1:]):
            stride = 2 if min(rows, columns) >= 4 else 1
            self.look.append(nn.Conv2d(inputs, outputs, 3, stride, 1))
            rows, columns = -(-rows // stride), -(-columns // stride)
        self.seen = nn.Linear(sizes[-1] * rows * columns, width)
        self.told, self.was = nn.Linear(told, width), nn.Linear(NUM_FEATURES + 3, width)
        self.settle = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 4))
        self.enter = nn.Linear(NUM_FEATURES, width)
        self.up = nn.ModuleList(nn.Linear(width, 2 * width) for _ in range(blocks))
        self.down = nn.ModuleList(nn.Linear(2 * width, width) for _ in range(blocks))
        self.leave = nn.Linear(width, math.prod(shape))
        for zero in self.down:
            nn.init.zeros_(zero.weight)  # type: ignore[arg-type]

    def follow(self, before: Tensor, actions: Tensor, place: Tensor) -> Tensor:
        """Return the places [b, f, 4], float32, of frames that come in runs of equal length.

        Args:
            before: the frame before each, [b, f, c, h, w].
            actions: [b, f, history, n], the actions that led to each, its own last.
            place: [b, runs, 4], where the frame before each run was taken, or zeros.
        """
        x = before.flatten(0, 1).to(self.told.weight.dtype).contiguous(memory_format=torch.channels_last)
        for look in self.look:
            x = F.relu(look(x))
        hints = self.seen(x.flatten(1)).unflatten(0, before.shape[:2]) + self.told(actions.flatten(2).to(x.dtype))
        places = []
        for hint in hints.unflatten(1, (place.shape[1], -1)).unbind(2):
            place = place.detach()  # each step learns to make good what the one before left
            place = torch.cat([place[..., :2].clamp(-0.5, 1.5), place[..., 2:] / place[..., 2:].norm(dim=-1, keepdim=True).clamp(min=1)], -1)
            known = (place[..., 2:].square().sum(-1, keepdim=True) > UNKNOWN**2).float()
            was = torch.cat([known * features(place), known * place[..., 2:], known], -1).to(x.dtype)
            place = known * place + self.settle(F.relu(hint + self.was(was))).float()
            places.append(place)
        return torch.stack(places, 2).flatten(1, 2)

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
