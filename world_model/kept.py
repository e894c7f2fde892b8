"""What is made of weights alone: made once, and again when they change."""

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


class Kept:
    """Keeps what was made of weights for as long as they stay as they are; where one of them learns, it is made anew each time."""

    def __init__(self) -> None:
        self._made: dict[Hashable, tuple[list[tuple[Tensor, int, int | None]], Any]] = {}

    def __call__(self, name: Hashable, make: Callable[[], T], *weights: Tensor) -> T:
        """Return what `make` makes of these weights, or made of them before under this name."""
        if torch.is_grad_enabled() and any(weight.requires_grad for weight in weights):
            return make()
        now = [(weight, weight.data_ptr(), None if weight.is_inference() else weight._version) for weight in weights]
        before, made = self._made.get(name, (None, None))
        if before is None or any(old[0] is not new[0] or old[1:] != new[1:] for old, new in zip(before, now, strict=True)):
            with torch.inference_mode(False), torch.no_grad():  # what is kept may serve a pass with gradient next
                self._made[name] = now, (made := make())
        return made  # type: ignore[return-value]
