"""Opening the player's display: which one, how large, and in one sentence why not."""

import os
import sys

import pygame

from game import theme

SIZES = ((1024, 768), (896, 672), (640, 480))  # whole multiples of common frame sizes
NO_DISPLAY = "There is no display to open a window on ({}); play on a desktop, or without a window (play --headless, replay --verify or --video)."


class NoDisplayError(ValueError):
    """There is nothing to open a window on; the message is one sentence for the user."""


def open_display(title: str, full_screen: bool) -> None:
    """Open the window. No sound is started: only what the game uses.

    Raises:
        NoDisplayError: no window can be opened.
    """
    if sys.platform.startswith("linux") and "SDL_VIDEODRIVER" not in os.environ and not os.environ.get("WAYLAND_DISPLAY"):
        if not os.environ.get("DISPLAY"):
            raise NoDisplayError(NO_DISPLAY.format("DISPLAY is not set"))
        # Left to itself, SDL draws into the void when it cannot reach the display.
        os.environ["SDL_VIDEODRIVER"] = "x11"
    os.environ.setdefault("SDL_WINDOWS_DPI_AWARENESS", "permonitorv2")
    os.environ.setdefault("SDL_VIDEO_X11_NET_WM_BYPASS_COMPOSITOR", "0")
    try:
        pygame.display.init()
        pygame.font.init()
        if pygame.display.get_driver() == "x11":
            # The picture is made on the CPU. Handing it over through OpenGL takes five times as long where OpenGL is software,
            # and takes its time from the engine.
            os.environ.setdefault("SDL_FRAMEBUFFER_ACCELERATION", "0")
        pygame.display.set_caption(title)
        pygame.display.set_icon(_icon())
        set_full_screen(full_screen)
    except pygame.error as error:
        raise NoDisplayError(NO_DISPLAY.format(str(error).rstrip("."))) from error
    if pygame.display.get_driver() == "offscreen" and os.environ.get("SDL_VIDEODRIVER") != "offscreen":
        pygame.display.quit()
        raise NoDisplayError(NO_DISPLAY.format("no driver found one"))
    # Keys are places, not letters: an input method must not hold them back to compose letters.
    pygame.key.stop_text_input()


def set_full_screen(full_screen: bool) -> None:
    """Cover the whole desktop, or be a window that can be resized."""
    if full_screen:
        pygame.display.set_mode((0, 0), pygame.FULLSCREEN)
    else:
        desktop = pygame.display.get_desktop_sizes()[0]
        fitting = [size for size in SIZES if size[0] <= 0.9 * desktop[0] and size[1] <= 0.9 * desktop[1]]
        pygame.display.set_mode((fitting or SIZES[-1:])[0], pygame.RESIZABLE)
    pygame.mouse.set_visible(not full_screen)


def _icon() -> pygame.Surface:
    icon = pygame.Surface((64, 64), pygame.SRCALPHA)
    pygame.draw.rect(icon, theme.GROUND, (0, 0, 64, 64), border_radius=14)
    pygame.draw.polygon(icon, theme.LIT, [(32, 14), (52, 48), (12, 48)])
    return icon
