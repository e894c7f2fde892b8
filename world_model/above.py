"""A memory of places seen from above, and who drives there: the ground, and a body in the middle of the picture that heads upwards.

A picture is remembered by looking up the ground under each of its pixels, turned and shifted as the body is: there is no depth, and a road seen from anywhere
is one road. What turns and moves with the body (itself, a panel) lies over it. Who drives has momentum: his next step and turn follow from his last, and from
his actions as far as they can change them.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from world_model.kept import Kept
from world_model.memory import SCALE, Covered, from_map, look_up, middles, on_map
from world_model.recall import STEP, SWERVE, Recall, along, turned

ABOVE_GROUND = -3.0  # how much of a picture moves with the body, before anything is learnt, as a logit
TURN = 0.1  # radians, the unit of turns in what is reckoned of a drive
PACE = STEP / 5  # of the map, that of steps
SOUGHT = 3072  # places in the atlas that are tried
SEARCH = (512, 4, 0.008, 2), (256, 6, 0.006, 2), (128, 8, 0.004, 2), (48, 12, 0.002, 1), (24, 0, 0.0, 1)  # kept; tried near each; how near; pixels
TURNS = 20.0  # radians by which these are turned, to how far on the map they are moved
AGAIN = 4  # times that a place is fitted to the frame before
FENCE = 0.06  # of the map: from its ends to the fence around what is known well
FASTEST = 0.5  # radians in a frame


class Ground(Covered):
    """Remember pictures by the places above which they were taken, as `world_model.memory.Memory` does.

    Args:
        size: (height, width) of a picture.
        width: texels along the longer side of the map.
    """

    covering = 0.005

    def __init__(self, size: tuple[int, int], width: int) -> None:
        super().__init__()
        self._kept = Kept()
        self.size = size
        self.ground = nn.Parameter(torch.zeros(1, 3, width, width))
        self.cover = nn.Parameter(torch.zeros(1, 3, *size))  # what moves with the body
        self.covers = nn.Parameter(torch.zeros(1, 1, *size))  # where; zeros until there is a map
        self.view = nn.Parameter(torch.zeros(3))  # logarithms of half a picture's width and height, of the map; how far below its middle the body is
        self.been = nn.Parameter(torch.zeros(2 * (max(1, width // 8),)))  # 1 where somebody has been; it learns nothing

    @property
    def begun(self) -> bool:
        """Whether it has begun to learn a map."""
        return bool(self.covers.any())

    @torch.no_grad()
    def begin(self, positions: Tensor, view: tuple[float, float, float], colour: Tensor) -> None:
        """Begin to learn a map on which somebody has been at these positions [n, 2]; where nobody looks it will keep a colour [3].

        `view` tells a picture's width and height, in parts of the map, and how far from its lower edge the body is, in parts of that.
        """
        width, height, below = view
        cells = len(self.been)
        column, row = ((on_map(positions) + 1) / 2 * cells).long().clamp(0, cells - 1).unbind(1)
        self.been[row, column] = 1
        self.view.copy_(torch.tensor([math.log(width / 2), math.log(height / 2), 1 - 2 * below]))
        self.ground.copy_(colour[:, None, None])
        self.cover.copy_(colour[:, None, None])
        self.covers.fill_(ABOVE_GROUND)

    def forward(self, places: Tensor, size: tuple[int, int] | None = None) -> tuple[Tensor, Tensor]:
        """Return what is remembered from places [n, 8]: pictures [n, 3, height, width], and how much of each pixel is ground [n, 1, height, width], float32.

        Red, green and blue go from about -1 to 1. `size` is that of the pictures, if not the usual one.
        """
        height, width = size or self.size
        with torch.autocast(places.device.type, enabled=False):
            position, heading = places[:, :2].float(), F.normalize(places[:, 2:4].float(), dim=-1, eps=1e-6)
            right, ahead = self._offsets(height, width)
            (cosine, sine), (x, y) = heading.T[..., None, None], on_map(position).T[..., None, None]  # [n, 1, 1] each
            ground = look_up(self.ground, torch.stack([x + cosine * ahead + sine * right, y + sine * ahead - cosine * right])).transpose(0, 1)
            cover, bare = self._covering(height, width)
            return torch.lerp(cover, ground, bare), bare.expand(len(places), -1, -1, -1)

    def steps(self, seen: Tensor, bare: Tensor) -> Tensor:
        """Return how pictures [n, c, h, w], of which so much is ground [n, 1, h, w], change with each step of who sees them: [n, 4, c, h, w].

        The steps are ahead, to the left, a turn to the left (in radians) and up, which changes nothing; pictures may have any resolution.
        """
        height, width = seen.shape[2:]
        right, ahead = (offset / SCALE for offset in self._offsets(height, width))
        around = F.pad(seen, (1, 1, 1, 1), mode="replicate")
        half_width, half_height = self.view[:2].exp()
        to_right = (around[..., 1:-1, 2:] - around[..., 1:-1, :-2]) * (width / 4 / half_width) * bare
        onwards = (around[..., :-2, 1:-1] - around[..., 2:, 1:-1]) * (height / 4 / half_height) * bare
        return torch.stack([onwards, -to_right, right * onwards - ahead * to_right, torch.zeros_like(seen)], 1)

    @torch.no_grad()
    def stands(self) -> Tensor:
        """Return positions [n, 2] all over where somebody has been."""
        return from_map((2 * self.been.nonzero().flip(1) + 1) / len(self.been) - 1)

    def _offsets(self, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Return how far the pixels of a picture are to the right of the body, [1, width], and ahead of it, [height, 1]; the map goes from -1 to 1."""

        def offsets() -> tuple[Tensor, Tensor]:
            half_width, half_height = SCALE * self.view[:2].exp()
            columns, rows = (middles(pixels, self.view.device) for pixels in (width, height))
            return half_width * columns[None], half_height * (self.view[2] - rows)[:, None]

        return self._kept(("offsets", height, width), offsets, self.view)


class RecallFromAbove(Recall):
    """Follow drivers seen from above, and remember latent frames by their places. In these the last turn, in radians, stands for the eye's height."""

    memory: Ground  # type: ignore[assignment]
    fits, swings = 0.02, FASTEST  # roads look alike

    def _make_memory(self, size: tuple[int, int], width: int, field_of_view: float) -> Ground:  # type: ignore[override]
        return Ground(size, width)

    def _make_reckoning(self, told: int) -> None:
        """Make `ego`: of the actions told, the last step and turn it makes what the next ones have more."""
        self.ego = nn.Sequential(nn.Linear(told + 3, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 3))

    @property
    def drawn(self) -> list[nn.Module | nn.Parameter]:
        return [self.memory, self.encode, self.colour, self.ego]

    @torch.no_grad()
    def remembers(self) -> Tensor:
        return self.memory.bare(*self.shape[1:])

    def drive(self, places: Tensor, actions: Tensor) -> Tensor:
        """Return the places [..., 8] one frame after others, for actions [..., history * n]."""
        position, heading, turn, _, step = places.split((2, 2, 1, 1, 2), -1)
        ahead = turned(step, heading * heading.new_tensor([1, -1])) / PACE
        known = torch.cat([actions.float(), ahead, turn / TURN], -1)
        more = self.ego(known.to(next(self.ego.parameters()).dtype)).float()
        step, turn = turned(PACE * (ahead + more[..., :2]), heading), turn + TURN * more[..., 2:]
        moved = (position + step).clamp(FENCE, 1 - FENCE)
        return torch.cat([moved, turned(heading, along(turn)), turn, torch.zeros_like(turn), moved - position], -1)

    @torch.no_grad()
    def find(self, seen: Tensor, actions: Tensor) -> Tensor:
        """Return the places [b, 1, 8] of the last of some frames, as `Recall.find`; where the frame before it was taken tells the last step and turn."""
        found = super().find(seen, actions)
        before = found
        for _ in range(AGAIN):
            before = torch.cat([self._fit(place[None], frames[-2]) for place, frames in zip(before, seen.float(), strict=True)])
        (cosine, sine), step = turned(found[..., 2:4], before[..., 2:4] * found.new_tensor([1, -1])).split(1, -1), found[..., :2] - before[..., :2]
        turn = torch.atan2(sine, cosine)
        return torch.cat([found[..., :4], turn, torch.zeros_like(turn), step], -1)

    def expect(self, actions: Tensor, place: Tensor, chance: Tensor | None = None) -> Tensor:
        return torch.cat([place := self.drive(place, action) for action in actions.flatten(2).split(1, 1)], 1)

    def _slide(self, places: Tensor, moved: Tensor) -> Tensor:
        return moved  # nothing is in the way

    def go_on(self, before: Tensor, action: Tensor, place: Tensor, shown: Tensor, chance: Tensor | None = None) -> Tensor:
        """Return the places [b, runs, 8] of the frames after `before`; whoever does nothing rolls on. Arguments as in `Recall.go_on`."""
        moved, known = self.drive(shown, action.flatten(2)), self._known(place)
        return moved if bool(known.all()) else torch.where(known, moved, self.guess(before, action))

    def _alike(self, colours: Tensor, guess: Tensor) -> Tensor:
        """Return places [n, 8] from where it looks like the colours [1, 3, h, w] of a frame: those in the atlas that roughly do, and nearer and nearer ones."""
        places, looks = self.atlas()
        places = torch.cat([guess[None], places[(looks - self._rough(colours)).square().mean(1).argsort()[:SOUGHT]]])
        rng = torch.Generator().manual_seed(0)
        for kept, tries, spread, coarse in SEARCH:
            size = max(1, colours.shape[2] // coarse), max(1, colours.shape[3] // coarse)
            seen, bare = self.memory(places, size)
            apart = ((seen - F.adaptive_avg_pool2d(colours, size)) * bare).square().mean((1, 2, 3))
            places = places[apart.argsort()[:kept]]
            near = places.repeat(tries, 1)
            moves = spread * torch.randn(len(near), 3, generator=rng).to(near.device)
            moved = torch.cat([near[:, :2] + moves[:, :2], turned(near[:, 2:4], along(TURNS * moves[:, 2:])), near[:, 4:]], 1)
            places = torch.cat([places, moved])
        return places

    def _pace(self, actions: Tensor) -> Tensor:
        return actions.new_zeros(2)  # how fast he drives only two places tell

    def _moved(self, place: Tensor, shift: Tensor, angle: Tensor, up: Tensor) -> Tensor:
        position, heading, turn, nothing, last = place.split((2, 2, 1, 1, 2), -1)
        shift = turned(shift, heading)
        return torch.cat([position + shift, turned(heading, along(angle)), turn + SWERVE * angle, nothing, last + SWERVE * shift], -1)
