"""Any Gymnasium environment as a real game: its image observation, or what `render()` draws, under the actions of a keys file.

Time limits are lifted: they end a game for no reason that a picture shows. An episode that ends by the environment's own rules is followed by the
next one, because players will want to go on after they lost, unless the keys file says ``restart = false``.
"""

import math
import re
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from world_model.real.game import GameError, Source
from world_model.real.keys import Keys
from world_model.real.origin import LONGEST_SIDE, SIDE_STEP, Origin
from world_model.real.restless import Restless

PIXELS = 128 * 96  # about as many does a frame have unless another size is asked for
FASTEST_FPS = 20.0  # likewise, frames are skipped until there are no more than that in a second
UNKNOWN_FPS = 15.0


class Environment:
    """A Gymnasium environment as a `Game`.

    Args:
        env: its id, ``package:Id-v0`` if a package must be imported first.
        keys: what its actions are.
        size: (height, width) of the frames, multiples of 16; None keeps the shape of the environment's picture, at about 12,000 pixels.
        fps: frames per second in play; None asks the environment.
        frame_skip: for how many of its steps an action is held; None takes as few as make at most 20 frames per second.

    Raises:
        GameError: there is no such environment, or it shows no picture.
        KeysError: the keys file does not fit it.
    """

    def __init__(self, env: str, keys: Keys, size: tuple[int, int] | None = None, fps: float | None = None, frame_skip: int | None = None) -> None:
        self.env, self.draws = _open(env)
        self.restart, self.translate = keys.restart, keys.translate(self.env.action_space)
        self.state: dict[str, Any] | None = None
        self.tally: Counter[str] = Counter()
        self.over = False
        native = float(self.env.metadata.get("render_fps") or 0)
        self.frame_skip = frame_skip or max(1, math.ceil(native / FASTEST_FPS))
        self.size = size or _fit(*self._picture(self.env.reset(seed=0)[0]).shape[:2])
        name = re.sub(r"(-v\d+)?$", "", env.split(":")[-1].split("/")[-1])
        self.origin = Origin(
            name=keys.name or re.sub(r"[^a-z0-9_.-]+", "-", name.lower()).strip("-."), title=keys.title or name, description=keys.description,
            data_source=keys.data_source or f"Gymnasium {env}", licence=keys.licence, height=self.size[0], width=self.size[1],
            fps=fps or (native / self.frame_skip if native else UNKNOWN_FPS), actions=keys.specs,
        )  # fmt: skip

    def reset(self, seed: int) -> np.ndarray:
        """Start an episode; return its first frame, uint8 [height, width, 3]."""
        self.tally, self.over = Counter(), False
        return self._frame(self.env.reset(seed=seed)[0])

    def step(self, actions: Collection[str]) -> np.ndarray | None:
        """Hold the named actions for one frame and return it; after the end of an episode that is the next one's first, or None."""
        if self.over:
            self.over = False
            return self._frame(self.env.reset()[0]) if self.restart else None
        action = self.translate(actions)
        for _ in range(self.frame_skip):
            observation, _, terminated, truncated, _ = self.env.step(action)
            if terminated or truncated:
                self.over = True
                self.tally["episodes ended"] += 1
                break
        return self._frame(observation)

    def close(self) -> None:
        """Close the environment."""
        self.env.close()

    def _frame(self, observation: Any) -> np.ndarray:
        height, width = self.size
        return np.asarray(Image.fromarray(self._picture(observation)).resize((width, height), Image.Resampling.BOX))

    def _picture(self, observation: Any) -> np.ndarray:
        """Return what the environment shows, uint8 [any height, any width, 3]."""
        picture = np.asarray(self.env.render() if self.draws else observation)
        if picture.dtype != np.uint8 or picture.ndim not in (2, 3):
            raise GameError(f"{self.env.spec.id} draws no picture of bytes, but {picture.dtype} of shape {picture.shape}.")
        picture = picture.reshape(*picture.shape[:2], -1)
        return np.ascontiguousarray(picture[..., :3] if picture.shape[2] > 2 else picture[..., :1].repeat(3, 2))


def source(env: str, keys: Path, **options: Any) -> Source:
    """Return where a world from a Gymnasium environment comes from: the environment under a keys file, and a player who tries everything."""
    game = Environment(env, Keys.read(keys), **options)
    return Source(game.origin, lambda: game, lambda rng: Restless(game.origin.actions, rng), "gymnasium")


def _open(env: str) -> tuple[Any, bool]:
    """Return the environment, and whether it must be asked to draw because what it lets observe is no picture."""
    try:
        import gymnasium
    except ImportError as error:
        raise GameError("Gymnasium environments need gymnasium; install it with pip install -e '.[make]'.") from error
    try:
        made = gymnasium.make(env, max_episode_steps=-1, disable_env_checker=True)
        space = made.observation_space
        channels = (*(space.shape or ()), 1)[2:3]  # of a picture; a picture without that axis is grey
        if isinstance(space, gymnasium.spaces.Box) and space.dtype == np.uint8 and channels in ((1,), (3,)):
            return made, False
        if "rgb_array" not in made.metadata.get("render_modes", ()):
            raise GameError(f"{env} shows no picture: neither are its observations images, nor can it render to an array.")
        made.close()
        return gymnasium.make(env, max_episode_steps=-1, disable_env_checker=True, render_mode="rgb_array"), True
    except (gymnasium.error.Error, ImportError) as error:
        raise GameError(f"Gymnasium cannot make {env!r}: {str(error).rstrip('.')}.") from error


def _fit(height: int, width: int) -> tuple[int, int]:
    """Return the size that keeps a picture's shape at about PIXELS pixels, in steps that can be trained."""
    scale = math.sqrt(PIXELS / (height * width))
    fitted = [int(np.clip(round(side * scale / SIDE_STEP) * SIDE_STEP, 2 * SIDE_STEP, LONGEST_SIDE)) for side in (height, width)]
    return fitted[0], fitted[1]
