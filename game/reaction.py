"""Key to photon and the way into another world, measured in the running game by a hand that presses keys and asks for worlds.

The window is the real one, opened on SDL's dummy driver where there is no display, so a flip takes no time of a screen's own.
"""

import itertools
import os
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

SETTLED_S, LONGEST_S = 2.0, 60.0


def measure(world: Any, seconds: float = 20.0, seed: int = 0) -> dict[str, float]:
    """Play a loaded world for some seconds with a restless hand.

    Returns:
        the number of key events whose picture came, and p50 and p95 in ms from the event's reading to the return of the flip that first shows a
        frame conditioned on it.
    """
    _find_display()
    import pygame

    from controls.keyboard import Keyboard
    from controls.keys import SCANCODES
    from game.game import Game, GameConfig
    from game.window import Window, WindowConfig

    rng, keyboard = np.random.default_rng(seed), Keyboard()
    keys = [SCANCODES[action.keys[0]] for action in world.card.actions if action.keys]
    window = Window(lambda mailbox: Game(lambda: world, keyboard, mailbox, GameConfig()), keyboard, WindowConfig(world.card.title))

    def hand(done: threading.Event) -> None:
        for _ in range(max(1, round(seconds / 0.4))):
            key = int(rng.choice(keys))
            for kind in (pygame.KEYDOWN, pygame.KEYUP):
                pygame.event.post(pygame.Event(kind, scancode=key, key=0, mod=0))
                if done.wait(float(rng.uniform(0.1, 0.3))):
                    return

    _play(window, hand)
    p50_p95 = window.reaction.p50_p95_ms()
    if p50_p95 is None:
        return {"samples": 0}
    return {"samples": len(window.reaction), "p50": round(p50_p95[0], 1), "p95": round(p50_p95[1], 1)}


def measure_swap(world: Any, load: Callable[[], Any], times: int = 5) -> dict[str, float]:
    """Play a loaded world and go over into another one again and again, which `load` loads anew each time.

    Returns:
        p50 and maximum of the time in s from asking for a world to its first own frame, and the longest time in ms between two ticks meanwhile: for
        so long the picture stood still.
    """
    _find_display()
    from controls.keyboard import Held, Keyboard
    from game.game import Game, GameConfig
    from game.gate import Gate
    from game.shelf import Shelf
    from game.window import Window, WindowConfig

    took: list[float] = []
    still: list[float] = []
    taken: list[float] = []

    class Hands(Keyboard):
        def take(self) -> Held:
            taken.append(time.perf_counter())
            return super().take()

    hands, gate = Hands(), Gate(Shelf(), lambda path: load())
    games: list[Game] = []

    def new_game(mailbox: Any) -> Game:
        games.append(Game(lambda: world, hands, mailbox, GameConfig()))
        return games[0]

    def hand(done: threading.Event) -> None:
        for _ in range(times):
            inside, ticks, asked_s = games[0].world, len(taken), time.perf_counter()
            gate.enter(world.path)
            while games[0].world is inside and time.perf_counter() < asked_s + LONGEST_S:
                if done.wait(0.001):
                    return
            entered = len(taken)
            while len(taken) < entered + 2:  # the second tick there begins when the first one's frame is there
                if done.wait(0.001):
                    return
            took.append(taken[entered + 1] - asked_s)
            still.extend(b - a for a, b in itertools.pairwise(taken[max(0, ticks - 1) : entered + 2]))
            done.wait(0.5)

    _play(Window(new_game, hands, WindowConfig(world.card.title), gate=gate), hand)
    return {"p50": round(float(np.median(took)), 2), "max": round(max(took), 2), "still_ms": round(1000 * max(still), 1)}


def _find_display() -> None:
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    if not any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY")) and os.name == "posix":
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")


def _play(window: Any, hand: Callable[[threading.Event], None]) -> None:
    """Run a window while a hand plays beside it, until the hand is done."""
    import pygame

    done = threading.Event()

    def play() -> None:
        done.wait(SETTLED_S)
        hand(done)
        pygame.event.post(pygame.Event(pygame.QUIT))

    player = threading.Thread(target=play, name="hand")
    player.start()
    try:
        window.run()
    finally:
        done.set()
        player.join()
