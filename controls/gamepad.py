"""Gamepads as keys: the one place that knows SDL's controllers. They may be plugged in and pulled out at any time.

A button is down or up; a stick or a trigger is down beyond one half of its way and up again below a third, so that it does not
flutter. How far it is pushed is told in eighths for analogue actions. Where this build of pygame has no controllers, the game
is played by keyboard.
"""

import logging
from typing import Any

import pygame

from controls.keys import GAMEPAD

BUTTONS = {
    0: "pad_a", 1: "pad_b", 2: "pad_x", 3: "pad_y", 4: "pad_back", 6: "pad_start", 7: "pad_l3", 8: "pad_r3", 9: "pad_l1", 10: "pad_r1",
    11: "pad_up", 12: "pad_down", 13: "pad_left", 14: "pad_right",
}  # fmt: skip
AXES = {0: ("stick_left", "stick_right"), 1: ("stick_up", "stick_down"), 4: (None, "pad_l2"), 5: (None, "pad_r2")}
FULL, DOWN, UP = 32767, 0.5, 0.33
REST, STEPS = 0.12, 8  # a stick at rest is not quite in the middle


class Gamepads:
    """Every gamepad that is plugged in. The window's events go in, presses and releases of keys come out, and `tilts`."""

    def __init__(self) -> None:
        self.notice = ""  # what the player should hear of the last event
        self._open: dict[int, Any] = {}
        self._down: dict[int, set[str]] = {}
        self._tilted: dict[int, dict[str, float]] = {}
        try:
            from pygame._sdl2 import controller

            controller.init()
            self._controller: Any = controller
        except (ImportError, pygame.error) as error:
            logging.getLogger(__name__).info("No gamepads: %s", error)
            self._controller = None

    @property
    def tilts(self) -> dict[int, float]:
        """How far sticks and triggers are pushed, from 0 to 1, by code."""
        names = {name for tilted in self._tilted.values() for name in tilted}
        return {GAMEPAD[name]: max(tilted.get(name, 0.0) for tilted in self._tilted.values()) for name in names}

    def handle(self, event: pygame.Event) -> list[tuple[int, bool]]:
        """Take in any event; return what it did to which keys: (code, whether it went down)."""
        self.notice = ""
        if event.type == pygame.CONTROLLERDEVICEADDED and self._controller:
            self._plug_in(event.device_index)
        elif event.type == pygame.CONTROLLERDEVICEREMOVED:
            return self._pull_out(event.instance_id)
        elif event.type in (pygame.CONTROLLERBUTTONDOWN, pygame.CONTROLLERBUTTONUP):
            return self._turn(event.instance_id, BUTTONS.get(event.button), event.type == pygame.CONTROLLERBUTTONDOWN)
        elif event.type == pygame.CONTROLLERAXISMOTION:
            share, found = event.value / FULL, []
            for key, way in zip(AXES.get(event.axis, ()), (-share, share), strict=False):
                if key:
                    self._tilt(event.instance_id, key, way)
                if way >= DOWN or way <= UP:
                    found += self._turn(event.instance_id, key, way >= DOWN)
            return found
        return []

    def close(self) -> None:
        """Let go of all gamepads."""
        self._open.clear()
        if self._controller:
            self._controller.quit()

    def _plug_in(self, index: int) -> None:
        try:
            pad = self._controller.Controller(index)
            self._open[pad.as_joystick().get_instance_id()] = pad  # events come only from what is held open
            self.notice = f"{pad.name} is plugged in"
        except pygame.error as error:
            self.notice = f"The gamepad cannot be used: {error}"

    def _pull_out(self, instance: int) -> list[tuple[int, bool]]:
        if self._open.pop(instance, None):
            self.notice = "The gamepad was pulled out"
        self._tilted.pop(instance, None)
        return [(GAMEPAD[key], False) for key in sorted(self._down.pop(instance, ()))]

    def _tilt(self, instance: int, key: str, way: float) -> None:
        tilted = self._tilted.setdefault(instance, {})
        share = max(0.0, min(1.0, (way - REST) / (1 - REST)))
        if share == 0 or abs(share - tilted.get(key, 0.0)) > 0.75 / STEPS:  # it stays where it is until it is clearly elsewhere
            tilted[key] = round(share * STEPS) / STEPS

    def _turn(self, instance: int, key: str | None, down: bool) -> list[tuple[int, bool]]:
        held = self._down.setdefault(instance, set())
        if key is None or (key in held) == down:
            return []
        (held.add if down else held.discard)(key)
        return [(GAMEPAD[key], down)]
