"""A memory of bodies: what moves by itself in a place, where it is, how it looks, and what becomes of it and of the player.

What a crowd does next no past can tell, and a network that must answer with one picture answers with the mean of all: a cloud. So what may happen is drawn
here, as few numbers, before anything is painted. Every body has a kind, a position, a heading and a look: one picture out of an album that was learnt. The
last of the kinds is what is left of a body for some frames. The player has some numbers of his own that the game told (his health, his shots), and everything
he sees is under a light: it flashes as he shoots, turns red as he is hurt, and sinks as he dies. From tick to tick small networks say how likely it is that
something happens to him, that a body goes this way or that, vanishes or comes, and which look and which light follow; one of each is taken, by numbers that
belong to the frame and the seed as its noise does. Bodies are then painted into what is remembered of the place, the farthest first, each as large as it is
near, and the transformer is shown the whole.

A place (`world_model.recall`) is followed by LIFE numbers: two that the game tells of the player, frames since something happened to him (-1 as a life
begins), light, frames since that changed; and by BODY for each body: its kind (0: there is none), x, y, cosine and sine of its heading, its look (0: nobody
sees it), frames since that changed, its last step along x and y, and frames since that, or since it vanished.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from world_model.memory import EYE, Covered, Memory
from world_model.recall import PLACE, Recall, along, turned

LIFE, BODY = 5, 10
LOOKS, SPRITE = 32, 64  # pictures of each kind; pixels along their sides
LEFT = 5  # frames for which something is left of a body
LIGHTS, EVENTS, STEPS, ENTRIES = 32, 64, 32, 64  # that are known; the first light is the usual one, of the events the first is nothing, the last a new life
TALL, BROAD, BELOW = 1.75, 1.0, 0.1  # how tall and broad these pictures are, and how much of that is below the floor, in heights of the eye
OCTANTS = 8
TURNS = 2 + OCTANTS  # goes on as before, looks at the player, looks along one of eight directions
NEAR = 0.1  # of the map: the unit of distances
WIDE = 0.0125  # of the map: half as wide is a body
NEAREST = 0.008  # of the map: nearer bodies are not seen
AGREED, ALIKE = 0.01, 0.05  # the mean squares by which pixels and latents may differ and be thought the same
AROUND = 720  # headings in which a player is sought
LONG = 12  # frames that are counted one by one
COVERED = -3.0  # how much of a picture is thought to move with the eye, before anything is learnt, as a logit


class Scene(Covered, Memory):
    """A map, the bodies on it, what moves with the eye and the light on everything; arguments as in `Memory`, and how many kinds of bodies there are."""

    covering = 0.045

    def __init__(self, size: tuple[int, int], width: int, field_of_view: float, kinds: int) -> None:
        super().__init__(size, width, field_of_view)
        self.album = nn.Parameter(torch.zeros(kinds * LOOKS, 4, SPRITE, SPRITE))  # red, green, blue; how much hides what is behind
        self.lights = nn.Parameter(torch.zeros(LIGHTS, 6))  # how much brighter and what is added, for red, green and blue each
        self.cover = nn.Parameter(torch.zeros(1, 3, *size))  # what moves with the eye
        self.covers = nn.Parameter(torch.full((1, 1, *size), COVERED))  # where

    def forward(self, places: Tensor, size: tuple[int, int] | None = None) -> tuple[Tensor, Tensor]:
        """As `Memory.forward`; of places [n, 8] alone there are no bodies, and there is no light."""
        pictures, inverse = super().forward(places[:, :PLACE], size)
        with torch.autocast(places.device.type, enabled=False):
            places = places.float()
            if places.shape[1] > PLACE:
                pictures = self.paint_bodies(pictures, places)
            cover, bare = self._covering(pictures.shape[2], pictures.shape[3])
            pictures = torch.lerp(cover, pictures, bare)
            if places.shape[1] > PLACE:
                brighter, added = self.lights[places[:, PLACE + 3].long().clamp(0, LIGHTS - 1)].unflatten(1, (2, 3, 1, 1)).unbind(1)
                pictures = torch.addcmul(added, pictures, 1 + brighter)
        return pictures, inverse

    def paint_bodies(self, pictures: Tensor, places: Tensor) -> Tensor:
        """Return pictures [n, 3, height, width] with the bodies that are seen from places [n, p]."""
        bodies = bodies_of(places)
        ahead, left = relative(places, bodies)
        there = (bodies[..., 0] > 0) & in_view(ahead, left, self.reach)
        order = torch.where(there, ahead, -1.0).argsort(1, descending=True)
        for rank in range(int(there.sum(1).max())):
            which = order[:, rank, None]
            rows = there.gather(1, which)[:, 0].nonzero()[:, 0]
            body = bodies[rows, which[rows, 0]]
            far, aside = (numbers.gather(1, which)[rows, 0] for numbers in (ahead, left))
            album = self.album[picture_of(body).clamp(0, len(self.album) - 1)]
            sprites = self.resample(album, far, aside, places[rows, 4], pictures.shape[2], pictures.shape[3])
            pictures = pictures.index_copy(0, rows, pictures[rows] * (1 - sprites[:, 3:]) + sprites[:, :3])
        return pictures

    def resample(self, album: Tensor, ahead: Tensor, left: Tensor, height: Tensor, rows: int, columns: int) -> Tensor:
        """Return pictures of bodies [m, 4, SPRITE, SPRITE] as they are seen so far ahead and to the left [m], by an eye so high [m]: [m, 4, rows, columns].

        Colours are multiplied by how much they hide. A pixel is the mean of what it covers, so bodies far away do not flicker.
        """
        right, down = self._slopes(rows, columns)
        (tall, broad), eye = self.canvas, EYE * self.heights[0].exp() + height
        across = self.reach * 2 / columns, self._tallest() * (2 / rows)  # slopes of a pixel
        x = ((right * ahead[:, None] + left[:, None]) / broad + 0.5) * SPRITE
        y = (1 - BELOW / TALL - (eye[:, None] - down * ahead[:, None]) / tall) * SPRITE
        wide, high = across[0] * ahead / broad * SPRITE, across[1] * ahead / tall * SPRITE
        hides = album[:, 3:].clamp(0, 1)
        sprites = torch.cat([album[:, :3] * hides, hides], 1)
        return coverage(y, high)[:, None] @ sprites @ coverage(x, wide)[:, None].mT

    def look_at(self, frames: Tensor, places: Tensor, ahead: Tensor, left: Tensor, pixels: int) -> tuple[Tensor, Tensor]:
        """Return what of frames [m, c, height, width] is where a body's picture would be [m, c, pixels, pixels], and where that is in the frame [m, 1, ...]."""
        cells = (torch.arange(pixels, device=frames.device) + 0.5) / pixels
        (tall, broad), eye = self.canvas, EYE * self.heights[0].exp() + places[:, 4]
        right = ((cells - 0.5) * broad - left[:, None]) / ahead[:, None] / self.reach
        down = ((eye[:, None] - (1 - cells - BELOW / TALL) * tall) / ahead[:, None] - self.horizon) / self._tallest()
        grid = torch.stack([right[:, None].expand(-1, pixels, -1), down[:, :, None].expand(-1, -1, pixels)], -1)
        inside = (grid.abs() < 1).all(-1)[:, None].float()
        return F.grid_sample(frames, grid, padding_mode="border", align_corners=False), inside

    @property
    def canvas(self) -> tuple[Tensor, Tensor]:
        """How tall and how broad bodies' pictures are, of the map."""
        eye = EYE * self.heights[0].exp()
        return TALL * eye, BROAD * eye


class Fates(nn.Module):
    """Say what may happen to the player and to bodies, and draw what does.

    Args:
        told: how many numbers the actions of a frame's history are.
        bodies, kinds: how many bodies there are at once, and how many kinds of them; the last is what is left of the others.
        reach: half the width of a picture of what is one unit away.
    """

    def __init__(self, told: int, bodies: int, kinds: int, reach: float, width: int = 128, vague: int = 16) -> None:
        super().__init__()
        self.bodies, self.kinds, self.reach = bodies, kinds, reach
        self.steps = nn.Parameter(torch.zeros(STEPS, 2))  # of bodies, along x and y
        self.entries = nn.Parameter(torch.zeros(ENTRIES, 5))  # kind, x, y, cosine and sine of the heading of those that come
        self.events = nn.Parameter(torch.zeros(EVENTS, 2))  # how much the player's two numbers change
        self.first = nn.Parameter(torch.zeros(PLACE + LIFE + bodies * BODY))  # the place where a life begins
        known = told + 2 + 2 + LONG + 1 + vague + 1
        self.light_seen, self.look_seen = nn.Embedding(LIGHTS, vague), nn.Embedding(1 + kinds * LOOKS, vague)
        self.event_seen, self.step_seen, self.turn_seen = (nn.Embedding(many, width) for many in (EVENTS, STEPS, TURNS))
        self.body = nn.Sequential(nn.Linear(22 + kinds + vague + known, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.happens = nn.Sequential(nn.Linear(width + known, width), nn.ReLU(), nn.Linear(width, EVENTS))
        self.acts = nn.Linear(width, width)
        self.goes, self.comes, self.looks = (nn.Linear(width, many) for many in (1 + STEPS + TURNS, 1 + ENTRIES, kinds * LOOKS))
        self.lit = nn.Sequential(nn.Linear(width + known, width), nn.ReLU(), nn.Linear(width, LIGHTS))
        for seen in (self.light_seen, self.look_seen, self.event_seen, self.step_seen, self.turn_seen):
            nn.init.normal_(seen.weight, std=0.1)

    @property
    def chances(self) -> int:
        """How many numbers are drawn for a frame."""
        return 2 + 4 * self.bodies

    def forward(self, before: Tensor, now: Tensor, action: Tensor, chance: Tensor) -> Tensor:
        """Return places [..., p] after something happened, or nothing; float32.

        Args:
            before: the places, [..., p].
            now: the same, but with the player where he is next.
            action: what he was told to do, [..., n].
            chance: numbers from 0 to 1 by which it is drawn, [..., chances].
        """
        bodies, life = bodies_of(before), life_of(before)
        by_event, by_light, by_body = chance.split((1, 1, 4 * self.bodies), -1)
        by_step, by_turn, by_end, by_look = by_body.unflatten(-1, (self.bodies, 4)).split(1, -1)
        seen, known = self.see(before, action)
        event = pick(self.happen(seen, known, bodies), by_event)[..., 0]
        acts = self.act(seen, event)
        ends, steps, turns = self.goes(acts).split((1, STEPS, TURNS), -1)
        kind = bodies[..., :1]
        left = (kind == self.kinds) | ((kind > 0) & (by_end < ends.sigmoid()))  # or what is left of it
        step, turn = (torch.where(left[..., 0], 0, pick(logits, by)[..., 0]) for logits, by in ((steps, by_step), (turns, by_turn)))
        moved = move(bodies, torch.where(left, 0, self.steps[step]), turn, now)
        rest = torch.where(left & (kind < self.kinds), 0, moved[..., 9:])
        moved = torch.cat([torch.where(left, self.kinds, kind), moved[..., 1:9], rest], -1)
        look = 1 + pick(self.show(acts, step, turn, moved), by_look).to(moved.dtype)
        look = torch.where(in_view(*relative(now, moved), self.reach)[..., None], look, 0)
        changed = torch.where(look == moved[..., 5:6], moved[..., 6:7] + 1, 0)
        moved = torch.cat([moved[..., :5], look, changed, moved[..., 7:]], -1)
        comes = pick(self.comes(acts), by_step)
        came = F.pad(self.entries[(comes[..., 0] - 1).clamp(min=0)], (0, BODY - 5))
        absent = F.pad(bodies[..., -1:] + 1, (BODY - 1, 0))
        moved = torch.where(left & (rest >= LEFT), torch.zeros_like(moved), moved)
        bodies = torch.where(kind > 0, moved, torch.where(comes > 0, came, absent))
        vitals, since, light, lasted = life.split((2, 1, 1, 1), -1)
        shines = pick(self.light(known, event), by_light).to(light.dtype)
        since, lasted = torch.where(event[..., None] > 0, 0, since + 1), torch.where(shines == light, lasted + 1, 0)
        after = torch.cat([now[..., :PLACE], (vitals + self.events[event]).clamp(min=0), since, shines, lasted, bodies.flatten(-2)], -1)
        return torch.where(event[..., None] == EVENTS - 1, self.first, after)

    def see(self, place: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Return what is seen of every body [..., bodies, d] from places [..., p], and what of the player [..., d], told his actions [..., n]."""
        bodies = bodies_of(place)
        kind, at, heading, look, looked, last, rest = bodies.split((1, 2, 2, 1, 1, 2, 1), -1)
        offset, there = at - place[..., None, :2], (kind > 0).float()
        ahead, left = (numbers[..., None] for numbers in relative(place, bodies))
        far = offset.norm(dim=-1, keepdim=True).clamp(min=1e-4)
        aimed = torch.cat([left / WIDE, 4 * left / ahead.clamp(min=NEAREST)], -1).clamp(-4, 4)
        place_of = [(far / NEAR).log(), (4 * far / NEAR).clamp(max=4), ahead / far, left / far, aimed, offset / far, heading, last / WIDE]
        ages = [(age == torch.arange(3, device=age.device)).float() for age in (rest, looked)]
        ages += [(rest / LONG).clamp(max=5), (rest / 100).clamp(max=2), (looked / LONG).clamp(max=2)]
        kinds = (kind == torch.arange(1, self.kinds + 1, device=kind.device)).float()
        vitals, since, light, lasted = life_of(place).split((2, 1, 1, 1), -1)
        counted = (since.clamp(-1, LONG - 2) == torch.arange(-1, LONG - 1, device=since.device)).float()
        shines = self.light_seen(light[..., 0].long().clamp(0, LIGHTS - 1))
        known = torch.cat([action, vitals, (vitals > 0).float(), counted, there.mean(-2), shines, (lasted / LONG).clamp(max=2)], -1)
        looks = self.look_seen(look[..., 0].long().clamp(0, self.kinds * LOOKS))
        numbers = [*(part * there for part in place_of), *ages, there, kinds, looks, known[..., None, :].expand(*bodies.shape[:-1], -1)]
        return self.body(torch.cat(numbers, -1)), known

    def happen(self, seen: Tensor, known: Tensor, bodies: Tensor) -> Tensor:
        """Return how likely each event is, as logits [..., EVENTS]."""
        near = torch.where(bodies[..., :1] > 0, seen, 0).amax(-2)
        return self.happens(torch.cat([near, known], -1))

    def act(self, seen: Tensor, event: Tensor) -> Tensor:
        """Return what tells how bodies act [..., bodies, d] as an event [...] happens."""
        return F.relu(self.acts(seen) + self.event_seen(event)[..., None, :])

    def show(self, acts: Tensor, step: Tensor, turn: Tensor, bodies: Tensor) -> Tensor:
        """Return how likely each picture of the album is, as logits [..., bodies, pictures], for bodies that step and turn so [..., bodies]."""
        looks = self.looks(F.relu(acts + self.step_seen(step) + self.turn_seen(turn)))
        kinds = torch.arange(looks.shape[-1], device=looks.device) // LOOKS + 1
        return looks.masked_fill(kinds != bodies[..., :1], -1e4)

    def light(self, known: Tensor, event: Tensor) -> Tensor:
        """Return how likely each light is, as logits [..., LIGHTS], as an event [...] happens."""
        return self.lit(torch.cat([self.event_seen(event), known], -1))


class RecallBodies(Recall):
    """Remember a place with bodies in it, and draw what becomes of them and of the player; arguments as in `Recall` and `Fates`.

    Where the player is tell his actions alone: bodies that stand in the way say nothing of it.
    """

    memory: Scene

    def __init__(
        self, shape: tuple[int, int, int], told: int, width: int, blocks: int, follow_width: int, field_of_view: float, bodies: int, kinds: int
    ) -> None:
        self.kinds = kinds
        super().__init__(shape, told, width, blocks, follow_width, field_of_view)
        self.fates = Fates(told, bodies, kinds, self.memory.reach)
        self.chances = self.fates.chances
        layers: list[nn.Module] = [nn.Conv2d(shape[0], 64, 5, padding=2), nn.ReLU()]
        rows = shape[1]
        for _ in range(2):
            layers += [nn.Conv2d(64, 64, 3, (2, 1), 1), nn.ReLU()]
            rows = -(-rows // 2)
        layers += [nn.Conv2d(64, 128, (rows, 3), padding=(0, 1)), nn.ReLU(), nn.Conv2d(128, 1 + kinds * LOOKS + 2 + OCTANTS, 1)]
        self.notice = nn.Sequential(*layers)

    def _make_memory(self, size: tuple[int, int], width: int, field_of_view: float) -> Scene:
        return Scene(size, width, field_of_view, self.kinds)

    @property
    def drawn(self) -> list[nn.Module | nn.Parameter]:
        return [*super().drawn, self.fates]

    @property
    def exact(self) -> list[nn.Module]:
        return [*super().exact, self.fates]

    @torch.no_grad()
    def remembers(self) -> Tensor:
        return self.memory.bare(*self.shape[1:])

    def settled(self, before: Tensor, place: Tensor, picture: Tensor) -> tuple[Tensor, Tensor]:
        return place, place

    def go_on(self, before: Tensor, action: Tensor, place: Tensor, shown: Tensor, chance: Tensor | None = None) -> Tensor:
        """As `Recall.go_on`, with the bodies as they come to be by `chance` [b, runs, chances], numbers from 0 to 1; without it they stay as they are."""
        own, rest, known = super().go_on(before, action, place[..., :PLACE], shown[..., :PLACE]), place[..., PLACE:], self._known(place)
        if not bool(known.all()):
            rest = torch.where(known, rest, self._begun(own, before))
        return self._befall(torch.cat([place[..., :PLACE], rest], -1), torch.cat([own, rest], -1), action, chance)

    def expect(self, actions: Tensor, place: Tensor, chance: Tensor | None = None) -> Tensor:
        """As `Recall.expect`, with `chance` [b, f, chances] as in `go_on`."""
        places = []
        for frame, own in enumerate(super().expect(actions, place[..., :PLACE]).split(1, 1)):
            at = slice(frame, frame + 1)
            now = torch.cat([own, place[..., PLACE:]], -1)
            place = self._befall(place, now, actions[:, at], None if chance is None else chance[:, at])
            places.append(place)
        return torch.cat(places, 1)

    @torch.no_grad()
    def find(self, seen: Tensor, actions: Tensor) -> Tensor:
        """As `Recall.find`, with the light and the bodies that are seen in the last frames. The player is sought where lives begin, and only his heading."""
        found = [self._found(frame) for frame in seen[:, -1].float()]
        own, light = (torch.stack(parts)[:, None] for parts in zip(*found, strict=True))
        rest = self._begun(own, seen[:, -1:])
        return torch.cat([own, rest[..., :3], light, rest[..., 4:]], -1)

    def _found(self, frame: Tensor) -> tuple[Tensor, Tensor]:
        """Return a place [8] from which a latent frame [c, h, w] may have been taken, and the light in it [1]."""
        size = self.shape[1:]
        colours = self.colour(frame[None].to(self.colour.weight.dtype)).float().flatten(2)
        bare = self.memory.bare(*size)
        kept = *self.memory.parameters(), self.fates.first
        around = self._kept("around", lambda: self.memory(self._stand(self._around(frame)), size)[0].flatten(2), *kept)
        like = fit_light(around, colours.expand(len(around), -1, -1), bare.flatten(2))[1].argmin()
        brighter, added = self.memory.lights.unflatten(1, (2, 3, 1)).unbind(1)
        light = unlike(torch.addcmul(added, around[like], 1 + brighter), colours, bare.flatten(2), AGREED).argmin()
        headings, apart = self._around(frame), []
        for some in headings.split(48):
            places = F.pad(self._stand(some), (0, LIFE + BODY))
            places[:, PLACE + 3] = light
            apart.append(unlike(self.remember(places)[:, :-1].flatten(2), frame.flatten(1), bare.flatten(2), ALIKE))
        return self._stand(headings[torch.cat(apart).argmin()][None])[0], light[None].float()

    def _around(self, like: Tensor) -> Tensor:
        """Return headings all around, in radians."""
        return torch.arange(AROUND, device=like.device) * (2 * math.pi / AROUND)

    def _stand(self, headings: Tensor) -> Tensor:
        """Return places [n, 8] where lives begin, with headings [n] in radians."""
        return F.pad(torch.cat([self.fates.first[:2].float().expand(len(headings), -1), along(headings[:, None])], 1), (0, PLACE - 4))

    def noticed(self, frames: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return what is noticed in each column of latent frames [n, c, h, w].

        Logits of no body and of the pictures of the album [n, pictures + 1, w], how far ahead it is as a logarithm, how far right of the column's middle, in
        columns, [n, w] each, and logits of its heading: eight directions as they are seen by the player [n, 8, w].
        """
        looks, ahead, right, heading = self.notice(frames.to(self.told.weight.dtype))[:, :, 0].float().split((1 + self.kinds * LOOKS, 1, 1, OCTANTS), 1)
        return looks, ahead[:, 0] + math.log(NEAR), right[:, 0], heading

    def _noticed(self, place: Tensor, frame: Tensor) -> Tensor:
        """Return the bodies [bodies, BODY] that are noticed in a latent frame [c, h, w] from a place [8]."""
        looks, ahead, right, heading = (part[0] for part in self.noticed(frame[None]))
        there = 1 - looks.softmax(0)[0]
        most = F.max_pool1d(there[None], 3, 1, 1)[0]
        columns = ((there > 0.5) & (there == most)).nonzero()[:, 0]
        columns = columns[there[columns].argsort(descending=True)[: self.fates.bodies]]
        look, depth = looks[1:, columns].argmax(0), ahead[columns].exp()
        slope = self.memory.reach * ((columns + 0.5 + right[columns].clamp(-1, 1)) * (2 / len(there)) - 1)
        at = place[:2] + turned(depth[:, None] * torch.stack([torch.ones_like(slope), -slope], 1), place[2:4])
        faces = turned(place[2:4], along(heading[:, columns].argmax(0)[:, None] * (2 * math.pi / OCTANTS)))
        bodies = torch.cat([1 + look[:, None] // LOOKS, at, faces, 1 + look[:, None]], 1)
        return F.pad(bodies, (0, BODY - bodies.shape[1], 0, self.fates.bodies - len(bodies)))

    def _begun(self, own: Tensor, frames: Tensor) -> Tensor:
        """Return what comes after places [..., 8] if nothing has happened for long, [..., p - 8], with the bodies that are noticed in frames [..., c, h, w]."""
        bodies = torch.stack([self._noticed(*one) for one in zip(own.flatten(0, -2), frames.flatten(0, -4), strict=True)])
        life = torch.cat([life_of(self.fates.first.float())[:2], own.new_tensor([LONG, 0, LONG])]).expand(len(bodies), -1)
        return torch.cat([life, bodies.flatten(1)], 1).unflatten(0, own.shape[:-1])

    def _befall(self, before: Tensor, now: Tensor, action: Tensor, chance: Tensor | None) -> Tensor:
        if chance is None:
            return now
        with torch.autocast(before.device.type, enabled=False):
            return self.fates(before.float(), now.float(), action.flatten(2).float(), chance.float())


def move(bodies: Tensor, step: Tensor, turn: Tensor, player: Tensor) -> Tensor:
    """Return bodies [..., BODY] after a step along x and y [..., 2] and a turn [...] (TURNS), with the player at a place [..., p]."""
    at = bodies[..., 1:3] + step
    heading = faced(turn, bodies[..., 3:5], player[..., None, :2] - at)
    stepped = step.any(-1, keepdim=True)
    last = torch.where(stepped, F.pad(step, (0, 1)), bodies[..., 7:] + bodies.new_tensor([0, 0, 1]))
    return torch.cat([bodies[..., :1], at, heading, bodies[..., 5:7], last], -1)


def faced(turn: Tensor, heading: Tensor, to_player: Tensor) -> Tensor:
    """Return the headings [..., 2] after turns [...] of bodies that look along `heading` [..., 2] and have the player in a direction [..., 2]."""
    angle = (turn - 2) * (2 * math.pi / OCTANTS)
    along = torch.stack([angle.cos(), angle.sin()], -1)
    return torch.where(turn[..., None] == 0, heading, torch.where(turn[..., None] == 1, F.normalize(to_player, dim=-1, eps=1e-6), along))


def bodies_of(place: Tensor) -> Tensor:
    """Return the bodies [..., bodies, BODY] of places [..., p]."""
    return place[..., PLACE + LIFE :].unflatten(-1, (-1, BODY))


def life_of(place: Tensor) -> Tensor:
    """Return what places [..., p] tell of the player himself, [..., LIFE]."""
    return place[..., PLACE : PLACE + LIFE]


def relative(place: Tensor, bodies: Tensor) -> tuple[Tensor, Tensor]:
    """Return how far ahead and to the left of the player bodies are, [..., bodies] each."""
    heading = F.normalize(place[..., None, 2:4], dim=-1, eps=1e-6)
    return turned(bodies[..., 1:3] - place[..., None, :2], heading * heading.new_tensor([1, -1])).unbind(-1)  # type: ignore[return-value]


def in_view(ahead: Tensor, left: Tensor, reach: float) -> Tensor:
    """Return which bodies so far ahead and to the left may be seen."""
    return (ahead > NEAREST) & (left.abs() < reach * ahead + WIDE)


def picture_of(body: Tensor) -> Tensor:
    """Return which picture of the album shows bodies [..., BODY]; of those whose look is not known the first of their kind."""
    first = (body[..., 0].long() - 1).clamp(min=0) * LOOKS
    return torch.where(body[..., 5] > 0, body[..., 5].long() - 1, first)


def fit_light(made: Tensor, real: Tensor, bare: Tensor) -> tuple[Tensor, Tensor]:
    """Return the light [n, 6] (`Scene.lights`) in which what is remembered [n, 3, pixels] is most like what is seen, and by how much it is not (`unlike`)."""
    brighter, added = torch.ones_like(made[..., :1]), torch.zeros_like(made[..., :1])
    for _ in range(4):
        weight = bare / (1 + (brighter * made + added - real).square().mean(1, keepdim=True) / AGREED)
        total = weight.sum(2, keepdim=True)
        of_made, of_real = ((weight * part).sum(2, keepdim=True) / total for part in (made, real))
        both, alone = ((weight * (made - of_made) * part).sum(2, keepdim=True) / total for part in (real - of_real, made - of_made))
        brighter = (both + 1e-3) / (alone + 1e-3)
        added = of_real - brighter * of_made
    return torch.cat([brighter[..., 0] - 1, added[..., 0]], 1), unlike(brighter * made + added, real, bare, AGREED)


def unlike(made: Tensor, real: Tensor, bare: Tensor, agreed: float) -> Tensor:
    """Return by what mean square [n] what is remembered [n, c, positions] is unlike what is seen; positions that differ by more than `agreed` say little."""
    apart = (made - real).square().mean(1, keepdim=True)
    return (bare * apart / (1 + apart / agreed)).mean((1, 2))


def coverage(middles: Tensor, long: Tensor) -> Tensor:
    """Return what part of pixels with these middles [m, pixels] and so long [m] each of SPRITE cells in a row is, [m, pixels, SPRITE]."""
    low, high = ((middles + half * long[:, None] / 2)[..., None] for half in (-1, 1))
    cell = torch.arange(SPRITE, device=middles.device)
    return (torch.minimum(high, cell + 1.0) - torch.maximum(low, cell + 0.0)).clamp(min=0) / long[:, None, None]


def pick(logits: Tensor, chance: Tensor) -> Tensor:
    """Return the one of the last axis [..., 1] that a number from 0 to 1 [..., 1] takes by its likelihood."""
    return (logits.softmax(-1).cumsum(-1) < chance).sum(-1, keepdim=True).clamp(max=logits.shape[-1] - 1)
