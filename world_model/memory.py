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

MARGIN = 1 / 16  # of the map, around all positions
BODY = 0.017  # of the map: how near to a wall somebody may come
NEAREST, FARTHEST, SAMPLES = 0.006, 1.3, 192  # depths along a ray, of the map
SHADES = 32  # depths for which it is known how dark things look
PATTERNS = 8  # along x, and as many along y
SHARP = 60.0  # edges between walls and floors
EYE, ABOVE = 0.04, 0.08  # of the map: from the floor to the eye and from there to the ceiling, as is thought at first


class Memory(nn.Module):
    """Remember pictures by places.

    Args:
        size: (height, width) of a picture.
        width: texels along the longer side of the map.
        field_of_view: of the pictures, horizontal, in degrees.
    """

    def __init__(self, size: tuple[int, int], width: int, field_of_view: float) -> None:
        super().__init__()
        self._crowded: tuple[int, Tensor] | None = None  # the map on which bodies are points, and of which version of `matter` it is
        self.size, self.reach = size, math.tan(math.radians(field_of_view) / 2)
        self.tall = max(2, width // 10)  # texels of a wall from floor to ceiling
        self.matter = nn.Parameter(torch.zeros(1, 1, max(2, width // 2), max(2, width // 2)))
        self.flats = nn.Parameter(torch.zeros(2, 3, width, width))  # floor, ceiling
        self.walls = nn.Parameter(torch.empty(2, width, self.tall * PATTERNS * 3).uniform_(-0.05, 0.05))
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
        column, row = (on_map(positions) * cells).long().clamp(0, cells - 1).unbind(1)
        been = torch.zeros_like(self.matter)
        been[0, 0, row, column] = 1
        radius = BODY / (1 + 2 * MARGIN) * cells
        across = torch.arange(-math.ceil(radius), math.ceil(radius) + 1)
        disk = (across.square() + across[:, None].square() <= radius**2).float()
        self.matter.copy_(torch.where(F.conv2d(been, disk[None, None], padding=len(across) // 2) > 0, -8.0, 8.0))

    def forward(self, places: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Return what is remembered from places [n, 6] (`world_model.recall`): pictures and their inverse depths [n, 4, height, width], float32.

        Red, green and blue go from about -1 to 1; a depth of one is the longer side of the map. `size` is that of the pictures, if not the usual one.
        """
        with torch.autocast(places.device.type, enabled=False):
            return self._paint(places.float(), *(size or self.size))

    def _paint(self, places: Tensor, height: int, width: int) -> Tensor:
        right, down = self._slopes(height, width)
        position, ahead = places[:, None, :2], places[:, None, 2:4] / places[:, None, 2:4].norm(dim=-1, keepdim=True).clamp(min=1e-6)
        rays = ahead + right[:, None] * torch.stack([ahead[..., 1], -ahead[..., 0]], -1)  # [n, width, 2] for a depth of one
        depth = self._meet(position, rays)  # [n, width]
        higher = self.heights.exp()
        eye, above = EYE * higher[0] + places[:, 4, None], ABOVE * higher[1] - places[:, 4, None]  # [n, 1]
        walls = self._walls(position + depth[..., None] * rays, (eye[..., None] - depth[..., None] * down) / (eye + above)[..., None])
        walls = walls * self._shade(0, depth)[:, None, :, None]
        half = height // 2
        halves, inverse = [], (1 / depth)[:, None, None]
        for which, wall, slope, far in ((1, walls[..., :half], -down[:half], above), (0, walls[..., half:], down[half:], eye)):
            reached = far / slope.clamp(min=1e-3)  # [n, rows]: where a row meets floor or ceiling
            points = position[:, None] + reached[..., None, None] * rays[:, None]
            flat = look_up(self.flats[which : which + 1], points) * self._shade(1, reached)[:, None, :, None]
            nearer = torch.sigmoid(SHARP * (depth[:, None] / reached[..., None] - 1))[:, None]
            near = torch.maximum(inverse, (1 / reached)[:, None, :, None])
            halves.append(torch.cat([torch.lerp(wall.transpose(2, 3), flat, nearer), near], 1))
        return torch.cat(halves, 2)

    def steps(self, seen: Tensor, inverse: Tensor) -> Tensor:
        """Return how pictures [n, c, h, w] of inverse depths [n, 1, h, w] change with each step of who sees them: [n, 4, c, h, w].

        The steps are ahead, to the left, a turn to the left (in radians) and up; pictures may have any resolution.
        """
        height, width = seen.shape[2:]
        right, down = self._slopes(height, width)
        x, y = (F.pad(seen, pad, mode="replicate") for pad in ((1, 1, 0, 0), (0, 0, 1, 1)))
        x, y = (x[..., 2:] - x[..., :-2]) * (width / 4 / self.reach), (y[..., 2:, :] - y[..., :-2, :]) * (height / 4 / self._tallest())
        down = down[:, None]
        ahead = (x * right + y * down) * inverse
        turned = x * (1 + right.square()) + y * (down * right)
        return -torch.stack([ahead, x * inverse, turned, y * inverse], 1)

    def _slopes(self, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Return how far to the right [width] and down [height] rays through the pixels of a picture go, at depth one."""
        right, down = (((torch.arange(pixels, device=self.steep.device) + 0.5) * (2 / pixels) - 1) for pixels in (width, height))
        return right * self.reach, down * self._tallest() + self.horizon

    def _tallest(self) -> Tensor:
        """Return half the height of what fills a picture at depth one."""
        return self.reach * self.size[0] / self.size[1] * self.steep.exp()

    @torch.no_grad()
    def is_free(self, positions: Tensor) -> Tensor:
        """Return whether somebody can stand at positions [..., 2]: there is no wall nearer than a body needs; bool [...]."""
        if self._crowded is None or self._crowded[0] != self.matter._version:
            cells = int(BODY / (1 + 2 * MARGIN) * self.matter.shape[-1])
            self._crowded = self.matter._version, F.max_pool2d(self.matter.detach(), 2 * cells + 1, 1, cells)
        return look_up(self._crowded[1], positions.float().reshape(1, 1, -1, 2)).view(positions.shape[:-1]) < 0

    def _meet(self, position: Tensor, rays: Tensor) -> Tensor:
        """Return the depths [n, width] at which rays [n, width, 2] from positions [n, 1, 2] meet walls."""
        depths = torch.logspace(math.log10(NEAREST), math.log10(FARTHEST), SAMPLES, device=rays.device)
        stopped = torch.sigmoid(look_up(self.matter, position[:, :, None] + depths[:, None] * rays[:, :, None])[:, 0])
        gets_there = F.pad((1 - stopped[..., :-1]).cumprod(-1), (1, 0), value=1.0)
        share = torch.cat([(gets_there * stopped)[..., :-1], gets_there[..., -1:]], -1)  # nobody sees beyond the last
        return share @ depths

    def _walls(self, points: Tensor, heights: Tensor) -> Tensor:
        """Return the colours [n, 3, width, height] of walls at points of the map [n, width, 2] and heights [n, width, height] (floor 0, ceiling 1)."""
        seen = look_up(self.seen, points[:, None])[:, :, 0].movedim(1, -1)  # [n, width, patterns and colour]
        strips: Tensor | float = 0.0
        for axis, share in enumerate(seen[..., :-3].unflatten(-1, (2, 1, PATTERNS)).unbind(-3)):
            pattern = between(self.walls[axis], on_map(points[..., axis])).unflatten(-1, (self.tall * 3, PATTERNS))
            strips = strips + (pattern * share).sum(-1)  # in less than half the time of a matrix product for every column
        texel = (heights * self.tall - 0.5).clamp(0, self.tall - 1.001)
        lower = texel.floor()
        colours = strips.unflatten(-1, (self.tall, 3)).movedim(-1, 1)  # type: ignore[union-attr]
        below, over = (colours.gather(3, (lower + n).long()[:, None].expand(-1, 3, -1, -1)) for n in (0, 1))
        return torch.lerp(below, over, (texel - lower)[:, None]) + seen[..., -3:].movedim(-1, 1)[..., None]

    def _shade(self, which: int, depth: Tensor) -> Tensor:
        """Return how bright things look at a depth, of walls or of flats; same shape."""
        where = (depth.clamp(NEAREST, FARTHEST) / NEAREST).log() / math.log(FARTHEST / NEAREST)
        return between(self.shade[which, :, None], where)[..., 0].exp()


def on_map(positions: Tensor) -> Tensor:
    """Return positions with the map's margin: from 0 to 1 over all of it."""
    return (positions + MARGIN) / (1 + 2 * MARGIN)


def from_map(places: Tensor) -> Tensor:
    """Return the positions of places from 0 to 1 over all of the map, its margin included."""
    return places * (1 + 2 * MARGIN) - MARGIN


def look_up(grid: Tensor, points: Tensor) -> Tensor:
    """Return what a grid [1, c, h, w] over the map holds at points [n, a, b, 2]: [n, c, a, b]."""
    where = (2 * on_map(points) - 1).flatten(0, 1)[None]
    found = F.grid_sample(grid, where, padding_mode="border", align_corners=False)[0]
    return found.unflatten(1, points.shape[:2]).transpose(0, 1)


def between(table: Tensor, where: Tensor) -> Tensor:
    """Return the rows of a table [rows, c] at places from 0 to 1 over it [...], linearly between neighbours: [..., c]."""
    row = (where * len(table) - 0.5).clamp(0, len(table) - 1.001)
    first = row.floor()
    pairs, weights = torch.stack([first, first + 1], -1).long(), torch.stack([1 + first - row, row - first], -1)
    found = F.embedding_bag(pairs.flatten(0, -2), table, per_sample_weights=weights.flatten(0, -2), mode="sum")
    return found.unflatten(0, where.shape)
