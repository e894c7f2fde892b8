"""Before the student, for worlds with bodies: learn what they look like, what the light may be, and what becomes of bodies and of the player.

The game told where everybody was. What it did not tell is seen: the light is how the brightness of a frame differs from what is remembered of the place, and
looks are clusters of what stands out from it where bodies are. Then every frame is a row of few numbers (`world_model.bodies`), and small networks learn from
one to the next what may happen: as likelihoods of what was seen to happen, not as means.
"""

import math
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from world_model.bodies import BODY, LEFT, LIFE, LOOKS, OCTANTS, SPRITE, TURNS, Fates, RecallBodies, bodies_of, faced, fit_light, in_view, life_of, relative
from world_model.recall import PLACE, turned
from world_model.training.data import Clips
from world_model.training.ranks import count_ranks, share

if TYPE_CHECKING:
    from world_model.training.student import LatentClips

HUNDRED = 100.0  # the unit of the player's numbers
FEW = 24, 32  # rows and columns of pictures by which the light is told
SOME = 48, 64  # of those that stand behind bodies
CROP = 32  # pixels along the sides of what is compared with the album
CLOSE = 0.16  # of the map: nearer bodies fill the album
BEHIND = 0.06, 0.12  # by how much a pixel must differ from what is behind a body to be a part of it, and how much more to be so for sure
MANY = 4000  # bodies of a kind that fill the album
USUAL = 0.12  # by how much a light may differ from the usual one and be taken for it
SMOKE = 7  # frames after a shot in which bodies are not seen clearly
BRIGHT = 0.75  # of the usual contrast, that is clearly
DAZZLING, DAZZLED = 0.4, 7  # brightness of a shot, for which nothing can be seen in squares of so many pixels
BARE, RECOIL = 0.75, 15  # how much of a pixel is bare that nothing moves over, likewise
DARK = 0.4  # of the usual contrast: with less nobody can tell a look
FATED = 512  # frames in a batch of what may happen


def follow_bodies(clips: Clips, slots: int, kinds: int, low: Tensor, span: Tensor) -> Tensor:
    """Return what frames tell besides the player's own place [n, p - 8] (`world_model.bodies`), as far as the game told it: neither looks nor lights.

    Every body keeps its slot, and what is left of it, too; as a life begins they are in the order of their numbers.
    """
    told = np.zeros((len(clips.states), LIFE + slots * BODY), np.float32)
    life, bodies = told[:, :LIFE], told[:, LIFE:].reshape(len(told), slots, BODY)
    life[:, :2] = clips.vitals / HUNDRED
    where = (clips.bodies[..., 2:4] - low.numpy()) / float(span)
    angle = np.deg2rad(clips.bodies[..., 4])
    for first, end in pairwise(clips.bounds):
        owners = [-1.0] * slots
        for row in range(first, end):
            begins = row == first or clips.vitals[row, 0] > clips.vitals[row - 1, 0]
            crowd = {number: place for place, number in enumerate(clips.bodies[row, :, 0]) if number >= 0}
            before = np.zeros_like(bodies[row]) if begins else bodies[row - 1]
            owners = [-1.0] * slots if begins else owners
            now = bodies[row]
            for slot, owner in enumerate(owners):
                if owner not in crowd and before[slot, 0]:
                    age = 0 if owner >= 0 else before[slot, 9] + 1
                    if age < LEFT:
                        now[slot] = (kinds, *before[slot, 1:5], 0, 0, *before[slot, 7:9], age)
                elif owner < 0:
                    now[slot, 9] = before[slot, 9] + 1
            free = sorted((slot for slot in range(slots) if owners[slot] < 0 and not now[slot, 0]), key=lambda slot: -now[slot, 9])
            owners = [owner if owner in crowd else -1.0 for owner in owners]
            for number in sorted(set(crowd) - set(owners))[: len(free)]:
                owners[free[0]], now[free.pop(0), 9] = number, 0
            for slot, owner in enumerate(owners):
                if owner >= 0:
                    place = crowd[owner]
                    now[slot, :5] = 1 + clips.bodies[row, place, 1], *where[row, place], np.cos(angle[row, place]), np.sin(angle[row, place])
                    if before[slot, 0]:
                        step = now[slot, 1:3] - before[slot, 1:3]
                        now[slot, 7:9], now[slot, 9] = (step, 0) if np.abs(step).max() > 1e-5 else (before[slot, 7:9], before[slot, 9] + 1)
            happened = begins or (clips.vitals[row] != clips.vitals[row - 1]).any()
            life[row, 2] = -1 if begins else 0 if happened else life[row - 1, 2] + 1
    return torch.from_numpy(told)


@torch.no_grad()
def list_what_happens(fates: Fates, clips: "LatentClips") -> None:
    """Fill the tables of what may be drawn: the beginning of a life, steps and entries of bodies, and events."""
    places = torch.cat([clips.own, clips.told], 1)
    rows = torch.from_numpy(clips.clips.starts(2))
    goes_on = life_of(places)[rows + 1, 2] >= 0
    before, after = places[rows[goes_on]], places[rows[goes_on] + 1]
    was, now = bodies_of(before), bodies_of(after)
    stays, comes = (was[..., 0] > 0) & (now[..., 0] == was[..., 0]), (was[..., 0] == 0) & (now[..., 0] > 0)
    fates.first.copy_(places[life_of(places)[:, 2] < 0].median(0).values)
    _fill(fates.steps, _usual(now[stays][:, 1:3] - was[stays][:, 1:3], len(fates.steps), 1e-4))
    _fill(fates.events, _usual((life_of(after) - life_of(before))[:, :2], len(fates.events) - 1, 1e-3))
    entries = now[comes][:, :5]
    _fill(fates.entries, cluster(entries, min(len(fates.entries), len(entries.unique(dim=0)))))
    fates.entries[:, 0].round_()


@torch.no_grad()
def meet(recall: RecallBodies, clips: "LatentClips") -> None:
    """Learn which lights there are, and what bodies look like: where they are close, alone and clearly to be seen. The place itself must be known."""
    memory, places = recall.memory, torch.cat([clips.own, clips.told], 1)
    light = see_lights(recall, clips)
    usual = light.median(0).values
    odd = light[(light - usual).abs().amax(1) > USUAL]
    memory.lights.copy_(usual)
    if len(odd) >= len(memory.lights):
        memory.lights[1:] = cluster(odd, len(memory.lights) - 1)
    places[:, PLACE + 3] = _nearest(light, memory.lights)
    rows, slots, ahead, left = seen_bodies(recall, places)
    bright, smoke = memory.lights[places[:, PLACE + 3].long(), :3].amin(1) > BRIGHT - 1, _smoke(places)
    alone = _apart(rows, ahead, left) & (ahead < CLOSE) & bright[rows]
    for kind in range(1, recall.kinds + 1):
        chosen = (alone & (bodies_of(places)[rows, slots, 0] == kind) & ~(smoke[rows] & (kind < recall.kinds))).nonzero()[:, 0]
        chosen = chosen[ahead[chosen].argsort()[:MANY]]
        if len(chosen) >= LOOKS:
            memory.album[(kind - 1) * LOOKS : kind * LOOKS] = fill_album(recall, clips, places, *(part[chosen] for part in (rows, ahead, left)))


def observe(recall: RecallBodies, clips: "LatentClips") -> Tensor:
    """Return the places [n, p] of all frames, with the lights and looks that are seen."""
    places = torch.cat([clips.own, clips.told], 1)
    with torch.no_grad():
        places[:, PLACE + 3] = _nearest(see_lights(recall, clips), recall.memory.lights)
        rows, slots, ahead, left = seen_bodies(recall, places)
        bodies = bodies_of(places)  # a part of them, which is filled here
        for part in _place_by_place(clips.own[rows]).split(1024):
            bodies[rows[part], slots[part], 5] = _looks(recall, clips, places, rows[part], slots[part], ahead[part], left[part])
    begins = life_of(places)[:, 2] < 0
    places[:, PLACE + 4] = _lasted(places[:, PLACE + 3], begins)
    for slot in range(bodies.shape[1]):
        there = bodies[:, slot, 0] > 0
        bodies[:, slot, 6] = _lasted(bodies[:, slot, 5], begins | (there & ~there.roll(1))) * there
    return places


def fate_loss(recall: RecallBodies, clips: "LatentClips", history: int, rng: np.random.Generator) -> Tensor:
    """Return how unlikely it was, in nats, what happened in some randomly drawn frames: to the player, to bodies and to their looks, and to the light."""
    fates = recall.fates
    starts = clips.clips.starts(2)
    rows = share(starts[rng.integers(len(starts), size=count_ranks() * FATED)])
    before, after = clips.places[torch.from_numpy(rows)], clips.places[torch.from_numpy(rows) + 1]
    action = torch.from_numpy(clips.clips.histories(rows + 1, history)).flatten(1)
    begins = life_of(after)[:, 2] < 0
    change = (life_of(after) - life_of(before))[:, :2]
    event = torch.where(begins, len(fates.events) - 1, _nearest(change, fates.events[:-1]))
    was, now = bodies_of(before), bodies_of(after)
    kind, there = was[..., 0], was[..., 0] > 0
    lives, left = there & (kind < recall.kinds), now[..., 0] == recall.kinds
    step = _nearest(now[..., 1:3] - was[..., 1:3], fates.steps)
    turn = _turns(was, now, after)
    with torch.autocast(before.device.type, enabled=False):
        seen, known = fates.see(before, action)
        losses = [F.cross_entropy(fates.happen(seen, known, was), event), F.cross_entropy(fates.light(known, event)[~begins], after[~begins, PLACE + 3].long())]
        lives, there, free = (part & ~begins[:, None] for part in (lives, there, ~there))
        stays = lives & ~left
        acts = fates.act(seen, event)
        ends, steps, turns = fates.goes(acts).split((1, len(fates.steps), TURNS), -1)
        losses.append(F.binary_cross_entropy_with_logits(ends[lives][:, 0], left[lives].float()))
        losses += [F.cross_entropy(steps[stays], step[stays]), F.cross_entropy(turns[stays], turn[stays])]
        entry = torch.where(now[..., 0] > 0, 1 + _nearest(now[..., :5], fates.entries), 0)
        losses.append(F.cross_entropy(fates.comes(acts)[free], entry[free]))
        viewed = there & (now[..., 5] > 0)
        looks = fates.show(acts, torch.where(left, 0, step), torch.where(left, 0, turn), now)
        losses.append(F.cross_entropy(looks[viewed], now[..., 5][viewed].long() - 1))
    return torch.stack([loss for loss in losses if bool(loss.isfinite())]).sum()


def notice_loss(recall: RecallBodies, clips: "LatentClips", frames: int, rng: np.random.Generator) -> Tensor:
    """Return how unlikely it is, in nats, what stands in each column of some randomly drawn frames, and by how much its place there is wrong."""
    rows = torch.from_numpy(share(rng.integers(len(clips.latents), size=count_ranks() * frames)))
    places = clips.places[rows]
    bodies, columns = bodies_of(places), clips.latents.shape[-1]
    ahead, left = relative(places, bodies)
    where = (1 - left / ahead / recall.memory.reach) * columns / 2
    seen = (bodies[..., 5] > 0) & (where >= 0) & (where < columns)
    looks, far = torch.zeros(len(rows), columns, dtype=torch.long), torch.full((len(rows), columns), math.inf)
    facts = torch.zeros(3, len(rows), columns)
    facing = turned(bodies[..., 3:5], places[:, None, 2:4] * torch.tensor([1, -1]))
    octant = (torch.atan2(facing[..., 1], facing[..., 0]) * (OCTANTS / (2 * math.pi))).round() % OCTANTS
    for slot in range(bodies.shape[1]):
        row = seen[:, slot].nonzero()[:, 0]
        column = where[row, slot].long()
        nearer = ahead[row, slot] < far[row, column]
        row, column = row[nearer], column[nearer]
        looks[row, column], far[row, column] = bodies[row, slot, 5].long(), ahead[row, slot]
        facts[:, row, column] = torch.stack([ahead[row, slot].log(), where[row, slot] - column - 0.5, octant[row, slot]])
    made, *guessed, headings = recall.noticed(clips.latents[rows].float())
    there = looks > 0
    apart = torch.stack([(guess - fact)[there].abs().mean() for guess, fact in zip(guessed, facts, strict=False)]).sum()
    return F.cross_entropy(made, looks) + apart + 0.2 * F.cross_entropy(headings.movedim(1, 2)[there], facts[2][there].long())


def see_lights(recall: RecallBodies, clips: "LatentClips") -> Tensor:
    """Return by how much frames are brighter than what is remembered from their places, and what is added to it, [n, 6]: most of their pixels agree."""
    found = torch.zeros(len(clips.own), 6)
    bare = recall.memory.bare(*FEW).flatten(2)
    for rows in _place_by_place(clips.own).split(512):
        made = _remembered(recall, clips.own[rows], FEW).flatten(2)
        real = _frames(clips, rows, FEW).flatten(2)
        found[rows] = fit_light(made, real, bare)[0]
    return found


def seen_bodies(recall: RecallBodies, places: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return of all bodies that are in view, in light enough, their rows, slots, and how far ahead and to the left they are [m]."""
    bodies = bodies_of(places)
    ahead, left = relative(places, bodies)
    bright = recall.memory.lights[places[:, PLACE + 3].long(), :3].amin(1) > DARK - 1
    rows, slots = ((bodies[..., 0] > 0) & in_view(ahead, left, recall.memory.reach) & bright[:, None]).nonzero(as_tuple=True)
    return rows, slots, ahead[rows, slots], left[rows, slots]


def fill_album(recall: RecallBodies, clips: "LatentClips", places: Tensor, rows: Tensor, ahead: Tensor, left: Tensor) -> Tensor:
    """Return LOOKS pictures [looks, 4, SPRITE, SPRITE] of bodies of one kind: the means of clusters of what stands out where they are."""
    found, weights = [], []
    for part in torch.arange(len(rows)).split(256):
        real, behind, weight = _crops(recall, clips, places, rows[part], ahead[part], left[part], SPRITE, recall.memory.size)
        hides = (((real - behind).abs().amax(1, keepdim=True) - BEHIND[0]) / BEHIND[1]).clamp(0, 1)
        found.append(torch.cat([real * hides, hides], 1))
        weights.append(weight)
    pictures, weight = torch.cat(found), torch.cat(weights)
    clear = weight.mean((1, 2, 3)) > 0.5
    pictures, weight = pictures[clear], weight[clear]
    rough = (F.adaptive_avg_pool2d(pictures, 16) * F.adaptive_avg_pool2d(weight, 16)).flatten(1)
    which = _nearest(rough, cluster(rough, LOOKS))
    album = torch.zeros(LOOKS, 4, SPRITE, SPRITE)
    for look in range(LOOKS):
        of, much = pictures[which == look], weight[which == look]
        if len(of):
            mean = (of * much).sum(0) / much.sum(0).clamp(min=1e-3)
            album[look] = torch.cat([mean[:3] / mean[3:].clamp(min=0.05), mean[3:]])
    return album


def _looks(recall: RecallBodies, clips: "LatentClips", places: Tensor, rows: Tensor, slots: Tensor, ahead: Tensor, left: Tensor) -> Tensor:
    """Return which pictures of the album, counted from 1, bodies look most like [m]."""
    kind = bodies_of(places)[rows, slots, 0].long()
    real, behind, weight = _crops(recall, clips, places, rows, ahead, left, CROP, SOME)
    album = F.avg_pool2d(recall.memory.album, SPRITE // CROP).unflatten(0, (recall.kinds, LOOKS))
    look = torch.zeros(len(rows))
    for number in range(recall.kinds):
        of = (kind == number + 1).nonzero()[:, 0]
        for some in of.split(128):
            hides = album[number, :, 3:].clamp(0, 1)
            shown = torch.lerp(behind[some, None], album[number, :, :3], hides)
            apart = ((shown - real[some, None]).square().mean(2) * weight[some]).sum((2, 3))
            look[some] = 1.0 + number * LOOKS + apart.argmin(1)
    return look


def _crops(
    recall: RecallBodies, clips: "LatentClips", places: Tensor, rows: Tensor, ahead: Tensor, left: Tensor, pixels: int, size: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what is seen where bodies are in frames, as in the usual light, what is behind them [m, 3, pixels, pixels], and what of it counts [m, 1, ...]."""
    memory = recall.memory
    brighter, added = memory.lights[places[rows, PLACE + 3].long()].unflatten(1, (2, 3, 1, 1)).unbind(1)
    real = (_frames(clips, rows, memory.size) - added) / (1 + brighter)
    behind = _remembered(recall, places[rows, :PLACE], size)
    bare = memory.bare(*memory.size)
    dazzles, recoils = (real.mean(1, keepdim=True) > DAZZLING).float(), (bare < BARE).float()  # what moves with the eye moves a little more then
    in_the_way = [F.max_pool2d(images, pixels, 1, pixels // 2) for images, pixels in ((dazzles, DAZZLED), (recoils, RECOIL))]
    bare = bare * (1 - torch.maximum(*in_the_way) * _smoke(places)[rows, None, None, None])
    (real, inside), (behind, _), (bare, _) = (memory.look_at(picture, places[rows], ahead, left, pixels) for picture in (real, behind, bare))
    return real, behind, bare * inside


def _place_by_place(own: Tensor) -> Tensor:
    """Return the order [n] in which those of places [n, 8] that are the same come together."""
    return own.unique(dim=0, return_inverse=True)[1].argsort()


def _remembered(recall: RecallBodies, own: Tensor, size: tuple[int, int]) -> Tensor:
    """Return what is remembered from places [n, 8] without anybody else, [n, 3, height, width]; who turns on the spot sees the same again and again."""
    places, back = own.unique(dim=0, return_inverse=True)
    return recall.memory(places, size)[0][back]


def cluster(points: Tensor, count: int, rounds: int = 15) -> Tensor:
    """Return the middles [count, d] of clusters of points [n, d] (k-means; it begins with points that are far apart)."""
    some = points[torch.linspace(0, len(points) - 1, min(len(points), 20000)).long()]
    chosen = [int((some - some.mean(0)).square().sum(1).argmin())]
    apart = (some - some[chosen[0]]).square().sum(1)
    rng = torch.Generator().manual_seed(0)
    while len(chosen) < count:
        chosen.append(int(torch.multinomial(apart.double() + 1e-12, 1, generator=rng)))
        apart = torch.minimum(apart, (some - some[chosen[-1]]).square().sum(1))
    middles = some[chosen].clone()
    for _ in range(rounds):
        which = _nearest(some, middles)
        for number in which.unique():
            middles[number] = some[which == number].mean(0)
    return middles


def _frames(clips: "LatentClips", rows: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(clips.pictures(rows.numpy()), size, mode="area")


def _turns(was: Tensor, now: Tensor, player: Tensor) -> Tensor:
    """Return how bodies [..., bodies, BODY] turned: one of TURNS."""
    kinds = torch.arange(TURNS)
    ways = faced(kinds, was[..., None, 3:5], player[..., None, None, :2] - now[..., None, 1:3])
    alike = (ways * now[..., None, 3:5]).sum(-1)
    return (alike - torch.tensor([-1e-3, 0, *[-1e-4] * OCTANTS])).argmax(-1)


def _usual(rows: Tensor, count: int, unit: float) -> Tensor:
    """Return the most usual rows [count or fewer, d] to the precision of a unit, the most usual one first."""
    unique, numbers = (rows / unit).round().unique(dim=0, return_counts=True)
    return unique[numbers.argsort(descending=True)[:count]] * unit


def _fill(table: Tensor, rows: Tensor) -> None:
    """Fill a table [n, d] with rows [m, d], and what is left of it with the first of them."""
    table.copy_(rows[0])
    table[: len(rows)] = rows


def _smoke(places: Tensor) -> Tensor:
    """Return at which of places [n, p], one frame after the other, a shot was fired in the last SMOKE frames."""
    shots = life_of(places)[:, 1]
    return F.max_pool1d(F.pad((shots != shots.roll(1)).float(), (SMOKE - 1, 0))[None], SMOKE, 1)[0] > 0


def _nearest(rows: Tensor, table: Tensor) -> Tensor:
    """Return the number of the nearest row of a table [m, d] to each row [..., d]."""
    return torch.cat([torch.cdist(some, table.detach()).argmin(1) for some in rows.reshape(-1, rows.shape[-1]).split(8192)]).view(rows.shape[:-1])


def _lasted(values: Tensor, begins: Tensor) -> Tensor:
    """Return for how many rows values [n] have been the same, counted anew where something begins."""
    row = torch.arange(len(values))
    changed = begins | (values != values.roll(1))
    changed[0] = True
    return (row - torch.where(changed, row, 0).cummax(0).values).float()


def _apart(rows: Tensor, ahead: Tensor, left: Tensor) -> Tensor:
    """Return which bodies [m] have no other one nearby in their frame."""
    alone = torch.ones(len(rows), dtype=torch.bool)
    slope, wide = left / ahead, 0.02 / ahead
    for shift in range(1, 4):
        with_next = rows[shift:] == rows[:-shift]
        close = with_next & ((slope[shift:] - slope[:-shift]).abs() < torch.maximum(wide[shift:], wide[:-shift]) * 2)
        alone[shift:] &= ~close
        alone[:-shift] &= ~close
    return alone
