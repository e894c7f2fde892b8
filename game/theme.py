"""The look: one set of colours, one typeface, one unit that all sizes derive from."""

import functools

import pygame

Colour = tuple[int, int, int] | tuple[int, int, int, int]

GROUND = (12, 13, 16)
INK = (238, 240, 244)
QUIET = (150, 156, 168)
PANEL = (18, 20, 25, 234)
EDGE = (255, 255, 255, 34)
LIT = (122, 196, 255)
LIT_INK = (10, 24, 38)
UNLIT = (40, 43, 51, 235)
WARNING = (255, 188, 92)
RECORDING = (240, 84, 84)


def unit(window: tuple[int, int]) -> int:
    """Return the height of text in pixels for a window of this size."""
    return max(12, min(34, min(window[1] // 38, window[0] // 46)))


@functools.lru_cache(maxsize=8)
def typeface(px: int) -> pygame.Font:
    """Return the typeface that comes with pygame."""
    return pygame.font.Font(None, px)
