"""Worlds as Gymnasium environments, so that agents can be trained inside them. Importing this module registers ``RollingWorld-v0``.

    import gymnasium
    import world_model.gym

    env = gymnasium.make("RollingWorld-v0", world="maze")
    envs = gymnasium.make_vec("RollingWorld-v0", num_envs=8, world="maze")     # one batched stream

An observation is a frame, an action says of each of the world's actions whether it is held, or in a world with analogue actions how far. A
world knows pictures and no rewards: what is worth something says the `reward` that is given, a function of the frame. It knows no end either;
``max_episode_steps`` sets one. Nothing is rolled back: it would unmake what all streams of a batch speculate, whoever of them changes his mind. Gymnasium
is an optional extra.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

try:
    import gymnasium
except ImportError as error:
    raise ImportError("Worlds as Gymnasium environments need gymnasium; install it with pip install -e '.[gym]'.") from error

from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from world_model.card import Card, WorldError

if TYPE_CHECKING:
    from world_model.world import Stream, World

Reward = Callable[[np.ndarray], Any]
ID = "RollingWorld-v0"


class WorldEnv(gymnasium.Env[np.ndarray, np.ndarray]):
    """One stream of a world.

    Args:
        world: its name, its file, or the loaded world.
        reward: of a frame uint8 [height, width, 3]; without one every step is worth 0.
        render_mode: "rgb_array" to have `render` return the screen.
        device: where to compute, if the world is not loaded yet.

    `reset` takes the option ``start``, the index of a start clip; without it one is drawn.

    Raises:
        WorldError: there is no such world or start.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 17.5}  # noqa: RUF012

    def __init__(self, world: "str | Path | World" = "maze", reward: Reward | None = None, render_mode: str | None = None, device: str = "auto") -> None:
        self.world = _load(world, device)
        self.metadata = {**self.metadata, "render_fps": self.world.card.fps}
        self.observation_space, self.action_space = _spaces(self.world.card)
        self.reward, self.render_mode = reward, render_mode
        self.stream: Stream | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Start a stream; return its first screen."""
        super().reset(seed=seed)
        noise, start = _draw(self.world.card, self.np_random, 1, options)
        self.stream = self.world.stream(noise[0], start[0])
        return self._screen(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Hold actions for one frame, each as far as its number says."""
        assert self.stream is not None, "reset comes before step"
        frame = self.stream.tick(_held(self.world.card, action), rollback=0)
        return frame, float(self.reward(frame)) if self.reward else 0.0, False, False, {}

    def render(self) -> Any:
        """Return the screen, uint8 [height, width, 3], or None without a render mode."""
        return self._screen() if self.render_mode and self.stream else None

    def _screen(self) -> np.ndarray:
        assert self.stream is not None
        return np.array(self.stream.screen)


class WorldVectorEnv(VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """Many streams of one world that tick together, as one batch.

    Args:
        num_envs: how many.
        world: as in `WorldEnv`.
        reward: of frames uint8 [num_envs, height, width, 3], one number for each.
        max_episode_steps: all streams begin anew in the step after so many.
        render_mode: as in `WorldEnv`; `render` returns all screens.
        device: as in `WorldEnv`.
    """

    metadata: dict[str, Any] = {**WorldEnv.metadata, "autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012

    def __init__(
        self,
        num_envs: int = 1,
        world: "str | Path | World" = "maze",
        reward: Reward | None = None,
        max_episode_steps: int | None = None,
        render_mode: str | None = None,
        device: str = "auto",
    ) -> None:
        self.num_envs, self.world = num_envs, _load(world, device)
        self.metadata = {**self.metadata, "render_fps": self.world.card.fps}
        self.single_observation_space, self.single_action_space = _spaces(self.world.card)
        self.observation_space, self.action_space = (batch_space(space, num_envs) for space in (self.single_observation_space, self.single_action_space))
        self.reward, self.max_episode_steps, self.render_mode = reward, max_episode_steps, render_mode
        self.stream: Stream | None = None

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Start all streams; return their first screens [num_envs, height, width, 3]."""
        super().reset(seed=seed)
        noise, start = _draw(self.world.card, self.np_random, self.num_envs, options)
        self.stream = self.world.stream(noise, start)
        return np.array(self.stream.screen), {}

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Hold actions in every stream for one frame; after the end of the episodes begin the next ones."""
        assert self.stream is not None, "reset comes before step"
        none = np.zeros(self.num_envs, bool)
        if self.stream.frame == self.max_episode_steps:
            return self.reset()[0], np.zeros(self.num_envs), none, none.copy(), {}
        frames = self.stream.tick(_held(self.world.card, actions), rollback=0)
        rewards = np.zeros(self.num_envs) if self.reward is None else np.asarray(self.reward(frames), np.float64)
        if rewards.shape != (self.num_envs,):
            raise ValueError(f"The reward of a batch is {self.num_envs} numbers, one for each frame, not of shape {rewards.shape}.")
        return frames, rewards, none, np.full(self.num_envs, self.stream.frame == self.max_episode_steps), {}

    def render(self) -> Any:
        """Return all screens, or None without a render mode."""
        return tuple(np.array(self.stream.screen)) if self.render_mode and self.stream else None


def register() -> None:
    """Tell Gymnasium of the environment."""
    if ID not in gymnasium.registry:
        gymnasium.register(ID, entry_point="world_model.gym:WorldEnv", vector_entry_point="world_model.gym:WorldVectorEnv")


def _load(world: "str | Path | World", device: str) -> "World":
    from world_model.world import World

    loaded = world if isinstance(world, World) else World.load(world, device)
    if not loaded.card.actions or loaded.window.block_frames != 1:
        raise WorldError(f"{loaded.card.title} obeys no keys, or makes several frames at a time; an environment needs one frame for one action.")
    return loaded


def _spaces(card: Card) -> tuple[spaces.Box, spaces.Box | spaces.MultiBinary]:
    analogue, count = any(action.analogue for action in card.actions), len(card.actions)
    return spaces.Box(0, 255, (card.height, card.width, 3), np.uint8), spaces.Box(0, 1, (count,)) if analogue else spaces.MultiBinary(count)


def _held(card: Card, actions: np.ndarray) -> np.ndarray:
    """Return action vectors in which what cannot be held partly is held or not."""
    vectors = np.clip(np.asarray(actions, np.float32), 0, 1)
    return np.where([action.analogue for action in card.actions], vectors, vectors.round())


def _draw(card: Card, rng: np.random.Generator, count: int, options: dict[str, Any] | None) -> tuple[list[int], list[int]]:
    """Draw seeds of the noise and start clips."""
    noise, start = rng.integers(1 << 62, size=count).tolist(), rng.integers(card.num_starts, size=count).tolist()
    return noise, [options["start"]] * count if options and "start" in options else start


register()
