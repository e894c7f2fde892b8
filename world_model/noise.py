"""Noise that is addressed, not drawn in order: a pure function of (seed, frame, level), with numbers of its own for every rollback.

A stream can therefore be saved, restored, branched and replayed bit for bit, and run beside a twin that got other actions and the same
noise. A counter-based generator (Philox) makes every address as cheap as any other.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor


class NoiseSource(Protocol):
    """Gives the noise of one block at one level of the ladder (0 is the first, pure noise), for the n-th rollback other noise than without."""

    def __call__(self, block: int, level: int, rollback: int = 0) -> Tensor:
        """Return standard normal numbers [batch, block frames, channels, height, width], float32."""
        ...


class AddressedNoise:
    """Standard normal noise for a batch of streams, one seed each.

    Args:
        seeds: one 64-bit seed per stream of the batch.
        block_frames: frames per block.
        shape: (channels, height, width) of one latent frame.
    """

    def __init__(self, seeds: Sequence[int], block_frames: int, shape: tuple[int, int, int], device: torch.device | str = "cpu") -> None:
        self.seeds, self.block_frames, self.shape, self.device = tuple(seeds), block_frames, shape, device
        self._philox = np.random.Philox(key=0)  # one for all addresses: a new one takes longer than its numbers
        self._generator = np.random.Generator(self._philox)
        self._unused = self._philox.state

    def __call__(self, block: int, level: int, rollback: int = 0) -> Tensor:
        numbers = np.empty((len(self.seeds), self.block_frames, *self.shape), np.float32)
        for seed, frames in zip(self.seeds, numbers, strict=True):
            for frame, out in enumerate(frames, block * self.block_frames):
                address = {"key": np.array([seed, 0], np.uint64), "counter": np.array([0, rollback, level, frame], np.uint64)}
                self._philox.state = {**self._unused, "state": address}  # type: ignore[typeddict-item]
                self._generator.standard_normal(out=out, dtype=np.float32)
        return torch.from_numpy(numbers).to(self.device)
