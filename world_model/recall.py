"""Recall: a world remembers what is seen from where it is.

A window remembers a second of play; what comes into view after a turn was never in it. Where the recorded game told its true places (position, heading, height
of the eye), a world can learn its map (`world_model.memory`). On it the player is followed: a small network reckons from the last actions how far he went and
turned, the map says where walls stopped him, and while he does anything his place is corrected by comparing the frame before with what is remembered from
there: the memory knows how far away everything is, and so by which small step what it remembers would look like that frame (direct image alignment,
arXiv 1607.02565). Motion compensation is given the picture remembered beside the frame before, and takes from either. In play no true place is needed: who
begins somewhere finds his place by looking, and what he sees from then on is what is there.

A place is (x, y, cosine, sine of the heading, height of the eye, that of the frame before, x, y of the step from there), positions from 0 to 1 over the longer
side of the map, heights in that unit from where the eye mostly is: walkers bob, and two heights tell rising from falling; and they glide, which the last step
tells better than any keys do, for it knows of walls. Of an uncertain heading cosine and sine are the means, shorter than 1; shorter than a half the place
counts as unknown.
"""

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from world_model.autoencoder import ResidualPair
from world_model.kept import Kept
from world_model.memory import EYE, Memory

PLACE = 8  # numbers that a place has
PIXELS = 4  # of a remembered picture, along each side of a latent position
UNKNOWN = 0.5
THINNER = 0.85, 0.7, 0.5, 0.3  # than bodies are: as what those pass who would be stuck
STEP = 0.05  # of the map: the unit of what is reckoned
BOB = EYE / 4  # of the map: how far eyes get from where they mostly are; what is reckoned of a swing may grow
UNITS = torch.tensor([0.001, 0.001, 0.005, 0.001])  # of steps ahead and to the left, of turns in radians, of heights
FAR = 10.0  # UNITS that are corrected at once
SURE, STIFF = 0.02, 0.1  # the mean square by which positions may differ in any case; what a step of one unit costs
SWERVE = 0.5  # of what a place is corrected by, this part is due to its last step
DOUBTFUL = 0.2  # the mean square by which frames may differ from what is remembered before they are no longer believed
ATLAS, CORNERS, FINALISTS = 30000, 120, 24  # places whose looks are known; those aligned; of them, to the end
LEADS, FITS = (8, 4, 0), 0.05  # frames that decide among these; the mean square by which a frame differs from what is remembered from its place
APART = 0.025, math.cos(math.radians(15))  # by what part of the map those lie apart, or what at most is the cosine between their headings
ROUGH = 6, 8  # rows and columns of what a place roughly looks like: so coarse that it does from some steps around
GOLDEN_ANGLE = math.pi * (3 - math.sqrt(5))
COARSE = (4,) * 5 + (2,) * 4 + (1,) * 4  # how often places are aligned that are to fit, and how coarse frames are for it
DROPPED = 0.15  # each time this share of them, those that fit the least


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

    fits, swings = FITS, BOB  # as other recalls may have them
    chances = 0  # numbers that are drawn for each frame

    def __init__(self, shape: tuple[int, int, int], told: int, width: int, blocks: int, follow_width: int, field_of_view: float, looks: int = 32) -> None:
        super().__init__()
        self.shape = shape
        self._kept = Kept()
        sizes = (shape[0], looks, 2 * looks, 4 * looks, 4 * looks)
        rows, columns = shape[1:]
        self.look = nn.ModuleList([nn.Conv2d(sizes[0], sizes[1], 3, padding=1)])
        for inputs, outputs in pairwise(sizes[1:]):
            stride = 2 if min(rows, columns) >= 4 else 1
            self.look.append(nn.Conv2d(inputs, outputs, 3, stride, 1))
            rows, columns = -(-rows // stride), -(-columns // stride)
        self._make_reckoning(told)
        self.seen = nn.Linear(sizes[-1] * rows * columns, follow_width)
        self.told = nn.Linear(told, follow_width)
        self.think = nn.Sequential(nn.Linear(follow_width, follow_width), nn.ReLU(), nn.Linear(follow_width, follow_width))
        self.settle = nn.Linear(follow_width, 4)
        self.memory = self._make_memory((PIXELS * shape[1], PIXELS * shape[2]), width, field_of_view)
        enter, leave = nn.Conv2d(3 * PIXELS**2, 2 * looks, 3, padding=1), nn.Conv2d(2 * looks, shape[0], 3, padding=1)
        self.colour = nn.Conv2d(shape[0], 3, 1)
        unshuffled = nn.Identity()  # `encoded` does it; the layers after it keep the names that they have in world files
        self.encode = nn.Sequential(unshuffled, enter, *(ResidualPair(2 * looks) for _ in range(blocks)), leave)
        for last in (self.ego[-1], self.think[-1]):
            nn.init.zeros_(last.weight)  # type: ignore[arg-type]
            nn.init.zeros_(last.bias)  # type: ignore[arg-type]

    def _make_memory(self, size: tuple[int, int], width: int, field_of_view: float) -> Memory:
        return Memory(size, width, field_of_view)

    def _make_reckoning(self, told: int) -> None:
        self.ego = nn.Sequential(nn.Linear(told, 128), nn.ReLU(), nn.Linear(128, 5))  # as `reckon` takes it, but for the last
        self.glide = nn.Parameter(torch.zeros(1))  # that: how much of a step is left in the next

    @property
    def drawn(self) -> list[nn.Module | nn.Parameter]:
        """What is learnt of a map and of how actions move on it; the rest guesses places."""
        return [self.memory, self.encode, self.colour, self.ego, self.glide]

    @property
    def exact(self) -> list[nn.Module]:
        """What computes in float32: what is read from a map are places on it, and few numbers are faster in it."""
        return [self.memory, self.ego]

    @torch.no_grad()
    def follow(self, before: Tensor, actions: Tensor, place: Tensor, others: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the places [b, f, 8], float32, of frames that come in runs of equal length, and what is remembered from there [b, f, c, h, w].

        Args:
            before: the frame before each, [b, f, c, h, w].
            actions: [b, f, history, n], the actions that led to each, its own last.
            place: [b, runs, 8], where the frame before each run was taken, or zeros.
            others: what is known of places besides the player's own [b, f, numbers], in worlds with bodies (`world_model.bodies`).
        """
        known = () if others is None else others.unflatten(1, (place.shape[1], -1)).unbind(2)
        steps = (t.unflatten(1, (place.shape[1], -1)).unbind(2) for t in (before, actions))
        picture = self.remember(place)
        places, pictures = [], []
        for number, (frame, action) in enumerate(zip(*steps, strict=True)):
            place = self.go_on(frame, action, *self.settled(frame, place, picture))
            if known:
                place = torch.cat([place[..., :PLACE], known[number]], -1)
            picture = self.remember(place)
            places.append(place)
            pictures.append(picture)
        return torch.stack(places, 2).flatten(1, 2), torch.stack(pictures, 2).flatten(1, 2)[:, :, :-1]

    @torch.no_grad()
    def find(self, seen: Tensor, actions: Tensor) -> Tensor:
        """Return the places [b, 1, 8] of the last of some frames [b, f, c, h, w], at least two, that the actions [b, f, history, n] led to.

        As much looks alike in a maze, this is done for a frame before the last, and that place is taken from which what comes after it is seen, too. Where
        nothing fits then, it is done for later frames.
        """
        found = []
        for frames, told in zip(seen.float(), actions, strict=True):
            tried: list[tuple[float, Tensor]] = []
            for at in sorted({max(1, len(frames) - 1 - lead) for lead in LEADS}):
                place = self._fit(self._find(frames, told, at), frames[-1])
                tried.append((self._misfit(place, frames[-1]).item(), place[0]))
                if tried[-1][0] < self.fits:
                    break
            found.append(min(tried, key=lambda one: one[0])[1])
        return torch.stack(found)

    def _find(self, frames: Tensor, actions: Tensor, at: int) -> Tensor:
        """Return the place [1, 1, 8] of the last of frames [f, c, h, w], sought for the frame `at`; other arguments as in `find`, of one clip.

        Of places everywhere it is known what they roughly look like. Those that look most like that frame, each in another corner, are aligned until they fit.
        """
        guess = self.guess(frames[None, at - 1 : at], actions[None, at : at + 1])[0, 0]
        places = self._candidates(frames[at], guess, self._pace(actions[: at + 1]))
        misfits = self._misfit(places, frames[at])
        if len(after := frames[at + 1 :]):
            many = (len(places), -1, -1, -1, -1)
            places, pictures = self.follow(frames[None, at:-1].expand(many), actions[None, at + 1 :].expand(many[:-1]), places)
            misfits = misfits.clamp(max=1) + (pictures - after).square().mean((2, 3, 4)).clamp(max=1).sum(1)
        return places[misfits.argmin(), -1:][None]

    def _misfit(self, places: Tensor, seen: Tensor) -> Tensor:
        """Return the mean square [n] by which what is remembered from places [n, 1, 8] differs from a frame [c, h, w]."""
        return (self.remember(places)[:, 0, :-1] - seen).square().mean((1, 2, 3))

    def _pace(self, actions: Tensor) -> Tensor:
        """Return the last step, ahead and to the left [2], of who stood still before the actions [f, history, n] and met no wall since."""
        place = actions.new_tensor([[0.0, 0.0, 1.0] + [0.0] * (PLACE - 3)])
        for gone in self._gone(actions.flatten(1)[None])[0]:
            place = reckon(place, gone)
        return turned(place[0, 6:], place[0, 2:4] * place.new_tensor([1, -1]))

    def _candidates(self, picture: Tensor, guess: Tensor, pace: Tensor) -> Tensor:
        """Return some places [n, 1, 8] from where a latent frame [c, h, w] may have been taken.

        `guess` [8] is one that is not good enough, `pace` [2] the last step that led there, ahead and to the left.
        """
        colours = self.colour(picture[None].to(self.colour.weight.dtype)).float()
        guess = torch.cat([guess[:2], F.normalize(guess[2:4], dim=0), torch.zeros_like(guess[4:])])
        places = self._fit(self._alike(colours, guess)[:, None], picture)
        return torch.cat([places[..., :5], places[..., 4:5], turned(pace, places[..., 2:4])], -1)

    def _alike(self, colours: Tensor, guess: Tensor) -> Tensor:
        """Return the place guessed [8] and others [n, 8], each in another corner, from where it roughly looks like the colours [1, 3, h, w] of a frame."""
        places, looks = self.atlas()
        order = (looks - self._rough(colours)).square().mean(1).argsort()[: 10 * CORNERS]
        near = torch.cdist(places[order, :2], places[order, :2]) < APART[0]
        alike = (near & (places[order, 2:4] @ places[order, 2:4].mT > APART[1])).cpu().numpy()
        chosen: list[int] = []
        for number, row in enumerate(alike):
            if len(chosen) < CORNERS and not row[chosen].any():
                chosen.append(number)
        return torch.cat([guess[None], places[order[chosen]]])

    def atlas(self) -> tuple[Tensor, Tensor]:
        """Return places wherever somebody can stand [n, 8], their headings a golden angle apart, and what they roughly look like [n, d]; made once."""

        def look_around() -> tuple[Tensor, Tensor]:
            stands = self.memory.stands()
            stands = stands[torch.linspace(0, max(0, len(stands) - 1), min(ATLAS, 8 * len(stands)), device=stands.device).long()]
            angles = GOLDEN_ANGLE * torch.arange(len(stands), device=stands.device)[:, None]
            places = F.pad(torch.cat([stands, along(angles)], 1), (0, PLACE - 4))
            rows, columns = max(1, self.shape[1] // 2), max(1, self.shape[2] // 2)
            looks = [self._rough(self.memory(some, (rows, columns))[0]) for some in places.split(512)]
            return places, torch.cat(looks)

        return self._kept("atlas", look_around, *self.memory.parameters())

    @staticmethod
    def _rough(colours: Tensor) -> Tensor:
        """Return pictures [n, 3, h, w] so coarse that places nearby look alike: [n, d]."""
        return F.adaptive_avg_pool2d(colours.float(), ROUGH).flatten(1)

    def _fit(self, places: Tensor, seen: Tensor) -> Tensor:
        """Return the places [n, 1, 8] near `places` from where a frame [c, h, w] is what is remembered, aligned from coarse to fine: FINALISTS at most."""
        for coarse in COARSE:
            views = self.remember(places)
            apart = F.avg_pool2d(views[:, 0, :-1] - seen, min(coarse, *self.shape[1:])).square().mean((1, 2, 3))
            kept = apart.argsort()[: max(FINALISTS, round((1 - DROPPED) * len(apart)))]
            places = self.align(places[kept], seen.expand(len(kept), 1, -1, -1, -1), views[kept], coarse)
        return places

    def expect(self, actions: Tensor, place: Tensor, chance: Tensor | None = None) -> Tensor:
        """Return the reckoned places [b, f, 8] of frames to come; `place` [b, 1, 8] is that of the frame before."""
        gone = self._gone(actions.flatten(2))
        return torch.cat([place := self.walk(place, step) for step in gone.split(1, 1)], 1)

    def walk(self, places: Tensor, gone: Tensor) -> Tensor:
        """Return the reckoned places [..., 8]; who would walk into a wall slides along it, and bobs as much less as he gets on less."""
        reckoned = reckon(places, gone)
        slid = self._slide(places, reckoned)
        step, wanted = ((to - places)[..., :2] for to in (slid, reckoned))
        got_on = (step.norm(dim=-1, keepdim=True) / wanted.norm(dim=-1, keepdim=True).clamp(min=1e-6)).clamp(max=1)
        return torch.cat([slid[..., :4], slid[..., 4:5] * got_on, slid[..., 5:6], step], -1)

    def _slide(self, places: Tensor, moved: Tensor) -> Tensor:
        """Return the places `moved` [..., 8], except that nobody gets from `places` into a wall: as far as one is in the way he stays, along x or y."""
        x, y, *rest = moved.split((1, 1, PLACE - 2), -1)
        ways = torch.stack([places[..., :2], torch.cat([places[..., :1], y], -1), torch.cat([x, places[..., 1:2]], -1), moved[..., :2]], -2)
        free, position = self.memory.is_free(ways), ways[..., 0, :]
        for body in THINNER:  # who stands nearer to a wall than bodies come, by this map, comes no nearer to any
            if bool(free[..., 0].all()):
                break
            free = torch.where(free[..., :1], free, self.memory.is_free(ways, body))
        for way in (1, 2, 3):
            position = torch.where(free[..., way, None], ways[..., way, :], position)
        return torch.cat([torch.where(free[..., :1], position, moved[..., :2]), *rest], -1)  # where the map is wrong, anybody may go anywhere

    def _gone(self, actions: Tensor) -> Tensor:
        """Return how far actions [b, f, history * n] take the player (`reckon`), float32; who does nothing comes to rest."""
        gone, rest = self.ego(F.pad(actions, (0, 0, 0, 1)).to(next(self.ego.parameters()).dtype)).float().split((actions.shape[1], 1), 1)
        gone = (gone - rest) * actions.any(-1, keepdim=True)
        return torch.cat([gone, self.glide.float().expand_as(gone[..., :1])], -1)

    def settled(self, before: Tensor, place: Tensor, picture: Tensor) -> tuple[Tensor, Tensor]:
        """Return where frames were taken [b, runs, 8], as it was reckoned and as the frames show it; this takes no action to know.

        Args:
            before: the frames, [b, runs, c, h, w].
            place: where they are said to have been taken, [b, runs, 8], or zeros.
            picture: what is remembered from there.
        """
        position, heading, heights, step = place.split(2, -1)
        heading = heading / heading.norm(dim=-1, keepdim=True).clamp(min=1)
        place = torch.cat([position.clamp(-0.5, 1.5), heading, heights.clamp(-self.swings, self.swings), step.clamp(-STEP, STEP)], -1)
        doubt = (before - picture[:, :, :-1]).float().square().mean((2, 3, 4)) / DOUBTFUL
        aligned = torch.lerp(place, self.align(place, before, picture), 1 / (1 + doubt.square())[..., None])
        return place, self._slide(place, aligned)

    def go_on(self, before: Tensor, action: Tensor, place: Tensor, shown: Tensor, chance: Tensor | None = None) -> Tensor:
        """Return the places [b, runs, 8] of the frames after `before` [b, runs, c, h, w] under an action [b, runs, history, n].

        `place` and `shown` are what `settled` said of the frames before.

        Who does nothing is where he was. His picture follows the place by which it is remembered: aligned with each other both would be carried off.
        """
        known = self._known(place)
        pressed = action.flatten(2).any(-1, keepdim=True)
        moved = self.walk(shown, self._gone(action.flatten(2)))
        place = torch.where(pressed, moved, F.pad(place[..., :6], (0, 2)))
        return place if bool(known.all()) else torch.where(known, place, self.guess(before, action))

    @staticmethod
    def _known(place: Tensor) -> Tensor:
        """Return whether places [..., 8] are known, [..., 1]."""
        return place[..., 2:4].square().sum(-1, keepdim=True) > UNKNOWN**2

    def guess(self, before: Tensor, action: Tensor) -> Tensor:
        """Return the places [b, runs, 8] of frames of which only the frame before and the actions are known; arguments as in `go_on`."""
        told = self.told(action.flatten(2).to(self.told.weight.dtype))
        x = before.flatten(0, 1).to(told.dtype).contiguous(memory_format=torch.channels_last)
        for look in self.look:
            x = F.relu(look(x))
        y = F.relu(self.seen(x.flatten(1)).unflatten(0, told.shape[:2]) + told)
        position = self.settle(F.relu(y + self.think(y))).float()
        return F.pad(position, (0, PLACE - position.shape[-1]))

    def align(self, place: Tensor, before: Tensor, picture: Tensor, coarse: int = 1) -> Tensor:
        """Return the places [b, runs, 8] from where what is remembered looks more like the frames before: one Gauss-Newton step from `place`.

        Arguments as in `settled`; seen `coarse` frames show the way from farther off. Positions that do not look like it at all have little to say.
        """
        with torch.autocast(before.device.type, enabled=False):
            coarse = min(coarse, *self.shape[1:])
            picture, before = (frames.float().flatten(0, 1) for frames in (picture, before))
            if coarse > 1:
                picture, before = (F.avg_pool2d(frames, coarse) for frames in (picture, before))
            seen, inverse = picture[:, :-1], picture[:, -1:]
            apart = before - seen
            error = apart.square().mean(1, keepdim=True)
            weight = 1 / (1 + error / (3 * error.mean((1, 2, 3), keepdim=True) + SURE))
            steps = self.memory.steps(seen, inverse) * UNITS.to(seen)[:, None, None, None]
            pulled = (steps * weight[:, None]).flatten(2)
            normal = pulled @ steps.flatten(2).mT + STIFF * torch.eye(4, device=apart.device)
            step = torch.linalg.solve(normal, pulled @ apart.flatten(1)[..., None])[..., 0]
            step = FAR * torch.tanh(step / FAR) * UNITS.to(step)
            shift, angle, up = step.unflatten(0, place.shape[:2]).split((2, 1, 1), -1)
        return self._moved(place, shift, angle, up)

    def _moved(self, place: Tensor, shift: Tensor, angle: Tensor, up: Tensor) -> Tensor:
        """Return places [..., 8] corrected by a shift ahead and to the left [..., 2], a turn to the left and a rise [..., 1]."""
        position, heading, height, earlier, last = place.split((2, 2, 1, 1, 2), -1)
        shift = turned(shift, heading)
        return torch.cat([position + shift, turned(heading, along(angle)), height + up, earlier, last + SWERVE * shift], -1)

    def remembers(self) -> Tensor | float:
        """Return how much of a frame can be remembered: all, or a share for each position [1, 1, h, w]."""
        return 1.0

    @torch.no_grad()
    def remember(self, places: Tensor) -> Tensor:
        """Return what is remembered from places [..., 8], float32; it learns from recorded frames alone.

        [..., c + 1, h, w]: latent frames, and the inverse depth at each of their positions.
        """
        pictures, inverse = self.memory(places.flatten(0, -2))
        views = torch.cat([self.encoded(pictures).float(), F.avg_pool2d(inverse, PIXELS)], 1)
        return views.unflatten(0, places.shape[:-1])

    def encoded(self, pictures: Tensor) -> Tensor:
        """Return the latent frames [n, c, h, w] of remembered pictures [n, 3, height, width]."""
        patches = pictures.unflatten(3, (-1, PIXELS)).unflatten(2, (-1, PIXELS)).permute(0, 2, 4, 1, 3, 5)  # [n, h, w, 3, PIXELS, PIXELS]
        patches = patches.to(self.told.weight.dtype, memory_format=torch.contiguous_format)  # as `F.pixel_unshuffle`, but all in one copy
        return self.encode(patches.flatten(3).permute(0, 3, 1, 2))


def reckon(places: Tensor, gone: Tensor) -> Tensor:
    """Return the places [..., 8] after going forward and to the left, in STEPs, and turning to the left, in radians (gone: [..., 6]).

    The others of `gone` say by what parts of the two heights known the height changes, so bodies swing, and what part of the last step is made once more.
    """
    position, heading, height, earlier, last = places.split((2, 2, 1, 1, 2), -1)
    own, angle, goes_on, comes_back, glides = gone.split((2, 1, 1, 1, 1), -1)
    step = glides * last + STEP * turned(own, heading)
    heading = turned(heading, along(angle))
    return torch.cat([position + step, heading, height + goes_on * height + comes_back * earlier, height, step], -1)


def along(angle: Tensor) -> Tensor:
    """Return the headings [..., 2] (cosine, sine) of angles in radians [..., 1]."""
    return torch.cat([angle.cos(), angle.sin()], -1)


def turned(steps: Tensor, heading: Tensor) -> Tensor:
    """Return steps ahead and to the left [..., 2] of who looks along a heading [..., 2] (cosine, sine) as steps along x and y."""
    (ahead, left), (cosine, sine) = steps.split(1, -1), heading.split(1, -1)
    return torch.cat([ahead * cosine - left * sine, ahead * sine + left * cosine], -1)
