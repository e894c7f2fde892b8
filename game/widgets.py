"""Small widgets: functions of a state and a size that return a picture of it, with transparency around.

They know nothing of the game. Text and key caps are the leaves, `row` and `column` put pictures together, `panel` puts one
on a rounded ground.
"""

import functools
from collections.abc import Sequence
from typing import Literal

import pygame

from game import theme

Align = Literal["start", "middle"]

ARROWS = {"up": (0, -1), "down": (0, 1), "left": (-1, 0), "right": (1, 0)}
SHORT = {
    "escape": "Esc", "space": "Space", "return": "Enter", "backspace": "Back", "tab": "Tab", "period": ".", "comma": ",",
    "lctrl": "Ctrl", "rctrl": "Ctrl", "lshift": "Shift", "rshift": "Shift", "lalt": "Alt", "ralt": "Alt",
    "pageup": "PgUp", "pagedown": "PgDn", "pause": "Pause",
    "home": "Home", "end": "End", "equals": "+", "minus": "-", "kp_enter": "Num Enter",
}  # fmt: skip


def text(words: str, px: int, colour: theme.Colour = theme.INK) -> pygame.Surface:
    """One line of text."""
    return theme.typeface(px).render(words.replace("\0", ""), True, colour)  # a stranger's card may hold anything


def paragraph(words: str, px: int, width: int, colour: theme.Colour = theme.INK) -> pygame.Surface:
    """Text in as many lines as it needs to be no wider than `width` pixels, where its words allow that."""
    lines: list[str] = []
    for word in words.replace("\0", "").split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and theme.typeface(px).size(longer)[0] <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return column([text(line, px, colour) for line in lines], px // 3, "middle")


def row(pictures: Sequence[pygame.Surface], gap: int, align: Align = "middle") -> pygame.Surface:
    """Pictures side by side."""
    height = max((picture.get_height() for picture in pictures), default=0)
    whole = _clear(max(0, sum(picture.get_width() + gap for picture in pictures) - gap), height)
    x = 0
    for picture in pictures:
        whole.blit(picture, (x, (height - picture.get_height()) // 2 if align == "middle" else 0))
        x += picture.get_width() + gap
    return whole


def column(pictures: Sequence[pygame.Surface], gap: int, align: Align = "start") -> pygame.Surface:
    """Pictures below one another."""
    width = max((picture.get_width() for picture in pictures), default=0)
    whole = _clear(width, max(0, sum(picture.get_height() + gap for picture in pictures) - gap))
    y = 0
    for picture in pictures:
        whole.blit(picture, ((width - picture.get_width()) // 2 if align == "middle" else 0, y))
        y += picture.get_height() + gap
    return whole


def space(width: int, height: int = 1) -> pygame.Surface:
    """Nothing, of a certain size."""
    return _clear(width, height)


def widened(picture: pygame.Surface, width: int) -> pygame.Surface:
    """The picture at the left of a space that is at least `width` wide, so that columns line up."""
    return row([picture, space(max(1, width - picture.get_width()))], 0)


def clipped(picture: pygame.Surface, width: int) -> pygame.Surface:
    """The left of a picture, at most `width` of it."""
    return picture.subsurface((0, 0, min(width, picture.get_width()), picture.get_height()))


def panel(content: pygame.Surface, px: int) -> pygame.Surface:
    """The content on a rounded, translucent ground."""
    pad_x, pad_y = round(px * 0.9), round(px * 0.6)
    size = (content.get_width() + 2 * pad_x, content.get_height() + 2 * pad_y)
    whole = _ground(size, px // 2, theme.PANEL, theme.EDGE).copy()
    whole.blit(content, (pad_x, pad_y))
    return whole


def dot(px: int, colour: theme.Colour) -> pygame.Surface:
    """A round light."""
    return _ground((px, px), px // 2, colour, colour)


def bar(share: float, width: int, height: int) -> pygame.Surface:
    """A bar that is lit up to a share of its width."""
    whole = pygame.Surface((width, max(2, height)), pygame.SRCALPHA)
    whole.fill(theme.UNLIT)
    whole.fill(theme.LIT, (0, 0, round(share * width), whole.get_height()))
    return whole


@functools.lru_cache(maxsize=256)
def key_cap(key: str, lit: float, px: int) -> pygame.Surface:
    """A key of the keyboard, lit while it is at work; if that is partly, then from below as far as it is."""
    if 0 < lit < 1:
        cap, whole = key_cap(key, 0, px).copy(), key_cap(key, 1, px)
        top = round((1 - lit) * cap.get_height())
        cap.blit(whole, (0, top), whole.get_rect(top=top, height=cap.get_height() - top))
        return cap
    ink = theme.LIT_INK if lit else theme.INK
    side = round(px * 1.7)
    if key in ARROWS:
        sign = _arrow(ARROWS[key], round(px * 0.8), ink)
    else:
        sign = text(SHORT.get(key, key.upper() if len(key) <= 3 else key.replace("_", " ").title()), round(px * 0.95), ink)
    size = (max(side, sign.get_width() + round(px * 0.9)), side)
    cap = _ground(size, round(px * 0.38), theme.LIT if lit else theme.UNLIT, theme.EDGE).copy()
    cap.blit(sign, sign.get_rect(center=cap.get_rect().center))
    return cap


def _arrow(towards: tuple[int, int], side: int, colour: theme.Colour) -> pygame.Surface:
    # The typeface has no arrows. Drawn four times too large and shrunk, so that its edges come out smooth.
    large = _clear(4 * side, 4 * side)
    pygame.draw.polygon(large, colour, [(side * 2, side * 0.5), (side * 3.7, side * 3.4), (side * 0.3, side * 3.4)])
    angle = {(0, -1): 0, (-1, 0): 90, (0, 1): 180, (1, 0): 270}[towards]
    return pygame.transform.smoothscale(pygame.transform.rotate(large, angle), (side, side))


@functools.lru_cache(maxsize=64)
def _ground(size: tuple[int, int], radius: int, fill: theme.Colour, edge: theme.Colour) -> pygame.Surface:
    large = _clear(size[0] * 3, size[1] * 3)
    pygame.draw.rect(large, fill, large.get_rect(), border_radius=radius * 3)
    if edge != fill:
        line = _clear(*large.get_size())
        pygame.draw.rect(line, edge, large.get_rect(), width=3, border_radius=radius * 3)
        large.blit(line, (0, 0))
    return pygame.transform.smoothscale(large, size)


def _clear(width: int, height: int) -> pygame.Surface:
    return pygame.Surface((max(1, width), max(1, height)), pygame.SRCALPHA)
