"""Key to photon, measured in the running game: a hand presses keys at random moments, the window measures as it always does.

The window is the real one, opened on SDL's dummy driver where there is no display, so a flip takes no time of a screen's own.
"""

import os
import threading
from typing import Any

import numpy as np


def measure(world: Any, seconds: float = 20.0, seed: int = 0) -> dict[str, float]:
    """Play a loaded world for some seconds with a restless hand.

    Returns:
        the number of key events whose picture came, and p50 and p95 in ms from the event's reading to the return of the flip that first shows a
        frame conditioned on it.
    """
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    if not any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY")) and os.name == "posix":
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    import pygame

    from controls.keyboard import Keyboard
    from controls.keys import SCANCODES
    from game.game import Game, GameConfig
    from game.window import Window, WindowConfig

    rng, keyboard, done = np.random.default_rng(seed), Keyboard(), threading.Event()
    keys = [SCANCODES[action.keys[0]] for action in world.card.actions if action.keys]
    window = Window(lambda mailbox: Game(lambda: world, keyboard, mailbox, GameConfig()), keyboard, WindowConfig(world.card.title))

    def hand() -> None:
        done.wait(2.0)
        for _ in range(max(1, round(seconds / 0.4))):
            key = int(rng.choice(keys))
            for kind in (pygame.KEYDOWN, pygame.KEYUP):
                pygame.event.post(pygame.Event(kind, scancode=key, key=0, mod=0))
                if done.wait(float(rng.uniform(0.1, 0.3))):
                    return
        pygame.event.post(pygame.Event(pygame.QUIT))

    player = threading.Thread(target=hand, name="hand")
    player.start()
    try:
        window.run()
    finally:
        done.set()
        player.join()
    p50_p95 = window.reaction.p50_p95_ms()
    if p50_p95 is None:
        return {"samples": 0}
    return {"samples": len(window.reaction), "p50": round(p50_p95[0], 1), "p95": round(p50_p95[1], 1)}
