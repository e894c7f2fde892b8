"""What the worlds from ViZDoom share: a scenario at 17.5 frames per second, drawn at 256 x 192 and halved. ViZDoom is an optional extra."""

from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

WIDTH, HEIGHT, FPS, FRAME_SKIP = 128, 96, 17.5, 2
LICENCE = "Weights: Apache-2.0. Training data: Freedoom (BSD-3-Clause), ViZDoom (MIT)."


class Doom:
    """A ViZDoom scenario as a `Game`.

    Args:
        scenario: name of one that comes with ViZDoom.
        buttons: the ViZDoom button of every action, by the action's name.
        variables: the ViZDoom variable of every further number in `state`, by the name that it has there.
        settings: values for the game's setters, by their name without ``set_``.
    """

    def __init__(self, scenario: str, buttons: dict[str, str], variables: dict[str, str], **settings: Any) -> None:
        import vizdoom  # type: ignore[import-untyped]

        names = {"x": "POSITION_X", "y": "POSITION_Y", "angle": "ANGLE", **variables}
        game: Any = vizdoom.DoomGame()
        game.load_config(str(Path(vizdoom.scenarios_path) / f"{scenario}.cfg"))
        game.set_screen_resolution(vizdoom.ScreenResolution.RES_256X192)
        game.set_screen_format(vizdoom.ScreenFormat.RGB24)
        game.set_available_buttons([getattr(vizdoom.Button, button) for button in buttons.values()])
        game.set_available_game_variables([getattr(vizdoom.GameVariable, name) for name in names.values()])
        game.set_render_hud(False)
        game.set_window_visible(False)
        game.set_sound_enabled(False)
        for name, value in settings.items():
            getattr(game, f"set_{name}")(value)
        game.init()
        self.game, self.actions, self.variables = game, tuple(buttons), tuple(names)
        self.state: dict[str, Any] | None = None
        self.tally: Counter[str] = Counter()

    def reset(self, seed: int) -> np.ndarray:
        """Start a new episode; return its first frame, uint8 [96, 128, 3]."""
        self.tally = Counter()
        self.game.set_seed(seed % (1 << 31))
        self.game.new_episode()
        return self.observe()

    def step(self, actions: Collection[str]) -> np.ndarray | None:
        """Hold the named actions for one frame and return it; None when the episode has ended."""
        self.game.make_action([float(name in actions) for name in self.actions], FRAME_SKIP)
        return None if self.game.is_episode_finished() else self.observe()

    def observe(self) -> np.ndarray:
        """Return the frame on the screen and take note of what else there is to know."""
        self.seen = self.game.get_state()
        self.state = dict(zip(self.variables, map(float, self.seen.game_variables), strict=True))
        pixels = self.seen.screen_buffer.reshape(HEIGHT, 2, WIDTH, 2, 3).astype(np.uint16).sum((1, 3))
        return ((pixels + 2) // 4).astype(np.uint8)

    def close(self) -> None:
        """End the game process."""
        self.game.close()
