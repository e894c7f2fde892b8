"""Recall: a world remembers what is seen from where it is.

A window remembers a second of play; what comes into view after a turn was never in it. Where the recorded game told its true places (position, heading, height
of the eye), a world can learn its map (`world_model.memory`). On it the player is followed: a small network reckons from the last actions how far he went and
turned, the map says where walls stopped him, and while he does anything his place is corrected by comparing the frame before with what is remembered from
there: the memory knows how far away everything is, and so by which small step what it remembers would look like that frame (direct image alignment,
arXiv 1607.02565). Motion compensation is given the picture remembered beside the frame before, and takes from either. In play no true place is needed: who
begins somewhere finds his place by looking, and what he sees from then on is what is there.

A place is (x, y, cosine, sine of the heading, height of the eye, that of the frame before), positions from 0 to 1 over the longer side of the map, heights in
that unit from where the eye mostly is: walkers bob, and two heights tell rising from falling. Of an uncertain heading cosine and sine are the means, shorter
than 1; shorter than a half the place counts as unknown.
"""

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from world_model.autoencoder import ResidualPair
from world_model.memory import EYE, Memory, from_map

PLACE = 6  # numbers that a place has
PIXELS = 4  # of a remembered picture, along each side of a latent position
UNKNOWN = 0.5
STEP = 0.05  # of the map: the unit of what is reckoned
BOB = EYE / 4  # of the map: how far eyes get from where they mostly are; what is reckoned of a swing may grow
UNITS = torch.tensor([0.001, 0.001, 0.005, 0.001])  # of steps ahead and to the left, of turns in radians, of heights
FAR = 10.0  # UNITS that are corrected at once
SURE, STIFF = 0.02, 0.1  # the mean square by which positions may differ in any case; what a step of one unit costs
DOUBTFUL = 0.2  # the mean square by which frames may differ from what is remembered before they are no longer believed
AROUND = torch.tensor([1.8, 1.8, 0.8, 0.0, 0.0])  # a guess other places are tried, as `reckon` takes them
TRIES, FINALISTS, LEAD = 1500, 32, 8  # places tried near a guess, and as many anywhere; those that are aligned; frames that tell them apart
COARSE = 4, 4, 4, 2, 2, 2, 1, 1, 1  # how often places are aligned that are to fit, and how coarse frames are for it


class Recall(nn.Module):
    """Follow places, and remember latent frames by them.

    Args:
        shape: [channels, height, width] of a latent frame.
        told: how many numbers the actions of a frame's history are.
        width: texels along the longer side of the memory's map.
        blocks: residual pairs of the convolutions that make latents of remembered pictures.
        follow_width: of the network that guesses places.
        field_of_view: of the pictures, horizontal, in degrees.
        looks: channels of its convolutions.
    """

    def __init__(self, shape: tuple[int, int, int], told: int, width: int, blocks: int, follow_width: int, field_of_view: float, looks: int = 32) -> None:
        super().__init__()
        self.shape = shape
        sizes = (shape[0], looks, 2 * looks, 4 * looks, 4 * looks)
        rows, columns = shape[1:]
        self.look = nn.ModuleList([nn.Conv2d(sizes[0], sizes[1], 3, padding=1)])
        for inputs, outputs in pairwise(sizes[1:]):
            stride = 2 if min(rows, columns) >= 4 else 1
            self.look.append(nn.Conv2d(inputs, outputs, 3, stride, 1))
            rows, columns = -(-rows // stride), -(-columns // stride)
        self.ego = nn.Sequential(nn.Linear(told, 128), nn.ReLU(), nn.Linear(128, 5))  # as `reckon` takes it
        self.seen = nn.Linear(sizes[-1] * rows * columns, follow_width)
        self.told = nn.Linear(told, follow_width)
        self.think = nn.Sequential(nn.Linear(follow_width, follow_width), nn.ReLU(), nn.Linear(follow_width, follow_width))
        self.settle = nn.Linear(follow_width, 4)
        self.memory = Memory((PIXELS * shape[1], PIXELS * shape[2]), width, field_of_view)
        enter, leave = nn.Conv2d(3 * PIXELS**2, 2 * looks, 3, padding=1), nn.Conv2d(2 * looks, shape[0], 3, padding=1)
        self.colour = nn.Conv2d(shape[0], 3, 1)
        self.encode = nn.Sequential(nn.PixelUnshuffle(PIXELS), enter, *(ResidualPair(2 * looks) for _ in range(blocks)), leave)
        for last in (self.ego[2], self.think[2]):  # type: ignore[index]
            nn.init.zeros_(last.weight)  # type: ignore[arg-type]
            nn.init.zeros_(last.bias)  # type: ignore[arg-type]

    @torch.no_grad()
    def follow(self, before: Tensor, actions: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
        """Return the places [b, f, 6], float32, of frames that come in runs of equal length, and what is remembered from there [b, f, c, h, w].

        Args:
            before: the frame before each, [b, f, c, h, w].
            actions: [b, f, history, n], the actions that led to each, its own last.
            place: [b, runs, 6], where the frame before each run was taken, or zeros.
        """
        steps = (t.unflatten(1, (place.shape[1], -1)).unbind(2) for t in (before, actions))
        picture = self.remember(place)
        places, pictures = [], []
        for frame, action in zip(*steps, strict=True):
            place = self.seek(frame, action, place, picture)
            picture = self.remember(place)
            places.append(place)
            pictures.append(picture)
        return torch.stack(places, 2).flatten(1, 2), torch.stack(pictures, 2).flatten(1, 2)[:, :, :-1]

    @torch.no_grad()
    def find(self, seen: Tensor, actions: Tensor) -> Tensor:
        """Return the places [b, 1, 6] of the last of some frames [b, f, c, h, w], at least two, that the actions [b, f, history, n] led to.

        Around what a network guesses, and everywhere where one can be, many places are tried by their colours alone, and the best aligned until they fit. As
        much looks alike in a maze, this is done for a frame before the last, and that place is taken from which what comes after it is seen, too.
        """
        lead = min(LEAD, seen.shape[1] - 2)
        at = seen.shape[1] - 1 - lead
        guessed, found = self.guess(seen[:, at - 1 : at], actions[:, at : at + 1])[:, 0], []
        for frames, told, guess in zip(seen.float(), actions, guessed, strict=True):
            places = self._candidates(frames[at], guess)
            misfits = (self.remember(places)[:, :, :-1] - frames[at]).square().mean((1, 2, 3, 4))
            if lead:
                after = frames[None, at + 1 :].expand(len(places), -1, -1, -1, -1)
                places, pictures = self.follow(frames[None, at:-1].expand_as(after), told[None, at + 1 :].expand(len(places), -1, -1, -1), places)
                misfits = misfits + (pictures - after).square().mean((2, 3, 4)).sum(1)
            found.append(places[misfits.argmin(), -1:])
        place = torch.stack(found)
        return self._fit(place, seen[:, -1:]) if lead else place

    def _candidates(self, picture: Tensor, guess: Tensor) -> Tensor:
        """Return some places [n, 1, 6] from where a latent frame [c, h, w] may have been taken; `guess` [6] is one that is not good enough."""
        draw = torch.Generator().manual_seed(0)
        near = torch.cat([2 * torch.rand(TRIES, 3, generator=draw) - 1, torch.zeros(TRIES, 2)], 1).to(guess) * AROUND.to(guess)
        guess = torch.cat([guess[:2], F.normalize(guess[2:4], dim=0), torch.zeros_like(guess[4:])])
        free = (self.memory.matter[0, 0] < 0).nonzero().flip(1)
        cells = free[torch.randint(len(free), (TRIES,), generator=draw).to(free.device)] if len(free) else free
        angles = 2 * math.pi * torch.rand(len(cells), 1, generator=draw).to(guess)
        anywhere = torch.cat([from_map((cells + 0.5) / self.memory.matter.shape[-1]), angles.cos(), angles.sin(), angles * 0, angles * 0], 1)
        places = torch.cat([guess[None], reckon(guess.expand(TRIES, -1), near), anywhere.to(guess)])
        colours = self.colour(picture[None].to(self.colour.weight.dtype)).float()
        misfits = [F.avg_pool2d(self.memory(some, self.shape[1:])[:, :3] - colours, 2).square().mean((1, 2, 3)) for some in places.split(256)]  # type: ignore[arg-type]
        places = places[torch.cat(misfits).argsort()[:FINALISTS], None]
        places = self._fit(places, picture.expand(len(places), 1, -1, -1, -1))
        return torch.cat([places[..., :5], places[..., 4:5]], -1)

    def _fit(self, places: Tensor, seen: Tensor) -> Tensor:
        """Return the places [b, runs, 6] near `places` from where what is remembered looks like frames [b, runs, c, h, w]: aligned from coarse to fine."""
        for coarse in COARSE:
            places = self.align(places, seen, self.remember(places), coarse)
        return places

    def expect(self, actions: Tensor, place: Tensor) -> Tensor:
        """Return the reckoned places [b, f, 6] of frames to come; `place` [b, 1, 6] is that of the frame before."""
        gone = self._gone(actions.flatten(2).to(self.told.weight.dtype))
        return torch.cat([place := self.walk(place, step) for step in gone.split(1, 1)], 1)

    def walk(self, places: Tensor, gone: Tensor) -> Tensor:
        """Return the reckoned places [..., 6]; who would walk into a wall slides along it, and bobs as much less as he gets on less."""
        reckoned = reckon(places, gone)
        slid = self._slide(places, reckoned)
        way, wanted = ((to - places)[..., :2].norm(dim=-1, keepdim=True) for to in (slid, reckoned))
        return torch.cat([slid[..., :4], slid[..., 4:5] * (way / wanted.clamp(min=1e-6)).clamp(max=1), slid[..., 5:]], -1)

    def _slide(self, places: Tensor, moved: Tensor) -> Tensor:
        """Return the places `moved` [..., 6], except that nobody gets from `places` into a wall: as far as one is in the way he stays, along x or y."""
        x, y, *rest = moved.split((1, 1, PLACE - 2), -1)
        ways = torch.stack([places[..., :2], torch.cat([places[..., :1], y], -1), torch.cat([x, places[..., 1:2]], -1), moved[..., :2]], -2)
        free, position = self.memory.is_free(ways), ways[..., 0, :]
        for way in (1, 2, 3):
            position = torch.where(free[..., way, None], ways[..., way, :], position)
        return torch.cat([torch.where(free[..., :1], position, moved[..., :2]), *rest], -1)  # where the map is wrong, anybody may go anywhere

    def _gone(self, actions: Tensor) -> Tensor:
        """Return how far actions [b, f, history * n] take the player (`reckon`), float32; who does nothing stays where he is."""
        return (self.ego(actions).float() - self.ego(torch.zeros_like(actions[:1, :1])).float()) * actions.any(-1, keepdim=True)

    def seek(self, before: Tensor, action: Tensor, place: Tensor, picture: Tensor) -> Tensor:
        """Return the places [b, runs, 6] of the frames after `before` [b, runs, c, h, w]; `picture` is what is remembered from where these were taken.

        Who does nothing is where he was. His picture follows the place by which it is remembered: aligned with each other both would be carried off.
        Arguments as in `follow`, of a single frame in each run.
        """
        position, heading, heights = place.split(2, -1)
        heading = heading / heading.norm(dim=-1, keepdim=True).clamp(min=1)
        place = torch.cat([position.clamp(-0.5, 1.5), heading, heights.clamp(-BOB, BOB)], -1)
        known = heading.square().sum(-1, keepdim=True) > UNKNOWN**2
        pressed = action.flatten(2).any(-1, keepdim=True)
        doubt = (before - picture[:, :, :-1]).float().square().mean((2, 3, 4)) / DOUBTFUL
        aligned = torch.lerp(place, self.align(place, before, picture), 1 / (1 + doubt.square())[..., None])
        moved = self.walk(self._slide(place, aligned), self._gone(action.flatten(2).to(self.told.weight.dtype)))
        place = torch.where(pressed, moved, place)
        return place if bool(known.all()) else torch.where(known, place, self.guess(before, action))

    def guess(self, before: Tensor, action: Tensor) -> Tensor:
        """Return the places [b, runs, 6] of frames of which only the frame before and the actions are known; arguments as in `seek`."""
        told = self.told(action.flatten(2).to(self.told.weight.dtype))
        x = before.flatten(0, 1).to(told.dtype).contiguous(memory_format=torch.channels_last)
        for look in self.look:
            x = F.relu(look(x))
        y = F.relu(self.seen(x.flatten(1)).unflatten(0, told.shape[:2]) + told)
        position = self.settle(F.relu(y + self.think(y))).float()
        return F.pad(position, (0, PLACE - position.shape[-1]))

    def align(self, place: Tensor, before: Tensor, picture: Tensor, coarse: int = 1) -> Tensor:
        """Return the places [b, runs, 6] from where what is remembered looks more like the frames before: one Gauss-Newton step from `place`.

        Arguments as in `seek`; seen `coarse` frames show the way from farther off. Positions that do not look like it at all have little to say.
        """
        with torch.autocast(before.device.type, enabled=False):
            coarse = min(coarse, *self.shape[1:])
            picture, before = (F.avg_pool2d(frames.float().flatten(0, 1), coarse) for frames in (picture, before))
            seen, inverse = picture.split((self.shape[0], 1), 1)
            apart = before - seen
            error = apart.square().mean(1, keepdim=True)
            weight = 1 / (1 + error / (3 * error.mean((1, 2, 3), keepdim=True) + SURE))
            steps = self.memory.steps(seen, inverse) * UNITS.to(seen)[:, None, None, None]
            pulled = (steps * weight[:, None]).flatten(2)
            normal = pulled @ steps.flatten(2).mT + STIFF * torch.eye(4, device=apart.device)
            step = torch.linalg.solve(normal, pulled @ apart.flatten(1)[..., None])[..., 0]
            step = FAR * torch.tanh(step / FAR) * UNITS.to(step)
            forward, left, turned, up = step.unflatten(0, place.shape[:2]).split(1, -1)
        moved = reckon(place, torch.cat([forward / STEP, left / STEP, turned, torch.zeros_like(turned), torch.zeros_like(turned)], -1))
        return torch.cat([moved[..., :4], place[..., 4:5] + up, place[..., 5:]], -1)

    @torch.no_grad()
    def remember(self, places: Tensor) -> Tensor:
        """Return what is remembered from places [..., 6], float32; it learns from recorded frames alone.

        [..., c + 1, h, w]: latent frames, and the inverse depth at each of their positions.
        """
        pictures = self.memory(places.flatten(0, -2))
        views = torch.cat([self.encoded(pictures[:, :3]).float(), F.avg_pool2d(pictures[:, 3:], PIXELS)], 1)
        return views.unflatten(0, places.shape[:-1])

    def encoded(self, pictures: Tensor) -> Tensor:
        """Return the latent frames [n, c, h, w] of remembered pictures [n, 3, height, width]."""
        return self.encode(pictures.to(self.told.weight.dtype).contiguous(memory_format=torch.channels_last))


def reckon(places: Tensor, gone: Tensor) -> Tensor:
    """Return the places [..., 6] after going forward and to the left, in STEPs, and turning to the left, in radians (gone: [..., 5]).

    The last two of `gone` say by what parts of the two heights known the height changes: so bodies swing.
    """
    x, y, cosine, sine, height, earlier = places.split(1, -1)
    forward, left, angle, goes_on, comes_back = gone.split(1, -1)
    x, y = x + STEP * (forward * cosine - left * sine), y + STEP * (forward * sine + left * cosine)
    turned = cosine * angle.cos() - sine * angle.sin(), cosine * angle.sin() + sine * angle.cos()
    return torch.cat([x, y, *turned, height + goes_on * height + comes_back * earlier, height], -1)
