"""How close two pictures are."""

import math

import numpy as np


def psnr_db(a: np.ndarray, b: np.ndarray) -> float:
    """Return the peak signal-to-noise ratio in dB of two uint8 arrays of the same shape, error averaged over all; infinite for equal ones."""
    error = float(np.mean((a.astype(np.float32) - b) ** 2))
    return 10 * math.log10(255**2 / error) if error else math.inf
