"""The rolling window: one pass of the transformer moves every block of the window one noise level down and finishes the oldest.

This is Rolling Forcing (arXiv 2509.25161) made interactive. A tick:

1. append a block of pure noise to the window;
2. one pass over the block finished last (now clean, t = 0) and the window at its levels; the clean block's keys and values enter the
   cache in that same pass;
3. the oldest block is finished: it is shown now, before its cache entry exists;
4. every other block moves one level down, with fresh noise.

All blocks of the window are conditioned on the newest action at every tick (late binding): frames ahead of the front are speculation under
"the player keeps doing this". When he does something else, the window can be rolled back before the tick: by r levels means that blocks are noised up from
their x0, the r noisiest are dropped, and r short passes under the new action bring the front back. Batched: training and evaluation run this same code
on many streams at once.
"""

from dataclasses import dataclass, field
from functools import lru_cache
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor

from world_model.context import ContextAttention, ContextConfig, KeyValueCache, PastAttention
from world_model.noise import NoiseSource
from world_model.recall import PLACE
from world_model.schedule import Ladder, add_noise
from world_model.transformer import Transformer

ROUGH = 0.9  # a level at which next to nothing is left of a frame

@dataclass(frozen=True)
class WindowConfig:
    """The window and what it remembers. The window has as many blocks as the ladder has levels."""

    ladder: Ladder = (1.0, 0.9, 0.75, 0.5, 0.25)
    block_frames: int = 1
    context: ContextConfig = field(default_factory=ContextConfig)


class RollingWindow:
    """The state of a batch of streams, in latents.

    Args:
        model: the transformer.
        config: ladder, block size, context.
        noise: where noise comes from.
        shape: (channels, height, width) of one latent frame.
        batch: number of streams.
        text: what `Transformer.embed_text` returned, or None.
        fused: False runs the clean block in a pass of its own (same numbers, slower; the published code's way).
    """

    def __init__(
        self,
        model: Transformer,
        config: WindowConfig,
        noise: NoiseSource,
        shape: tuple[int, int, int],
        *,
        batch: int = 1,
        text: list[tuple[Tensor, Tensor]] | None = None,
        fused: bool = True,
    ) -> None:
        self.model, self.config, self.noise, self.text, self.fused = model, config, noise, text, fused
        weight = model.head.head.weight
        self.device = weight.device
        self.grid = (shape[1] // model.config.patch_size[0], shape[2] // model.config.patch_size[1])
        tokens = self.grid[0] * self.grid[1] * config.block_frames
        sizes = (model.config.num_layers, batch, tokens, model.config.num_heads, model.config.head_width)
        kind = self.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
        self.cache = KeyValueCache(config.context, *sizes, dtype=dtype, device=self.device)
        self.start = 0  # index of the window's first block
        self.levels: list[int] = []  # of each block in the window: its place on the ladder
        self.x = torch.zeros(batch, 0, *shape, device=self.device)  # [b, blocks * block frames, c, h, w]
        self.actions = torch.zeros(batch, 0, model.config.num_actions, device=self.device)  # of each frame in the window
        self.lived = self.actions.new_zeros(batch, config.block_frames + model.config.action_history - 1, model.config.num_actions)  # of the frames before it
        self.clean: Tensor | None = None  # the block finished last, not in the cache yet
        self.last = torch.zeros(batch, 1, *shape, device=self.device)  # the newest finished frame
        self.place = torch.zeros(batch, 1, model.config.place_numbers or PLACE, device=self.device)  # where it was taken, in worlds that recall
        self.view: Tensor | None = None  # what is remembered from there, once it was wanted
        self.settled: tuple[Tensor, Tensor] | None = None  # that place, as it was reckoned and as the frame shows it, once it was wanted
        self.recalled: tuple[Tensor, Tensor, Tensor] | None = None  # what the window's first frame was told; all frames' places, and what is remembered there
        self.x0 = self.x  # what the last pass predicted for the blocks that are still in the window
        self.rollbacks = 0

    def remember(self, latents: Tensor, actions: Tensor, place: Tensor | None = None) -> None:
        """Take real frames [b, frames, c, h, w] and the actions [b, frames, num_actions] that led to them as the past of the stream.

        The first blocks become the sink; after them, blocks that the context would have forgotten by the end are passed over, and not counted. Only once,
        before the first `advance`. One pass brings all blocks into the cache that see all before them; the last block waits for the pass of the first window.
        `place` [b, 1, 8] is where the last frame was taken, in worlds that recall; if it is not known it is sought.
        """
        size, config = self.config.block_frames, self.config.context
        tape = torch.cat([self.lived, actions], 1)
        told = histories(tape, self.model.config.action_history)[:, -actions.shape[1] :]
        blocks = list(range(latents.shape[1] // size))
        if len(blocks) > config.cache and config.clean_sees_sink:
            blocks = blocks[: config.sink] + blocks[config.sink - config.cache :]
        frames = [block * size + frame for block in blocks for frame in range(size)]
        seen = latents[:, frames]
        together = size * len(list(takewhile(lambda block: config.before_clean(block) == list(range(block)), range(len(blocks) - 1))))
        if together:
            x = seen[:, :together]
            attend = PastAttention(self.cache, together // size, self.grid, size)
            self.model(x, x.new_zeros(x.shape[:2]), attend, told[:, frames[:together]] if self.model.config.num_actions else None, self.text, 0)
        for first in range(0, len(frames), size):
            if first > together:
                self._flush()
            end = frames[first] + size
            self._finish(seen[:, first : first + size], actions[:, end - size : end])
            self.lived = tape[:, end : end + self.lived.shape[1]]  # also of what was passed over
        if self.model.config.recall_width and (place is not None or latents.shape[1] > 1):
            self.locate(self.model.recall.find(latents, told) if place is None else place)

    def locate(self, place: Tensor) -> None:
        """Say where the newest finished frame was taken, [b, 1, 8] (`world_model.recall`)."""
        self.place, self.view, self.settled, self.recalled = place, None, None, None

    def advance(self, action: Tensor | None, *, append: bool = True, late: bool = True) -> Tensor | None:
        """Make one pass; return the block that it finished [b, block frames, c, h, w], or None while the window fills up.

        Args:
            action: [b, num_actions], held for all frames in the window (with ``late=False`` only for the block that enters now).
            append: False lets the window run empty at the end of a clip.
        """
        self.enter(action, append=append, late=late)
        return self.step_down(self.denoise())

    def roll_back(self, action: Tensor, levels: int) -> int:
        """Unmake speculation before a tick whose action is new; return how many short passes that took (none while the window fills up).

        Args:
            action: [b, num_actions], held for all frames in the window.
            levels: how far back; one less than the ladder has drops the whole window, and the next frame is made under `action` alone.
        """
        ladder, size = self.config.ladder, self.config.block_frames
        if len(self.levels) != len(ladder) - 1 or levels == 0:
            return 0
        self.rollbacks += 1
        self.levels = [level - levels for level in self.levels[: max(0, len(self.levels) - levels)]]
        kept = len(self.levels) * size
        self.x0, self.actions = self.x0[:, :kept], self.actions[:, :kept]
        self.x = self._noised(self.x0, self.rollbacks)
        if self.model.config.recall_width:  # for all passes at once
            self._recall(self.last, hold(self.lived[:, -self.model.config.action_history :], action, len(ladder) * size))
        for _ in range(passes := min(levels, len(ladder) - 1)):
            self.enter(action, rollback=self.rollbacks)
            self.step_down(self.denoise(), rollback=self.rollbacks)
        return passes

    def enter(self, action: Tensor | None, *, append: bool = True, late: bool = True, rollback: int = 0) -> None:
        """Append a block of pure noise and bind the action; arguments as in `advance`, and the number of the rollback whose noise it is."""
        size = self.config.block_frames
        if append:
            self.x = torch.cat([self.x, self.config.ladder[0] * self.noise(self.start + len(self.levels), 0, rollback)], 1)
            self.levels.append(0)
            self.actions = torch.cat([self.actions, self.actions.new_zeros(len(self.x), size, self.model.config.num_actions)], 1)
        if action is not None:
            self.actions[:, 0 if late else -size :] = action[:, None]
        if not self.fused:
            self._flush()

    def step_down(self, x0: Tensor, *, rollback: int = 0) -> Tensor | None:
        """Given x0 of the window, take out the oldest block if it is finished and move every other block one level down."""
        size, finished = self.config.block_frames, None
        if self.levels[0] == len(self.config.ladder) - 1:
            finished, x0 = x0[:, :size], x0[:, size:]
            if self.recalled is not None:
                self.place, self.view = (known[:, size - 1 : size] for known in self.recalled[1:])
            self._finish(finished, self.actions[:, :size])
            self.actions = self.actions[:, size:]
            self.levels.pop(0)
        self.levels = [level + 1 for level in self.levels]
        self.x, self.x0 = self._noised(x0, rollback), x0
        return finished

    def _noised(self, x0: Tensor, rollback: int) -> Tensor:
        """Return x0 of the window's blocks at their levels."""
        if not self.levels:
            return x0[:, :0]
        noise = torch.cat([self.noise(self.start + i, level, rollback) for i, level in enumerate(self.levels)], 1)
        return add_noise(x0, noise, self._sigma().float()[:, None, None, None])

    def _sigma(self, *behind: float) -> Tensor:
        """Return the noise levels of the window's frames, after those of blocks before it, float64 [frames]."""
        levels = *behind, *(self.config.ladder[level] for level in self.levels)
        return frame_levels(levels, self.config.block_frames, self.device)

    def denoise(self, sigma: Tensor | None = None) -> Tensor:
        """Return x0 of the window [b, blocks * block frames, c, h, w]; the clean block, if one waits, enters the cache on the way.

        `sigma` [b, blocks * block frames] are the window's noise levels, if not the ladder's.
        """
        size, blocks = self.config.block_frames, len(self.levels)
        x, clean, behind = self.x, None, list[float]()
        if self.clean is not None:
            x, clean, behind = torch.cat([self.clean, x], 1), self.start - 1, [0.0]
            self.clean = None
        sigma = self._sigma(*behind).expand(len(x), -1) if sigma is None else torch.cat([sigma.new_zeros(len(x), x.shape[1] - sigma.shape[1]), sigma], 1)
        actions = histories(torch.cat([self.lived, self.actions], 1), self.model.config.action_history)[:, -x.shape[1] :]
        attend = ContextAttention(self.cache, clean, self.start, blocks, self.grid, size)
        moved: dict[str, Any] = {}
        if self.model.config.motion_channels and blocks:
            known = torch.cat([self.last, self.x0], 1)
            before = torch.cat([known, *[known[:, -1:]] * (size - 1)], 1)[:, : blocks * size]
            moved = {"before": before, "refined": self._lasting() * size}
            if self.model.config.recall_width:
                moved["recalled"] = self._recall(before, actions[:, -blocks * size :])
        return self.model(x, sigma, attend, actions if self.model.config.num_actions else None, self.text, blocks * size, **moved)

    @torch.no_grad()
    def prepare(self) -> None:
        """Find out where the last frame was taken, in worlds that recall: the next pass need not, and no action is wanted for it yet."""
        if self.model.config.recall_width and self.settled is None:
            if self.view is None:
                self.view = self.model.recall.remember(self.place)
            self.settled = self.model.recall.settled(self.last, self.place, self.view)

    def _lasting(self) -> int:
        """Return how many of the window's first blocks are worth refining; of the others next to nothing is left in the next pass."""
        ladder = self.config.ladder
        return sum(next_level < ROUGH for next_level in ((*ladder, 0.0)[level + 1] for level in self.levels))

    @torch.no_grad()
    def _recall(self, before: Tensor, actions: Tensor) -> Tensor:
        """Return what is remembered from where the window's frames are taken [b, frames, c, h, w].

        Between two finished frames, as in the passes of a rollback, the place of the first one is sought only once for each action. Those of the frames after
        it are reckoned: the frame before them is not finished, and has little to say. Frames that are not to be refined are told what the last one before
        them is.
        """
        recall, told, lasting = self.model.recall, actions[:, :1], max(1, self._lasting() * self.config.block_frames)
        if self.recalled is not None and torch.equal(told, self.recalled[0]):
            _, places, views = self.recalled
        else:
            self.prepare()
            assert self.settled is not None and self.view is not None
            places, views = recall.go_on(self.last, told, *self.settled, self._chance(0, 1)), self.view[:, :0]
        if (ahead := actions[:, places.shape[1] : lasting]).shape[1]:
            chance = self._chance(places.shape[1], places.shape[1] + ahead.shape[1])
            places = torch.cat([places, recall.expect(ahead, places[:, -1:], chance)], 1)
        if (new := places[:, views.shape[1] :]).shape[1]:
            views = torch.cat([views, recall.remember(new)], 1)
        self.recalled = told, places, views
        views = views[:, : actions.shape[1], :-1]
        return torch.cat([views, views[:, -1:].expand(-1, actions.shape[1] - views.shape[1], -1, -1, -1)], 1)

    def _chance(self, first: int, end: int) -> Tensor | None:
        """Return what decides what happens in these frames of the window [b, frames, numbers], from 0 to 1, in worlds with bodies: the same in every pass."""
        if not (number := self.model.recall.chances):
            return None
        size = self.config.block_frames
        noise = torch.cat([self.noise(self.start + block, 0) for block in range(first // size, -(-end // size))], 1)
        return torch.special.ndtr(noise.flatten(2)[:, first % size :][:, : end - first, :number])

    def _finish(self, block: Tensor, actions: Tensor) -> None:
        """Let a block be the past: it is to enter the cache, and the next frame moves its last one."""
        self.clean, self.last, self.settled, self.recalled = block, block[:, -1:], None, None
        self.lived = torch.cat([self.lived, actions], 1)[:, -self.lived.shape[1] :]
        self.start += 1

    def _flush(self) -> None:
        """Bring the clean block that waits into the cache, in a pass of its own."""
        if self.clean is not None:
            window = self.x, self.actions, self.levels
            self.x, self.actions, self.levels = self.x[:, :0], self.actions[:, :0], []
            self.denoise()
            self.x, self.actions, self.levels = window

    def snapshot(self) -> dict[str, Any]:
        """Return a copy of everything that changes; snapshots share the keys and values that did not change between them."""
        return {
            "start": self.start, "levels": list(self.levels), "x": self.x.clone(), "actions": self.actions.clone(), "lived": self.lived.clone(),
            "clean": None if self.clean is None else self.clean.clone(), "last": self.last.clone(), "x0": self.x0.clone(), "place": self.place,
            "view": self.view, "rollbacks": self.rollbacks, "cache": self.cache.snapshot(self.start - (self.clean is not None)),
        }  # fmt: skip

    def restore(self, saved: dict[str, Any]) -> None:
        """Go back to a snapshot, which stays valid."""
        self.start, self.levels, self.rollbacks = saved["start"], list(saved["levels"]), saved["rollbacks"]
        self.x, self.actions, self.lived = saved["x"].clone(), saved["actions"].clone(), saved["lived"].clone()
        self.clean, self.last, self.x0 = saved["clean"], saved["last"].clone(), saved["x0"].clone()
        self.place, self.view, self.settled, self.recalled = saved["place"], saved["view"], None, None
        self.cache.restore(saved["cache"])


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # what is kept may serve a pass with gradient next
def frame_levels(levels: tuple[float, ...], block_frames: int, device: torch.device) -> Tensor:
    """Return the noise levels of the frames of blocks at these levels, float64 [frames]."""
    return torch.tensor(levels, dtype=torch.float64, device=device).repeat_interleave(block_frames)


def histories(actions: Tensor, length: int) -> Tensor:
    """Return for each frame, from the `length`-th on, its action and those before it: [..., frames, n] to [..., frames - length + 1, length, n]."""
    return actions.unfold(-2, length, 1).transpose(-1, -2)


def hold(lived: Tensor, action: Tensor, frames: int) -> Tensor:
    """Return what frames are told that come after the actions `lived` [..., history, n] under a held action [..., n]: [..., frames, history, n]."""
    held = action[..., None, :].expand(*action.shape[:-1], frames, -1)
    return histories(torch.cat([lived, held], -2), lived.shape[-2])[..., 1:, :, :]
