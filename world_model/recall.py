"""Recall: a world's memory of what is seen from where.

A window remembers a second of play; what comes into view after a turn was never in it. Where the recorded game told its true places (position and heading), a
world can learn its map. One small network follows the player: it reckons from the last actions how far he went and turned, and while he does anything corrects
that by comparing the frame before with what is remembered from there. Another has learnt what every ray meets: each column of a picture is looked up by where
its ray starts and which way it goes, so a wall seen from many places is learnt once (light field networks, arXiv 2106.02634). Motion compensation is given that
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
NUM_FEATURES = 2 * (2 * FINEST + HARMONICS + 2 * (FINEST - 1)) + 2
RAY_OCTAVES, RAY_HARMONICS = 8, 5
NUM_RAY_FEATURES = 2 * (4 * RAY_OCTAVES + RAY_HARMONICS) + 2
UNKNOWN = 0.5
STEP = 0.05  # of the map: the unit of what is reckoned
SMALL = 0.004, 0.02  # corrections of a position and of a heading of which half is heeded


class Recall(nn.Module):
    """Follow places, and remember latent frames by them.

    Args:
        shape: [channels, height, width] of a latent frame.
        told: how many numbers the actions of a frame's history are.
        width, blocks: of the memory.
        follow_width: of what follows.
        field_of_view: of the pictures, horizontal, in degrees.
        looks: channels of the convolutions that look at a frame.
    """

    def __init__(self, shape: tuple[int, int, int], told: int, width: int, blocks: int, follow_width: int, field_of_view: float, looks: int = 32) -> None:
        super().__init__()
        self.shape, self.width, self.reach = shape, width, math.tan(math.radians(field_of_view) / 2)
        sizes = (2 * shape[0], looks, 2 * looks, 4 * looks, 4 * looks)
        rows, columns = shape[1:]
        self.look = nn.ModuleList([nn.Conv2d(sizes[0], sizes[1], 3, padding=1)])
        for inputs, outputs in pairwise(sizes[1:]):
            stride = 2 if min(rows, columns) >= 4 else 1
            self.look.append(nn.Conv2d(inputs, outputs, 3, stride, 1))
            rows, columns = -(-rows // stride), -(-columns // stride)
        self.ego = nn.Sequential(nn.Linear(told, 64), nn.ReLU(), nn.Linear(64, 3))  # forward, to the left, and turned
        self.seen = nn.Linear(sizes[-1] * rows * columns, follow_width)
        self.told, self.was = nn.Linear(told, follow_width), nn.Linear(NUM_FEATURES + 3, follow_width)
        self.think = nn.Sequential(nn.Linear(follow_width, follow_width), nn.ReLU(), nn.Linear(follow_width, follow_width))
        self.settle = nn.Linear(follow_width, 5)
        self.enter = nn.Linear(NUM_RAY_FEATURES, width)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(width, 2 * width), nn.GELU("tanh"), nn.Linear(2 * width, width)) for _ in range(blocks))
        self.leave = nn.Linear(width, shape[0] * shape[1])
        for last in (self.ego[2], self.think[2], *(block[2] for block in self.blocks)):  # type: ignore[index]
            nn.init.zeros_(last.weight)  # type: ignore[arg-type]
            nn.init.zeros_(last.bias)  # type: ignore[arg-type]

    def follow(self, before: Tensor, actions: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
        """Return the places [b, f, 4], float32, of frames that come in runs of equal length, and what is remembered from there [b, f, c, h, w].

        Args:
            before: the frame before each, [b, f, c, h, w].
            actions: [b, f, history, n], the actions that led to each, its own last.
            place: [b, runs, 4], where the frame before each run was taken, or zeros.
        """
        steps = (t.unflatten(1, (place.shape[1], -1)).unbind(2) for t in (before, actions))
        picture = self.remember(place)
        places, pictures = [], []
        for frame, action in zip(*steps, strict=True):
            place = self.seek(frame, action, place.detach(), picture)  # each step learns to make good what the one before left
            picture = self.remember(place)
            places.append(place)
            pictures.append(picture)
        return torch.stack(places, 2).flatten(1, 2), torch.stack(pictures, 2).flatten(1, 2)

    def expect(self, actions: Tensor, place: Tensor) -> Tensor:
        """Return the reckoned places [b, f, 4] of frames to come; `place` [b, 1, 4] is that of the frame before."""
        gone = self._gone(actions.flatten(2).to(self.told.weight.dtype))
        return torch.cat([place := reckon(place, step) for step in gone.split(1, 1)], 1)

    def _gone(self, actions: Tensor) -> Tensor:
        """Return how far actions [b, f, history * n] take the player (`reckon`), float32; who does nothing stays where he is."""
        return (self.ego(actions).float() - self.ego(torch.zeros_like(actions[:1, :1])).float()) * actions.any(-1, keepdim=True)

    def seek(self, before: Tensor, action: Tensor, place: Tensor, picture: Tensor) -> Tensor:
        """Return the places [b, runs, 4] of the frames after `before` [b, runs, c, h, w]: reckoned, then corrected by how these differ from `picture`.

        Who does nothing is where he was. His picture follows the place by which it is remembered: corrections would carry both off together.
        Arguments as in `follow`, of a single frame in each run.
        """
        action = action.flatten(2).to(self.told.weight.dtype)
        told, gone, pressed = self.told(action), self._gone(action), action.any(-1, keepdim=True)
        place = torch.cat([place[..., :2].clamp(-0.5, 1.5), place[..., 2:] / place[..., 2:].norm(dim=-1, keepdim=True).clamp(min=1)], -1)
        known = (place[..., 2:].square().sum(-1, keepdim=True) > UNKNOWN**2).float()
        x = torch.cat([before, known[..., None, None] * (picture - before)], 2).flatten(0, 1).to(told.dtype).contiguous(memory_format=torch.channels_last)
        for look in self.look:
            x = F.relu(look(x))
        was = torch.cat([known * features(place), known * place[..., 2:], known], -1).to(told.dtype)
        y = F.relu(self.seen(x.flatten(1)).unflatten(0, place.shape[:2]) + told + self.was(was))
        correction, trust = self.settle(F.relu(y + self.think(y))).float().split((4, 1), -1)
        return torch.where(known > 0, reckon(place, gone) + pressed * heeded(2 * torch.sigmoid(trust - 2) * correction), correction)

    @torch.no_grad()
    def remember(self, places: Tensor) -> Tensor:
        """Return what is remembered from places [..., 4], float32; it learns from recorded frames alone."""
        return self.paint(places).float()

    def paint(self, places: Tensor) -> Tensor:
        """Return the latent frames [..., c, h, w] remembered from places [..., 4]."""
        x = self.enter(rays(places, self.shape[2], self.reach).to(self.enter.weight.dtype))
        for block in self.blocks:
            x = x + block(F.layer_norm(x, (self.width,)))
        return self.leave(F.layer_norm(x, (self.width,))).unflatten(-1, self.shape[:2]).movedim(-3, -1)


def heeded(correction: Tensor) -> Tensor:
    """Return corrections of places [..., 4] without what is too small to mean anything.

    Pictures in play follow the place by which they are remembered: what small corrections have in common would in seconds carry a player off.
    """
    parts = zip(correction.split(2, -1), SMALL, strict=True)
    return torch.cat([part * (size := part.square().sum(-1, keepdim=True)) / (size + small**2) for part, small in parts], -1)


def reckon(places: Tensor, gone: Tensor) -> Tensor:
    """Return the places [..., 4] after going forward and to the left, in STEPs, and turning to the left, in radians (gone: [..., 3])."""
    x, y, cosine, sine = places.split(1, -1)
    forward, left, angle = gone.split(1, -1)
    x, y = x + STEP * (forward * cosine - left * sine), y + STEP * (forward * sine + left * cosine)
    return torch.cat([x, y, cosine * angle.cos() - sine * angle.sin(), cosine * angle.sin() + sine * angle.cos()], -1)


def features(places: Tensor) -> Tensor:
    """Return waves of places [..., 4], from broad to fine: of the position, of the heading, and of the position as seen in that heading; float32."""
    position, heading = places[..., :2].float(), torch.atan2(places[..., 3], places[..., 2]).float()
    turned = torch.cat(along_and_across(position, heading[..., None]), -1)
    octaves = math.pi * 2.0 ** torch.arange(FINEST, device=places.device)
    waves = [
        (position[..., None] * octaves).flatten(-2),
        heading[..., None] * torch.arange(1, HARMONICS + 1, device=places.device),
        (turned[..., None] * octaves[:-1]).flatten(-2),
    ]
    return torch.cat([part for wave in waves for part in (wave.sin(), wave.cos())] + [position], -1)


def rays(places: Tensor, columns: int, reach: float) -> Tensor:
    """Return waves of the rays of a picture's columns, seen from places [..., 4]: [..., columns, NUM_RAY_FEATURES], float32.

    A ray is told by its direction, by the start's position along and across it (on one line of sight only the first changes), and by that position itself.
    `reach` is the tangent of half the field of view.
    """
    side = (torch.arange(columns, device=places.device) + 0.5) * (2 / columns) - 1
    heading = torch.atan2(places[..., 3], places[..., 2]).float()[..., None] - torch.atan(side * reach)
    position = places[..., None, :2].float()
    along, across = along_and_across(position, heading[..., None])
    octaves = math.pi * 2.0 ** torch.arange(RAY_OCTAVES, device=places.device)
    waves = torch.cat(
        [
            along * octaves,
            across * octaves,
            heading[..., None] * 2.0 ** torch.arange(RAY_HARMONICS, device=places.device),
            (position[..., None] * octaves).flatten(-2).expand(*heading.shape, -1),
        ],
        -1,
    )
    side = side[:, None].expand(*heading.shape, 1)
    return torch.cat([waves.sin(), waves.cos(), side, side.square()], -1)


def along_and_across(position: Tensor, heading: Tensor) -> tuple[Tensor, Tensor]:
    """Return positions [..., 2] in axes along a heading [..., 1] and across it, [..., 1] each."""
    x, y = position.split(1, -1)
    return x * heading.cos() + y * heading.sin(), x * heading.sin() - y * heading.cos()
