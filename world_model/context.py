"""What a window remembers: the attention sink and the recent blocks, kept as keys and values.

The sink (the first blocks of the stream) stays for ever; of the rest the most recent blocks stay. Keys are kept before rotation and
rotated when read, at positions counted from the oldest key in sight: the sink always lies directly before the recent blocks, only relative
positions matter, and a stream never runs out of them. (Rolling Forcing, section on the attention sink.)
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from world_model.attention import attention, may_look, rotary_table, rotate


@dataclass(frozen=True)
class ContextConfig:
    """Sizes of the memory, in blocks.

    Attributes:
        sink: first blocks that are kept for ever.
        cache: most blocks kept, the sink and the block just finished included.
        attention: most blocks attended at once, the sink and the window included.
        clean_sees_sink: whether a finished block, too, looks at sink + recent blocks, as the window after it does. The published checkpoints were trained
            otherwise (False): a finished block sees the last `attention` blocks of the cache at their true positions.
    """

    sink: int = 2
    cache: int = 18
    attention: int = 22
    clean_sees_sink: bool = True

    def before_window(self, start: int, size: int) -> list[int]:
        """Return the finished blocks that a window of `size` blocks beginning at block `start` sees, oldest first."""
        sink = list(range(min(self.sink, start)))
        recent = max(0, min(self.attention - size - self.sink, self.cache - self.sink - 1))
        return sink + list(range(max(len(sink), start - recent), start))

    def before_clean(self, block: int) -> list[int]:
        """Return the finished blocks that the finished block `block` sees besides itself, oldest first."""
        if self.clean_sees_sink:
            return [seen for seen in self.before_window(block + 1, 1) if seen != block]
        sink = list(range(min(self.sink, block)))
        cached = sink + list(range(max(len(sink), block - (self.cache - self.sink - 1)), block)) + [block]
        return cached[-self.attention :][:-1]


class KeyValueCache:
    """Keys (unrotated) and values of finished blocks, all layers: slots for the sink, then a ring for the rest.

    Tensors are [layers, batch, slots, tokens per block, heads, head width].
    """

    def __init__(self, config: ContextConfig, layers: int, batch: int, tokens: int, heads: int, head_width: int, **options) -> None:
        self.config = config
        self.k = torch.zeros(layers, batch, config.cache, tokens, heads, head_width, **options)
        self.v = torch.zeros_like(self.k)
        self._copies: dict[int, tuple[Tensor, Tensor]] = {}  # of the slots that were not written since
        self._seen: dict[tuple[int, ...], tuple[list[Tensor], list[Tensor]]] = {}  # runs of slots that are read together: the ring has few states

    def slot(self, block: int) -> int:
        """Return where a block is kept; keys need no order, so the ring is never shifted."""
        sink = self.config.sink
        return block if block < sink else sink + (block - sink) % (self.config.cache - sink)

    def write(self, layer: int, block: int, k: Tensor, v: Tensor) -> None:
        """Keep a block's keys and values [batch, tokens, heads, head width]; no gradient is kept."""
        slot = self.slot(block)
        self.k[layer, :, slot] = k.detach()
        self.v[layer, :, slot] = v.detach()
        self._copies.pop(slot, None)

    def read(self, layer: int, blocks: list[int], k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values [batch, tokens of all blocks, heads, head width] of the given blocks, followed by a pass's own."""
        slots = tuple(map(self.slot, blocks))
        if slots not in self._seen:
            ends = [n for n in range(1, len(slots)) if slots[n] != slots[n - 1] + 1]
            runs = [slice(slots[n], slots[m - 1] + 1) for n, m in pairwise((0, *ends, len(slots)))] if slots else []
            keys, values = ([kept[:, :, run].flatten(2, 3) for run in runs] for kept in (self.k, self.v))
            self._seen[slots] = keys, values
        keys, values = self._seen[slots]
        return torch.cat([*(run[layer] for run in keys), k], 1), torch.cat([*(run[layer] for run in values), v], 1)

    def snapshot(self, blocks: int) -> dict[int, tuple[Tensor, Tensor]]:
        """Return copies of keys and values [layers, batch, tokens per block, heads, head width] by slot, after so many blocks were written.

        A slot that was not written between two snapshots is the same tensor in both: a snapshot on every tick costs one block, not the whole cache.
        """
        for slot in range(min(blocks, self.config.cache)):
            if slot not in self._copies:
                self._copies[slot] = self.k[:, :, slot].clone(), self.v[:, :, slot].clone()
        return dict(self._copies)

    def restore(self, saved: Mapping[int, tuple[Tensor, Tensor]]) -> None:
        """Go back to a snapshot, which stays valid; slots that were free then are never read."""
        for slot, (k, v) in saved.items():
            self.k[:, :, slot], self.v[:, :, slot] = k, v
        self._copies = dict(saved)


class Group(NamedTuple):
    """Queries of a pass that see the same keys."""

    queries: slice
    first: int  # of the pass's own keys that they see
    blocks: list[int]  # the cached ones before it
    table: Tensor  # rotary factors
    mask: Tensor | None = None


class ContextAttention:
    """How one pass of the stream attends (an `Attend`).

    The pass holds the block finished last (if any), then the window. The finished block sees its own past and itself; its keys and values
    enter the cache; the window sees the cache, that block included, and all of itself in both directions. Where both see the same past, one attention
    with a mask does for both.

    Args:
        clean: index of the finished block in this pass, or None.
        start, size: the window's first block and number of blocks; size 0 for a pass without a window.
        grid: tokens per frame as (rows, columns).
        block_frames: frames per block.
    """

    def __init__(self, cache: KeyValueCache, clean: int | None, start: int, size: int, grid: tuple[int, int], block_frames: int) -> None:
        self.cache, self.clean = cache, clean
        self.tokens = grid[0] * grid[1] * block_frames
        self.groups: list[Group] = []
        config, head_width, device = cache.config, cache.k.shape[-1], cache.k.device
        past = [] if clean is None else config.before_clean(clean)
        before = config.before_window(start, size) if size else []
        queries = 0
        if clean is not None:
            seen = (*past, clean)
            alike = config.clean_sees_sink and size > 0 and before == [*seen] and device.type == "cpu"  # elsewhere a mask would cost the faster kernel
            queries = self.tokens * (1 + size if alike else 1)
            places = range(len(seen) + (size if alike else 0)) if config.clean_sees_sink else (block - seen[0] for block in seen)  # from 0: few tables
            table = block_table(tuple(places), block_frames, grid, head_width, device)
            mask = hide_window(self.tokens, len(past), size, cache.k.dtype) if alike else None
            self.groups.append(Group(slice(0, queries), 0, past, table, mask))
        if size and not (self.groups and self.groups[0].mask is not None):
            table = block_table(tuple(range(len(before) + size)), block_frames, grid, head_width, device)
            fresh = clean is not None and before[-1:] == [clean]  # its keys are at hand, and in training carry a gradient
            window = slice(queries, queries + size * self.tokens)
            self.groups.append(Group(window, 0, before[:-1], table) if fresh else Group(window, queries, before, table))

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self.clean is not None:
            self.cache.write(layer, self.clean, k[:, : self.tokens], v[:, : self.tokens])
        outputs = []
        for group in self.groups:
            own = slice(group.first, group.queries.stop)
            group_q, group_k, group_v = q[:, group.queries], k[:, own], v[:, own]
            if group.blocks:
                group_k, group_v = self.cache.read(layer, group.blocks, group_k, group_v)
            outputs.append(attention(rotate(group_q, group.table[-group_q.shape[1] :]), rotate(group_k, group.table), group_v, group.mask))
        return torch.cat(outputs, 1)


class PastAttention:
    """How the first blocks of a stream attend when they enter the context in one pass (an `Attend`): each to those before it and to itself.

    Only while none of them has left the context is that the same as one pass for each.

    Args:
        blocks: their number, counted from the first block of the stream.
        grid: tokens per frame as (rows, columns).
        block_frames: frames per block.
    """

    def __init__(self, cache: KeyValueCache, blocks: int, grid: tuple[int, int], block_frames: int) -> None:
        self.cache, self.tokens = cache, grid[0] * grid[1] * block_frames
        self.table = block_table(tuple(range(blocks)), block_frames, grid, cache.k.shape[-1], cache.k.device)
        block = torch.arange(blocks, device=cache.k.device).repeat_interleave(self.tokens)
        self.mask = may_look(block[:, None] >= block)

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        for block, (block_k, block_v) in enumerate(zip(k.split(self.tokens, 1), v.split(self.tokens, 1), strict=True)):
            self.cache.write(layer, block, block_k, block_v)
        return attention(rotate(q, self.table), rotate(k, self.table), v, self.mask)


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # what is kept may serve a pass with gradient next
def hide_window(tokens: int, past: int, size: int, dtype: torch.dtype) -> Tensor:
    """Return the mask of a pass of a finished block and a window of `size` after `past` cached blocks: the finished block does not see the window."""
    mask = torch.zeros((1 + size) * tokens, (past + 1 + size) * tokens, dtype=dtype)
    mask[:tokens, -size * tokens :] = float("-inf")
    return mask


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # what is kept may serve a pass with gradient next
def block_table(blocks: tuple[int, ...], block_frames: int, grid: tuple[int, int], head_width: int, device: torch.device) -> Tensor:
    """Return the rotary factors of the tokens of blocks at the given block positions."""
    frames = tuple(block * block_frames + i for block in blocks for i in range(block_frames))
    return rotary_table(frames, *grid, head_width, device)
