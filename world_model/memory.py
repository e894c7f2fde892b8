"""A memory of places: what is seen from where, in a world of level floors, level ceilings and upright walls.

It holds a map, learnt from pictures and the places they were taken from: where something stands in the way, what is painted on floor and ceiling, and what is
on the walls. A picture is remembered by casting a ray through each of its columns: along it every point of the map stops as much of what is left of it as there
is matter (volume rendering, arXiv 2003.08934, in two dimensions), and the mean depth is that of the wall. Rows above and below the wall meet ceiling and floor.
What walls show is a sum of products of planes (K-planes, arXiv 2301.10241): patterns along x or y and upwards, and where on the map how much of each is seen.
So a wall seen from many places is learnt once, and stays straight.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from world_model.kept import Kept

MARGIN = 1 / 16  # of the map, around all positions
SCALE = 2 / (1 + 2 * MARGIN)  # places on the map go from -1 to 1, as `F.grid_sample` takes them
BODY = 0.017  # of the map: how near to a wall somebody may come
NEAREST, FARTHEST, SAMPLES = 0.006, 1.3, 192  # depths along a ray, of the map
SHADES = 32  # depths for which it is known how dark things look
FINER = 1.6  # walls are than floors and ceilings: one walks up to them
PATTERNS = 8  # along x, and as many along y
SHARP = 60.0  # edges between walls and floors
EYE, ABOVE = 0.04, 0.08  # of the map: from the floor to the eye and from there to the ceiling, as is thought at first


class Memory(nn.Module):
    """Remember pictures by places.

    Args:
        size: (height, width) of a picture.
        width: texels of floors and ceilings along the longer side of the map.
        field_of_view: of the pictures, horizontal, in degrees.
    """

    def __init__(self, size: tuple[int, int], width: int, field_of_view: float) -> None:
        super().__init__()
        self._kept = Kept()
        self.size, self.reach = size, math.tan(math.radians(field_of_view) / 2)
        self.along = round(FINER * width)  # texels of walls along the longer side of the map
        self.tall = max(2, self.along // 10)  # and from floor to ceiling
        self.matter = nn.Parameter(torch.zeros(1, 1, width, width))
        self.flats = nn.Parameter(torch.zeros(2, 3, width, width))  # floor, ceiling
        self.walls = nn.Parameter(torch.empty(2, self.along * PATTERNS, 3 * self.tall).uniform_(-0.05, 0.05))
        self.seen = nn.Parameter(torch.empty(1, 2 * PATTERNS + 3, max(2, width // 4), max(2, width // 4)).uniform_(0.5, 1.5))  # of each pattern, and a colour
        nn.init.zeros_(self.seen[:, -3:])
        self.shade = nn.Parameter(torch.zeros(2, SHADES))  # walls, flats; logarithms
        self.heights = nn.Parameter(torch.zeros(2))  # how much higher eye and ceiling are than thought; logarithms
        self.steep = nn.Parameter(torch.zeros(()))  # how much higher a pixel is than wide; a logarithm
        self.horizon = nn.Parameter(torch.zeros(()))  # by how much it lies above the middle, at depth one

    @torch.no_grad()
    def begin(self, positions: Tensor) -> None:
        """Begin to learn a map on which somebody has been at these positions [n, 2]: there is no wall there, and elsewhere there is."""
        cells = self.matter.shape[-1]
        column, row = ((on_map(positions) + 1) / 2 * cells).long().clamp(0, cells - 1).unbind(1)
        been = torch.zeros_like(self.matter)
        been[0, 0, row, column] = 1
        radius = BODY * SCALE / 2 * cells
        across = torch.arange(-math.ceil(radius), math.ceil(radius) + 1)
        disk = (across.square() + across[:, None].square() <= radius**2).float()
        self.matter.copy_(torch.where(F.conv2d(been, disk[None, None], padding=len(across) // 2) > 0, -8.0, 8.0))

    @property
    def begun(self) -> bool:
        """Whether it has begun to learn a map."""
        return bool(self.matter.any())

    def price(self) -> Tensor | float:
        """Return what this map costs, besides its errors."""
        return 0.0

    def stands(self) -> Tensor:
        """Return the positions [n, 2] of all cells in which nothing is in the way."""
        free = (self.matter[0, 0] < 0).nonzero().flip(1)
        return from_map((2 * free + 1) / self.matter.shape[-1] - 1)

    def forward(self, places: Tensor, size: tuple[int, int] | None = None) -> tuple[Tensor, Tensor]:
        """Return what is remembered from places [n, 8] (`world_model.recall`): pictures [n, 3, height, width] and their inverse depths [n, 1, ...], float32.

        Red, green and blue go from about -1 to 1; a depth of one is the longer side of the map. `size` is that of the pictures, if not the usual one.
        """
        with torch.autocast(places.device.type, enabled=False):
            return self._paint(places.float(), *(size or self.size))

    def _paint(self, places: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Paint column by column: what a ray meets is said once for all of a column, and a row of floor or ceiling is equally far everywhere."""
        right, down = self._slopes(height, width)
        position, (cosine, sine) = on_map(places[:, :2]).T[..., None], F.normalize(places[:, 2:4], dim=-1, eps=1e-6).T[..., None]  # [2, n, 1], [n, 1] each
        rays = SCALE * torch.stack([cosine + right * sine, sine - right * cosine])  # [2, n, width], for a depth of one
        depth = self._meet(position, rays)  # [n, width]
        higher = self.heights.exp()
        eye, above = EYE * higher[0] + places[:, 4, None], ABOVE * higher[1] - places[:, 4, None]  # [n, 1]
        half = height // 2
        reached = torch.stack([eye / down[half:].clamp(min=1e-3), above / (-down[:half]).clamp(min=1e-3)])  # [2, n, half]: where rows meet floor and ceiling
        points = (rays[:, None, ..., None] * reached[:, :, None]).add_(position[:, None, ..., None])  # [2, 2, n, width, half]
        flats = sample(self.flats, points.flatten(2, 3)).unflatten(2, points.shape[2:4])
        flat = torch.cat([flats[1], flats[0]], -1).transpose(0, 1)  # [n, 3, width, height]
        reached = torch.cat([reached[1], reached[0]], -1)  # [n, height]
        near, rise = 1 / reached[:, None], 2 / (eye + above)
        heights = ((depth * rise)[..., None] * -down).add_((eye * rise - 1)[..., None])  # [n, width, height], of where a wall is seen
        wall = self._walls(position + depth * rays, heights)
        far = (torch.cat([depth, reached], 1).clamp(NEAREST, FARTHEST) / math.sqrt(NEAREST * FARTHEST)).log() * (2 / math.log(FARTHEST / NEAREST))
        shades = look_up(self.shade[None, :, None], torch.stack([far, torch.zeros_like(far)])).exp()  # [2, n, width + height]
        nearer = ((SHARP * depth)[..., None] * near - SHARP).sigmoid()[:, None]
        colours = torch.lerp(wall * shades[0, :, None, :width, None], flat * shades[1, :, None, None, width:], nearer)
        inverse = torch.maximum((1 / depth)[:, None, :, None], near[:, None])
        return colours.transpose(2, 3), inverse.transpose(2, 3)

    def steps(self, seen: Tensor, inverse: Tensor) -> Tensor:
        """Return how pictures [n, c, h, w] of inverse depths [n, 1, h, w] change with each step of who sees them: [n, 4, c, h, w].

        The steps are ahead, to the left, a turn to the left (in radians) and up; pictures may have any resolution.
        """
        height, width = seen.shape[2:]
        right, down = self._slopes(height, width)
        around = F.pad(seen, (1, 1, 1, 1), mode="replicate")
        x, y = around[..., 1:-1, 2:] - around[..., 1:-1, :-2], around[..., 2:, 1:-1] - around[..., :-2, 1:-1]
        x, y = x * (width / 4 / self.reach), y * self._kept(("rows", height), lambda: height / 4 / self._tallest(), self.steep)
        down = down[:, None]
        ahead = (x * right + y * down) * inverse
        turned = x * (1 + right.square()) + y * (down * right)
        return -torch.stack([ahead, x * inverse, turned, y * inverse], 1)

    def _slopes(self, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Return how far to the right [width] and down [height] rays through the pixels of a picture go, at depth one."""
        device = self.steep.device

        def slopes() -> tuple[Tensor, Tensor]:
            return self.reach * middles(width, device), self._tallest() * middles(height, device) + self.horizon

        return self._kept(("slopes", height, width), slopes, self.steep, self.horizon)

    def _tallest(self) -> Tensor:
        """Return half the height of what fills a picture at depth one."""
        return self.reach * self.size[0] / self.size[1] * self.steep.exp()

    @torch.no_grad()
    def is_free(self, positions: Tensor, body: float = 1.0) -> Tensor:
        """Return whether somebody can stand at positions [..., 2]: there is no wall nearer than a part of a `body` needs; bool [...]."""
        crowded = self._kept(("crowded", body), lambda: self._crowded(body), self.matter)
        return look_up(crowded, on_map(positions.float()).movedim(-1, 0))[0] < 0

    def _crowded(self, body: float) -> Tensor:
        """Return `matter` as it is where a part of a `body` is a point."""
        cells = int(body * BODY * SCALE / 2 * self.matter.shape[-1])
        around = F.pad(self.matter.detach(), (cells,) * 4, value=-math.inf)
        for axis in (2, 3):  # pooling in one axis after the other, in a tenth of the time that `F.max_pool2d` takes
            around = around.unfold(axis, 2 * cells + 1, 1).amax(-1)
        return around

    def _meet(self, position: Tensor, rays: Tensor) -> Tensor:
        """Return the depths [n, width] at which rays [2, n, width] from positions [2, n, 1] meet walls."""
        depths = self._kept("depths", lambda: torch.logspace(math.log10(NEAREST), math.log10(FARTHEST), SAMPLES, device=rays.device), self.matter)
        stopped = look_up(self.matter, (rays[..., None] * depths).add_(position[..., None]))[0].sigmoid()
        gets_there = (1 - stopped[..., :-1]).cumprod(-1)  # nobody sees beyond the last
        return depths[0] + gets_there @ depths.diff()

    def _walls(self, points: Tensor, heights: Tensor) -> Tensor:
        """Return the colours [n, 3, width, height] of walls at points of the map [2, n, width] and heights [n, width, height] (floor -1, ceiling 1)."""
        seen = look_up(self.seen, points).movedim(0, -1)  # [n, width, patterns and colour]
        rows, weights = neighbours((points.movedim(0, -1) + 1) / 2, self.along)  # [n, width, 2 axes, 2]
        rows = rows[..., None] * PATTERNS + self._kept("patterns", self._patterns, self.walls)
        weights = weights[..., None] * seen[..., :-3].unflatten(-1, (2, 1, PATTERNS))
        strips = F.embedding_bag(rows.flatten(2).flatten(0, 1), self.walls.flatten(0, 1), per_sample_weights=weights.flatten(2).flatten(0, 1), mode="sum")
        strips = strips.view(*points.shape[1:], 3, self.tall).transpose(1, 2)  # [n, 3, width, tall]
        columns = self._kept(("columns", heights.shape[1]), lambda: middles(heights.shape[1], heights.device), self.walls)[:, None].expand_as(heights)
        return sample(strips, torch.stack([heights, columns])) + seen[..., -3:].movedim(-1, 1)[..., None]

    def _patterns(self) -> Tensor:
        """Return where the patterns along x and those along y are in the table of walls, [2, 1, patterns]."""
        first = torch.arange(PATTERNS, device=self.walls.device)
        return torch.stack([first, first + self.along * PATTERNS])[:, None]


class Covered(nn.Module):
    """What moves with who sees it (a gun, a panel, his own body) lies over what is remembered by places: `cover` is what, `covers` where, as logits."""

    covering: float  # the mean square by which pictures may be worse before a pixel is taken for that
    size: tuple[int, int]
    cover: nn.Parameter  # [1, 3, height, width]
    covers: nn.Parameter  # [1, 1, height, width]
    _kept: Kept

    def price(self) -> Tensor:
        """Return what it costs that something is said to lie over a place, so that it is said only of what does."""
        return self.covering * self.covers.sigmoid().mean()

    def bare(self, height: int, width: int) -> Tensor:
        """Return where nothing lies over a place, [1, 1, height, width]."""
        return self._covering(height, width)[1]

    def _covering(self, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Return what lies over a place, [1, 3, height, width], and where nothing does, [1, 1, height, width]."""

        def fit() -> tuple[Tensor, Tensor]:
            images = self.cover, (-self.covers).sigmoid()
            cover, bare = images if (height, width) == self.size else (F.interpolate(image, (height, width), mode="area") for image in images)
            return cover, bare

        return self._kept(("cover", height, width), fit, self.cover, self.covers)


def on_map(positions: Tensor) -> Tensor:
    """Return positions with the map's margin: from -1 to 1 over all of it."""
    return (positions + MARGIN) * SCALE - 1


def from_map(places: Tensor) -> Tensor:
    """Return the positions of places from -1 to 1 over all of the map, its margin included."""
    return (places + 1) / SCALE - MARGIN


def middles(pixels: int, device: torch.device) -> Tensor:
    """Return where the middles of so many pixels lie on what goes from -1 to 1."""
    return (torch.arange(pixels, device=device) + 0.5) * (2 / pixels) - 1


def look_up(grid: Tensor, points: Tensor) -> Tensor:
    """Return what a grid [1, c, h, w] over the map holds at points [2, ...] from -1 to 1 over it: [c, ...]."""
    return sample(grid, points.reshape(2, 1, 1, -1)).view(grid.shape[1], *points.shape[1:])


def sample(grids: Tensor, where: Tensor) -> Tensor:
    """Return what grids [n, c, h, w] hold, each at places of its own from -1 to 1 over it [2, n, a, b], linearly between neighbours: [n, c, a, b]."""
    return F.grid_sample(grids, where.permute(1, 2, 3, 0), padding_mode="border", align_corners=False)


def neighbours(where: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """Return the two rows of a table between which places from 0 to 1 over it lie [...], and how much each counts: int64 and float [..., 2]."""
    row = (where * rows - 0.5).clamp(0, rows - 1.001)
    first = row.floor()
    part = row - first
    return torch.stack([first, first + 1], -1).long(), torch.stack([1 - part, part], -1)
