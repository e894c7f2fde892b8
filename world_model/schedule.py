"""The noise ladder: which levels a block passes on its way from pure noise to a finished frame.

A ladder is a tuple of noise levels sigma, falling, first 1.0; a block takes one step down per tick, so the window is as long as
the ladder. x_sigma = (1 - sigma) * x0 + sigma * noise (rectified flow).
"""

from torch import Tensor

Ladder = tuple[float, ...]


def warped_ladder(nominal_steps: tuple[float, ...], shift: float) -> Ladder:
    """Return sigma = shift * s / (1 + (shift - 1) * s) for nominal steps s * 1000 (Rolling Forcing: 1000, 800, ... and shift 5)."""
    return tuple(shift * (n / 1000) / (1 + (shift - 1) * (n / 1000)) for n in nominal_steps)


def add_noise(x0: Tensor, noise: Tensor, sigma: float | Tensor) -> Tensor:
    """Return x0 noised to level sigma (a number, or a tensor that broadcasts against x0)."""
    return (1 - sigma) * x0 + sigma * noise
