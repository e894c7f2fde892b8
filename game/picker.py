"""The picker: every world there is, with a picture and what its card says, and the choice of one while the game goes on."""

from pathlib import Path

import numpy as np
import pygame

from controls.keys import CODES
from game import theme
from game.gate import Gate
from game.shelf import Entry
from game.view import scaled
from game.widgets import clipped, column, key_cap, panel, paragraph, row, text, widened
from world_model.card import Card

ROWS = 8
FIGURES = 8
KEYS = {
    "up": ("up", "pad_up", "stick_up"), "down": ("down", "pad_down", "stick_down"), "mode": ("left", "right", "pad_x"),
    "enter": ("return", "kp_enter", "pad_a"), "close": ("escape", "tab", "pad_b", "pad_back"),
}  # fmt: skip
MEANING = {CODES[key]: meaning for meaning, keys in KEYS.items() for key in keys}


class Picker:
    """Choose a world and how to begin in it; the gate opens it.

    Args:
        chosen: the file that is chosen at first; default: the world being played.
    """

    def __init__(self, gate: Gate, chosen: Path | None = None) -> None:
        self._gate = gate
        self.chosen = chosen or gate.inside
        self._places: list[tuple[pygame.Rect, Path]] = []  # of the rows, as drawn last

    def press(self, code: int) -> bool:
        """Take in a key; return whether the picker stays open."""
        meaning = MEANING.get(code)
        paths = [entry.path for entry in self._gate.shelf.entries]
        if code in range(CODES["1"], CODES["9"] + 1) and code - CODES["1"] < len(paths):
            self.chosen, meaning = paths[code - CODES["1"]], "enter"
        elif meaning in ("up", "down") and paths:
            here = paths.index(self.chosen) if self.chosen in paths else 0
            self.chosen = paths[(here + (1 if meaning == "down" else -1)) % len(paths)]
        elif meaning == "mode":
            self._gate.keep_screen = not self._gate.keep_screen
        if meaning == "enter" and self.chosen:
            self._gate.enter(self.chosen)
        if meaning in ("enter", "close"):
            self._gate.preview.look(None)
        return meaning not in ("enter", "close")

    def point(self, place: tuple[int, int], click: bool) -> bool:
        """Take in the mouse at a place of the drawn picture; return whether the picker stays open."""
        for rect, path in self._places:
            if rect.collidepoint(place):
                self.chosen = path
                return self.press(CODES["return"]) if click else True
        return True

    def draw(self, frame: np.ndarray | None, px: int) -> pygame.Surface:
        """Return the picture of it, with a live picture of the chosen world; that of the world being played is `frame`, the one on the screen."""
        entries = self._gate.shelf.entries
        here = next((n for n, entry in enumerate(entries) if entry.path == self.chosen), 0)
        first = max(0, min(here - ROWS // 2, len(entries) - ROWS))
        shown = list(enumerate(entries))[first : first + ROWS]
        rows = [self._row(number, entry, px) for number, entry in shown]
        worlds = column(rows or [text("There are no worlds yet.", px, theme.QUIET)], px // 2)
        chosen = entries[here] if entries else None
        here_now = chosen and chosen.path == self._gate.inside
        self._gate.preview.look(chosen if chosen and chosen.card and not chosen.card.parts and not here_now else None)
        live = frame if here_now else self._gate.preview.picture
        tables = row([worlds, details(chosen, live, px)], 2 * px, "start") if chosen else worlds
        head = text("Worlds", round(px * 1.5))
        modes = [text(words, px, theme.LIT if on else theme.QUIET) for words, on in self._modes()]
        foot = row([key_cap("left", False, px), key_cap("right", False, px), *modes, key_cap("return", False, px), text("Go there", px)], px // 2)
        whole = panel(column([head, tables, foot], px), px)
        top, corner = head.get_height() + px, (round(px * 0.9), round(px * 0.6))
        self._places = []
        for picture, (_, entry) in zip(rows, shown, strict=True):
            self._places.append((picture.get_rect(topleft=(corner[0], corner[1] + top)), entry.path))
            top += picture.get_height() + px // 2
        return whole

    def _modes(self) -> tuple[tuple[str, bool], ...]:
        keep = self._gate.keep_screen
        return ("Start fresh", not keep), ("Carry the screen over", keep)

    def _row(self, number: int, entry: Entry, px: int) -> pygame.Surface:
        chosen = entry.path == self.chosen
        state = "loading" if entry.path == self._gate.opening else "here" if entry.path == self._gate.inside else ""
        colour = theme.WARNING if entry.fault else theme.LIT if chosen else theme.INK
        name = clipped(text(entry.card.title if entry.card else entry.path.stem, px, colour), 11 * px)
        cap = widened(key_cap(str(number + 1), chosen, px) if number < 9 else text("", px), round(px * 1.9))
        return widened(row([cap, name, text(state, px, theme.QUIET)], px // 2), 16 * px)


def details(entry: Entry, live: np.ndarray | None, px: int) -> pygame.Surface:
    """What is known of a world: a picture, its size, speed and actions, measured figures; or why it is none."""
    width = 24 * px
    parts = []
    picture = entry.picture if live is None else live
    if picture is not None:
        height = min(13 * px, width * picture.shape[0] // picture.shape[1])
        parts.append(scaled(picture, (height * picture.shape[1] // picture.shape[0], height), True))
    if entry.card:
        parts += _facts(entry.card, width, px)
    else:
        parts.append(paragraph(entry.fault, px, width, theme.WARNING))
    return widened(column([clipped(part, width) for part in parts], px // 2), width)


def _facts(card: Card, width: int, px: int) -> list[pygame.Surface]:
    asks = ", ".join(action.label + " (analogue)" * action.analogue for action in card.actions) or "Listens to words"
    lines = [text(f"{card.width} x {card.height} at {card.fps:g} fps", px), paragraph(asks, px, width, theme.QUIET)]
    small = round(px * 0.9)
    told = [text(line, small, theme.QUIET) for line in figures(card)[:FIGURES]]
    return [*lines, *([column(told, 2)] if told else [])]


def figures(card: Card) -> list[str]:
    """Return a card's measured figures as lines, with what was measured for several numbers of frames ahead in one."""
    found: dict[str, dict[str, str]] = {}
    for name, value in card.figures.items():
        stem, _, ahead = name.rpartition("_")
        stem, ahead = (stem, ahead) if stem and ahead.isdigit() else (name, "")
        found.setdefault(stem.replace("_", " ").replace("psnr", "PSNR"), {})[ahead] = value if isinstance(value, str) else format(value, ".4g")
    return [f"{name} {', '.join(f'{ahead}: {value}' if ahead else value for ahead, value in values.items())}" for name, values in found.items()]
