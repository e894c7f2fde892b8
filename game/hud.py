"""What lies over the picture: the figures, the keys that the model is seeing, the help, and words for the player.

Each is a function of what it shows and of the text height `px`, and returns a picture; the window decides where it goes.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import pygame

from controls.keys import GAMEPAD, Actions, ActionSpec, shares
from game import theme
from game.commands import Command, commands_beside
from game.mailbox import Picture
from game.widgets import bar, column, dot, key_cap, panel, paragraph, row, text, widened

if TYPE_CHECKING:
    from game.projector import Timeline

MANY_KEYS = 4  # of more only the first and the last are shown
LATE_SHARE_TOLD = 0.01  # a world that misses more of its deadlines than this is called late


def figures(picture: Picture, key_ms: tuple[float, float] | None, px: int) -> pygame.Surface:
    """Speed, frame count and response, and warnings when the world is slower than it should be."""
    speed, parts = picture.speed, []
    if speed.tick_ms:  # nothing is made while the player rewinds
        parts = [_figure(f"{speed.fps:.1f}", "fps", px), _figure(f"{speed.tick_ms:.0f}", "ms per tick", px), _figure(f"{speed.factor:.2f}x", "real time", px)]
    parts.append(_figure(f"{picture.number}", "frames", px))
    if picture.allowed_rollback < picture.rollback:
        parts.append(text(f"rollback {picture.allowed_rollback} of {picture.rollback}", px, theme.WARNING))
    elif picture.rollback:
        parts.append(_figure(f"{picture.rollback}", "rollback", px))
    if key_ms:
        parts.append(_figure(f"{key_ms[0]:.0f} / {key_ms[1]:.0f}", "ms key to screen", px))
    if speed.late_share > LATE_SHARE_TOLD:
        parts.append(text(f"late {speed.late_share:.0%}", px, theme.WARNING))
    return panel(row(parts, round(px * 1.1)), px)


def recording(seconds: float, num_bytes: int, px: int) -> pygame.Surface:
    """A red dot, for how long a session has been recorded, and its size."""
    return panel(row([dot(round(px * 0.7), theme.RECORDING), text(minutes(seconds), px), _figure(f"{num_bytes / 1e6:.1f}", "MB", px)], px // 2), px)


def timeline(line: "Timeline", fps: float, width: int, px: int) -> pygame.Surface:
    """Where a replay is: a bar, the time, the speed, and how close two pictures side by side are."""
    time = text(f"{minutes(line.number / fps)} / {minutes(line.total / fps)}", px)
    parts = [time, _figure(f"{line.number}", f"of {line.total}", px), text(f"{line.speed:g}x", px)]
    if line.psnr_db is not None:
        parts.append(_figure("same" if math.isinf(line.psnr_db) else f"{line.psnr_db:.1f} dB", "PSNR", px))
    words = row(parts, px)
    length = max(words.get_width(), width - 8 * px)
    return panel(column([bar(line.number / max(1, line.total), length, px // 3), words], px // 2), px)


def minutes(seconds: float) -> str:
    """Return a time as minutes and seconds."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def seen_keys(actions: Sequence[ActionSpec], seen: Actions, px: int) -> pygame.Surface:
    """One key cap per action, lit as far as the model saw that action in the frame on the screen."""
    held = shares(seen)
    caps = [key_cap(action.keys[0] if action.keys else action.name, held.get(action.name, 0.0), px) for action in actions]
    return row(caps, px // 4)


def help_page(title: str, description: str, actions: Sequence[ActionSpec], commands: Sequence[Command], px: int) -> pygame.Surface:
    """All keys: the world's own and the game's."""
    commands = commands_beside(actions, commands)
    half = (len(commands) + 1) // 2
    tables = row([_key_table(part, px) for part in (actions, commands[:half], commands[half:]) if part], 2 * px, "start")
    parts = [text(title, round(px * 1.5)), paragraph(description, px, tables.get_width(), theme.QUIET), tables]
    return panel(column(parts, px, "middle"), 2 * px)


def sentence(words: str, width: int, px: int, colour: theme.Colour = theme.INK) -> pygame.Surface:
    """A few words for the player, in a panel no wider than the window allows."""
    return panel(paragraph(words, px, width - 6 * px, colour), px)


def loading(title: str, turn: int, px: int) -> pygame.Surface:
    """The world's name and three lights that take turns, so that it can be seen that nothing hangs."""
    lights = [dot(round(px * 0.55), theme.LIT if turn % 3 == place else theme.UNLIT) for place in range(3)]
    return column([text(title, round(px * 2.2)), text("loading", px, theme.QUIET), row(lights, px // 2)], px, "middle")


def _figure(value: str, meaning: str, px: int) -> pygame.Surface:
    return row([text(value, px), text(meaning, px, theme.QUIET)], px // 3)


def _key_table(entries: Sequence[ActionSpec], px: int) -> pygame.Surface:
    """Keys of the keyboard and what they mean; those of a gamepad are told in the menu of keys."""
    keys = [(entry, [key for key in entry.keys if key not in GAMEPAD]) for entry in entries]
    caps = [(entry, _caps(names, px)) for entry, names in keys if names]
    width = max((picture.get_width() for _, picture in caps), default=0)
    return column([row([widened(picture, width), text(entry.label, px)], px) for entry, picture in caps], px // 2)


def _caps(keys: Sequence[str], px: int) -> pygame.Surface:
    many = len(keys) > MANY_KEYS
    caps = [key_cap(key, False, px) for key in ((keys[0], keys[-1]) if many else keys)]
    return row([caps[0], text("to", px, theme.QUIET), caps[1]] if many else caps, px // 4)
