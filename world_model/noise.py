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

    def __call__(self, block: int, level: int, rollback: int = 0) -> Tensor:
        frames = range(block * self.block_frames, (block + 1) * self.block_frames)
        numbers = [[self._frame(seed, frame, level, rollback) for frame in frames] for seed in self.seeds]
        return torch.from_numpy(np.array(numbers)).to(self.device)

    def _frame(self, seed: int, frame: int, level: int, rollback: int) -> np.ndarray:
        generator = np.random.Generator(np.random.Philox(key=seed, counter=[0, rollback, level, frame]))
        return generator.standard_normal(self.shape, np.float32)
