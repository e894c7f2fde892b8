"""Stage 3: train the causal student on real clips, in the shapes the engine will use (rolling initialisation).

One sequence holds a clip twice: clean, as the past, and noisy, cut into windows that do not overlap. Clean frames look back; each window looks at the clean
frames before it and at all of itself, at a rising ladder of noise levels. As in play: the sink is two frames from the beginning of the past (adjacent, or
from long before), the past is a little wrong, and windows come in warm-up shapes too. All frames of a window are told the action of its first one, as the
player holds it; those from which on the real player did something else carry no loss. What a frame ahead of the front moves is not the true frame before it
but what the network made of that one a tick earlier. And where the action of the first frame is a new one, the whole window is noised up from what the network
speculated under the old one: so it learns to change its mind. Some windows follow such guesses instead of real frames: the past in play is one that the
network made, and it has to find back from there.
"""

import copy
import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from world_model.attention import attention, may_look, rotary_table, rotate
from world_model.autoencoder import Autoencoder
from world_model.bodies import RecallBodies
from world_model.context import ContextConfig
from world_model.noise import AddressedNoise
from world_model.precision import fast_autocast, fastest
from world_model.recall import PLACE, along
from world_model.schedule import add_noise
from world_model.stream import RollingWindow, WindowConfig, hold
from world_model.training.autoencoder import encode_all
from world_model.training.bodies import follow_bodies, observe
from world_model.training.data import Clips
from world_model.training.optimizer import MuonAdamW
from world_model.training.ranks import average_gradients, count_ranks, is_first, normal_like, shard, share, wait_for_all, whole
from world_model.training.recall import NEARLY, blur, blurred_places
from world_model.training.rollout import Rollout, RolloutRecipe
from world_model.training.run import Average, Run, Stateful, learning_rate, save
from world_model.transformer import Transformer, TransformerConfig


@dataclass(frozen=True)
class StudentRecipe:
    """How to train a student.

    ``clip_windows`` full windows per clip carry loss; the past of ``past_noise_share`` of the clips is noised, by a standard deviation of up to
    ``past_noise``, and of as many blurred, by a share of up to ``past_blur``. In a share ``guessed_before`` of the steps frames ahead move guesses,
    windows whose action is a new one hold what was guessed under the old one, and of ``guessed_past`` of the clips the past of later windows is guessed,
    too. After the share ``rollout_from`` of the steps, every step corrects one tick of rollouts on the student's own history, and clips only every other.
    With ``stands_out`` errors count up to ten times that more near where the frame before a window differs from the usual one, and clips that go on from such
    frames are drawn more often: of monsters far away a plain mean says next to nothing. What the network cannot know yet must not say what an error counts:
    it would learn to see monsters everywhere, as those it misses cost more than those it makes up.
    With ``shard`` every process keeps a part of the parameters.
    """

    model: TransformerConfig = TransformerConfig(
        dim=256, ffn_dim=1024, in_channels=4, patch_size=(4, 8), places=(6, 4), motion_channels=64, motion_blocks=4, num_actions=5, action_history=8
    )
    window: WindowConfig = WindowConfig((1.0, 0.75, 0.3), context=ContextConfig(sink=2, cache=17, attention=21))
    steps: int = 5000
    batch: int = 4
    clip_windows: int = 5
    muon_rate: float = 0.01
    adam_rate: float = 1e-3
    past_noise: float = 0.1
    past_blur: float = 0.3
    past_noise_share: float = 0.5
    guessed_before: float = 0.75
    guessed_past: float = 0.3
    level_jitter: float = 0.5
    short_share: float = 0.4
    flat_share: float = 0.2
    stands_out: float = 0.0
    rollout: RolloutRecipe = RolloutRecipe()
    rollout_from: float = 1.0
    shard: bool = False


class ClipAttention:
    """How a training clip attends (an `Attend`): sink and clean frames are block-causal, each window sees its past and itself.

    Args:
        past: number of clean frames in the sequence, the sink included.
        windows: (clean frames it sees, first noisy frame, number of frames) of each window.
        positions: temporal position of every frame in the sequence.
    """

    CHUNK = 4  # clean frames attended at once: what no frame of a chunk may see is not computed

    def __init__(self, past: int, windows: list[tuple[int, int, int]], positions: tuple[int, ...], grid: tuple[int, int], head_width: int) -> None:
        self.tokens = grid[0] * grid[1]
        self.past, self.windows = past, windows
        self.table = rotary_table(positions, *grid, head_width)
        frame = torch.arange(past).repeat_interleave(self.tokens)
        self.mask = may_look(frame[:, None] >= frame[None, :])
        chunk = self.CHUNK * self.tokens
        self.chunks = [slice(first, min(first + chunk, len(frame))) for first in range(0, len(frame), chunk)]

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k = rotate(q, self.table), rotate(k, self.table)
        n = self.past * self.tokens
        outputs = [attention(q[:, c], k[:, : c.stop], v[:, : c.stop], self.mask[c, : c.stop]) for c in self.chunks]
        for seen, first, size in self.windows:
            own = slice(n + first * self.tokens, n + (first + size) * self.tokens)
            past = slice(0, seen * self.tokens)
            outputs.append(attention(q[:, own], torch.cat([k[:, past], k[:, own]], 1), torch.cat([v[:, past], v[:, own]], 1)))
        return torch.cat(outputs, 1)


@dataclass(frozen=True)
class Layout:
    """Shape of one batch: where its windows lie and how large they are."""

    sink: int
    offset: int  # clean frames before the first window, the sink not counted; at least one
    size: int  # frames per window
    count: int  # windows

    @property
    def frames(self) -> int:
        """Length of the clip, the sink not counted."""
        return self.offset + self.size * self.count

    def before_windows(self, clips: Tensor) -> Tensor:
        """Return of clips with their sinks [batch, sink + frames, ...] the last frame before each window, [batch, windows, ...]."""
        return clips[:, self.sink + self.offset - 1 : -1 : self.size]

    def attention(self, grid: tuple[int, int], head_width: int) -> ClipAttention:
        """Return how this layout attends."""
        clean = self.frames - self.size
        noisy = range(self.offset, self.frames)
        windows = [(self.sink + self.offset + i * self.size, i * self.size, self.size) for i in range(self.count)]
        positions = (*range(self.sink + clean), *(self.sink + i for i in noisy))
        return ClipAttention(self.sink + clean, windows, positions, grid, head_width)


def draw_layout(recipe: StudentRecipe, rng: np.random.Generator) -> Layout:
    """Draw the shape of one batch: mostly full windows, sometimes the shorter ones of warm-up and frame-by-frame sampling."""
    full = len(recipe.window.ladder)
    size = int(rng.integers(1, full)) if rng.random() < recipe.short_share else full
    offset = int(rng.integers(1, full + 1))
    return Layout(recipe.window.context.sink, offset, size, recipe.clip_windows * full // size)


def draw_levels(recipe: StudentRecipe, layout: Layout, batch: int, rng: np.random.Generator) -> Tensor:
    """Draw the noise levels [batch, noisy frames]: a run of the ladder for each window, jittered between its neighbours.

    A share of the clips has one level for all frames instead: in this shape the network is the teacher of the distillation.
    """
    ladder = np.array(recipe.window.ladder)
    full = len(ladder)
    shape = (batch, layout.count)
    lowest = np.where(rng.random(shape) < 0.6, layout.size - 1, rng.integers(layout.size - 1, full, size=shape))  # warm-up: the noisy end
    sigma = ladder[lowest[..., None] - np.arange(layout.size)]
    logit = np.log(sigma / (1 - np.minimum(sigma, 0.995))) + recipe.level_jitter * rng.standard_normal(sigma.shape)
    sigma = np.where(sigma < 1, 1 / (1 + np.exp(-logit)), 1.0)
    flat = rng.random((batch, 1, 1)) < recipe.flat_share
    sigma = np.where(flat, rng.uniform(0.02, 0.98, (batch, 1, 1)), sigma)
    return torch.from_numpy(sigma.reshape(batch, -1).astype(np.float32))


BEFORE_ROLLOUTS = "student-before-rollouts.pt"  # averaged weights that have seen real pasts only: the better teacher for a distillation
STRIP = 48  # frames of the rollouts that are shown
NEAR = 5, 13  # rows and columns of latents around a body that it may be at a few frames later, while who looks turns
MAP_STEP = 16  # in the game's own units: a map keeps its size when more is collected


@dataclass(frozen=True)
class LatentClips:
    """All latents [n, c, h, w] (bfloat16) of a set of clips, with their actions, seen `from_above` or not (`world_model.above`).

    With `bodies` of so many `kinds` (`world_model.bodies`) there are so many at most, and who knows what they look like is their `witness`.
    """

    clips: Clips
    latents: Tensor
    from_above: bool = False
    bodies: int = 0
    kinds: int = 1
    witness: RecallBodies | None = None

    @classmethod
    def encode(cls, clips: Clips, autoencoder: Autoencoder, path: Path, model: TransformerConfig | None = None) -> "LatentClips":
        """Encode all frames once and keep them at `path`, for a model; again if these are other clips or it is another autoencoder."""
        of = cls._name(clips, autoencoder)
        if is_first() and not (path.exists() and cls._read(path).get("of") == of):
            parts, encoder = [], copy.deepcopy(autoencoder).to(fastest())  # as a world runs in play
            for i in range(0, len(clips.frames), 4096):
                parts.append(encode_all(encoder, clips.frames[i : i + 4096]).bfloat16().contiguous())
                print(f"encoding {min(i + 4096, len(clips.frames))}/{len(clips.frames)} frames", flush=True)
            save({"of": of, "latents": torch.cat(parts)}, path)
        wait_for_all()
        latents = cls._read(path)["latents"]
        return cls(clips, latents) if model is None else cls(clips, latents, model.from_above, model.bodies, model.kinds)

    def witnessed(self, model: Transformer, like: "LatentClips | None" = None) -> "LatentClips":
        """Return the same with a model's memory as the witness of bodies, if it has any, on the map of others `like` these."""
        clips = self if not isinstance(getattr(model, "recall", None), RecallBodies) else replace(self, witness=model.recall)  # type: ignore[arg-type]
        if like is not None:
            clips.__dict__["map"] = like.map
        return clips

    @staticmethod
    def _name(clips: Clips, autoencoder: Autoencoder) -> str:
        """Return what tells clips from others (by what was done in them) and an autoencoder from others."""
        told = hashlib.sha256(clips.bounds.tobytes() + clips.actions.tobytes())
        for weight in autoencoder.state_dict().values():
            told.update(weight.float().numpy().tobytes())
        return told.hexdigest()

    @staticmethod
    def _read(path: Path) -> dict[str, Any]:
        saved = torch.load(path, weights_only=True, mmap=True)
        return saved if isinstance(saved, dict) else {}

    def draw(self, layout: Layout, batch: int, history: int, rng: np.random.Generator, stands_out: float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
        """Draw clips with their sinks; `stands_out` as in `draw_starts`, for the frame before the first window.

        Returns:
            latents [batch, sink + frames, c, h, w], the actions that led to them [batch, sink + frames, history, actions], and their true places
            [batch, sink + frames, numbers].
        """
        length = layout.sink + layout.frames
        rows = self.with_sinks(self.draw_starts(length, layout.sink + layout.offset - 1, batch, rng, stands_out), layout.sink, length, rng)
        return self.latents[torch.from_numpy(rows)].float(), torch.from_numpy(self.clips.histories(rows, history)), self.places[torch.from_numpy(rows)]

    @cached_property
    def places(self) -> Tensor:
        """The true places [n, 8] (`world_model.recall`), on a map that ends at multiples of MAP_STEP around all positions; zeros where they are unknown.

        Of who is seen from above it is not the heights that are told, but his last turn. Those that have a witness go on with life and bodies.
        """
        return self.own if self.witness is None else observe(self.witness, self)

    @cached_property
    def told(self) -> Tensor:
        """What the game told of life and bodies [n, numbers]."""
        return follow_bodies(self.clips, self.bodies, self.kinds, *self.map)

    @cached_property
    def own(self) -> Tensor:
        """The true places of the player alone [n, 8]."""
        states, (low, span) = torch.from_numpy(self.clips.states), self.map
        heading, height = states[:, 2:3].deg2rad(), states[:, 3:] - states[:, 3].median()
        begins = torch.zeros(len(states), 1, dtype=torch.bool)
        begins[torch.from_numpy(self.clips.bounds[:-1])] = True
        earlier, came_from, looked = (torch.where(begins, now, now.roll(1, 0)) for now in (height, states[:, :2], heading))
        turn = torch.atan2((heading - looked).sin(), (heading - looked).cos())
        rest = F.pad(turn, (0, 1)) if self.from_above else torch.cat([height, earlier], 1) / span
        return torch.cat([(states[:, :2] - low) / span, along(heading), rest, (states[:, :2] - came_from) / span], 1)

    @cached_property
    def map(self) -> tuple[Tensor, Tensor]:
        """Where the map begins [2], and how long it is, in the game's own units."""
        positions = self.been / MAP_STEP
        low, high = positions.amin(0).floor() * MAP_STEP, positions.amax(0).ceil() * MAP_STEP
        return low, (high - low).max().clamp(min=MAP_STEP)

    def pictures(self, rows: np.ndarray) -> Tensor:
        """Return frames as pictures [n, 3, height, width] in [-1, 1]."""
        return torch.from_numpy(self.clips.frames[rows]).permute(0, 3, 1, 2).float() / 127.5 - 1

    @cached_property
    def been(self) -> Tensor:
        """Where somebody has been [m, 2], in the game's own units: the player, and bodies."""
        bodies = self.clips.bodies[self.clips.bodies[..., 0] >= 0][:, 2:4] if self.bodies else self.clips.states[:0, :2]
        return torch.from_numpy(np.concatenate([self.clips.states[:, :2], bodies]))

    def prices(self, known: Tensor, stands_out: float) -> Tensor:
        """Return what errors count at each position of frames soon after latent frames [..., c, h, w] that are known: [..., h, w], one in the mean."""
        if not stands_out:
            return torch.ones_like(known[..., 0, :, :])
        return (1 + stands_out * self._salience(known)) / (1 + stands_out * self._mean_salience)

    def draw_starts(self, length: int, at: int, batch: int, rng: np.random.Generator, stands_out: float) -> np.ndarray:
        """Draw the rows [batch] at which clips of so many frames begin: the odds grow with how unusual their frame `at` is, times `stands_out`."""
        starts = self.clips.starts(length)
        if not stands_out:
            return starts[rng.integers(len(starts), size=batch)]
        odds = np.cumsum(1 + stands_out * self._unusual[starts + at])
        return starts[np.searchsorted(odds, odds[-1] * rng.random(batch))]

    @cached_property
    def _unusual(self) -> np.ndarray:
        """How unusual every frame is [n], about one in the mean."""
        return torch.cat([self._salience(some.float()).mean((1, 2)) / self._mean_salience for some in self.latents.split(4096)]).numpy()

    def _salience(self, frames: Tensor) -> Tensor:
        """Return by how many times the mean square of all places frames [..., c, h, w] are unusual NEAR each place, at most ten: [..., h, w]."""
        usual, scale = self._usual
        differences = _differences(frames, usual).div(scale).clamp(max=10)
        return F.max_pool2d(differences.flatten(0, -3)[:, None], NEAR, 1, (NEAR[0] // 2, NEAR[1] // 2)).view_as(differences)

    @cached_property
    def _usual(self) -> tuple[Tensor, Tensor]:
        """The mean frame without its brightness [c, h, w], and the mean square by which frames differ from it."""
        some = self._some()
        usual = (some - some.mean((-1, -2), keepdim=True)).mean(0)
        return usual, _differences(some, usual).mean()

    @cached_property
    def _mean_salience(self) -> Tensor:
        return self._salience(self._some()).mean()

    def _some(self) -> Tensor:
        return self.latents[:: max(1, len(self.latents) // 4096)].float()

    def with_sinks(self, first: np.ndarray, sink: int, length: int, rng: np.random.Generator) -> np.ndarray:
        """Return the rows of clips of `length` frames from the rows `first` on; their first `sink` frames are from there or from long before.

        Where a sink begins is drawn: with the clip itself, or at any time before in its session.
        """
        begin = self.clips.bounds[self.clips.session_of(first)]
        sinks = np.where(rng.random(len(first)) < 0.4, first, rng.integers(begin, first + 1))
        return np.concatenate([sinks[:, None] + np.arange(sink), first[:, None] + np.arange(sink, length)], 1)


def _differences(frames: Tensor, usual: Tensor) -> Tensor:
    """Return the mean square [..., h, w] by which latent frames [..., c, h, w] differ near each position from the usual frame, brightness apart."""
    differences = (frames - frames.mean((-1, -2), keepdim=True) - usual).square().mean(-3)
    return F.avg_pool2d(differences.flatten(0, -3)[:, None], 3, 1, 1, count_include_pad=False).view_as(differences)


def clip_loss(
    model: nn.Module,
    recipe: StudentRecipe,
    latents: Tensor,
    actions: Tensor,
    places: Tensor,
    layout: Layout,
    rng: np.random.Generator,
    prices: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (loss, squared error of x0 per noisy frame [batch, frames], noise levels [batch, frames]) of one batch of clips, as `LatentClips.draw` gives them.

    `prices` [batch, windows, h, w] say what errors of each window's frames count.
    Where the network recalls, it is told nearly where the frame before each window was taken, and sometimes not at all.
    """
    config: TransformerConfig = recipe.model
    batch, sink = count_ranks() * len(latents), layout.sink
    past = sink + layout.frames - layout.size
    worn = [torch.from_numpy(share(rng.random(batch) * (rng.random(batch) < recipe.past_noise_share))).float() for _ in range(2)]
    known = latents[:, sink:] + recipe.past_noise * worn[0][:, None, None, None, None] * normal_like(latents[:, sink:])
    known = blur(known, recipe.past_blur * worn[1])
    target = latents[:, sink + layout.offset :]
    sigma = share(draw_levels(recipe, layout, batch, rng))
    noisy = add_noise(target, normal_like(target), _wide(sigma))
    grid = (latents.shape[3] // config.patch_size[0], latents.shape[4] // config.patch_size[1])
    attend, windows = layout.attention(grid, config.head_width), (layout.count, layout.size)
    place = blurred_places(layout.before_windows(places), rng, **NEARLY, unknown=0.0 if config.bodies else 0.03)
    others = places[:, sink + layout.offset :, PLACE:] if config.bodies else None

    def denoise(known: Tensor, noisy: Tensor, sigma: Tensor, held: Tensor, before: Tensor) -> Tensor:
        x = torch.cat([latents[:, :sink], known[:, : -layout.size], noisy], 1)
        told = torch.cat([actions[:, :past], held.flatten(1, 2)], 1)
        recalled = None
        if config.recall_width:
            with torch.no_grad():  # it has learnt before, in a stage of its own
                recalled = model.recall.follow(before, held.flatten(1, 2), place, others)[1]  # type: ignore[operator,union-attr]
        return model(x, torch.cat([torch.zeros(len(x), past), sigma], 1), attend, told, None, noisy.shape[1], before, recalled)

    lived = layout.before_windows(actions)  # the actions up to the frame before each window
    own = actions[:, sink + layout.offset :, -1].unflatten(1, windows)
    old, new = lived[:, :, -1], own[:, :, 0]
    before = known[:, layout.offset - 1 : -1]
    if layout.size > 1 and rng.random() < recipe.guessed_before:
        levels = sigma.unflatten(1, windows)
        changed = differ(old, new) & (levels[:, :, 0] != levels[:, :, 1])  # a teacher's window, all at one level, has no tick before
        earlier = F.pad(levels[:, :, 1:], (0, 1), value=1.0)  # each frame's level one tick ago; the newest was not there
        earlier = torch.where(changed[..., None], 1.0, earlier).flatten(1)  # what is under way would tell what is to come
        with torch.no_grad():
            guesses = denoise(known, add_noise(target, normal_like(target), _wide(earlier)), earlier, hold(lived, old, layout.size), before)
        changed = changed.repeat_interleave(layout.size, 1)
        noisy = torch.where(_wide(changed), add_noise(guesses, normal_like(target), _wide(sigma)), noisy)
        worn_by_itself = torch.from_numpy(share(rng.random((batch, 1)) < recipe.guessed_past)) & ~changed
        known = torch.cat([known[:, : layout.offset], torch.where(_wide(worn_by_itself), guesses, known[:, layout.offset :])], 1)
        first, guessed = (t.unflatten(1, windows) for t in (known[:, layout.offset - 1 : -1], guesses))
        before = torch.cat([first[:, :, :1], guessed[:, :, :-1]], 2).flatten(1, 2)
    x0 = denoise(known, noisy, sigma, hold(lived, new, layout.size), before)
    errors = (x0 - target).square().mean(2)
    if prices is not None:
        errors = errors * prices.repeat_interleave(layout.size, 1)
    errors = errors.mean((2, 3))
    follows = (~differ(own, new[:, :, None])).cumprod(2).flatten(1)  # where the tape goes on with another action the truth is no answer
    return (follows * errors / sigma.clamp(min=0.3)).mean(), errors.detach(), sigma


def _wide(per_frame: Tensor) -> Tensor:
    return per_frame[..., None, None, None]


def differ(a: Tensor, b: Tensor) -> Tensor:
    """Return where two actions [..., n] are not the same, for analogue ones not nearly."""
    return ((a - b).abs() >= 0.5).any(-1)


def train_student(
    recipe: StudentRecipe,
    train: LatentClips,
    held_out: LatentClips,
    autoencoder: Autoencoder,
    out: Path,
    begin: Mapping[str, Tensor] | None = None,
    stage: Literal["student", "teacher"] = "student",
) -> Transformer:
    """Train, resume or just load the student in `out`; return it with its averaged weights.

    Args:
        begin: the weights that a new run begins from, if not from random ones.
        stage: "teacher" trains the same network on windows that are as noisy in all frames, and on no rollouts.
    """
    if stage == "teacher":
        recipe = replace(recipe, flat_share=1.0, short_share=0.0, rollout_from=1.0)
    torch.manual_seed(0)
    model = Transformer(recipe.model)
    if begin is not None:
        model.load_state_dict(begin)
    if recipe.shard:
        shard(model)
    optimizer = MuonAdamW(model, recipe.muon_rate, recipe.adam_rate)
    average = Average(model)
    rollout = Rollout(recipe.rollout, recipe.window, model, train, recipe.stands_out)
    parts: dict[str, Stateful] = {"model": model, "optimizer": optimizer, "average": average, "rollout": rollout}
    run = Run(out, stage, recipe.steps, parts)
    rollout_losses: list[float] = []
    seen: list[tuple[float, np.ndarray, np.ndarray]] = []
    first_rollout = math.ceil(recipe.rollout_from * recipe.steps)
    for step in run:
        rng = run.rng(step)
        rolls = step >= first_rollout
        if 0 < step == first_rollout:
            keep(out / BEFORE_ROLLOUTS, average)
        if not rolls or step % 2:
            layout = draw_layout(recipe, rng)
            latents, actions, places = (share(drawn) for drawn in train.draw(layout, recipe.batch, recipe.model.action_history, rng, recipe.stands_out))
            with fast_autocast(keep_casts=not recipe.shard):
                prices = train.prices(layout.before_windows(latents), recipe.stands_out)
                loss, errors, sigma = clip_loss(model, recipe, latents, actions, places, layout, rng, prices)
            loss.backward()
            seen.append((loss.item(), errors.numpy().ravel(), sigma.numpy().ravel()))
        if rolls:
            with fast_autocast(keep_casts=not recipe.shard):
                rollout_loss = rollout.loss(rng)
            rollout_loss.backward()
            rollout_losses.append(rollout_loss.item())
        average_gradients(model.parameters())
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step(learning_rate(step, recipe.steps))
        average.update(model)
        if (step + 1) % 50 == 0:
            rolled = {"rollout": float(np.mean(rollout_losses)), "adversary": rollout.told} if rollout_losses else {}
            run.log(step + 1, loss=float(np.mean([s[0] for s in seen])), **by_level(seen, recipe.window.ladder), **rolled)
            seen.clear()
            rollout_losses.clear()
        if (step + 1) % 500 == 0 or step + 1 == recipe.steps:
            sample_strip(averaged(model, average), recipe, held_out, autoencoder, out / f"{stage}.png", rolling=stage == "student")
    return averaged(model, average)


def averaged(model: Transformer, average: Average) -> Transformer:
    """Return a copy of the model with the averaged weights, in evaluation mode."""
    smooth = Transformer(model.config)
    smooth.load_state_dict(whole(average.shadow))
    return smooth.eval()


def keep(path: Path, average: Average) -> None:
    """Write averaged weights to a file of their own."""
    weights = whole(average.shadow)
    if is_first():
        save(weights, path)


def by_level(seen: list[tuple[float, np.ndarray, np.ndarray]], ladder: tuple[float, ...]) -> dict[str, float]:
    """Return the mean error near each level of the ladder."""
    errors, sigmas = np.concatenate([s[1] for s in seen]), np.concatenate([s[2] for s in seen])
    nearest = np.abs(sigmas[:, None] - np.array(ladder)).argmin(1)
    return {f"x0@{level:g}": float(errors[nearest == i].mean()) for i, level in enumerate(ladder) if (nearest == i).any()}


@torch.no_grad()
def sample_strip(
    model: Transformer,
    recipe: StudentRecipe,
    held_out: LatentClips,
    autoencoder: Autoencoder,
    path: Path,
    rows: int = 6,
    frames: int = STRIP,
    rolling: bool = True,
) -> None:
    """Save rollouts beside the truth: for each held-out clip a row of real frames and below it the model's, every fourth frame.

    `rolling` False makes one frame at a time through all levels.
    """
    if not is_first():
        return
    past = recipe.window.context.cache
    starts = held_out.clips.starts(past + frames)
    first = starts[np.linspace(0, len(starts) - 1, rows).astype(int)]
    places = None if held_out.witness is None else held_out.places[torch.from_numpy(first + past - 1)][:, None]  # bodies would have to be noticed
    latents = play_on(model, recipe.window, held_out, first, frames, places, rolling=rolling)
    with fast_autocast():
        made = [autoencoder.decode(frame).numpy() for frame in latents]
    real = held_out.clips.frames[first[:, None] + np.arange(past, past + frames)]
    lines = [np.concatenate(list(line[3::4]), 1) for pair in zip(real, np.stack(made, 1), strict=True) for line in pair]
    Image.fromarray(np.concatenate(lines, 0)).save(path)


@torch.no_grad()
def play_on(
    model: Transformer, config: WindowConfig, clips: LatentClips, first: np.ndarray, ticks: int, places: Tensor | None = None, *, rolling: bool = True
) -> Tensor:
    """Return the latent frames [ticks, n, c, h, w] that a network makes under the tapes that go on from clips.

    Args:
        first: the rows [n] at which the clips begin; as many frames as the context holds are the past.
        places: [n, 1, 8], where the last frames of the past were taken; if they are not given they are sought.
        rolling: False makes one frame at a time through all levels.
    """
    past, shape = config.context.cache, tuple(clips.latents.shape[1:])
    rows = torch.from_numpy(first[:, None] + np.arange(past + ticks))
    actions = torch.from_numpy(clips.clips.actions)[rows]
    made: list[Tensor] = []
    window = RollingWindow(model, config, AddressedNoise(range(len(first)), 1, shape), shape, batch=len(first))  # type: ignore[arg-type]
    window.remember(clips.latents[rows[:, :past]].float(), actions[:, :past], places)
    with fast_autocast():
        while len(made) < ticks:
            block = window.advance(actions[:, past + len(made)], append=rolling or not window.levels)
            made += [] if block is None else [block[:, 0]]
    return torch.stack(made)
